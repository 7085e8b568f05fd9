r"""Division by a root mean square: the step of RMSprop, Adam and their kin."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import DECAY, EPSILON, check, checked, transformation
from ewa_optax._numerics import Number, is_just, real_like, squared_magnitude, widen
from ewa_optax._trees import Leafwise, map_leaves
from ewa_optax.pieces._bias_correction import scale_by_ewa
from ewa_optax.pieces._combining import divided, in_float32, quotient


class ScaleByRmsState(NamedTuple):
    """The states of the two transformations that `scale_by_rms` was given."""

    numerator: Any
    second_moment: Any


@checked(eps=EPSILON, eps_root=EPSILON)
def scale_by_rms(
    second_moment: optax.GradientTransformation | Number,
    eps: Number = 1e-8,
    *,
    eps_root: Number = 0.0,
    numerator: optax.GradientTransformation = optax.identity(),
) -> optax.GradientTransformationExtraArgs:
    r"""Divides by the root of an average of squares.

    $$u_t = \frac{n(g_t)}{\sqrt{s(|g_t|^2) + \varepsilon_{root}} + \varepsilon}$$

    Both $n$ and $s$ are ordinary transformations and both see the raw gradient (its square), so that neither smooths
    what the other already smoothed: `optax.chain` in their place is another algorithm.

    Args:
        second_moment: $s$, the average of the squared magnitudes; a number means `scale_by_ewa` of that decay. Kept in
            8 or in 16 bits, it should be told that these are squares: `storage.EightBit(squares=True)`.
        eps: $\varepsilon$, added outside the root, in units of the gradient, 0 or more.
        eps_root: $\varepsilon_{root}$, added inside the root, in units of the gradient squared, 0 or more. With both
            0, a gradient whose square is zero from the start (below 1e-19 in float32) is divided by 0.
        numerator: $n$, what is divided; the gradient itself by default (RMSprop), an average of it in Adam.

    Returns:
        A transformation. Squares, root and division are done in float32 or wider whatever the gradient's dtype, and
        the update leaves in the gradient's dtype. Complex gradients are divided by the root of the mean $|g|^2$.
        Further keyword arguments of `update` are handed on to both.

    Raises:
        ValueError: `eps` or `eps_root` negative or not finite, or a decay outside [0, 1).
        TypeError: one of them is no number, `numerator` no transformation, or an update neither float nor complex.

    Example:
        >>> import jax.numpy as jnp, optax, ewa_optax
        >>> second_moment = optax.chain(ewa_optax.scale_by_ewa(0.999), ewa_optax.bias_correct(0.999))
        >>> rms = ewa_optax.scale_by_rms(second_moment, eps=0.0)
        >>> u, state = rms.update(jnp.array([3.0, -0.01]), rms.init(jnp.zeros(2)))
        >>> print(u.round(5))
        [ 1. -1.]

    Reference:
        Tieleman and Hinton, "Lecture 6.5: rmsprop", 2012; Kingma and Ba, "Adam", 2015.
    """
    if not isinstance(second_moment, optax.GradientTransformation):
        check("scale_by_rms", "second_moment", second_moment, DECAY)
        second_moment = scale_by_ewa(second_moment)
    dividend = transformation("scale_by_rms", "numerator", numerator)
    average = transformation("scale_by_rms", "second_moment", second_moment)
    return in_float32(quotient(dividend, _of_squares(average), ScaleByRmsState, Leafwise(_over_root, eps, eps_root)))


@checked(eps=EPSILON, eps_root=EPSILON)
def root_mean_square(
    second_moment: optax.GradientTransformation, eps: Number = 1e-8, *, eps_root: Number = 0.0
) -> optax.GradientTransformationExtraArgs:
    r"""The root of an average of squares: what `scale_by_rms` divides by.

    $$u_t = \sqrt{s(|g_t|^2) + \varepsilon_{root}} + \varepsilon$$

    Args:
        second_moment: $s$, a transformation of the squared magnitudes, which are real. Kept in 8 or in 16 bits, it
            should be told that these are squares: `storage.EightBit(squares=True)`.
        eps: $\varepsilon$, 0 or more, in units of the update.
        eps_root: $\varepsilon_{root}$, 0 or more, in units of its square.

    Returns:
        A transformation whose state is that of `second_moment`. Squares and roots are formed in float32 or wider, and
        leave so, real for complex updates too.

    Raises:
        ValueError: `eps` or `eps_root` negative or not finite.
        TypeError: one of them is no number, or an update neither float nor complex.

    Example:
        >>> import jax.numpy as jnp, ewa_optax
        >>> from ewa_optax import pieces
        >>> rms = pieces.root_mean_square(ewa_optax.scale_by_ewa(0.75), eps=0.0)
        >>> print(rms.update(jnp.array([6.0, -2.0]), rms.init(jnp.zeros(2)))[0])
        [3. 1.]

    Reference:
        Tieleman and Hinton, "Lecture 6.5: rmsprop", 2012.
    """
    average = _of_squares(transformation("root_mean_square", "second_moment", second_moment))

    def update(updates, state, params=None, **extra_args):
        s, state = average.update(updates, state, params, **extra_args)
        return map_leaves(Leafwise(_root, eps, eps_root), s), state

    return optax.GradientTransformationExtraArgs(average.init, update)


def _of_squares(average):
    def init(params):
        return average.init(jax.tree.map(real_like, params))

    def update(updates, state, params=None, **extra_args):
        return average.update(map_leaves(_square, updates), state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(init, update)


def _square(u):
    return squared_magnitude(widen(u))


def _root(eps, eps_root, s):
    return _plus(jnp.sqrt(_plus(s, eps_root)), eps)


def _over_root(eps, eps_root, n, s):
    return divided(n, _root(eps, eps_root, s))


def _plus(x, eps):
    """`x + eps`; XLA would add a 0 too."""
    return x if is_just(eps, 0) else x + jnp.asarray(eps, x.dtype)
