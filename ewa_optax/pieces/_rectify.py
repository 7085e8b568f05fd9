r"""What RAdam does to a root mean square: no division by it as long as its variance cannot be told."""

import math

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import DECAY, THRESHOLD, checked
from ewa_optax._numerics import Number, increment, narrow, shares, widen
from ewa_optax._trees import Leafwise, map_leaves
from ewa_optax.pieces._bias_correction import BiasCorrectState


@checked(decay=DECAY, threshold=THRESHOLD)
def rectify(decay: Number, threshold: Number = 4.0) -> optax.GradientTransformation:
    r"""Replaces a root mean square by 1 in its first steps, and enlarges it in the next.

    $$\rho_\infty = \frac{2}{1 - \beta} - 1, \qquad \rho_t = \rho_\infty - \frac{2 t \beta^t}{1 - \beta^t}, \qquad
      r_t^2 = \frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}$$
    $$u_t = g_t / r_t \text{ where } \rho_t > \text{threshold, and else } 1$$

    Args:
        decay: $\beta$ in [0, 1), the decay of the average; below 0.6 it is never rectified, and 1 is all there is.
        threshold: of $\rho_t$, the length of the average, 4 or more: there the variance begins to be finite.

    Returns:
        A transformation whose state is the step count. It belongs behind `root_mean_square` of a corrected average, in
        the divisor of `divide`. Updates leave in their own dtype.

    Raises:
        ValueError: a decay outside [0, 1), or a threshold below 4.
        TypeError: one of them is no number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> rectified = pieces.rectify(0.999)
        >>> def step(state, square):
        ...     return rectified.update(square, state)[::-1]
        >>> _, rectified_squares = jax.lax.scan(step, rectified.init(jnp.zeros(())), jnp.full(1000, 4.0))
        >>> print(f"{rectified_squares[-1]:.1f}")
        6.2

    Reference:
        Liu et al., "On the variance of the adaptive learning rate and beyond", 2020.
    """

    def init(params):
        del params
        return BiasCorrectState(jnp.zeros([], jnp.int32))

    def update(updates, state, params=None):
        del params
        step = increment(state.step)
        longest, length = _lengths(decay, step.astype(float))
        rectifies = length > jnp.maximum(threshold, 4.0)
        length = jnp.where(rectifies, length, 5.0)
        # A decay that was rounded to 1 has an infinite length, and no step.
        inverse = jnp.sqrt((longest - 6 + 8 / longest) * length / ((length - 4) * (length - 2)))
        return map_leaves(Leafwise(_rectified, rectifies, inverse), updates), BiasCorrectState(step)

    return optax.GradientTransformation(init, update)


def _rectified(rectifies, inverse, v):
    x = widen(v)
    scaled = jnp.where(rectifies, x * inverse.astype(x.dtype), jnp.ones_like(x))
    return narrow(scaled, jnp.result_type(v))


def _lengths(decay, t):
    r"""$\rho_\infty$ and $\rho_t$.

    In its first steps $\rho_t$ is about $t$, but the formula is the difference of two numbers near $\rho_\infty$. With
    $a = -\log\beta$ and $L(y) = \coth y - 1/y$ it is $t + L(a/2) - t L(ta/2)$, too.
    """
    past, newest = shares(decay)
    a = -jnp.log(jnp.maximum(past, 1e-30)) if isinstance(past, jax.Array) else -math.log(max(past, 1e-30))
    longest = (1 + past) / newest
    early = t + _langevin(a / 2) - t * _langevin(t * a / 2)
    late = longest - 2 * t / jnp.expm1(t * a)
    return longest, jnp.where(t * a < 1, early, late)


def _langevin(y):
    """By its series, exact in float64 up to 1/2, which is as far as it is needed."""
    total = 0.0
    for coefficient in reversed(_SERIES):
        total = coefficient + y * y * total
    return y * total


_SERIES = (
    1 / 3,
    -1 / 45,
    2 / 945,
    -1 / 4725,
    2 / 93555,
    -1382 / 638512875,
    4 / 18243225,
    -3617 / 162820783125,
    87734 / 38979295480125,
    -349222 / 1531329465290625,
    310732 / 13447856940643125,
)
