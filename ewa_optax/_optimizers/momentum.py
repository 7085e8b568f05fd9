"""The optimizers that step along gradients or averages of them, in order of growing complexity.

What all of them share is told in `ewa_optax._optimizers`.
"""

import optax

from ewa_optax._checks import Decay, OpenDecay, Rate, checked
from ewa_optax._numerics import shares
from ewa_optax.pieces._averages import scale_by_ewa
from ewa_optax.pieces._combining import beside, combine
from ewa_optax.pieces._learning_rate import scale_by_learning_rate, scale_once
from ewa_optax.pieces._optimizer import optimizer, saturate
from ewa_optax.pieces._weight_decay import Mask, WeightDecay, add_decayed_weights
from ewa_optax.storage._argument import StorageLike, for_gradients


@checked
def gradient_descent(learning_rate: Rate) -> optax.GradientTransformation:
    r"""Gradient descent: $W \leftarrow W - \alpha\, g_t$.

    Args:
        learning_rate: as in `momentum`.

    Returns:
        An optimizer that keeps nothing per parameter.

    Raises:
        As in `momentum`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.gradient_descent(0.1)
        >>> print(update(jnp.array([2.0]), init(jnp.zeros(1)))[0].round(3))
        [-0.2]

    Reference:
        Cauchy, 1847; with mini-batches, Robbins and Monro, 1951. Same as `optax.sgd(learning_rate)`.
    """
    return optimizer(scale_by_learning_rate(learning_rate), guard=None)


@checked
def momentum(learning_rate: Rate, decay: Decay = 0.9, *, storage: StorageLike = None) -> optax.GradientTransformation:
    r"""Gradient descent with momentum, in the form of an average, without bias correction.

    $$v_t = \beta v_{t-1} + (1 - \beta) g_t, \qquad W \leftarrow W - \alpha v_t$$

    Args:
        learning_rate: $\alpha$, 0 or more: a number, a scalar array (traced or not) or a schedule.
        decay: $\beta$ in [0, 1): the average spans about $1/(1-\beta)$ steps, 10 for 0.9.
        storage: how the average is kept between steps: None (float32, or wider parameters' own dtype), "bfloat16",
            "float16", "8bit", "24bit", or a `Storage` with options.

    Returns:
        An optimizer that keeps one number per parameter. Gradients saturate, at 8e37 in float32: none overflows.

    Raises:
        ValueError: a learning rate that is negative or not finite, a decay outside [0, 1), or an unknown storage.
        TypeError: an argument that is no number (or schedule), or no storage; gradients neither float nor complex.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.momentum(1.0, decay=0.5)
        >>> print(update(jnp.array([2.0]), init(jnp.zeros(1)))[0].round(3))
        [-1.]

    Reference:
        Polyak, 1964. As `heavy_ball`, `optax.sgd(momentum=decay)`, `torch.optim.SGD` at $1-\beta$ times this rate.
    """
    rate = scale_by_learning_rate(learning_rate)
    return optimizer(scale_by_ewa(decay, for_gradients(storage)), rate, guard=saturate())


@checked
def heavy_ball(learning_rate: Rate, decay: Decay = 0.9, *, storage: StorageLike = None) -> optax.GradientTransformation:
    r"""Momentum in the form of a sum: `momentum` without the $1 - \beta$.

    $$v_t = \beta v_{t-1} + g_t, \qquad W \leftarrow W - \alpha v_t$$

    Args:
        learning_rate, storage: as in `momentum`.
        decay: $\beta$ in [0, 1), the friction: a steady gradient ends at $1/(1-\beta)$ times its step, 10 for 0.9.

    Returns:
        An optimizer that keeps one number per parameter.

    Raises:
        As in `momentum`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.heavy_ball(1.0, decay=0.5)
        >>> print(update(jnp.array([2.0]), init(jnp.zeros(1)))[0].round(3))
        [-2.]

    Reference:
        Polyak, 1964. Same as `optax.sgd(learning_rate, momentum=decay)` and `torch.optim.SGD`.
    """
    m, k = scale_by_ewa(decay, for_gradients(storage)), 1 / shares(decay)[1]
    return optimizer(m, scale_once(scale_by_learning_rate(learning_rate), optax.scale(k)), guard=saturate(terms=k))


@checked
def nesterov(learning_rate: Rate, decay: Decay = 0.9, *, storage: StorageLike = None) -> optax.GradientTransformation:
    r"""Nesterov's momentum: `heavy_ball` that looks a step ahead.

    $$v_t = \beta v_{t-1} + g_t, \qquad W \leftarrow W - \alpha (g_t + \beta v_t)$$

    Args:
        learning_rate, decay, storage: as in `heavy_ball`.

    Returns:
        An optimizer that keeps one number per parameter.

    Raises:
        As in `momentum`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.nesterov(1.0, decay=0.5)
        >>> print(update(jnp.array([2.0]), init(jnp.zeros(1)))[0].round(2))
        [-3.]

    Reference:
        Nesterov, 1983; in this form Sutskever et al., "On the importance of initialization and momentum in deep
        learning", 2013. Same as in optax and torch with `nesterov=True`; keras sums learning rates with the gradients.
    """
    m, k = scale_by_ewa(decay, for_gradients(storage)), 1 / shares(decay)[1]
    rate = scale_by_learning_rate(learning_rate)
    return optimizer(beside(m), combine(1, k * decay), rate, guard=saturate(terms=k))


@checked
def signum(learning_rate: Rate, decay: Decay = 0.9, *, storage: StorageLike = None) -> optax.GradientTransformation:
    r"""Signum: steps of one size, that of the learning rate, in the direction of the average's sign.

    $$m_t = \beta m_{t-1} + (1 - \beta) g_t, \qquad W \leftarrow W - \alpha\, \mathrm{sign}(m_t)$$

    Args:
        learning_rate, decay, storage: as in `momentum`.

    Returns:
        An optimizer that keeps one number per parameter.

    Raises:
        As in `momentum`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.signum(0.1)
        >>> print(update(jnp.array([300.0, -2e-5]), init(jnp.zeros(2)))[0].round(3))
        [-0.1  0.1]

    Reference:
        Bernstein et al., "signSGD", 2018. Same as `optax.signum`; a decay of 0 gives signSGD, `optax.sign_sgd`.
    """
    m = scale_by_ewa(decay, for_gradients(storage))
    return optimizer(m, optax.scale_by_sign(), scale_by_learning_rate(learning_rate), guard=saturate())


@checked
def lion(
    learning_rate: Rate, b1: Decay = 0.9, b2: OpenDecay = 0.99, weight_decay: WeightDecay = 1e-3, mask: Mask = None, *,
    storage: StorageLike = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""Lion: `signum` that hands on one interpolation and keeps another, with decoupled weight decay.

    $$c_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad m_t = \beta_2 m_{t-1} + (1 - \beta_2) g_t$$
    $$W \leftarrow W - \alpha (\mathrm{sign}(c_t) + \lambda W)$$

    It forms $c_t$ as $\frac{\beta_1}{\beta_2} m_t + (1 - \frac{\beta_1}{\beta_2}) g_t$: no copy of $m_{t-1}$ is made.

    Args:
        learning_rate, weight_decay, mask: as in `adamw`; the rate 3 to 10 times smaller, the decay as much larger.
        b1, b2: $\beta_1$ in [0, 1), of the sign; $\beta_2$ in (0, 1), not far below, of what is kept (0.99: 100 steps).
        storage: as in `momentum`.

    Returns:
        An optimizer that keeps one number per parameter.

    Raises:
        As in `adamw`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.lion(0.1, weight_decay=0.5)
        >>> print(update(jnp.array([300.0]), init(w := jnp.array([1.0])), w)[0].round(3))
        [-0.15]

    Reference:
        Chen et al., "Symbolic discovery", 2023. optax has `mu_dtype` before `weight_decay`, keras a default of 0.
    """
    m, c = scale_by_ewa(b2, for_gradients(storage)), combine(1 - b1 / b2, b1 / b2)
    decayed = add_decayed_weights(weight_decay, mask)
    rate = scale_by_learning_rate(learning_rate)
    return optimizer(beside(m), c, optax.scale_by_sign(), decayed, rate, guard=saturate())
