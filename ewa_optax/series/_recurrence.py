r"""The recurrence under every average of a series, $v_t = v_{t-1} + (b_t - f_t v_{t-1})$, and how fast its past fades.

What fades, $f_t$, and not what stays, $1 - f_t$: near a decay of one, the latter has lost in float32 the digits that
make out the decay. Arrays have the shape (series, time, lanes); lanes lie next to each other in memory.
"""

import jax
import jax.numpy as jnp

from ewa_optax.series._plan import differing_as


def recurrence(
    added: jax.Array, faded: jax.Array, kept: jax.Array, initial: jax.Array, method: str | None = None
) -> jax.Array:
    """All $v_t$ along the second axis, from $b_t$, $f_t$ and $1 - f_t$; with a derivative in reverse.

    Step by step on a CPU, which has nothing to gain from more work in fewer turns, and compiles it sooner. Where more
    fades than is kept, it is a sum with what is kept: of a difference, one huge value would leave no digits.
    """
    faded, kept = (jnp.broadcast_to(a, added.shape) for a in (faded, kept))
    arguments = added, faded, kept, *differing_as(added, initial)
    if method == "associative":
        return _associative(*arguments)
    return jax.lax.platform_dependent(*arguments, cpu=_serial, default=_associative)


def _serial(added, faded, kept, initial):
    def step(carry, xs):
        value, lost = carry
        added, faded, kept = xs
        change = (added - faded * value) + lost
        fresh = value + change
        # What rounding loses of a step is added to the next: else a long memory stalls in float32.
        short = faded > 0.5
        lost = jnp.where(short, 0, change - (fresh - value))
        fresh = jnp.where(short, kept * value + added, fresh)
        return (fresh, lost), fresh

    xs = [jnp.moveaxis(a, 1, 0) for a in (added, faded, kept)]
    return jnp.moveaxis(jax.lax.scan(step, (initial, initial - initial), xs)[1], 0, 1)


def _associative(added, faded, kept, initial):
    def after(value, added, faded, kept):
        return jnp.where(faded > 0.5, kept * value + added, value + (added - faded * value))

    def then(first, second):
        (b1, f1, k1), (b2, f2, k2) = first, second
        faded = f1 + f2 * k1
        return after(b1, b2, f2, k2), faded, jnp.where(faded > 0.5, k1 * k2, 1 - faded)

    scanned = jax.lax.associative_scan(then, (added, faded, kept), axis=1)
    return after(initial[:, None], *scanned)
