r"""Division by a root mean square: the step of RMSprop, Adam and their kin."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._average import scale_by_ewa
from ewa_optax._checks import DECAY, EPSILON, check, checked
from ewa_optax._numerics import Number, map_leaves, narrow, squared_magnitude, wide_dtype, widen


class ScaleByRmsState(NamedTuple):
    """The states of the two transformations that `scale_by_rms` was given."""

    numerator: Any
    second_moment: Any


@checked(eps=EPSILON, eps_root=EPSILON)
def scale_by_rms(
    second_moment: optax.GradientTransformation | Number,
    eps: float | jax.Array = 1e-8,
    *,
    eps_root: float | jax.Array = 0.0,
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
            0, a gradient whose square is zero from the start (below 1e-23 in float32) is divided by 0.
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
    if not isinstance(numerator, optax.GradientTransformation):
        raise TypeError(f"scale_by_rms: numerator must be a transformation, got {numerator!r}; try scale_by_ewa(0.9).")
    divisor, dividend = optax.with_extra_args_support(second_moment), optax.with_extra_args_support(numerator)

    def init(params):
        return ScaleByRmsState(dividend.init(params), divisor.init(jax.tree.map(_real_like, params)))

    def update(updates, state, params=None, **extra_args):
        wide = map_leaves(widen, updates)
        squares = map_leaves(squared_magnitude, wide)
        n, numerator_state = dividend.update(wide, state.numerator, params, **extra_args)
        s, second_moment_state = divisor.update(squares, state.second_moment, params, **extra_args)

        def divide(g, n, s):
            root = jnp.sqrt(s + eps_root) + eps
            return narrow(n / root.astype(wide_dtype(n.dtype)), jnp.result_type(g))

        return map_leaves(divide, updates, n, s), ScaleByRmsState(numerator_state, second_moment_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _real_like(p):
    dtype = jnp.result_type(p)
    return jnp.zeros_like(p, dtype=jnp.finfo(dtype).dtype) if jnp.issubdtype(dtype, jnp.complexfloating) else p
