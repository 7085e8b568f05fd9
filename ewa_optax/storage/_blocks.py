"""One array in blocks of 8 bits: how it is cut, and what a code stands for."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax.storage._rounding import up_or_down
from ewa_optax.storage._storage import LARGEST_SCALE, Storage, bits_as, check_whole, not_zero, shared, zeros_of_zeros

_BLOCK = 128
_SHORTEST = 16
_WHOLE = np.float32(2.0**23)


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
            cuts the axis into equal blocks. None: of 64 to 128, such that 8 devices can share the axis and cut no
            block, or else 4 or 2, where there is such a length: 96 of 768, 72 of 576, 64 of 256 (4 devices). Where it
            is seen that devices would cut one (of parameters that lie on them, or say so in flax, or on an explicit
            mesh), blocks are shorter still.
        squares: what is averaged is never negative. Optimizers set it by themselves.
    """

    block: int | None = None
    squares: bool = False

    def __post_init__(self):
        """Checks the options."""
        super().__post_init__()
        if self.block is not None:
            check_whole(self, "block", 1, "None is at most 128, which costs 1/32 of a byte per number for scales")

    @zeros_of_zeros
    def encode(self, average: jax.Array, bits: jax.Array) -> Blocks:
        """Up or down to a code of its block."""
        size = into_blocks(jnp.abs(average := shared(average)), self.block)
        # As integers, floats of 0 or more are in the same order; XLA's maximum of floats may lose a NaN on a CPU.
        scales = bits_as(jnp.float32, _largest(bits_as(jnp.int32, size)))
        scales = jnp.where(jnp.isfinite(scales), jnp.minimum(scales, LARGEST_SCALE), scales)
        x = size / jnp.where(scales == 0, 1, scales)
        root = jnp.sqrt(jnp.sqrt(jnp.sqrt(x) if self.squares else x))
        low = jnp.minimum(jnp.floor(root * self._top), self._top - 1)
        # Whole numbers this large are their last bits, which a conversion of a float would look at one by one.
        code = bits_as(jnp.int32, up_or_down(x, low, 1, self._expand, into_blocks(bits, self.block)) + _WHOLE)
        if self.squares:
            code = jnp.maximum(code, bits_as(jnp.int32, _WHOLE) + (size > 0).astype(jnp.int32))
            return Blocks(from_blocks(code, average.shape).astype(jnp.uint8), scales[..., 0])
        sign = bits_as(jnp.int32, average) >> 31
        return Blocks(((from_blocks(code, average.shape) ^ sign) - sign).astype(jnp.int8), scales[..., 0])

    def decode(self, kept: Blocks) -> jax.Array:
        """Each code's share of the scale of its block."""
        x, block = kept.codes.astype(jnp.float32), self.as_kept(kept).block
        size = from_blocks(self._expand(into_blocks(jnp.abs(x), block)) * kept.scales[..., None], x.shape)
        return not_zero(size, x > 0) if self.squares else jnp.sign(x) * size

    def for_shards(self, shape: tuple[int, ...], shards: tuple[int, ...]) -> "EightBit":
        """Has blocks that no shard cuts."""
        *_, n = seen = _without_ones(shape)
        parts = (*shards, 1)[len(seen) - 1]
        shard = n // parts
        if parts == 1 or n % parts or shard % _width(n, self.block) == 0:
            return self
        width = next(width for width in range(min(self.block or _BLOCK, shard), 0, -1) if shard % width == 0)
        if width < _SHORTEST:
            raise ValueError(
                f"EightBit: in shards of {shard} ({n} in {parts} parts along axis {len(seen) - 1}) blocks must be a "
                f"part of {shard}, got at most {width} of the {self.block or _BLOCK} allowed; shard it along another "
                f"axis, or write EightBit(block={shard}), or a min_size above {math.prod(shape)}."
            )
        return dataclasses.replace(self, block=width)

    def as_kept(self, kept: Blocks) -> "EightBit":
        """Has the blocks that there are scales for."""
        *_, n = _without_ones(kept.codes.shape)
        blocks = kept.scales.shape[-1] if kept.scales.ndim else 0
        if not blocks or -(-n // _width(n, self.block)) == blocks or n % blocks:
            return self
        return dataclasses.replace(self, block=n // blocks)

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


def into_blocks(x: jax.Array, block: int | None) -> jax.Array:
    """`(..., n)` as `(..., blocks, width)`, the last block filled up with zeros."""
    *rest, n = _without_ones(x.shape)
    width = _width(n, block)
    x = x.reshape(*rest, n)
    if missing := -n % width:
        x = jnp.pad(x, [(0, 0)] * len(rest) + [(0, missing)])
    return x.reshape(*rest, -1, width)


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


def _width(n, block):
    """At most `block`: the largest width that divides `n`, so that nothing is filled up, but not less than half."""
    if block is None:
        return _common_width(n)
    most = min(block, n)
    return next((width for width in range(most, most // 2, -1) if n % width == 0), most)


def _common_width(n):
    """One that shards of an axis in 8, 4 or 2 parts are multiples of, and that is best for vectors, if there is any."""
    if n <= _BLOCK:
        return n
    for parts in (8, 4, 2, 1):
        for unit in (8, 1):
            for width in range(_BLOCK, _BLOCK // 2 - 1, -unit):
                if n % (parts * width) == 0:
                    return width
    return _BLOCK


def _without_ones(shape):
    shape = tuple(shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape or (1,)
