r"""An exponentially weighted covariance.

With the shares $s_t$ of an average, it is an average too, with the same shares, of
$(1 - s_t) (x_t - \bar x_{t-1}) (y_t - \bar y_{t-1})$: no difference of large numbers anywhere.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._numerics import wide_dtype
from ewa_optax._over_devices import Layout, on_each, specs_of
from ewa_optax._recurrence import recurrence
from ewa_optax._running import running
from ewa_optax._series_arguments import Part, in_three_axes
from ewa_optax._shares import Plan, all_shares


@functools.partial(jax.jit, static_argnames=("axis", "plan", "bias", "layout"))
def covariance(part: Part, y: jax.Array, *, axis: int, plan: Plan, bias: bool, layout: Layout | None) -> Any:
    """That of the array of `part` and `y`, with or without `bias`."""
    local = functools.partial(_local, axis=axis, plan=plan, bias=bias)
    if layout is None:
        return local(part, y)
    whole, specs = specs_of(part, axis, layout, None)
    return on_each(local, layout, (specs, whole), whole)(part, y)


def _local(part, y, axis, plan, bias):
    dtype = jnp.promote_types(part.x.dtype, y.dtype)
    if not part.x.size:
        return part.x.astype(dtype)
    x, average, weight, gaps = in_three_axes(part, axis, plan)
    x, y, average, weight, fading = jax.tree.map(
        lambda a: a.astype(wide_dtype(dtype)), (x, y.reshape(x.shape), average, weight, part.fading)
    )
    told = gaps.observed is not None
    there = gaps.observed if told else ~(jnp.isnan(x) | jnp.isnan(y))

    def mean(z):
        z = jnp.where(there, z, 0 if told else jnp.nan)
        return running(z, average, weight, fading, gaps, plan, z.dtype)[0]

    def even(product):
        kept, left = _even(x.shape[1], fading, plan)
        covariances = mean(_turned(kept, plan) * product)
        return covariances if bias else _over(covariances, _turned(left, plan), True)

    def uneven(product):
        turned = gaps._replace(observed=_turned(there, plan))
        shares = all_shares(weight, turned, fading, plan)[0]
        if bias:
            return mean(_turned(1 - shares, plan) * product)
        return _turned(_unbiased(_turned(product, plan), shares, turned.observed, fading), plan)

    means = mean(x), mean(y)
    product = _from_before(x, means[0], there, plan) * _from_before(y, means[1], there, plan)
    regular = gaps.observed is None and gaps.passed is None
    covariances = jax.lax.cond(there.all(), even, uneven, product) if regular else uneven(product)
    covariances = jnp.where(jnp.isfinite(means[0] + means[1]), covariances, jnp.nan)
    return covariances.astype(dtype).reshape(part.x.shape)


def _from_before(z, means, there, plan):
    """How far each value is from the average before it; 0 where there is none, or no value."""
    z, means, there = (_turned(a, plan) for a in (z, means, there))
    later = jnp.arange(z.shape[1])[None, :, None] > jnp.argmax(there, 1)[:, None]
    before = jnp.concatenate([means[:, :1], means[:, :-1]], 1)
    return _turned(jnp.where(there & later, jnp.where(there, z, 0) - jnp.where(later, before, 0), 0), plan)


def _even(time, fading, plan):
    r"""Without gaps, $1 - s_t$ and $1 - \sum w_i^2$, of the shape (1, time, 1)."""
    t = np.arange(1, time + 1)[None, :, None]
    decay = 1 - fading.share
    if plan.debias:
        kept = fading.faded(t - 1) / fading.faded(t)
        return decay * kept, 2 * decay / (1 + decay) * kept
    return jnp.where(t > 1, decay, 0), 2 * decay / (1 + decay) * fading.faded(2 * (t - 1))


def _unbiased(product, shares, observed, fading):
    r"""An average with shares of its own, since a quotient would enlarge errors after a long gap.

    With $u_t = 1 - \sum w_i^2$, the shares are $s_t (2 - u_{t-1}) / ((1 - s_t) u_{t-1} + 2 s_t)$, and what is averaged
    are the products over $2 - u_{t-1}$.
    """
    nothing = jnp.zeros_like(shares[:, 0])
    left = recurrence(2 * shares * (1 - shares), shares * (2 - shares), nothing)
    left = jnp.concatenate([nothing[:, None], left[:, :-1]], 1)
    total = (1 - shares) * left + 2 * shares
    shares = _over(shares * (2 - left), total, False)
    covariances = recurrence(shares * product / (2 - left), shares, nothing)
    several = (jnp.cumsum(observed, 1) > 1) & (fading.share < 1)
    return jnp.where(several, covariances, jnp.nan)


def _over(x, divisor, undefined):
    """The quotient, with a derivative where the divisor is 0; there it is NaN, or else 0."""
    positive = divisor > 0
    return jnp.where(positive, x / jnp.where(positive, divisor, 1), jnp.nan if undefined else 0)


def _turned(x, plan):
    return jnp.flip(x, 1) if plan.reverse else x
