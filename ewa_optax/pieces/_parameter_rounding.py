"""What happens to parameters themselves: rounding onto their grid."""

import jax.numpy as jnp
import numpy as np
import optax

from ewa_optax._random_bits import fold, key_of, random_bits
from ewa_optax._trees import Leafwise, map_by_name
from ewa_optax.pieces._combining import by_step
from ewa_optax.storage._formats import BFloat16, Float16

_GRIDS = {jnp.dtype(jnp.bfloat16): BFloat16(), jnp.dtype(jnp.float16): Float16()}


def round_stochastically(seed: int = 0) -> optax.GradientTransformation:
    r"""Rounds what 16-bit parameters become up or down by chance, so that small updates are not lost.

    Added to a bfloat16, an update of less than 1/512 of it rounds away, at every step, for ever. This last piece of a
    chain turns an update $u$ of a parameter $p$ into one whose sum with $p$, as `optax.apply_updates` forms it, is one
    of the two neighbours of $p + u$ that the parameter's dtype has, and is $p + u$ in the mean, as float32 forms it. So
    no second copy of the parameters is needed.

    Args:
        seed: a whole number, 0 or more, that alone decides the chance.

    Returns:
        A transformation whose state is the step count. It needs the parameters, and belongs behind everything else.
        Updates of bfloat16 and float16 parameters leave in float32, others as they came: so it goes outside of
        `optax.apply_if_finite` and its like, and `optax.apply_updates` must add them (that of equinox would make the
        parameters float32). Where $p + u$ is finite, the parameter stays finite.

    Raises:
        ValueError: a seed that is negative, or no parameters.
        TypeError: a seed that is no whole number.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, ewa_optax
        >>> optimizer = optax.chain(ewa_optax.gradient_descent(1.0), ewa_optax.round_stochastically())
        >>> params = jnp.ones(10_000, jnp.bfloat16)
        >>> u, state = jax.jit(optimizer.update)(jnp.full(10_000, -0.001), optimizer.init(params), params)
        >>> new = optax.apply_updates(params, u)
        >>> print(new.dtype, sorted(set(new.tolist())), f"{new.astype(float).mean():.4f}")
        bfloat16 [1.0, 1.0078125] 1.0010

    Reference:
        Zamirai et al., "Revisiting BFloat16 training", 2020.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(
            f"round_stochastically: seed must be a whole number, got {seed!r} ({type(seed).__name__}); 0 will do."
        )
    if seed < 0:
        raise ValueError(f"round_stochastically: seed must be 0 or more, got {seed!r}; 0 is as good as any other.")

    def landed(updates, step, params):
        if params is None:
            raise ValueError("round_stochastically needs the parameters; call update(gradients, state, params).")
        one = Leafwise(_landed, step)

        def land(key, u, p):
            return one(key, jnp.asarray(p), u) if jnp.result_type(p) in _GRIDS else u

        return map_by_name(lambda name: key_of(int(seed), "parameters", name), land, updates, params)

    return by_step(landed)


def _landed(step, key, p, u):
    grid = _GRIDS[p.dtype]
    wide, change = jnp.asarray(p, jnp.float32), jnp.asarray(u, jnp.float32)
    bits = random_bits(fold(key, step), p.shape)
    landed = grid.decode(grid.encode(wide + change, bits)) - wide
    return jnp.where(jnp.isfinite(wide), landed, change)
