"""What makes a chain an optimizer: float32 or wider from end to end, and no infinity from finite gradients."""

import jax.numpy as jnp
import optax

from ewa_optax._in_place import after_parameters
from ewa_optax._numerics import clip, largest, map_leaves, narrow, widen


def wide_chain(*pieces: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`optax.chain` in which pieces hand on float32 or wider; updates leave in the dtype that they came in."""
    inner = optax.with_extra_args_support(optax.chain(*pieces))

    def update(updates, state, params=None, **extra_args):
        wide, state = inner.update(map_leaves(widen, updates), state, params, **extra_args)
        out = map_leaves(lambda u, w: narrow(w, jnp.result_type(u)), updates, wide)
        return out, after_parameters(state, params, out)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def saturate(power: int = 1) -> optax.GradientTransformation:
    """Clips updates to where their `power`-th power is a quarter of the largest number of their dtype.

    Then no difference of two overflows, nor the squared magnitude of a complex one. In front of `scale_by_rms`, with
    `power=2`, gradient and square saturate together, so that one spike moves a parameter by an ordinary step and does
    not freeze it for ever.
    """

    def update(updates, params):
        del params
        return map_leaves(lambda u: clip(u, (largest(u.dtype) / 4) ** (1 / power)), updates)

    return optax.stateless(update)
