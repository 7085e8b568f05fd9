"""Weight decay: coupled, decoupled or proximal, by a number or a schedule, in float32 or wider."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import Rate, checked, rule
from ewa_optax._numerics import increment, is_just
from ewa_optax._trees import Leafwise, map_chosen, shapes_of, wide
from ewa_optax.pieces._combining import by_step
from ewa_optax.pieces._learning_rate import scale_by_learning_rate, scale_leaves, scaled

WeightDecay = Annotated[
    optax.ScalarOrSchedule,
    rule("finite and 0 or more", lambda x: x >= 0, "0 turns weight decay off", schedule=True),
]

Mask = Any | Callable[[optax.Params], Any] | None


class ProximalWeightDecayState(NamedTuple):
    """The number of updates so far, int32, and the state of the scaling."""

    step: jax.Array
    scaling: Any


@checked
def add_decayed_weights(weight_decay: WeightDecay, mask: Mask = None) -> optax.GradientTransformationExtraArgs:
    r"""Adds a share of the parameters to the updates: $u_t = g_t + \lambda_t w$.

    In front of an optimizer it is coupled to the gradient, the derivative of $\frac{\lambda}{2}\lVert w \rVert^2$, and
    goes through all averages. Behind them and before the learning rate it is decoupled, as in `adamw`.

    Unlike optax's piece of this name it forms the product in float32, and shows a mask function the parameters
    themselves, so that a mask may go by dtype.

    Args:
        weight_decay: $\lambda$, 0 or more: a number, a scalar array or a schedule, called with the number of updates
            before this one.
        mask: a tree of booleans like the parameters or a prefix of theirs (or a function of the parameters that gives
            one): True where weights decay. All do by default.

    Returns:
        A transformation whose state is the step count, and whose `update` needs the parameters, but for a decay of the
        Python number 0. Updates leave in the dtype they came in.

    Raises:
        ValueError: a weight decay that is negative or not finite, or no parameters.
        TypeError: a weight decay that is neither a number nor a schedule.

    Examples:
        >>> import jax.numpy as jnp, optax, ewa_optax
        >>> coupled = optax.chain(ewa_optax.add_decayed_weights(0.5), ewa_optax.gradient_descent(0.1))
        >>> w = jnp.array([2.0])
        >>> print(coupled.update(jnp.array([1.0]), coupled.init(w), w)[0])
        [-0.2]

    Reference:
        Krogh and Hertz, "A simple weight decay can improve generalization", 1991; Loshchilov and Hutter, "Decoupled
        weight decay regularization", 2019.
    """

    def decayed(updates, step, params):
        if is_just(weight_decay, 0):
            return updates
        decay = wide(_decayed, weight_decay_at(weight_decay, step - 1))

        def of(decays):
            return decay if decays else _untouched

        return with_parameters("weight decay", of, updates, params, mask)

    return by_step(decayed)


@checked
def proximal_weight_decay(
    learning_rate: Rate, weight_decay: WeightDecay, mask: Mask = None
) -> optax.GradientTransformation:
    r"""`scale_by_learning_rate`, and a weight decay that is proximal to it.

    $$w \leftarrow \frac{w - \alpha_t g_t}{1 + \lambda_t \alpha_t}$$

    Args:
        learning_rate: $\alpha$, 0 or more: a number, a scalar array (traced or not) or a schedule.
        weight_decay: $\lambda$, 0 or more: a number, a scalar array or a schedule.
        mask: True where weights decay, as in `add_decayed_weights`.

    Returns:
        A transformation whose `update` needs the parameters. Updates leave in the dtype they came in.

    Raises:
        ValueError: a learning rate or weight decay that is negative or not finite, or no parameters.
        TypeError: one of them is neither a number nor a schedule.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> shrink = pieces.proximal_weight_decay(0.5, 2.0)
        >>> w = jnp.array([3.0])
        >>> print(w + shrink.update(jnp.array([2.0]), shrink.init(w), w)[0])
        [1.]

    Reference:
        Xie et al., "Adan: adaptive Nesterov momentum algorithm", 2022.
    """
    scaling = scale_by_learning_rate(learning_rate)

    def init(params):
        del params
        return ProximalWeightDecayState(jnp.zeros([], jnp.int32), scaling.init(jnp.ones([], float)))

    def update(updates, state, params=None):
        scaled, scaling_state = scaling.update(jnp.ones([], float), state.scaling)
        number = jnp.asarray(scaled)
        if is_just(weight_decay, 0):
            return scale_leaves(updates, number), ProximalWeightDecayState(increment(state.step), scaling_state)
        rate = weight_decay_at(weight_decay, state.step)
        shrunk = number / (1 - rate * number)

        def of(decays):
            return wide(_shrink, shrunk, rate) if decays else Leafwise(_scale, number)

        out = with_parameters("weight decay", of, updates, params, mask)
        return out, ProximalWeightDecayState(increment(state.step), scaling_state)

    return optax.GradientTransformation(init, update)


def with_parameters(
    what: str, of: Callable[[bool], Callable[[Any, Any], Any]], updates: Any, params: Any, mask: Mask
) -> Any:
    """`of(whether the mask says so)(update, parameter)` of each leaf; ValueError without parameters."""
    if params is None:
        raise ValueError(f"{what} needs the parameters; call update(gradients, state, params).")
    plain = shapes_of(params)
    chosen = True if mask is None else mask(plain) if callable(mask) else mask
    try:
        each = jax.tree.map(lambda decays, part: jax.tree.map(lambda _: bool(decays), part), chosen, plain)
    except (TypeError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(
            f"mask must be a tree of booleans like the parameters, or a prefix of theirs, got {chosen!r}: {error} "
            "For one array of many write a function of the parameters that gives such a tree."
        ) from error
    if any(isinstance(decays, str) for decays in jax.tree.leaves(chosen)):
        raise TypeError(f"mask must be a tree of booleans, got {chosen!r}; name no leaf, but say True where it stands.")
    return map_chosen(of, each, updates, params)


def weight_decay_at(weight_decay: optax.ScalarOrSchedule, step: jax.Array) -> Any:
    """The number itself, or what the schedule says."""
    return jnp.asarray(weight_decay(step), float) if callable(weight_decay) else weight_decay


def _untouched(u, p):
    del p
    return u


def _shrink(number, rate, u, p):
    x = _decayed(rate, u, p)
    return jnp.asarray(number, x.dtype) * x


def _scale(number, u, p):
    del p
    return scaled(number, u)


def _decayed(rate, u, p):
    return u + jnp.asarray(rate, p.dtype) * p
