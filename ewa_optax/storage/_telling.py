"""What a piece keeps, as `carry_over` asks for it: an average, and how it came about.

A state has no hyperparameters, and closures hide them. But every wrapper hands `init` on to what it wraps: so within
`telling`, `init` makes states whose averages say what they are.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ewa_optax._numerics import Number, wide_dtype
from ewa_optax.storage._encoding import AverageCodec, are_of_squares

_STEP: contextvars.ContextVar[Any] = contextvars.ContextVar("the step at which states tell what they are", default=None)


@contextlib.contextmanager
def telling(step: Any) -> Iterator[None]:
    """States that are made in here tell what they keep, and learning rates are those of the update before `step`."""
    token = _STEP.set(step)
    try:
        yield
    finally:
        _STEP.reset(token)


@dataclasses.dataclass(frozen=True, eq=False)
class Told:
    """Of averages: the shapes that they have, what keeps them, their form ("raw", ...), and whether of squares."""

    like: Any
    codec: AverageCodec
    form: str
    of_squares: bool


@jax.tree_util.register_pytree_node_class
class Kept:
    """What is kept of averages, and what a piece tells of them, their decay among it."""

    def __init__(self, kept: Any, told: Told, decay: Number | None) -> None:
        self.kept, self.told, self.decay = kept, told, decay

    @classmethod
    def as_it_is(cls, tree: Any) -> "Kept":
        """Arrays that are averages themselves, and of which nothing more is known."""
        return cls(tree, Told(tree, AverageCodec(None, ""), "as it is", False), None)

    def with_decay(self, decay: Number) -> "Kept":
        """The same, with the decay as a number."""
        return Kept(self.kept, self.told, decay)

    def tree_flatten(self):
        """For JAX."""
        traced = isinstance(self.decay, jax.Array)
        return (self.kept, self.decay if traced else None), (self.told, None if traced else self.decay)

    @classmethod
    def tree_unflatten(cls, rest, children):
        """For JAX."""
        (kept, traced), (told, decay) = children, rest
        return cls(kept, told, decay if traced is None else traced)


def first(codec: AverageCodec, params: Any, form: str, decay: Number | None) -> Any:
    """What is kept at first of averages of 0 for parameters; a `Kept` where states tell what they are."""
    kept = codec.init(params)
    if _STEP.get() is None:
        return kept
    like = jax.tree.map(lambda p: jax.ShapeDtypeStruct(jnp.shape(p), wide_dtype(jnp.result_type(p))), params)
    return Kept(kept, Told(like, codec, form, are_of_squares()), decay)


def last_rate(rate_at: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The learning rate of the last update; before the first update, what it begins with."""
    step = _STEP.get()
    return rate_at(jnp.zeros([], jnp.int32) if step is None else jnp.maximum(step - 1, 0))
