"""Mini-batches of any iterable, which shuffles by itself; and which data is one."""

import contextlib
import inspect
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ewa_optax.minibatch._arrays import source_of_arrays
from ewa_optax.minibatch._batches import count_examples, plan_batches
from ewa_optax.minibatch._order import epoch_keys
from ewa_optax.minibatch._sources import Source, code_of

OF_ARRAYS = dict(batch_size=None, remainder="keep", order=None, shards=1)


def source_of(data: Any, *, has_key: bool = False, **plan: Any) -> Source:
    """The source of its kind, after a check of all of it; `plan` is what `plan_batches` takes, for arrays only."""
    if not is_iterable(data):
        return source_of_arrays(data, plan_batches(data, **plan, has_key=has_key))
    for name, value in plan.items():
        if value != OF_ARRAYS[name]:
            raise ValueError(
                f"{name} must be {OF_ARRAYS[name]!r} for an iterable of batches, got {value!r}; leave it out, and "
                "make the batches so."
            )
    return Stream(data, has_key)


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
                first = code_of(batch)
            if t == 1 and first is not None:  # An epoch of one batch has no order.
                self._warn_if_alike(epoch, first)
            yield jax.device_put(batch), others

    def in_order(self) -> Iterator[Any]:
        """In the batches that it has."""
        return map(_on_host, self._begun(0))

    def check_repeats(self, epoch: int) -> None:
        if isinstance(self.batches, Iterator):
            return  # Which can't be begun twice; whoever passes it again has to have made it anew.
        once, again = ([code_of(_on_host(x)) for x in itertools.islice(self._begun(epoch), 4)] for _ in range(2))
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


def is_iterable(data: Any) -> bool:
    """Whether it is an iterable of batches, or a function to one, rather than a pytree of arrays."""
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


def _on_host(batch):
    """With arrays for leaves, whatever library they are of: copies, lest their memory is used again."""
    batch = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else np.asarray(x).copy(), batch)
    count_examples(batch, "a batch")
    return batch
