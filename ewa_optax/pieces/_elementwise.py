"""Pieces of your own that keep nothing: a function of the update, or of two behind `beside`."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from ewa_optax._checks import check_function
from ewa_optax._trees import map_leaves, wide
from ewa_optax.pieces._combining import Beside, by_step, returned


def elementwise(function: Callable[..., jax.Array]) -> optax.GradientTransformation:
    r"""A piece of your own that keeps nothing: $u_t = f(g_t)$, or behind `beside`, $u_t = f(g_t, x_t)$.

    Args:
        function: $f$, called for each array of parameters with the update, and behind `beside` with what stands beside
            it. It gets arrays in float32 or wider and returns one of the shape of the update. As a rule it is a
            function of each element; it may look at the whole array, such as at its mean. It is compiled: `jnp.where`
            in place of `if`. Stacks of arrays, None leaves and 16 bits are none of its concern.

    Returns:
        A transformation without a state. Updates leave in the dtype they came in.

    Raises:
        TypeError: what is no function, and by `update` what it raises itself.
        ValueError: by `update`, a function that returns another shape.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from ewa_optax import pieces
        >>> squash = pieces.elementwise(jnp.tanh)
        >>> print(squash.update(jnp.array([0.0, 100.0]), squash.init(jnp.zeros(2)))[0])
        [0. 1.]
        >>> agree = pieces.elementwise(lambda g, m: jnp.where((g.conj() * m).real > 0, m, 0))
        >>> chain = optax.chain(pieces.beside(optax.scale(-1.0)), agree)
        >>> print(chain.update(jnp.array([1.0, 2.0]), chain.init(jnp.zeros(2)))[0])
        [0. 0.]

    Reference:
        Liang et al., "Cautious optimizers", 2024 (the second example).
    """
    check_function("elementwise: function", function, "def function(update)")
    each = wide(_applied, function)
    return optax.stateless(lambda updates, params: map_leaves(each, *_one_or_two(updates)))


def elementwise_by_step(function: Callable[..., jax.Array]) -> optax.GradientTransformation:
    r"""As `elementwise`, of a function that also gets the step: $u_t = f(g_t, t)$, or $f(g_t, x_t, t)$ behind `beside`.

    Args:
        function: $f$, as in `elementwise`; the step comes last, an int32 scalar, 1 at first.

    Returns:
        A transformation whose state is the number of steps. Updates leave in the dtype they came in.

    Raises:
        TypeError: as in `elementwise`.
        ValueError: as in `elementwise`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> clip = pieces.elementwise_by_step(lambda g, step: jnp.clip(g, -(step**0.25), step**0.25))
        >>> state = clip.init(jnp.zeros(1))
        >>> for _ in range(16):
        ...     u, state = clip.update(jnp.array([5.0]), state)
        >>> print(u)
        [2.]

    Reference:
        Taniguchi et al., "ADOPT", 2024, whose clip grows so.
    """
    check_function("elementwise_by_step: function", function, "def function(update, step)")

    def applied(updates, step, params):
        del params
        return map_leaves(wide(_applied_at, function, step), *_one_or_two(updates))

    return by_step(applied)


def _one_or_two(updates: Any) -> tuple[Any, ...]:
    return tuple(updates) if isinstance(updates, Beside) else (updates,)


def _applied(function, u, *other):
    return returned("the function", "an update", function(u, *other), u)


def _applied_at(function, step, u, *other):
    return returned("the function", "an update", function(u, *other, step), u)
