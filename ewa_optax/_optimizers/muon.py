r"""The optimizers whose steps are orthogonal matrices, for hidden layers.

What all of them share is told in `ewa_optax._optimizers`. They take matrices only: `groups` or `muon_with_adamw` gives
them those, and the rest to another optimizer.
"""

from typing import Any

import optax

from ewa_optax._checks import Decay, Epsilon, Rate, checked
from ewa_optax.matrices._axes import AxesLike
from ewa_optax.matrices._norms import keep_norm, of_outputs, preserve_norm, scale_by_parameter_norm
from ewa_optax.matrices._orthogonalize import CoefficientsLike, orthogonalize
from ewa_optax.matrices._shape import ShapeRule, scale_by_shape
from ewa_optax.pieces._averages import scale_by_ewa
from ewa_optax.pieces._combining import beside, combine
from ewa_optax.pieces._learning_rate import scale_by_learning_rate
from ewa_optax.pieces._optimizer import optimizer, saturate_norm
from ewa_optax.pieces._rms import scale_by_rms
from ewa_optax.pieces._weight_decay import Mask, WeightDecay, add_decayed_weights
from ewa_optax.storage._argument import StorageLike, for_gradients


@checked
def muon(
    learning_rate: Rate, decay: Decay = 0.95, weight_decay: WeightDecay = 0.1, mask: Mask = None, *,
    coefficients: CoefficientsLike = "jordan", steps: int = 5, dtype: Any = None, rule: ShapeRule = "match_rms_adamw",
    axes: AxesLike = None, storage: StorageLike = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""Muon: momentum whose steps are made orthogonal, matrix by matrix, with decoupled weight decay.

    $$m_t = \beta m_{t-1} + (1 - \beta) g_t, \qquad O_t = \mathrm{orthogonalize}((1 - \beta) g_t + \beta m_t), \qquad
      W \leftarrow W - \alpha (s O_t + \lambda W)$$

    Args:
        learning_rate, weight_decay, mask: as in `adamw`, whose values suit with the default rule.
        decay: $\beta$ in [0, 1) (0.95: over 20 steps).
        coefficients, steps, dtype, axes: as in `matrices.orthogonalize`: which polynomials, how many, in which
            precision, and which axes of a leaf are its inputs and outputs.
        rule: which $s$, by the shape, as in `matrices.scale_by_shape`: "match_rms_adamw" is $0.2 \sqrt{\max(m, n)}$.
            "original" wants rates of about 0.02.
        storage: as in `momentum`.

    Returns:
        An optimizer that keeps one number per parameter. Its `update` needs the parameters.

    Raises:
        As in `adamw`, and ValueError by `init` and `update`: a leaf that is no matrix, or whose axes its path does not
        tell.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> init, update = ewa_optax.muon(0.1, weight_decay=0.0, coefficients="polar_express", steps=8)
        >>> print(-update(jnp.array([[3.0, 0.0], [0.0, 0.1]]), init(w := jnp.zeros((2, 2))), w)[0].round(3))
        [[0.028 0.   ]
         [0.    0.028]]

    Reference:
        Jordan et al., "Muon", 2024; Liu et al., "Muon is scalable for LLM training", 2025. `torch.optim.Muon` has the
        rule "original"; optax has no weight decay, and corrects the bias of both summands.
    """
    m = scale_by_ewa(decay, for_gradients(storage))
    orthogonal = orthogonalize(coefficients, steps, dtype=dtype, axes=axes)
    scaled, decayed = scale_by_shape(rule, axes), add_decayed_weights(weight_decay, mask)
    rate = scale_by_learning_rate(learning_rate)
    return optimizer(beside(m), combine(1 - decay, decay), orthogonal, scaled, decayed, rate, guard=saturate_norm())


@checked
def normuon(
    learning_rate: Rate, decay: Decay = 0.95, b2: Decay = 0.95, eps: Epsilon = 1e-10, weight_decay: WeightDecay = 0.1,
    mask: Mask = None, *, coefficients: CoefficientsLike = "jordan", steps: int = 5, dtype: Any = None,
    rule: ShapeRule = "match_rms_adamw", axes: AxesLike = None, storage: StorageLike = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""NorMuon: `muon` whose outputs all take steps of about one size, by an average of the squares of each.

    $$v_t = \beta_2 v_{t-1} + (1 - \beta_2) \mathrm{mean}_{\mathrm{in}}(O_t^2), \quad
      \hat O_t = \frac{O_t}{\sqrt{v_t} + \varepsilon}, \quad
      W \leftarrow W - \alpha \left(s \frac{\lVert O_t \rVert}{\lVert \hat O_t \rVert} \hat O_t + \lambda W\right)$$

    Args:
        learning_rate, decay, weight_decay, mask, coefficients, steps, dtype, rule, axes, storage: as in `muon`.
        b2: $\beta_2$ in [0, 1) (0.95: over 20 steps). Its average, one number for each output, is float32.
        eps: $\varepsilon$, 0 or more.

    Returns:
        An optimizer that keeps one number per parameter, and one per output. Its `update` needs the parameters.

    Raises:
        As in `muon`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> init, update = ewa_optax.normuon(0.1, weight_decay=0.0)
        >>> print(update(jnp.array([[3.0, 1.0]]), init(w := jnp.zeros((1, 2))), w)[0].round(3))
        [[-0.014 -0.014]]

    Reference:
        Li et al., "NorMuon: making Muon more efficient and scalable", 2025. Some average along the longer side, which
        is another one where there are more outputs than inputs.
    """
    m, v = scale_by_ewa(decay, for_gradients(storage)), of_outputs(scale_by_ewa(b2), axes)
    orthogonal = orthogonalize(coefficients, steps, dtype=dtype, axes=axes)
    even, scaled = preserve_norm(scale_by_rms(v, eps), axes), scale_by_shape(rule, axes)
    decayed, rate = add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate)
    look_ahead = combine(1 - decay, decay)
    return optimizer(beside(m), look_ahead, orthogonal, even, scaled, decayed, rate, guard=saturate_norm())


@checked
def muon_hyperball(
    learning_rate: Rate, decay: Decay = 0.95, *, coefficients: CoefficientsLike = "jordan", steps: int = 5,
    dtype: Any = None, axes: AxesLike = None, storage: StorageLike = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""MuonH: `muon` on a sphere: every matrix keeps its norm, and turns by the learning rate in each step.

    $$\hat W = W - \alpha \lVert W \rVert \frac{O_t}{\lVert O_t \rVert}, \qquad
      W \leftarrow \lVert W \rVert \frac{\hat W}{\lVert \hat W \rVert}$$

    Args:
        learning_rate: $\alpha$, 0 or more, the relative change of a step: about 0.01 to 0.03. A number, a scalar array
            or a schedule.
        decay, coefficients, steps, dtype, axes, storage: as in `muon`.

    Returns:
        An optimizer that keeps one number per parameter. Its `update` needs the parameters. Matrices of zeros stay so.

    Raises:
        As in `muon`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> init, update = ewa_optax.muon_hyperball(0.1)
        >>> w = jnp.array([[3.0, 4.0]])
        >>> turned = w + update(jnp.array([[1.0, 0.0]]), init(w), w)[0]
        >>> print(turned < w, jnp.linalg.norm(turned).round(3))
        [[ True False]] 5.0

    Reference:
        Wen et al., "Fantastic pretraining optimizers and where to find them II: hyperball optimization", 2026, where
        it is called Muon-Hyperball, or MuonH; of the norm now, as `matrices.keep_norm` tells.
    """
    m, orthogonal = (
        scale_by_ewa(decay, for_gradients(storage)),
        orthogonalize(coefficients, steps, dtype=dtype, axes=axes),
    )
    turn, rate = scale_by_parameter_norm(axes), scale_by_learning_rate(learning_rate)
    look_ahead, kept = combine(1 - decay, decay), keep_norm(axes)
    return optimizer(beside(m), look_ahead, orthogonal, turn, rate, kept, guard=saturate_norm())
