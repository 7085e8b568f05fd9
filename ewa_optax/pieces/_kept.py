"""What a piece keeps, as `carry_over` asks for it: an average, and how it came about.

A state has no hyperparameters, and closures hide them. But every wrapper hands `init` on to what it wraps: so within
`telling`, `init` makes states whose averages say what they are.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ewa_optax._numerics import Number
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


@jax.tree_util.register_pytree_node_class
class Kept:
    """What is kept, as which codec keeps it, and the averages it is made of; their form ("raw", ...) and decay."""

    def __init__(
        self, kept: Any, like: Any, codec: AverageCodec, form: str, decay: Number | None, of_squares: bool = False
    ) -> None:
        self.kept, self.like, self.codec, self.form, self.decay = kept, like, codec, form, decay
        self.of_squares = of_squares

    def tree_flatten(self):
        """For JAX."""
        traced = isinstance(self.decay, jax.Array)
        rest = self.codec, self.form, None if traced else self.decay, self.of_squares
        return (self.kept, self.like, self.decay if traced else None), rest

    @classmethod
    def tree_unflatten(cls, rest, children):
        """For JAX."""
        (kept, like, traced), (codec, form, decay, of_squares) = children, rest
        return cls(kept, like, codec, form, decay if traced is None else traced, of_squares)


def first(codec: AverageCodec, params: Any, form: str, decay: Number | None) -> Any:
    """What is kept at first of averages of 0 for parameters; a `Kept` where states tell what they are."""
    kept = codec.init(params)
    if _STEP.get() is None:
        return kept
    return Kept(kept, AverageCodec(None, "").init(params), codec, form, decay, are_of_squares())


def last_rate(rate_at: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The learning rate of the last update; before the first update, what it begins with."""
    step = _STEP.get()
    return rate_at(jnp.zeros([], jnp.int32) if step is None else jnp.maximum(step - 1, 0))
