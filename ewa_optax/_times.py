"""When the values of a series were taken, and so how much time passes from one to the next."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def passed_between(
    times: Any, lengths: set[int], begun: bool, before: jax.Array | None, reverse: bool
) -> tuple[jax.Array | None, jax.Array | None]:
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
        return jnp.zeros(0), before
    inside = jnp.diff(times) if isinstance(times, jax.Array) else np.diff(times)
    first, last = (jnp.asarray(times[i]) for i in ((-1, 0) if reverse else (0, -1)))
    since = jnp.asarray([1.0 if before is None else jnp.abs(first - before)], float)
    inside = jnp.asarray(inside, float)
    return jnp.concatenate([inside, since] if reverse else [since, inside]), last


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
    if times.dtype.kind == "u":
        times = times.astype(int)  # Whose differences do not wrap round.
    if not isinstance(times, jax.core.Tracer) and not np.all(np.diff(np.asarray(times)) >= 0):
        raise ValueError("times must not fall, and none may be NaN; sort them, and the series with them.")
    return times
