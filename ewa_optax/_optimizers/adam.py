"""The optimizers that divide an average by an average, in order of growing complexity.

What all of them share is told in `ewa_optax._optimizers`.
"""

from typing import Annotated

import optax

from ewa_optax._checks import Decay, Epsilon, Rate, checked, rule
from ewa_optax._numerics import Number, shares
from ewa_optax.pieces._averages import (
    difference,
    running_max,
    scale_by_additive_ewa,
    scale_by_corrected_ewa,
    scale_by_ewa,
    scale_by_ewa_of_share,
)
from ewa_optax.pieces._bias_correction import bias_correct, look_ahead
from ewa_optax.pieces._combining import add, beside, combine, divide, take
from ewa_optax.pieces._decay_schedules import Warmup, growing, share_of_growing_half_life
from ewa_optax.pieces._learning_rate import scale_by_learning_rate, scale_once
from ewa_optax.pieces._optimizer import optimizer, saturate
from ewa_optax.pieces._rms import Threshold, rectify, root_mean_square, scale_by_rms
from ewa_optax.pieces._weight_decay import Mask, WeightDecay, add_decayed_weights, proximal_weight_decay
from ewa_optax.storage._argument import MomentStorages, first_moment, second_moment

Alpha = Annotated[
    Number, rule("finite and 0 or more", lambda x: x >= 0, "5 is the paper's, which warmup=steps lets grow from 0")
]


@checked
def adam(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Epsilon = 1e-8, eps_root: Epsilon = 0.0, *,
    storage: MomentStorages = None,
) -> optax.GradientTransformation:  # fmt: skip
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
            With both 0, a gradient whose square is zero from the start (below 1e-19 in float32) is divided by 0.
        storage: how the moments are kept between steps: None (float32, or wider parameters' own dtype), "bfloat16",
            "float16", "8bit", "24bit", a `Storage` with options, or a pair of these for first and second moment.

    Returns:
        An optimizer that keeps two numbers per parameter: $m_t$, and $\hat v_t$ as a recursion. Saturates as `rmsprop`.

    Raises:
        ValueError: a learning rate or eps negative or not finite, a decay outside [0, 1), or an unknown storage.
        TypeError: an argument that is no number (or schedule), or no storage; gradients neither float nor complex.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.adam(0.1, eps=0.0)
        >>> print(update(jnp.array([300.0, -2e-5]), init(jnp.zeros(2)))[0].round(3))
        [-0.1  0.1]

    Reference:
        Kingma and Ba, "Adam: a method for stochastic optimization", 2015. optax has `mu_dtype` and `nesterov` besides.
    """
    m, v = scale_by_ewa(b1, first_moment(storage)), scale_by_corrected_ewa(b2, second_moment(storage))
    step = scale_by_rms(v, eps, eps_root=eps_root, numerator=m)
    return optimizer(step, scale_once(scale_by_learning_rate(learning_rate), bias_correct(b1)))


@checked
def adamw(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Epsilon = 1e-8, eps_root: Epsilon = 0.0,
    weight_decay: WeightDecay = 1e-4, mask: Mask = None, *, storage: MomentStorages = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""Adam with decoupled weight decay: the decay is added to Adam's step, not to the gradient.

    $$W \leftarrow W - \alpha\big(\frac{\hat m_t}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon} + \lambda W\big)$$

    Args:
        learning_rate, b1, b2, eps, eps_root, storage: as in `adam`.
        weight_decay: $\lambda$, 0 or more, per unit of learning rate: a number, a scalar array or a schedule.
        mask: a tree of booleans like the parameters or a prefix of theirs (or a function of the parameters that gives
            one): True where weights decay. All do by default.

    Returns:
        An optimizer that keeps two numbers per parameter, $\hat m_t$, $\hat v_t$. Its `update` needs the parameters.

    Raises:
        As in `adam`, and ValueError for a weight decay that is negative or not finite, or no parameters.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.adamw(0.1, weight_decay=0.5)
        >>> print(update(jnp.array([300.0]), init(w := jnp.array([1.0])), w)[0].round(3))
        [-0.15]

    Reference:
        Loshchilov and Hutter, "Decoupled weight decay regularization", 2019. optax: `mu_dtype` before `weight_decay`.
    """
    m, v = scale_by_corrected_ewa(b1, first_moment(storage)), scale_by_corrected_ewa(b2, second_moment(storage))
    step = scale_by_rms(v, eps, eps_root=eps_root, numerator=m)
    return optimizer(step, add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))


@checked
def adamax(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Epsilon = 1e-8, *, storage: MomentStorages = None
) -> optax.GradientTransformation:
    r"""AdaMax: Adam divided by the largest gradient so far, which fades, instead of a root mean square.

    $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad u_t = \max(\beta_2 u_{t-1}, |g_t|), \qquad
      W \leftarrow W - \alpha \frac{m_t}{(1 - \beta_1^t)(u_t + \varepsilon)}$$

    Args:
        learning_rate, b1, storage: as in `adam`.
        b2: $\beta_2$ in [0, 1): a spike has faded to $1/e$ after about $1/(1-\beta_2)$ steps.
        eps: in units of the gradient. Since $u_t^2$ is kept, 0 divides by 0 until one is above 1e-19, in float32.

    Returns:
        An optimizer that keeps two numbers per parameter: $m_t$ and $u_t^2$.

    Raises:
        As in `adam`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.adamax(0.1, eps=0.0)
        >>> print(update(jnp.array([300.0, -2e-5]), init(jnp.zeros(2)))[0].round(3))
        [-0.1  0.1]

    Reference:
        Kingma and Ba, 2015, 7.1: rate 0.002, no eps. optax and torch add eps to each $|g_t|$, so it fades; keras: 1e-7.
    """
    m, u_squared = scale_by_ewa(b1, first_moment(storage)), running_max(b2 * b2, second_moment(storage))
    rate = scale_once(scale_by_learning_rate(learning_rate), bias_correct(b1))
    return optimizer(scale_by_rms(u_squared, eps, numerator=m), rate)


@checked
def amsgrad(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Epsilon = 1e-8, eps_root: Epsilon = 0.0, *,
    storage: MomentStorages = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""AMSGrad: Adam divided by the largest average of squares so far, without correction of the bias.

    $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad \hat v_t =
      \max(\hat v_{t-1}, v_t), \quad W \leftarrow W - \alpha\frac{m_t}{\sqrt{\hat v_t+\varepsilon_{root}}+\varepsilon}$$

    Args:
        learning_rate, b1, b2, eps, eps_root: as in `adam`. The paper has no eps.
        storage: as in `adam`, with squares in float32 or "24bit": of rounded ones the maximum is too large, and more so
            the longer it runs (steps 16 % shorter after 20 000 of them in 8 bits, 2 % in bfloat16).

    Returns:
        An optimizer that keeps three numbers per parameter: $m_t$, $v_t$ and $\hat v_t$, a maximum of raw ones.

    Raises:
        As in `adam`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.amsgrad(0.1, b2=0.96, eps=0.0)
        >>> print(update(jnp.array([300.0, -2e-5]), init(jnp.zeros(2)))[0].round(3))
        [-0.05  0.05]

    Reference:
        Reddi, Kale and Kumar, "On the convergence of Adam and beyond", 2018. Bias is corrected before the maximum in
        optax (twice `scale_by_corrected_ewa`), behind it in torch (`bias_correct(b2)` last), after adding eps in keras.
    """
    m, v = scale_by_ewa(b1, first_moment(storage)), scale_by_ewa(b2, second_moment(storage))
    largest = optax.chain(v, running_max(1.0, second_moment(storage)))
    rate = scale_by_learning_rate(learning_rate)
    return optimizer(scale_by_rms(largest, eps, eps_root=eps_root, numerator=m), rate)


@checked
def yogi(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Epsilon = 1e-3, eps_root: Epsilon = 0.0, *,
    storage: MomentStorages = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""Yogi: Adam whose average of squares falls no faster than it rises, without correction of the bias.

    $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = v_{t-1} - (1 - \beta_2)\, \mathrm{sign}(v_{t-1} - g_t^2)\,
      g_t^2, \qquad W \leftarrow W - \alpha \frac{m_t}{\sqrt{v_t + \varepsilon_{root}} + \varepsilon}$$

    Args:
        learning_rate, b1, b2, eps, eps_root, storage: as in `adam`.

    Returns:
        An optimizer that keeps two numbers per parameter: $m_t$ and $v_t$.

    Raises:
        As in `adam`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.yogi(0.1, b2=0.96, eps=0.0)
        >>> print(update(jnp.array([300.0, -2e-5]), init(jnp.zeros(2)))[0].round(3))
        [-0.05  0.05]

    Reference:
        Zaheer et al., "Adaptive methods for nonconvex optimization", 2018, with eps 1e-3. optax begins both averages at
        1e-6, and corrects them (here: `bias_correct` behind each, for a beginning of 0); torch and keras have none.
    """
    m, v = scale_by_ewa(b1, first_moment(storage)), scale_by_additive_ewa(b2, second_moment(storage))
    return optimizer(scale_by_rms(v, eps, eps_root=eps_root, numerator=m), scale_by_learning_rate(learning_rate))


@checked
def radam(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Epsilon = 1e-8, eps_root: Epsilon = 0.0,
    threshold: Threshold = 4.0, *, storage: MomentStorages = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""RAdam: Adam that divides by its average of squares only once that is worth something, and then by more at first.

    $$\rho_\infty = \frac{2}{1 - \beta_2} - 1, \qquad \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \qquad
      r_t^2 = \frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}$$
    $$W \leftarrow W - \alpha\, r_t \frac{\hat m_t}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon}
      \text{ where } \rho_t > \text{threshold, else } W - \alpha\, \hat m_t$$

    Args:
        learning_rate, b1, b2, eps, eps_root, storage: as in `adam`.
        threshold: of $\rho_t$, which is about $t$ at first, 4 or more. 4 is the paper's.

    Returns:
        An optimizer that keeps two numbers per parameter: $m_t$ and $\hat v_t$.

    Raises:
        As in `adam`, and ValueError for a threshold below 4.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.radam(0.1)
        >>> print(update(jnp.array([300.0, -2.0]), init(jnp.zeros(2)))[0].round(1))
        [-30.    0.2]

    Reference:
        Liu et al., "On the variance of the adaptive learning rate and beyond", 2020, without eps. optax and torch have
        `threshold=5`, and torch adds eps before the correction of the bias; keras has none.
    """
    m, v = scale_by_ewa(b1, first_moment(storage)), scale_by_corrected_ewa(b2, second_moment(storage))
    rectified = optax.chain(root_mean_square(v, eps, eps_root=eps_root), rectify(b2, threshold))
    return optimizer(divide(m, rectified), scale_once(scale_by_learning_rate(learning_rate), bias_correct(b1)))


@checked
def nadam(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Epsilon = 1e-8, eps_root: Epsilon = 0.0, *,
    storage: MomentStorages = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""NAdam: Adam with Nesterov's look ahead.

    $$\bar m_t = \beta_1 \frac{m_t}{1 - \beta_1^{t+1}} + (1 - \beta_1) \frac{g_t}{1 - \beta_1^t}, \qquad
      W \leftarrow W - \alpha \frac{\bar m_t}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon}$$

    Args:
        learning_rate, b1, b2, eps, eps_root, storage: as in `adam`.

    Returns:
        An optimizer that keeps two numbers per parameter: $m_t$ and $\hat v_t$, those of `adam`.

    Raises:
        As in `adam`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.nadam(0.1, eps=0.0)
        >>> print(update(jnp.array([300.0, -2e-5]), init(jnp.zeros(2)))[0].round(3))
        [-0.147  0.147]

    Reference:
        Dozat, "Incorporating Nesterov momentum into Adam", 2016. Its $\beta_2 \hat v_t$, not so derived: rate, eps over
        `b2**0.5` here. optax has the same; in torch, keras the weights of the look ahead grow (none of these pieces).
    """
    m, v = look_ahead(b1, first_moment(storage)), scale_by_corrected_ewa(b2, second_moment(storage))
    return optimizer(scale_by_rms(v, eps, eps_root=eps_root, numerator=m), scale_by_learning_rate(learning_rate))


@checked
def nadamw(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Epsilon = 1e-8, eps_root: Epsilon = 0.0,
    weight_decay: WeightDecay = 1e-4, mask: Mask = None, *, storage: MomentStorages = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""NAdam with decoupled weight decay.

    $$\bar m_t = \beta_1 \frac{m_t}{1 - \beta_1^{t+1}} + (1 - \beta_1) \frac{g_t}{1 - \beta_1^t}, \qquad W \leftarrow
      W - \alpha \left( \frac{\bar m_t}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon} + \lambda W \right)$$

    Args:
        learning_rate, b1, b2, eps, eps_root, weight_decay, mask, storage: as in `adamw`.

    Returns:
        An optimizer that keeps two numbers per parameter, $m_t$, $\hat v_t$. Its `update` needs the parameters.

    Raises:
        As in `adamw`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.nadamw(0.1, eps=0.0, weight_decay=0.5)
        >>> print(f"{update(jnp.array([300.0]), init(w := jnp.array([1.0])), w)[0][0]:.3f}")
        -0.197

    Reference:
        Dozat, 2016; Loshchilov and Hutter, 2019. optax has `mu_dtype` before `weight_decay`; torch, keras: see `nadam`.
    """
    m, v = look_ahead(b1, first_moment(storage)), scale_by_corrected_ewa(b2, second_moment(storage))
    step = scale_by_rms(v, eps, eps_root=eps_root, numerator=m)
    return optimizer(step, add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))


@checked
def adabelief(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Epsilon = 1e-16, eps_root: Epsilon = 1e-16, *,
    storage: MomentStorages = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""AdaBelief: Adam divided by how far gradients are from their average, instead of by their size.

    $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad s_t = \beta_2 s_{t-1} + (1 - \beta_2) (g_t - m_t)^2
      + \varepsilon_{root}, \qquad W \leftarrow W - \alpha \frac{\hat m_t}{\sqrt{\hat s_t} + \varepsilon}$$

    Args:
        learning_rate, b1, b2, eps, storage: as in `adam`, with squared deviations for squares.
        eps_root: added to the average at every step: to $\hat s_t$ as much as $\varepsilon_{root} / (1 - \beta_2)$.

    Returns:
        An optimizer that keeps two numbers per parameter: $m_t$ and $\hat s_t$ without its eps.

    Raises:
        As in `adam`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.adabelief(0.1)
        >>> print(update(jnp.array([300.0, -2e-3]), init(jnp.zeros(2)))[0].round(2))
        [-0.11  0.11]

    Reference:
        Zhuang et al., "AdaBelief optimizer", 2020, where both eps are one. optax has the same; torch and keras none.
    """
    m, s = scale_by_ewa(b1, first_moment(storage)), scale_by_corrected_ewa(b2, second_moment(storage))
    belief = optax.chain(combine(1, -1), root_mean_square(s, eps, eps_root=eps_root / shares(b2)[1]))
    guard = saturate(power=2, terms=2)
    rate = scale_once(scale_by_learning_rate(learning_rate), bias_correct(b1))
    return optimizer(beside(m), divide(take(1), belief), rate, guard=guard)


@checked
def ademamix(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, b3: Decay = 0.9999, alpha: Alpha = 5.0,
    eps: Epsilon = 1e-8, eps_root: Epsilon = 0.0, weight_decay: WeightDecay = 0.0, mask: Mask = None, *,
    warmup: Warmup = 0, storage: MomentStorages = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""AdEMAMix: AdamW that adds a second, very slow average of gradients to its first.

    $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad n_t = \beta_3(t)\, n_{t-1} + (1 - \beta_3(t)) g_t, \quad W
      \leftarrow W - \eta(\frac{\hat m_t + \alpha(t) n_t}{\sqrt{\hat v_t+\varepsilon_{root}}+\varepsilon} + \lambda W)$$

    Args:
        learning_rate, b1, b2, eps, eps_root, weight_decay, mask, storage: as in `adamw`. The rate is $\eta$.
        b3: $\beta_3$ in [0, 1), of the slow average: over about $1/(1-\beta_3)$ steps, 10 000 for 0.9999.
        alpha: $\alpha$, 0 or more: what the slow average counts. The paper takes 5 to 10.
        warmup: over so many steps $\alpha(t)$ grows from 0 linearly, and so does the half-life of $\beta_3(t)$ from
            that of $\beta_1$. The paper's is a whole training from scratch; with 0 both are what they are.

    Returns:
        An optimizer that keeps three numbers per parameter: $\hat m_t$, $n_t$ and $\hat v_t$.

    Raises:
        As in `adamw`, and ValueError for a negative alpha or warmup; parameters only where weights decay.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.ademamix(0.1, b3=0.9, eps=0.0)
        >>> print(update(jnp.array([300.0]), init(jnp.zeros(1)))[0].round(3))
        [-0.15]

    Reference:
        Pagliardini, Ablin and Grangier, "AdEMAMix", 2024. optax: schedules of `b3`, `alpha`, no `warmup`; others: none.
    """
    m, v = scale_by_corrected_ewa(b1, first_moment(storage)), scale_by_corrected_ewa(b2, second_moment(storage))
    n = scale_by_ewa_of_share(share_of_growing_half_life(b1, b3, warmup), first_moment(storage), decay=b3)
    both = add(m, optax.chain(n, optax.scale_by_schedule(growing(alpha, warmup))))
    step = scale_by_rms(v, eps, eps_root=eps_root, numerator=both)
    return optimizer(step, add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))


@checked
def adan(
    learning_rate: Rate, b1: Decay = 0.98, b2: Decay = 0.92, b3: Decay = 0.99, eps: Epsilon = 1e-8,
    eps_root: Epsilon = 0.0, weight_decay: WeightDecay = 0.0, mask: Mask = None, *, storage: MomentStorages = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""Adan: Nesterov's look ahead by the difference of gradients, in both moments, with proximal weight decay.

    $$d_t = g_t - g_{t-1}, \; m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \; v_t = \beta_2 v_{t-1} + (1 - \beta_2) d_t$$
    $$n_t = \beta_3 n_{t-1} + (1 - \beta_3) (g_t + \beta_2 d_t)^2, \qquad W \leftarrow \frac{1}{1 + \lambda\alpha}
      \left( W - \alpha \frac{\hat m_t + \beta_2 \hat v_t}{\sqrt{\hat n_t + \varepsilon_{root}} + \varepsilon} \right)$$

    Args:
        learning_rate, eps, eps_root, weight_decay, mask, storage: as in `adamw`.
        b1, b2, b3: in [0, 1), of the averages of gradients (0.98: 50 steps), differences, squares (0.99: 100 steps).

    Returns:
        An optimizer that keeps four numbers per parameter: $\hat m_t$, $\hat v_t$, $\hat n_t$ and the last gradient.

    Raises:
        As in `adamw`; it needs parameters only where weights decay.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax; init, update = ewa_optax.adan(0.1, eps=0.0)
        >>> print(update(jnp.array([300.0]), init(jnp.zeros(1)))[0].round(3))
        [-0.1]

    Reference:
        Xie et al., "Adan: adaptive Nesterov momentum algorithm", 2022. Algorithm 1 writes $1 - \beta$ for decays, and
        begins with the first gradient where its code corrects the bias, as here. `optax.adan` 0.2.8 weighs a difference
        by $1 - \beta_2$, with eps_root 1e-8 and decoupled decay; torch and keras have none.
    """
    m, v = scale_by_corrected_ewa(b1, first_moment(storage)), scale_by_corrected_ewa(b2, first_moment(storage, which=1))
    n, d = scale_by_corrected_ewa(b3, second_moment(storage)), difference(first_moment(storage))
    numerator = add(optax.chain(take(0), m), optax.chain(take(1), v, optax.scale(b2)))
    ahead = optax.chain(combine(1, b2), root_mean_square(n, eps, eps_root=eps_root))
    last = proximal_weight_decay(learning_rate, weight_decay, mask)
    # The guard is the second, so that what is kept is the gradient itself: a copy less.
    return optimizer(beside(d), saturate(power=2, terms=3), divide(numerator, ahead), last, guard=None)
