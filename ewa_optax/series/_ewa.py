"""The exponentially weighted average of a series, along an axis of arrays."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ewa_optax._checks import checked
from ewa_optax._numerics import Number
from ewa_optax.series._arguments import EwaState, plan_of, read
from ewa_optax.series._sharding import layout_of, over_devices
from ewa_optax.series._times import in_terms


@checked
def ewa(
    x: Any,
    decay: Number,
    *,
    axis: int = 0,
    debias: bool = True,
    initial: Any = None,
    where: Any = None,
    missing: str = "decay",
    times: Any = None,
    reverse: bool = False,
    method: str | None = None,
) -> Any:
    r"""The exponentially weighted average of a series, at each of its steps.

    $$v_t = \beta v_{t-1} + (1 - \beta) x_t, \qquad \hat v_t = v_t / (1 - \beta^t)$$

    in the form $\hat v_t = \hat v_{t-1} + s_t (x_t - \hat v_{t-1})$, which keeps a constant series constant. Of pandas'
    `ewm(alpha=1 - decay)` it is the `mean`:

    | pandas | here |
    |---|---|
    | `adjust=True` | the default |
    | `adjust=False` | `debias=False, initial=x[0]`, or `initial=jnp.nan` where values may be missing |
    | `ignore_na=False`, `ignore_na=True` | `missing="decay"`, `missing="skip"` |
    | `span=`, `halflife=`, `com=` | `decay_from_span`, `decay_from_half_life`, `decay_from_center_of_mass` |
    | `times=`, `halflife=` | `times=`, `decay_from_half_life` in units of time |

    Args:
        x: an array, or a pytree of arrays that all have the axis. Float, complex, or integers of any size, which count
            as floats (but `jax.jit` narrows its arguments to 32 bits). A list of numbers is an array. NaN is a missing
            value, unless `where` says otherwise, and so is what is masked in a masked array. An infinity is a value,
            after which the average is infinite or NaN.
        decay: $\beta$ in [0, 1), a number or a scalar array: averages over about $1/(1-\beta)$ steps, or units of time.
        axis: the axis of time, of every array.
        debias: whether to divide by the sum of all weights. Without it the average starts from `initial` as if that had
            been the value for ever, and the past weighs 1 after each value. Only behind missing ones, its weight
            $\beta^k$ after $k$ steps, and that of the new value, $1 - \beta$, are divided by their sum.
        initial: the average before the first value: a number, an array that broadcasts to the shape of `x` without
            its axis, or a tree of them. None is 0, or, with `debias`, no past at all. NaN is no past: the average
            begins with the first value.
        where: which values are there, a boolean array that broadcasts to `x`, or a tree of them. Then NaN where it is
            True is a value, and spreads.
        missing: what a missing value means. `"decay"`: time goes on, so that weights count steps. `"skip"`: as if it
            had not been there, so that weights count values, and of `times`, the interval up to it is part of the next
            one: for lanes that are sampled at times of their own. Where one is missing, the average is that before it.
        times: for irregular samples, when each was taken: numbers in one dimension that do not fall. A decay then is
            per unit of time: times one unit apart are no times. Without `debias`, the own weight of a value is what
            fades since the row before it, $1 - \beta^p$ after a time $p$, in place of $1 - \beta$; that of the past,
            $\beta^k$, goes by the time since the last value. The first row counts as one unit after the past. NumPy
            arrays are subtracted in double precision.
        reverse: whether the average runs from the last value to the first.
        method: `"serial"`, `"associative"` or `"blocks"`, for trying out. None is by shape and device. On a CPU:
            blocks for up to two lanes (the product of the axes behind `axis`), serial from three on, and for gaps and
            `times`. Elsewhere: blocks, and associative for gaps and `times`. `"blocks"` are for series without gaps;
            of others it is the same as None.

    Returns:
        Averages of the shape and dtype of `x`, as JAX takes it: float64 is float32 unless
        `jax.config.update("jax_enable_x64", True)` came first, and integers are the default float. NaN as long as there
        is neither a past nor a value. Computed in float32 or wider. Differentiable in `x`, `decay` and `initial`; a
        missing value has the derivative 0.

    Raises:
        ValueError: a decay outside [0, 1), an axis or arrays of the wrong shape, an unknown `missing` or `method`,
            times that fall or are missing.
        TypeError: a decay that is no number, arrays or times that are not numeric.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import series
        >>> temperatures = jnp.array([40.0, 49.0, jnp.nan, 45.0])
        >>> print([f"{v:.2f}" for v in series.ewa(temperatures, 0.9)])
        ['40.00', '44.74', '44.74', '44.84']
        >>> decay = series.decay_from_half_life(3.0)
        >>> print([f"{v:.2f}" for v in series.ewa(temperatures, decay, times=jnp.array([1, 2, 3, 10]))])
        ['40.00', '45.02', '45.02', '45.00']

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Exponentially weighted averages" and "Bias
        correction"; `pandas.DataFrame.ewm`.
    """
    plan = plan_of(debias, reverse, missing, method)
    request = read("ewa", x, decay, plan, state=None, axis=axis, initial=initial, where=where, times=times)
    return _along(request, plan)[0]


@checked
def ewa_with_state(
    x: Any,
    decay: Number,
    state: EwaState | None = None,
    *,
    axis: int = 0,
    debias: bool = True,
    initial: Any = None,
    where: Any = None,
    missing: str = "decay",
    times: Any = None,
    reverse: bool = False,
    method: str | None = None,
) -> tuple[Any, EwaState]:
    r"""The same of a series that comes in pieces: each call takes the state of the one before.

    The pieces together are the average of the whole, up to rounding.

    Args:
        x: a piece of the series, of any length along `axis`, 0 too (but the first one with `times`).
        decay: $\beta$ in [0, 1), as in `ewa`.
        state: what the piece before returned; None begins. (A state to begin `jax.lax.scan` with is that of an empty
            piece, `x[:0]`.)
        axis: the axis of time.
        debias: as in `ewa`; the same for all pieces.
        initial: as in `ewa`, for the first piece.
        where: which values are there, as in `ewa`.
        missing: as in `ewa`.
        times: as in `ewa`, on one clock for all pieces. Between pieces the last one is kept with all its digits, those
            of double precision and of integers of 64 bits: NumPy's seconds since the first one or since 1970, or
            nanoseconds. Arrays of JAX, narrowed to 32 bits before, are taken at their word.
        reverse: whether a piece runs backwards, and the next one is that before it.
        method: as in `ewa`.

    Returns:
        The averages, and the state.

    Raises:
        ValueError: as `ewa`; a state of another shape, with or without times; an `initial` beside a state.
        TypeError: as `ewa`; a state that is none.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import series
        >>> state = None
        >>> for piece in jnp.split(jnp.arange(6.0), 2):
        ...     averages, state = series.ewa_with_state(piece, 0.5, state)
        ...     print([f"{v:.3f}" for v in averages])
        ['0.000', '0.667', '1.429']
        ['2.267', '3.161', '4.095']

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Understanding exponentially weighted averages".
    """
    plan = plan_of(debias, reverse, missing, method)
    request = read("ewa_with_state", x, decay, plan, state=state, axis=axis, initial=initial, where=where, times=times)
    y, average, weight, waiting = _along(request, plan)
    last = None if request.time is None else in_terms(request.time)
    return y, EwaState(average, weight, last, waiting if plan.skip and times is not None else None)


def _along(request, plan):
    found = [_averages(part, axis=axis, plan=plan, layout=layout_of(part.x)) for part, axis in request.parts]
    return [request.structure.unflatten([each[i] for each in found]) for i in range(4)]


@functools.partial(jax.jit, static_argnames=("axis", "plan", "layout"))
def _averages(part, *, axis, plan, layout):
    y, average, weight = part.x, part.average, part.weight
    if y.size:
        y, average, weight = over_devices(part, axis, plan, layout)
    waiting = part.waiting
    if waiting is not None:
        waiting &= ~(~jnp.isnan(part.x) if part.observed is None else part.observed).any(axis)
    return y, jnp.where(weight > 0, average, jnp.nan), weight, waiting
