r"""Division by a root mean square: the step of RMSprop, Adam and their kin."""

import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import Decay, Epsilon, check, checked, rule, transformation
from ewa_optax._numerics import Number, is_just, real_like, shares, squared_magnitude, widen
from ewa_optax._trees import Leafwise, map_leaves, wide
from ewa_optax.pieces._averages import scale_by_ewa
from ewa_optax.pieces._combining import by_step, divided, in_float32, quotient
from ewa_optax.storage._encoding import only_of_squares

Threshold = Annotated[
    Number, rule("finite and 4 or more", lambda x: x >= 4, "4 is the paper's, 5 that of other libraries")
]


class ScaleByRmsState(NamedTuple):
    """The states of the two transformations that `scale_by_rms` was given."""

    numerator: Any
    second_moment: Any


@checked
def scale_by_rms(
    second_moment: optax.GradientTransformation | Number,
    eps: Epsilon = 1e-8,
    *,
    eps_root: Epsilon = 0.0,
    numerator: optax.GradientTransformation = optax.identity(),
) -> optax.GradientTransformationExtraArgs:
    r"""Divides by the root of an average of squares.

    $$u_t = \frac{n(g_t)}{\sqrt{s(|g_t|^2) + \varepsilon_{root}} + \varepsilon}$$

    Both $n$ and $s$ are ordinary transformations and both see the raw gradient (its square), so that neither smooths
    what the other already smoothed: `optax.chain` in their place is another algorithm.

    Args:
        second_moment: $s$, the average of the squared magnitudes; a number means `scale_by_ewa` of that decay. Kept in
            8 bits or in float16, it must be told that these are squares: `storage.second_moment("8bit")`.
        eps: $\varepsilon$, added outside the root, in units of the gradient, 0 or more.
        eps_root: $\varepsilon_{root}$, added inside the root, in units of the gradient squared, 0 or more. With both
            0, a gradient whose square is zero from the start (below 1e-19 in float32) is divided by 0.
        numerator: $n$, what is divided; the gradient itself by default (RMSprop), an average of it in Adam.

    Returns:
        A transformation. Squares, root and division are done in float32 or wider whatever the gradient's dtype, and
        the update leaves in the gradient's dtype. Complex gradients are divided by the root of the mean $|g|^2$.
        Further keyword arguments of `update` are handed on to both.

    Raises:
        ValueError: `eps` or `eps_root` negative or not finite, or a decay outside [0, 1); by `init`, an average of
            squares that would be kept as one of gradients.
        TypeError: one of them is no number, `numerator` no transformation, or an update neither float nor complex.

    Examples:
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
        check("scale_by_rms", "second_moment", second_moment, Decay)
        second_moment = scale_by_ewa(second_moment)
    dividend = transformation("scale_by_rms", "numerator", numerator)
    average = transformation("scale_by_rms", "second_moment", second_moment)
    return in_float32(quotient(dividend, _of_squares(average), ScaleByRmsState, wide(_over_root, eps, eps_root)))


@checked
def root_mean_square(
    second_moment: optax.GradientTransformation, eps: Epsilon = 1e-8, *, eps_root: Epsilon = 0.0
) -> optax.GradientTransformationExtraArgs:
    r"""The root of an average of squares: what `scale_by_rms` divides by.

    $$u_t = \sqrt{s(|g_t|^2) + \varepsilon_{root}} + \varepsilon$$

    Args:
        second_moment: $s$, a transformation of the squared magnitudes, which are real. Kept in 8 bits or in float16, it
            must be told that these are squares: `storage.second_moment("8bit")`.
        eps: $\varepsilon$, 0 or more, in units of the update.
        eps_root: $\varepsilon_{root}$, 0 or more, in units of its square.

    Returns:
        A transformation whose state is that of `second_moment`. Squares and roots are formed in float32 or wider, and
        leave so, real for complex updates too.

    Raises:
        ValueError: `eps` or `eps_root` negative or not finite.
        TypeError: one of them is no number, or an update neither float nor complex.

    Examples:
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
        with only_of_squares():
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


@checked
def rectify(decay: Decay, threshold: Threshold = 4.0) -> optax.GradientTransformation:
    r"""Replaces a root mean square by 1 in its first steps, and enlarges it in the next.

    $$\rho_\infty = \frac{2}{1 - \beta} - 1, \qquad \rho_t = \rho_\infty - \frac{2 t \beta^t}{1 - \beta^t}, \qquad
      r_t^2 = \frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}$$
    $$u_t = g_t / r_t \text{ where } \rho_t > \text{threshold, and else } 1$$

    Args:
        decay: $\beta$ in [0, 1), the decay of the average; below 0.6 it is never rectified, and 1 is all there is.
        threshold: of $\rho_t$, the length of the average, 4 or more: there the variance begins to be finite.

    Returns:
        A transformation whose state is the step count. It belongs behind `root_mean_square` of a corrected average, in
        the divisor of `divide`. Updates leave in their own dtype.

    Raises:
        ValueError: a decay outside [0, 1), or a threshold below 4.
        TypeError: one of them is no number.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> rectified = pieces.rectify(0.999)
        >>> def step(state, square):
        ...     return rectified.update(square, state)[::-1]
        >>> _, rectified_squares = jax.lax.scan(step, rectified.init(jnp.zeros(())), jnp.full(1000, 4.0))
        >>> print(f"{rectified_squares[-1]:.1f}")
        6.2

    Reference:
        Liu et al., "On the variance of the adaptive learning rate and beyond", 2020.
    """

    def rectified(updates, step, params):
        del params
        longest, length = _lengths(decay, step.astype(float))
        rectifies = length > jnp.maximum(threshold, 4.0)
        length = jnp.where(rectifies, length, 5.0)
        # A decay that was rounded to 1 has an infinite length, and no step.
        inverse = jnp.sqrt((longest - 6 + 8 / longest) * length / ((length - 4) * (length - 2)))
        return map_leaves(wide(_rectified, rectifies, inverse), updates)

    return by_step(rectified)


def _rectified(rectifies, inverse, v):
    return jnp.where(rectifies, v * inverse.astype(v.dtype), jnp.ones_like(v))


def _lengths(decay, t):
    r"""$\rho_\infty$ and $\rho_t$.

    In its first steps $\rho_t$ is about $t$, but the formula is the difference of two numbers near $\rho_\infty$. With
    $a = -\log\beta$ and $L(y) = \coth y - 1/y$ it is $t + L(a/2) - t L(ta/2)$, too.
    """
    past, newest = shares(decay)
    a = -jnp.log(jnp.maximum(past, 1e-30)) if isinstance(past, jax.Array) else -math.log(max(past, 1e-30))
    longest = (1 + past) / newest
    early = t + _langevin(a / 2) - t * _langevin(t * a / 2)
    late = longest - 2 * t / jnp.expm1(t * a)
    return longest, jnp.where(t * a < 1, early, late)


def _langevin(y):
    """By its series, exact in float64 up to 1/2, which is as far as it is needed."""
    total = 0.0
    for coefficient in reversed(_SERIES):
        total = coefficient + y * y * total
    return y * total


_SERIES = (
    1 / 3,
    -1 / 45,
    2 / 945,
    -1 / 4725,
    2 / 93555,
    -1382 / 638512875,
    4 / 18243225,
    -3617 / 162820783125,
    87734 / 38979295480125,
    -349222 / 1531329465290625,
    310732 / 13447856940643125,
)
