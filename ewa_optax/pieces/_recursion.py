"""Recursions over the updates of all steps that keep one array per parameter: what most averages are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._numerics import Number, increment, lerp, narrow, widen
from ewa_optax._trees import Leafwise, map_leaves
from ewa_optax.storage._argument import Chosen, resolve
from ewa_optax.storage._encoding import Keeper, zeros_like

Advance = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, jax.Array]]


class RecursionState(NamedTuple):
    """The number of updates so far, int32, and the average (or maximum, or last value) of each leaf, as it is kept."""

    step: jax.Array
    average: Any


def recursion(
    name: str,
    advance: Advance,
    storage: Chosen,
    decay: Number,
    like: Callable[[Any], Any] = lambda p: p,
    at: Callable[[jax.Array], Any] = lambda step: step,
) -> optax.GradientTransformation:
    """What `advance(average, update, at(step))` gives for each leaf: what is kept of it, and what leaves.

    Arithmetic is in float32 or wider, the first step is 1, averages start at 0. The name and the decay of a recursion
    tell its random rounding apart from that of others. `like` makes of a parameter what the average is like, and `at`
    of a step what `advance` needs of it, once for all leaves.
    """
    keeper = Keeper(resolve(storage), name)

    def init(params):
        return RecursionState(jnp.zeros([], jnp.int32), keeper.init(zeros_like(jax.tree.map(like, params))))

    def update(updates, state, params=None):
        del params
        trees, step = keeper.trees(state.average), increment(state.step)
        out, average = advanced(advance, at(step), updates, trees, keeper, step, decay)
        return out, RecursionState(step, average)

    return optax.GradientTransformation(init, update)


def advanced(
    advance: Advance,
    at_step: Any,
    updates: Any,
    trees: tuple[Any, ...],
    keeper: Keeper,
    step: jax.Array | None,
    decay: Number,
) -> tuple[Any, Any]:
    """What leaves at a step, in the dtypes of the updates, and what is kept."""
    both = map_leaves(Leafwise(_advanced, advance, keeper, at_step), updates, *trees)
    fresh, out = (map_leaves(lambda _, pair, i=i: pair[i], updates, both) for i in (0, 1))
    return out, keeper.encode(fresh, trees, step, decay)


def moved(
    decay: Number, average: jax.Array, value: jax.Array, past_and_newest: tuple[Number, Number]
) -> tuple[jax.Array, jax.Array]:
    """An average and what leaves, which is the same, by the shares of the past and of the newest value."""
    fresh = lerp(average, value, decay, *past_and_newest)
    return fresh, fresh


def _advanced(advance, keeper, at_step, u, *arrays):
    fresh, out = advance(keeper.decode(jnp.shape(u), *arrays), widen(u), at_step)
    return fresh, narrow(out, jnp.result_type(u))
