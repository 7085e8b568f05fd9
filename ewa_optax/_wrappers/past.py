r"""What is usual of a positive number along a training, such as the norm of gradients: mean and deviation of its log.

Of the log, because norms are spread over factors: how far above the usual a number is then says how many times, at the
begin of a training and at its end, and one spike of a factor of ten thousand counts as nine, not as ten thousand.
"""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from ewa_optax._checks import rule
from ewa_optax._numerics import Number, corrected_shares, increment, lerp

Deviations = Annotated[
    Number, rule("finite and more than 0", lambda x: x > 0, "3 lets through most, 6 all but what is far off")
]
LEAST_DEVIATION = 0.1
"""Of the log, a tenth of the number: if numbers have been all but equal, the next one may still differ."""


class Past(NamedTuple):
    """How many numbers there were, and of their logs the average and the average of squared distances from it."""

    seen: jax.Array
    mean: jax.Array
    variance: jax.Array


def no_past() -> Past:
    """Before the first number."""
    return Past(jnp.zeros([], jnp.int32), jnp.zeros([]), jnp.zeros([]))


def log_limit(past: Past, deviations: Number, warmup: Number) -> jax.Array:
    """The log of the largest usual number; infinite until `warmup` numbers are known, and the first one."""
    deviation = jnp.sqrt(jnp.maximum(past.variance, LEAST_DEVIATION**2))  # Which has a derivative at 0.
    limit = past.mean + jnp.asarray(deviations, past.mean.dtype) * deviation
    return jnp.where(past.seen >= jnp.maximum(warmup, 1), limit, jnp.inf)


def after(past: Past, log: jax.Array, decay: Number, counts: jax.Array) -> Past:
    """With one number more, by its log, if it counts; one that has no finite log never does."""
    counts = counts & jnp.isfinite(log)
    log = jnp.where(counts, log, past.mean)
    seen = jnp.where(counts, increment(past.seen), past.seen)
    shares = corrected_shares(decay, jnp.maximum(seen, 1))
    older, newest = (x.astype(past.mean.dtype) for x in shares)
    mean = lerp(past.mean, log, decay, older, newest)
    variance = older * (past.variance + newest * jnp.square(log - past.mean))
    fresh = mean, variance
    return Past(seen, *(jnp.where(counts, *pair) for pair in zip(fresh, past[1:], strict=True)))
