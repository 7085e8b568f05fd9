r"""One shuffled pass over the data, compiled whole.

$m$ examples in mini-batches of $B$ make an epoch of $T = \lceil m/B \rceil$ steps; when $B$ does not divide $m$, the
last mini-batch is smaller and still takes its step.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._checks import check_function, check_key
from ewa_optax.minibatch._arrays import source_of_arrays
from ewa_optax.minibatch._batches import plan_batches
from ewa_optax.minibatch._loops import INSIDE, append, choose_loop, in_place, is_traced, scan
from ewa_optax.minibatch._order import check_epoch

_Carry = TypeVar("_Carry")


def epoch(
    step: Callable[..., tuple[_Carry, Any]],
    carry: _Carry,
    data: Any,
    *,
    batch_size: int,
    key: jax.Array,
    epoch: int | jax.Array = 0,
    remainder: str = "keep",
    order: str | None = None,
    shards: int = 1,
    loop: str = "auto",
) -> tuple[_Carry, Any]:
    r"""Runs `step` over all of `data` once, in shuffled mini-batches, as `jax.lax.scan` runs it over an array.

    The pass is one compiled program, which gathers each mini-batch as it needs it: the data is not copied. It compiles
    again only for another `step` function, batch size, or structure, shape or dtype of an argument; not for another
    key or epoch. Define `step` once, outside the loop over epochs, and pass it what changes in `carry`. Data in NumPy
    arrays goes to the device at every call: to spare that, put it there once, by `jax.device_put`.

    Args:
        step: `(carry, batch) -> (carry, out)`. `batch` is `data` with `batch_size` shuffled examples per leaf, `carry`
            keeps its structure, shapes and dtypes, and `out` has shapes that do not depend on the size of the batch,
            or is None.
        carry: what the steps hand on, such as `(params, opt_state)`; a pytree of arrays.
        data: a pytree of arrays whose first axes are all $m$ examples long. Sharded arrays stay where they are, and
            batches are sharded likewise, where their size allows. On a mesh with explicit axes, only where the axis of
            examples is sharded or none is.
        batch_size: $B$, from 1 (stochastic gradient descent) to $m$ (batch gradient descent).
        key: a `jax.random` key.
        epoch: the number of the epoch, which with the key decides the order (see `minibatch.order`): count it up.
        remainder: what happens when $B$ does not divide $m$. `"keep"`: the last mini-batch is smaller. `"drop"`: the
            examples left over sit this epoch out. `"mask"`: the last one is padded with copies of an example, so that
            there is one shape only, and each step is called as `step(carry, batch, mask=mask)`, with a `mask` of shape
            $(B,)$, float32, 1 for an example and 0 for padding, to be used as weights.
        order: `"permutation"`, `"bijection"`, or None for the one that suits the size; see `minibatch.order`.
        shards: 1 is a global shuffle. $S$ is a shard-local one: `data` is cut into $S$ equal parts, one after the
            other, each is shuffled on its own (part $s$ by `jax.random.fold_in(key, s)`), and each mini-batch takes
            $B/S$ examples of every part. Data sharded over $S$ devices then needs no traffic for it. The result
            depends on $S$, not on where the data lies.
        loop: `"scan"` compiles the epoch whole. `"python"` runs the compiled step from Python, in the memory of its
            carry. `"auto"` is `"scan"`, except for steps with a convolution on a CPU, which in a compiled loop are
            several times slower.

    Returns:
        The last carry, and every `out` stacked along a new first axis of length $\lceil m/B \rceil$ (dropped:
        $\lfloor m/B \rfloor$).

    Raises:
        ValueError: `batch_size` outside 1 to $m$; data that is empty, or with leaves of unequal length or no axis;
            `shards` that do not divide $m$ and $B$; an unknown `remainder`, `order` or `loop`; an `out` whose structure
            or shapes depend on the size of the batch; `loop="python"` inside of `jax.jit`.
        TypeError: `batch_size`, `epoch` or `shards` is no integer, `key` no key, or a leaf of `data` no array.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ewa_optax import minibatch
        >>> def step(total, batch):
        ...     return total + batch.sum(), batch.mean()
        >>> total, means = minibatch.epoch(step, 0, jnp.arange(10), batch_size=4, key=jax.random.key(0), epoch=7)
        >>> print(total, means.shape)
        45 (3,)

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Mini-batch gradient descent".
    """
    check_key(key)
    check_epoch(epoch)
    check_function("step", step, "def step(carry, batch)")
    batches = plan_batches(data, batch_size, remainder, order, shards)
    arguments = (carry, data, key, epoch)
    whole = _scanned(step, batches)
    if choose_loop(loop, whole, *arguments) == "python":
        done = _one_by_one(step, batches, *arguments)
        if done is not None:
            return done
        if loop == "python":
            raise ValueError(INSIDE)
    return whole(*arguments)


@functools.lru_cache(maxsize=32)  # Bounded, so that steps and what they enclose are not kept for ever.
def _scanned(step, batches):
    return jax.jit(functools.partial(scan, step, batches))


def _one_by_one(step, batches, carry, data, key, epoch):
    one, outs = in_place(step), []
    carry = jax.tree.map(jnp.array, carry)  # A copy, since the first step overwrites it.
    for batch, others in source_of_arrays(data, batches).feed(key, epoch):
        with contextlib.nullcontext() if outs else warnings.catch_warnings():
            if not outs:  # What the step encloses may be traced, and its memory then not be donated; we'll see.
                warnings.filterwarnings("ignore", "Some donated buffers were not usable")
            carry, out = one(carry, batch, **others)
        outs.append(out)
        if is_traced((carry, out, batch)):
            return None
    full, last = outs[: batches.full_steps], outs[batches.full_steps :]
    out = _stack(full)
    return carry, append(batches.batch_size, out, _stack(last)) if last else out


def _stack(outs):
    def stack(*xs):
        keys = jnp.issubdtype(xs[0].dtype, jax.dtypes.prng_key)
        return jnp.stack(xs) if keys else jnp.asarray(np.stack(jax.device_get(xs)))

    return jax.tree.map(stack, *outs)
