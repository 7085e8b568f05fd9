"""The arguments of averages of series: checked where the user wrote them, and brought into one form."""

import math
from typing import Any, NamedTuple

import jax.core
import jax.numpy as jnp
import numpy as np

from ewa_optax._checks import Decay, check, check_choice
from ewa_optax._numerics import Number, wide_dtype
from ewa_optax.series._arrays import floats, given, is_list, masked
from ewa_optax.series._plan import METHODS, Fading, Gaps, Plan
from ewa_optax.series._times import passed_between

LONGEST = 2**31 - 2**16
"""So that loops can count places in integers of 32 bits."""


class EwaState(NamedTuple):
    """What an average carries on from one piece of a series to the next.

    The last average (NaN before the first value), the weight of the past (0 before the first value), and, with
    `times=`, the last time, as three float32 whose sum it is. The first two are trees like the series, without its
    axis, in float32 or wider. With `times=` and `missing="skip"` there is such a tree of what is still `waiting` for
    its first value.
    """

    average: Any
    weight: Any
    time: jax.Array | None
    waiting: Any = None


class Part(NamedTuple):
    """One array of a series, what comes before it, and what it has of gaps."""

    x: jax.Array
    average: jax.Array
    weight: jax.Array
    observed: Any
    passed: jax.Array | None
    waiting: Any
    fading: Fading


class Request(NamedTuple):
    """All arrays of a series, each with its axis of time; how their tree is made; and the last time."""

    parts: list[tuple[Part, int]]
    structure: Any
    time: Any


def plan_of(debias: Any, reverse: Any, missing: Any, method: Any) -> Plan:
    """The options that are no arrays."""
    check_choice("missing", missing, ("decay", "skip"))
    check_choice("method", method, (None, *METHODS))
    return Plan(bool(debias), bool(reverse), missing == "skip", method)


def read(
    function: str, x: Any, decay: Number, plan: Plan, *, state: Any, axis: int, initial: Any, where: Any, times: Any
) -> Request:
    """The arguments of an average, checked; `function` is what the user called."""
    known = isinstance(decay, jax.Array) and not isinstance(decay, jax.core.Tracer) and decay.shape == ()
    check(function, "decay", float(decay) if known else decay, Decay)
    leaves, structure = jax.tree.flatten(np.zeros(0) if type(x) is list and not x else x, is_list)
    leaves = [given("a series", leaf) for leaf in leaves]
    masks = [masked(leaf) for leaf in leaves]
    leaves = [check_array(leaf) for leaf in leaves]
    axes = [check_axis(axis, leaf) for leaf in leaves]
    for leaf, time in zip(leaves, axes, strict=True):
        if math.prod(leaf.shape[time:]) > LONGEST:
            raise ValueError(
                f"a series must have at most {LONGEST} values (with those beside it in memory) in one piece, got shape "
                f"{leaf.shape}; take it in pieces by ewa_with_state."
            )
    if not (state is None or isinstance(state, EwaState)):
        raise TypeError(
            f"state must be an EwaState, got {type(state).__name__}; pass on what the call before returned."
        )
    lengths = {leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True)}
    passed, last = passed_between(times, lengths, state is not None, state and state.time, plan.reverse)
    shapes = [without(leaf.shape, axis) for leaf, axis in zip(leaves, axes, strict=True)]
    pasts = (
        _begun(initial, leaves, shapes, structure, plan)
        if state is None
        else _continued(state, initial, leaves, shapes, structure)
    )
    there = [_observed(*each) for each in zip(spread("where", where, structure), leaves, masks, strict=True)]
    waiting = _waiting(state, shapes) if plan.skip and times is not None else [None] * len(leaves)
    parts = [
        (Part(leaf, *past, observed, passed, still, Fading.of(decay, _real(leaf))), axis)
        for leaf, past, observed, still, axis in zip(leaves, pasts, there, waiting, axes, strict=True)
    ]
    return Request(parts, structure, last)


def in_three_axes(part: Part, axis: int, plan: Plan) -> tuple[jax.Array, jax.Array, jax.Array, Gaps]:
    """The array as (series, time, lanes), its past as (series, lanes), and its gaps."""
    x = part.x
    shape = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    lanes = shape[0], shape[2]
    observed = None if part.observed is None else part.observed.reshape(shape)
    passed = part.passed[::-1] if plan.reverse and part.passed is not None else part.passed
    waiting = None if part.waiting is None else part.waiting.reshape(lanes)
    return x.reshape(shape), part.average.reshape(lanes), part.weight.reshape(lanes), Gaps(observed, passed, waiting)


def check_array(leaf: Any) -> jax.Array:
    """One array of a series, in floats."""
    if leaf.ndim == 0:
        raise ValueError(
            f"a series must have an axis of time, got the scalar {leaf}; make an array: [x] of one value, and in lists "
            "of numbers write NaN for a missing one."
        )
    return jnp.asarray(floats(leaf))


def check_axis(axis: Any, x: jax.Array) -> int:
    """The axis, counted from 0."""
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise TypeError(f"axis must be an integer, got {axis!r} ({type(axis).__name__}); 0 is the first axis.")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"axis must be from {-x.ndim} to {x.ndim - 1} for shape {x.shape}, got {axis}; 0 is the first."
        )
    return int(axis) % x.ndim


def without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """A shape without one of its axes."""
    return shape[:axis] + shape[axis + 1 :]


def spread(name: str, value: Any, structure: Any) -> list[Any]:
    """One value for each array: of a tree those at the same place, else the same for all; None stays None."""
    if value is None:
        return [None] * structure.num_leaves
    whole = structure.unflatten(range(structure.num_leaves))
    # A tree like the series; one that is less deep; and then lists are arrays.
    ways = lambda x: x, lambda x: jax.tree.broadcast(x, whole), lambda x: jax.tree.broadcast(x, whole, is_list)
    reason = None
    for way in ways:
        try:
            return structure.flatten_up_to(way(value))
        except ValueError as error:
            reason = error
    raise ValueError(f"{name} must be one for all arrays, or a tree like the series; {reason}") from reason


def fitting(name: str, array: Any, shape: tuple[int, ...]) -> Any:
    """The array, which must broadcast to that shape."""
    try:
        fits = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must broadcast to shape {shape}, got shape {array.shape}; add or drop axes of it.")
    return array


def _begun(initial, leaves, shapes, structure, plan):
    """Average and weight of the past before the first value."""
    pasts = []
    for value, leaf, shape in zip(spread("initial", initial, structure), leaves, shapes, strict=True):
        known = value is not None or not plan.debias
        average = floats(fitting("initial", given("initial", 0.0 if value is None else value), shape))
        if jnp.iscomplexobj(average) and not jnp.iscomplexobj(leaf):
            raise TypeError(f"initial must be real for a real series, got {value!r}; take the part that you mean.")
        average = jnp.broadcast_to(jnp.asarray(average, wide_dtype(leaf.dtype)), shape)
        pasts.append((average, jnp.where(jnp.isnan(average), 0, float(known)).astype(_real(leaf))))
    return pasts


def _continued(state, initial, leaves, shapes, structure):
    if initial is not None:
        raise ValueError(
            "initial must be None beside a state, which holds the average so far; give it to the first piece."
        )
    averages, weights = (jax.tree.leaves(tree) for tree in state[:2])
    found = [v.shape for v in averages]
    if any(jax.tree.structure(tree) != structure for tree in state[:2]) or found != shapes:
        raise ValueError(
            f"a state of shapes {found} came for series of shapes {shapes} (without their axis), or of another tree; "
            "pieces differ in length only."
        )
    wide = [(wide_dtype(leaf.dtype), _real(leaf)) for leaf in leaves]
    return [(v.astype(kinds[0]), w.astype(kinds[1])) for v, w, kinds in zip(averages, weights, wide, strict=True)]


def _waiting(state, shapes):
    """Which lanes have had no value yet; a state that does not say so was made where their clock was running."""
    if state is None:
        return [np.ones(shape, bool) for shape in shapes]
    return [np.zeros(shape, bool) for shape in shapes] if state.waiting is None else jax.tree.leaves(state.waiting)


def _observed(where, leaf, mask):
    """Where values are there, if that is told: none that is masked, and none for which `where` itself is."""
    if where is None:
        return None
    there = fitting("where", given("where", where), leaf.shape)
    if there.dtype != bool:
        raise TypeError(f"where must be boolean, got {there.dtype}; write where=array > 0, for example.")
    there = there.filled(False) if isinstance(there, np.ma.MaskedArray) else there
    there = there if mask is None else there & ~mask
    return jnp.broadcast_to(there, leaf.shape) if isinstance(there, jax.Array) else np.broadcast_to(there, leaf.shape)


def _real(leaf):
    return jnp.finfo(wide_dtype(leaf.dtype)).dtype
