"""The average of parameters along a training: evaluated, it is often better than the last of them."""

import copyreg
import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import Count, Whole, checked, rule
from ewa_optax._numerics import Number, anywhere, corrected_shares, increment, lerp, narrow, shares, widen
from ewa_optax._trees import Leafwise, map_leaves, shapes_of
from ewa_optax.storage._argument import resolve
from ewa_optax.storage._encoding import AverageCodec
from ewa_optax.storage._sharding import boxes_that_fit, through_boxes
from ewa_optax.storage._storage import Storage
from ewa_optax.storage._telling import Kept, first

AverageDecay = Annotated[
    Number | Callable[[jax.Array], Any],
    rule("in [0, 1]", lambda x: 0 <= x <= 1, "1 - 1/n averages over about n, and 1 over all of them", schedule=True),
]


class AverageParametersState(NamedTuple):
    """How many updates moved something, and how many parameters are in the average; their weights; and what is kept.

    Of a schedule, `weight` holds the sum of the weights, and what rounding lost of it. How the average is kept is no
    array, and what saves states may keep nothing else: so it belongs to the type.
    """

    step: jax.Array
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    weight: jax.Array
    average: Any


class _OfCodec(type):
    """The types of these states, which pickle by what keeps their averages."""

    codec: AverageCodec


@functools.cache
def _state_of(codec: AverageCodec) -> Any:
    return _OfCodec(AverageParametersState.__name__, (AverageParametersState,), dict(__slots__=(), codec=codec))


copyreg.pickle(_OfCodec, lambda state_type: (_state_of, (state_type.codec,)))


@checked
def average_parameters(
    decay: AverageDecay,
    *,
    debias: bool = True,
    storage: Storage | str | None = None,
    every: Count = 1,
    start: Whole = 0,
) -> optax.GradientTransformation:
    r"""Keeps an exponentially weighted average of the parameters. Updates pass unchanged.

    $$v_t = \beta v_{t-1} + (1 - \beta) p_t, \qquad \hat v_t = v_t / (1 - \beta^t)$$

    with the parameters $p_t$ after the update, so it belongs at the end of a chain. `get_average` reads it.

    A step counts if it moves something. One whose updates are all exactly 0 does not, and touches no average: such as
    `accumulate` and `optax.MultiSteps` make between two steps of their optimizer, and as a learning rate of 0 makes. So
    it may stand behind such a wrapper, where it takes less memory, or inside.

    Args:
        decay: $\beta$ in [0, 1]: averages over about $1/(1-\beta)$ of the parameters taken; with 1, over all of them:
            the uniform average of Polyak and Ruppert. Or a schedule, called with $t = 1, 2, \dots$ as an int32 array;
            `lambda t: 1 - 1 / t` is the uniform average again, up to the digits that $1 - 1/t$ has in float32. As long
            as it is 1, the average is the newest parameters.
        debias: whether to divide by the sum of the weights. Without it, the average starts at 0.
        storage: how the average is kept: None (float32 or wider), "24bit", "bfloat16", "float16", "8bit", or an object
            of `ewa_optax.storage`. Parameters move little, so the rounding of 16 bits is most of what an average of
            them would lose by it: "24bit" keeps it quiet.
        every: after how many steps parameters are taken, 1 or more.
        start: how many steps come before that, 0 or more. Parameters are taken at the steps `start + every`,
            `start + 2 * every`, and so on; until then the average, with `debias`, is the parameters themselves.

    Returns:
        A transformation that needs the parameters: `update(gradients, state, params)`. The average of a complex or
        float64 leaf keeps its dtype; the others are float32.

    Raises:
        ValueError: a number outside its range, a decay of 1 without `debias`, an unknown storage, or (when updating) no
            parameters.
        TypeError: no number, a storage that is none, or (when initializing) a parameter that is neither float nor
            complex.

    Examples:
        >>> import jax.numpy as jnp, optax, ewa_optax
        >>> optimizer = optax.chain(ewa_optax.gradient_descent(1.0), ewa_optax.average_parameters(0.5))
        >>> params = jnp.array(0.0)
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(jnp.array(-3.0), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params, ewa_optax.get_average(state))
        6.0 5.0

    Reference:
        Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; Izmailov et al., "Averaging
        weights leads to wider optima and better generalization", 2018.
    """
    if not debias and not callable(decay) and not isinstance(decay, jax.Array) and decay == 1:
        raise ValueError("average_parameters: a decay of 1 must have debias=True, since it never leaves 0 without.")
    codec = AverageCodec(resolve(storage), piece=2)
    state_type = _state_of(codec)
    always = isinstance(every, int) and isinstance(start, int) and (every, start) == (1, 0)

    def init(params: Any) -> Any:
        for x in jax.tree.leaves(shapes_of(params)):
            complex_numbers = jnp.issubdtype(jnp.result_type(x), jnp.complexfloating)
            if codec.storage and complex_numbers and codec.storage.takes(jnp.shape(x)):
                raise TypeError(f"{codec.storage} keeps no complex parameters here; leave storage=None for those.")
        kept = first(codec, params, "of parameters", None)
        if debias and not isinstance(kept, Kept):
            # Copies: nothing in a state is the parameters themselves.
            kept = codec.encode(map_leaves(jnp.array, map_leaves(widen, params)), codec.trees(kept), jnp.int32(0), 0.0)
        return state_type(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32), jnp.zeros(2), kept)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        if params is None:
            raise ValueError("average_parameters needs the parameters; call update(gradients, state, params).")
        moves = _moves(updates)
        step = jnp.where(moves, increment(state.step), state.step)
        due = moves & (step > start) & ((step - start) % every == 0)
        count = jnp.where(due, increment(state.count), state.count)
        past, newest, weight = _shares_of(decay, debias, count, state.weight)
        weight = jnp.where(due, weight, state.weight)
        if not always:
            past, newest = jnp.where(due, past, 0), jnp.where(due, newest, 1)

        larger = decay if always and not callable(decay) else past

        def take(kept, new):
            trees = codec.trees(kept)
            advance = Leafwise(_advanced, codec, larger, past, newest)
            return codec.encode(map_leaves(advance, new, *trees), trees, step, 0.0)

        takes = due if always else due | (debias & moves & (count == 0))
        # Outside of the branch it is the sum that `optax.apply_updates` forms, and there once.
        new = map_leaves(Leafwise(_applied), params, updates)
        average = jax.lax.cond(takes, take, lambda kept, _: kept, state.average, new)
        return updates, state_type(step, count, weight, average)

    return optax.GradientTransformation(boxes_that_fit(init), through_boxes(update))


def get_average(opt_state: Any, params: Any = None) -> Any:
    """The average of the parameters that `average_parameters` keeps: to be evaluated in their place.

    Args:
        opt_state: the state of an optimizer with one `average_parameters` in it, however deep in chains.
        params: the parameters, whose dtypes the average then has, and which stand where `optax.masked` has left them
            out of it. Without them it is in float32 or wider.

    Returns:
        A tree like the parameters.

    Raises:
        ValueError: there is no such average in the state, or more than one.

    Examples:
        >>> import jax.numpy as jnp, optax, ewa_optax
        >>> optimizer = optax.chain(ewa_optax.adam(0.1), ewa_optax.average_parameters(0.99))
        >>> params = {"w": jnp.ones(3, jnp.bfloat16)}
        >>> averaged = ewa_optax.get_average(optimizer.init(params), params)
        >>> print(averaged["w"])
        [1 1 1]

    Reference:
        Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018.
    """
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=_is_state) if _is_state(x)]
    if len(found) != 1:
        raise ValueError(
            f"the optimizer state holds {len(found)} averages of parameters, but must hold one; end the chain with "
            "ewa_optax.average_parameters, and pass the part of the state that holds the one you mean."
        )
    state: Any = found[0]
    average = state.codec.read(state.average)
    if params is None:
        return average

    def like(a, p):
        return p if a is None or isinstance(a, optax.MaskedNode) else narrow(a, jnp.result_type(p))

    return jax.tree.map(like, average, params, is_leaf=lambda x: x is None or isinstance(x, optax.MaskedNode))


def _applied(p, u):
    return p if u is None else jnp.asarray(p + u, jnp.result_type(p))  # As optax applies it.


def _advanced(codec, larger, past, newest, p, *arrays):
    return lerp(codec.decode(jnp.shape(p), *arrays), widen(p), larger, past, newest)


def _moves(updates):
    """Whether an update moves anything; what is no number does. A CPU would write `u != 0` down."""
    each = [~(jnp.max(jnp.abs(u), initial=0) <= 0) for u in jax.tree.leaves(updates)]
    return anywhere(functools.reduce(jnp.logical_or, each, jnp.bool_(False)))


def _is_state(x):
    return isinstance(x, AverageParametersState)


def _shares_of(decay, debias, count, weight):
    """What the past and the newest parameters make up of the average, and the sum of the weights after it."""
    if not callable(decay):
        constant = jnp.ones([]) if not isinstance(decay, jax.Array) and decay == 1 else decay
        past, newest = corrected_shares(constant, jnp.maximum(count, 1)) if debias else shares(constant)
        return jnp.asarray(past, float), jnp.asarray(newest, float), weight
    scheduled: Any = decay(jnp.maximum(count, 1))
    (past, newest), (total, lost) = shares(scheduled), weight
    change = newest * (1 - total - lost) + lost
    fresh = total + change
    weight = jnp.stack([fresh, change - (fresh - total)])
    if not debias:
        return jnp.asarray(past, float), jnp.asarray(newest, float), weight
    newest = jnp.where(fresh > 0, newest / jnp.where(fresh > 0, fresh, 1), 1)
    return 1 - newest, newest, weight
