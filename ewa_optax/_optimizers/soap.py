r"""SOAP: Adam in the eigenbasis of Shampoo's averages. What all optimizers share is told in `ewa_optax._optimizers`."""

import optax

from ewa_optax._checks import Count, Decay, Epsilon, Rate, checked
from ewa_optax.matrices._axes import AxesLike
from ewa_optax.matrices._eigenbasis import in_eigenbasis
from ewa_optax.pieces._averages import scale_by_corrected_ewa
from ewa_optax.pieces._combining import divide, take
from ewa_optax.pieces._learning_rate import scale_by_learning_rate
from ewa_optax.pieces._optimizer import optimizer, saturate_norm
from ewa_optax.pieces._rms import root_mean_square
from ewa_optax.pieces._weight_decay import Mask, WeightDecay, add_decayed_weights
from ewa_optax.storage._argument import StorageLike, for_squares


@checked
def soap(
    learning_rate: Rate, b1: Decay = 0.95, b2: Decay = 0.95, shampoo_decay: Decay = 0.95, eps: Epsilon = 1e-8,
    weight_decay: WeightDecay = 0.01, mask: Mask = None, *, every: Count = 10, max_size: int = 10_000,
    axes: AxesLike = None, storage: StorageLike = None,
) -> optax.GradientTransformation:  # fmt: skip
    r"""SOAP: `adamw` of matrices in the eigenbasis of averages of $g g^T$ and $g^T g$.

    $$W \leftarrow W - \alpha \left(Q_L \frac{Q_L^T \hat m_t Q_R}{\sqrt{\hat v_t} + \varepsilon} Q_R^T
      + \lambda W\right), \qquad \hat v_t \text{ the mean of } (Q_L^T g_t Q_R)^2$$

    Args:
        learning_rate, b1, b2, eps, weight_decay, mask: as in `adamw`; the original's learning rate is 3e-3.
        shampoo_decay, every, max_size, axes: as in `matrices.in_eigenbasis`, of averages in float32.
        storage: of squares, as in `rmsprop`. Momentum is float32: rounding errors would be divided by next to nothing.

    Returns:
        An optimizer that keeps $2 (m n + m^2 + n^2)$ numbers. Its `update` needs the parameters. First, bases are made.

    Raises:
        As in `adamw` and in `matrices.in_eigenbasis`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.soap(0.1, eps=1e-3, weight_decay=0.0)
        >>> _, state = optimizer.update(w := jnp.array([[2.0, 1.0], [1.0, 2.0]]), optimizer.init(w), w)
        >>> print((10 * optimizer.update(w + 3, state, w)[0][0]).round(1) + 0.0)
        [-1.  0.]

    Reference:
        Vyas et al., "SOAP", 2024, whose code adds $\varepsilon$ to what is not corrected, and decays after the step.
    """
    m, v = scale_by_corrected_ewa(b1), scale_by_corrected_ewa(b2, for_squares(storage))
    adam = divide(take(1), optax.chain(take(0), root_mean_square(v, eps)))
    turned = in_eigenbasis(adam, shampoo_decay, every, unrotated=m, max_size=max_size, axes=axes)
    decayed, rate = add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate)
    return optimizer(turned, decayed, rate, guard=saturate_norm())
