"""Mini-batches of arrays: on a device, or in files that are mapped into memory."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ewa_optax.minibatch._batches import Batches, count_examples, some_examples
from ewa_optax.minibatch._loops import choose_loop
from ewa_optax.minibatch._sources import Source, fingerprint, strongly_typed

ROWS = 64
"""How many examples stand for all of the data, when it is told from other data."""


class Arrays(Source):
    """Arrays, examples along their first axes, and how these are split into mini-batches."""

    def __init__(self, data: Any, batches: Batches) -> None:
        self.data, self.batches, self.steps = data, batches, batches.steps

    def check_repeats(self, epoch: int) -> None:
        """Nothing to fear: the key decides."""

    def identity(self) -> dict[str, Any]:
        some = some_examples(self.data, np.arange(min(ROWS, self.batches.num_examples)))
        return {**self.batches.settings, "data": fingerprint(self.data, some)}


class DeviceArrays(Arrays):
    """Arrays that are put on the device once."""

    def __init__(self, data: Any, batches: Batches) -> None:
        super().__init__(jax.tree.map(jnp.asarray, data), batches)

    def feed(self, key: jax.Array, epoch: int, start: int = 0) -> Iterator[tuple[Any, dict[str, jax.Array]]]:
        shuffle, gather = shuffler(self.batches)(key, epoch), _gather(self.batches)
        for t in range(start, self.batches.steps):
            yield gather(self.data, shuffle, t, self.batches.size_of(t))

    def in_order(self) -> Iterator[Any]:
        for t in range(self.batches.steps):
            yield _slice(self.batches)(self.data, t, self.batches.size_of(t))

    def costs(self, cost: Callable[[Any, Any], Any], params: Any) -> tuple[Any, list[int]]:
        of_all = _costs(cost, self.batches)
        if choose_loop("auto", of_all, params, self.data) == "python":
            return super().costs(cost, params)
        return of_all(params, self.data), [self.batches.size_of(t) for t in range(self.batches.steps)]

    def place(self, tree: Any) -> Any:
        """On the mesh of the data, if there is one: arrays that lie elsewhere are replicated."""
        mesh = next((sharding.mesh for sharding in self.batches.shardings if sharding), None)

        def placed(x):
            if mesh is None or (isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh):
                return x
            return jax.device_put(x, NamedSharding(mesh, PartitionSpec()))

        return jax.tree.map(placed, strongly_typed(tree))


class MappedArrays(Arrays):
    """Arrays of which some lie in files: the rows of each mini-batch are read when it is its turn."""

    def feed(self, key: jax.Array, epoch: int, start: int = 0) -> Iterator[tuple[Any, dict[str, jax.Array]]]:
        shuffle, rows_of = shuffler(self.batches)(key, epoch), _rows(self.batches)
        shards = self.batches.shards
        parts = np.arange(shards)[:, None] * (self.batches.num_examples // shards)
        for t in range(start, self.batches.steps):
            rows, others = rows_of(shuffle, t, self.batches.size_of(t))
            rows = (np.asarray(rows) + parts).reshape(-1)
            yield jax.device_put(_read(self.data, rows)), others

    def in_order(self) -> Iterator[Any]:
        for start in range(0, self.batches.num_examples, self.batches.batch_size):
            yield _read(self.data, slice(start, start + self.batches.batch_size))


def source_of_arrays(data: Any, batches: Batches) -> Arrays:
    """In files or not."""
    mapped = any(isinstance(x, np.memmap) for x in jax.tree.leaves(data))
    return (MappedArrays if mapped else DeviceArrays)(data, batches)


def _read(data, rows):
    """Those examples, in memory."""
    batch = jax.tree.map(lambda x: np.asarray(x[rows]), data)
    count_examples(batch)
    return batch


@functools.lru_cache(maxsize=32)
def shuffler(batches: Batches) -> Callable:
    """What is random in an epoch, by a key and its number."""
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


def _in_order(batches, data, t, size):
    rows = t * batches.batch_size + jnp.arange(size, dtype=jnp.int32)
    return jax.tree.map(lambda x: x[0], batches.take(data, rows[None, None]))


@functools.lru_cache(maxsize=32)
def _slice(batches):
    return jax.jit(functools.partial(_in_order, batches), static_argnums=2)


@functools.lru_cache(maxsize=32)
def _costs(cost, batches):
    """Of each batch, the smaller last one included, in one program."""

    def costs(params, data):
        def of(t, size):
            return cost(params, _in_order(batches, data, t, size))

        full = jax.lax.map(lambda t: of(t, batches.batch_size), jnp.arange(batches.full_steps, dtype=jnp.int32))
        last = [of(batches.full_steps, batches.last_size)[None]] if batches.last_size else []
        return jnp.concatenate([full, *last])

    return jax.jit(costs)
