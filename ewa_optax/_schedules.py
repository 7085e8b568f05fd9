r"""Learning rates: pure functions from the step count to a rate, by a formula, or around another one.

A schedule is called with the number of steps before this one, so the first step has `count` 0. Its epoch is
`first_epoch + count // steps_per_epoch`, and epochs are numbered from 1 by default, so that the first one already
decays. With `steps_per_epoch=1` the rate changes with every mini-batch.

A warm-up and a cool-down go around any schedule, which is told the same count: what it says at a step does not depend
on what is around it, so they may be put around each other in either order.
"""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from ewa_optax._checks import Count, Positive, Rate, Whole, check_function, checked, rule
from ewa_optax._numerics import Number, as_float, power

InitialRate = Annotated[
    Number, rule("finite and 0 or more", lambda x: x >= 0, "updates point downhill; to climb, negate the loss")
]
DecayRate = Annotated[
    Number, rule("finite and 0 or more", lambda x: x >= 0, "1 halves the rate in epoch 1, 0 keeps it")
]
Reduction = Annotated[Number, rule("in (0, 1]", lambda x: 0 < x <= 1, "0.5 halves the rate each time, 1 keeps it")]
Steps = Annotated[int | jax.Array, rule("a whole number, 0 or more", lambda x: x >= 0 and x == int(x), "0 is none")]
Start = Annotated[
    int | jax.Array,
    rule("a whole number, 0 or more", lambda x: x >= 0 and x == int(x), "it counts the steps before the cool-down"),
]

Integer = int | jax.Array
Shape = Callable[[jax.Array], jax.Array]


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


def shape_linear(fraction: jax.Array) -> jax.Array:
    r"""$h(f) = 1 - f$, the shape of a straight line.

    Args:
        fraction: $f$ in [0, 1], of the steps of a `schedule_cooldown`.

    Returns:
        What is left: 1 at 0, 0 at 1.

    Raises:
        Nothing of its own.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> print(ewa_optax.shape_linear(jnp.array([0.0, 0.25, 1.0])))
        [1.   0.75 0.  ]

    Reference:
        Bergsma et al., "Straight to zero", 2025.
    """
    return 1 - fraction


def shape_cosine(fraction: jax.Array) -> jax.Array:
    r"""$h(f) = (1 + \cos \pi f) / 2$, half a wave.

    Args:
        fraction: $f$, as in `shape_linear`.

    Returns:
        What is left, as `shape_linear`.

    Raises:
        Nothing of its own.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> print(ewa_optax.shape_cosine(jnp.array([0.0, 0.5, 1.0])).round(3))
        [1.  0.5 0. ]

    Reference:
        Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017.
    """
    # The same number, and it keeps its digits where 1 + cos would cancel.
    return jnp.sin(jnp.pi / 2 * (1 - fraction)) ** 2


def shape_one_minus_sqrt(fraction: jax.Array) -> jax.Array:
    r"""$h(f) = 1 - \sqrt f$, which falls fast, and then ever more slowly.

    Args:
        fraction: $f$, as in `shape_linear`.

    Returns:
        What is left, as `shape_linear`.

    Raises:
        Nothing of its own.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> print(ewa_optax.shape_one_minus_sqrt(jnp.array([0.0, 0.25, 1.0])))
        [1.  0.5 0. ]

    Reference:
        Hägele et al., "Scaling laws and compute-optimal training beyond fixed training durations", 2024.
    """
    return 1 - jnp.sqrt(fraction)


@checked
def schedule_warmup(schedule: Rate, steps: Steps, *, steps_per_epoch: Count = 1) -> optax.Schedule:
    r"""A schedule whose first rates grow linearly; the very first step moves already.

    $$\alpha_c = s_c \min\big(1, \frac{c + 1}{n}\big) \text{ after } c \text{ steps}$$

    The schedule inside is told the same count $c$, and does not wait for the end of the warm-up. What is to begin there
    says so itself, as `schedule_cooldown` does by its `start`.

    Args:
        schedule: $s$, whose rates these are from step $n$ on: a schedule, or a number, 0 or more.
        steps: $n$, 0 or more. 0 and 1 warm nothing up.
        steps_per_epoch: mini-batches in an epoch, 1 or more. Of more than 1, $c$ and $n$ count epochs, and the rate
            grows with every epoch; the schedule inside is told steps.

    Returns:
        A function of the step count, as `schedule_inverse_time` returns it.

    Raises:
        ValueError: a number outside its range.
        TypeError: an argument that is no number, or a schedule that is neither a number nor a function.

    Examples:
        >>> import ewa_optax
        >>> schedule = ewa_optax.schedule_warmup(0.2, 4)
        >>> print([f"{schedule(count):.2f}" for count in range(6)])
        ['0.05', '0.10', '0.15', '0.20', '0.20', '0.20']

    Reference:
        Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017. In optax a warm-up from 0
        spends its first step at a rate of 0.
    """
    steps, steps_per_epoch, length = _integer(steps), _integer(steps_per_epoch), as_float(steps)

    def warm(count):
        count = _whole(count, steps_per_epoch=steps_per_epoch, steps=steps)
        before = count // steps_per_epoch
        return jnp.where(before >= steps - 1, 1, (_floats(before) + 1) / length) * _rate(schedule, count)

    return warm


@checked
def schedule_cooldown(
    schedule: Rate,
    start: Start,
    steps: Count,
    end: InitialRate = 0.0,
    shape: Shape = shape_linear,
    *,
    steps_per_epoch: Count = 1,
) -> optax.Schedule:
    r"""A schedule that from one step on leaves its rates for a last one.

    $$\alpha_c = h(f) s_{\min(c, m)} + (1 - h(f))\, \alpha_{end}, \qquad
      f = \max\big(0, \min\big(1, \frac{c - m}{n}\big)\big) \text{ after } c \text{ steps}$$

    Around a warm-up of a number it is warm-up, stable, decay (WSD), a trapezoid if its shape is linear. A training of
    $m + n$ steps takes its last one just before the end, so each of them moves.

    Args:
        schedule: $s$, a schedule, or a number, 0 or more. What it says at `start` is what the cool-down begins with.
        start: $m$, 0 or more: how many steps there are before the cool-down.
        steps: $n$, 1 or more: the end is reached after $m + n$ steps, and kept.
        end: $\alpha_{end}$, the last rate, 0 or more.
        shape: $h$, what is left of the way at a fraction in [0, 1] of the steps: `shape_linear`, `shape_cosine`,
            `shape_one_minus_sqrt`, or a function of your own, from 1 at 0 to 0 at 1.
        steps_per_epoch: mini-batches in an epoch, 1 or more. Of more than 1, $c$, $m$ and $n$ count epochs, in each of
            which the cool-down keeps one rate; the schedule inside is told steps.

    Returns:
        A function of the step count, as `schedule_inverse_time` returns it.

    Raises:
        ValueError: a number outside its range, or a shape that does not go from 1 to 0.
        TypeError: an argument that is no number, a schedule that is neither a number nor a function, or a shape that
            is no function.

    Examples:
        >>> import ewa_optax
        >>> wsd = ewa_optax.schedule_cooldown(ewa_optax.schedule_warmup(0.2, 2), start=3, steps=4)
        >>> print([f"{wsd(count):.2f}" for count in range(8)])
        ['0.10', '0.20', '0.20', '0.20', '0.15', '0.10', '0.05', '0.00']
        >>> cosine = ewa_optax.schedule_cooldown(0.2, 2, 4, shape=ewa_optax.shape_cosine)
        >>> print([f"{ewa_optax.schedule_warmup(cosine, 2)(count):.2f}" for count in range(7)])
        ['0.10', '0.20', '0.20', '0.17', '0.10', '0.03', '0.00']

    Reference:
        Zhai et al., "Scaling vision transformers", 2022; Hu et al., "MiniCPM", 2024 (WSD); Hägele et al., "Scaling laws
        and compute-optimal training beyond fixed training durations", 2024.
    """
    _check_shape(shape)
    start, steps_per_epoch = _integer(start), _integer(steps_per_epoch)
    steps, length, end = _integer(steps), as_float(steps), as_float(end)

    def cooled(count):
        count = _whole(count, steps_per_epoch=steps_per_epoch, start=start, steps=steps)
        past = count // steps_per_epoch - start
        fraction = jnp.clip(_floats(past) / length, 0, 1)
        # At both ends the numbers themselves, however a shape is rounded there.
        left = jnp.where(past <= 0, 1, jnp.where(past >= steps, 0, shape(fraction)))
        where = jnp.where if isinstance(past, jax.Array) else np.where
        held = _rate(schedule, where(past < 0, count, start * steps_per_epoch))
        return left * held + (1 - left) * jnp.asarray(end, float)

    return cooled


def _rate(schedule, count):
    return jnp.asarray(schedule(count) if callable(schedule) else as_float(schedule), float)


def _check_shape(shape):
    """Raises unless it goes from 1 to 0, as far as its values are known."""
    remedy = "shape=lambda fraction: 1 - fraction, or name one, such as ewa_optax.shape_cosine"
    check_function("schedule_cooldown: shape", shape, remedy)
    with jax.ensure_compile_time_eval():
        ends = [(at, shape(jnp.asarray(at, float))) for at in (0.0, 1.0)]
    for at, value in ends:
        if jnp.shape(value) != () or not (isinstance(value, jax.core.Tracer) or abs(float(value) - (1 - at)) < 1e-3):
            raise ValueError(
                f"schedule_cooldown: shape must be what is left of the rate, 1 at 0 and 0 at 1, got {value} at "
                f"{at:.0f}; write {remedy}."
            )


def _integer(number: Integer) -> Integer:
    return number if isinstance(number, jax.Array) else int(number)


def _floats(integers):
    return jnp.asarray(integers if isinstance(integers, jax.Array) else np.asarray(integers, float), float)


def _by_epoch(steps_per_epoch: Integer, first_epoch: Integer, rate: Callable[[jax.Array], jax.Array]) -> optax.Schedule:
    steps_per_epoch, first = _integer(steps_per_epoch), as_float(first_epoch)

    def schedule(count):
        # Divided as integers, since float32 has no odd ones above 2**24; added as floats, since integers wrap.
        epoch = _whole(count, steps_per_epoch=steps_per_epoch) // steps_per_epoch
        return rate(_floats(epoch) + first)

    return schedule


def _whole(count, **numbers):
    """The count in integers that do not wrap: an array of JAX, if one of the numbers that it meets is."""
    if isinstance(count, jax.Array):
        return count.astype(jnp.promote_types(count.dtype, jnp.int32))
    if not isinstance(count, int):
        count = np.asarray(count)
        count = count.astype(np.promote_types(count.dtype, np.int32))
    arrays = [name for name, number in numbers.items() if isinstance(number, jax.Array)]
    if not arrays:
        return count
    most = jnp.iinfo(jnp.result_type(int)).max
    if np.any(np.asarray(count) > most):
        raise ValueError(
            f"count must be at most {most} where {arrays[0]} is an array, got {count}; give that as a number."
        )
    return jnp.asarray(count)
