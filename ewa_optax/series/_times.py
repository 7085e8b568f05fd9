"""When the values of a series were taken, and so how much time passes from one to the next."""

from typing import Any

import jax.core
import jax.numpy as jnp
import numpy as np


def passed_between(
    times: Any, lengths: set[int], begun: bool, before: jax.Array | None, reverse: bool
) -> tuple[jax.Array | None, Any]:
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
    inside = jnp.asarray(np.diff(times) if isinstance(times, np.ndarray) else jnp.diff(times), float)
    first, last = (times[-1], times[0]) if reverse else (times[0], times[-1])
    since = 1.0
    if before is not None:
        since = before - first if reverse else first - before
        if not isinstance(since, jax.core.Tracer) and since < 0:
            raise ValueError(f"times must not fall, but {first} comes after {before} of the piece before; sort them.")
    since = jnp.asarray([since], float)
    return jnp.concatenate([inside, since] if reverse else [since, inside]), last


def kept_time(time: Any) -> jax.Array | None:
    """A time as an array of JAX, for a state."""
    if isinstance(time, np.number) and abs(float(time) - float(jnp.asarray(time))) > 1e-3:
        raise ValueError(
            f"times must fit {jnp.asarray(time).dtype} between pieces, got {time}; subtract the first of all."
        )
    return None if time is None else jnp.asarray(time)


def _check(times, length):
    times = times if isinstance(times, jax.Array) else np.asarray(times)
    if times.dtype.kind in "mM":
        raise TypeError(
            f"times must be numbers, got {times.dtype}; count in a unit of time, such as days: "
            "(times - times[0]) / numpy.timedelta64(1, 'D')."
        )
    if times.dtype.kind not in "iuf" and not jnp.issubdtype(times.dtype, jnp.floating):
        raise TypeError(f"times must be numbers, got {times.dtype}; count in a unit of time, such as days.")
    if times.shape != (length,):
        raise ValueError(f"times must have shape {(length,)}, one for each value along the axis, got {times.shape}.")
    if times.dtype.kind in "iu":
        # Differences of shorter or unsigned integers wrap round.
        times = times.astype(np.int64) if isinstance(times, np.ndarray) else times.astype(int)
    if not isinstance(times, jax.core.Tracer) and not np.all(np.diff(np.asarray(times)) >= 0):
        raise ValueError("times must not fall, and none may be NaN; sort them, and the series with them.")
    return times
