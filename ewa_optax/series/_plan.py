"""What every way to form a running average is told: options, gaps, and the decay with all its digits."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from ewa_optax._numerics import Number

METHODS = ("serial", "associative", "blocks")


class Plan(NamedTuple):
    """What is known of an average when it is compiled."""

    debias: bool
    reverse: bool
    skip: bool
    """A row whose value is missing counts as if it had not been there."""
    method: str | None


class Gaps(NamedTuple):
    """Which values are there (series, time, lanes), and, unless always 1, the time since the row before (time,).

    None of the first leaves it to NaN. Where missing values are skipped, the clock of a lane starts at its first value:
    `waiting` (series, lanes) are those that have had none. Without times nobody asks.
    """

    observed: Any
    passed: Any
    waiting: Any


def in_time_order(x: jax.Array, plan: Plan) -> jax.Array:
    """`x` (series, time, ...) in the order of the average, or back in its own."""
    return jnp.flip(x, 1) if plan.reverse else x


class Fading(NamedTuple):
    r"""A decay, as $1 - \beta$ and $\log \beta$, each with the digits of the decay itself."""

    share: jax.Array
    log: jax.Array

    @classmethod
    def of(cls, decay: Number, dtype: Any) -> "Fading":
        """Formed in double precision where `decay` is a Python number."""
        least = float(jnp.finfo(dtype).tiny) ** 0.5  # So that a decay of 0 has a logarithm, and one with a derivative.
        if not isinstance(decay, jax.Array):
            return cls(jnp.asarray(1 - float(decay), dtype), jnp.asarray(math.log(max(float(decay), least)), dtype))
        decay = jnp.where((decay >= 0) & (decay < 1), decay.astype(dtype), jnp.nan)
        long = decay > 0.5
        of_long = jnp.log1p(-(1 - jnp.where(long, decay, 1)))
        return cls(1 - decay, jnp.where(long, of_long, jnp.log(jnp.where(long, 1, decay) + least)))

    def powers(self, exponents: Any) -> jax.Array:
        r"""$\beta^k$."""
        return jnp.exp(jnp.asarray(exponents, self.log.dtype) * self.log)

    def faded(self, exponents: Any) -> jax.Array:
        r"""$1 - \beta^k$: what fades in $k$ steps, and the sum of the weights of $k$ values."""
        exponent = jnp.asarray(exponents, self.log.dtype) * self.log
        return jnp.where(exponent < -1, 1 - jnp.exp(exponent), -jnp.expm1(exponent))  # Near 1, expm1's slope is lost.


def differing_as(x: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The same arrays; within `jax.shard_map` they may differ between devices if `x` does, as what is carried must."""
    mesh = jax.sharding.get_abstract_mesh()
    if not x.size or AxisType.Manual not in mesh.axis_types:
        return arrays
    none = (x != x).reshape(-1)[0]
    return tuple(a + none.astype(a.dtype) * 0 for a in arrays)
