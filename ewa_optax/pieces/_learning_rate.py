"""The last piece of a chain: a learning rate that one can read, and change while training runs.

Both live in the state, so they are saved with it, and changing them compiles nothing anew.
"""

import collections
import functools
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import Rate, checked, rule, transformation
from ewa_optax._numerics import Number, increment, narrow, widen
from ewa_optax._trees import map_leaves
from ewa_optax.storage._telling import last_rate

Factor = Annotated[
    Number, rule("finite and 0 or more", lambda x: x >= 0, "1 changes nothing, 0.1 is a tenth, and 0 freezes for good")
]


class ScaleByLearningRateState(NamedTuple):
    """How many updates there were (int32), the factor on every later rate, and the rate of the last update."""

    step: jax.Array
    factor: jax.Array
    learning_rate: jax.Array


@checked
def scale_by_learning_rate(learning_rate: Rate) -> optax.GradientTransformation:
    r"""Multiplies updates by minus the learning rate: $u_t = -\alpha_t g_t$.

    Args:
        learning_rate: $\alpha$, 0 or more: a number, a scalar array (traced or not), or a schedule, which is called
            with the number of updates before this one, 0 at the first.

    Returns:
        A transformation whose state can be read by `get_learning_rate` and changed by `rescale_learning_rate`. The
        product is formed in float32 or wider; updates leave in the dtype they came in.

    Raises:
        ValueError: a number that is negative or not finite, or an array (a schedule's too) that is no scalar.
        TypeError: neither a number nor a schedule, or an update that is neither float nor complex.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> scale = ewa_optax.scale_by_learning_rate(0.5)
        >>> u, state = scale.update(jnp.array([2.0]), scale.init(jnp.zeros(1)))
        >>> print(u)
        [-1.]

    Reference:
        Robbins and Monro, "A stochastic approximation method", 1951.
    """

    def rate_at(step):
        rate = learning_rate(step) if callable(learning_rate) else learning_rate
        if jnp.shape(rate) != ():
            raise ValueError(f"a learning rate must be a scalar, but the schedule returned shape {jnp.shape(rate)}.")
        return jnp.asarray(rate).astype(float)

    def init(params):
        del params
        step = jnp.zeros([], jnp.int32)
        return ScaleByLearningRateState(step, jnp.ones([], float), jnp.array(last_rate(rate_at)))

    def update(updates, state, params=None):
        del params
        downhill = (state.factor * -rate_at(state.step)).astype(state.factor.dtype)
        return scale_leaves(updates, downhill), ScaleByLearningRateState(increment(state.step), state.factor, -downhill)

    return optax.GradientTransformation(init, update)


def get_learning_rate(opt_state: Any) -> jax.Array:
    """The learning rate that the last update used; before the first update, what the schedule begins with.

    Args:
        opt_state: the state of an optimizer with one `scale_by_learning_rate` in it, however deep in chains, masks,
            `optax.MultiSteps` or `optax.partition`. All optimizers of this library have one.

    Returns:
        A float scalar array. A change by `rescale_learning_rate` shows after the next update.

    Raises:
        ValueError: there is none in the state, or more than one, which `get_learning_rates` tells.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.adam(ewa_optax.schedule_inverse_time(0.2, 1.0))
        >>> print(f"{ewa_optax.get_learning_rate(optimizer.init(jnp.zeros(3))):.3f}")
        0.100

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Learning rate decay" (manual decay).
    """
    found = get_learning_rates(opt_state)
    if len(found) > 1:
        raise ValueError(
            f"the optimizer state holds {len(found)} learning rates ({', '.join(map(repr, found))}), so which one is "
            "meant is unclear; get_learning_rates tells all of them, by name."
        )
    (rate,) = found.values()
    return rate


def get_learning_rates(opt_state: Any) -> dict[str, jax.Array]:
    """All learning rates of a state, by the names of their groups: those that the last update used.

    Args:
        opt_state: the state of an optimizer with `scale_by_learning_rate` in it, however deep.

    Returns:
        A dict of float scalar arrays, in the order of the state. The name is that of the group in `ewa_optax.groups`,
        the label in `optax.partition` or the name in `optax.named_chain`; "outer/inner" of one within the other; ""
        where there is none. Several of one name are numbered: "adam/0", "adam/1", and "0", "1" where it is "".

    Raises:
        ValueError: there is none in the state.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> params = {"w": jnp.ones((2, 2)), "b": jnp.zeros(2)}
        >>> optimizer = ewa_optax.groups(
        ...     {"matrices": ("w", ewa_optax.adam(0.01)), "rest": (..., ewa_optax.momentum(0.5))}
        ... )
        >>> rates = ewa_optax.get_learning_rates(optimizer.init(params))
        >>> print({name: f"{rate:g}" for name, rate in rates.items()})
        {'matrices': '0.01', 'rest': '0.5'}
        >>> ewa_optax.get_learning_rates(ewa_optax.adam(0.5).init(params))
        {'': Array(0.5, dtype=float32)}

    Reference:
        `optax.partition`.
    """
    found = named_rates(opt_state)
    if not found:
        raise ValueError(
            f"there is no learning rate in this {type(opt_state).__name__}; pass the state of an optimizer that ends "
            "with ewa_optax.scale_by_learning_rate, and restore checkpoints into the types of optimizer.init(params)."
        )
    return found


def named_rates(opt_state: Any) -> dict[str, jax.Array]:
    """The same; none where there is none."""
    leaves, _, names = _by_name(opt_state)
    # Not its field itself: flax's nnx keeps each array of a state in a variable, a tree of one leaf.
    return {name: jax.tree.leaves(leaves[i].learning_rate)[0] for i, name in names.items()}


def rates_or_none(opt_state: Any) -> jax.Array | dict[str, jax.Array] | None:
    """The learning rate, or those of several by name; None where there is none."""
    found = named_rates(opt_state)
    return next(iter(found.values())) if len(found) == 1 else found or None


@checked
def rescale_learning_rate(opt_state: Any, factor: Factor, group: str | None = None) -> Any:
    """The state in which every later learning rate is multiplied by `factor`: decay by hand, while training runs.

    Args:
        opt_state: the state of an optimizer.
        factor: 0 or more; 0.1 lowers the rate tenfold, and 10 raises it back. Factors of several calls multiply.
            Number or schedule, the rate goes on from where it is, times `factor`. 0 freezes: averages go on, parameters
            stay, and no later factor brings the rate back.
        group: which learning rates are rescaled, by a name of `get_learning_rates`, or one in front of "/", which is
            all of those within it. None: all that there are.

    Returns:
        A new state of the same structure, shapes and dtypes, so that no compiled step compiles again.

    Raises:
        ValueError: there is no learning rate in the state, or none of that name; or `factor` is a number below 0 or an
            array that is no scalar.
        TypeError: `factor` is no number.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.momentum(0.1)
        >>> state = ewa_optax.rescale_learning_rate(optimizer.init(jnp.zeros(3)), 0.5)
        >>> _, state = optimizer.update(jnp.ones(3), state)
        >>> print(f"{ewa_optax.get_learning_rate(state):.3f}")
        0.050

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Learning rate decay" (manual decay).
    """
    known = get_learning_rates(opt_state)
    leaves, structure, names = _by_name(opt_state)
    chosen = [i for i, name in names.items() if group is None or name == group or name.startswith(f"{group}/")]
    if not chosen:
        raise ValueError(
            f"rescale_learning_rate: group must be one of {[*known]}, got {group!r}; None rescales all of them."
        )
    for i in chosen:
        factors = jax.tree.map(lambda f: (f * factor).astype(f.dtype), leaves[i].factor)
        leaves[i] = leaves[i]._replace(factor=factors)
    return structure.unflatten(leaves)


def _is_state(x):
    return isinstance(x, ScaleByLearningRateState)


def _by_name(opt_state):
    """The leaves and the structure of a state, and the name of each of the leaves that is a learning rate."""
    found, structure = jax.tree_util.tree_flatten_with_path(opt_state, is_leaf=_is_state)
    names = {i: _name(path) for i, (path, x) in enumerate(found) if _is_state(x)}
    several, seen = collections.Counter(names.values()), collections.Counter()
    for i, name in names.items():
        if several[name] > 1:
            names[i] = f"{name}/{seen[name]}".removeprefix("/")
            seen[name] += 1
    return [x for _, x in found], structure, names


def _name(path):
    """The keys of dicts on the way, which are names that someone gave."""
    return "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def scale_leaves(updates: Any, number: jax.Array) -> Any:
    """Multiplies every leaf by `number` in float32 or wider; each leaves in the dtype it came in."""
    return map_leaves(functools.partial(scaled, number), updates)


def scaled(number: jax.Array, u: Any) -> jax.Array:
    """The same of one leaf."""
    x = widen(u)
    return narrow(number.astype(x.dtype) * x, jnp.result_type(u))


def scale_once(*scalings: optax.GradientTransformation) -> optax.GradientTransformation:
    """Several scalings of all leaves by numbers, as one: applied to the number 1, and updates times what comes out.

    The same as a chain of them, but one multiplication an element however many there are. A division stands behind the
    learning rate, and not in front of it: XLA divides once, but would repeat a product in the loop of each leaf.

    Args:
        scalings: transformations that multiply, or divide, all of the update by one number: `scale_by_learning_rate`,
            `bias_correct`, `optax.scale`, `optax.scale_by_schedule`.

    Returns:
        A transformation whose state is the tuple of theirs. Updates leave in the dtype they came in.

    Raises:
        TypeError: what is no transformation.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from ewa_optax import pieces
        >>> rate = pieces.scale_once(pieces.scale_by_learning_rate(0.1), optax.scale(5.0))
        >>> print(rate.update(jnp.array([2.0]), rate.init(jnp.zeros(1)))[0])
        [-1.]
    """
    scalings = tuple(transformation("scale_once", "every scaling", x, "optax.scale(0.1)") for x in scalings)
    together = optax.chain(*scalings)

    def init(params):
        del params
        return together.init(jnp.ones([], float))

    def update(updates, state, params=None):
        del params
        number, state = together.update(jnp.ones([], float), state)
        return scale_leaves(updates, jnp.asarray(number)), state

    return optax.GradientTransformation(init, update)
