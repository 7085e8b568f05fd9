r"""What a decay means: over how many steps it averages, said in four ways, and the weights that it gives.

A weight fades by the factor $\beta$ from step to step. Each way of saying how fast has a name that pandas, traders or
physicists know it by, and its inverse.
"""

import math
from typing import Annotated

import jax
import jax.numpy as jnp

from ewa_optax._checks import Decay, check_integer, checked, rule
from ewa_optax._numerics import Number, as_float
from ewa_optax.series._plan import Fading

Span = Annotated[
    Number, rule("finite and 1 or more", lambda x: x >= 1, "1 keeps the newest value only, 10 averages over about ten")
]
HalfLife = Annotated[
    Number,
    rule(
        "finite and more than 0",
        lambda x: x > 0,
        "after that time, counted in steps or in the unit of times=, a weight is half of what it was",
    ),
]
CenterOfMass = Annotated[
    Number, rule("finite and 0 or more", lambda x: x >= 0, "0 keeps the newest value only, 9 is a decay of 0.9")
]


@checked
def decay_from_window(window: Span) -> Number:
    r"""The decay that averages over about so many steps: $\beta = 1 - 1/n$.

    Args:
        window: $n$, 1 or more, in steps: the weight of a value has faded to about $1/e$ after so many.

    Returns:
        $\beta$, a float, or an array for an array.

    Raises:
        ValueError: a number below 1, or an array that is no scalar.
        TypeError: no number.

    Examples:
        >>> from ewa_optax import series
        >>> print([round(series.decay_from_window(n), 4) for n in (2, 10, 50, 1000)])
        [0.5, 0.9, 0.98, 0.999]

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Exponentially weighted averages".
    """
    return 1 - 1 / window


@checked
def window_from_decay(decay: Decay) -> Number:
    r"""The steps over which a decay averages: $n = 1/(1-\beta)$.

    Args:
        decay: $\beta$ in [0, 1).

    Returns:
        $n$, 1 or more, in steps: a float, or an array for an array.

    Raises:
        ValueError: a number outside [0, 1), or an array that is no scalar.
        TypeError: no number.

    Examples:
        >>> from ewa_optax import series
        >>> print(round(series.window_from_decay(0.98)))
        50

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Exponentially weighted averages".
    """
    return 1 / (1 - decay)


@checked
def decay_from_span(span: Span) -> Number:
    r"""The decay whose weights are as old in the mean as those of a moving average: $\beta = 1 - 2/(s+1)$.

    Args:
        span: $s$, 1 or more, in steps: the length of that moving average.

    Returns:
        $\beta$, a float, or an array for an array.

    Raises:
        ValueError: a number below 1, or an array that is no scalar.
        TypeError: no number.

    Examples:
        >>> from ewa_optax import series
        >>> print(round(series.decay_from_span(19), 4))
        0.9

    Reference:
        `pandas.DataFrame.ewm(span=...)`.
    """
    span = as_float(span)
    return (span - 1) / (span + 1)


@checked
def span_from_decay(decay: Decay) -> Number:
    r"""The length of a moving average whose weights are as old in the mean: $s = (1+\beta)/(1-\beta)$.

    Args:
        decay: $\beta$ in [0, 1).

    Returns:
        $s$, 1 or more, in steps: a float, or an array for an array.

    Raises:
        ValueError: a number outside [0, 1), or an array that is no scalar.
        TypeError: no number.

    Examples:
        >>> from ewa_optax import series
        >>> print(round(series.span_from_decay(0.9), 4))
        19.0

    Reference:
        `pandas.DataFrame.ewm(span=...)`.
    """
    return (1 + decay) / (1 - decay)


@checked
def decay_from_half_life(half_life: HalfLife) -> Number:
    r"""The decay under which a weight halves in a given time: $\beta = 2^{-1/h}$.

    Args:
        half_life: $h$, more than 0, in steps; beside `times=`, in their unit (6.0 for times in hours, pandas' "6h").

    Returns:
        $\beta$, a float, or an array for an array.

    Raises:
        ValueError: a number that is not above 0, or an array that is no scalar.
        TypeError: no number.

    Examples:
        >>> from ewa_optax import series
        >>> print(round(series.decay_from_half_life(2.0), 4))
        0.7071

    Reference:
        `pandas.DataFrame.ewm(halflife=...)`.
    """
    return jnp.exp2(-1 / half_life) if isinstance(half_life, jax.Array) else math.exp2(-1 / half_life)


@checked
def half_life_from_decay(decay: Decay) -> Number:
    r"""The time in which a weight halves: $h = -1/\log_2 \beta$.

    Args:
        decay: $\beta$ in [0, 1).

    Returns:
        $h$, in steps (0 for a decay of 0): a float, or an array for an array.

    Raises:
        ValueError: a number outside [0, 1), or an array that is no scalar.
        TypeError: no number.

    Examples:
        >>> from ewa_optax import series
        >>> print(round(series.half_life_from_decay(0.5), 4))
        1.0

    Reference:
        `pandas.DataFrame.ewm(halflife=...)`.
    """
    if isinstance(decay, jax.Array):
        return -1 / jnp.log2(decay)
    return -1 / math.log2(decay) if decay > 0 else 0.0


@checked
def decay_from_center_of_mass(center_of_mass: CenterOfMass) -> Number:
    r"""The decay whose weights have a given mean age: $\beta = c/(1+c)$.

    Args:
        center_of_mass: $c$, 0 or more, in steps: how old a value is in the mean of the weights.

    Returns:
        $\beta$, a float, or an array for an array.

    Raises:
        ValueError: a number below 0, or an array that is no scalar.
        TypeError: no number.

    Examples:
        >>> from ewa_optax import series
        >>> print(round(series.decay_from_center_of_mass(9), 4))
        0.9

    Reference:
        `pandas.DataFrame.ewm(com=...)`.
    """
    center_of_mass = as_float(center_of_mass)
    return center_of_mass / (1 + center_of_mass)


@checked
def center_of_mass_from_decay(decay: Decay) -> Number:
    r"""The mean age of the weights: $c = \beta/(1-\beta)$.

    Args:
        decay: $\beta$ in [0, 1).

    Returns:
        $c$, 0 or more, in steps: a float, or an array for an array.

    Raises:
        ValueError: a number outside [0, 1), or an array that is no scalar.
        TypeError: no number.

    Examples:
        >>> from ewa_optax import series
        >>> print(round(series.center_of_mass_from_decay(0.9), 4))
        9.0

    Reference:
        `pandas.DataFrame.ewm(com=...)`.
    """
    return decay / (1 - decay)


@checked
def weights(decay: Decay, length: int) -> jax.Array:
    r"""The weights of an average of so many values, the newest first: $w_k = (1-\beta) \beta^k$ from $k = 0$ on.

    Args:
        decay: $\beta$ in [0, 1).
        length: how many, 0 or more.

    Returns:
        A float array of that length, which sums to $1 - \beta^{length}$.

    Raises:
        ValueError: a decay outside [0, 1) or an array that is no scalar, or a negative length.
        TypeError: a decay that is no number, or a length that is no integer.

    Examples:
        >>> from ewa_optax import series
        >>> print(series.weights(0.5, 4))
        [0.5    0.25   0.125  0.0625]

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Understanding exponentially weighted averages".
    """
    k = jnp.arange(check_integer("length", length, 0, remedy="it counts values"))
    fading = Fading.of(decay, jnp.result_type(float))
    return fading.share * fading.powers(k)
