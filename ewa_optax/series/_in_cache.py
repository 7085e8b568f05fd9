"""Averages of equally spaced values on a CPU, a piece at a time that stays in its cache, written where they belong.

Half of the time of such an average is memory that the operating system maps for the first time: so each value is read
once and written once. These loops have no derivative in reverse.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ewa_optax.series._blocks import BLOCK, Weights, blockwise, level_of
from ewa_optax.series._gaps import Plan, turned
from ewa_optax.series._recurrence import Fading, differing_as

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
            z = turned(z.astype(v.dtype).reshape(together, length, *tail), plan)
            y = blockwise(z, v, w, level, weights, plan.debias)
            following = jnp.minimum((i + 1) * length, time - length)
            last = jnp.where(i == pieces - 1, length, following - start) - 1
            v, w = jax.lax.dynamic_index_in_dim(y, last, 1, False), kept[last] * w + gained[last]
            y = turned(y, plan).reshape(together, length * lanes).astype(dtype)
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
