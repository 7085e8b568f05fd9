"""When values were taken: the time between them, and the last time, which a state keeps with all its digits.

Times of seconds over a week with milliseconds, or of nanoseconds since 1970, do not fit one float32, their differences
do. So differences are taken in double precision where times are known, and between pieces a time is three float32 whose
sum it is: as many digits as an integer of 64 bits has, the same for all kinds of times, and with or without x64.
"""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from ewa_optax._numerics import wide_dtype
from ewa_optax.series._arrays import given, masked

TERMS = 3


def passed_between(
    times: Any, lengths: set[int], begun: bool, before: jax.Array | None, reverse: bool
) -> tuple[Any, Any]:
    """The time between each value and the one before it in the average, and the time of the last; None without times.

    `before` is the time of the value before the first, where the series has `begun`; else that is one unit before it.
    """
    if times is None:
        if before is not None:
            raise ValueError(
                "times must go on where the state was made with times, got None; give those of this piece."
            )
        return None, None
    if begun and before is None:
        raise ValueError("times must be None where the state was made without times; begin with state=None.")
    if len(lengths) > 1:
        raise ValueError(
            f"times must be those of all arrays, but their lengths are {sorted(lengths)}; call once for each."
        )
    times = _check(times, next(iter(lengths)) if lengths else len(times))
    if times.size == 0:
        if before is None:
            raise ValueError("times must be of one value at least in a first piece; begin with the first values.")
        return jnp.zeros(0), before
    first, last = (times[-1], times[0]) if reverse else (times[0], times[-1])
    since = 1.0 if before is None else _apart(first, before, -1 if reverse else 1)
    if isinstance(times, np.ndarray):
        inside, xp = np.diff(times), np if isinstance(since, float) else jnp
    else:
        inside, xp = jnp.diff(times), jnp
    dtype = jnp.result_type(float)
    inside, since = xp.asarray(inside, dtype), xp.asarray([since], dtype)
    return jnp.asarray(xp.concatenate([inside, since] if reverse else [since, inside])), last


def in_terms(time: Any) -> jax.Array:
    """The time as a sum of float32, the largest first, if it is none yet."""
    if np.ndim(time):
        return jnp.asarray(time)
    if isinstance(time, jax.core.Tracer):
        return _traced_in_terms(time)
    rest, terms = time.item(), []
    if not abs(rest) <= np.finfo(np.float32).max:
        raise ValueError(f"times must be finite and fit float32 between pieces, got {time}; count in another unit.")
    for _ in range(TERMS):
        terms.append(float(np.float32(rest)))
        rest -= type(rest)(terms[-1])
    return jnp.asarray(np.array(terms, np.float32))


def _traced_in_terms(time):
    """The same of a time that is not known yet; integers by halves, which floats hold in full."""
    wide = jnp.result_type(float)
    high, low = time, jnp.zeros_like(time)
    if jnp.issubdtype(time.dtype, jnp.integer):
        half = jnp.iinfo(time.dtype).bits // 2
        high = (time >> half) << half
        low = time - high
    high, low = high.astype(wide), low.astype(wide)
    first = (high + low).astype(jnp.float32)
    rest = low - (first.astype(wide) - high)
    second = rest.astype(jnp.float32)
    return jnp.stack([first, second, (rest - second.astype(wide)).astype(jnp.float32)])


def _apart(first, before, sign):
    """How long after the time `before` the first one is; a float if both are known."""
    terms, before = in_terms(first), in_terms(before)
    if isinstance(terms, jax.core.Tracer) or isinstance(before, jax.core.Tracer):
        apart = terms.astype(float) - before.astype(float)
        return sign * ((apart[0] + apart[1]) + apart[2])
    apart = np.asarray(terms, np.float64) - np.asarray(before, np.float64)
    since = sign * float(apart.sum())
    if since < 0:
        total = np.asarray(before, np.float64).sum()
        raise ValueError(
            f"times must not fall, but {first} comes after {total:.17g} of the piece before; sort them, and the pieces."
        )
    return since


def _check(times, length):
    """Times as an array of floats or integers, of NumPy if they are known, and wide enough to be subtracted."""
    kind = getattr(times, "dtype", None)
    if isinstance(kind, np.dtype) and kind.kind in "mM":
        raise TypeError(
            f"times must be numbers, got {kind}; count in a unit of time, such as days: "
            "(times - times[0]) / numpy.timedelta64(1, 'D')."
        )
    try:
        times = given("times", times) if np.size(times) else np.zeros(0)
    except TypeError as error:
        kind = kind or type(times).__name__
        raise TypeError(f"times must be numbers, got {kind}; count in a unit of time, such as days.") from error
    if jnp.iscomplexobj(times) or times.dtype == bool:
        raise TypeError(f"times must be numbers, got {times.dtype}; count in a unit of time, such as days.")
    if masked(times) is not None:
        raise ValueError(
            f"times must not be masked, got {masked(times).sum()} masked; leave out those rows: times.compressed(), "
            "and x[~times.mask]."
        )
    if times.shape != (length,):
        raise ValueError(f"times must have shape {(length,)}, one for each value along the axis, got {times.shape}.")
    whole = jnp.issubdtype(times.dtype, jnp.integer)
    if isinstance(times, jax.core.Tracer):
        # Differences of shorter integers wrap round.
        short = whole and jnp.iinfo(times.dtype).bits < 32
        return times.astype(jnp.int32 if short else wide_dtype(times.dtype))
    times = np.ma.getdata(times) if isinstance(times, np.ma.MaskedArray) else np.asarray(times)
    times = times if times.dtype == np.uint64 else times.astype(np.int64 if whole else np.float64)
    falls = times[1:] < times[:-1]
    if falls.any() or np.isnan(times).any():
        raise ValueError("times must not fall, and none may be NaN; sort them, and the series with them.")
    return times
