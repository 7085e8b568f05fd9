r"""Norms of matrices, each by itself: of steps, and of parameters, that are kept."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import transformation
from ewa_optax._numerics import mean, narrow, norm, widen
from ewa_optax._trees import Leafwise, wide
from ewa_optax.matrices._axes import AxesLike, Matrix, check_axes, check_matrices, map_matrices, with_parameters
from ewa_optax.pieces._layerwise import SPREAD, of_summaries


def scale_by_parameter_norm(axes: AxesLike = None) -> optax.GradientTransformation:
    r"""Gives each update the norm of its parameters, matrix by matrix: $u_t = g_t \lVert w \rVert / \lVert g_t \rVert$.

    A learning rate behind it is the relative change of a step. `scale_by_trust_ratio` does it for whole arrays.

    Args:
        axes: as in `orthogonalize`.

    Returns:
        A transformation without a state, whose `update` needs the parameters. A zero update, or one of parameters that
        are all zero, becomes zero. Updates leave in their own dtype.

    Raises:
        ValueError: no parameters; as in `orthogonalize`.
        TypeError: as in `orthogonalize`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import matrices
        >>> scale = matrices.scale_by_parameter_norm()
        >>> w = jnp.array([[3.0, 4.0]])
        >>> print(scale.update(jnp.array([[0.0, 2.0]]), scale.init(w), w)[0])
        [[0. 5.]]

    Reference:
        You et al., "Large batch training of convolutional networks", 2017.
    """
    return with_parameters("scale_by_parameter_norm", axes, lambda matrix: wide(_with_norm_of, matrix))


def keep_norm(axes: AxesLike = None) -> optax.GradientTransformation:
    r"""Turns a step so that the parameters keep their norm, matrix by matrix: they stay on a sphere.

    $$u_t = \lVert w \rVert \frac{w + g_t}{\lVert w + g_t \rVert} - w$$

    It is the last piece, behind the learning rate. There is nothing for weight decay to do.

    Args:
        axes: as in `orthogonalize`.

    Returns:
        A transformation without a state, whose `update` needs the parameters. Where $w + g_t$ is zero, the step stays
        as it is; matrices that are zero stay so. Updates leave in their own dtype.

    Raises:
        ValueError: no parameters; as in `orthogonalize`.
        TypeError: as in `orthogonalize`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import matrices
        >>> keep = matrices.keep_norm()
        >>> w = jnp.array([[3.0, 4.0]])
        >>> print(w + keep.update(jnp.array([[0.0, -4.0]]), keep.init(w), w)[0])
        [[5. 0.]]

    Reference:
        Wen et al., "Fantastic pretraining optimizers and where to find them II: hyperball optimization", 2026. There it
        is the first norm that is kept, here the norm now, which rounding lets drift, and which needs no state.
    """
    return with_parameters("keep_norm", axes, lambda matrix: wide(_on_sphere, matrix))


def preserve_norm(piece: optax.GradientTransformation, axes: AxesLike = None) -> optax.GradientTransformation:
    r"""Of what a piece makes of an update the direction, at the update's own norm, matrix by matrix.

    $$u_t = p(g_t) \frac{\lVert g_t \rVert}{\lVert p(g_t) \rVert}$$

    Args:
        piece: $p$, a transformation, such as `scale_by_rms(of_outputs(...))`.
        axes: as in `orthogonalize`.

    Returns:
        A transformation whose state is that of the piece. Updates leave in the dtype that it gives them.

    Raises:
        ValueError: as in `orthogonalize`.
        TypeError: what is no transformation.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from ewa_optax import matrices
        >>> piece = matrices.preserve_norm(optax.scale_by_sign())
        >>> g = jnp.array([[0.3, 0.4]])
        >>> print(piece.update(g, piece.init(g))[0].round(3))
        [[0.354 0.354]]

    Reference:
        Li et al., "NorMuon: making Muon more efficient and scalable", 2025.
    """
    who = "preserve_norm"
    inner = optax.with_extra_args_support(transformation(who, "piece", piece))
    check_axes(who, axes)

    def init(params):
        check_matrices(who, axes, params)
        return inner.init(params)

    def update(updates, state, params=None, **extra_args):
        made, state = inner.update(updates, state, params, **extra_args)
        return map_matrices(lambda matrix: wide(_with_norm_of, matrix), who, axes, made, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def of_outputs(average: optax.GradientTransformation, axes: AxesLike = None) -> optax.GradientTransformation:
    r"""An average of the mean over the inputs, one number for each output of each matrix.

    Args:
        average: an average, such as `scale_by_ewa`, which gets the means, with the axes of inputs kept at length 1.
        axes: as in `orthogonalize`.

    Returns:
        A transformation that keeps one number for each output. What leaves has the shape that came, in float32 or
        wider: as a second moment, it makes one rate for each output.

    Raises:
        ValueError: as in `orthogonalize`.
        TypeError: what is no transformation.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> from ewa_optax import matrices
        >>> average = matrices.of_outputs(ewa_optax.scale_by_ewa(0.0))
        >>> w = jnp.array([[1.0, 3.0], [2.0, 5.0]])  # Two inputs, two outputs.
        >>> print(average.update(w, average.init(w))[0])
        [[1.5 4. ]
         [1.5 4. ]]

    Reference:
        Li et al., "NorMuon", 2025, where it is a row of (out, in).
    """
    who = "of_outputs"
    inner = transformation(who, "average", average)
    check_axes(who, axes)

    def mapped(of, tree):
        return map_matrices(lambda matrix: Leafwise(of, matrix), who, axes, tree)

    return of_summaries(inner, _means, SPREAD, mapped=mapped)


def _norm(matrix: Matrix, x: jax.Array) -> jax.Array:
    return norm(x, axis=matrix.both)


def _ratio(size: Any, own: Any) -> jax.Array:
    return size / jnp.where(own == 0, 1, own)


def _with_norm_of(matrix, u, other):
    # Of wider parameters, and longer ones than the dtype of the update has numbers for.
    return narrow(_ratio(_norm(matrix, other), _norm(matrix, u)), u.real.dtype).astype(u.dtype) * u


def _on_sphere(matrix, u, p):
    moved = p + u
    own = _norm(matrix, moved)
    ratio = jnp.where(own == 0, 1, _ratio(_norm(matrix, p), own))
    return ratio.astype(u.dtype) * moved - p


def _means(matrix, u):
    return mean(widen(u), matrix.inputs, keepdims=True)
