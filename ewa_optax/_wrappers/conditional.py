"""A step of an optimizer that is made under a condition: else it is not run, and nothing moves."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from ewa_optax._numerics import narrow


def step_if(takes: jax.Array, step: Callable[[Any], tuple[Any, Any]], updates: Any, state: Any) -> tuple[Any, Any]:
    """What `step(state)` gives, updates and a state, or zeros like the updates and the state itself.

    Both have the dtypes that `updates` and `state` have: of averages of 16 bits, optax makes others by its input.
    """

    def make(state):
        out, fresh = step(state)
        return jax.tree.map(_like, out, updates), jax.tree.map(_like, fresh, state)

    # On an explicit mesh a step may lay out updates as the averages lie, and not as they came.
    like = jax.eval_shape(make, state)[0] if any(map(_is_placed, jax.tree.leaves(updates))) else updates

    def stay(state):
        return jax.tree.map(jnp.zeros_like, like), state

    return jax.lax.cond(takes, make, stay, state)


def _is_placed(x):
    return AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types


def _like(x, old):
    dtype = jnp.result_type(old)
    if x.dtype == dtype:
        return x
    return narrow(x, dtype) if jnp.issubdtype(dtype, jnp.inexact) else x.astype(dtype)
