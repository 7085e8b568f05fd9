r"""Averages of updates, and what is kept like one: each a line of arithmetic on what was kept and what comes.

`scale_by_ewa` is the plain one. The others differ from it in one thing each: the bias is corrected on the way; the
share of the newest value changes with time; what leaves is not what is kept; the largest is kept instead of the mean.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import Decay, Epsilon, checked, rule
from ewa_optax._numerics import (
    Number,
    check_alike,
    corrected_shares,
    increment,
    is_just,
    lerp,
    real_like,
    shares,
    squared_magnitude,
)
from ewa_optax._trees import Leafwise
from ewa_optax.pieces._recursion import advanced, averaging, moved
from ewa_optax.storage._argument import StorageLike, resolve
from ewa_optax.storage._encoding import AverageCodec
from ewa_optax.storage._storage import Storage
from ewa_optax.storage._telling import first

FadingDecay = Annotated[
    Number, rule("in [0, 1]", lambda x: 0 <= x <= 1, "1 forgets nothing, 0.999 forgets half in 700 steps")
]


class ScaleByEwaState(NamedTuple):
    """The average of each leaf, in float32 or wider or as its storage keeps it, and, with a storage, the step."""

    average: Any
    step: Any = None


@checked
def scale_by_ewa(decay: Decay, storage: Storage | str | None = None) -> optax.GradientTransformation:
    r"""Replaces each update by the exponentially weighted average of the updates so far.

    $$v_0 = 0, \qquad v_t = \beta v_{t-1} + (1 - \beta) g_t$$

    Args:
        decay: $\beta$ in [0, 1): the average spans about $1/(1-\beta)$ steps (0.9: 10 steps, 0.999: 1000). A Python
            number or a scalar array, traced or not; as a Python number, $1-\beta$ keeps its digits however close to 1.
        storage: how the average is kept between steps: None (float32, or the parameter's own dtype where that is
            wider), "bfloat16", "float16", "8bit", "24bit", or an object of `ewa_optax.storage`, with its options. An
            average of squares needs `storage.EightBit(squares=True)` or `storage.Float16(squares=True)`, which the
            optimizers choose by themselves.

    Returns:
        A transformation whose state holds one average per parameter, of the parameter's shape. What leaves is the
        fresh average in float32 or wider; only what is kept is rounded. Updates of any float or complex dtype; they
        leave in the dtype they came in. None leaves, for parameters that are not trained, stay None and leave their
        average alone.

    Raises:
        ValueError: `decay` outside [0, 1), or an array that is no scalar; a storage of unknown name.
        TypeError: `decay` is no number, or `storage` no storage; a parameter or an update is neither float nor
            complex, or an update is complex where the parameter is real.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> average = ewa_optax.scale_by_ewa(0.98)
        >>> state = average.init(jnp.zeros(()))
        >>> v, state = average.update(jnp.array(40.0), state)
        >>> print(f"{v:.4f}")
        0.8000

    Reference:
        Polyak, "Some methods of speeding up the convergence of iteration methods", 1964; Andrew Ng et al.,
        "Improving Deep Neural Networks", week 2, "Exponentially weighted averages".
    """
    codec = AverageCodec(resolve(storage), piece=0)
    advance = Leafwise(moved, decay)

    def init(params):
        return ScaleByEwaState(first(codec, params, "raw", decay), codec.storage and jnp.zeros([], jnp.int32))

    def update(updates, state, params=None):
        del params
        trees = codec.trees(state.average)
        step = codec.storage and increment(state.step)
        out, average = advanced(advance, shares(decay), updates, trees, codec, step, decay)
        return out, ScaleByEwaState(average, step)

    return optax.GradientTransformation(init, update)


@checked
def scale_by_corrected_ewa(decay: Decay, storage: StorageLike = None) -> optax.GradientTransformation:
    r"""`chain(scale_by_ewa(decay), bias_correct(decay))` as one recursion, equal up to rounding.

    $$\hat v_t = \hat v_{t-1} + \frac{1 - \beta}{1 - \beta^t} (g_t - \hat v_{t-1})$$

    The division is folded into the share of the newest value, a scalar, which saves an operation per element.

    Args:
        decay: $\beta$ in [0, 1): the average spans about $1/(1-\beta)$ steps.
        storage: how the average is kept between steps, as in `scale_by_ewa`.

    Returns:
        A transformation that keeps one number per parameter, in float32 or wider. Updates leave in their own dtype. The
        step $t$ is one for all leaves: of one that is None at some steps, the bias is corrected too little.

    Raises:
        ValueError: a decay outside [0, 1), or a storage of unknown name.
        TypeError: a decay that is no number, or no storage.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> average = pieces.scale_by_corrected_ewa(0.98)
        >>> v, state = average.update(jnp.array(40.0), average.init(jnp.zeros(())))
        >>> print(f"{v:.2f}")
        40.00

    Reference:
        Kingma and Ba, "Adam: a method for stochastic optimization", 2015, section 3.
    """
    at = functools.partial(corrected_shares, decay)
    return averaging("corrected", Leafwise(moved, decay), storage, decay, at=at)


@checked
def scale_by_ewa_of_share(
    share: Callable[[jax.Array], jax.Array], storage: StorageLike = None, *, decay: FadingDecay = 1.0
) -> optax.GradientTransformation:
    r"""An average in which the share of the newest value changes with time.

    $$v_t = v_{t-1} + s_t (g_t - v_{t-1}), \qquad s_t = 1 - \beta_t$$

    The share, and not the decay, so that it keeps its digits when the decay is close to 1.

    Args:
        share: $s_t$ in (0, 1], a function of the step, a float that begins with 1. With $s_1 = 1$ the average begins
            with the first value, and has no bias. $1/t$ gives the plain mean.
        storage: how the average is kept between steps, as in `scale_by_ewa`.
        decay: what $\beta_t$ comes to in the long run, in [0, 1]. Below 1/2 the sum is formed from its other end, so
            that small values after large ones keep their digits.

    Returns:
        A transformation that keeps one number per parameter, in float32 or wider. Updates leave in their own dtype.

    Raises:
        ValueError: a decay outside [0, 1], or a storage of unknown name.
        TypeError: a share that is no function, a decay that is no number, or no storage.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> mean = pieces.scale_by_ewa_of_share(lambda t: 1 / t)
        >>> state = mean.init(jnp.zeros(()))
        >>> for g in (1.0, 2.0, 6.0):
        ...     v, state = mean.update(jnp.array(g), state)
        >>> print(v)
        3.0

    Reference:
        Shazeer and Stern, "Adafactor", 2018, section 7.2, whose decay grows with time.
    """
    if not callable(share):
        raise TypeError(
            f"scale_by_ewa_of_share: share must be a function of the step, got {share!r} ({type(share).__name__}); "
            "for a fixed decay take scale_by_ewa(decay)."
        )

    def at(step):
        newest = share(step.astype(float))
        return 1 - newest, newest

    return averaging("of share", Leafwise(moved, decay), storage, decay, at=at)


@checked
def running_max(decay: FadingDecay = 1.0, storage: StorageLike = None) -> optax.GradientTransformation:
    r"""The largest so far of values that are never negative, such as squares; it may fade.

    $$v_t = \max(\beta v_{t-1}, x_t)$$

    Args:
        decay: $\beta$ in [0, 1]: what is left of an old maximum after each step.
        storage: how it is kept between steps, as in `scale_by_ewa`.

    Returns:
        A transformation that keeps one number per parameter, in float32 or wider. Updates leave in their own dtype.

    Raises:
        ValueError: a decay outside [0, 1], or a storage of unknown name.
        TypeError: a decay that is no number, or no storage.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> largest = pieces.running_max(0.5)
        >>> state = largest.init(jnp.zeros(()))
        >>> for x in (8.0, 1.0, 3.0):
        ...     v, state = largest.update(jnp.array(x), state)
        >>> print(v)
        3.0

    Reference:
        Kingma and Ba, "Adam", 2015, section 7.1 (AdaMax); Reddi et al., "On the convergence of Adam and beyond", 2018.
    """
    return averaging("maximum", Leafwise(_larger, decay), storage, decay)


@checked
def scale_by_additive_ewa(decay: Decay, storage: StorageLike = None) -> optax.GradientTransformation:
    r"""An average of squares that falls no faster than it rises: it moves by the new value, not by the difference.

    $$v_t = v_{t-1} - (1 - \beta)\, \mathrm{sign}(v_{t-1} - x_t)\, x_t$$

    Args:
        decay: $\beta$ in [0, 1).
        storage: how the average is kept between steps, as in `scale_by_ewa`.

    Returns:
        A transformation that keeps one number per parameter, in float32 or wider. Updates leave in their own dtype.

    Raises:
        ValueError: a decay outside [0, 1), or a storage of unknown name.
        TypeError: a decay that is no number, or no storage.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> average = pieces.scale_by_additive_ewa(0.5)
        >>> state = average.init(jnp.zeros(()))
        >>> for x in (4.0, 1.0, 1.0):
        ...     v, state = average.update(jnp.array(x), state)
        >>> print(v)
        1.0

    Reference:
        Zaheer et al., "Adaptive methods for nonconvex optimization", 2018 (Yogi).
    """
    return averaging("additive", Leafwise(_moved_by_value, decay), storage, decay)


def difference(storage: StorageLike = None) -> optax.GradientTransformation:
    r"""How the update differs from the one before: $g_t - g_{t-1}$, and 0 at the first step.

    Args:
        storage: how the last update is kept between steps, as in `scale_by_ewa`.

    Returns:
        A transformation that keeps one number per parameter, in float32 or wider. Updates leave in their own dtype.

    Raises:
        ValueError: a storage of unknown name.
        TypeError: no storage.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> change = pieces.difference()
        >>> state = change.init(jnp.zeros(()))
        >>> for g in (5.0, 7.0):
        ...     u, state = change.update(jnp.array(g), state)
        >>> print(u)
        2.0

    Reference:
        Xie et al., "Adan: adaptive Nesterov momentum algorithm", 2022.
    """
    return averaging("difference", Leafwise(_differed), storage, 0.0)


@checked
def scale_by_past_rms(decay: Decay, eps: Epsilon = 1e-6, storage: StorageLike = None) -> optax.GradientTransformation:
    r"""Multiplies by the root mean square of what left before: a size that the updates find by themselves.

    $$u_t = \sqrt{e_{t-1} + \varepsilon}\, g_t, \qquad e_t = \beta e_{t-1} + (1 - \beta) u_t^2$$

    Args:
        decay: $\beta$ in [0, 1): the average spans about $1/(1-\beta)$ steps.
        eps: $\varepsilon$, 0 or more, in units of the update squared: what the first steps begin with.
        storage: how the average is kept between steps, as in `scale_by_ewa`.

    Returns:
        A transformation that keeps one number per parameter, in float32 or wider. Updates leave in their own dtype.

    Raises:
        ValueError: a decay outside [0, 1), an eps that is negative or not finite, or a storage of unknown name.
        TypeError: one of them is no number, or no storage.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> scale = pieces.scale_by_past_rms(0.5, eps=4.0)
        >>> state = scale.init(jnp.zeros(()))
        >>> for _ in range(2):
        ...     u, state = scale.update(jnp.array(1.0), state)
        ...     print(f"{u:.3f}")
        2.000
        2.449

    Reference:
        Zeiler, "ADADELTA: an adaptive learning rate method", 2012.
    """
    return averaging("past", Leafwise(_scaled_by_past, decay, eps), storage, decay, real_like)


def _larger(decay, average, value, step):
    del step
    check_alike(value, average)
    # Not decay * average: the error of a rounded decay would grow from step to step.
    faded = average if is_just(decay, 1) else average - jnp.asarray(shares(decay)[1], average.dtype) * average
    fresh = jnp.maximum(faded, value)
    return fresh, fresh


def _moved_by_value(decay, average, value, step):
    del step
    check_alike(value, average)
    newest = jnp.asarray(shares(decay)[1], value.dtype)
    fresh = average - jnp.sign(average - value) * (newest * value)
    return fresh, fresh


def _differed(last, value, step):
    check_alike(value, last)
    return value, jnp.where(step == 1, jnp.zeros_like(value), value - last)


def _scaled_by_past(decay, eps, average, value, step):
    del step
    out = jnp.sqrt(average + jnp.asarray(eps, average.dtype)).astype(value.dtype) * value
    return lerp(average, squared_magnitude(out), decay, *shares(decay)), out
