"""Where mini-batches come from: arrays on a device, files mapped into memory, or any iterable."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ewa_optax._batches import Batches, count_examples
from ewa_optax._engines import Compiled, Fed, chunk_and_step
from ewa_optax._loops import chosen, feed, is_mapped
from ewa_optax._order import epoch_keys

AHEAD = 2
"""How many batches are fetched before they are asked for."""


def is_stream(data: Any) -> bool:
    """Whether it is an iterable of batches, rather than a pytree of arrays."""
    if isinstance(data, Iterator):
        return True  # Which jax.tree warns of, as a leaf.
    array = isinstance(data, jax.Array | np.ndarray)
    return not array and hasattr(data, "__iter__") and jax.tree.structure(data) == jax.tree.structure(0)


def engine_for_arrays(
    step: Callable, carry: Any, batches: Batches, data: Any, key: jax.Array, loop: str
) -> Compiled | Fed:
    """The compiled loop, or one in Python for data in files and for steps that are slow in a compiled one."""
    if is_mapped(data):
        return Fed(step, lambda epoch, start: ahead(feed(batches, data, key, epoch, start)), batches.steps)
    data = jax.tree.map(jnp.asarray, data)
    gather, on = chunk_and_step(step, batches)
    chunk = jax.eval_shape(gather, data, jax.eval_shape(batches.shuffle, key, 0), np.int32(0))
    if chosen(loop, on, carry, *chunk, np.int32(0)) == "scan":
        return Compiled(step, batches, data, key)
    return Fed(step, lambda epoch, start: feed(batches, data, key, epoch, start), batches.steps)


def engine_for_stream(step: Callable, stream: Any, key: jax.Array, has_key: bool) -> Fed:
    """A loop in Python over the batches of an iterable, which is begun anew for each epoch."""

    def batches(epoch: int, start: int) -> Iterator[tuple[Any, dict[str, jax.Array]]]:
        _, step_key = epoch_keys(key, epoch)
        for t, batch in enumerate(itertools.islice(iter(stream), start, None), start):
            others = {"key": jax.random.fold_in(step_key, t)} if has_key else {}
            yield jax.device_put(on_host(batch)), others

    return Fed(step, lambda epoch, start: ahead(batches(epoch, start)), None, repeats=False)


def on_host(batch: Any) -> Any:
    """The batch with arrays for leaves, whatever library they are of."""
    batch = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else np.asarray(x), batch)
    count_examples(batch, "a batch")
    return batch


def ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, fetched in a thread before they are asked for."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, batches, end) for _ in range(AHEAD))
        while (batch := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, batches, end))
            yield batch


def placed(tree: Any, batches: Batches | None) -> Any:
    """Strongly typed arrays on the mesh of the data, if there is one: those that lie elsewhere are replicated."""
    meshes = [sharding.mesh for sharding in (batches.shardings if batches else ()) if sharding]

    def place(x):
        x = jnp.asarray(x)
        x = jax.lax.convert_element_type(x, x.dtype)
        if not meshes or (isinstance(x.sharding, NamedSharding) and x.sharding.mesh == meshes[0]):
            return x
        return jax.device_put(x, NamedSharding(meshes[0], PartitionSpec()))

    return jax.tree.map(place, tree)
