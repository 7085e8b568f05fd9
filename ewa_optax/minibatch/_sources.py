"""Where mini-batches come from: arrays on a device, files mapped into memory, or any iterable."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ewa_optax.minibatch._batches import Batches, count_examples


def is_stream(data: Any) -> bool:
    """Whether it is an iterable of batches, rather than a pytree of arrays."""
    if isinstance(data, Iterator):
        return True  # Which jax.tree warns of, as a leaf.
    # What has a shape is an array of some library, and meant as one.
    iterable = hasattr(data, "__iter__") and not hasattr(data, "shape")
    return iterable and jax.tree.structure(data) == jax.tree.structure(0)


def on_host(batch: Any) -> Any:
    """The batch with arrays for leaves, whatever library they are of: copies, lest their memory is used again."""
    batch = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else np.array(x), batch)
    count_examples(batch, "a batch")
    return batch


def put_on_mesh(tree: Any, batches: Batches | None) -> Any:
    """Strongly typed arrays on the mesh of the data, if there is one: those that lie elsewhere are replicated."""
    meshes = [sharding.mesh for sharding in (batches.shardings if batches else ()) if sharding]

    def place(x):
        x = jnp.asarray(x)
        x = jax.lax.convert_element_type(x, x.dtype)
        if not meshes or (isinstance(x.sharding, NamedSharding) and x.sharding.mesh == meshes[0]):
            return x
        return jax.device_put(x, NamedSharding(meshes[0], PartitionSpec()))

    return jax.tree.map(place, tree)


def feed(
    batches: Batches, data: Any, key: jax.Array, epoch: int, start: int = 0
) -> Iterator[tuple[Any, dict[str, jax.Array]]]:
    """The mini-batches of an epoch from step `start` on, one by one; memory-mapped data is read row by row."""
    leaves, structure = jax.tree.flatten(data)
    mapped = is_mapped(data)
    if not mapped:
        data = jax.tree.map(jnp.asarray, data)
    shuffle = shuffler(batches)(key, epoch)
    gather, rows_of = _gather(batches), _rows(batches)
    parts = np.arange(batches.shards)[:, None] * (batches.num_examples // batches.shards)
    for t in range(start, batches.steps):
        size = batches.batch_size if t < batches.whole else batches.rest
        if mapped:
            rows, others = rows_of(shuffle, t, size)
            rows = (np.asarray(rows) + parts).reshape(-1)
            yield jax.tree.unflatten(structure, [jax.device_put(np.asarray(x[rows])) for x in leaves]), others
        else:
            yield gather(data, shuffle, t, size)


def is_mapped(data: Any) -> bool:
    """Whether some of it lies in a file, to be read as needed."""
    return any(isinstance(x, np.memmap) for x in jax.tree.leaves(data))


@functools.lru_cache(maxsize=32)
def shuffler(batches: Batches) -> Callable:
    return jax.jit(batches.shuffle)


@functools.lru_cache(maxsize=32)
def _rows(batches):
    def rows(shuffle, t, size):
        rows, others = batches.rows(shuffle, t, 1, size)
        return rows[:, 0], jax.tree.map(lambda x: x[0], others)

    return jax.jit(rows, static_argnums=2)


@functools.lru_cache(maxsize=32)
def _gather(batches):
    def gather(data, shuffle, t, size):
        return jax.tree.map(lambda x: x[0], batches.gathered(data, shuffle, t, 1, size))

    return jax.jit(gather, static_argnums=3)
