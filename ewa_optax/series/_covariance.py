r"""An exponentially weighted covariance.

With the shares $s_t$ of an average, it is an average too, with the same shares, of
$(1 - s_t) (x_t - \bar x_{t-1}) (y_t - \bar y_{t-1})$: no difference of large numbers anywhere.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ewa_optax._numerics import wide_dtype
from ewa_optax.series._arguments import Part, in_three_axes
from ewa_optax.series._gaps import Plan, all_shares, turned
from ewa_optax.series._methods import running, somewhere
from ewa_optax.series._recurrence import recurrence
from ewa_optax.series._sharding import Layout, on_each, specs_of


class Kind(NamedTuple):
    """Whether with bias, and whether its root, which 16 bits can hold where they can't hold the variance."""

    bias: bool
    root: bool


@functools.partial(jax.jit, static_argnames=("axis", "plan", "kind", "layout"))
def covariance(
    part: Part, y: jax.Array | None, *, axis: int, plan: Plan, kind: Kind, layout: Layout | None
) -> jax.Array:
    """That of the array of `part` and `y`, or None for the same array."""
    local = functools.partial(_local, axis=axis, plan=plan, kind=kind)
    if layout is None:
        return local(part, y)
    whole, specs = specs_of(part, axis, layout, None)
    return on_each(local, layout, (specs, None if y is None else whole), whole)(part, y)


def _local(part, y, axis, plan, kind):
    dtype = part.x.dtype if y is None else jnp.promote_types(part.x.dtype, y.dtype)
    if not part.x.size:
        return part.x.astype(dtype)
    x, average, weight, gaps = in_three_axes(part, axis, plan)
    both = [x] if y is None else [x, y.reshape(x.shape)]
    both, average, weight, fading = jax.tree.map(
        lambda a: a.astype(wide_dtype(dtype)), (both, average, weight, part.fading)
    )
    told = gaps.observed is not None
    there = gaps.observed if told else ~functools.reduce(jnp.logical_or, map(jnp.isnan, both))

    def mean(z):
        z = jnp.where(there, z, 0 if told else jnp.nan)
        return running(z, average, weight, fading, gaps, plan, z.dtype)[0]

    def even(product):
        kept, left = _without_gaps(x.shape[1], fading, plan)
        covariances = mean(turned(kept, plan) * product)
        return covariances if kind.bias else _over(covariances, turned(left, plan), True)

    def uneven(product):
        in_order = gaps._replace(observed=turned(there, plan))
        shares, kept, _, _ = all_shares(weight, in_order, fading, plan)
        if kind.bias:
            return mean(turned(kept, plan) * product)
        return turned(_unbiased(turned(product, plan), shares, kept, in_order.observed, fading, plan), plan)

    means = [mean(z) for z in both]
    distances = [_from_before(z, m, there, plan) for z, m in zip(both, means, strict=True)]
    product = distances[0] * distances[-1]
    regular = gaps.observed is None and gaps.passed is None
    covariances = jax.lax.cond(somewhere(~there), uneven, even, product) if regular else uneven(product)
    covariances = jnp.where(jnp.isfinite(sum(means)), covariances, jnp.nan)
    return (_root(covariances) if kind.root else covariances).astype(dtype).reshape(part.x.shape)


def _from_before(z, means, there, plan):
    """How far each value is from the average before it; 0 where there is none, or no value."""
    z, means, there = (turned(a, plan) for a in (z, means, there))
    later = jnp.arange(z.shape[1])[None, :, None] > jnp.argmax(there, 1)[:, None]
    before = jnp.concatenate([means[:, :1], means[:, :-1]], 1)
    return turned(jnp.where(there & later, jnp.where(there, z, 0) - jnp.where(later, before, 0), 0), plan)


def _without_gaps(time, fading, plan):
    r"""Without gaps, $1 - s_t$ and $1 - \sum w_i^2$, of the shape (1, time, 1)."""
    t = jnp.arange(1, time + 1)[None, :, None]
    decay = 1 - fading.share
    if plan.debias:
        kept = fading.faded(t - 1) / fading.faded(t)
        return decay * kept, 2 * decay / (1 + decay) * kept
    return jnp.where(t > 1, decay, 0), 2 * decay / (1 + decay) * fading.faded(2 * (t - 1))


def _unbiased(product, shares, kept, observed, fading, plan):
    r"""An average with shares of its own, since a quotient would enlarge errors after a long gap.

    With $u_t = 1 - \sum w_i^2$, the shares are $s_t (2 - u_{t-1}) / ((1 - s_t) u_{t-1} + 2 s_t)$, and what is averaged
    are the products over $2 - u_{t-1}$.
    """
    nothing = jnp.zeros_like(shares[:, 0])
    left = recurrence(2 * shares * kept, shares * (1 + kept), kept**2, nothing, plan.method)
    left = jnp.concatenate([nothing[:, None], left[:, :-1]], 1)
    total = kept * left + 2 * shares
    kept = jnp.where(total > 0, _over(left, total, False), 1)
    shares = _over(shares * (2 - left), total, False)
    covariances = recurrence(shares * product / (2 - left), shares, kept, nothing, plan.method)
    several = (jnp.cumsum(observed, 1) > 1) & (fading.share < 1)
    return jnp.where(several, covariances, jnp.nan)


def _over(x, divisor, undefined):
    """The quotient, with a derivative where the divisor is 0; there it is NaN, or else 0."""
    positive = divisor > 0
    return jnp.where(positive, x / jnp.where(positive, divisor, 1), jnp.nan if undefined else 0)


def _root(variance):
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), variance)
