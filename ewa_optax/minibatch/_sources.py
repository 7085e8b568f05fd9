"""What data is to a training: the mini-batches of its epochs, wherever they come from."""

import abc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax.minibatch._batches import count_examples


class Source(abc.ABC):
    """Data, by the mini-batches of its epochs."""

    steps: int | None = None
    """Of an epoch; None is not known before one is over."""

    @abc.abstractmethod
    def feed(self, key: jax.Array, epoch: int, start: int = 0) -> Iterator[tuple[Any, dict[str, jax.Array]]]:
        """The mini-batches of an epoch from step `start` on, one by one, and what else a step is called with."""

    @abc.abstractmethod
    def in_order(self) -> Iterator[Any]:
        """All examples once, in batches, not shuffled."""

    @abc.abstractmethod
    def check_repeats(self, epoch: int) -> None:
        """Raises ValueError where an epoch would be another one if it were begun again."""

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells it from other data."""

    def place(self, tree: Any) -> Any:
        """Strongly typed arrays on the devices of the data."""
        return strongly_typed(tree)

    def costs(self, cost: Callable[[Any, Any], Any], params: Any) -> tuple[Any, list[int]]:
        """What a compiled `cost` gives on each of the batches in order, and how many examples those have."""
        costs, sizes = [], []
        for batch in self.in_order():
            costs.append(cost(params, batch))
            sizes.append(count_examples(batch))
        return costs, sizes


def fingerprint(tree: Any, content: Any = ()) -> str:
    """The names, shapes and dtypes of the arrays of a tree, and what `content` holds, in short."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    code = 0
    for path, x in leaves:
        code = zlib.crc32(f"{jax.tree_util.keystr(path)} {x.dtype}{x.shape}".encode(), code)
    code = code_of(content, code)
    numbers = sum(x.size for _, x in leaves)
    kinds = " and ".join(sorted({str(x.dtype) for _, x in leaves}))
    return f"{numbers} numbers in {len(leaves)} arrays of {kinds} ({code:08x})"


def code_of(batch: Any, code: int = 0) -> int:
    """A check sum of what its arrays hold."""
    for x in jax.tree.leaves(batch):
        code = zlib.crc32(np.ascontiguousarray(x).tobytes(), code)
    return code


def strongly_typed(tree: Any) -> Any:
    """Its arrays, of which none is weakly typed as numbers of Python are."""

    def typed(x):
        x = jnp.asarray(x)
        return jax.lax.convert_element_type(x, x.dtype)

    return jax.tree.map(typed, tree)
