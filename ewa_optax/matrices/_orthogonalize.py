r"""The direction of a matrix alone: all its singular values brought near 1, by products of matrices."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import Epsilon, Finite, Positive, check, check_integer, checked
from ewa_optax._numerics import Number, narrow, norm, wide_dtype
from ewa_optax._trees import Leafwise
from ewa_optax.matrices._axes import AxesLike, Matrix, stateless, wide_flat
from ewa_optax.matrices._devices import on_whole_matrices

Polynomial = tuple[Number, Number, Number]


class Coefficients(NamedTuple):
    r"""What each step of an iteration makes of a singular value: $\sigma \to a\sigma + b\sigma^3 + c\sigma^5$."""

    polynomials: Sequence[Polynomial]
    """$(a, b, c)$ of each step; the last one is that of all further steps."""
    norm_factor: Number = 1.0
    r"""By how much more than its norm a matrix is divided before, so that rounding leaves no $\sigma$ above 1."""


def _with_room(factor: float, polynomials: Sequence[tuple[float, float, float]]) -> Coefficients:
    """Those of singular values up to 1, for such as are up to that factor more."""
    *first, last = polynomials
    each = tuple((a / factor, b / factor**3, c / factor**5) for a, b, c in first)
    return Coefficients((*each, last), factor)


COEFFICIENTS = {
    "jordan": Coefficients(((3.4445, -4.7750, 2.0315),)),
    "quintic": Coefficients(
        (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        )
    ),
    "polar_express": _with_room(
        1.01,
        (
            (8.28721201814563, -23.595886519098837, 17.300387312530933),
            (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
            (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
            (3.3184196573706015, -2.488488024314874, 0.51004894012372),
            (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
            (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
            (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
            (1.875, -1.25, 0.375),
        ),
    ),
}
"""By name, in the order in which they were found."""

CoefficientsLike = str | Coefficients | Sequence[Polynomial]
"""A name, coefficients, or their triples alone."""


@checked
def orthogonalize(
    coefficients: CoefficientsLike = "jordan", steps: int = 5, *, dtype: Any = None, axes: AxesLike = None,
    eps: Epsilon = 1e-7,
) -> optax.GradientTransformation:  # fmt: skip
    r"""Brings the singular values of each matrix near 1 and keeps its singular vectors: near $U V^T$ of $U \Sigma V^T$.

    By the iteration of Newton and Schulz:

    $$X_0 = \frac{g_t}{\rho \lVert g_t \rVert_F + \varepsilon}, \qquad
      X_k = a_k X_{k-1} + b_k X_{k-1} X_{k-1}^T X_{k-1} + c_k (X_{k-1} X_{k-1}^T)^2 X_{k-1}$$

    by the Gram matrix of the shorter side. With "jordan" they end between 0.68 and 1.13, not at 1, and those below
    1/2000 of the norm below that; "polar_express" ends at 1 with more steps.

    Args:
        coefficients: $(a_k, b_k, c_k)$: "jordan", one for all steps; "quintic", five; "polar_express", eight, with its
            $\rho$ of 1.01; a sequence of triples of your own, or `matrices.Coefficients` of them and of $\rho$. The
            last one is repeated if there are more steps, and with fewer steps the rest is left out. They may be traced.
        steps: how many, 1 or more.
        dtype: what the products are formed in, such as "bfloat16", once the norm is taken; float32 or wider by default,
            by the precision that JAX is set to (`jax_default_matmul_precision`). Complex matrices keep their own.
        axes: which axes are inputs and which outputs, as `matrices.AxesLike` tells: of path and shape by default. The
            rest is a batch of matrices, each of which is taken by itself.
        eps: $\varepsilon$, 0 or more, in units of the update. A matrix of zeros stays so.

    Returns:
        A transformation without a state; its `init` looks at the parameters. Updates leave in their own dtype. In
        `jax.set_mesh(mesh)` a batch of matrices, or a stack of leaves, is divided among the devices, each of which has
        whole matrices: one exchange before and one after, none in between. A single matrix goes to all of them.

    Raises:
        ValueError: coefficients of an unknown name or not in threes, fewer than one step, a negative eps; by `init` and
            `update`, a leaf that is no matrix, or whose axes the path does not tell.
        TypeError: what is no number, no dtype of floats, or describes no axes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import matrices
        >>> piece = matrices.orthogonalize("polar_express", steps=8)
        >>> w = jnp.array([[3.0, 0.0], [0.0, 0.01]])
        >>> print(piece.update(w, piece.init(w))[0].round(3))
        [[1. 0.]
         [0. 1.]]

    Reference:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; "quintic" is You Jiacheng's of
        2025; Amsel et al., "The Polar Express", 2025, as in its version 3 with the division by 1.01 in all but the
        last; Bernstein and Newhouse, "Old optimizer, new norm", 2024. optax keeps coefficients in its state.
    """
    remedy = "5 is the usual number; optax.inject_hyperparams makes arrays of numbers but for its static_args"
    check_integer("orthogonalize: steps", steps, 1, remedy=remedy)
    polynomials, factor = _resolved(coefficients, steps)
    kind = None if dtype is None else _float_dtype(dtype)

    def of(matrix):
        return Leafwise(_orthogonalized, polynomials, factor, eps, kind, matrix)

    return stateless("orthogonalize", axes, of)


def _resolved(coefficients, steps):
    """The polynomial of each step, and the factor of the norm."""
    if isinstance(coefficients, str):
        if coefficients not in COEFFICIENTS:
            names = ", ".join(map(repr, COEFFICIENTS))
            raise ValueError(
                f"orthogonalize: coefficients must be one of {names}, or triples (a, b, c), got {coefficients!r}; "
                "'jordan' is the usual one."
            )
        coefficients = COEFFICIENTS[coefficients]
    if not isinstance(coefficients, Coefficients):
        coefficients = Coefficients(coefficients)
    try:
        each = [tuple(polynomial) for polynomial in coefficients.polynomials]
    except TypeError:
        each = []
    if not each or any(len(polynomial) != 3 for polynomial in each):
        raise ValueError(
            f"orthogonalize: coefficients must be one triple (a, b, c) or more, got {coefficients.polynomials!r}; such "
            "as [(1.5, -0.5, 0.0)]."
        )
    for x in (x for polynomial in each for x in polynomial):
        check("orthogonalize", "each of coefficients", x, Finite)
    check("orthogonalize", "norm_factor of coefficients", coefficients.norm_factor, Positive)
    each = [tuple(x if isinstance(x, jax.Array) else float(x) for x in polynomial) for polynomial in each]
    return (*each, *each[-1:] * (steps - len(each)))[:steps], coefficients.norm_factor


def _float_dtype(dtype):
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise TypeError(f"orthogonalize: dtype must be one of floats, got {dtype!r}; such as 'bfloat16', or None.")
    return found


def _orthogonalized(polynomials, factor, eps, dtype, matrix: Matrix, u):
    x = wide_flat(matrix, u)
    size = norm(x, axis=(-2, -1))
    divisor = _real(factor, size.dtype) * size + _real(eps, size.dtype)
    # So that a matrix of zeros stays so even without an eps.
    x = x / jnp.where(divisor == 0, 1, divisor).astype(x.dtype)
    wide = x.dtype
    if dtype is not None and not jnp.iscomplexobj(x):
        x = x.astype(dtype)
    x = on_whole_matrices(lambda whole: _newton_schulz(polynomials, whole), x).astype(wide)
    return narrow(matrix.shaped(x, u), jnp.result_type(u))


def _newton_schulz(polynomials, x):
    is_wide = x.shape[-2] <= x.shape[-1]
    # What products are of is in the dtype of the iteration; their sums are rounded to it once, as in torch.
    wide = wide_dtype(x.dtype)
    times = functools.partial(jnp.matmul, preferred_element_type=wide)
    for a, b, c in polynomials:
        conjugate = x.conj().swapaxes(-1, -2)
        gram = (times(x, conjugate) if is_wide else times(conjugate, x)).astype(x.dtype)
        change = (_real(b, wide) * gram.astype(wide) + _real(c, wide) * times(gram, gram)).astype(x.dtype)
        x = (_real(a, wide) * x.astype(wide) + (times(change, x) if is_wide else times(x, change))).astype(x.dtype)
    return x


def _real(number, dtype):
    """A number of Python as it is, an array in that dtype."""
    return number.astype(dtype) if isinstance(number, jax.Array) else number
