"""The optimizers that divide gradients by an average of their size, in order of growing complexity.

What all of them share is told in `ewa_optax._optimizers`.
"""

import optax

from ewa_optax._checks import Decay, Epsilon, OpenDecay, Rate, checked
from ewa_optax._numerics import shares
from ewa_optax.pieces._averages import scale_by_corrected_ewa, scale_by_ewa, scale_by_past_rms
from ewa_optax.pieces._combining import beside, combine, divide, take
from ewa_optax.pieces._learning_rate import scale_by_learning_rate, scale_once
from ewa_optax.pieces._optimizer import optimizer, saturate
from ewa_optax.pieces._rms import root_mean_square, scale_by_rms
from ewa_optax.storage._argument import MomentStorages, StorageLike, first_moment, for_squares, second_moment


@checked
def rmsprop(
    learning_rate: Rate, decay: Decay = 0.9, eps: Epsilon = 1e-8, eps_root: Epsilon = 0.0, *,
    storage: StorageLike = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""RMSprop: gradients divided by the root of the average of their squares.

    $$s_t = \beta s_{t-1} + (1 - \beta) g_t^2, \qquad
      W \leftarrow W - \alpha \frac{g_t}{\sqrt{s_t + \varepsilon_{root}} + \varepsilon}$$

    Args:
        learning_rate: $\alpha$, 0 or more: a number, a scalar array (traced or not) or a schedule.
        decay: $\beta$ in [0, 1): the average spans about $1/(1-\beta)$ steps, 10 for 0.9.
        eps: added outside the root, in units of the gradient.
        eps_root: added inside the root, in units of its square; `eps=0, eps_root=e` is the other convention.
        storage: how the average is kept, as in `momentum`: None (float32 or wider), a name or a `Storage`.

    Returns:
        An optimizer that keeps one number per parameter. Gradients saturate at 9e18 in float32, where the square would
            overflow, so that one spike moves a parameter by an ordinary step.

    Raises:
        As in `momentum`, and ValueError for an eps that is negative or not finite.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.rmsprop(0.1, decay=0.75)
        >>> print(update(jnp.array([300.0]), init(jnp.zeros(1)))[0].round(3))
        [-0.2]

    Reference:
        Tieleman and Hinton, "Lecture 6.5: rmsprop", 2012. optax: `eps_in_sqrt=True` by default; torch: decay 0.99.
    """
    s = scale_by_ewa(decay, for_squares(storage))
    return optimizer(scale_by_rms(s, eps, eps_root=eps_root), scale_by_learning_rate(learning_rate))


@checked
def adadelta(
    learning_rate: Rate = 1.0, decay: Decay = 0.95, eps: Epsilon = 1e-6, *, storage: StorageLike = None
) -> optax.GradientTransformation:
    r"""AdaDelta: RMSprop whose step is as long as its steps were before, so that no learning rate need be chosen.

    $$s_t = \beta s_{t-1} + (1 - \beta) g_t^2, \quad u_t = \frac{\sqrt{e_{t-1} + \varepsilon}}{\sqrt{s_t + \varepsilon}}
      g_t, \quad e_t = \beta e_{t-1} + (1 - \beta) u_t^2, \quad W \leftarrow W - \alpha u_t$$

    Args:
        learning_rate, decay, storage: as in `rmsprop`. The paper's rate is 1.
        eps: inside both roots: the first steps are about $\sqrt{\varepsilon / (1 - \beta)}$ long. With 0 nothing moves.

    Returns:
        An optimizer that keeps two numbers per parameter, averages of squares.

    Raises:
        As in `rmsprop`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.adadelta(eps=1e-4)
        >>> print(update(jnp.array([300.0, -2.0]), init(jnp.zeros(2)))[0].round(3))
        [-0.045  0.045]

    Reference:
        Zeiler, "ADADELTA", 2012. optax (no default rate) and torch have decay 0.9; keras has rate 0.001, eps 1e-7.
    """
    s, e = scale_by_ewa(decay, for_squares(storage)), scale_by_past_rms(decay, eps, for_squares(storage))
    return optimizer(scale_by_rms(s, 0.0, eps_root=eps), e, scale_by_learning_rate(learning_rate))


@checked
def laprop(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Epsilon = 1e-15, *, storage: MomentStorages = None
) -> optax.GradientTransformation:
    r"""LaProp: an average of RMSprop's steps, where Adam divides an average of gradients.

    $$v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad m_t = \beta_1 m_{t-1} + (1 - \beta_1)
      \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \varepsilon}, \qquad W \leftarrow W - \alpha \frac{m_t}{1 - \beta_1^t}$$

    Args:
        learning_rate, b1, b2, eps, storage: as in `adam`, of the average of steps in place of that of gradients.

    Returns:
        An optimizer that keeps two numbers per parameter, averages whose bias is corrected.

    Raises:
        As in `adam`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.laprop(0.1)
        >>> print(update(jnp.array([300.0, -2e-5]), init(jnp.zeros(2)))[0].round(3))
        [-0.1  0.1]

    Reference:
        Ziyin, Wang and Ueda, "LaProp: separating momentum and adaptivity in Adam", 2020. Not in optax, torch or keras.
    """
    m, v = scale_by_corrected_ewa(b1, first_moment(storage)), scale_by_corrected_ewa(b2, second_moment(storage))
    return optimizer(scale_by_rms(v, eps), m, scale_by_learning_rate(learning_rate))


@checked
def rmsprop_momentum(
    learning_rate: Rate, decay: Decay = 0.9, eps: Epsilon = 1e-8, eps_root: Epsilon = 0.0,
    momentum: Decay = 0.9, *,
    storage: MomentStorages = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""RMSprop with momentum: its steps add up, as those of `heavy_ball`.

    $$s_t = \beta s_{t-1} + (1 - \beta) g_t^2, \qquad
      v_t = \mu v_{t-1} + \frac{g_t}{\sqrt{s_t + \varepsilon_{root}} + \varepsilon}, \quad W \leftarrow W - \alpha v_t$$

    Args:
        learning_rate, decay, eps, eps_root, storage: as in `rmsprop`, or a pair of storages: of steps and of squares.
        momentum: $\mu$ in [0, 1): steady steps end at $1/(1-\mu)$ times their length, 10 for 0.9.

    Returns:
        An optimizer that keeps two numbers per parameter.

    Raises:
        As in `rmsprop`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.rmsprop_momentum(0.1, decay=0.75)
        >>> print(update(jnp.array([300.0]), init(jnp.zeros(1)))[0].round(3))
        [-0.2]

    Reference:
        Tieleman and Hinton, "Lecture 6.5: rmsprop", 2012, which names it; the sum is that of Polyak, 1964. optax and
        keras (eps 1e-7) have eps inside the root, and sum learning rates with the steps; torch has a decay of 0.99.
    """
    s, v = scale_by_ewa(decay, second_moment(storage)), scale_by_ewa(momentum, first_moment(storage))
    once = optax.scale(1 / shares(momentum)[1])
    rate = scale_once(scale_by_learning_rate(learning_rate), once)
    return optimizer(scale_by_rms(s, eps, eps_root=eps_root), v, rate)


@checked
def rmsprop_centered(
    learning_rate: Rate, decay: OpenDecay = 0.95, eps: Epsilon = 0.0, eps_root: Epsilon = 1e-4,
    momentum: Decay = 0.9, *,
    storage: MomentStorages = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""RMSprop with momentum, divided by the standard deviation of gradients instead of their size.

    $$m_t = \beta m_{t-1} + (1 - \beta) g_t, \quad s_t = \beta s_{t-1} + (1 - \beta) g_t^2, \quad v_t = \mu v_{t-1}
      + \alpha \frac{g_t}{\sqrt{s_t - m_t^2 + \varepsilon_{root}} + \varepsilon}, \quad W \leftarrow W - v_t$$

    $s_t - m_t^2 = \sum \frac{1-\beta}{\beta} \beta^{t-i} (g_i - m_i)^2$: never negative, true down to 1e-6 of the mean.

    Args:
        learning_rate, eps, momentum, storage: as in `rmsprop_momentum`.
        decay: $\beta$ in (0, 1), of both averages: over about $1/(1-\beta)$ steps, 20 for 0.95.
        eps_root: as in `rmsprop`. Steady gradients have a deviation of 0: without it they would be divided by 0.

    Returns:
        An optimizer that keeps three numbers per parameter: $m_t$, the average of $(g_t - m_t)^2$, and $v_t$.

    Raises:
        As in `rmsprop`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.rmsprop_centered(0.1, decay=0.5, eps_root=0.0)
        >>> print(update(jnp.array([300.0]), init(jnp.zeros(1)))[0].round(3))
        [-0.2]

    Reference:
        Graves, "Generating sequences with recurrent neural networks", 2013, equations 38 to 45. Others have no momentum
        by default; optax decay 0.9, eps 1e-8; torch 0.99, 1e-8 and $\alpha$ outside (root and sum); keras 0.9, 1e-7.
    """
    m, v = scale_by_ewa(decay, first_moment(storage)), scale_by_ewa(momentum, first_moment(storage, which=1))
    variance = optax.chain(scale_by_ewa(decay, second_moment(storage)), optax.scale(1 / decay))
    deviation = optax.chain(combine(1, -1), root_mean_square(variance, eps, eps_root=eps_root))
    rate = scale_once(scale_by_learning_rate(learning_rate), optax.scale(1 / shares(momentum)[1]))
    return optimizer(beside(m), divide(take(0), deviation), rate, v, guard=saturate(power=2, terms=2))
