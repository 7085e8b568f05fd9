r"""Norms of arrays, each of whose numbers is read once, however large or small they are.

The square of 2e19 is infinite in float32, and that of 1e-23 is 0. Scaling by the largest number would read all of them
twice; so the squares of large ones and those of the others are summed apart, each scaled by a power of two of its own.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ewa_optax._numerics import largest, narrow, norm, widen
from ewa_optax._stacks import unstack_leaves
from ewa_optax._trees import Leafwise, map_leaves

LARGE = 2.0**22
"""From here on a number is among the large ones. Of 2**42 numbers no sum overflows, nor the square of a large one
underflows; of the others that of one below 5e-26 does, in float32."""


def array_norms(*arrays: jax.Array, others: tuple[jax.Array, ...] = ()) -> list[jax.Array]:
    """Of arrays of one shape, in float32 or wider, the norm of each, and the sums of others, in one loop.

    Of finite numbers a norm is at most a quarter of the largest, and so finite.
    """
    wide = [widen(x) for x in arrays]
    squares = [squares for x in wide for squares in _squares(x)]
    terms = (*squares, *others)
    sums = jax.lax.reduce(terms, tuple(jnp.zeros([], x.dtype) for x in terms), _added, tuple(range(terms[0].ndim)))
    pairs = zip(sums[: len(squares) : 2], sums[1 : len(squares) : 2], strict=True)
    return [*(_root(*pair) for pair in pairs), *sums[len(squares) :]]


def global_norm(tree: Any) -> jax.Array:
    """The norm of all numbers of a tree, in float32 or wider; infinite or NaN if one of them is not finite."""
    norms = jax.tree.leaves(unstack_leaves(map_leaves(Leafwise(_norm), tree)))
    return norm(jnp.stack(alike(norms))) if norms else jnp.zeros([], float)


def alike(numbers: list[jax.Array]) -> list[jax.Array]:
    """The numbers in the widest of their dtypes."""
    dtype = functools.reduce(jnp.promote_types, (x.dtype for x in numbers))
    return [x.astype(dtype) for x in numbers]


def as_kept(x: jax.Array, kept: jax.Array) -> jax.Array:
    """A norm in the dtype of what is kept; one that is infinite stays so."""
    return jnp.where(jnp.isfinite(x), narrow(x, kept.dtype), x.astype(kept.dtype))


def _norm(x):
    return array_norms(x)[0]


def _scales(dtype):
    """Of the large numbers, and of the others."""
    maxexp = int(jnp.finfo(dtype).maxexp)
    top = maxexp // 2 - 21
    return 2.0 ** (top - maxexp), 2.0 ** (top - 22)


def _squares(x):
    """The scaled squares of large numbers, and of the others; what is no number is a large one."""
    if jnp.iscomplexobj(x):
        return tuple(map(jnp.add, _squares(x.real), _squares(x.imag)))
    large = ~(jnp.abs(x) < LARGE)
    # Of constant scales XLA would make x**2 * scale**2, not each of which is finite.
    square = jnp.square(x * jnp.where(large, *(jnp.asarray(scale, x.dtype) for scale in _scales(x.dtype))))
    zero = jnp.zeros([], x.dtype)
    return jnp.where(large, square, zero), jnp.where(large, zero, square)


def _added(a, b):
    return tuple(map(jnp.add, a, b))


def _root(large, others):
    of_large, of_others = _scales(large.dtype)
    roots = jnp.sqrt(large) / of_large, jnp.sqrt(others) / of_others
    more, less = jnp.maximum(*roots), jnp.minimum(*roots)
    root = more * jnp.sqrt(1 + jnp.square(jnp.where(more > 0, less / more, 0)))
    return jnp.where(jnp.isfinite(large), jnp.minimum(root, largest(large.dtype) / 4), root)
