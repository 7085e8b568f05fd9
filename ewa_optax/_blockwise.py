r"""An average of equally spaced values as products with a triangle of weights, block by block.

Within a block of $K$ values, all sums $\sum_{i \le k} \beta^{k-i} z_i$ are one product with a triangular matrix. What
one block leaves to the next is again such a sum, of one value a block and with the decay $\beta^K$: so those are found
in the same way, until one block holds them all. No step waits for another one.

Values that vary little around a level are taken relative to it, which keeps the digits of what changes, and keeps a
constant series constant. The level is the median of the average before them and two of themselves, if those three are
close together; else there is none. Not simply that average, in which one huge value may be left: the digits of small
values would drown in its.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._recurrence import Fading

BLOCK = 32


def blockwise(
    x: jax.Array, average: jax.Array, weight: jax.Array, fading: Fading, debias: bool, size: int = BLOCK
) -> jax.Array:
    r"""The averages of `x` (series, time, lanes), for a time that is a multiple of the `size` of a block.

    `average`, of the shape (series, lanes), is that of the past, and `weight` what its weights sum to: 0 where there is
    no past. Without `debias` the weight counts as 1.
    """
    series, time, *lanes = x.shape
    level = _level(jnp.where(weight > 0, average, x[:, 0]) if debias else average, x)
    z = (x - level[:, None]).reshape(series, -1, size, *lanes)
    sums = _along(z, fading.share * _triangle(fading, size, 1, 0))
    past = (average - level) * weight if debias else average - level
    blocks = np.arange(0, time, size)
    past = _carried(sums[:, :, -1], fading, size) + past[:, None] * _like(fading.powers(blocks), sums[:, :, 0], 1)
    sums = sums + past[:, :, None] * _like(fading.powers(np.arange(1, size + 1)), sums, 2)
    if debias:
        t = np.arange(1, time + 1).reshape(-1, size)
        total = _like(fading.powers(t), sums, 1) * weight[:, None, None] + _like(fading.faded(t), sums, 1)
        sums = sums / total
    return (level[:, None, None] + sums).reshape(x.shape)


def _level(average: jax.Array, x: jax.Array) -> jax.Array:
    time = x.shape[1]
    a, b, c = (z.real for z in (average, x[:, time // 3], x[:, 2 * time // 3]))
    low, high = jnp.minimum(jnp.minimum(a, b), c), jnp.maximum(jnp.maximum(a, b), c)
    median = jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))
    return jax.lax.stop_gradient(jnp.where(high - low < jnp.abs(median) / 4, median, 0))


def _triangle(fading: Fading, size: int, step: int, strict: int) -> jax.Array:
    """From row i to column k: the decay to the power of the time between them."""
    k = np.arange(size)
    gap = k - k[:, None] - strict
    return jnp.where(gap >= 0, fading.powers(step * np.maximum(gap, 0)), 0)


def _along(z: jax.Array, matrix: jax.Array) -> jax.Array:
    """The product along the third axis. In full: accelerators else round its factors to 10 or 8 bits."""
    return jnp.einsum("sri...,ik->srk...", z, matrix, precision=jax.lax.Precision.HIGHEST)


def _carried(sums: jax.Array, fading: Fading, step: int) -> jax.Array:
    """What all blocks before leave to each one: sums of (series, blocks, lanes), which are `step` apart."""
    series, blocks, *lanes = sums.shape
    size = min(blocks, BLOCK)
    padding = [(0, 0)] * sums.ndim
    padding[1] = (0, -blocks % size)
    z = jnp.pad(sums, padding).reshape(series, -1, size, *lanes)
    inside = _along(z, _triangle(fading, size, step, 1))
    if blocks > size:
        left = _along(z, fading.powers(step * np.arange(size)[::-1])[:, None])[:, :, 0]
        past = _carried(left, fading, step * size)
        inside = inside + past[:, :, None] * _like(fading.powers(step * np.arange(size)), inside, 2)
    return inside.reshape(series, -1, *lanes)[:, :blocks]


def _like(x: Any, other: jax.Array, axis: int) -> jax.Array:
    """`x` with axes of one element before and behind its own, so that it lies along `other` from that axis on."""
    return x.reshape(*[1] * axis, *x.shape, *[1] * (other.ndim - axis - x.ndim))
