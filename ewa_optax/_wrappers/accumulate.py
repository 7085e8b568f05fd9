r"""Gradients of several micro-batches as one: their mean is an average too, with the share $1/i$, in any storage."""

import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import check, checked, rule, transformation
from ewa_optax._numerics import Number, anywhere, clip, increment, largest, lerp, widen
from ewa_optax._stacks import treating_stacks_as
from ewa_optax._trees import Leafwise, map_leaves
from ewa_optax._wrappers.conditional import step_if
from ewa_optax.storage._argument import StorageLike, for_gradients
from ewa_optax.storage._encoding import AverageCodec
from ewa_optax.storage._in_turn import in_turn
from ewa_optax.storage._sharding import boxes_that_fit, through_boxes
from ewa_optax.storage._telling import first

Every = Annotated[
    int | jax.Array | Callable[[jax.Array], Any],
    rule(
        "a whole number, 1 or more",
        lambda x: x >= 1 and x == int(x),
        "8 is one step for 8 micro-batches, 1 one for each",
        schedule=True,
    ),
]
Weight = Annotated[
    Number, rule("finite and 0 or more", lambda x: x >= 0, "it says how much a micro-batch counts, such as its tokens")
]


class AccumulateState(NamedTuple):
    """The steps of the optimizer; of the next, how many micro-batches are in the mean, their weight, and what is kept.

    `skipped` counts the micro-batches that were left out, of all steps.
    """

    step: jax.Array
    mini_step: jax.Array
    skipped: jax.Array
    weight: jax.Array
    mean: Any
    inner_state: Any


@checked
def accumulate(
    optimizer: optax.GradientTransformation, every: Every, storage: StorageLike = None
) -> optax.GradientTransformationExtraArgs:
    r"""Makes one step of an optimizer out of the gradients of `every` micro-batches: of their mean.

    $$\bar g_i = \bar g_{i-1} + \frac{w_i}{w_1 + \dots + w_i} (g_i - \bar g_{i-1}), \qquad i = 1, \dots, k$$

    with equal weights, or those that `update(gradients, state, params, weight=...)` is given. After the last of them
    the optimizer gets the mean, in float32 or wider; before, updates are 0, and its state is neither read nor written.

    Args:
        optimizer: any transformation. Further keyword arguments of `update` go to it, at its steps: those that came
            with the last micro-batch.
        every: $k$, 1 or more: a number, a scalar array (traced or not), or a schedule, which is called with the number
            of steps that the optimizer has made, 0 at the first.
        storage: how the mean is kept, as in `scale_by_ewa`. In "8bit" it takes 1 byte a parameter instead of 4; the
            optimizer gets it as it is kept, rounded without bias.

    Returns:
        A transformation; its updates have the dtype of the gradients. A micro-batch whose gradient or weight is not
        finite (or whose weight is negative) is left out: it is not among the $k$, and `skipped` of the state counts it.
        If all are, the optimizer waits for $k$ good ones. One of weight 0 is among them but adds nothing, not even NaN;
        if all are of weight 0, the optimizer waits for one that is not.

    Raises:
        ValueError: `every` below 1 or no whole number, an unknown storage; by `update`, a weight that is a negative
            number, or no scalar.
        TypeError: `optimizer` is no transformation, `every` or a weight no number, `storage` no storage; an update is
            neither float nor complex.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.accumulate(ewa_optax.gradient_descent(1.0), every=2)
        >>> state = optimizer.init(jnp.zeros(1))
        >>> for gradient, tokens in ((4.0, 30), (8.0, 10)):
        ...     u, state = optimizer.update(jnp.array([gradient]), state, weight=tokens)
        ...     print(u)
        [0.]
        [-5.]

    Reference:
        Goyal et al., "Accurate, large minibatch SGD", 2017; `optax.MultiSteps`, to which it is equal up to rounding.
    """
    inner = transformation("accumulate", "optimizer", optimizer, "adam(1e-3)")
    codec = AverageCodec(for_gradients(storage), "accumulate")

    def init(params):
        step, mini_step, skipped = (jnp.zeros([], jnp.int32) for _ in range(3))
        return AccumulateState(
            step, mini_step, skipped, jnp.zeros([]), first(codec, params, "as it is", None), inner.init(params)
        )

    def average(updates, kept, params, *, shares, moves, number):
        trees = codec.trees(kept)
        fresh = codec.encode(map_leaves(Leafwise(_moved, codec, *shares), updates, *trees), trees, *number)
        return (), jax.tree.map(functools.partial(jnp.where, moves), fresh, kept)

    def update(updates, state, params=None, *, weight=1.0, **extra_args):
        check("accumulate", "weight", weight, Weight)
        newest = jnp.asarray(weight, state.weight.dtype)
        taken = ((newest == 0) | _all_finite(updates)) & (newest >= 0) & jnp.isfinite(newest)
        moves = taken & (newest > 0)
        count = jnp.where(taken, increment(state.mini_step), state.mini_step)
        total = jnp.where(moves, state.weight + newest, state.weight)
        steps = taken & (count >= _every_at(every, state.step)) & (total > 0)
        divisor = jnp.where(moves, total, 1)
        shares = (state.weight / divisor, newest / divisor)
        given = dict(shares=shares, moves=moves, number=(state.step, state.mini_step))
        kept = in_turn(average, updates, state.mean, None, given)[1]

        def make_step(inner_state):
            mean = map_leaves(Leafwise(_decoded, codec), updates, *codec.trees(kept))
            return inner.update(mean, inner_state, params, **extra_args)

        out, inner_state = step_if(steps, make_step, updates, state.inner_state)
        return out, AccumulateState(
            jnp.where(steps, increment(state.step), state.step),
            jnp.where(steps, 0, count),
            jnp.where(taken, state.skipped, increment(state.skipped)),
            jnp.where(steps, 0, total),
            kept,
            inner_state,
        )

    return treating_stacks_as(optimizer, boxes_that_fit(init), through_boxes(update))


def _every_at(every, step):
    if not callable(every):
        return every
    number = every(step)
    check("accumulate", "every, as the schedule says it,", number, Every)
    return number


def _all_finite(updates):
    flags = [~jnp.isfinite(x).all() for x in jax.tree.leaves(updates)]
    return ~anywhere(functools.reduce(jnp.logical_or, flags, jnp.bool_(False)))


def _moved(codec, past, newest, u, *arrays):
    """The mean with one gradient more."""
    value = widen(u)
    # Then no difference of two of them is infinite, nor 0 times it NaN.
    return lerp(codec.decode(jnp.shape(u), *arrays), clip(value, largest(value.dtype) / 4), past, past, newest)


def _decoded(codec, u, *arrays):
    return codec.decode(jnp.shape(u), *arrays)
