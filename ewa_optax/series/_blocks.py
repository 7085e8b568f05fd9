r"""An average of equally spaced values as products with a triangle of weights, block by block.

Within a block of $K$ values, all sums $\sum_{i \le k} \beta^{k-i} z_i$ are one product with a triangular matrix. What
one block leaves to the next is again such a sum, of one value a block and with the decay $\beta^K$: so those are found
in the same way, until one block holds them all. No step waits for another one.

Values that vary little around a level are taken relative to it, which keeps the digits of what changes, and keeps a
constant series constant. The level is the median of the average before them and two of themselves, if those three are
close together; else there is none. Not simply that average, in which one huge value may be left: the digits of small
values would drown in its.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax.series._plan import Fading, Plan, differing_as, in_time_order
from ewa_optax.series._recurrence import recurrence

BLOCK = 32


class Level(NamedTuple):
    """What one block leaves to the next: the weights of sums from block to block of a group, and of those it leaves."""

    between: jax.Array
    left: jax.Array
    kept: jax.Array


class Weights(NamedTuple):
    """All weights for a length of time, in blocks of a size.

    Inside of a block, from each value to each; what is kept of the past after each value of a block, and where each
    block begins; what is kept of it at each time, and gained since; and the levels above.
    """

    inside: jax.Array
    after: jax.Array
    begin: jax.Array
    kept: jax.Array
    gained: jax.Array
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, fading: Fading, time: int, size: int) -> "Weights":
        """For a `time` that is a multiple of `size`."""
        t, levels, blocks, step = jnp.arange(1, time + 1).reshape(-1, size), [], time // size, size
        while not levels or blocks > 1:
            group = min(blocks, BLOCK)
            k = np.arange(group)
            left, kept = fading.powers(step * k[::-1]), fading.powers(step * k)
            levels.append(Level(_triangle(fading, group, step, 1), left[:, None], kept))
            blocks, step = -(-blocks // group), step * group
        return cls(
            fading.share * _triangle(fading, size, 1, 0),
            fading.powers(np.arange(1, size + 1)),
            fading.powers(jnp.arange(0, time, size)),
            fading.powers(t),
            fading.faded(t),
            tuple(levels),
        )


def blockwise(
    x: jax.Array, average: jax.Array, weight: jax.Array, level: jax.Array, weights: Weights, debias: bool
) -> jax.Array:
    r"""The averages of `x` (series, time, lanes).

    `average`, of the shape (series, lanes), is that of the past, and `weight` what its weights sum to: 0 where there is
    no past. Without `debias` the weight counts as 1. Values are taken relative to `level`.
    """
    series, _, *lanes = x.shape
    z = (x - level[:, None]).reshape(series, *weights.kept.shape, *lanes)
    sums = _along(z, weights.inside)
    past = (average - level) * weight if debias else average - level
    past = _carried(sums[:, :, -1], weights.levels) + past[:, None] * _like(weights.begin, sums[:, :, 0], 1)
    sums = sums + past[:, :, None] * _like(weights.after, sums, 2)
    if debias:
        sums = sums / (_like(weights.kept, sums, 1) * weight[:, None, None] + _like(weights.gained, sums, 1))
    return (level[:, None, None] + sums).reshape(x.shape)


def level_of(average: jax.Array, earlier: jax.Array, later: jax.Array) -> jax.Array:
    """That of values, by two of themselves and the average before them."""
    a, b, c = (z.real for z in (average, earlier, later))
    low, high = jnp.minimum(jnp.minimum(a, b), c), jnp.maximum(jnp.maximum(a, b), c)
    median = jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))
    return jnp.where(high - low < jnp.abs(median) / 4, median, 0)


def _triangle(fading: Fading, size: int, step: int, strict: int) -> jax.Array:
    """From row i to column k: the decay to the power of the time between them."""
    k = np.arange(size)
    gap = k - k[:, None] - strict
    return jnp.where(gap >= 0, fading.powers(step * np.maximum(gap, 0)), 0)


def _along(z: jax.Array, matrix: jax.Array) -> jax.Array:
    """The product along the third axis. In full: accelerators else round its factors to 10 or 8 bits."""
    return jnp.einsum("sri...,ik->srk...", z, matrix, precision=jax.lax.Precision.HIGHEST)


def _carried(sums: jax.Array, levels: tuple[Level, ...]) -> jax.Array:
    """What all blocks before leave to each one, from their sums (series, blocks, lanes)."""
    series, blocks, *lanes = sums.shape
    group = len(levels[0].kept)
    padding = [(0, 0)] * sums.ndim
    padding[1] = (0, -blocks % group)
    z = jnp.pad(sums, padding).reshape(series, -1, group, *lanes)
    inside = _along(z, levels[0].between)
    if blocks > group:
        past = _carried(_along(z, levels[0].left)[:, :, 0], levels[1:])
        inside = inside + past[:, :, None] * _like(levels[0].kept, inside, 2)
    return inside.reshape(series, -1, *lanes)[:, :blocks]


def _like(x: Any, other: jax.Array, axis: int) -> jax.Array:
    """`x` with axes of one element before and behind its own, so that it lies along `other` from that axis on."""
    return x.reshape(*[1] * axis, *x.shape, *[1] * (other.ndim - axis - x.ndim))


TILE = 16_384
"""Values a piece: 64 KiB of float32 in each of about five arrays, in a second-level cache of 512 KiB or more."""


def blocks_in_cache(
    x: jax.Array, average: jax.Array, weight: jax.Array, fading: Fading, plan: Plan, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """All averages in `dtype`, and the last one in full."""
    series, time, lanes = x.shape
    tail = (lanes,) * (lanes > 1)
    size = min(BLOCK, time)
    pieces = -(-time * lanes // TILE)
    if pieces == 1 and time % size:
        pieces = 2
    length = size * -(-time // (pieces * size))
    pieces = -(-time // length)
    together = min(series, max(1, TILE // (length * lanes)))
    flat = x.reshape(series, time * lanes)
    average, weight = (jnp.broadcast_to(a, (series, lanes)).reshape(series, *tail) for a in (average, weight))
    weights = Weights.of(fading, length, size)
    kept, gained = weights.kept.reshape(-1), weights.gained.reshape(-1)

    def some(turn, carry):
        out, ends = carry
        first = jnp.minimum(turn * together, series - together)

        def value(t):
            at = first, (time - 1 - t if plan.reverse else t) * lanes
            return jax.lax.dynamic_slice(flat, at, (together, lanes)).astype(average.dtype).reshape(together, *tail)

        def level_from(start, v):
            return level_of(v, value(start + length // 3), value(start + 2 * length // 3))

        def piece(i, carry):
            out, v, w, level = carry
            start = jnp.minimum(i * length, time - length)  # The last piece overlaps the one before it.
            place = time - length - start if plan.reverse else start
            z = jax.lax.dynamic_slice(flat, (first, place * lanes), (together, length * lanes))
            z = in_time_order(z.astype(v.dtype).reshape(together, length, *tail), plan)
            y = blockwise(z, v, w, level, weights, plan.debias)
            following = jnp.minimum((i + 1) * length, time - length)
            last = jnp.where(i == pieces - 1, length, following - start) - 1
            v, w = jax.lax.dynamic_index_in_dim(y, last, 1, False), kept[last] * w + gained[last]
            y = in_time_order(y, plan).reshape(together, length * lanes).astype(dtype)
            # For the next piece: within it, every element would compute the level anew.
            return jax.lax.dynamic_update_slice(out, y, (first, place * lanes)), v, w, level_from(following, v)

        v, w = (jax.lax.dynamic_slice_in_dim(a, first, together) for a in (average, weight))
        level = level_from(0, jnp.where(w > 0, v, value(0)) if plan.debias else v)
        out, v, _, _ = jax.lax.fori_loop(0, pieces, piece, (out, v, w, level))
        return out, jax.lax.dynamic_update_slice_in_dim(ends, v, first, 0)

    turns = -(-series // together)
    carry = differing_as(flat, jnp.zeros(flat.shape, dtype), jnp.zeros_like(average))
    out, ends = jax.lax.fori_loop(0, turns, some, carry) if turns > 1 else some(0, carry)
    return out.reshape(x.shape), ends.reshape(series, lanes)


def even_at_once(x, average, weight, fading, plan, dtype):
    time = x.shape[1]
    z = in_time_order(x, plan).astype(average.dtype)
    average, weight = (jnp.broadcast_to(a, (x.shape[0], x.shape[2])) for a in (average, weight))
    if plan.method == "associative":
        t = jnp.arange(1, time + 1)[None, :, None]
        shares = jnp.broadcast_to(fading.share, (1, time, 1))
        if plan.debias:
            shares = fading.share / (fading.powers(t) * weight[:, None] + fading.faded(t))
        y = recurrence(shares * z, shares, 1 - shares, average, plan.method)
    else:
        size = min(BLOCK, time)
        padded = jnp.pad(z, ((0, 0), (0, -time % size), (0, 0)), mode="edge")
        weights = Weights.of(fading, padded.shape[1], size)
        level = level_of(jnp.where(weight > 0, average, z[:, 0]), z[:, time // 3], z[:, 2 * time // 3])
        y = blockwise(padded, average, weight, level, weights, plan.debias)[:, :time]
    return in_time_order(y, plan).astype(dtype), y[:, -1]
