"""How one array is kept: as float16, bfloat16, 24 bits, blocks of 8 bits, or factors."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._numerics import clip, largest, mean
from ewa_optax.storage._rounding import round_bits, up_or_down
from ewa_optax.storage._storage import LARGEST_SCALE, Storage, bits_as, not_zero, shared, zeros_of_zeros


class BFloat16(Storage):
    """2 bytes: 8 bits of precision, and the range of float32. NaN and infinities stay what they are."""

    @zeros_of_zeros
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

    @zeros_of_zeros
    def encode(self, average: jax.Array, bits: jax.Array) -> Split:
        """Up or down to the upper 24 bits of a float32."""
        raw = shared(round_bits(average, 8, bits))
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

    @zeros_of_zeros
    def encode(self, average: jax.Array, bits: jax.Array) -> jax.Array:
        """Up or down to a float16."""
        # XLA would write down the squares, of whose root it makes more than one use, of all leaves at once.
        average = shared(average) if self.squares else average
        top = largest(jnp.float16)
        x = jnp.abs(clip(average, top**2 if self.squares else top))
        size = jnp.sqrt(x) if self.squares else x
        exponent = jax.lax.bitcast_convert_type(size, jnp.uint32) & np.uint32(0x7F800000)
        unit = jnp.maximum(jax.lax.bitcast_convert_type(exponent, jnp.float32), 2.0**-14) * 2.0**-10
        # Of a power of two the inverse is exact: a product costs less than a division, and is the same.
        low = jnp.floor(size * bits_as(jnp.float32, np.uint32(0x7F000000) - bits_as(jnp.uint32, unit))) * unit
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


class Factors(NamedTuple):
    """The means over the last axis, over the one before it, and over both.

    The last is that of the shorter of the others. It is kept, because it would have to be summed over all devices that
    share that axis before the next average can be formed, where now it is summed with the others.
    """

    rows: jax.Array
    columns: jax.Array
    mean: jax.Array

    @classmethod
    def of(cls, rows: jax.Array, columns: jax.Array) -> "Factors":
        """With the mean that goes with these."""
        shorter = rows if rows.shape[-1] <= columns.shape[-1] else columns
        return cls(rows, columns, mean(shorter, -1))


class Factored(Storage):
    """Next to no bytes, for averages of squares only: the mean of the row times that of the column, over the mean.

    Exact where squares are such a product; where they are not, still right in the mean of each row and column. What has
    fewer than two axes stays float32. A NaN makes its whole leaf NaN. There is nothing to round. From Shazeer and
    Stern, "Adafactor", 2018.
    """

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Arrays with two axes or more."""
        return len(shape) >= 2 and super().takes(shape)

    @zeros_of_zeros
    def encode(self, average: jax.Array, bits: jax.Array) -> Factors:
        """The means, which need no rounding."""
        del bits
        return Factors.of(*means(shared(average)))

    def decode(self, kept: Factors) -> jax.Array:
        """The product of the means, over that of all."""
        rows, columns, mean = kept.rows[..., None], kept.columns[..., None, :], kept.mean[..., None, None]
        shares = columns / jnp.where(mean == 0, 1, mean)
        return not_zero(jnp.minimum(rows * shares, LARGEST_SCALE), (rows > 0) & (columns > 0))

    def for_gradients(self) -> "Factored":
        """An error."""
        raise ValueError(
            "Factored keeps averages of squares only, not of gradients; use it in rmsprop, or for the second moment: "
            "adam(1e-3, storage=('bfloat16', ewa_optax.storage.Factored()))."
        )


def means(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Those over the last axis, and those over the one before it."""
    return mean(x, -1), mean(x, -2)


def _upper_half(raw):
    return jax.lax.bitcast_convert_type((raw >> 16).astype(jnp.uint16), jnp.bfloat16)
