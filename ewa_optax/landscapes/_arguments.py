"""A function and a point of it, checked."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ewa_optax._checks import check_dtypes


def float_tree(name: str, tree: Any) -> Any:
    """The tree with its leaves as arrays; TypeError unless they are real floats, ValueError if there are none."""
    check_dtypes(name, tree, jnp.floating, "convert it by jnp.asarray(x, float), or leave it out of the tree")
    if not sum(jnp.size(x) for x in jax.tree.leaves(tree)):
        raise ValueError(f"{name} must be a pytree of float arrays, got {tree!r}; make one: jnp.array([1.0, 2.0]).")
    return jax.tree.map(jnp.asarray, tree)


def check_value(function: Callable[[Any], Any], point: Any) -> None:
    """Raises unless the function of a point is a real scalar: ValueError for another shape, TypeError for the rest."""
    value = jax.eval_shape(function, point)
    if not hasattr(value, "shape") or not jnp.issubdtype(value.dtype, jnp.floating):
        kind = value.dtype if hasattr(value, "dtype") else type(value).__name__
        raise TypeError(f"function must return a real number, got {kind}; return a float scalar.")
    if value.shape:
        raise ValueError(f"function must return a scalar, got shape {value.shape}; sum or average it.")
