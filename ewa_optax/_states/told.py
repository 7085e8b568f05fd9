"""What an optimizer tells of its state, with nothing allocated for it."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import jax
import jax.numpy as jnp
import optax

from ewa_optax._stacks import is_stacked
from ewa_optax._states.parts import OTHER, SCHEDULE, STEP, Divided, New, Part, in_parts, is_state
from ewa_optax._wrappers.accumulate import AccumulateState
from ewa_optax._wrappers.spikes import SkipSpikesState
from ewa_optax._wrappers.watch import WatchState
from ewa_optax.pieces._parameter_average import AverageParametersState
from ewa_optax.storage._encoding import Encoded
from ewa_optax.storage._pruned import of_some
from ewa_optax.storage._telling import Kept, telling

_BEGIN: Final = (WatchState, SkipSpikesState, AccumulateState, AverageParametersState)
"""What changes no step of what it is put around or behind, as long as it knows nothing."""


def last_step(state: Any) -> jax.Array:
    """The number of updates so far, by the first schedule in a state, or else its first count; 0 without any."""
    steps = [part.value for part in _all_parts(state) if part.role == SCHEDULE]
    steps += [part.value for part in _all_parts(state) if part.role == STEP]
    return jnp.asarray(steps[0] if steps else 0, jnp.int32)


def _all_parts(state: Any) -> Iterator[Part]:
    for x in in_parts("", state)[1]:
        if x.role == OTHER and isinstance(x.value, tuple | dict):
            inner = x.value.values() if isinstance(x.value, dict) else x.value
            yield from itertools.chain.from_iterable(map(_all_parts, inner))
        else:
            yield x


def told_by(optimizer: optax.GradientTransformation, params: Any, step: jax.Array) -> Any:
    """What `init` tells, as shapes; single numbers, such as rates and decays, as they are."""
    abstract = jax.eval_shape(lambda params: params, params)

    def numbers(step):
        with telling(step):
            told = optimizer.init(jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), abstract))
        leaves = jax.tree.leaves(told, is_leaf=is_kept)
        return {i: x for i, x in enumerate(map(_single, leaves)) if x is not None}, told

    some, shapes = of_some(numbers, step)
    given, structure = jax.tree.flatten(shapes, is_leaf=is_kept)
    found = some(step)

    def filled(x, number):
        if not is_kept(x) or number is None:
            return x if number is None else number
        return x.with_decay(number)

    return structure.unflatten([filled(x, found.get(i)) for i, x in enumerate(given)])


def _single(x):
    """Of an average, the decay if that is an array; what is one number."""
    number = x.decay if is_kept(x) else x
    return number if isinstance(number, jax.Array) and number.ndim == 0 else None


def is_kept(x: Any) -> bool:
    """Whether it is what a piece of this library tells of its averages."""
    return isinstance(x, Kept)


def with_what_begins(told: Any, state: Any, begin: Callable[[], Any]) -> Any:
    """What is told, with marks where `state` has nothing of the kind: at wrappers that `begin`, and at partitions."""
    new = tuple(kind for kind in _BEGIN if _has(told, kind) and not _has(state, kind))
    if AccumulateState in new and _has(state, optax.MultiStepsState):
        new = tuple(kind for kind in new if kind is not AccumulateState)
    is_divided = not _has(state, optax.transforms.PartitionState)

    def marked(told, begun):
        if isinstance(told, new):
            if isinstance(told, AverageParametersState):
                return New(begun, optax.EmptyState())
            inner = marked(told.inner_state, begun.inner_state)
            if isinstance(told, AccumulateState):  # By which its schedule goes.
                begun = begun._replace(step=last_step(state))
            return New(begun._replace(inner_state=None), inner)
        parts = through(marked, told, begun)
        return Divided(parts) if is_divided and isinstance(told, optax.transforms.PartitionState) else parts

    return marked(told, begin() if new else told)


def with_what_has_begun(made: Any) -> Any:
    """The wrappers in place of their marks."""
    if not isinstance(made, New):
        return through(with_what_has_begun, made)
    if isinstance(made.begun, AverageParametersState):
        return made.begun
    return made.begun._replace(inner_state=with_what_has_begun(made.inner_state))


def through(function: Callable[..., Any], state: Any, *others: Any) -> Any:
    """A chain or a wrapper, of what the function makes of each state in it, and of those in others like it."""
    if is_state(state):
        return type(state)(*map(function, state, *others))
    if type(state) in (tuple, list):
        return type(state)(map(function, state, *others))
    if type(state) is dict:
        return {name: function(x, *(other[name] for other in others)) for name, x in state.items()}
    return state


def _has(state, kind):
    return any(isinstance(x, kind) for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind)))


def alike(source: Any, told: Any) -> bool:
    """Whether two states are of one kind, so that each part of one is that of the other."""
    if is_kept(told):
        return not is_state(source) or isinstance(source, Encoded)
    if is_stacked(source) or is_stacked(told):
        return True
    if source is None or told is None:  # Such as the step of an average, which only a storage needs.
        return source is told
    if isinstance(source, AverageParametersState) and isinstance(told, AverageParametersState):
        return True
    if is_state(told) or type(told) in (tuple, list):
        same = type(source) is type(told) and len(source) == len(told)
        return same and all(map(alike, source, told))
    if isinstance(told, dict):
        return isinstance(source, dict)
    return not is_state(source)
