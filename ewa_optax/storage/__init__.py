r"""How an average is kept between steps: in 8, 16 or 24 bits, rounded without bias.

Rounded to the nearest number of 16 bits, an average of long memory stands still: a step of $(1-\beta)(g_t - v_{t-1})$
is less than half a unit in its last place. Here a number goes up or down by chance, so that in the mean what is kept is
the average itself: with $a \le x \le b$ its neighbours of 16 bits, $x$ becomes $b$ with probability $(x-a)/(b-a)$. What
leaves `scale_by_ewa` comes from the fresh float32 average; only what is kept is rounded.

`scale_by_ewa` and the optimizers take `storage=`, a StorageLike (MomentStorages
where there are two moments): None, a name ("bfloat16", "float16", "8bit", "24bit"), or one of the
objects below, with its options:

    >>> import jax, jax.numpy as jnp, ewa_optax
    >>> from ewa_optax import storage
    >>> average = ewa_optax.scale_by_ewa(0.999, storage.BFloat16(min_size=0, seed=1))
    >>> state = average.init(jnp.zeros(1000))
    >>> def step(state, gradient):
    ...     return average.update(gradient, state)[1], None
    >>> state, _ = jax.lax.scan(step, state, jnp.ones((3000, 1000)))
    >>> kept = state.average.arrays[0]
    >>> print(kept.dtype, f"{kept.astype(float).mean():.2f}")
    bfloat16 0.95

(To nearest, it would have stopped at 0.25.)

References: Gupta et al., "Deep learning with limited numerical precision", 2015 (stochastic rounding); Dettmers et al.,
"8-bit optimizers via block-wise quantization", 2022; Shazeer and Stern, "Adafactor", 2018.
"""

from ewa_optax.storage._argument import (
    NAMED,
    MomentStorages,
    StorageLike,
    first_moment,
    for_gradients,
    for_squares,
    second_moment,
)
from ewa_optax.storage._blocks import Blocks, EightBit
from ewa_optax.storage._formats import BFloat16, Factored, Factors, Float16, Float24, Split
from ewa_optax.storage._storage import Storage

__all__ = [
    "NAMED",
    "BFloat16",
    "Blocks",
    "EightBit",
    "Factored",
    "Factors",
    "Float16",
    "Float24",
    "MomentStorages",
    "Split",
    "Storage",
    "StorageLike",
    "first_moment",
    "for_gradients",
    "for_squares",
    "second_moment",
]
