"""The arguments of averages of series: checked where the user wrote them, and brought into one form."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def check_array(leaf: Any) -> jax.Array:
    """One array of a series; integers as floats."""
    try:
        x = jnp.asarray(leaf)
    except (TypeError, ValueError) as error:
        raise TypeError(f"a series must be an array of numbers, got {type(leaf).__name__}; {error}") from error
    if x.ndim == 0:
        raise ValueError(
            f"a series must have an axis of time, got the scalar {leaf!r}; lists are trees of scalars, so make an "
            "array of one: jnp.array(x)."
        )
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)


def check_axis(axis: Any, x: jax.Array) -> int:
    """The axis, counted from 0."""
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise TypeError(f"axis must be an integer, got {axis!r} ({type(axis).__name__}); 0 is the first axis.")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must be from {-x.ndim} to {x.ndim - 1} for shape {x.shape}, got {axis}; 0 is the first.")
    return int(axis) % x.ndim


def without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """A shape without one of its axes."""
    return shape[:axis] + shape[axis + 1 :]


def spread(name: str, value: Any, structure: Any) -> list[Any]:
    """One value for each array: of a tree those at the same place, else the same for all; None stays None."""
    if value is None:
        return [None] * structure.num_leaves
    try:
        return jax.tree.leaves(jax.tree.broadcast(value, structure.unflatten(range(structure.num_leaves))))
    except ValueError as error:
        raise ValueError(f"{name} must be one for all arrays, or a tree like the series; {error}") from error


def broadcast(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """`value` as an array of that shape."""
    array = jnp.asarray(value)
    if dtype == bool and array.dtype != bool:
        raise TypeError(f"{name} must be boolean, got {array.dtype}; write {name}=array > 0, for example.")
    try:
        return jnp.broadcast_to(array.astype(dtype), shape)
    except ValueError as error:
        raise ValueError(f"{name} must broadcast to shape {shape}, got shape {array.shape}; add axes to it.") from error


def check_times(times: Any, length: int, before: Any, reverse: bool) -> tuple[jax.Array, jax.Array | None]:
    """How much time has passed before each value, in the order of the average, and the time of the last one."""
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
    if not isinstance(times, jax.core.Tracer) and not np.all(np.diff(np.asarray(times, np.float64)) >= 0):
        raise ValueError("times must not fall, and none may be NaN; sort them, and the series with them.")
    if length == 0:
        return jnp.zeros(0), before
    inside = jnp.abs(jnp.diff(times)) if isinstance(times, jax.Array) else np.diff(times.astype(np.float64))
    turned, inside = (times[::-1], inside[::-1]) if reverse else (times, inside)
    last, first = jnp.asarray(turned[-1]), jnp.asarray(turned[0])
    since = 1.0 if before is None else jnp.abs(first - before)
    return jnp.concatenate([jnp.asarray([since], float), jnp.asarray(inside, float)]), last
