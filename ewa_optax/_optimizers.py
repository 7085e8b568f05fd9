r"""The optimizers, each one expression over the pieces, in order of growing complexity.

All of them share a contract: arithmetic in float32 or wider whatever comes in; updates in the dtype of the gradients;
a state of arrays that keeps its dtypes and structure from `init` on; a learning rate that `get_learning_rate` reads and
`rescale_learning_rate` changes; and TypeErrors for gradients that are neither float nor complex.
"""

from collections.abc import Callable
from typing import Any

import optax

from ewa_optax._average import bias_correct, scale_by_corrected_ewa, scale_by_ewa
from ewa_optax._checks import DECAY, EPSILON, LEARNING_RATE, WEIGHT_DECAY, checked
from ewa_optax._keeping import Chosen, Pair, first_moment, for_gradients, for_squares, second_moment
from ewa_optax._learning_rate import scale_by_learning_rate
from ewa_optax._numerics import Number, shares
from ewa_optax._rms import scale_by_rms
from ewa_optax._scaling import scale_once
from ewa_optax._weight_decay import add_decayed_weights
from ewa_optax._wide import saturate, wide_chain


@checked(learning_rate=LEARNING_RATE)
def gradient_descent(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    r"""Gradient descent: $W \leftarrow W - \alpha\, g_t$.

    Args:
        learning_rate: $\alpha$, 0 or more: a number, a scalar array (traced or not) or a schedule.

    Returns:
        An optimizer that keeps nothing per parameter.

    Raises:
        ValueError: a learning rate that is negative or not finite.
        TypeError: a learning rate that is neither a number nor a schedule.

    Example:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.gradient_descent(0.1)
        >>> u, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.zeros(1)))
        >>> print(u)
        [-0.2]

    Reference:
        Cauchy, 1847; with mini-batches, Robbins and Monro, 1951. Same as `optax.sgd(learning_rate)`.
    """
    return wide_chain(scale_by_learning_rate(learning_rate))


@checked(learning_rate=LEARNING_RATE, decay=DECAY)
def momentum(
    learning_rate: optax.ScalarOrSchedule, decay: Number = 0.9, *, storage: Chosen = None
) -> optax.GradientTransformation:
    r"""Gradient descent with momentum, in the form of an average, without bias correction.

    $$v_t = \beta v_{t-1} + (1 - \beta) g_t, \qquad W \leftarrow W - \alpha v_t$$

    Args:
        learning_rate: $\alpha$, 0 or more: a number, a scalar array (traced or not) or a schedule.
        decay: $\beta$ in [0, 1): the average spans about $1/(1-\beta)$ steps, 10 for 0.9.
        storage: how the average is kept between steps: None (float32, or wider parameters' own dtype), "bfloat16",
            "float16", "8bit", "24bit", or a `Storage` with options.

    Returns:
        An optimizer that keeps one number per parameter. Gradients saturate at a quarter of the largest
            number of their dtype (at least float32's), so that no finite ones overflow.

    Raises:
        ValueError: a learning rate that is negative or not finite, a decay outside [0, 1), or an unknown storage.
        TypeError: an argument that is no number (or schedule), or no storage.

    Example:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.momentum(1.0, decay=0.5)
        >>> u, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.zeros(1)))
        >>> print(u)
        [-1.]

    Reference:
        Polyak, 1964. The same path as `heavy_ball`, `optax.sgd(momentum=decay)` and `torch.optim.SGD` at $1-\beta$
        times this learning rate.
    """
    return wide_chain(saturate(), scale_by_ewa(decay, for_gradients(storage)), scale_by_learning_rate(learning_rate))


@checked(learning_rate=LEARNING_RATE, decay=DECAY)
def heavy_ball(
    learning_rate: optax.ScalarOrSchedule, decay: Number = 0.9, *, storage: Chosen = None
) -> optax.GradientTransformation:
    r"""Momentum in the form of a sum: `momentum` without the $1 - \beta$.

    $$v_t = \beta v_{t-1} + g_t, \qquad W \leftarrow W - \alpha v_t$$

    Args:
        learning_rate: $\alpha$, 0 or more: a number, a scalar array (traced or not) or a schedule.
        decay: $\beta$ in [0, 1), the friction: a steady gradient ends at $1/(1-\beta)$ times its step, 10 for 0.9.
        storage: how the average is kept between steps: None (float32, or wider parameters' own dtype), "bfloat16",
            "float16", "8bit", "24bit", or a `Storage` with options.

    Returns:
        An optimizer that keeps one number per parameter. Gradients saturate at a quarter of the largest
            number of their dtype (at least float32's), so that no finite ones overflow.

    Raises:
        ValueError: a learning rate that is negative or not finite, a decay outside [0, 1), or an unknown storage.
        TypeError: an argument that is no number (or schedule), or no storage.

    Example:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.heavy_ball(1.0, decay=0.5)
        >>> u, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.zeros(1)))
        >>> print(u)
        [-2.]

    Reference:
        Polyak, 1964. Same as `optax.sgd(learning_rate, momentum=decay)` and `torch.optim.SGD`.
    """
    return wide_chain(
        saturate(),
        scale_by_ewa(decay, for_gradients(storage)),
        scale_once(optax.scale(1 / shares(decay)[1]), scale_by_learning_rate(learning_rate)),
        saturate(),
    )


@checked(learning_rate=LEARNING_RATE, decay=DECAY, eps=EPSILON, eps_root=EPSILON)
def rmsprop(
    learning_rate: optax.ScalarOrSchedule,
    decay: Number = 0.9,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    *,
    storage: Chosen = None,
) -> optax.GradientTransformation:
    r"""RMSprop: gradients divided by the root of the average of their squares.

    $$s_t = \beta s_{t-1} + (1 - \beta) g_t^2, \qquad
      W \leftarrow W - \alpha \frac{g_t}{\sqrt{s_t + \varepsilon_{root}} + \varepsilon}$$

    Args:
        learning_rate: $\alpha$, 0 or more: a number, a scalar array (traced or not) or a schedule.
        decay: $\beta$ in [0, 1): the average spans about $1/(1-\beta)$ steps, 10 for 0.9.
        eps: added outside the root, in units of the gradient.
        eps_root: added inside the root, in units of its square; `eps=0, eps_root=e` is the other convention.
        storage: how the average is kept between steps: None (float32, or wider parameters' own dtype), "bfloat16",
            "float16", "8bit", "24bit", or a `Storage` with options.

    Returns:
        An optimizer that keeps one number per parameter. Gradients saturate at 9e18 in float32, where
            the square would overflow, so that one spike moves a parameter by an ordinary step.

    Raises:
        ValueError: a learning rate or eps negative or not finite, a decay outside [0, 1), or an unknown storage.
        TypeError: an argument that is no number (or schedule), or no storage.

    Example:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.rmsprop(0.1, decay=0.75)
        >>> u, state = optimizer.update(jnp.array([300.0]), optimizer.init(jnp.zeros(1)))
        >>> print(u)
        [-0.2]

    Reference:
        Tieleman and Hinton, "Lecture 6.5: rmsprop", 2012. `optax.rmsprop` has its eps inside the root by default
        (`eps_in_sqrt=True`), `torch.optim.RMSprop` outside, with a decay of 0.99.
    """
    return wide_chain(
        saturate(power=2),
        scale_by_rms(scale_by_ewa(decay, for_squares(storage)), eps, eps_root=eps_root),
        scale_by_learning_rate(learning_rate),
    )


@checked(learning_rate=LEARNING_RATE, b1=DECAY, b2=DECAY, eps=EPSILON, eps_root=EPSILON)
def adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    *,
    storage: Pair = None,
) -> optax.GradientTransformation:
    r"""Adam: momentum over RMSprop, both moments of the raw gradient, both corrected for bias.

    $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2$$
    $$\hat m_t = \frac{m_t}{1 - \beta_1^t}, \qquad \hat v_t = \frac{v_t}{1 - \beta_2^t}, \qquad
      W \leftarrow W - \alpha \frac{\hat m_t}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon}$$

    Args:
        learning_rate: $\alpha$, 0 or more: a number, a scalar array (traced or not) or a schedule. The first step
            moves a parameter by $\alpha$, whatever the size of its gradient, as long as that is well above `eps`.
        b1: $\beta_1$ in [0, 1), of the gradient's average: over about $1/(1-\beta_1)$ steps, 10 for 0.9.
        b2: $\beta_2$ in [0, 1), of the squares' average: over about $1/(1-\beta_2)$ steps, 1000 for 0.999.
        eps: added outside the root, in units of the gradient.
        eps_root: added inside the root, in units of its square; above 0 where one differentiates through the step.
            With both 0, a gradient whose square is zero from the start (below 1e-23 in float32) is divided by 0.
        storage: how the moments are kept between steps: None (float32, or wider parameters' own dtype), "bfloat16",
            "float16", "8bit", "24bit", a `Storage` with options, or a pair of these for first and second moment.

    Returns:
        An optimizer that keeps two numbers per parameter: $m_t$, and $\hat v_t$ as a recursion of its own.
            Gradients saturate at 9e18 in float32, where the square would overflow, so that one spike moves a
            parameter by an ordinary step.

    Raises:
        ValueError: a learning rate or eps negative or not finite, a decay outside [0, 1), or an unknown storage.
        TypeError: an argument that is no number (or schedule), or no storage.

    Example:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.adam(0.1, eps=0.0)
        >>> u, state = optimizer.update(jnp.array([300.0, -2e-5]), optimizer.init(jnp.zeros(2)))
        >>> print(u.round(6))
        [-0.1  0.1]

    Reference:
        Kingma and Ba, "Adam: a method for stochastic optimization", 2015. `optax.adam` has the same arguments in the
        same order, and `mu_dtype` and `nesterov` besides.
    """
    return wide_chain(
        saturate(power=2),
        scale_by_rms(
            scale_by_corrected_ewa(b2, second_moment(storage)),
            eps,
            eps_root=eps_root,
            numerator=scale_by_ewa(b1, first_moment(storage)),
        ),
        # The division comes last, since XLA does one once but would repeat a product in the loop of every leaf.
        scale_once(scale_by_learning_rate(learning_rate), bias_correct(b1)),
    )


@checked(learning_rate=LEARNING_RATE, b1=DECAY, b2=DECAY, eps=EPSILON, eps_root=EPSILON, weight_decay=WEIGHT_DECAY)
def adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    weight_decay: Number = 1e-4,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    storage: Pair = None,
) -> optax.GradientTransformation:
    r"""Adam with decoupled weight decay: the decay is added to Adam's step, not to the gradient.

    $$W \leftarrow W - \alpha \left( \frac{\hat m_t}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon}
      + \lambda W \right)$$

    Args:
        learning_rate: $\alpha$, 0 or more: a number, a scalar array (traced or not) or a schedule.
        b1: $\beta_1$ in [0, 1), of the gradient's average: over about $1/(1-\beta_1)$ steps, 10 for 0.9.
        b2: $\beta_2$ in [0, 1), of the squares' average: over about $1/(1-\beta_2)$ steps, 1000 for 0.999.
        eps: added outside the root, in units of the gradient.
        eps_root: added inside the root, in units of its square.
        weight_decay: $\lambda$, 0 or more, per unit of learning rate.
        mask: a tree of booleans like the parameters or a prefix of theirs (or a function of the parameters that gives
            one): True where weights decay. All do by default.
        storage: how the moments are kept between steps: None (float32, or wider parameters' own dtype), "bfloat16",
            "float16", "8bit", "24bit", a `Storage` with options, or a pair of these for first and second moment.

    Returns:
        An optimizer that keeps two numbers per parameter. Its `update` needs the parameters. Gradients
            saturate as in `adam`.

    Raises:
        ValueError: a learning rate, eps or weight decay that is negative or not finite, a decay outside [0, 1), or no
            parameters; a storage of unknown name.
        TypeError: an argument that is no number (or schedule), or no storage.

    Example:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.adamw(0.1, weight_decay=0.5)
        >>> params = jnp.array([1.0])
        >>> u, state = optimizer.update(jnp.array([300.0]), optimizer.init(params), params)
        >>> print(u.round(6))
        [-0.15]

    Reference:
        Loshchilov and Hutter, "Decoupled weight decay regularization", 2019. `optax.adamw` has the same arguments in
        the same order, less `mu_dtype` before `weight_decay`.
    """
    return wide_chain(
        saturate(power=2),
        scale_by_rms(
            scale_by_corrected_ewa(b2, second_moment(storage)),
            eps,
            eps_root=eps_root,
            numerator=scale_by_ewa(b1, first_moment(storage)),
        ),
        bias_correct(b1),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
