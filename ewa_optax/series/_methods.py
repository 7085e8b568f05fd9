"""The running average of an array, by whichever way is fastest for its shape and device.

On a CPU, where lanes are few, one piece after the other by products with triangles of weights; where they are three or
more, row by row. Elsewhere all at once, by triangles. With gaps, row by row on a CPU, and else by an associative scan.
A derivative is that of the ways that work all at once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ewa_optax.series._blocks import blocks_in_cache, even_at_once
from ewa_optax.series._gaps import uneven_at_once
from ewa_optax.series._plan import Fading, Gaps, Plan, differing_as
from ewa_optax.series._rows import rows_in_cache

FEW_LANES = 2
"""Up to here blocks are faster than rows (`benchmarks.series`)."""


def running(
    x: jax.Array, average: jax.Array, weight: jax.Array, fading: Fading, gaps: Gaps, plan: Plan, dtype: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The averages of `x` (series, time, lanes) in `dtype`; and the last one, and the weight of the past after it.

    `average` and `weight` (series, lanes) are those of the past before the first value. Without `gaps.observed`, what
    is not NaN is there.
    """
    found: Any = _running(x, average, weight, fading, gaps, plan, dtype)
    return found


@functools.partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def _running(x, average, weight, fading, gaps, plan, dtype):
    average, weight = differing_as(x, jnp.where(weight > 0, average, 0), weight)
    if not _even(gaps):
        return _uneven(x, average, weight, fading, _told(x, gaps), plan, dtype)
    out, end = _of_even(x, _start(x, average, weight, plan), weight, fading, plan, dtype)
    after = _after(x, weight, fading, plan)

    # A NaN, or an infinity, which a triangle carries backwards too, shows in the last average.
    def again(carry):
        z = flat.reshape(x.shape)
        out, *ends = _uneven(z, average, weight, fading, _told(z, gaps), plan, dtype)
        return carry[0] & False, out.reshape(flat.shape), *ends

    # Unlike cond, a loop that may not run copies nothing; with two axes, not even to lay out the third in another way.
    flat = x.reshape(x.shape[0], x.shape[1] * x.shape[2])
    carry = _has_gaps(end, weight, plan), out.reshape(flat.shape), end, after
    _, out, end, after = jax.lax.while_loop(lambda carry: carry[0], again, carry)
    return out.reshape(x.shape), end, after


@_running.defjvp
def _derivative(plan, dtype, primals, tangents):
    return jax.jvp(functools.partial(_at_once, plan=plan, dtype=dtype), primals, tangents)


@jax.custom_batching.custom_vmap
def any_in_batch(flags: jax.Array) -> jax.Array:
    """Whether one is True; under `jax.vmap`, of the whole batch: else both ways would be taken, and not backwards."""
    return flags.any()


@any_in_batch.def_vmap
def _of_a_batch(axis_size, in_batched, flags):
    del axis_size, in_batched
    return any_in_batch(flags), False


def _start(x, average, weight, plan):
    """Without a past and without correction of the bias, the first value is what was always there."""
    if plan.debias:
        return average
    return jnp.where(weight > 0, average, x[:, -1 if plan.reverse else 0].astype(average.dtype))


def _after(x, weight, fading, plan):
    time = x.shape[1]
    return fading.powers(time) * weight + fading.faded(time) if plan.debias else weight * 0 + 1


def _even(gaps):
    return gaps.observed is None and gaps.passed is None


def _told(x, gaps):
    return gaps._replace(observed=~jnp.isnan(x) if gaps.observed is None else gaps.observed)


def _has_gaps(x, weight, plan):
    gaps = any_in_batch(~jnp.isfinite(x))
    return gaps if plan.debias else gaps | any_in_batch((weight > 0) & (weight != 1))


def _of_even(x, average, weight, fading, plan, dtype):
    blocks = functools.partial(blocks_in_cache, plan=plan, dtype=dtype)

    def rows(x, average, weight, fading):
        return rows_in_cache(x, average, weight, fading, None, plan, dtype)[:2]

    def at_once(x, average, weight, fading):
        return even_at_once(x, average, weight, fading, plan, dtype)

    few = x.shape[2] <= FEW_LANES
    on_cpu = {None: blocks if few else rows, "serial": rows, "blocks": blocks, "associative": at_once}[plan.method]
    elsewhere = rows if plan.method == "serial" else at_once
    return jax.lax.platform_dependent(x, average, weight, fading, cpu=on_cpu, default=elsewhere)


def _uneven(x, average, weight, fading, gaps, plan, dtype):
    rows = functools.partial(rows_in_cache, plan=plan, dtype=dtype)
    at_once = functools.partial(uneven_at_once, plan=plan, dtype=dtype)
    on_cpu = at_once if plan.method == "associative" else rows
    elsewhere = rows if plan.method == "serial" else at_once
    return jax.lax.platform_dependent(x, average, weight, fading, gaps, cpu=on_cpu, default=elsewhere)


def _at_once(x, average, weight, fading, gaps, plan, dtype):
    """The same by what has a derivative in reverse."""
    told = _told(x, gaps)
    average, weight = differing_as(x, jnp.where(weight > 0, average, 0), weight)

    def uneven(x, average):
        return uneven_at_once(x, average, weight, fading, told, plan, dtype)

    def even(x, average):
        x = jnp.where(jnp.isfinite(x), x, 0)
        start = _start(x, average, weight, plan)
        return *even_at_once(x, start, weight, fading, plan, dtype), _after(x, weight, fading, plan)

    return jax.lax.cond(_has_gaps(x, weight, plan), uneven, even, x, average) if _even(gaps) else uneven(x, average)
