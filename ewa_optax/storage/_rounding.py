"""Rounding without bias: numbers onto a coarser grid, up or down by chance, so that the mean is the number itself.

The chance comes from a counter, not from `jax.random`, whose bits would cost more than the whole step of an optimizer:
a hash of where a number stands (element, step, leaf, piece) and of a seed. It is the same under `jax.jit`,
`jax.lax.scan`, `jax.vmap` and any sharding (but within `jax.shard_map` each shard counts its own elements), and XLA
computes it in the loop that needs it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_INFINITY = np.uint32(0x7F800000)  # The bits of a float32; those of NaN are more.


def round_bits(x: jax.Array, drop: int, bits: jax.Array) -> jax.Array:
    """The bits of float32 `x`, rounded by random `bits` to where the last `drop` of them are 0.

    Finite numbers stay finite; infinities stay what they are, and so does NaN.
    """
    raw = jax.lax.bitcast_convert_type(x, jnp.uint32)
    size, coarse = raw & np.uint32(0x7FFFFFFF), np.uint32(2**32 - 2**drop)
    rounded = jnp.minimum(size + (bits >> (32 - drop)), _INFINITY - np.uint32(1)) & coarse
    special = jnp.where(size > _INFINITY, np.uint32(0x7FC00000), _INFINITY)
    return jnp.where(size < _INFINITY, rounded, special) | (raw & np.uint32(0x80000000))


def up_or_down(
    x: jax.Array, low: jax.Array, unit: Any, expand: Callable[[jax.Array], jax.Array], bits: jax.Array
) -> jax.Array:
    """`low` or `low + unit`, by random `bits`, so that the mean of `expand` of it is `x`, which lies between both."""
    below, above = expand(low), expand(low + unit)
    uniform = (bits >> 8).astype(jnp.int32).astype(jnp.float32) * np.float32(2**-24)
    return low + jnp.where(uniform * (above - below) < x - below, unit, 0)
