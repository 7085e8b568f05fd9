r"""Arithmetic on one array, in float32 or wider, that equals the formula.

Two forms carry the accuracy. An average moves by `average + share * (value - average)`: one coefficient, so nothing
has to sum to one after rounding. The sum of its weights is `-expm1(t * log(decay))`, because `1 - decay**t` in float32
loses the digits of $1 - \beta$ that make out a decay near one.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Number = float | jax.Array
_WIDE = {jnp.dtype(name) for name in ("float32", "float64", "complex64", "complex128")}


def as_float(x: Number) -> Number:
    """A number as a float: of an integer, JAX keeps 32 bits without a word, and sums of short ones wrap round."""
    if isinstance(x, jax.Array):
        return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)
    return float(x)


@functools.cache
def wide_dtype(dtype: Any) -> Any:
    """The dtype to compute and keep averages in: float32 for narrower floats, else the dtype itself."""
    dtype = jnp.dtype(dtype)
    narrow_float = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32) if narrow_float else dtype


def _is_strong(x):
    """Whether it is an array whose dtype is no mere preference: most are, and need no look at their dtype."""
    return isinstance(x, jax.Array) and not x.weak_type


def widen(x: Any) -> jax.Array:
    """`x` as a strongly typed array in its wide dtype."""
    if _is_strong(x) and x.dtype in _WIDE:
        return x
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"a leaf of shape {jnp.shape(x)} has dtype {dtype}, but an update must be float or complex; "
            "leave it out by optax.masked or optax.partition around the optimizer, or by a None leaf."
        )
    return jnp.asarray(x, wide_dtype(dtype))


@functools.cache
def largest(dtype: Any) -> float:
    """The largest finite number of a real or complex dtype."""
    return float(jnp.finfo(dtype).max)


def clip(x: jax.Array, bound: Number) -> jax.Array:
    """`x` with real and imaginary parts held within plus and minus `bound`; NaN stays NaN."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(clip(x.real, bound), clip(x.imag, bound))
    number = bound.astype(x.dtype) if isinstance(bound, jax.Array) else np.asarray(bound, x.dtype)
    return jax.lax.clamp(-number, x, number)


def narrow(x: jax.Array, dtype: Any) -> jax.Array:
    """`x` in `dtype`; what is too large for it becomes its largest finite number, not infinity."""
    if _is_strong(x) and x.dtype == dtype:
        return x
    if largest(dtype) < largest(x.dtype):
        x = clip(x, largest(dtype))
    return x.astype(dtype)


def squared_magnitude(x: jax.Array) -> jax.Array:
    r"""$|x|^2$, real for complex `x` too."""
    return (x.conj() * x).real if jnp.iscomplexobj(x) else jnp.square(x)


def norm(x: jax.Array, count: float = 1.0, axis: tuple[int, ...] | None = None) -> jax.Array:
    r"""$\sqrt{\sum |x|^2 / \mathrm{count}}$, of finite numbers at most a quarter of the largest, and so finite.

    Of all, or along some axes, which stay as axes of length 1.

    In float32 the square of 2e19 would be infinite and that of 1e-23 zero. So the largest is brought to between 1 and 2
    before, by a power of two, which changes no digit.
    """
    parts = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
    size = functools.reduce(
        jnp.maximum, (jnp.max(jnp.abs(part), axis, keepdims=axis is not None, initial=0) for part in parts)
    )
    scale = _inverse_power_of_two(size)
    # Of constant parts XLA would make part**2 * scale**2, not each of which is finite.
    scaled = jax.lax.optimization_barrier([part * scale for part in parts])
    squares = functools.reduce(jnp.add, map(jnp.square, scaled))
    root = jnp.sqrt(jnp.sum(squares, axis, keepdims=axis is not None) / count) / scale
    return jnp.where(jnp.isfinite(size), jnp.minimum(root, largest(root.dtype) / 4), root)


def mean(x: jax.Array, axis: int | tuple[int, ...], keepdims: bool = False) -> jax.Array:
    """Along some axes; 0 of nothing. By a product before the sum, which so is no larger than its largest term."""
    count = math.prod(x.shape[i] for i in (axis if isinstance(axis, tuple) else (axis,)))
    return (x * np.asarray(1 / max(count, 1), jnp.finfo(x.dtype).dtype)).sum(axis, keepdims=keepdims)


def _inverse_power_of_two(x):
    """The power of two times which a number is between 1 and 2; its square is finite, and so it is less of the tiny."""
    info = jnp.finfo(x.dtype)
    exponent = jax.lax.bitcast_convert_type(x, np.dtype(f"int{info.bits}")) >> info.nmant
    inverse = jnp.clip(2 * info.maxexp - 2 - exponent, 1, 3 * info.maxexp // 2 - 2)
    return jax.lax.bitcast_convert_type(inverse << info.nmant, x.dtype)


def check_alike(value: jax.Array, average: jax.Array) -> None:
    """Raises unless an update may be averaged: ValueError for another shape, TypeError for complex to real."""
    if value.shape != average.shape:
        raise ValueError(f"an update of shape {value.shape} came for a parameter of shape {average.shape}.")
    if jnp.iscomplexobj(value) and not jnp.iscomplexobj(average):
        raise TypeError(
            f"a complex update of shape {value.shape} came for a real parameter; "
            "take its real part, or make the parameter complex."
        )


def lerp(average: jax.Array, value: jax.Array, decay: Number, past: Number, newest: Number) -> jax.Array:
    """`past * average + newest * value` for shares that sum to one, in the wider of the two dtypes.

    It starts from whichever the decay gives the larger share, and moves by the smaller share of the difference: from
    the other end, a small value after a large one would drown in the rounding of the large one.
    """
    check_alike(value, average)
    dtype = jnp.promote_types(value.dtype, average.dtype)
    average, value, past, newest = (jnp.asarray(x, dtype) for x in (average, value, past, newest))
    if isinstance(decay, jax.Array):
        return jnp.where(decay >= 0.5, average + newest * (value - average), value + past * (average - value))
    return average + newest * (value - average) if decay >= 0.5 else value + past * (average - value)


def shares(decay: Number) -> tuple[Number, Number]:
    r"""$\beta$ and $1 - \beta$: what the past and the newest value make up of an average.

    Args:
        decay: $\beta$, a number or a scalar array, as in `scale_by_ewa`.

    Returns:
        Both. Of a Python number in double precision, else in float32 or wider: in 16 bits the difference were wrong.

    Raises:
        TypeError: an array that is neither float nor complex.

    Examples:
        >>> from ewa_optax import pieces
        >>> past, newest = pieces.shares(0.75)
        >>> print(past, newest)
        0.75 0.25
    """
    decay = widen(decay) if isinstance(decay, jax.Array) else float(decay)
    return decay, 1 - decay


def corrected_shares(decay: Number, count: jax.Array) -> tuple[jax.Array, jax.Array]:
    r"""The same for a bias-corrected average of `count` values: the newest makes up $(1 - \beta) / (1 - \beta^t)$.

    Its limit for a decay of 1 is $1/t$, the plain mean. A Python number never gets there, but an array may: bfloat16
    rounds 0.999 to 1.
    """
    past, newest = shares(decay)
    total = weight_sum(decay, count)
    t = count.astype(float)
    if not isinstance(decay, jax.Array):
        return (past - past**t) / total, newest / total
    total = jnp.where(decay < 1, total, 1)
    return jnp.where(decay < 1, (past - past**t) / total, 1 - 1 / t), jnp.where(decay < 1, newest / total, 1 / t)


def weight_sum(decay: Number, count: jax.Array) -> jax.Array:
    r"""$1 - \beta^t$: the sum of the weights of an average after `count` values.

    Below one half the formula as printed loses nothing, and has a derivative at 0.
    """
    t = count.astype(float)
    if isinstance(decay, jax.Array):
        decay = widen(decay)
        of_long = -jnp.expm1(t * jnp.log(jnp.maximum(decay, 0.5)))
        return jnp.where(decay < 0.5, 1 - jnp.minimum(decay, 0.5) ** t, of_long)
    return 1 - float(decay) ** t if decay < 0.5 else -jnp.expm1(t * math.log(decay))


def real_like(p: Any) -> Any:
    """Zeros for the magnitudes of complex numbers; what is real is itself."""
    dtype = jnp.result_type(p)
    return jnp.zeros_like(p, dtype=jnp.finfo(dtype).dtype) if jnp.issubdtype(dtype, jnp.complexfloating) else p


def power(base: Number, exponent: jax.Array) -> jax.Array:
    """`base**exponent` of a base in (0, 1]; a Python number's logarithm is taken in double precision."""
    return jnp.exp(exponent * (jnp.log(widen(base)) if isinstance(base, jax.Array) else math.log(base)))


def is_just(value: Any, number: float) -> bool:
    """Whether it is that Python number, so that what it would do can be left out of the program."""
    return isinstance(value, int | float) and value == number


def anywhere(flag: jax.Array) -> jax.Array:
    """Whether it is so on any device: in `jax.shard_map`, each sees but a part."""
    axes = tuple(getattr(jax.typeof(flag).manual_axis_type, "varying", ()))
    return jax.lax.pmax(flag.astype(jnp.int32), axes) > 0 if axes else flag


def increment(count: jax.Array) -> jax.Array:
    """`count + 1`, which stays at the largest integer instead of wrapping round to a negative one."""
    return jnp.asarray(optax.safe_increment(count))
