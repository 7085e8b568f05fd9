r"""Exponentially weighted variances and covariances of series.

With the shares $s_t$ of an average, a covariance is an average too, with the same shares, of
$(1 - s_t) (x_t - \bar x_{t-1}) (y_t - \bar y_{t-1})$: no difference of large numbers anywhere.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._numerics import Number, wide_dtype
from ewa_optax._over_devices import layout_of, on_each, specs_of
from ewa_optax._recurrence import associative
from ewa_optax._running import running
from ewa_optax._series_arguments import in_three_axes, plan_of, read
from ewa_optax._shares import all_shares


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
    `ewm(alpha=1 - decay)` it is the `cov`, with the same `bias`; of what two correlations need, it is all:
    `ewa_cov(x, y, d) / (ewa_std(x, d) * ewa_std(y, d))`.

    Args:
        x: an array, or a pytree of arrays, as in `ewa`, but real.
        y: one of the same shapes.
        decay: $\beta$ in [0, 1): looks back over about $1/(1-\beta)$ steps.
        axis: the axis of time.
        debias: whether all weights count (pandas' `adjust=True`), or the first value as if it had been there for ever.
        bias: whether to leave out the division, which makes up for averages that are taken from the same values.
        where: which pairs are there, as in `ewa`. Otherwise a pair is missing where one of the two is NaN.
        missing: as in `ewa`.
        times: as in `ewa`.
        reverse: as in `ewa`.
        method: as in `ewa`.

    Returns:
        Covariances of the shapes of `x`, in the wider of the dtypes of `x` and `y`; NaN where there is no pair yet,
        and, without bias, where there is only one. Computed in float32 or wider, and differentiable.

    Raises:
        ValueError: as `ewa`; series of different shapes or trees.
        TypeError: as `ewa`; complex numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import series
        >>> x = jnp.array([1.0, 2.0, 4.0, 3.0])
        >>> print(series.ewa_cov(x, -2 * x, 0.5))
        [       nan -1.        -4.857143  -1.6285714]

    Reference:
        `pandas.DataFrame.ewm`; Finch, "Incremental calculation of weighted mean and variance", 2009.
    """
    plan = plan_of(debias, reverse, missing, method)
    options = {"state": None, "axis": axis, "initial": jnp.nan, "where": where, "times": times}
    request, other = read(x, decay, plan, **options), read(y, decay, plan, **options)
    shapes = [[part.x.shape for part, _ in each.parts] for each in (request, other)]
    if request.structure != other.structure or shapes[0] != shapes[1]:
        raise ValueError(f"x and y must have the same shapes, got {shapes[0]} and {shapes[1]}; broadcast one first.")
    for part, _ in request.parts + other.parts:
        if jnp.iscomplexobj(part.x):
            raise TypeError(f"x and y must be real, got {part.x.dtype}; take the parts that you mean.")
    found = [
        _covariances(part, second.x, axis=axis, plan=plan, bias=bool(bias), layout=layout_of(part.x))
        for (part, axis), (second, _) in zip(request.parts, other.parts, strict=True)
    ]
    return request.structure.unflatten(found)


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

    Example:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import series
        >>> print(series.ewa_var(jnp.array([1.0, 2.0, 4.0, 3.0]), 0.5))
        [      nan 0.5       2.4285715 0.8142857]

    Reference:
        `pandas.DataFrame.ewm`; Finch, "Incremental calculation of weighted mean and variance", 2009.
    """
    return ewa_cov(
        x,
        x,
        decay,
        axis=axis,
        debias=debias,
        bias=bias,
        where=where,
        missing=missing,
        times=times,
        reverse=reverse,
        method=method,
    )


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

    Example:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import series
        >>> print(series.ewa_std(jnp.array([1.0, 2.0, 4.0, 3.0]), 0.5, bias=True))
        [0.         0.47140452 1.1780303  0.7180219 ]

    Reference:
        `pandas.DataFrame.ewm`.
    """
    variances = ewa_var(
        x,
        decay,
        axis=axis,
        debias=debias,
        bias=bias,
        where=where,
        missing=missing,
        times=times,
        reverse=reverse,
        method=method,
    )
    return jax.tree.map(_root, variances)


@functools.partial(jax.jit, static_argnames=("axis", "plan", "bias", "layout"))
def _covariances(part, y, *, axis, plan, bias, layout):
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

    product = _from_before(x, mean(x), there, plan) * _from_before(y, mean(y), there, plan)
    regular = gaps.observed is None and gaps.passed is None
    covariances = jax.lax.cond(there.all(), even, uneven, product) if regular else uneven(product)
    return covariances.astype(dtype).reshape(part.x.shape)


def _from_before(z, means, there, plan):
    """How far each value is from the average before it; 0 where there is none, or no value."""
    means = _turned(means, plan)
    before = jnp.concatenate([jnp.full_like(means[:, :1], jnp.nan), means[:, :-1]], 1)
    begun = ~jnp.isnan(_turned(before, plan))
    before = _turned(jnp.where(jnp.isnan(before), 0, before), plan)
    return jnp.where(there & begun, jnp.where(there, z, 0) - before, 0)


def _even(time, fading, plan):
    r"""Without gaps, $1 - s_t$ and $1 - \sum w_i^2$, of the shape (1, time, 1)."""
    t = np.arange(1, time + 1)[None, :, None]
    decay = 1 - fading.share
    if plan.debias:
        kept = fading.faded(t - 1) / fading.faded(t)
        return decay * kept, 2 * decay / (1 + decay) * kept
    return jnp.where(t > 1, decay, 0), 2 * decay / (1 + decay) * fading.faded(2 * (t - 1))


def _unbiased(product, shares, observed, fading):
    r"""An average by its own shares: with $u_t = 1 - \sum w_i^2$, each $s_t (2 - u_{t-1})$ over
    $(1 - s_t) u_{t-1} + 2 s_t$, of values over $2 - u_{t-1}$. A quotient would enlarge errors after a long gap.
    """
    nothing = jnp.zeros_like(shares[:, 0])
    left = associative(2 * shares * (1 - shares), shares * (2 - shares), nothing)
    left = jnp.concatenate([nothing[:, None], left[:, :-1]], 1)
    total = (1 - shares) * left + 2 * shares
    shares = _over(shares * (2 - left), total, False)
    covariances = associative(shares * product / (2 - left), shares, nothing)
    several = (jnp.cumsum(observed, 1) > 1) & (fading.share < 1)
    return jnp.where(several, covariances, jnp.nan)


def _over(x, divisor, undefined):
    """The quotient, with a derivative where the divisor is 0; there it is NaN, or else 0."""
    positive = divisor > 0
    return jnp.where(positive, x / jnp.where(positive, divisor, 1), jnp.nan if undefined else 0)


def _turned(x, plan):
    return jnp.flip(x, 1) if plan.reverse else x


def _root(variance):
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), variance)
