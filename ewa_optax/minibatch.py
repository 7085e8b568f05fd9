r"""Mini-batches: one shuffled pass over the data, compiled whole.

$m$ examples in mini-batches of $B$ make an epoch of $T = \lceil m/B \rceil$ steps; when $B$ does not divide $m$, the
last mini-batch is smaller and still takes its step.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

_Carry = TypeVar("_Carry")


def epoch(
    step: Callable[[_Carry, Any], tuple[_Carry, Any]], carry: _Carry, data: Any, *, batch_size: int, key: jax.Array
) -> tuple[_Carry, Any]:
    r"""Runs `step` over all of `data` once, in shuffled mini-batches, as `jax.lax.scan` runs it over an array.

    The pass is one compiled program; it compiles again only for another `step` function, batch size, or structure,
    shape or dtype of an argument. Define `step` once, outside the loop over epochs, and pass it what changes in
    `carry`. Data in NumPy arrays goes to the device at every call: to spare that, put it there once, by
    `jax.device_put`.

    Args:
        step: `(carry, batch) -> (carry, out)`. `batch` is `data` with `batch_size` shuffled examples per leaf (the
            last one has the rest, when `batch_size` does not divide their number), `carry` keeps its structure,
            shapes and dtypes, and `out` has shapes that do not depend on the size of the batch, or is None.
        carry: what the steps hand on, such as `(params, opt_state)`; a pytree of arrays.
        data: a pytree of arrays whose first axes are all $m$ examples long.
        batch_size: $B$, from 1 (stochastic gradient descent) to $m$ (batch gradient descent).
        key: a `jax.random` key, which alone decides the order of the examples; use another for each epoch.

    Returns:
        The last carry, and every `out` stacked along a new first axis of length $\lceil m/B \rceil$.

    Raises:
        ValueError: `batch_size` outside 1 to $m$; data that is empty, or with leaves of unequal length or no axis; an
            `out` whose structure or shapes depend on the size of the batch.
        TypeError: `batch_size` is no integer, or `key` no key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from ewa_optax import minibatch
        >>> def step(total, batch):
        ...     return total + batch.sum(), batch.mean()
        >>> total, means = minibatch.epoch(step, 0, jnp.arange(10), batch_size=4, key=jax.random.key(0))
        >>> print(total, means.shape)
        45 (3,)

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Mini-batch gradient descent".
    """
    _check(data, batch_size, key)
    return _epoch(step, carry, data, int(batch_size), key)


@functools.partial(jax.jit, static_argnames=("step", "batch_size"))
def _epoch(step, carry, data, batch_size, key):
    size = jax.tree.leaves(data)[0].shape[0]
    order = jax.random.permutation(key, size)
    whole = size - size % batch_size

    def visit(carry, rows):
        return step(carry, jax.tree.map(lambda x: x[rows], data))

    carry, out = jax.lax.scan(visit, carry, order[:whole].reshape(-1, batch_size))
    if whole < size:
        carry, last = jax.lax.scan(visit, carry, order[None, whole:])
        if jax.tree.structure(out) != jax.tree.structure(last):
            raise ValueError(
                f"step returned an out of structure {jax.tree.structure(out)} for mini-batches of {batch_size} "
                f"examples and {jax.tree.structure(last)} for the smaller last one; return the same for both."
            )
        out = jax.tree_util.tree_map_with_path(functools.partial(_append, batch_size), out, last)
    return carry, out


def _append(batch_size, path, out, last):
    if out.shape[1:] != last.shape[1:]:
        raise ValueError(
            f"step returned an out{jax.tree_util.keystr(path)} of shape {out.shape[1:]} for mini-batches of "
            f"{batch_size} examples and of shape {last.shape[1:]} for the smaller last one, which can't be stacked; "
            "return something of one shape, such as a mean over the batch."
        )
    return jnp.concatenate([out, last])


def _check(data, batch_size, key):
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(
            f"key must be a jax.random key, got {key!r} ({type(key).__name__}); make one: jax.random.key(0)."
        )
    leaves = jax.tree_util.tree_leaves_with_path(data)
    lengths = {}
    for path, leaf in leaves:
        name = "data" + jax.tree_util.keystr(path)
        if not jnp.shape(leaf):
            raise ValueError(f"{name} is a scalar, but every leaf needs a first axis of examples; give it one.")
        lengths[name] = jnp.shape(leaf)[0]
    if not lengths or not all(lengths.values()):
        raise ValueError("data holds no examples; pass a pytree of arrays whose first axis is one example or longer.")
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"the leaves of data differ in length ({listed}); cut them to one number of examples.")
    size = next(iter(lengths.values()))
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
        raise TypeError(f"batch_size must be an integer, got {batch_size!r} ({type(batch_size).__name__}).")
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"batch_size must be from 1 to the number of examples, {size}, got {batch_size}; "
            f"{size} makes the whole data one batch."
        )
