r"""Pieces in the basis of the eigenvectors of what is averaged of a matrix's rows, and of its columns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType

from ewa_optax._checks import Count, Decay, check, check_integer, checked, transformation
from ewa_optax._numerics import Number, increment, narrow, widen
from ewa_optax._trees import Leafwise
from ewa_optax.matrices._axes import AxesLike, Matrix, check_axes, map_matrices, wide_flat
from ewa_optax.matrices._devices import on_whole_matrices
from ewa_optax.pieces._averages import scale_by_ewa
from ewa_optax.pieces._combining import Beside, in_float32, one_update


class EigenbasisState(NamedTuple):
    """The number of updates so far, int32, the states of the pieces, and what there is of the two sides of matrices."""

    step: jax.Array
    unrotated: Any
    piece: Any
    grams: Any
    """The state of the average of the Gram matrices, of which there are two trees like the parameters."""
    bases: Any
    """Two such trees of orthogonal matrices, whose columns are about the eigenvectors of the averages."""


@checked
def in_eigenbasis(
    piece: optax.GradientTransformation, average: optax.GradientTransformation | Number, every: Count = 10, *,
    unrotated: optax.GradientTransformation | None = None, max_size: int = 10_000, axes: AxesLike = None,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
    r"""What a piece makes of a matrix in the basis in which its rows, and its columns, are uncorrelated on the average.

    $$L_t = a(g_t g_t^T), \quad R_t = a(g_t^T g_t), \qquad u_t = Q_L\, p(Q_L^T g_t Q_R)\, Q_R^T$$

    The columns of $Q_L$ and $Q_R$ are the eigenvectors of $L_1$ and $R_1$, and from then on, every so many steps, those
    of $L_t$ and $R_t$ as one step of orthogonal iteration finds them, $\mathrm{qr}(L_t Q_L)$ in the order of the
    eigenvalues. They are used from the next step on. Each column keeps its place, whatever its eigenvalue, so what the
    piece keeps, element by element, stays with its direction and need not be permuted.

    A basis that turns also turns the sign of directions, or mixes those of about one eigenvalue. Averages of squares
    live with that; those of gradients do not, and belong into `unrotated`.

    The first gradient makes the first basis, and nothing else: zeros leave, and neither piece gets it. In a basis of
    its own it would be diagonal, and its rounding errors as large as gradients to a piece that divides by their size.

    Args:
        piece: $p$, a transformation that takes each element by itself, such as `scale_by_rms`. It gets no parameters.
        average: $a$, a transformation of the two matrices of each matrix; a number means `scale_by_ewa` of that decay.
            Any storage will do: what rounding does to it turns the basis, which stays orthogonal.
        every: after how many steps the bases are renewed, 1 or more, which may be traced.
        unrotated: a piece that gets the update as it came. What it makes of it, rotated, then stands beside the rotated
            update, as behind `beside`, and `piece` must make one of the two. What it keeps should be exact: rounding
            errors lie along directions in which there is no gradient, too, and would be large to a piece that divides.
        max_size: sides that are longer, and those of length 1, are not rotated.
        axes: as in `orthogonalize`.

    Returns:
        A transformation that keeps two square matrices for each side, in float32 or wider, and what the pieces keep.
        Updates leave in their own dtype. It does a product with each of them in each step, of every matrix that is
        rotated, by the precision that JAX is set to.

    Raises:
        ValueError: as in `orthogonalize`; a decay outside [0, 1), or `every` or `max_size` below 1.
        TypeError: what is no transformation, or no whole number.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from ewa_optax import matrices
        >>> clip = matrices.in_eigenbasis(optax.clip(1.0), 0.9)
        >>> w = jnp.array([[2.0, 1.0], [1.0, 2.0]])  # Its eigenvectors are (1, 1) and (1, -1).
        >>> _, state = clip.update(w, clip.init(w))
        >>> print(clip.update(jnp.array([[5.0, 4.0], [4.0, 5.0]]), state)[0].round(3) + 0.0)
        [[1. 0.]
         [0. 1.]]

    Reference:
        Vyas et al., "SOAP: improving and stabilizing Shampoo using Adam", 2024, whose code permutes the second moment
        with the columns, and turns the first.
    """
    who = "in_eigenbasis"
    inner = transformation(who, "piece", piece)
    outer = None if unrotated is None else transformation(who, "unrotated", unrotated)
    if not isinstance(average, optax.GradientTransformation):
        check(who, "average", average, Decay)
        average = scale_by_ewa(average)
    averaged = transformation(who, "average", average)
    check_integer(f"{who}: max_size", max_size, 1, remedy="10_000 is the usual number")
    check_axes(who, axes)

    def mapped(of: Callable[..., jax.Array | None], *trees: Any) -> Any:
        return map_matrices(lambda matrix: Leafwise(of, matrix), who, axes, *trees)

    def sides(of: Callable[..., jax.Array], updates: Any) -> tuple[Any, Any]:
        """Of each matrix that which belongs to its rows, and that to its columns, if they are rotated."""

        def of_side(side):
            return map_matrices(lambda matrix: Leafwise(_of_side, of, matrix, side, max_size), who, axes, updates)

        return of_side(0), of_side(1)

    def init(params):
        # What they keep is like the parameters, so they say which of those can't be averaged.
        kept, inside = None if outer is None else outer.init(params), inner.init(params)
        squares = jax.eval_shape(lambda p: sides(_zeros, p), params)
        bases = jax.tree.map(_identity, squares)
        return EigenbasisState(jnp.zeros([], jnp.int32), kept, inside, averaged.init(squares), bases)

    def update(updates, state, params=None, **extra_args):
        step = increment(state.step)
        into, kept = mapped(_into, updates, *state.bases), None
        if outer is not None:
            other, kept = outer.update(updates, state.unrotated, params, **extra_args)
            into = Beside(into, mapped(_into, other, *state.bases))
        made, inside = inner.update(into, state.piece, **extra_args)
        out = map_matrices(lambda m: Leafwise(_out_of, m, step), who, axes, one_update(made), *state.bases)
        kept, inside = _unless_first(step, (kept, inside), (state.unrotated, state.piece))
        squares, of_grams = averaged.update(sides(_gram, updates), state.grams, **extra_args)
        renew = Leafwise(_renewed, every, step)
        # Of a leaf that is None in this step the basis stays.
        bases = jax.tree.map(lambda basis, x: basis if x is None else renew(x, basis), state.bases, squares)
        return out, EigenbasisState(step, kept, inside, of_grams, bases)

    return in_float32(optax.GradientTransformationExtraArgs(init, update))


def _of_side(of, matrix, side, max_size, u):
    return of(matrix, side, u) if 1 < matrix.sizes(u.shape)[side] <= max_size else None


def _zeros(matrix: Matrix, side: int, p: jax.Array) -> jax.Array:
    """With axes of the batch that lie as those of the parameter."""
    of_batch, n = jnp.zeros_like(widen(p)).sum(matrix.both), matrix.sizes(p.shape)[side]
    return jnp.broadcast_to(jnp.expand_dims(of_batch, (-2, -1)), (*of_batch.shape, n, n))


def _gram(matrix: Matrix, side: int, u: jax.Array) -> jax.Array:
    """The products of all rows with each other, or of all columns."""
    return on_whole_matrices(_of_columns if side else _of_rows, wide_flat(matrix, u), is_side=True)


def _of_rows(x):
    return x @ _adjoint(x)


def _of_columns(x):
    return _adjoint(x) @ x


def _adjoint(x):
    return None if x is None else x.conj().swapaxes(-1, -2)


def _identity(square):
    n = square.shape[-1]
    return jnp.zeros_like(square) + jnp.eye(n, dtype=square.dtype).reshape((1,) * (square.ndim - 2) + (n, n))


def _into(matrix, u, left, right):
    x = on_whole_matrices(_rotated, wide_flat(matrix, u), _adjoint(left), right)
    return matrix.shaped(x, u)


def _out_of(matrix, step, u, left, right):
    x = on_whole_matrices(_rotated, wide_flat(matrix, u), left, _adjoint(right))
    return jnp.where(step == 1, 0, matrix.shaped(x, u))


def _rotated(x, left, right):
    x = x if left is None else left @ x
    return x if right is None else x @ right


def _unless_first(step, new, old):
    is_first = step == 1
    return jax.tree.map(lambda x, before: jnp.where(is_first, before, x), new, old)


def _renewed(every, step, average, basis):
    average = narrow(average, basis.dtype)

    def first(average, basis):
        del basis
        return on_whole_matrices(_eigenvectors, average)

    def turned(average, basis):
        return on_whole_matrices(_iterated, average, basis)

    def same(average, basis):
        del average
        return basis

    which = jnp.where(step == 1, 1, jnp.where((step - 1) % every == 0, 2, 0))
    return jax.lax.switch(which, (same, first, turned), average, basis)


def _even(average):
    """Symmetric, which rounded averages are not, and with 1 as its largest number, so that squares are finite."""
    size = jnp.max(jnp.abs(average), axis=(-2, -1), keepdims=True)
    x = average / jnp.where(size == 0, 1, size).astype(average.dtype)
    return (x + _adjoint(x)) / 2


def _eigenvectors(average):
    return jnp.linalg.eigh(_even(average), symmetrize_input=False)[1]


def _orthogonal(x: jax.Array) -> Any:
    sharding = jax.typeof(x).sharding
    if AxisType.Explicit in sharding.mesh.axis_types:  # There, JAX's own fails where a batch is divided.
        return jax.sharding.auto_axes(_of_qr, out_sharding=sharding)(x)
    return _of_qr(x)


def _of_qr(x):
    return jnp.linalg.qr(x)[0]


def _iterated(average, basis):
    """One step of orthogonal iteration, which sorts: each column comes nearer to the eigenvector that it is near."""
    product = jnp.matmul(_even(average), basis, precision=jax.lax.Precision.HIGHEST)
    sizes = jnp.sum((basis.conj() * product).real, axis=-2, keepdims=True)
    order = jnp.argsort(sizes, axis=-1, descending=True)
    sorted_basis = _orthogonal(jnp.take_along_axis(product, order, axis=-1))
    return jnp.take_along_axis(sorted_basis, jnp.argsort(order, axis=-1), axis=-1)
