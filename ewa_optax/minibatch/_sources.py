"""Where mini-batches come from: arrays on a device, files mapped into memory, or any iterable."""

import abc
import contextlib
import functools
import inspect
import itertools
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ewa_optax.minibatch._batches import Batches, count_examples, plan_batches, some_examples
from ewa_optax.minibatch._loops import choose_loop
from ewa_optax.minibatch._order import epoch_keys

ROWS = 64
"""How many examples stand for all of the data, when it is told from other data."""

OF_ARRAYS = dict(batch_size=None, remainder="keep", order=None, shards=1)


class Source(abc.ABC):
    """Data, by the mini-batches of its epochs."""

    steps: int | None = None
    """Of an epoch; None is not known before one is over."""

    @abc.abstractmethod
    def feed(self, key: jax.Array, epoch: int, start: int = 0) -> Iterator[tuple[Any, dict[str, jax.Array]]]:
        """The mini-batches of an epoch from step `start` on, one by one, and what else a step is called with."""

    @abc.abstractmethod
    def in_order(self, size: int) -> Iterator[Any]:
        """All examples once, in batches of `size`, not shuffled."""

    @abc.abstractmethod
    def check_repeats(self, epoch: int) -> None:
        """Raises ValueError where an epoch would be another one if it were begun again."""

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells it from other data."""

    def place(self, tree: Any) -> Any:
        """Strongly typed arrays on the devices of the data."""
        return _strongly_typed(tree)

    def costs(self, cost: Callable[[Any, Any], Any], params: Any, size: int) -> tuple[Any, list[int]]:
        """What a compiled `cost` gives on each of the batches in order, and how many examples those have."""
        costs, sizes = [], []
        for batch in self.in_order(size):
            costs.append(cost(params, batch))
            sizes.append(count_examples(batch))
        return costs, sizes


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

    def in_order(self, size: int) -> Iterator[Any]:
        batches = plan_batches(self.data, min(size, self.batches.num_examples))
        for t in range(batches.steps):
            yield _slice(batches)(self.data, t, batches.size_of(t))

    def costs(self, cost: Callable[[Any, Any], Any], params: Any, size: int) -> tuple[Any, list[int]]:
        batches = plan_batches(self.data, min(size, self.batches.num_examples))
        of_all = _costs(cost, batches)
        if choose_loop("auto", of_all, params, self.data) == "python":
            return super().costs(cost, params, size)
        return of_all(params, self.data), [batches.size_of(t) for t in range(batches.steps)]

    def place(self, tree: Any) -> Any:
        """On the mesh of the data, if there is one: arrays that lie elsewhere are replicated."""
        mesh = next((sharding.mesh for sharding in self.batches.shardings if sharding), None)

        def placed(x):
            if mesh is None or (isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh):
                return x
            return jax.device_put(x, NamedSharding(mesh, PartitionSpec()))

        return jax.tree.map(placed, _strongly_typed(tree))


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

    def in_order(self, size: int) -> Iterator[Any]:
        for start in range(0, self.batches.num_examples, size):
            yield _read(self.data, slice(start, start + size))


class Stream(Source):
    """An iterable of batches, which is begun anew for each epoch, or a function of the epoch that returns one."""

    def __init__(self, batches: Any, has_key: bool = False) -> None:
        self.batches, self.has_key = batches, has_key
        self._last_first, self._warned = (-1, -1), False
        if callable(batches) and not hasattr(batches, "__iter__"):
            _check_takes_epoch(batches)

    def feed(self, key: jax.Array, epoch: int, start: int = 0) -> Iterator[tuple[Any, dict[str, jax.Array]]]:
        _, step_key = epoch_keys(key, epoch)
        first = None
        for t, batch in enumerate(itertools.islice(self._begun(epoch), start, None), start):
            others = {"key": jax.random.fold_in(step_key, t)} if self.has_key else {}
            batch = _on_host(batch)
            if t == 0:
                first = _code(batch)
            if t == 1 and first is not None:  # An epoch of one batch has no order.
                self._warn_if_alike(epoch, first)
            yield jax.device_put(batch), others

    def in_order(self, size: int) -> Iterator[Any]:
        """In the batches that it has."""
        return map(_on_host, self._begun(0))

    def check_repeats(self, epoch: int) -> None:
        if isinstance(self.batches, Iterator):
            return  # Which can't be begun twice; whoever passes it again has to have made it anew.
        once, again = ([_code(_on_host(x)) for x in itertools.islice(self._begun(epoch), 4)] for _ in range(2))
        if once != again:
            raise ValueError(
                f"data gives other batches each time that it is begun, so a resumed epoch {epoch} would not be the one "
                "that was interrupted; pass a function of the epoch that returns its batches, shuffled by a seed made "
                "of the epoch, or an iterable or sampler with a method set_epoch; or name another checkpoint folder."
            )

    def _begun(self, epoch):
        if not hasattr(self.batches, "__iter__") and callable(self.batches):
            batches: Any = self.batches(epoch)
            if not hasattr(batches, "__iter__"):
                raise TypeError(
                    f"data, a function of the epoch, must return an iterable of batches, got {type(batches).__name__} "
                    f"for epoch {epoch}; yield them, or return a list of them."
                )
            return iter(batches)
        for told in _who_shuffles(self.batches):
            if hasattr(told, "set_epoch"):
                told.set_epoch(epoch)
        return iter(self.batches)

    def _warn_if_alike(self, epoch, first):
        before, alike = self._last_first
        self._last_first = (epoch, first)
        if alike == first and before == epoch - 1 and not self._warned:
            self._warned = True
            warnings.warn(
                f"data has the same order in each epoch: epochs {before} and {epoch} begin with the same batch. To "
                "shuffle anew, pass a function of the epoch that returns its batches, such as "
                "lambda epoch: dataset.seed(epoch).shuffle().batch(64).",
                stacklevel=2,
            )

    def identity(self) -> dict[str, Any]:
        return {"data": "an iterable"}


def source_of(data: Any, *, has_key: bool = False, **plan: Any) -> Source:
    """The source of its kind, after a check of all of it; `plan` is what `plan_batches` takes, for arrays only."""
    if not _is_stream(data):
        return source_of_arrays(data, plan_batches(data, **plan, has_key=has_key))
    for name, value in plan.items():
        if value != OF_ARRAYS[name]:
            raise ValueError(
                f"{name} must be {OF_ARRAYS[name]!r} for an iterable of batches, got {value!r}; leave it out, and "
                "make the batches so."
            )
    return Stream(data, has_key)


def source_of_arrays(data: Any, batches: Batches) -> Arrays:
    """In files or not."""
    mapped = any(isinstance(x, np.memmap) for x in jax.tree.leaves(data))
    return (MappedArrays if mapped else DeviceArrays)(data, batches)


def validation_source(data: Any) -> Source:
    """Of data that only `in_order` and `costs` are asked of, in batches of any size."""
    return source_of(data) if _is_stream(data) else source_of(data, batch_size=count_examples(data, "validation"))


def fingerprint(tree: Any, content: Any = ()) -> str:
    """The names, shapes and dtypes of the arrays of a tree, and what `content` holds, in short."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    code = 0
    for path, x in leaves:
        code = zlib.crc32(f"{jax.tree_util.keystr(path)} {x.dtype}{x.shape}".encode(), code)
    code = _code(content, code)
    numbers = sum(x.size for _, x in leaves)
    kinds = " and ".join(sorted({str(x.dtype) for _, x in leaves}))
    return f"{numbers} numbers in {len(leaves)} arrays of {kinds} ({code:08x})"


def _is_stream(data):
    if isinstance(data, Iterator):
        return True  # Which jax.tree warns of, as a leaf.
    # What has a shape is an array of some library, and meant as one.
    iterable = (hasattr(data, "__iter__") or callable(data)) and not hasattr(data, "shape")
    return iterable and jax.tree.structure(data) == jax.tree.structure(0)


def _check_takes_epoch(function):
    with contextlib.suppress(ValueError):  # Of some that are not written in Python, nothing is known.
        try:
            inspect.signature(function).bind(0)
        except TypeError as failure:
            raise TypeError(
                f"data, a function, must be one of the epoch, as in def data(epoch), got {function!r}; give it that "
                "argument, or call it, if it returns the data."
            ) from failure


def _who_shuffles(batches):
    """An iterable, and what it may leave the shuffling to in torch and libraries like it."""
    inner = [getattr(batches, name, None) for name in ("sampler", "batch_sampler", "dataset")]
    return [batches, *inner, getattr(inner[1], "sampler", None)]


def _code(batch, code=0):
    for x in jax.tree.leaves(batch):
        code = zlib.crc32(np.ascontiguousarray(x).tobytes(), code)
    return code


def _strongly_typed(tree):
    def typed(x):
        x = jnp.asarray(x)
        return jax.lax.convert_element_type(x, x.dtype)

    return jax.tree.map(typed, tree)


def _read(data, rows):
    """Those examples, in memory."""
    batch = jax.tree.map(lambda x: np.asarray(x[rows]), data)
    count_examples(batch)
    return batch


def _on_host(batch):
    """With arrays for leaves, whatever library they are of: copies, lest their memory is used again."""
    batch = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else np.asarray(x).copy(), batch)
    count_examples(batch, "a batch")
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
