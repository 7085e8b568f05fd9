"""What an optimizer tells of its state, with nothing allocated for it."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ewa_optax._states.parts import OTHER, SCHEDULE, STEP, Part, in_parts
from ewa_optax.storage._pruned import of_some
from ewa_optax.storage._telling import Kept, telling


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
