r"""Arithmetic on one array, in float32 or wider, that equals the formula.

Two forms carry the accuracy. An average moves by `average + weight * (value - average)`: one coefficient, so nothing
has to sum to one after rounding. The sum of its weights is `-expm1(t * log(decay))`, because `1 - decay**t` in float32
loses the digits of $1 - \beta$ that a decay near one consists of.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Decay = float | jax.Array


def wide_dtype(dtype: Any) -> Any:
    """The dtype to compute and keep averages in: float32 for narrower floats, else the dtype itself."""
    dtype = jnp.dtype(dtype)
    narrow_float = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32) if narrow_float else dtype


def widen(x: Any) -> jax.Array:
    """`x` as a strongly typed array in its wide dtype."""
    x = jnp.asarray(x)
    return x.astype(wide_dtype(x.dtype))


def largest(dtype: Any) -> float:
    """The largest finite number of a real or complex dtype."""
    return float(jnp.finfo(dtype).max)


def saturate(x: jax.Array, bound: float) -> jax.Array:
    """`x` with real and imaginary parts held within plus and minus `bound`; NaN stays NaN."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(saturate(x.real, bound), saturate(x.imag, bound))
    return jnp.clip(x, -bound, bound)


def narrow(x: jax.Array, dtype: Any) -> jax.Array:
    """`x` in `dtype`; what is too large for it becomes its largest finite number, not infinity."""
    if largest(dtype) < largest(x.dtype):
        x = saturate(x, largest(dtype))
    return x.astype(dtype)


def squared_magnitude(x: jax.Array) -> jax.Array:
    r"""$|x|^2$, real for complex `x` too."""
    return (x.conj() * x).real if jnp.iscomplexobj(x) else jnp.square(x)


def lerp(average: jax.Array, value: jax.Array, weight: Decay) -> jax.Array:
    """`average` moved towards `value` by the fraction `weight`, in the wider of the two dtypes.

    A value saturates at half the largest number that both dtypes hold, so that neither the difference nor a later
    division by the sum of weights overflows, and an infinite square does not stay in the average for ever.
    """
    value = saturate(value, min(largest(value.dtype), largest(average.dtype)) / 2)
    dtype = jnp.promote_types(value.dtype, average.dtype)
    average, value = average.astype(dtype), value.astype(dtype)
    return average + jnp.asarray(weight, jnp.finfo(dtype).dtype) * (value - average)


def complement(decay: Decay) -> Decay:
    """`1 - decay`, in double precision where `decay` is a Python number."""
    return 1 - (widen(decay) if isinstance(decay, jax.Array) else float(decay))


def weight_sum(decay: Decay, count: jax.Array) -> jax.Array:
    r"""$1 - \beta^t$: the sum of the weights of an average after `count` values, `count` 1 or more."""
    if isinstance(decay, jax.Array):
        log_decay = jnp.log1p(-jnp.asarray(complement(decay)))
    else:
        log_decay = math.log(decay) if decay > 0 else -math.inf
    return -jnp.expm1(count.astype(float) * log_decay)


def newest_weight(decay: Decay, count: jax.Array) -> Decay:
    r"""$(1 - \beta) / (1 - \beta^t)$: the weight of the newest value in a bias-corrected average of `count` values.

    Its limit for a decay of 1 is $1/t$, the plain mean. A Python number never gets there, but an array may: bfloat16
    rounds 0.999 to 1.
    """
    fraction = complement(decay) / weight_sum(decay, count)
    if isinstance(decay, jax.Array):
        return jnp.where(jnp.asarray(complement(decay)) > 0, fraction, 1 / count)
    return fraction


def increment(count: jax.Array) -> jax.Array:
    """`count + 1`, which stays at the largest integer instead of wrapping round to a negative one."""
    return jnp.asarray(optax.safe_increment(count))


def map_leaves(function: Callable[..., Any], updates: Any, *rest: Any) -> Any:
    """`jax.tree.map` in which a leaf of `updates` may be None: it gives None, whatever the other trees hold there."""
    return jax.tree.map(
        lambda u, *others: None if u is None else function(u, *others),
        updates,
        *rest,
        is_leaf=lambda x: x is None,
    )
