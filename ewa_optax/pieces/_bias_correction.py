r"""The exponentially weighted average (EWA) of gradients, and the correction of its bias towards zero.

Everything else in the library is an expression over these: momentum is an average of gradients, RMSprop divides by the
root of an average of squares, Adam does both.
"""

import optax

from ewa_optax._checks import Decay, checked
from ewa_optax._numerics import increment, shares, weight_sum
from ewa_optax._trees import map_leaves, wide
from ewa_optax.pieces._averages import scale_by_ewa
from ewa_optax.pieces._combining import add, by_step
from ewa_optax.pieces._learning_rate import scale_once
from ewa_optax.storage._argument import StorageLike


@checked
def bias_correct(decay: Decay) -> optax.GradientTransformation:
    r"""Divides an average by the sum of its weights, so that its first steps are not too small.

    $$\hat v_t = \frac{v_t}{1 - \beta^t}$$

    Belongs behind `scale_by_ewa` of the same decay, which carries $v_t$ on uncorrected.

    Args:
        decay: $\beta$ in [0, 1), the decay of the average: the correction matters for about $1/(1-\beta)$ steps.

    Returns:
        A transformation whose state is the step count $t$, one for all leaves: of one that is None at some steps, which
        its average does not see, it corrects too little. Updates of any float or complex dtype leave in the dtype they
        came in.

    Raises:
        ValueError: `decay` outside [0, 1), or an array that is no scalar.
        TypeError: `decay` is no number, or an update is neither float nor complex.

    Examples:
        >>> import jax.numpy as jnp, optax, ewa_optax
        >>> average = optax.chain(ewa_optax.scale_by_ewa(0.98), ewa_optax.bias_correct(0.98))
        >>> state = average.init(jnp.zeros(()))
        >>> v, state = average.update(jnp.array(40.0), state)
        >>> print(f"{v:.4f}")
        40.0000

    Reference:
        Kingma and Ba, "Adam: a method for stochastic optimization", 2015, section 3.
    """
    return _correct(decay, 0)


@checked
def bias_correct_ahead(decay: Decay) -> optax.GradientTransformation:
    r"""`bias_correct` of one step later: $v_t / (1 - \beta^{t+1})$, for an average that looks a step ahead.

    Args:
        decay: $\beta$ in [0, 1), the decay of the average.

    Returns:
        A transformation whose state is the step count $t$. Updates leave in the dtype they came in.

    Raises:
        ValueError: `decay` outside [0, 1), or an array that is no scalar.
        TypeError: `decay` is no number, or an update is neither float nor complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> correct = pieces.bias_correct_ahead(0.5)
        >>> print(correct.update(jnp.array([3.0]), correct.init(jnp.zeros(1)))[0])
        [4.]

    Reference:
        Dozat, "Incorporating Nesterov momentum into Adam", 2016, algorithm 2.
    """
    return _correct(decay, 1)


def _correct(decay, ahead):
    def corrected(updates, step, params):
        del params
        total = weight_sum(decay, increment(step) if ahead else step)
        return map_leaves(wide(_divided, total), updates)

    return by_step(corrected)


def _divided(total, v):
    return v / total.astype(v.dtype)


@checked
def look_ahead(b1: Decay, storage: StorageLike = None) -> optax.GradientTransformationExtraArgs:
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

    Examples:
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
