"""What makes a chain an optimizer: float32 or wider from end to end, and no infinity from finite gradients."""

import math
from typing import Any

import optax

from ewa_optax._checks import Rate
from ewa_optax._numerics import Number, clip, largest
from ewa_optax._stacks import Optimizer
from ewa_optax._trees import Leafwise, map_leaves
from ewa_optax.pieces._combining import in_float32
from ewa_optax.pieces._learning_rate import scale_by_learning_rate, scale_once
from ewa_optax.storage._donation import after_parameters


def wide_chain(*pieces: optax.GradientTransformation) -> Optimizer:
    """`optax.chain` in which pieces hand on float32 or wider; updates leave in the dtype that they came in."""
    inner = in_float32(optax.chain(*pieces))

    def update(updates, state, params=None, **extra_args):
        out, state = inner.update(updates, state, params, **extra_args)
        return out, after_parameters(state, params, out)

    return Optimizer(inner.init, update)


def saturate(power: int = 1, terms: Number = 1) -> optax.GradientTransformation:
    """Clips updates so that this power of a sum of so many is within a quarter of the largest number of their dtype.

    Then no difference of two powers overflows, nor the squared magnitude of a complex one. In front of `scale_by_rms`,
    with `power=2`, gradient and square saturate together, so that one spike moves a parameter by an ordinary step and
    does not freeze it for ever.
    """

    def update(updates, params):
        del params
        return map_leaves(Leafwise(_saturated, power, terms), updates)

    return optax.stateless(update)


def saturate_norm() -> optax.GradientTransformation:
    """The same for the squared norm of each leaf."""

    def update(updates, params):
        del params
        return map_leaves(Leafwise(_norm_saturated), updates)

    return optax.stateless(update)


def _saturated(power, terms, u):
    return clip(u, (largest(u.dtype) / 4) ** (1 / power) / terms)


def _norm_saturated(u):
    return clip(u, math.sqrt(largest(u.dtype) / 4 / max(u.size, 1)))


def descent(
    learning_rate: Rate,
    *pieces: optax.GradientTransformation,
    once: optax.GradientTransformation | None = None,
    guard: optax.GradientTransformation = saturate(power=2),
) -> Any:
    """The pieces between a guard against overflow and the learning rate.

    `once` is a scaling of all leaves by one number, which is multiplied into the learning rate, and comes behind it:
    a division XLA does once, but it would repeat a product in the loop of every leaf.
    """
    rate = scale_by_learning_rate(learning_rate)
    return wide_chain(guard, *pieces, scale_once(rate, once) if once else rate)
