"""Exponentially weighted variances, deviations and covariances of series."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ewa_optax._checks import checked
from ewa_optax._numerics import Number, wide_dtype
from ewa_optax.series._arguments import Part, in_three_axes, plan_of, read
from ewa_optax.series._gaps import all_shares
from ewa_optax.series._methods import any_in_batch, running
from ewa_optax.series._plan import Plan, in_time_order
from ewa_optax.series._recurrence import recurrence
from ewa_optax.series._sharding import Layout, layout_of, on_each, specs_of


@checked
def ewa_cov(
    x: Any,
    y: Any,
    decay: Number,
    *,
    axis: int = 0,
    debias: bool = True,
    bias: bool = False,
    where: Any = None,
    missing: str = "decay",
    times: Any = None,
    reverse: bool = False,
    method: str | None = None,
) -> Any:
    r"""The exponentially weighted covariance of two series, at each of their steps.

    $$c_t = \sum_i w_i (x_i - \bar x_t)(y_i - \bar y_t), \qquad \text{and, without bias,} \qquad
    c_t \Big/ \Big(1 - \sum_i w_i^2\Big)$$

    with the weights $w_i$ of the averages $\bar x_t$ and $\bar y_t$, which sum to one. Of pandas'
    `ewm(alpha=1 - decay)` it is the `cov`, with the same `bias`. A correlation is
    `ewa_cov(x, y, d) / (ewa_std(x, d) * ewa_std(y, d))`, with `where=` the pairs that are there, if some are not.

    Args:
        x: an array, or a pytree of arrays, as in `ewa`, but real.
        y: one of the same shapes.
        decay: $\beta$ in [0, 1): looks back over about $1/(1-\beta)$ steps.
        axis: the axis of time.
        debias: whether all weights count (pandas' `adjust=True`); else the first pair counts as if it had been there
            for ever (`adjust=False`; of `ewa` that is `debias=False, initial=jnp.nan`).
        bias: whether to leave out the division, which makes up for averages that are taken from the same values.
        where: which pairs are there, as in `ewa`. Otherwise a pair is missing where one of the two is NaN.
        missing: as in `ewa`.
        times: as in `ewa`: the weights are the same.
        reverse: as in `ewa`.
        method: as in `ewa`.

    Returns:
        Covariances of the shapes of `x`, in the wider of the dtypes of `x` and `y`; NaN where there is no pair yet,
        and, without bias, where there is only one. Computed in float32 or wider, and differentiable.

    Raises:
        ValueError: as `ewa`; series of different shapes or trees.
        TypeError: as `ewa`; complex numbers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import series
        >>> x = jnp.array([1.0, 2.0, 4.0, 3.0])
        >>> print([f"{v:.3f}" for v in series.ewa_cov(x, -2 * x, 0.5)])
        ['nan', '-1.000', '-5.000', '-2.143']

    Reference:
        `pandas.DataFrame.ewm`; Finch, "Incremental calculation of weighted mean and variance", 2009.
    """
    plan = plan_of(debias, reverse, missing, method)
    return _covariances("ewa_cov", [x, y], decay, plan, Kind(bool(bias), False), axis=axis, where=where, times=times)


@checked
def ewa_var(
    x: Any,
    decay: Number,
    *,
    axis: int = 0,
    debias: bool = True,
    bias: bool = False,
    where: Any = None,
    missing: str = "decay",
    times: Any = None,
    reverse: bool = False,
    method: str | None = None,
) -> Any:
    r"""The exponentially weighted variance of a series, at each of its steps: its covariance with itself.

    Args:
        x: an array, or a pytree of arrays, as in `ewa`, but real.
        decay: $\beta$ in [0, 1): looks back over about $1/(1-\beta)$ steps.
        axis: the axis of time.
        debias: as in `ewa_cov`.
        bias: as in `ewa_cov`.
        where: as in `ewa`.
        missing: as in `ewa`.
        times: as in `ewa`.
        reverse: as in `ewa`.
        method: as in `ewa`.

    Returns:
        Variances of the shapes and dtypes of `x`, 0 or more; NaN where there is no value yet, and, without bias,
        where there is only one.

    Raises:
        ValueError: as `ewa`.
        TypeError: as `ewa`; complex numbers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import series
        >>> print([f"{v:.3f}" for v in series.ewa_var(jnp.array([1.0, 2.0, 4.0, 3.0]), 0.5)])
        ['nan', '0.500', '2.500', '1.071']

    Reference:
        `pandas.DataFrame.ewm`; Finch, "Incremental calculation of weighted mean and variance", 2009.
    """
    plan = plan_of(debias, reverse, missing, method)
    return _covariances("ewa_var", [x], decay, plan, Kind(bool(bias), False), axis=axis, where=where, times=times)


@checked
def ewa_std(
    x: Any,
    decay: Number,
    *,
    axis: int = 0,
    debias: bool = True,
    bias: bool = False,
    where: Any = None,
    missing: str = "decay",
    times: Any = None,
    reverse: bool = False,
    method: str | None = None,
) -> Any:
    r"""The exponentially weighted standard deviation of a series: the root of `ewa_var`.

    Args:
        x: an array, or a pytree of arrays, as in `ewa`, but real.
        decay: $\beta$ in [0, 1): looks back over about $1/(1-\beta)$ steps.
        axis: the axis of time.
        debias: as in `ewa_cov`.
        bias: as in `ewa_cov`.
        where: as in `ewa`.
        missing: as in `ewa`.
        times: as in `ewa`.
        reverse: as in `ewa`.
        method: as in `ewa`.

    Returns:
        Deviations of the shapes and dtypes of `x`; NaN where there is no value yet, and, without bias, where there is
        only one. Where it is 0, its derivative counts as 0.

    Raises:
        ValueError: as `ewa`.
        TypeError: as `ewa`; complex numbers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import series
        >>> print([f"{v:.3f}" for v in series.ewa_std(jnp.array([1.0, 2.0, 4.0, 3.0]), 0.5, bias=True)])
        ['0.000', '0.471', '1.195', '0.816']

    Reference:
        `pandas.DataFrame.ewm`.
    """
    plan = plan_of(debias, reverse, missing, method)
    return _covariances("ewa_std", [x], decay, plan, Kind(bool(bias), True), axis=axis, where=where, times=times)


def _covariances(function, series, decay, plan, kind, **options):
    requests = [read(function, x, decay, plan, state=None, initial=jnp.nan, **options) for x in series]
    shapes = [[part.x.shape for part, _ in request.parts] for request in requests]
    if requests[0].structure != requests[-1].structure or shapes[0] != shapes[-1]:
        raise ValueError(f"x and y must have the same shapes, got {shapes[0]} and {shapes[-1]}; broadcast one first.")
    found = []
    for (part, axis), *other in zip(*(request.parts for request in requests), strict=True):
        y = None
        if other:
            y, there = other[0][0].x, other[0][0].observed
            part = part if there is None else part._replace(observed=part.observed & there)  # Either may be masked.
        for z in (part.x,) if y is None else (part.x, y):
            if jnp.iscomplexobj(z):
                raise TypeError(f"x and y must be real, got {z.dtype}; take the parts that you mean.")
        layout = layout_of(part.x) or (None if y is None else layout_of(y))
        found.append(covariance(part, y, axis=axis, plan=plan, kind=kind, layout=layout))
    return requests[0].structure.unflatten(found)


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
        covariances = mean(in_time_order(kept, plan) * product)
        return covariances if kind.bias else _over(covariances, in_time_order(left, plan), True)

    def uneven(product):
        in_order = gaps._replace(observed=in_time_order(there, plan))
        shares, kept, _, _ = all_shares(weight, in_order, fading, plan)
        if kind.bias:
            return mean(in_time_order(kept, plan) * product)
        return in_time_order(
            _unbiased(in_time_order(product, plan), shares, kept, in_order.observed, fading, plan), plan
        )

    means = [mean(z) for z in both]
    distances = [_from_before(z, m, there, plan) for z, m in zip(both, means, strict=True)]
    product = distances[0] * distances[-1]
    regular = gaps.observed is None and gaps.passed is None
    covariances = jax.lax.cond(any_in_batch(~there), uneven, even, product) if regular else uneven(product)
    covariances = jnp.where(jnp.isfinite(sum(means)), covariances, jnp.nan)
    return (_root(covariances) if kind.root else covariances).astype(dtype).reshape(part.x.shape)


def _from_before(z, means, there, plan):
    """How far each value is from the average before it; 0 where there is none, or no value."""
    z, means, there = (in_time_order(a, plan) for a in (z, means, there))
    later = jnp.arange(z.shape[1])[None, :, None] > jnp.argmax(there, 1)[:, None]
    before = jnp.concatenate([means[:, :1], means[:, :-1]], 1)
    return in_time_order(jnp.where(there & later, jnp.where(there, z, 0) - jnp.where(later, before, 0), 0), plan)


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
    several = (jnp.cumsum(observed & (shares > 0), 1) > 1) & (fading.share < 1)
    return jnp.where(several, covariances, jnp.nan)


def _over(x, divisor, undefined):
    """The quotient, with a derivative where the divisor is 0; there it is NaN, or else 0."""
    positive = divisor > 0
    return jnp.where(positive, x / jnp.where(positive, divisor, 1), jnp.nan if undefined else 0)


def _root(variance):
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), variance)
