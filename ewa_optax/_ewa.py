r"""The exponentially weighted average of a series, along an axis of arrays."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ewa_optax._checks import DECAY, check, check_choice
from ewa_optax._numerics import Number, wide_dtype
from ewa_optax._recurrence import Fading
from ewa_optax._running import METHODS, running
from ewa_optax._series_arguments import broadcast, check_array, check_axis, check_times, spread, without
from ewa_optax._shares import Gaps, Plan

MISSING = ("decay", "skip")


class EwaState(NamedTuple):
    """What an average carries on from one piece of a series to the next.

    The last average (NaN before the first value), the weight of the past (0 before the first value), and, with
    `times=`, the last time; trees like the series, without its axis, in float32 or wider.
    """

    average: Any
    weight: Any
    time: jax.Array | None


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
        x: an array, or a pytree of arrays that all have the axis. Float, complex, or integers, which count as floats.
            NaN is a missing value, unless `where` says otherwise. Infinities are values.
        decay: $\beta$ in [0, 1), a number or a scalar array: averages over about $1/(1-\beta)$ steps, or units of time.
        axis: the axis of time, of every array.
        debias: whether to divide by the sum of the weights. Without it the average starts from `initial` as if that had
            been the value for ever.
        initial: the average before the first value: a number, an array that broadcasts to the shape of `x` without
            its axis, or a tree of them. None is 0, or, with `debias`, no past at all. NaN is no past: the average
            begins with the first value.
        where: which values are there, a boolean array that broadcasts to `x`, or a tree of them. Then NaN where it is
            True is a value, and spreads.
        missing: what a missing value means. `"decay"`: time goes on, so that weights count steps. `"skip"`: as if it
            had not been there, so that weights count values. Where one is missing, the average is that before it.
        times: for irregular samples, when each was taken: numbers in one dimension that do not fall. A decay then is
            per unit of time, and without `debias` the share of a value is what has faded since the last one; the first
            one counts as one unit after the past. NumPy arrays are subtracted in double precision.
        reverse: whether the average runs from the last value to the first.
        method: `"serial"`, `"associative"` or `"blocks"`, for trying out. None is by shape and device. On a CPU:
            blocks for up to two lanes (the product of the axes behind `axis`), serial from three on, and for gaps and
            `times`. Elsewhere: blocks, and associative for gaps and `times`. Blocks of a series with gaps are what
            None is.

    Returns:
        Averages of the shape and dtype of `x` (integers give the default float); NaN as long as there is neither a past
        nor a value. Computed in float32 or wider. Differentiable in `x`, `decay` and `initial`; a missing value has the
        derivative 0.

    Raises:
        ValueError: a decay outside [0, 1), an axis or arrays of the wrong shape, an unknown `missing` or `method`,
            times that fall or are missing.
        TypeError: a decay that is no number, arrays or times that are not numeric.

    Example:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import series
        >>> temperatures = jnp.array([40.0, 49.0, jnp.nan, 45.0])
        >>> print(series.ewa(temperatures, 0.9))
        [40.       44.736843 44.736843 44.83934 ]
        >>> print(series.ewa(temperatures, series.decay_from_half_life(3.0), times=jnp.array([1, 2, 3, 10])))
        [40.       45.017338 45.017338 45.003227]

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Exponentially weighted averages" and "Bias
        correction"; `pandas.DataFrame.ewm`.
    """
    return ewa_with_state(
        x,
        decay,
        None,
        axis=axis,
        debias=debias,
        initial=initial,
        where=where,
        missing=missing,
        times=times,
        reverse=reverse,
        method=method,
    )[0]


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
        x: a piece of the series, of any length along `axis`, 0 too.
        decay: $\beta$ in [0, 1), as in `ewa`.
        state: what the piece before returned; None begins.
        axis: the axis of time.
        debias: as in `ewa`; the same for all pieces.
        initial: as in `ewa`, for the first piece.
        where: which values are there, as in `ewa`.
        missing: as in `ewa`.
        times: as in `ewa`, on one clock for all pieces. Between pieces they are kept as JAX keeps such an array:
            integers exactly, if 32 bits hold them, floats in float32.
        reverse: whether a piece runs backwards, and the next one is that before it.
        method: as in `ewa`.

    Returns:
        The averages, and the state.

    Raises:
        ValueError: as `ewa`; a state of another shape, with or without times; an `initial` beside a state.
        TypeError: as `ewa`; a state that is none.

    Example:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import series
        >>> state = None
        >>> for piece in jnp.split(jnp.arange(6.0), 2):
        ...     averages, state = series.ewa_with_state(piece, 0.5, state)
        ...     print(averages)
        [0.        0.6666667 1.4285715]
        [2.2666667 3.161291  4.095238 ]

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Understanding exponentially weighted averages".
    """
    check("ewa", "decay", decay, DECAY)
    check_choice("missing", missing, MISSING)
    check_choice("method", method, (None, *METHODS))
    leaves, structure = jax.tree.flatten(x)
    leaves = [check_array(leaf) for leaf in leaves]
    axes = [check_axis(axis, leaf) for leaf in leaves]
    plan = Plan(bool(debias), bool(reverse), missing == "skip", method)
    passed, last = _passed(times, state, leaves, axes, plan)
    pasts = _pasts(state, initial, leaves, axes, structure, plan)
    found = [
        _averages(leaf, *past, _observed(there, leaf), passed, _fading(decay, leaf), axis=axis, plan=plan)
        for leaf, axis, past, there in zip(leaves, axes, pasts, spread("where", where, structure), strict=True)
    ]
    y, average, weight = (structure.unflatten([each[i] for each in found]) for i in range(3))
    return y, EwaState(average, weight, last)


@functools.partial(jax.jit, static_argnames=("axis", "plan"))
def _averages(x, average, weight, observed, passed, fading, *, axis, plan):
    shape = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    y = x
    if 0 not in shape:
        observed = None if observed is None else observed.reshape(shape)
        lanes = shape[0], shape[2]
        past = average.reshape(lanes), weight.reshape(lanes)
        y, average, weight = running(x.reshape(shape), *past, fading, Gaps(observed, passed), plan, x.dtype)
    average = jnp.where(weight > 0, average, jnp.nan)
    outer = without(x.shape, axis)
    return y.reshape(x.shape), average.reshape(outer), weight.reshape(outer)


def _passed(times, state, leaves, axes, plan):
    before = state.time if isinstance(state, EwaState) else None
    if times is None:
        if before is not None:
            raise ValueError("times must go on where the state was made with times, got None; give those of this piece.")
        return None, None
    if isinstance(state, EwaState) and before is None:
        raise ValueError("times must be None where the state was made without times; begin with state=None.")
    lengths = {leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True)}
    if len(lengths) > 1:
        raise ValueError(f"times must be those of all arrays, whose lengths are {sorted(lengths)}; make a call for each.")
    return check_times(times, lengths.pop() if lengths else len(times), before, plan.reverse)


def _pasts(state, initial, leaves, axes, structure, plan):
    """Average and weight of the past, for each array."""
    shapes = [without(leaf.shape, axis) for leaf, axis in zip(leaves, axes, strict=True)]
    dtypes = [wide_dtype(leaf.dtype) for leaf in leaves]
    if state is not None:
        return _continued(state, initial, shapes, dtypes, structure)
    pasts = []
    for value, shape, dtype in zip(spread("initial", initial, structure), shapes, dtypes, strict=True):
        known = value is not None or not plan.debias
        average = broadcast("initial", 0.0 if value is None else value, shape, dtype)
        weight = jnp.where(jnp.isnan(average), 0, float(known)).astype(_real(dtype))
        pasts.append((average, weight))
    return pasts


def _continued(state, initial, shapes, dtypes, structure):
    if not isinstance(state, EwaState):
        raise TypeError(f"state must be an EwaState, got {type(state).__name__}; pass on what the call before returned.")
    if initial is not None:
        raise ValueError("initial must be None beside a state, which holds the average so far; give it to the first piece.")
    found = [jax.tree.leaves(tree) for tree in (state.average, state.weight)]
    if any(jax.tree.structure(tree) != structure for tree in state[:2]) or [v.shape for v in found[0]] != shapes:
        raise ValueError(
            f"a state of shapes {[v.shape for v in found[0]]} came for series of shapes {shapes} (without their axis); "
            "pieces differ in length only."
        )
    return [(v.astype(dtype), w.astype(_real(dtype))) for v, w, dtype in zip(*found, dtypes, strict=True)]


def _observed(where, leaf):
    return None if where is None else broadcast("where", where, leaf.shape, bool)


def _fading(decay, leaf):
    return Fading.of(decay, _real(wide_dtype(leaf.dtype)))


def _real(dtype):
    return jnp.finfo(dtype).dtype
