"""The memory of an optimizer, before any is allocated."""

from typing import Any

import jax
import optax


def state_bytes(optimizer: optax.GradientTransformation, params: optax.Params) -> int:
    """The bytes that the state of `optimizer` takes for `params`, with nothing allocated.

    Args:
        optimizer: any `optax.GradientTransformation`.
        params: a pytree of arrays, or of `jax.ShapeDtypeStruct`s for parameters that don't exist yet.

    Returns:
        The sum of the sizes of all arrays in the state; divided by the number of parameters, 8 for Adam in float32.

    Raises:
        TypeError: `optimizer` is no transformation, or it can't make a state for `params`.

    Examples:
        >>> import jax, jax.numpy as jnp, ewa_optax
        >>> params = {"w": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)}
        >>> for storage in (None, "bfloat16", "8bit"):
        ...     print(ewa_optax.state_bytes(ewa_optax.adam(1e-3, storage=storage), params))
        8000020
        4000024
        2064024

    Reference:
        `jax.eval_shape`, which traces `optimizer.init` without running it.
    """
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state_of(optimizer, params, "state_bytes")))


def state_of(optimizer: Any, params: Any, function: str) -> Any:
    """The shapes and dtypes of the state; `function` is who asks."""
    if not callable(getattr(optimizer, "init", None)):  # As optax.MultiSteps has it, too.
        raise TypeError(f"{function}: optimizer must be a transformation, got {optimizer!r}; try ewa_optax.adam(1e-3).")
    return jax.eval_shape(optimizer.init, params)
