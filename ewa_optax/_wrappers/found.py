"""States of wrappers within the state of an optimizer, and within each other."""

from collections.abc import Iterator
from typing import Any

import jax


def states_within(state: Any, kinds: tuple[type, ...]) -> Iterator[Any]:
    """All states of those kinds, which have an `inner_state` that may hold more of them."""

    def is_state(x):
        return isinstance(x, kinds)

    for x in filter(is_state, jax.tree.leaves(state, is_leaf=is_state)):
        yield x
        yield from states_within(x.inner_state, kinds)


def content(x: Any) -> jax.Array:
    """An array of a state, which flax's nnx keeps in a variable, a tree of one leaf."""
    (array,) = jax.tree.leaves(x)
    return array
