"""What grows or shrinks with time in an optimizer: shares of the newest value, weights, the step of Adafactor."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ewa_optax._numerics import Number, shares

OfTime = Callable[[jax.Array], jax.Array]


def share_after_the_first(decay: Number) -> OfTime:
    r"""1 at the first step, and $1 - \beta$ after it: an average that begins with the first value."""
    return lambda t: jnp.where(t == 1, 1.0, shares(decay)[1])


def share_of_power(exponent: Number) -> OfTime:
    r"""$t^{-c}$: an average over about $t^c$ steps."""
    return lambda t: t**-exponent


def share_of_growing_half_life(first: Number, last: Number, steps: Number) -> OfTime:
    r"""$1 - \beta_t$ of a decay whose half-life grows linearly in so many steps, from the first to the last one's."""
    begin, end = _life(first), _life(last)
    return lambda t: -jnp.expm1(-1 / (begin + jnp.minimum(t / _whole(steps), 1.0) * (end - begin)))


def growing(number: Number, steps: Number) -> optax.Schedule:
    """A schedule, of the updates so far, that grows linearly from 0 to a number in so many steps."""
    return lambda count: number * jnp.minimum((jnp.asarray(count, float) + 1) / _whole(steps), 1.0)


def relative_step(count: Any) -> jax.Array:
    r"""Adafactor's schedule: $\min(0.01, 1/\sqrt t)$."""
    return jnp.minimum(0.01, jax.lax.rsqrt(jnp.asarray(count, float) + 1))


def _whole(steps: Number) -> Number:
    """At least one step: after the first, a growth over none and over one are the same."""
    return jnp.maximum(steps, 1) if isinstance(steps, jax.Array) else max(steps, 1)


def _life(decay):
    r"""$-1/\log\beta$, by which all half-lives are multiples of one number."""
    if isinstance(decay, jax.Array):
        return -1 / jnp.log(decay)
    return -1 / math.log(decay) if decay > 0 else 0.0
