r"""Pieces that take pieces: the sum of two, one beside the other, one divided by the other.

`optax.chain` hands the update of one piece to the next. Here several see the same update.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import Finite, checked, transformation
from ewa_optax._numerics import increment, is_just, narrow, widen
from ewa_optax._trees import Leafwise, map_leaves, wide


def divided(n: jax.Array, d: jax.Array) -> jax.Array:
    """A leaf by another one, in the dtype of the first."""
    return n / d.astype(n.dtype)


class Beside(NamedTuple):
    """What `beside` hands on: an update, and what a piece made of it, two trees of one structure."""

    update: Any
    """The update, as it came."""
    other: Any
    """What the piece made of it."""


class StepCount(NamedTuple):
    """The number of updates so far, int32: all that pieces keep that depend on the step alone."""

    step: jax.Array


class DivideState(NamedTuple):
    """The states of the two transformations that `divide` was given."""

    numerator: Any
    divisor: Any


def add(*pieces: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""The sum of what several pieces make of the same update: $u_t = a(g_t) + b(g_t) + \dots$.

    Args:
        pieces: transformations, one or more. `optax.scale` behind one of them gives it a weight.

    Returns:
        A transformation whose state is the tuple of theirs. Updates leave in the dtype that the first piece gives them.

    Raises:
        ValueError: no piece at all.
        TypeError: what is no transformation.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from ewa_optax import pieces
        >>> three_times = pieces.add(optax.identity(), optax.scale(2.0))
        >>> print(three_times.update(jnp.array([1.0]), three_times.init(jnp.zeros(1)))[0])
        [3.]

    Reference:
        Pagliardini et al., "The AdEMAMix optimizer: better, faster, older", 2024, adds two averages.
    """
    if not pieces:
        raise ValueError("add: there must be one piece or more, got none; optax.set_to_zero() gives zeros.")
    each = [transformation("add", "every piece", piece) for piece in pieces]

    def init(params):
        return tuple(piece.init(params) for piece in each)

    def update(updates, state, params=None, **extra_args):
        done = [piece.update(updates, s, params, **extra_args) for piece, s in zip(each, state, strict=True)]
        total, *others = (one_update(out) for out, _ in done)
        for other in others:
            total = map_leaves(wide(_sum), total, other)
        return total, tuple(s for _, s in done)

    return optax.GradientTransformationExtraArgs(init, update)


def beside(piece: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Hands on the update and, beside it, what a piece makes of it: $(g_t, a(g_t))$.

    Then numerator and divisor of a `divide` can both use what was kept once. Behind it must come a `take`, which takes
    one of the two, a `combine`, or a `divide` of these: an update is not two. What takes each element by itself may
    stand between, such as `optax.scale_by_sign`, and takes both.

    Args:
        piece: $a$, a transformation.

    Returns:
        A transformation whose state is that of `piece`, and which hands on two trees for one.

    Raises:
        TypeError: what is no transformation.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from ewa_optax import pieces
        >>> both = optax.chain(pieces.beside(optax.scale(2.0)), pieces.combine(1, 1))
        >>> print(both.update(jnp.array([1.0]), both.init(jnp.zeros(1)))[0])
        [3.]

    Reference:
        Zhuang et al., "AdaBelief optimizer", 2020, divides an average by how far gradients are from it.
    """
    inner = transformation("beside", "piece", piece)

    def update(updates, state, params=None, **extra_args):
        other, state = inner.update(updates, state, params, **extra_args)
        return Beside(updates, other), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def take(index: int) -> optax.GradientTransformation:
    r"""One of the two that `beside` hands on.

    Args:
        index: 0 for the update, 1 for what the piece made of it.

    Returns:
        A transformation without a state.

    Raises:
        ValueError: another index.
        TypeError: what comes is not what `beside` hands on.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from ewa_optax import pieces
        >>> second = optax.chain(pieces.beside(optax.scale(2.0)), pieces.take(1))
        >>> print(second.update(jnp.array([1.0]), second.init(jnp.zeros(1)))[0])
        [2.]

    Reference:
        Zhuang et al., "AdaBelief optimizer", 2020.
    """
    if index not in (0, 1):
        raise ValueError(f"take: index must be 0 or 1, got {index!r}; 0 is the update, 1 what stands beside it.")
    return optax.stateless(lambda both, params: _beside("take", both)[index])


@checked
def combine(weight: Finite, other: Finite) -> optax.GradientTransformation:
    r"""The weighted sum of an update and what stands beside it: $a\, g_t + b\, x_t$.

    Args:
        weight: $a$, a number or a scalar array.
        other: $b$, the same.

    Returns:
        A transformation without a state, of what `beside` hands on. Updates leave in the dtype they came in.

    Raises:
        ValueError: a weight that is not finite.
        TypeError: a weight that is no number, or what comes is not what `beside` hands on.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from ewa_optax import pieces
        >>> rest = optax.chain(pieces.beside(optax.scale(0.25)), pieces.combine(1, -1))
        >>> print(rest.update(jnp.array([4.0]), rest.init(jnp.zeros(1)))[0])
        [3.]

    Reference:
        Zhuang et al., "AdaBelief optimizer", 2020: how far gradients are from their average.
    """
    weighted = wide(_weighted, weight, other)
    return optax.stateless(lambda both, params: map_leaves(weighted, *_beside("combine", both)))


def divide(
    numerator: optax.GradientTransformation, divisor: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    r"""The quotient of what two pieces make of the same update: $u_t = n(g_t) / d(g_t)$.

    Args:
        numerator: $n$, a transformation.
        divisor: $d$, a transformation, such as `root_mean_square`.

    Returns:
        A transformation. The quotient is formed in float32 or wider, and has the dtype of the numerator.

    Raises:
        TypeError: what is no transformation.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from ewa_optax import pieces
        >>> sign = pieces.divide(optax.identity(), pieces.root_mean_square(optax.identity(), eps=0.0))
        >>> print(sign.update(jnp.array([-3.0, 0.5]), sign.init(jnp.zeros(2)))[0])
        [-1.  1.]

    Reference:
        Kingma and Ba, "Adam", 2015.
    """
    n, d = (transformation("divide", *x) for x in (("numerator", numerator), ("divisor", divisor)))
    return quotient(n, d, DivideState)


def quotient(
    numerator: Any,
    divisor: Any,
    state_type: Callable[[Any, Any], Any],
    ratio: Callable[[Any, Any], Any] = wide(divided),
) -> Any:
    """`divide` of two transformations that take extra arguments, whose states go into a tuple of that type."""

    def init(params):
        return state_type(numerator.init(params), divisor.init(params))

    def update(updates, state, params=None, **extra_args):
        n, numerator_state = numerator.update(updates, state[0], params, **extra_args)
        d, divisor_state = divisor.update(updates, state[1], params, **extra_args)
        return map_leaves(ratio, one_update(n), one_update(d)), state_type(numerator_state, divisor_state)

    return optax.GradientTransformationExtraArgs(init, update)


def one_update(out: Any) -> Any:
    """What pieces made of an update; TypeError for two, of which one must be made."""
    if isinstance(out, Beside):
        raise TypeError(
            "the pieces end with an update and what stands beside it, but must end with one; put take(...), "
            "combine(...), divide(...) or elementwise(...) behind beside(...)."
        )
    return out


def returned(function: str, what: str, made: Any, like: jax.Array) -> jax.Array:
    """What a function of a user made, as an array like `like`; TypeError or ValueError if it can't be one."""
    if made is None:
        raise TypeError(f"{function} returned None for {what}; return an array, such as jnp.zeros_like(update).")
    x = jnp.asarray(made)
    if x.shape != like.shape:
        raise ValueError(
            f"{function} returned, for {what}, an array of shape {x.shape} where {like.shape} came; return one number "
            "for each that came, such as by jnp.broadcast_to."
        )
    if jnp.iscomplexobj(x) and not jnp.iscomplexobj(like):
        raise TypeError(f"{function} returned, for {what}, complex numbers where real ones came; return their size.")
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(like.dtype)


def by_step(function: Callable[[Any, jax.Array, Any], Any]) -> optax.GradientTransformationExtraArgs:
    """A piece that keeps the number of steps only: `function(updates, step, params)`, where the first step is 1."""

    def init(params):
        del params
        return StepCount(jnp.zeros([], jnp.int32))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        step = increment(state.step)
        return function(updates, step, params), StepCount(step)

    return optax.GradientTransformationExtraArgs(init, update)


def in_float32(piece: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`piece`, to which updates come in float32 or wider; they leave in the dtype that they came in."""
    inner = optax.with_extra_args_support(piece)

    def update(updates, state, params=None, **extra_args):
        wide, state = inner.update(map_leaves(widen, updates), state, params, **extra_args)
        if isinstance(updates, Beside) and isinstance(wide, Beside):  # Two may stay two.
            return map_leaves(_as_it_came, updates, wide), state
        came = updates.update if isinstance(updates, Beside) else updates
        return map_leaves(_as_it_came, came, one_update(wide)), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _as_it_came(u, wide):
    dtype = jnp.result_type(u)
    return wide if wide.dtype == dtype else Leafwise(_narrowed, dtype)(wide)


def _narrowed(dtype, x):
    return narrow(x, dtype)


def _beside(function: str, updates: Any) -> Beside:
    if not isinstance(updates, Beside):
        raise TypeError(
            f"{function} needs an update and what stands beside it, got {type(updates).__name__}; "
            "put beside(...) in front of it."
        )
    return updates


def _weighted(weight, other, a, b):
    first, second = _times(weight, a), b.astype(a.dtype)
    # Not a sum with -b, which would be one operation more.
    return first - second if is_just(other, -1) else first + _times(other, second)


def _sum(a, b):
    return a + b.astype(a.dtype)


def _times(number, x):
    return x if is_just(number, 1) else jnp.asarray(number, x.dtype) * x
