"""What optimizers share: how a chain becomes one, and the expressions that several have in common."""

from typing import Any

import optax

from ewa_optax._average import bias_correct, bias_correct_ahead, scale_by_ewa
from ewa_optax._checks import Rate
from ewa_optax._combining import add
from ewa_optax._keeping import Chosen
from ewa_optax._learning_rate import scale_by_learning_rate
from ewa_optax._numerics import Number, shares
from ewa_optax._scaling import scale_once
from ewa_optax._wide import saturate, wide_chain


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


def look_ahead(b1: Number, storage: Chosen) -> optax.GradientTransformationExtraArgs:
    r"""NAdam's numerator: $\beta_1 m_t / (1 - \beta_1^{t+1}) + (1 - \beta_1) g_t / (1 - \beta_1^t)$."""
    return add(
        optax.chain(scale_by_ewa(b1, storage), scale_once(optax.scale(b1), bias_correct_ahead(b1))),
        scale_once(optax.scale(shares(b1)[1]), bias_correct(b1)),
    )
