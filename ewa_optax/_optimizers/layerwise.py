r"""The optimizers that look at a whole layer at once, in order of growing complexity.

They share the contract of `_momentum_family`.
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

    $$r_t = \eta \frac{\lVert W \rVert}{\lVert g_t \rVert + \lambda \lVert W \rVert}, \qquad
      v_t = \mu v_{t-1} + \alpha r_t (g_t + \lambda W), \qquad W \leftarrow W - v_t$$

    An array of zeros has no size to take a share of: there $r_t$ is 1. Biases are often left out, by `optax.partition`
    (in optax, by `trust_ratio_mask`).
    What is kept are steps, small numbers: below a learning rate of 1 not as "float16".

    | | differs in |
    |---|---|
    | `optax.lars` | divides by $\lVert g_t + \lambda W \rVert$; without weight decay it is the same |
    | torch, keras | have none |

    Args:
        learning_rate: $\alpha$, 0 or more: a number, a scalar array (traced or not) or a schedule.
        weight_decay: $\lambda$, 0 or more: a number, a scalar array or a schedule.
        mask: a tree of booleans like the parameters or a prefix of theirs (or a function of the parameters that gives
            one): True where weights decay. All do by default.
        trust_coefficient: $\eta$, 0 or more: by which share of its norm an array moves at a learning rate of 1.
        momentum: $\mu$ in [0, 1): steady steps end at $1/(1-\mu)$ times their length, 10 for 0.9.
        storage: how the average is kept between steps: None (float32, or wider parameters' own dtype), "bfloat16",
            "float16", "8bit", "24bit", or a `Storage` with options.

    Returns:
        An optimizer that keeps one number per parameter. Its `update` needs the parameters. Gradients saturate where
            the square of an array's norm would overflow.

    Raises:
        ValueError: a learning rate or weight decay that is negative or not finite, a decay outside [0, 1), a storage of
            unknown name, or no parameters.
        TypeError: an argument that is no number (or schedule), or no storage.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.lars(1.0, trust_coefficient=0.1)
        >>> w = jnp.array([3.0, 4.0])
        >>> u, state = optimizer.update(jnp.array([0.0, 2.0]), optimizer.init(w), w)
        >>> print([f"{x:.3f}" for x in u])
        ['0.000', '-0.500']

    Reference:
        You, Gitman and Ginsburg, "Large batch training of convolutional networks", 2017.
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

    $$v_1 = \lVert g_1 \rVert^2, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) \lVert g_t \rVert^2, \qquad
      m_t = \beta_1 m_{t-1} + \frac{g_t}{\sqrt{v_t + \varepsilon_{root}} + \varepsilon} + \lambda W, \qquad
      W \leftarrow W - \alpha m_t$$

    Args:
        learning_rate, eps, eps_root, storage: as in `adam`.
        weight_decay, mask: as in `adamw`.
        b1: $\beta_1$ in [0, 1): steady steps end at $1/(1-\beta_1)$ times their length, 20 for 0.95.
        b2: $\beta_2$ in [0, 1), of the squared norms' average: over about $1/(1-\beta_2)$ steps, 50 for 0.98.

    Returns:
        An optimizer that keeps one number per parameter, and one per array. Where weights decay, its `update` needs the
            parameters.

    Raises:
        As in `adamw`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.novograd(0.1)
        >>> w = jnp.array([0.0, 0.0])
        >>> u, state = optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(w), w)
        >>> print([f"{x:.3f}" for x in u])
        ['-0.060', '-0.080']

    Reference:
        Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments for training of deep networks",
        2019. `optax.novograd` has the decays 0.9 and 0.25, and eps 1e-6; torch and keras have none.
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
    r"""LAMB: AdamW whose step in each array is as long as its parameters.

    $$r_t = \frac{\hat m_t}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon} + \lambda W, \qquad
      W \leftarrow W - \alpha \frac{\lVert W \rVert}{\lVert r_t \rVert} r_t$$

    An array of zeros has no size: there the fraction is 1.

    Args:
        b1, b2, eps, eps_root, storage: as in `adam`.
        weight_decay, mask: as in `adamw`.
        learning_rate: as in `adam`. By this share of its norm an array moves.

    Returns:
        An optimizer that keeps two numbers per parameter. Its `update` needs the parameters.

    Raises:
        As in `adamw`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.lamb(0.1, eps=0.0)
        >>> w = jnp.array([3.0, 4.0])
        >>> u, state = optimizer.update(jnp.array([300.0, -2e-5]), optimizer.init(w), w)
        >>> print([f"{x:.3f}" for x in u])
        ['-0.354', '0.354']

    Reference:
        You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020, with $\phi$ the
        identity. `optax.lamb` has the same arguments in the same order; In `keras.optimizers.Lamb` weight decay is
        outside of the ratio; torch has none.
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

    | | differs in |
    |---|---|
    | `optax.adafactor(rate, min_dim_size_to_factor=2)` | `adafactor(rate)`; with None it has no learning rate |
    | `torch.optim.Adafactor` | $V_t$ is at least 1.4e-14, instead of $\varepsilon_1$ |
    | `keras.optimizers.Adafactor` | $\alpha_t = \min(0.001, 1/\sqrt t)$ |

    Args:
        learning_rate: $\alpha_t$, 0 or more: a number, a scalar array or a schedule. The paper's, and the default, is
            $\min(0.01, 1/\sqrt t)$.
        decay_rate: $c$, more than 0: the average spans about $t^c$ steps.
        clipping_threshold: $d$, more than 0: the largest root mean square of $u_t$ in an array.
        eps_root: $\varepsilon_1$, in units of the gradient squared.
        min_scale: $\varepsilon_2$, 0 or more, so that parameters leave 0.

    Returns:
        An optimizer that keeps two vectors for each matrix (the last two axes of an array), and one number per
            parameter of arrays with fewer than two axes. Its `update` needs the parameters.

    Raises:
        As in `adamw`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.adafactor()
        >>> w = jnp.array([[1.0, 1.0]])
        >>> u, state = optimizer.update(jnp.array([[3.0, -4.0]]), optimizer.init(w), w)
        >>> print([f"{x:.3f}" for x in u.ravel()])
        ['-0.010', '0.010']

    Reference:
        Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", 2018, algorithms 4 to 6.
    """
    v = of_rows_and_columns(scale_by_ewa_of_share(share_of_power(decay_rate)), eps_root)
    clip, scale = clip_by_rms(clipping_threshold), scale_by_parameter_rms(min_scale)
    return optimizer(scale_by_rms(v, 0.0), clip, scale, scale_by_learning_rate(learning_rate))
