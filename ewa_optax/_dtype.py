"""The dtype contract for transformations from elsewhere."""

import jax
import jax.numpy as jnp
import optax

from ewa_optax._numerics import largest, map_leaves, narrow, saturate, widen


def in_wide_arithmetic(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Runs `inner` on updates and parameters in float32 or wider; updates leave finite, in the dtype they came in."""
    inner = optax.with_extra_args_support(inner)

    def update(updates, state, params=None, **extra_args):
        wide_params = jax.tree.map(widen, params)
        out, state = inner.update(map_leaves(widen, updates), state, wide_params, **extra_args)

        def leave(u, o):
            return narrow(saturate(o, largest(o.dtype)), jnp.asarray(u).dtype)

        return map_leaves(leave, updates, out), state

    return optax.GradientTransformationExtraArgs(inner.init, update)
