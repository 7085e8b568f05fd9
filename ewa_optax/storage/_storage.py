"""What keeps an average: its options, and two methods on one array."""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._random_bits import HALF

SHARED = "computed once"
"""The name (`jax.ad_checkpoint.checkpoint_name`) of what is computed once, and used more than once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Storage(abc.ABC):
    """How an array of averages is kept. To make your own, inherit from it and write `encode` and `decode`.

    A subclass with options of its own is a `dataclasses.dataclass(frozen=True, kw_only=True)` too, and hashable.

    Args:
        rounding: "stochastic", or "nearest", which stalls, for comparison.
        min_size: leaves with fewer elements stay float32. In `jax.shard_map`, where a leaf is a part of an array, those
            of the whole count, as far as JAX keeps track of it (`check_vma=True`).
        seed: of the chance, a whole number. Two averages of one decay in one hand-made chain need two.

    Raises:
        ValueError: an option is none of these.
    """

    rounding: str = "stochastic"
    min_size: int = 4096
    seed: int = 0

    def __post_init__(self):
        """Checks the options."""
        if self.rounding not in ("stochastic", "nearest"):
            raise ValueError(
                f"{type(self).__name__}: rounding must be 'stochastic' or 'nearest', got {self.rounding!r}; "
                "stochastic is without bias, nearest stalls."
            )
        check_whole(self, "min_size", 0, "0 encodes every leaf")
        check_whole(self, "seed", 0, "0 is as good as any other")

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether it keeps averages of that shape; others stay float32."""
        return math.prod(shape) >= max(self.min_size, 1)

    def init(self, average: jax.Array) -> Any:
        """What is kept before the first step, of an `average` of zeros."""
        # What is made of constants XLA computes while it compiles, element by element: here it sees none.
        average, half = jax.lax.optimization_barrier((average, HALF))
        kept = self.encode(average, jnp.full(average.shape, half))
        return jax.tree.map(jnp.zeros_like, kept) if type(self).encode in _ZEROS_OF_ZEROS else kept

    @abc.abstractmethod
    def encode(self, average: jax.Array, bits: jax.Array) -> Any:
        """What is kept of a float32 `average`: a pytree of arrays, which has the same structure for any shape of it.

        `bits` has 32 random bits for each element, uint32, new ones at each step; with rounding to nearest, each of
        them is one half of 2**32.
        """

    @abc.abstractmethod
    def decode(self, kept: Any) -> jax.Array:
        """The float32 average in what is kept, in its own shape."""

    def for_shards(self, shape: tuple[int, ...], shards: tuple[int, ...]) -> "Storage":
        """The storage to use for an array of that shape of which so many parts along each axis lie on other devices.

        What it keeps of a part should lie on the device of that part.
        """
        del shape, shards
        return self

    def as_kept(self, kept: Any) -> "Storage":
        """The storage with those of the options that the shapes of the arrays in `kept` tell."""
        del kept
        return self

    def for_gradients(self) -> "Storage":
        """The storage to use for averages that may be negative."""
        return self

    def for_squares(self) -> "Storage":
        """The storage to use for averages of squares, which are never negative. It must make 0 of nothing but 0."""
        return self


_ZEROS_OF_ZEROS = set()


def zeros_of_zeros(encode: Callable[..., Any]) -> Callable[..., Any]:
    """An `encode` that makes zeros of zeros; that of a subclass may make something else of them."""
    _ZEROS_OF_ZEROS.add(encode)
    return encode


LARGEST_SCALE = np.float32(2.0**125)  # Of larger ones XLA may take a reciprocal that is 0.


def not_zero(x, positive):
    """`x`, or the smallest normal number where a product of positive numbers came out smaller than that."""
    return jnp.where(positive, jnp.maximum(x, jnp.finfo(jnp.float32).tiny), x)


def check_whole(storage: Storage, name: str, least: int, remedy: str) -> None:
    """Raises ValueError unless an option is a whole number and not less than `least`."""
    value = getattr(storage, name)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(
            f"{type(storage).__name__}: {name} must be a whole number, {least} or more, got {value!r}; {remedy}."
        )


def bits_as(dtype, x):
    return jax.lax.bitcast_convert_type(x, dtype)


def shared(x):
    from jax.ad_checkpoint import checkpoint_name

    return checkpoint_name(x, SHARED)
