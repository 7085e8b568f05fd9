"""The cost of parameters on data that they are not trained on."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._batches import count_examples
from ewa_optax._loops import is_mapped
from ewa_optax._sources import is_stream, on_host

BATCH_SIZE = 1024
"""Where the training data comes in batches already, and so gives no batch size."""


def validator(
    loss: Callable[..., Any], data: Any, batch_size: int | None, *, has_aux: bool = False, masked: bool = False
) -> Callable[[Any], float]:
    """A function from parameters to the mean of `loss` over all examples, in batches and in order."""
    if not is_stream(data):
        count_examples(data, "validation")

    def mean_cost(params: Any) -> float:
        costs, sizes = [], []
        for batch, size in _batches(data, batch_size or BATCH_SIZE):
            costs.append(_cost(loss, has_aux, masked)(params, batch))
            sizes.append(size)
        if not sizes:
            raise ValueError(
                "the validation data gave no batch; a generator can be run through only once, so pass an iterable "
                "that begins anew."
            )
        return float(np.average(np.asarray(jax.device_get(costs), np.float64), weights=sizes))

    return mean_cost


def _batches(data: Any, batch_size: int) -> Iterator[tuple[Any, int]]:
    if is_stream(data):
        for batch in data:
            yield on_host(batch), count_examples(batch)
        return
    n = count_examples(data)
    for start in range(0, n, batch_size):
        size = min(batch_size, n - start)
        if is_mapped(data):
            yield jax.tree.map(lambda x, rows=slice(start, start + size): np.asarray(x[rows]), data), size
        else:
            yield _slice(data, np.int32(start), size), size


@functools.partial(jax.jit, static_argnums=2)
def _slice(data, start, size):
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), data)


@functools.lru_cache(maxsize=32)
def _cost(loss, has_aux, masked):
    def cost(params, batch):
        others = {"mask": jnp.ones(jax.tree.leaves(batch)[0].shape[0])} if masked else {}
        out = loss(params, batch, **others)
        return out[0] if has_aux else out

    return jax.jit(cost)
