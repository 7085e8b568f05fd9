"""Weight decay: coupled, decoupled, cautious, independent of the rate, or proximal to it; and masks, for which weights.

By a number or a schedule, in float32 or wider.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ewa_optax._checks import Rate, check_integer, check_pattern, checked, rule
from ewa_optax._numerics import increment, is_just
from ewa_optax._stacks import is_stacked
from ewa_optax._trees import Leafwise, map_chosen, path_name, shapes_of, wide
from ewa_optax.pieces._combining import by_step
from ewa_optax.pieces._learning_rate import scale_by_learning_rate, scale_leaves, scaled
from ewa_optax.storage._sharding import is_box

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
            one, such as `pieces.ndim_at_least(2)`): True where weights decay. All do by default.

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
    return _by_rule(_decayed, weight_decay, mask)


@checked
def cautious_weight_decay(weight_decay: WeightDecay, mask: Mask = None) -> optax.GradientTransformationExtraArgs:
    r"""`add_decayed_weights` of those weights alone which the step shrinks anyway.

    $$u_t = g_t + \lambda_t w\, \mathbb{1}[g_t w > 0]$$

    So decay never works against the step. It stands behind the averages and before the learning rate, where
    `add_decayed_weights` stands in `adamw`. Of complex weights, the real part of $g_t \bar w$ decides.

    Args:
        weight_decay: $\lambda$, 0 or more: a number, a scalar array or a schedule, as in `add_decayed_weights`.
        mask: True where weights decay, as in `add_decayed_weights`.

    Returns:
        A transformation as `add_decayed_weights`.

    Raises:
        ValueError, TypeError: as `add_decayed_weights`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> decay = pieces.cautious_weight_decay(0.5)
        >>> w = jnp.array([2.0, -2.0])
        >>> print(decay.update(jnp.array([1.0, 1.0]), decay.init(w), w)[0])
        [2. 1.]

    Reference:
        Chen et al., "Cautious weight decay", 2025. Where the step is exactly 0, as of a row of an embedding without a
        gradient, nothing decays; others decay there ($g_t w \ge 0$).
    """
    return _by_rule(_decayed_if_shrunk, weight_decay, mask)


@checked
def decay_weights(weight_decay: WeightDecay, mask: Mask = None) -> optax.GradientTransformationExtraArgs:
    r"""Takes a share of the parameters from the updates: $u_t = g_t - \lambda_t w$.

    Behind the learning rate it is a decay that the rate has no part in, $w \leftarrow (1 - \lambda_t) w + g_t$: the
    weights forget over $1/\lambda$ steps, whatever the rate is, and `rescale_learning_rate` leaves that as it is. To
    follow the course of the rate but not its height, give it the same schedule with a height of its own.

    Args:
        weight_decay: $\lambda$, 0 or more, per step: a number, a scalar array or a schedule, called with the number of
            updates before this one.
        mask: True where weights decay, as in `add_decayed_weights`.

    Returns:
        A transformation as `add_decayed_weights`.

    Raises:
        ValueError, TypeError: as `add_decayed_weights`.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> from ewa_optax import pieces
        >>> adam = ewa_optax.adam(ewa_optax.schedule_warmup(3e-4, 4))
        >>> decay = pieces.decay_weights(ewa_optax.schedule_warmup(0.1, 4))
        >>> adamw = pieces.optimizer(adam, decay, guard=None)
        >>> w = jnp.array([2.0])
        >>> print(adamw.update(jnp.array([0.0]), adamw.init(w), w)[0])
        [-0.05]

    Reference:
        Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, algorithm 2, where the course multiplies
        both; Wortsman et al., "Small-scale proxies for large-scale transformer training instabilities", 2023.
    """
    return _by_rule(_without_share, weight_decay, mask)


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


def path_matches(pattern: str | re.Pattern[str]) -> Callable[[optax.Params], Any]:
    r"""A mask of the parameters in whose path a regular expression is found.

    Args:
        pattern: searched for in paths such as `"layers/0/kernel"`, their keys joined by slashes: `"kernel$"` is in it,
            and so is `"^layers/"`. Where bias and scale are left out, `r"^(?!.*(bias|scale)$)"`.

    Returns:
        A function of the parameters for a `mask` of this library or of optax. For parameters in boxes of flax the path
        ends at the box, and for parameters in stacks it is that of each leaf.

    Raises:
        ValueError: what is no regular expression; by the mask, one that is in no path at all.
        TypeError: neither a string nor a compiled expression.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> from ewa_optax import pieces
        >>> pieces.path_matches("kernel$")({"layers": [{"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}]})
        {'layers': [{'bias': False, 'kernel': True}]}
        >>> optimizer = ewa_optax.adamw(1e-3, weight_decay=0.1, mask=pieces.path_matches("kernel$"))
    """
    if not isinstance(pattern, str | re.Pattern):
        raise TypeError(f"path_matches: pattern must be a regular expression, got {pattern!r}; such as 'kernel$'.")
    found = check_pattern("path_matches: pattern", pattern).search

    def mask(params):
        names = []
        chosen = _mask(lambda name, leaf: names.append(name) or bool(found(name)), params)
        if names and not any(map(found, names)):
            raise ValueError(
                f"path_matches: {pattern!r} is in no path of the parameters, such as {names[:3]}; write one that is, "
                "or mask=False."
            )
        return chosen

    return mask


def ndim_at_least(axes: int) -> Callable[[optax.Params], Any]:
    """A mask of the parameters with so many axes or more: with 2, of all but biases, scales and other vectors.

    Args:
        axes: 0 or more. Of layers that are scanned, one more than a layer alone has.

    Returns:
        A function of the parameters for a `mask` of this library or of optax. For parameters in stacks it counts the
        axes of each leaf.

    Raises:
        ValueError: a number below 0.
        TypeError: no integer.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> from ewa_optax import pieces
        >>> pieces.ndim_at_least(2)({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)})
        {'bias': False, 'kernel': True}
        >>> optimizer = ewa_optax.adamw(1e-3, weight_decay=0.1, mask=pieces.ndim_at_least(2))
    """
    check_integer("ndim_at_least: axes", axes, 0, remedy="2 leaves out biases and scales")
    return lambda params: _mask(lambda name, leaf: np.ndim(leaf) >= axes, params)


def _mask(holds: Callable[[str, Any], bool], params: Any) -> Any:
    """Of each leaf, whether it holds of its path and itself; of stacks, those of what is in them."""

    def said(path, x):
        return jax.tree.map(lambda leaf: holds(path_name(path), leaf), x)

    each = jax.tree_util.tree_map_with_path(said, shapes_of(params), is_leaf=is_box)
    return jax.tree.map(lambda p, m: p.like(m) if is_stacked(p) else m, params, each, is_leaf=is_stacked)


def _by_rule(rule: Callable[..., jax.Array], weight_decay: Any, mask: Mask) -> optax.GradientTransformationExtraArgs:
    """`rule(what the decay is at this step, update, parameter)` where the mask says so."""

    def decayed(updates, step, params):
        if is_just(weight_decay, 0):
            return updates
        decay = wide(rule, weight_decay_at(weight_decay, step - 1))
        return with_parameters("weight decay", lambda decays: decay if decays else _untouched, updates, params, mask)

    return by_step(decayed)


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


def _decayed_if_shrunk(rate, u, p):
    # Signs, since a product of small numbers would be 0.
    agree = (jnp.sign(u) * jnp.sign(p).conj()).real > 0
    return jnp.where(agree, _decayed(rate, u, p), u)


def _without_share(rate, u, p):
    return u - jnp.asarray(rate, p.dtype) * p
