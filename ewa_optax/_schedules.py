r"""Learning-rate decay: pure functions from the step count to a rate.

A schedule is called with the number of steps before this one, so the first step has `count` 0. Its epoch is
`first_epoch + count // steps_per_epoch`, and epochs are numbered from 1 by default, so that the first one already
decays. With `steps_per_epoch=1` the rate changes with every mini-batch.
"""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ewa_optax._checks import Count, Positive, Whole, checked, rule
from ewa_optax._numerics import Number, as_float, power

InitialRate = Annotated[
    Number, rule("finite and 0 or more", lambda x: x >= 0, "updates point downhill; to climb, negate the loss")
]
DecayRate = Annotated[
    Number, rule("finite and 0 or more", lambda x: x >= 0, "1 halves the rate in epoch 1, 0 keeps it")
]
Reduction = Annotated[Number, rule("in (0, 1]", lambda x: 0 < x <= 1, "0.5 halves the rate each time, 1 keeps it")]


Integer = int | jax.Array


@checked
def schedule_inverse_time(
    init_value: InitialRate, decay_rate: DecayRate = 1.0, *, steps_per_epoch: Count = 1, first_epoch: Whole = 1
) -> optax.Schedule:
    r"""$\alpha = \alpha_0 / (1 + r e)$ in epoch $e$.

    Args:
        init_value: $\alpha_0$, 0 or more.
        decay_rate: $r$, 0 or more, per epoch: the rate has halved after $1/r$ epochs.
        steps_per_epoch: mini-batches in an epoch, 1 or more.
        first_epoch: the number of the first epoch.

    Returns:
        A function of the step count (an integer, an int array, traced or not), of the count's shape, in float32 (or
        float64 where that is JAX's default). The arguments may be scalar arrays too, traced or not, so `jax.vmap`
        works over any of them.

    Raises:
        ValueError: a number outside its range.
        TypeError: an argument that is no number.

    Examples:
        >>> import ewa_optax
        >>> schedule = ewa_optax.schedule_inverse_time(0.2, 1.0, steps_per_epoch=100)
        >>> print([f"{schedule(count):.4f}" for count in (0, 99, 100, 200, 300)])
        ['0.1000', '0.1000', '0.0667', '0.0500', '0.0400']

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Learning rate decay"; Robbins and Monro, 1951.
    """
    rate, decay_rate = as_float(init_value), as_float(decay_rate)
    return _by_epoch(steps_per_epoch, first_epoch, lambda epoch: rate / (1 + decay_rate * epoch))


@checked
def schedule_exponential(
    init_value: InitialRate, factor: Reduction = 0.95, *, steps_per_epoch: Count = 1, first_epoch: Whole = 1
) -> optax.Schedule:
    r"""$\alpha = q^e \alpha_0$ in epoch $e$.

    Args:
        init_value: $\alpha_0$, 0 or more.
        factor: $q$ in (0, 1], per epoch.
        steps_per_epoch: mini-batches in an epoch, 1 or more.
        first_epoch: the number of the first epoch.

    Returns:
        A function of the step count, as `schedule_inverse_time` returns it.

    Raises:
        ValueError: a number outside its range.
        TypeError: an argument that is no number.

    Examples:
        >>> import ewa_optax
        >>> schedule = ewa_optax.schedule_exponential(0.2, 0.95)
        >>> print([f"{schedule(count):.6f}" for count in range(3)])
        ['0.190000', '0.180500', '0.171475']

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Learning rate decay".
    """
    rate = as_float(init_value)
    return _by_epoch(steps_per_epoch, first_epoch, lambda epoch: rate * power(factor, epoch))


@checked
def schedule_inverse_sqrt(
    init_value: InitialRate, k: Positive = 1.0, *, steps_per_epoch: Count = 1, first_epoch: Count = 1
) -> optax.Schedule:
    r"""$\alpha = k \alpha_0 / \sqrt{e}$ in epoch $e$; with `steps_per_epoch=1`, $k \alpha_0 / \sqrt{t}$ by mini-batch.

    Args:
        init_value: $\alpha_0$, 0 or more.
        k: the constant $k$, more than 0.
        steps_per_epoch: mini-batches in an epoch, 1 or more.
        first_epoch: the number of the first epoch, 1 or more: there is no epoch 0 under the root.

    Returns:
        A function of the step count, as `schedule_inverse_time` returns it.

    Raises:
        ValueError: a number outside its range.
        TypeError: an argument that is no number.

    Examples:
        >>> import ewa_optax
        >>> schedule = ewa_optax.schedule_inverse_sqrt(0.2)
        >>> print([f"{schedule(count):.4f}" for count in range(3)])
        ['0.2000', '0.1414', '0.1155']

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Learning rate decay".
    """
    rate, k = as_float(init_value), as_float(k)
    return _by_epoch(steps_per_epoch, first_epoch, lambda epoch: k * rate / jnp.sqrt(epoch))


@checked
def schedule_staircase(
    init_value: InitialRate,
    factor: Reduction = 0.5,
    every: Count = 1,
    *,
    steps_per_epoch: Count = 1,
    first_epoch: Whole = 1,
) -> optax.Schedule:
    r"""$\alpha = q^{\lfloor e / n \rfloor} \alpha_0$ in epoch $e$: a drop, by half unless told, every $n$ epochs.

    Args:
        init_value: $\alpha_0$, 0 or more.
        factor: $q$ in (0, 1], what is left after each drop.
        every: $n$, 1 or more: the rate drops in epochs $n$, $2n$, $3n$, ...
        steps_per_epoch: mini-batches in an epoch, 1 or more.
        first_epoch: the number of the first epoch; with 0, the first $n$ epochs run at $\alpha_0$.

    Returns:
        A function of the step count, as `schedule_inverse_time` returns it.

    Raises:
        ValueError: a number outside its range.
        TypeError: an argument that is no number.

    Examples:
        >>> import ewa_optax
        >>> schedule = ewa_optax.schedule_staircase(0.2, every=2)
        >>> print([f"{schedule(count):.3f}" for count in range(5)])
        ['0.200', '0.100', '0.100', '0.050', '0.050']

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Learning rate decay".
    """
    rate, length = as_float(init_value), as_float(every)
    return _by_epoch(steps_per_epoch, first_epoch, lambda epoch: rate * power(factor, epoch // length))


def _by_epoch(steps_per_epoch: Integer, first_epoch: Integer, rate: Callable[[jax.Array], jax.Array]) -> optax.Schedule:
    if not isinstance(steps_per_epoch, jax.Array):
        steps_per_epoch = int(steps_per_epoch)
    first = as_float(first_epoch)

    def schedule(count):
        if isinstance(count, jax.Array):
            count = count.astype(jnp.promote_types(count.dtype, jnp.int32))
        elif not isinstance(count, int):
            count = np.asarray(count)
            count = count.astype(np.promote_types(count.dtype, np.int32))
        if isinstance(steps_per_epoch, jax.Array) and not isinstance(count, jax.Array):
            count = _of_jax(count)
        # Divided as integers, since float32 has no odd ones above 2**24; added as floats, since integers wrap.
        epoch = count // steps_per_epoch
        return rate(jnp.asarray(epoch if isinstance(epoch, jax.Array) else np.asarray(epoch, float), float) + first)

    return schedule


def _of_jax(count):
    """The count, which is to be divided by an array of JAX."""
    most = jnp.iinfo(jnp.result_type(int)).max
    if np.any(np.asarray(count) > most):
        raise ValueError(
            f"count must be at most {most} where steps_per_epoch is an array, got {count}; give that as a number."
        )
    return jnp.asarray(count)
