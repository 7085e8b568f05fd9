"""Decoupled weight decay, in float32 or wider whatever the parameters are."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from ewa_optax._numerics import map_leaves, widen


def add_decayed_weights(
    weight_decay: float | jax.Array, mask: Any | Callable[[optax.Params], Any] | None = None
) -> optax.GradientTransformation:
    """Adds `weight_decay * params` where `mask`, a prefix of the parameters' tree or a function of them, is True.

    Unlike optax's piece of this name it forms the product in float32, and shows a mask function the parameters
    themselves, so that a mask may go by dtype.
    """

    def update(updates, params):
        if params is None:
            raise ValueError("weight decay needs the parameters; call update(gradients, state, params).")
        chosen = mask(params) if callable(mask) else mask

        def decay(decays, updates, params):
            return map_leaves(lambda u, p: u + weight_decay * widen(p), updates, params) if decays else updates

        return decay(True, updates, params) if chosen is None else jax.tree.map(decay, chosen, updates, params)

    return optax.stateless(update)
