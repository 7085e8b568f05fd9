"""The cost of parameters on data that they are not trained on."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax.minibatch._batches import count_examples, split
from ewa_optax.minibatch._sources import is_mapped, is_stream, on_host
from ewa_optax.minibatch._step import objective_of

BATCH_SIZE = 1024
"""Where the training data comes in batches already, and so gives no batch size."""


def validator(
    loss: Callable[..., Any], data: Any, batch_size: int | None, *, has_aux: bool = False, masked: bool = False
) -> Callable[[Any], float]:
    """A function from parameters to the mean of `loss` over all examples, in batches and in order."""
    if is_stream(data):
        return lambda params: _over_batches(_cost(loss, has_aux, masked), params, map(on_host, data))
    n, size = count_examples(data, "validation"), batch_size or BATCH_SIZE
    if is_mapped(data):

        def parts():
            for start in range(0, n, size):
                yield jax.tree.map(lambda x, rows=slice(start, start + size): np.asarray(x[rows]), data)

        return lambda params: _over_batches(_cost(loss, has_aux, masked), params, parts())
    data = jax.tree.map(jnp.asarray, data)
    batches = split(data, min(size, n))
    return lambda params: float(_over_arrays(_cost(loss, has_aux, masked), batches, params, data))


def _over_batches(cost, params, batches):
    costs, sizes = [], []
    for batch in batches:
        costs.append(cost(params, batch))
        sizes.append(count_examples(batch))  # What is no array yet is made one by now.
    if not sizes:
        raise ValueError(
            "the validation data gave no batch; a generator can be run through only once, so pass an iterable that "
            "begins anew, and is not empty."
        )
    return float(np.average(np.asarray(jax.device_get(costs), np.float64), weights=sizes))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _over_arrays(cost, batches, params, data):
    n, size, rest = batches.num_examples, batches.batch_size, batches.rest

    def part(start, size):
        return cost(
            params,
            jax.tree.map(lambda x: x[0], batches.take(data, start + jnp.arange(size, dtype=jnp.int32)[None, None])),
        )

    costs = jax.lax.map(lambda t: part(t * size, size), jnp.arange(batches.whole, dtype=jnp.int32))
    last = part(n - rest, rest) * rest if rest else 0.0
    return (costs.astype(float).mean() * (n - rest) + last) / n


@functools.lru_cache(maxsize=32)
def _cost(loss, has_aux, masked):
    def cost(params, batch):
        others = {"mask": jnp.ones(jax.tree.leaves(batch)[0].shape[0])} if masked else {}
        return objective_of(loss, has_aux, batch, others, params)[0]

    return jax.jit(cost)
