"""What makes a chain an optimizer: float32 or wider from end to end, and no infinity from finite gradients."""

import math

import optax

from ewa_optax._checks import Positive, check, check_integer, transformation
from ewa_optax._numerics import Number, clip, largest, widen
from ewa_optax._stacks import TreatsStacksAsLeaves
from ewa_optax._trees import Leafwise, map_leaves
from ewa_optax.pieces._combining import in_float32
from ewa_optax.pieces._recursion import numbered
from ewa_optax.storage._in_turn import in_turn
from ewa_optax.storage._sharding import boxes_that_fit, through_boxes


def _saturated(power, terms, u):
    widen(u)  # Which names what is no float.
    return clip(u, (largest(u.dtype) / 4) ** (1 / power) / terms)


def _norm_saturated(u):
    widen(u)
    return clip(u, math.sqrt(largest(u.dtype) / 4 / max(u.size, 1)))


def saturate(power: int = 1, terms: Number = 1) -> optax.GradientTransformation:
    r"""Clips updates so that this power of a sum of so many is within a quarter of the largest number of their dtype.

    $$u_t = \mathrm{clip}\left(g_t, \pm \frac{(M/4)^{1/p}}{k}\right), \qquad M \approx 3 \cdot 10^{38}
      \text{ in float32}$$

    Then no difference of two powers overflows, nor the squared magnitude of a complex one, which is twice as large. In
    front of `scale_by_rms`, with `power=2`, gradient and square saturate together, so that one spike moves a parameter
    by an ordinary step and does not freeze it for ever.

    Args:
        power: $p$, the highest power that is formed of an update: 2 where squares are averaged, else 1.
        terms: $k$, how many updates are summed before: 2 for differences; $1/(1-\beta)$ for the sums of a heavy ball.

    Returns:
        A transformation without a state, the `guard` of an `optimizer`. NaN stays NaN.

    Raises:
        ValueError: a power below 1, or `terms` that are not finite and more than 0.
        TypeError: one of them is no number; by `update`, for one that is neither float nor complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> guard = pieces.saturate(power=2)
        >>> u, state = guard.update(jnp.array([1e30, -1.0]), guard.init(jnp.zeros(2)))
        >>> print((u**2).max() < jnp.inf, u[1])
        True -1.0
    """
    check_integer("saturate: power", power, 1, remedy="2 suits squares")
    check("saturate", "terms", terms, Positive)
    each = Leafwise(_saturated, power, terms)
    return optax.stateless(lambda updates, params: map_leaves(each, updates))


def saturate_norm() -> optax.GradientTransformation:
    r"""Clips updates so that the squared norm of each array is within a quarter of the largest number of its dtype.

    Of complex arrays, within a half.

    $$u_t = \mathrm{clip}\left(g_t, \pm \sqrt{M / (4n)}\right), \qquad n \text{ the number of elements of the array}$$

    Returns:
        A transformation without a state, the `guard` of an `optimizer` that forms norms. NaN stays NaN.

    Raises:
        TypeError: by its `update`, for an update that is neither float nor complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> guard = pieces.saturate_norm()
        >>> u, state = guard.update(jnp.full(100, 1e30), guard.init(jnp.zeros(100)))
        >>> print(jnp.linalg.norm(u) < jnp.inf)
        True
    """
    return optax.stateless(lambda updates, params: map_leaves(Leafwise(_norm_saturated), updates))


def optimizer(
    *pieces: optax.GradientTransformation, guard: optax.GradientTransformation | None = saturate(power=2)
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer of pieces, each of which gets the update of the one before: `optax.chain`, and what makes it safe.

    All optimizers of this library are made by it. What it adds to a chain:

    - Pieces hand on float32 or wider. Updates leave in the dtype that they came in, rounded once.
    - The guard in front: no finite gradient, however large, becomes an infinity in an average.
    - Averages kept in 8 to 24 bits are overwritten in place on a CPU, where they would be copied.
    - The recursions in it never share their random bits.
    - Parameters in stacks (`ewa_optax.stack_leaves`) get the steps of the leaves in them, and `ewa_optax.fit` may use
      such stacks by itself. A piece from elsewhere that looks at whole arrays, such as
      `optax.adaptive_grad_clip`, would see whole stacks: put `optax.chain` around it and the optimizer instead.

    Args:
        pieces: transformations, one or more. For updates that point downhill, `scale_by_learning_rate` is one of them,
            as a rule the last.
        guard: in front of them all: `saturate(power=2)` suits what averages squares, `saturate()` what does not,
            `saturate_norm()` what forms norms. None for pieces that have one among them.

    Returns:
        A transformation whose state is the tuple of that of the guard, if there is one, and those of the pieces.
        Further keyword arguments of `update` go to those pieces that take them.

    Raises:
        ValueError: no piece at all.
        TypeError: what is no transformation; by `update`, a chain that ends with what `beside` hands on.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> mine = pieces.optimizer(pieces.scale_by_rms(0.9), pieces.scale_by_learning_rate(0.1))
        >>> u, state = mine.update(jnp.array([4.0, 1e25]), mine.init(jnp.zeros(2)))
        >>> print(u.round(3))
        [-0.316 -0.316]

    Reference:
        Micikevicius et al., "Mixed precision training", 2018, on what overflows where.
    """
    if not pieces:
        raise ValueError("optimizer: there must be one piece or more, got none; such as scale_by_learning_rate(0.1).")
    guards = () if guard is None else (transformation("optimizer", "guard", guard, "saturate(), or None"),)
    each = [transformation("optimizer", "every piece", piece) for piece in pieces]
    chain = in_float32(optax.chain(*guards, *each))

    def update(updates, state, params=None, **extra_args):
        return in_turn(chain.update, updates, state, params, extra_args)

    init = boxes_that_fit(lambda params: numbered(chain.init(params)))
    return TreatsStacksAsLeaves(init, through_boxes(update))
