"""The optimizers that look at a whole layer at once, in order of growing complexity.

What all of them share is told in `ewa_optax._optimizers`.
"""

import optax

from ewa_optax._checks import Decay, Epsilon, Rate, checked
from ewa_optax._numerics import shares
from ewa_optax.pieces._averages import scale_by_corrected_ewa, scale_by_ewa, scale_by_ewa_of_share
from ewa_optax.pieces._decay_schedules import Exponent, relative_step, share_after_the_first, share_of_power
from ewa_optax.pieces._layerwise import (
    ClipThreshold,
    MinScale,
    TrustCoefficient,
    clip_by_rms,
    of_arrays,
    of_rows_and_columns,
    scale_by_parameter_rms,
    scale_by_trust_ratio,
)
from ewa_optax.pieces._learning_rate import scale_by_learning_rate, scale_once
from ewa_optax.pieces._optimizer import optimizer, saturate_norm
from ewa_optax.pieces._rms import scale_by_rms
from ewa_optax.pieces._weight_decay import Mask, WeightDecay, add_decayed_weights
from ewa_optax.storage._argument import MomentStorages, StorageLike, first_moment, for_gradients, second_moment


@checked
def lars(
    learning_rate: Rate, weight_decay: WeightDecay = 0.0, mask: Mask = None, *,
    trust_coefficient: TrustCoefficient = 0.001, momentum: Decay = 0.9, storage: StorageLike = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""LARS: momentum whose step in each array is a share of the norm of its parameters, with coupled weight decay.

    $$r_t = \eta \frac{\lVert W \rVert}{\lVert g_t \rVert + \lambda \lVert W \rVert} \text{ or 1 where } W = 0, \qquad
      v_t = \mu v_{t-1} + \alpha r_t (g_t + \lambda W), \qquad W \leftarrow W - v_t$$

    Args:
        learning_rate, storage: as in `momentum`. Steps are kept, small numbers: below a rate of 1 not as "float16".
        weight_decay, mask: as in `adamw`, but $\lambda$ is coupled, and goes through the sum.
        trust_coefficient: $\eta$, 0 or more: by which share of its norm an array moves at a learning rate of 1.
        momentum: $\mu$ in [0, 1): steady steps end at $1/(1-\mu)$ times their length, 10 for 0.9.

    Returns:
        An optimizer that keeps one number per parameter. Its `update` needs the parameters.

    Raises:
        As in `adamw`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.lars(1.0, trust_coefficient=0.1)
        >>> print(update(jnp.array([0.0, 2.0]), init(w := jnp.array([3.0, 4.0])), w)[0].round(3))
        [ 0.  -0.5]

    Reference:
        You, Gitman and Ginsburg, "Large batch training", 2017. Biases are often left out, by `optax.partition`
        (in optax, a mask). optax divides by $\lVert g_t + \lambda W \rVert$; torch and keras have none.
    """
    ratio = scale_by_trust_ratio(trust_coefficient, weight_decay, mask)
    v, k = scale_by_ewa(momentum, for_gradients(storage)), 1 / shares(momentum)[1]
    return optimizer(ratio, scale_once(scale_by_learning_rate(learning_rate), optax.scale(k)), v, guard=saturate_norm())


@checked
def novograd(
    learning_rate: Rate, b1: Decay = 0.95, b2: Decay = 0.98, eps: Epsilon = 1e-8, eps_root: Epsilon = 0.0,
    weight_decay: WeightDecay = 0.0, mask: Mask = None, *, storage: StorageLike = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""NovoGrad: a sum of gradients, each array's divided by the average of its squared norm, and of decays.

    $$v_1 = \|g_1\|^2, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) \|g_t\|^2, \quad m_t = \beta_1 m_{t-1} +
      \frac{g_t}{\sqrt{v_t + \varepsilon_{root}} + \varepsilon} + \lambda W, \quad W \leftarrow W - \alpha m_t$$

    Args:
        learning_rate, eps, eps_root, weight_decay, mask, storage: as in `adamw`, with one storage, no pair.
        b1: $\beta_1$ in [0, 1): steady steps end at $1/(1-\beta_1)$ times their length, 20 for 0.95.
        b2: $\beta_2$ in [0, 1), of the squared norms' average: over about $1/(1-\beta_2)$ steps, 50 for 0.98.

    Returns:
        An optimizer that keeps one number per parameter, and one per array.

    Raises:
        As in `adamw`; it needs parameters only where weights decay.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.novograd(0.1)
        >>> print(update(jnp.array([3.0, 4.0]), init(jnp.zeros(2)))[0].round(2))
        [-0.06 -0.08]

    Reference:
        Ginsburg et al., "Stochastic gradient methods", 2019. optax: decays 0.9 and 0.25, eps 1e-6; torch, keras: none.
    """
    v = of_arrays(scale_by_ewa_of_share(share_after_the_first(b2), decay=b2))
    step = scale_by_rms(v, eps, eps_root=eps_root, numerator=saturate_norm())
    m, once = scale_by_ewa(b1, for_gradients(storage)), optax.scale(1 / shares(b1)[1])
    decayed = add_decayed_weights(weight_decay, mask)
    rate = scale_once(scale_by_learning_rate(learning_rate), once)
    return optimizer(step, decayed, m, rate, guard=optax.identity())


@checked
def lamb(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Epsilon = 1e-6, eps_root: Epsilon = 0.0,
    weight_decay: WeightDecay = 0.0, mask: Mask = None, *, storage: MomentStorages = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""LAMB: AdamW whose step in each array is a share, the learning rate, of the norm of its parameters.

    $$r_t = \frac{\hat m_t}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon} + \lambda W, \qquad
      W \leftarrow W - \alpha \frac{\lVert W \rVert}{\lVert r_t \rVert} r_t \text{ (for zeros, the fraction is 1)}$$

    Args:
        learning_rate, b1, b2, eps, eps_root, weight_decay, mask, storage: as in `adamw`.

    Returns:
        An optimizer that keeps two numbers per parameter, $\hat m_t$, $\hat v_t$. Its `update` needs the parameters.

    Raises:
        As in `adamw`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.lamb(0.1, eps=0.0)
        >>> print(update(jnp.array([300.0, -2e-5]), init(w := jnp.array([3.0, 4.0])), w)[0].round(3))
        [-0.354  0.354]

    Reference:
        You et al., "Large batch optimization for deep learning", 2020, with $\phi$ the identity. optax has the same
        arguments in the same order; in keras weight decay is outside of the ratio; torch has none.
    """
    m, v = scale_by_corrected_ewa(b1, first_moment(storage)), scale_by_corrected_ewa(b2, second_moment(storage))
    step = scale_by_rms(v, eps, eps_root=eps_root, numerator=m)
    rate = scale_by_learning_rate(learning_rate)
    return optimizer(step, add_decayed_weights(weight_decay, mask), scale_by_trust_ratio(), rate)


@checked
def adafactor(
    learning_rate: Rate = relative_step, *, decay_rate: Exponent = 0.8, clipping_threshold: ClipThreshold = 1.0,
    eps_root: Epsilon = 1e-30, min_scale: MinScale = 1e-3,
) -> optax.GradientTransformation:  # fmt: skip
    r"""Adafactor: RMSprop that keeps next to nothing, with steps that are shares of the size of the parameters.

    $$\beta_t = 1 - t^{-c}, \qquad R_t = \beta_t R_{t-1} + (1 - \beta_t) (g_t^2 + \varepsilon_1) 1, \qquad
      C_t = \beta_t C_{t-1} + (1 - \beta_t) 1^\top (g_t^2 + \varepsilon_1)$$
    $$u_t = \frac{g_t}{\sqrt{R_t C_t / 1^\top R_t}}, \qquad
      W \leftarrow W - \alpha_t \max(\varepsilon_2, \mathrm{RMS}(W)) \frac{u_t}{\max(1, \mathrm{RMS}(u_t)/d)}$$

    Args:
        learning_rate: $\alpha_t$, as in `rmsprop`. The paper's, and the default, is $\min(0.01, 1/\sqrt t)$.
        decay_rate: $c$, more than 0: the average spans about $t^c$ steps.
        clipping_threshold: $d$, more than 0: the largest root mean square of $u_t$ in an array.
        eps_root, min_scale: $\varepsilon_1$, in units of $g_t^2$; $\varepsilon_2$, 0 or more: parameters leave 0.

    Returns:
        An optimizer that keeps two vectors per matrix (the last two axes), one number per parameter of lesser arrays.

    Raises:
        As in `adamw`, no parameters included, and ValueError for a decay rate or threshold of 0 or less.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.adafactor()
        >>> print(update(jnp.array([[3.0, -4.0]]), init(w := jnp.array([[1.0, 1.0]])), w)[0].round(3))
        [[-0.01  0.01]]

    Reference:
        Shazeer and Stern, "Adafactor", 2018, algorithms 4 to 6. As `optax.adafactor(rate, min_dim_size_to_factor=2)`;
        torch has $V_t$ of 1.4e-14 or more in place of $\varepsilon_1$, keras $\alpha_t = \min(0.001, 1/\sqrt t)$.
    """
    v = of_rows_and_columns(scale_by_ewa_of_share(share_of_power(decay_rate)), eps_root)
    clip, scale = clip_by_rms(clipping_threshold), scale_by_parameter_rms(min_scale)
    return optimizer(scale_by_rms(v, 0.0), clip, scale, scale_by_learning_rate(learning_rate))
