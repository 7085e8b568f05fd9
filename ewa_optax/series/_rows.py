"""Averages of a series row by row, for many lanes or with gaps, written where they belong.

A sum of many small steps stalls in float32 when each is added to a large number: so those of some rows are summed up
before they are added to the average. But of no more rows than the memory is long, or one huge value would be left in
that sum when it is long forgotten; nor where a value counts more than the past.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ewa_optax.series._gaps import Past, next_share
from ewa_optax.series._plan import Fading, Gaps, Plan, differing_as

ROWS = 64


def rows_in_cache(
    x: jax.Array, average: jax.Array, weight: jax.Array, fading: Fading, gaps: Gaps | None, plan: Plan, dtype: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """All averages of `x` (series, time, lanes) in `dtype`; and the last one in full, and, with gaps, the last weight.

    The loop has no derivative in reverse.
    """
    series, time, lanes = x.shape
    flat = x.reshape(series, time * lanes)
    average, weight = (jnp.broadcast_to(a, (series, lanes)) for a in (average, weight))
    zeros = differing_as(flat, jnp.zeros(flat.shape, dtype), jnp.zeros_like(average), jnp.zeros_like(weight))

    def at(s, t):
        return s, (time - 1 - t if plan.reverse else t) * lanes

    def value(s, t):
        return jax.lax.dynamic_slice(flat, at(s, t), (1, lanes)).astype(average.dtype)

    def put(out, y, s, t):
        return jax.lax.dynamic_update_slice(out, y.astype(dtype), at(s, t))

    def each(walk):
        """A walk along each series."""

        def one(s, carry):
            out, averages, weights = carry
            v, w = (jax.lax.dynamic_slice_in_dim(a, s, 1) for a in (average, weight))
            out, v, w = walk(s, out, v, w)
            ends = (jax.lax.dynamic_update_slice_in_dim(a, b, s, 0) for a, b in ((averages, v), (weights, w)))
            return out, *ends

        return jax.lax.fori_loop(0, series, one, zeros) if series > 1 else one(0, zeros)

    if gaps is None:
        steady = _steady(time, fading, plan, value, put)
        out, averages, weights = jax.lax.cond(fading.share > 1 / ROWS, *(lambda w=w: each(w) for w in steady))
    else:
        observed = jnp.broadcast_to(gaps.observed, x.shape).reshape(flat.shape)

        def there(s, t):
            return jax.lax.dynamic_slice(observed, at(s, t), (1, lanes))

        out, averages, weights = each(_with_gaps(time, fading, plan, gaps, value, there, put))
    return out.reshape(x.shape), averages, weights


def _steady(time, fading, plan, value, put):
    """Walks along series without gaps, for short and for long memories."""
    steps = jnp.arange(1, time + 1)
    kept, gained = fading.powers(steps), fading.faded(steps)

    def share_at(t, w):
        return fading.share / (kept[t] * w + gained[t]) if plan.debias else fading.share

    def short(s, out, v, w):
        def row(t, carry):
            out, v = carry
            z, share = value(s, t), share_at(t, w)
            v = jnp.where(fading.share > 0.5, z + (1 - share) * (v - z), v + share * (z - v))
            return put(out, v, s, t), v

        return *jax.lax.fori_loop(0, time, row, (out, v)), w

    def long(s, out, v, w):
        def some(i, carry):
            out, v = carry

            def row(t, carry):
                out, change = carry
                change = change + share_at(t, w) * (value(s, t) - v - change)
                return put(out, v + change, s, t), change

            stop = jnp.minimum((i + 1) * ROWS, time)
            out, change = jax.lax.fori_loop(i * ROWS, stop, row, (out, jnp.zeros_like(v)))
            return out, v + change

        return *jax.lax.fori_loop(0, -(-time // ROWS), some, (out, v)), w

    return short, long


def _with_gaps(time, fading, plan, gaps, value, there, put):
    """A walk along series with gaps."""
    together = jnp.clip(1 / fading.share, 1, ROWS).astype(int)

    def walk(s, out, v, w):
        def row(t, carry):
            out, v, change, past = carry
            observed = there(s, t)
            z = jnp.where(observed, value(s, t), v)
            passed = None if gaps.passed is None else gaps.passed[t]
            shares, past = next_share(past, observed, passed, fading, plan)
            short, now = shares.newest > 0.5, t % together == together - 1
            far = z + shares.past * ((v - z) + change)
            change = change + shares.newest * (z - v - change)
            y, fold = jnp.where(short, far, v + change), short | now
            out = put(out, jnp.where(past.begun, y, jnp.nan), s, t)
            return out, jnp.where(fold, y, v), jnp.where(fold, 0, change), past.settled(plan, now)

        waiting = None if gaps.waiting is None else jax.lax.dynamic_slice_in_dim(gaps.waiting, s, 1)
        carry = out, v, jnp.zeros_like(v), Past.of(w, waiting, fading, plan)
        out, v, change, past = jax.lax.fori_loop(0, time, row, carry)
        return out, v + change, past.settled(plan, True).weight(fading, plan)

    return walk
