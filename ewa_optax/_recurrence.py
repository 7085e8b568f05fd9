r"""The recurrence under every average of a series, $v_t = v_{t-1} + (b_t - f_t v_{t-1})$, and how fast its past fades.

What fades, $f_t$, and not what stays, $1 - f_t$: near a decay of one, the latter has lost in float32 the digits that
make out the decay. Arrays have the shape (series, time, lanes); lanes lie next to each other in memory.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ewa_optax._numerics import Number


class Fading(NamedTuple):
    r"""A decay, as $1 - \beta$ and $\log \beta$, each with the digits of the decay itself."""

    share: jax.Array
    log: jax.Array

    @classmethod
    def of(cls, decay: Number, dtype: Any) -> "Fading":
        """Formed in double precision where `decay` is a Python number."""
        tiny = float(jnp.finfo(dtype).tiny)  # So that a decay of 0 has a logarithm, and one with a derivative.
        if not isinstance(decay, jax.Array):
            return cls(jnp.asarray(1 - float(decay), dtype), jnp.asarray(math.log(max(float(decay), tiny)), dtype))
        decay = decay.astype(dtype)
        near_one = jnp.log1p(-(1 - jnp.maximum(decay, 0.5)))
        return cls(1 - decay, jnp.where(decay > 0.5, near_one, jnp.log(jnp.minimum(decay, 0.5) + tiny)))

    def powers(self, exponents: Any) -> jax.Array:
        r"""$\beta^k$."""
        return jnp.exp(jnp.asarray(exponents, self.log.dtype) * self.log)

    def faded(self, exponents: Any) -> jax.Array:
        r"""$1 - \beta^k$: what fades in $k$ steps, and the sum of the weights of $k$ values."""
        return -jnp.expm1(jnp.asarray(exponents, self.log.dtype) * self.log)


def associative(added: jax.Array, faded: jax.Array, initial: jax.Array) -> jax.Array:
    """All $v_t$ at once, along the second axis, in as many turns as twice the logarithm of the length."""

    def then(first, second):
        (b1, f1), (b2, f2) = first, second
        return b1 + (b2 - f2 * b1), f1 + f2 * (1 - f1)

    total, gone = jax.lax.associative_scan(then, (added, jnp.broadcast_to(faded, added.shape)), axis=1)
    return total + (initial[:, None] - gone * initial[:, None])
