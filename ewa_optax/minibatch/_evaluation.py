"""The cost of parameters on data that they are not trained on."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax.minibatch._batches import count_examples
from ewa_optax.minibatch._iterables import is_iterable, source_of
from ewa_optax.minibatch._step import objective_of

BATCH_SIZE = 1024
"""Where the training data comes in batches already, and so gives no batch size."""


def validator(
    loss: Callable[..., Any], data: Any, batch_size: int | None, *, has_aux: bool = False, masked: bool = False
) -> Callable[[Any], float]:
    """A function from parameters to the mean of `loss` over all examples, in batches and in order."""
    plan: dict[str, Any] = {}
    if not is_iterable(data):
        plan["batch_size"] = min(batch_size or BATCH_SIZE, count_examples(data, "validation"))
    source, cost = source_of(data, **plan), _cost(loss, has_aux, masked)

    def validate(params):
        costs, sizes = source.costs(cost, params)
        if not sizes:
            raise ValueError(
                "the validation data gave no batch; a generator can be run through only once, so pass an iterable "
                "that begins anew, and is not empty."
            )
        return float(np.average(np.asarray(jax.device_get(costs), np.float64), weights=sizes))

    return validate


@functools.lru_cache(maxsize=32)
def _cost(loss, has_aux, masked):
    def cost(params, batch):
        others = {"mask": jnp.ones(jax.tree.leaves(batch)[0].shape[0])} if masked else {}
        return objective_of(loss, has_aux, batch, others, params)[0]

    return jax.jit(cost)
