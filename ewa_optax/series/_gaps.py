r"""The share $s_t$ of each value in the average after it: $v_t = v_{t-1} + s_t (x_t - v_{t-1})$.

With the bias corrected, all weights count: their sum is $w_t = \beta w_{t-1} + (1-\beta)$ where there is a value, and
the share is $(1-\beta)/w_t$. Otherwise the past weighs 1 after each value, and a value what fades in its own interval,
that since the row before: $1-\beta^p$, and without times $1-\beta$. So that is its share, and after a gap, in which the
past has faded to $\beta^k$, it is $(1-\beta^p)/(\beta^k + 1 - \beta^p)$.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ewa_optax.series._plan import Fading, Gaps, Plan, in_time_order
from ewa_optax.series._recurrence import recurrence


class Past(NamedTuple):
    """The weight of the past, as `kept` plus `gained`; without correction of the bias, the time since the last value.

    Two parts, because a sum of many small steps stalls in float32 when each is added to a large number.
    """

    kept: jax.Array
    gained: jax.Array
    begun: jax.Array
    waiting: Any

    @classmethod
    def of(cls, weight: jax.Array, waiting: Any, fading: Fading, plan: Plan) -> "Past":
        """What comes before the first value."""
        kept, gained = jnp.zeros_like(weight), jnp.zeros_like(weight)
        kept, gained = (weight, gained) if plan.debias else (kept, _since(weight, fading))
        return cls(kept, gained, weight > 0, waiting)

    def settled(self, plan: Plan, now: Any) -> "Past":
        """The same, ready for more steps, if it is time for that."""
        if not plan.debias:
            return self
        kept = jnp.where(now, _weight(self.kept + self.gained, self.begun), self.kept)
        return self._replace(kept=kept, gained=jnp.where(now, 0, self.gained))

    def weight(self, fading: Fading, plan: Plan) -> jax.Array:
        """The weight itself, once `settled`; 0 stands for no past at all."""
        return self.kept if plan.debias else _weight(fading.powers(self.gained), self.begun)


class Shares(NamedTuple):
    """Of a value in the average after it, and of the past, each with digits of its own."""

    newest: jax.Array
    past: jax.Array


def next_share(past: Past, observed: Any, passed: Any, fading: Fading, plan: Plan) -> tuple[Shares, Past]:
    """The shares at one value, and the past after it."""
    waiting = None if past.waiting is None else past.waiting & ~observed
    after = past._replace(begun=past.begun | observed, waiting=waiting)
    if plan.debias:
        faded, _ = _fading(observed, passed, past.waiting, fading, plan)
        gained = past.gained - faded * (past.kept + past.gained)
        shares = _shares(observed, past.kept + gained, fading.share)
        return shares, after._replace(gained=gained + jnp.where(observed, fading.share, 0))
    since = past.gained + _steps(observed, passed, past.waiting, plan)
    shares = _plain_shares(observed, passed, since, fading, plan)
    # A first value, even at the time of the row before.
    shares = Shares(jnp.where(past.begun, shares.newest, observed), jnp.where(past.begun, shares.past, ~observed))
    return shares, after._replace(gained=jnp.where(observed, 0, since))


def all_shares(
    weight: jax.Array, gaps: Gaps, fading: Fading, plan: Plan
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The shares of all values and of the past before them, where the average has begun, and the weight at the end."""
    observed = gaps.observed
    passed = None if gaps.passed is None else gaps.passed[None, :, None]
    time = jnp.arange(observed.shape[1])[None, :, None]
    first = jnp.where(observed.any(1), jnp.argmax(observed, 1), observed.shape[1])
    waiting = None if gaps.waiting is None else gaps.waiting[:, None] & (time <= first[:, None])
    first = jnp.where(weight > 0, -1, first)[:, None]
    if plan.debias:
        faded, kept = _fading(observed, passed, waiting, fading, plan)
        total = recurrence(jnp.where(observed, fading.share, 0), faded, kept, weight, plan.method)
        before = kept * jnp.concatenate([weight[:, None], total[:, :-1]], 1)
        shares, last = _shares(observed, before, fading.share), total[:, -1]
    else:
        steps, before = _steps(observed, passed, waiting, plan).astype(weight.dtype), _since(weight, fading)
        there = observed.astype(weight.dtype)
        since = recurrence(jnp.where(observed, 0, steps), there, 1 - there, before, plan.method)
        before = jnp.concatenate([before[:, None], since[:, :-1]], 1) + steps
        shares, last = _plain_shares(observed, passed, before, fading, plan), fading.powers(since[:, -1])
    begun = time >= first
    newest, past = jnp.where(time == first, 1, shares.newest), jnp.where(time == first, 0, shares.past)
    return newest, past, begun, _weight(last, begun[:, -1])


def _since(weight, fading):
    """How long ago the last value was, whose weight has faded to this one; without a past, long ago."""
    long_ago = jnp.asarray(1e30, weight.dtype)
    return jnp.where(weight > 0, jnp.log(jnp.where(weight > 0, weight, 1)) / fading.log, long_ago)


def _weight(weight, begun):
    """What has faded out of the range of floats is still not 0, which would be no past at all."""
    return jnp.where(begun, jnp.maximum(weight, jnp.finfo(weight.dtype).tiny), 0)


def _steps(observed, passed, waiting, plan):
    """The time that counts for the past at each row: a row that is skipped adds none, but its interval to the next."""
    one = observed.astype(int) if plan.skip else jnp.ones_like(observed, int)
    if passed is None:
        return one
    return jnp.broadcast_to(passed, observed.shape) if waiting is None else jnp.where(waiting, one, passed)


def _fading(observed, passed, waiting, fading, plan):
    """What fades of the past at each row, and what is kept of it."""
    faded, kept = fading.share, 1 - fading.share
    if plan.skip:
        faded, kept = jnp.where(observed, faded, 0), jnp.where(observed, kept, 1)
    if passed is None:
        return faded, kept
    of_times = fading.faded(passed), fading.powers(passed)
    if waiting is None:
        return of_times
    return jnp.where(waiting, faded, of_times[0]), jnp.where(waiting, kept, of_times[1])


def _shares(observed, before, newest):
    counts = observed & (newest > 0)  # At the time of the row before, a value has no share.
    total = jnp.where(counts, before + newest, 1)
    return Shares(jnp.where(counts, jnp.minimum(newest / total, 1), 0), jnp.where(counts, before / total, 1))


def _plain_shares(observed, passed, since, fading, plan):
    own = fading.share if passed is None else fading.faded(since if plan.skip else passed)
    return _shares(observed, fading.powers(since), own)


def uneven_at_once(x, average, weight, fading, gaps, plan, dtype):
    average, weight = (jnp.broadcast_to(a, (x.shape[0], x.shape[2])) for a in (average, weight))
    observed = in_time_order(jnp.broadcast_to(gaps.observed, x.shape), plan)
    z = jnp.where(observed, in_time_order(x, plan), 0).astype(average.dtype)
    shares, kept, begun, after = all_shares(weight, gaps._replace(observed=observed), fading, plan)
    y = jnp.where(begun, recurrence(shares * z, shares, kept, average, plan.method), jnp.nan)
    return in_time_order(y, plan).astype(dtype), y[:, -1], after
