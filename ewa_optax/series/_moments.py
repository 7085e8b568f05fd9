"""Exponentially weighted variances, deviations and covariances of series."""

from typing import Any

import jax.numpy as jnp

from ewa_optax._numerics import Number
from ewa_optax.series._arguments import plan_of, read
from ewa_optax.series._covariance import Kind, covariance
from ewa_optax.series._sharding import layout_of


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
        >>> print([f"{v:.3f}" for v in series.ewa_cov(x, -2 * x, 0.5)])
        ['nan', '-1.000', '-5.000', '-2.143']

    Reference:
        `pandas.DataFrame.ewm`; Finch, "Incremental calculation of weighted mean and variance", 2009.
    """
    plan = plan_of(debias, reverse, missing, method)
    return _covariances("ewa_cov", [x, y], decay, plan, Kind(bool(bias), False), axis=axis, where=where, times=times)


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
        >>> print([f"{v:.3f}" for v in series.ewa_var(jnp.array([1.0, 2.0, 4.0, 3.0]), 0.5)])
        ['nan', '0.500', '2.500', '1.071']

    Reference:
        `pandas.DataFrame.ewm`; Finch, "Incremental calculation of weighted mean and variance", 2009.
    """
    plan = plan_of(debias, reverse, missing, method)
    return _covariances("ewa_var", [x], decay, plan, Kind(bool(bias), False), axis=axis, where=where, times=times)


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
        y = other[0][0].x if other else None
        for z in (part.x,) if y is None else (part.x, y):
            if jnp.iscomplexobj(z):
                raise TypeError(f"x and y must be real, got {z.dtype}; take the parts that you mean.")
        layout = layout_of(part.x) or (None if y is None else layout_of(y))
        found.append(covariance(part, y, axis=axis, plan=plan, kind=kind, layout=layout))
    return requests[0].structure.unflatten(found)
