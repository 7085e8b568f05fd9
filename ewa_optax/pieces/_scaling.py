"""Scalings: pieces that multiply all leaves of an update by one number, such as a learning rate."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ewa_optax._numerics import narrow, widen
from ewa_optax._trees import map_leaves


def scale_leaves(updates: Any, number: jax.Array) -> Any:
    """Multiplies every leaf by `number` in float32 or wider; each leaves in the dtype it came in."""
    return map_leaves(functools.partial(scaled, number), updates)


def scaled(number: jax.Array, u: Any) -> jax.Array:
    """The same of one leaf."""
    x = widen(u)
    return narrow(number.astype(x.dtype) * x, jnp.result_type(u))


def scale_once(*scalings: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies scalings to the number 1, and multiplies the update by what comes out.

    The same as a chain of them, but one multiplication an element however many there are.
    """
    together = optax.chain(*scalings)

    def init(params):
        del params
        return together.init(jnp.ones([], float))

    def update(updates, state, params=None):
        del params
        number, state = together.update(jnp.ones([], float), state)
        return scale_leaves(updates, jnp.asarray(number)), state

    return optax.GradientTransformation(init, update)
