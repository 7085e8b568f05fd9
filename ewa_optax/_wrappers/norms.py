r"""Norms of trees each of whose numbers is read once, unless their squares are too large or too small.

The square of 2e19 is infinite in float32, and that of 1e-23 is 0. A plain sum of squares, which every compiler makes
fast and exact, shows that it was so; only then is everything read again, twice, and scaled by its largest number.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._numerics import narrow, norm, squared_magnitude, wide_dtype, widen
from ewa_optax._stacks import unstack_leaves
from ewa_optax._trees import Leafwise, map_leaves, shapes_of

Parts = np.ndarray
"""Numbers of leaves, a row for each part; the shorter rows are filled up with the number behind the last."""


def global_norm(tree: Any) -> jax.Array:
    """The norm of all numbers of a tree, in float32 or wider; infinite or NaN if one of them is not finite.

    Of finite numbers it is at most a quarter of the largest, and so finite.
    """
    structure = jax.tree.structure(shapes_of(tree))
    return norm(leaf_norms(tree, structure, [parts_of([range(structure.num_leaves)], structure.num_leaves)]))


def leaf_norms(tree: Any, structure: Any, parts: Sequence[Parts]) -> jax.Array:
    """The norms of the leaves of a tree of that structure, or 0 where it has None.

    They are those of the parts: next to a leaf in all of its parts, one that is too small to be seen may count as 0.
    """

    def in_order(function):
        each = structure.flatten_up_to(unstack_leaves(map_leaves(Leafwise(function), tree)))
        return jnp.stack(alike([jnp.zeros([]) if x is None else x for x in each]))

    if not structure.num_leaves:
        return jnp.zeros(0)
    sums = in_order(_sum_of_squares)
    sizes = np.array([0 if x is None else x.size for x in structure.flatten_up_to(shapes_of(tree))])
    right = functools.reduce(jnp.logical_and, (_are_right(sums, sizes, part) for part in parts))
    roots = jnp.where(sums > 0, jnp.sqrt(jnp.where(sums > 0, sums, 1)), 0)  # With a derivative at 0.
    return jax.lax.cond(right, lambda: roots, lambda: in_order(_norm))


def parts_of(numbers: Sequence[Sequence[int]], count: int) -> Parts:
    """One program for all parts of `count` leaves."""
    longest = max(map(len, numbers))
    return np.array([[*part, *[count] * (longest - len(part))] for part in numbers], int)


def spread(of_leaves: Any, parts: Parts) -> Any:
    """What there is of leaves, for those in each part: 0 for what fills up."""
    return jnp.pad(of_leaves, (0, 1))[parts]


def alike(numbers: list[jax.Array]) -> list[jax.Array]:
    """The numbers in the widest of their dtypes."""
    dtype = functools.reduce(jnp.promote_types, (x.dtype for x in numbers))
    return [x.astype(dtype) for x in numbers]


def as_kept(x: jax.Array, kept: jax.Array) -> jax.Array:
    """A norm in the dtype of what is kept; one that is infinite stays so."""
    return jnp.where(jnp.isfinite(x), narrow(x, kept.dtype), x.astype(kept.dtype))


def _are_right(sums, sizes, parts):
    """Whether the squares that are 0 for being too small make less than a rounding of the sum of each part."""
    info = jnp.finfo(sums.dtype)
    sizes = np.append(sizes, 0)[parts].sum(1)
    least = np.asarray(2.0 * sizes * float(info.tiny) / float(info.eps), sums.dtype)
    of_parts = spread(sums, parts).sum(1)
    return jnp.all(jnp.isfinite(of_parts) & (of_parts >= least))


def _sum_of_squares(x):
    # Else XLA on a CPU would share what is widened with others who widen it, and write it for them.
    return jnp.sum(squared_magnitude(widen(jax.lax.optimization_barrier(x) if _is_narrow(x) else x)))


def _is_narrow(x):
    return wide_dtype(x.dtype) != x.dtype


def _norm(x):
    return norm(widen(x))
