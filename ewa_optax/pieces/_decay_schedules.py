"""What grows or shrinks with time in an optimizer: shares of the newest value, weights, the step of Adafactor."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import Decay, Finite, checked, rule
from ewa_optax._numerics import Number, shares

Exponent = Annotated[
    Number, rule("finite and more than 0", lambda x: x > 0, "0.8 is the usual value: an average over t**0.8 steps")
]
Warmup = Annotated[Number, rule("finite and 0 or more", lambda x: x >= 0, "it counts steps, and 0 is none")]
OfTime = Callable[[jax.Array], jax.Array]


@checked
def share_after_the_first(decay: Decay) -> OfTime:
    r"""The share of the newest value in an average that begins with the first.

    $$s_1 = 1, \qquad s_t = 1 - \beta$$

    Args:
        decay: $\beta$ in [0, 1): over about $1/(1-\beta)$ steps.

    Returns:
        A function of the step, for `scale_by_ewa_of_share`.

    Raises:
        ValueError: a number outside its range.
        TypeError: no number.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> at = pieces.share_after_the_first(0.75)
        >>> print([f"{at(jnp.array(t)):.2f}" for t in (1.0, 2.0, 4.0)])
        ['1.00', '0.25', '0.25']

    Reference:
        Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments", 2019 (NovoGrad).
    """
    return lambda t: jnp.where(t == 1, 1.0, shares(decay)[1])


@checked
def share_of_power(exponent: Exponent) -> OfTime:
    r"""The share of the newest value in an average over ever more steps.

    $$s_t = t^{-c}$$

    Args:
        exponent: $c$, more than 0: over about $t^c$ steps.

    Returns:
        A function of the step, for `scale_by_ewa_of_share`.

    Raises:
        ValueError: a number outside its range.
        TypeError: no number.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> at = pieces.share_of_power(0.5)
        >>> print([f"{at(jnp.array(t)):.2f}" for t in (1.0, 2.0, 4.0)])
        ['1.00', '0.71', '0.50']

    Reference:
        Shazeer and Stern, "Adafactor", 2018, section 7.2.
    """
    return lambda t: t**-exponent


@checked
def share_of_growing_half_life(first: Decay, last: Decay, steps: Warmup) -> OfTime:
    r"""The share of the newest value in an average whose half-life grows linearly.

    $$s_t = 1 - \beta_t, \qquad \frac{1}{\log \beta_t} = \frac{1 - x}{\log \beta_1} + \frac{x}{\log \beta_T}, \qquad
      x = \min(t / T, 1)$$

    Args:
        first: $\beta_1$ in [0, 1), the decay that it begins with.
        last: $\beta_T$ in [0, 1), the decay that it ends with.
        steps: $T$, 0 or more.

    Returns:
        A function of the step, for `scale_by_ewa_of_share`.

    Raises:
        ValueError: a number outside its range.
        TypeError: no number.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> at = pieces.share_of_growing_half_life(0.5, 0.75, 4)
        >>> print([f"{at(jnp.array(t)):.2f}" for t in (1.0, 2.0, 4.0)])
        ['0.40', '0.33', '0.25']

    Reference:
        Pagliardini et al., "The AdEMAMix optimizer", 2024, section 3.
    """
    begin, end = _life(first), _life(last)

    def share(t):
        return -jnp.expm1(-1 / (begin + jnp.minimum(t / _whole(steps), 1.0) * (end - begin)))

    return share


@checked
def growing(number: Finite, steps: Warmup) -> optax.Schedule:
    r"""A schedule that grows linearly from 0 to a number, for `optax.scale_by_schedule`.

    $$a_t = a \min(t / T, 1)$$

    Args:
        number: $a$.
        steps: $T$, 0 or more.

    Returns:
        A schedule, called with the updates so far, $t - 1$.

    Raises:
        ValueError: a number outside its range.
        TypeError: no number.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> at = pieces.growing(8.0, 4)
        >>> print([f"{at(jnp.array(t)):.0f}" for t in (1.0, 2.0, 4.0)])
        ['4', '6', '8']

    Reference:
        Pagliardini et al., "The AdEMAMix optimizer", 2024, section 3.
    """
    return lambda count: number * jnp.minimum((jnp.asarray(count, float) + 1) / _whole(steps), 1.0)


def relative_step(count: Any) -> jax.Array:
    r"""Adafactor's schedule of the learning rate: $\min(0.01, 1/\sqrt t)$.

    Args:
        count: the number of steps before this one, $t - 1$.

    Returns:
        A float scalar.

    Raises:
        TypeError: what is no number.

    Examples:
        >>> from ewa_optax import pieces
        >>> print(pieces.relative_step(0), pieces.relative_step(39_999))
        0.01 0.005

    Reference:
        Shazeer and Stern, "Adafactor", 2018, section 9.
    """
    return jnp.minimum(0.01, jax.lax.rsqrt(jnp.asarray(count, float) + 1))


def _whole(steps: Number) -> Number:
    """At least one step: after the first, a growth over none and over one are the same."""
    return jnp.maximum(steps, 1) if isinstance(steps, jax.Array) else max(steps, 1)


def _life(decay):
    r"""$-1/\log\beta$, by which all half-lives are multiples of one number."""
    if isinstance(decay, jax.Array):
        return -1 / jnp.log(decay)
    return -1 / math.log(decay) if decay > 0 else 0.0
