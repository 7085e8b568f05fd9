r"""The exponentially weighted average (EWA) of gradients, and the correction of its bias towards zero.

Everything else in the library is an expression over these: momentum is an average of gradients, RMSprop divides by the
root of an average of squares, Adam does both.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import DECAY, checked
from ewa_optax._numerics import Number, increment, narrow, shares, weight_sum, widen
from ewa_optax._trees import Leafwise, map_leaves
from ewa_optax.pieces._recursion import advanced, moved
from ewa_optax.storage._argument import resolve
from ewa_optax.storage._encoding import Keeper, zeros_like
from ewa_optax.storage._formats import Storage


class ScaleByEwaState(NamedTuple):
    """The average of each leaf, in float32 or wider or as its storage keeps it, and, with a storage, the step."""

    average: Any
    step: Any = None


class BiasCorrectState(NamedTuple):
    """The number of averages corrected so far, int32."""

    step: jax.Array


@checked(decay=DECAY)
def scale_by_ewa(decay: Number, storage: Storage | str | None = None) -> optax.GradientTransformation:
    r"""Replaces each update by the exponentially weighted average of the updates so far.

    $$v_0 = 0, \qquad v_t = \beta v_{t-1} + (1 - \beta) g_t$$

    Args:
        decay: $\beta$ in [0, 1): the average spans about $1/(1-\beta)$ steps (0.9: 10 steps, 0.999: 1000). A Python
            number or a scalar array, traced or not; as a Python number, $1-\beta$ keeps its digits however close to 1.
        storage: how the average is kept between steps: None (float32, or the parameter's own dtype where that is
            wider), "bfloat16", "float16", "8bit", "24bit", or an object of `ewa_optax.storage`, with its options. An
            average of squares needs `storage.EightBit(squares=True)` or `storage.Float16(squares=True)`, which the
            optimizers choose by themselves.

    Returns:
        A transformation whose state holds one average per parameter, of the parameter's shape. What leaves is the
        fresh average in float32 or wider; only what is kept is rounded. Updates of any float or complex dtype; they
        leave in the dtype they came in. None leaves, for parameters that are not trained, stay None and leave their
        average alone.

    Raises:
        ValueError: `decay` outside [0, 1), or an array that is no scalar; a storage of unknown name.
        TypeError: `decay` is no number, or `storage` no storage; a parameter or an update is neither float nor
            complex, or an update is complex where the parameter is real.

    Example:
        >>> import jax.numpy as jnp, ewa_optax
        >>> average = ewa_optax.scale_by_ewa(0.98)
        >>> state = average.init(jnp.zeros(()))
        >>> v, state = average.update(jnp.array(40.0), state)
        >>> print(f"{v:.4f}")
        0.8000

    Reference:
        Polyak, "Some methods of speeding up the convergence of iteration methods", 1964; Andrew Ng et al.,
        "Improving Deep Neural Networks", week 2, "Exponentially weighted averages".
    """
    keeper = Keeper(resolve(storage), piece=0)
    advance = Leafwise(moved, decay)

    def init(params):
        return ScaleByEwaState(keeper.init(zeros_like(params)), keeper.storage and jnp.zeros([], jnp.int32))

    def update(updates, state, params=None):
        del params
        trees = keeper.trees(state.average)
        step = keeper.storage and increment(state.step)
        out, average = advanced(advance, shares(decay), updates, trees, keeper, step, decay)
        return out, ScaleByEwaState(average, step)

    return optax.GradientTransformation(init, update)


@checked(decay=DECAY)
def bias_correct(decay: Number) -> optax.GradientTransformation:
    r"""Divides an average by the sum of its weights, so that its first steps are not too small.

    $$\hat v_t = \frac{v_t}{1 - \beta^t}$$

    Belongs behind `scale_by_ewa` of the same decay, which carries $v_t$ on uncorrected.

    Args:
        decay: $\beta$ in [0, 1), the decay of the average: the correction matters for about $1/(1-\beta)$ steps.

    Returns:
        A transformation whose state is the step count $t$. Updates of any float or complex dtype leave
        in the dtype they came in.

    Raises:
        ValueError: `decay` outside [0, 1), or an array that is no scalar.
        TypeError: `decay` is no number, or an update is neither float nor complex.

    Example:
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


@checked(decay=DECAY)
def bias_correct_ahead(decay: Number) -> optax.GradientTransformation:
    r"""`bias_correct` of one step later: $v_t / (1 - \beta^{t+1})$, for an average that looks a step ahead.

    Args:
        decay: $\beta$ in [0, 1), the decay of the average.

    Returns:
        A transformation whose state is the step count $t$. Updates leave in the dtype they came in.

    Raises:
        ValueError: `decay` outside [0, 1), or an array that is no scalar.
        TypeError: `decay` is no number, or an update is neither float nor complex.

    Example:
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
    def init(params):
        del params
        return BiasCorrectState(jnp.zeros([], jnp.int32))

    def update(updates, state, params=None):
        del params
        step = increment(state.step)
        total = weight_sum(decay, increment(step) if ahead else step)
        return map_leaves(Leafwise(_divided, total), updates), BiasCorrectState(step)

    return optax.GradientTransformation(init, update)


def _divided(total, v):
    x = widen(v)
    return narrow(x / total.astype(x.dtype), jnp.result_type(v))
