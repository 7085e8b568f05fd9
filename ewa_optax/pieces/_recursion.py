r"""Recursions over the updates of all steps that keep one array per parameter: what averages are, yours too."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import check_function
from ewa_optax._numerics import Number, check_alike, increment, lerp, narrow, widen
from ewa_optax._trees import Leafwise, map_leaves
from ewa_optax.pieces._combining import returned
from ewa_optax.storage._argument import StorageLike, resolve
from ewa_optax.storage._encoding import AverageCodec
from ewa_optax.storage._telling import first

Advance = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, jax.Array]]


class AverageState(NamedTuple):
    """The number of updates so far, int32, and the average (or maximum, or last value) of each leaf, as it is kept."""

    step: jax.Array
    average: Any


class RecursionState(NamedTuple):
    """The number of updates so far, the number of the recursion in its `optimizer`, and what is kept of each leaf."""

    step: jax.Array
    number: jax.Array
    kept: Any


def recursion(advance: Advance, storage: StorageLike = None) -> optax.GradientTransformation:
    r"""A piece of your own that keeps one array for each array of parameters, and begins with zeros.

    $$(k_t, u_t) = f(k_{t-1}, g_t, t), \qquad k_0 = 0$$

    Args:
        advance: $f$, called as `advance(kept, update, step)` for each array of parameters, which returns what is kept
            next and what leaves, both in the shape of the update. It gets arrays in float32 or wider (complex ones for
            complex parameters), and the step as an int32 scalar, 1 at first; it may look at a whole array, and is
            compiled: `jnp.where` in place of `if`. Stacks of arrays, None leaves and 16 bits are none of its concern.
        storage: how it is kept between steps, as in `scale_by_ewa`. Of squares, `storage.for_squares(...)`.

    Returns:
        A transformation. Updates leave in the dtype they came in. In a chain made by `optimizer`, no two recursions
        share their random bits. Elsewhere those of two functions do not if the functions have different names.

    Raises:
        TypeError: what is no function, or no storage; by `update`, an `advance` that does not return two arrays.
        ValueError: a storage of unknown name; by `update`, arrays of another shape than those that came.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> def sum_of_squares(kept, update, step):
        ...     kept = kept + update**2
        ...     return kept, update / (jnp.sqrt(kept) + 1e-10)
        >>> adagrad = pieces.optimizer(pieces.recursion(sum_of_squares), pieces.scale_by_learning_rate(1.0))
        >>> state = adagrad.init(jnp.zeros(1))
        >>> for g in (3.0, 4.0):
        ...     u, state = adagrad.update(jnp.array([g]), state)
        >>> print(u)
        [-0.8]

    Reference:
        Duchi, Hazan and Singer, "Adaptive subgradient methods", 2011 (the example).
    """
    check_function("recursion: advance", advance, "def advance(kept, update, step)")
    codec, each = AverageCodec(resolve(storage), f"own {_name_of(advance)}"), Leafwise(_checked_advance, advance)

    def init(params):
        zero = jnp.zeros([], jnp.int32)
        return RecursionState(zero, jnp.zeros([], jnp.int32), first(codec, params, "own", None))

    def update(updates, state, params=None):
        del params
        trees, step = codec.trees(state.kept), increment(state.step)
        out, kept = advanced(each, step, updates, trees, codec, step, jnp.asarray(state.number))
        return out, RecursionState(step, state.number, kept)

    return optax.GradientTransformation(init, update)


def read_average(kept: Any, storage: StorageLike = None) -> Any:
    """The averages that a piece keeps, in any storage, as arrays.

    Args:
        kept: the field of a state with the averages: `average` of `scale_by_ewa` and its like, `kept` of a `recursion`.
        storage: the storage that the piece was made with; in optimizers with two moments, `storage.first_moment(...)`
            or `storage.second_moment(...)` of what the optimizer was given.

    Returns:
        A tree like the parameters, in float32 or wider. Complex averages that are encoded have a first axis more, of
        their real and imaginary parts.

    Raises:
        ValueError: another storage than it was made with, as far as shapes and dtypes tell.
        TypeError: what is no storage.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import adam, pieces, storage
        >>> optimizer = adam(1e-3, storage="8bit")
        >>> state = optimizer.init(jnp.zeros((64, 64)))
        >>> _, state = optimizer.update(jnp.full((64, 64), 3.0), state)
        >>> (_, step, _) = state
        >>> m = pieces.read_average(step.numerator.average, storage.first_moment("8bit"))
        >>> v = pieces.read_average(step.second_moment.average, storage.second_moment("8bit"))
        >>> print(f"{m.mean():.2f} {v.mean():.2f}")
        0.30 9.00
    """
    return AverageCodec(resolve(storage), "").read(kept)


def numbered(state: Any) -> Any:
    """The state of a chain, in which each recursion has another number, which decides its random bits."""
    numbers = itertools.count()

    def number(x):
        return x._replace(number=jnp.array(next(numbers), jnp.int32)) if _is_recursion(x) else x

    return jax.tree.map(number, state, is_leaf=_is_recursion)


def _is_recursion(x):
    return isinstance(x, RecursionState)


def _name_of(function):
    while isinstance(function, functools.partial):
        function = function.func
    # Not the module, which is another one for a script that is imported.
    return getattr(function, "__qualname__", type(function).__qualname__)


def _checked_advance(advance, kept, update, step):
    check_alike(update, kept)
    made = advance(kept, update, step)
    if not (isinstance(made, tuple) and len(made) == 2):
        raise TypeError(f"advance must return what is kept and what leaves, got {type(made).__name__}; return a, b.")
    fresh, out = returned("advance", "what is kept", made[0], kept), returned("advance", "what leaves", made[1], update)
    # Not in the dtype of what was kept: of wider updates it would become infinite, and not saturate.
    return fresh.astype(jnp.promote_types(fresh.dtype, kept.dtype)), out


def averaging(
    name: str,
    advance: Advance,
    storage: StorageLike,
    decay: Number,
    like: Callable[[Any], Any] = lambda p: p,
    at: Callable[[jax.Array], Any] = lambda step: step,
) -> optax.GradientTransformation:
    """What `advance(average, update, at(step))` gives for each leaf: what is kept of it, and what leaves.

    Arithmetic is in float32 or wider, the first step is 1, averages start at 0. The name and the decay of an average
    tell its random rounding apart from that of others. `like` makes of a parameter what the average is like, and `at`
    of a step what `advance` needs of it, once for all leaves.
    """
    codec = AverageCodec(resolve(storage), name)

    def init(params):
        return AverageState(jnp.zeros([], jnp.int32), first(codec, jax.tree.map(like, params), name, decay))

    def update(updates, state, params=None):
        del params
        trees, step = codec.trees(state.average), increment(state.step)
        out, average = advanced(advance, at(step), updates, trees, codec, step, decay)
        return out, AverageState(step, average)

    return optax.GradientTransformation(init, update)


def advanced(
    advance: Advance,
    at_step: Any,
    updates: Any,
    trees: tuple[Any, ...],
    codec: AverageCodec,
    step: jax.Array | None,
    decay: Number,
) -> tuple[Any, Any]:
    """What leaves at a step, in the dtypes of the updates, and what is kept."""
    both = map_leaves(Leafwise(_advanced, advance, codec, at_step), updates, *trees)
    fresh, out = (map_leaves(lambda _, pair, i=i: pair[i], updates, both) for i in (0, 1))
    return out, codec.encode(fresh, trees, step, decay)


def moved(
    decay: Number, average: jax.Array, value: jax.Array, past_and_newest: tuple[Number, Number]
) -> tuple[jax.Array, jax.Array]:
    """An average and what leaves, which is the same, by the shares of the past and of the newest value."""
    fresh = lerp(average, value, decay, *past_and_newest)
    return fresh, fresh


def _advanced(advance, codec, at_step, u, *arrays):
    fresh, out = advance(codec.decode(jnp.shape(u), *arrays), widen(u), at_step)
    return fresh, narrow(out, jnp.result_type(u))
