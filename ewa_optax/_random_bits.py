"""Random bits by a counter: a hash of where a number stands, which costs nothing beside what is rounded."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HALF = np.uint32(2**31)  # Instead of random bits, it rounds to the nearest number.


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
