"""How one array is kept: as float16, bfloat16, 24 bits, blocks of 8 bits, or factors."""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._numerics import clip, largest
from ewa_optax._random_bits import HALF
from ewa_optax.storage._rounding import round_bits, up_or_down

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
        _check_whole(self, "min_size", 0, "0 encodes every leaf")
        _check_whole(self, "seed", 0, "0 is as good as any other")

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

    def for_gradients(self) -> "Storage":
        """The storage to use for averages that may be negative."""
        return self

    def for_squares(self) -> "Storage":
        """The storage to use for averages of squares, which are never negative. It must make 0 of nothing but 0."""
        return self


_ZEROS_OF_ZEROS = set()


def _zeros_of_zeros(encode: Callable[..., Any]) -> Callable[..., Any]:
    """An `encode` that makes zeros of zeros; that of a subclass may make something else of them."""
    _ZEROS_OF_ZEROS.add(encode)
    return encode


class BFloat16(Storage):
    """2 bytes: 8 bits of precision, and the range of float32. NaN and infinities stay what they are."""

    @_zeros_of_zeros
    def encode(self, average: jax.Array, bits: jax.Array) -> jax.Array:
        """Up or down to a bfloat16."""
        return _upper_half(round_bits(average, 16, bits))

    def decode(self, kept: jax.Array) -> jax.Array:
        """The bfloat16 as float32."""
        return kept.astype(jnp.float32)


class Split(NamedTuple):
    """The upper 24 bits of a float32: the first 16 as a bfloat16, and 8 more."""

    high: jax.Array
    low: jax.Array


class Float24(Storage):
    """3 bytes: 16 bits of precision, and the range of float32. NaN and infinities stay what they are.

    For averages that must be quiet, such as those of parameters: the noise of 16 bits is some percent, of 24 some 1e-4.
    """

    @_zeros_of_zeros
    def encode(self, average: jax.Array, bits: jax.Array) -> Split:
        """Up or down to the upper 24 bits of a float32."""
        raw = _shared(round_bits(average, 8, bits))
        return Split(_upper_half(raw), (raw >> 8).astype(jnp.uint8))

    def decode(self, kept: Split) -> jax.Array:
        """Both parts together."""
        high = jax.lax.bitcast_convert_type(kept.high, jnp.uint16).astype(jnp.uint32)
        return jax.lax.bitcast_convert_type(high << 16 | kept.low.astype(jnp.uint32) << 8, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Float16(Storage):
    """2 bytes: 11 bits of precision, from 6e-8 to 65504, where numbers saturate.

    Args:
        squares: what is averaged is never negative. Then roots are kept, which span the squares of that range, and none
            but that of 0 is rounded to 0. Optimizers set it by themselves.
    """

    squares: bool = False

    @_zeros_of_zeros
    def encode(self, average: jax.Array, bits: jax.Array) -> jax.Array:
        """Up or down to a float16."""
        # XLA would write down the squares, of whose root it makes more than one use, of all leaves at once.
        average = _shared(average) if self.squares else average
        top = largest(jnp.float16)
        x = jnp.abs(clip(average, top**2 if self.squares else top))
        size = jnp.sqrt(x) if self.squares else x
        exponent = jax.lax.bitcast_convert_type(size, jnp.uint32) & np.uint32(0x7F800000)
        unit = jnp.maximum(jax.lax.bitcast_convert_type(exponent, jnp.float32), 2.0**-14) * 2.0**-10
        # Of a power of two the inverse is exact: a product costs less than a division, and is the same.
        low = jnp.floor(size * _as(jnp.float32, np.uint32(0x7F000000) - _as(jnp.uint32, unit))) * unit
        rounded = up_or_down(x, low, unit, self._expand, bits)
        if self.squares:
            rounded = jnp.where(x > 0, jnp.maximum(rounded, 2.0**-24), rounded)
        rounded = jnp.where(jnp.isfinite(average), jnp.copysign(rounded, average), average)
        return rounded.astype(jnp.float16)

    def decode(self, kept: jax.Array) -> jax.Array:
        """The float16, or its square, as float32."""
        return self._expand(kept.astype(jnp.float32))

    def _expand(self, size):
        return jnp.square(size) if self.squares else size

    def for_gradients(self) -> "Float16":
        """Keeps the averages themselves."""
        return dataclasses.replace(self, squares=False)

    def for_squares(self) -> "Float16":
        """Keeps roots, which stay in range, and never rounds one to 0."""
        return dataclasses.replace(self, squares=True)


class Blocks(NamedTuple):
    """Codes of 8 bits, in the shape of the average, and the largest absolute value of each block, float32."""

    codes: jax.Array
    scales: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class EightBit(Storage):
    r"""1 byte, and 4 more for each block of neighbours along the last axis: a float32 scale.

    A code $k$ of -127 to 127 stands for $\pm(k/127)^4$ of the largest number of its block; of squares, one of 0 to 255
    stands for $(k/255)^8$, and only 0 has the code 0. Numbers saturate at 4e37; a NaN or an infinity makes its block
    NaN.

    Args:
        block: the longest a block may be. A block is a whole axis if that is shorter, and up to half shorter where that
            cuts the axis into equal blocks.
        squares: what is averaged is never negative. Optimizers set it by themselves.
    """

    block: int = 128
    squares: bool = False

    def __post_init__(self):
        """Checks the options."""
        super().__post_init__()
        _check_whole(self, "block", 1, "128 costs 1/32 of a byte per number for scales")

    @_zeros_of_zeros
    def encode(self, average: jax.Array, bits: jax.Array) -> Blocks:
        """Up or down to a code of its block."""
        size = into_blocks(jnp.abs(average := _shared(average)), self.block)
        # As integers, floats of 0 or more are in the same order; XLA's maximum of floats may lose a NaN on a CPU.
        scales = _as(jnp.float32, _largest(_as(jnp.int32, size)))
        scales = jnp.where(jnp.isfinite(scales), jnp.minimum(scales, _LARGEST_SCALE), scales)
        x = size / jnp.where(scales == 0, 1, scales)
        root = jnp.sqrt(jnp.sqrt(jnp.sqrt(x) if self.squares else x))
        low = jnp.minimum(jnp.floor(root * self._top), self._top - 1)
        # Whole numbers this large are their last bits, which a conversion of a float would look at one by one.
        code = _as(jnp.int32, up_or_down(x, low, 1, self._expand, into_blocks(bits, self.block)) + _WHOLE)
        if self.squares:
            code = jnp.maximum(code, _as(jnp.int32, _WHOLE) + (size > 0).astype(jnp.int32))
            return Blocks(from_blocks(code, average.shape).astype(jnp.uint8), scales[..., 0])
        sign = _as(jnp.int32, average) >> 31
        return Blocks(((from_blocks(code, average.shape) ^ sign) - sign).astype(jnp.int8), scales[..., 0])

    def decode(self, kept: Blocks) -> jax.Array:
        """Each code's share of the scale of its block."""
        x = kept.codes.astype(jnp.float32)
        size = from_blocks(self._expand(into_blocks(jnp.abs(x), self.block)) * kept.scales[..., None], x.shape)
        return _not_zero(size, x > 0) if self.squares else jnp.sign(x) * size

    def for_gradients(self) -> "EightBit":
        """Has a sign."""
        return dataclasses.replace(self, squares=False)

    def for_squares(self) -> "EightBit":
        """Has no sign, twice the power, and no code 0 but for 0."""
        return dataclasses.replace(self, squares=True)

    @property
    def _top(self):
        return 255 if self.squares else 127

    def _expand(self, code):
        fourth = jnp.square(jnp.square(code * np.float32(1 / self._top)))
        return jnp.square(fourth) if self.squares else fourth


class Factors(NamedTuple):
    """The means over the last axis and over the one before it."""

    rows: jax.Array
    columns: jax.Array


class Factored(Storage):
    """Next to no bytes, for averages of squares only: the mean of the row times that of the column, over the mean.

    Exact where squares are such a product; where they are not, still right in the mean of each row and column. What has
    fewer than two axes stays float32. A NaN makes its whole leaf NaN. There is nothing to round. From Shazeer and
    Stern, "Adafactor", 2018.
    """

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Arrays with two axes or more."""
        return len(shape) >= 2 and super().takes(shape)

    @_zeros_of_zeros
    def encode(self, average: jax.Array, bits: jax.Array) -> Factors:
        """The means, which need no rounding."""
        del bits
        average = _shared(average)
        rows, columns = (average * np.float32(1 / max(average.shape[axis], 1)) for axis in (-1, -2))
        return Factors(rows.sum(-1), columns.sum(-2))  # No sum is larger than the largest of its terms.

    def decode(self, kept: Factors) -> jax.Array:
        """The product of the means, over their mean."""
        mean = (kept.columns * np.float32(1 / max(kept.columns.shape[-1], 1))).sum(-1, keepdims=True)
        rows, columns = kept.rows[..., None], kept.columns[..., None, :]
        shares = columns / jnp.where(mean == 0, 1, mean)[..., None, :]
        return _not_zero(jnp.minimum(rows * shares, _LARGEST_SCALE), (rows > 0) & (columns > 0))

    def for_gradients(self) -> "Factored":
        """An error."""
        raise ValueError(
            "Factored keeps averages of squares only, not of gradients; use it in rmsprop, or for the second moment: "
            "adam(1e-3, storage=('bfloat16', ewa_optax.storage.Factored()))."
        )


_WHOLE = np.float32(2.0**23)
_LARGEST_SCALE = np.float32(2.0**125)  # Of larger ones XLA may take a reciprocal that is 0.


def _not_zero(x, positive):
    """`x`, or the smallest normal number where a product of positive numbers came out smaller than that."""
    return jnp.where(positive, jnp.maximum(x, jnp.finfo(jnp.float32).tiny), x)


def _check_whole(storage: Storage, name: str, least: int, remedy: str) -> None:
    """Raises ValueError unless an option is a whole number and not less than `least`."""
    value = getattr(storage, name)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(
            f"{type(storage).__name__}: {name} must be a whole number, {least} or more, got {value!r}; {remedy}."
        )


def _as(dtype, x):
    return jax.lax.bitcast_convert_type(x, dtype)


def _shared(x):
    from jax.ad_checkpoint import checkpoint_name

    return checkpoint_name(x, SHARED)


def _upper_half(raw):
    return jax.lax.bitcast_convert_type((raw >> 16).astype(jnp.uint16), jnp.bfloat16)


def into_blocks(x: jax.Array, block: int) -> jax.Array:
    """`(..., n)` as `(..., blocks, width)`, the last block filled up with zeros."""
    *rest, n = _without_ones(x.shape)
    each = width(n, block)
    x = x.reshape(*rest, n)
    if missing := -n % each:
        x = jnp.pad(x, [(0, 0)] * len(rest) + [(0, missing)])
    return x.reshape(*rest, -1, each)


def from_blocks(blocks: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The array of that shape that was cut into blocks."""
    *rest, n = _without_ones(shape)
    return blocks.reshape(*rest, -1)[..., :n].reshape(shape)


def _largest(x):
    """The largest of each block, by halves at first: on a CPU, a maximum along a long last axis takes no vectors."""
    while x.shape[-1] > 16 and x.shape[-1] % 2 == 0:
        half = x.shape[-1] // 2
        x = jnp.maximum(x[..., :half], x[..., half:])
    return x.max(-1, keepdims=True)


def blocks_in(n: int, block: int) -> int:
    """The number of blocks that an axis is cut into."""
    return -(-n // width(n, block))


def width(n: int, block: int) -> int:
    """At most `block`: the largest width that divides `n`, so that nothing is filled up, but not less than half."""
    most = min(block, n)
    return next((each for each in range(most, most // 2, -1) if n % each == 0), most)


def _without_ones(shape):
    shape = tuple(shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape or (1,)
