"""Rounding without bias: numbers onto a coarser grid, up or down by chance, so that the mean is the number itself.

The chance comes from a counter, not from `jax.random`, whose bits would cost more than the whole step of an optimizer:
a hash of where a number stands (element, step, leaf, piece) and of a seed. It is the same under `jax.jit`,
`jax.lax.scan`, `jax.vmap` and any sharding (but within `jax.shard_map` each shard counts its own elements), and XLA
computes it in the loop that needs it.
"""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HALF = np.uint32(2**31)  # Instead of random bits, it rounds to the nearest number.
_INFINITY = np.uint32(0x7F800000)  # The bits of a float32; those of NaN are more.


def key_of(*name: Any) -> int:
    """The key of a name: a number of 32 bits that depends on all of its words and numbers."""
    return zlib.crc32(repr(name).encode())


def fold(key: Any, *numbers: Any) -> jax.Array:
    """Another key, uint32, for all other `numbers`: integers, or decays, by their float32 bits."""
    for number in numbers:
        if isinstance(number, float):
            number = int(np.float32(number).view(np.uint32))
        elif isinstance(number, jax.Array) and jnp.issubdtype(number.dtype, jnp.floating):
            number = jax.lax.bitcast_convert_type(number.astype(jnp.float32), jnp.uint32)
        if isinstance(key, int) and isinstance(number, int):
            key = (key * 0x9E3779B1 + number) % 2**32
        else:
            words = (jnp.asarray(x if isinstance(x, jax.Array) else np.uint32(x)) for x in (key, number))
            key, number = (word.astype(jnp.uint32) for word in words)
            key = key * np.uint32(0x9E3779B1) + number
    # The remainder changes next to nothing; but XLA repeats no division in a loop. So a leaf's loop gets its key from
    # outside, and the loops of leaves of one shape are one program, which XLA compiles once.
    return jax.lax.rem(_mix(jnp.asarray(key, jnp.uint32)), np.uint32(2**32 - 5))


def random_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """32 random bits per element of an array of that shape, uint32: each is a function of `key` and its index alone."""
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride % 2**32)
        stride *= shape[axis]
    # The odd factor depends on the key too, so that no key gives the sequence of another one at an offset.
    return _mix(index * (_mix(key) | np.uint32(1)) + key)


def _mix(x: jax.Array) -> jax.Array:
    """Wellons' "lowbias32": a bijection of 32 bits in which each bit of `x` turns every bit with probability 1/2."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


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
