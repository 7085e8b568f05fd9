r"""The recurrence under every average of a series, $v_t = v_{t-1} + (b_t - f_t v_{t-1})$, and how fast its past fades.

What fades, $f_t$, and not what stays, $1 - f_t$: near a decay of one, the latter has lost in float32 the digits that
make out the decay. Arrays have the shape (series, time, lanes); lanes lie next to each other in memory.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from ewa_optax._numerics import Number


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
        decay = decay.astype(dtype)
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


def recurrence(added: jax.Array, faded: jax.Array, initial: jax.Array, method: str | None = None) -> jax.Array:
    """All $v_t$ along the second axis, from those of the first two arguments; with a derivative in reverse.

    Step by step on a CPU, which has nothing to gain from more work in fewer turns, and compiles it sooner.
    """
    arguments = added, jnp.broadcast_to(faded, added.shape), *differing_as(added, initial)
    if method == "associative":
        return _associative(*arguments)
    return jax.lax.platform_dependent(*arguments, cpu=_serial, default=_associative)


def _serial(added, faded, initial):
    def step(carry, xs):
        value, lost = carry
        change = (xs[0] - xs[1] * value) + lost
        fresh = value + change
        # What rounding loses of a step is added to the next: else a long memory stalls in float32.
        return (fresh, jax.lax.stop_gradient(change - (fresh - value))), fresh

    xs = jnp.moveaxis(added, 1, 0), jnp.moveaxis(faded, 1, 0)
    return jnp.moveaxis(jax.lax.scan(step, (initial, initial - initial), xs)[1], 0, 1)


def _associative(added, faded, initial):
    def then(first, second):
        (b1, f1), (b2, f2) = first, second
        return b1 + (b2 - f2 * b1), f1 + f2 * (1 - f1)

    total, gone = jax.lax.associative_scan(then, (added, faded), axis=1)
    return total + (initial[:, None] - gone * initial[:, None])
