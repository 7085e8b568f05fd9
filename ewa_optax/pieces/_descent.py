"""What optimizers share: how a chain becomes one, and the expressions that several have in common."""

from typing import Any

import optax

from ewa_optax._checks import DECAY, Rate, checked
from ewa_optax._numerics import Number, shares
from ewa_optax.pieces._bias_correction import bias_correct, bias_correct_ahead, scale_by_ewa
from ewa_optax.pieces._combining import add
from ewa_optax.pieces._learning_rate import scale_by_learning_rate
from ewa_optax.pieces._optimizer import saturate, wide_chain
from ewa_optax.pieces._scaling import scale_once
from ewa_optax.storage._argument import Chosen


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


@checked(b1=DECAY)
def look_ahead(b1: Number, storage: Chosen = None) -> optax.GradientTransformationExtraArgs:
    r"""A bias-corrected average as it would be after one more step of the same gradient: Nesterov's, in NAdam.

    $$u_t = \beta_1 \frac{m_t}{1 - \beta_1^{t+1}} + (1 - \beta_1) \frac{g_t}{1 - \beta_1^t}, \qquad
      m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t$$

    Args:
        b1: $\beta_1$ in [0, 1): the average spans about $1/(1-\beta_1)$ steps.
        storage: how the average is kept between steps, as in `scale_by_ewa`.

    Returns:
        A transformation that keeps one number per parameter, in float32 or wider. Updates leave in their own dtype.

    Raises:
        ValueError: a decay outside [0, 1), or a storage of unknown name.
        TypeError: a decay that is no number, or no storage.

    Example:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> ahead = pieces.look_ahead(0.5)
        >>> print(f"{ahead.update(jnp.array(3.0), ahead.init(jnp.zeros(())))[0]:.2f}")
        4.00

    Reference:
        Dozat, "Incorporating Nesterov momentum into Adam", 2016, algorithm 2.
    """
    return add(
        optax.chain(scale_by_ewa(b1, storage), scale_once(optax.scale(b1), bias_correct_ahead(b1))),
        scale_once(optax.scale(shares(b1)[1]), bias_correct(b1)),
    )
