"""What users give for an array: one of JAX or NumPy, a masked one, a list of numbers, a column or a frame of data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_list(x: Any) -> bool:
    """Whether it is a list of numbers, or of such lists: one array, not a tree."""
    return type(x) in (list, tuple) and len(x) > 0 and all(_is_number(each) or is_list(each) for each in x)


def given(name: str, x: Any) -> Any:
    """`x` as an array of JAX or NumPy, or a masked one, of numbers; TypeError for what is none, ValueError for lists.

    It is not narrowed: JAX would let integers wrap that do not fit 32 bits.
    """
    try:
        array = _array(x)
    except ValueError as error:
        raise ValueError(f"{name} must be an array, got lists of several lengths; fill them up with NaN.") from error
    except (TypeError, OverflowError) as error:
        raise _no_numbers(name, x) from error
    if array.dtype == object:
        values = np.ravel(array).tolist()
        if all(isinstance(each, int | float | complex) for each in values):
            return array.astype(complex if any(isinstance(each, complex) for each in values) else float)
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise _no_numbers(name, x)
    return array


def floats(x: Any) -> Any:
    """Integers and booleans as the default float, straight from what they are; what is masked as NaN."""
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.result_type(float)
    if isinstance(x, jax.Array):
        return x.astype(dtype)
    array = np.ma.getdata(x).astype(dtype, copy=False)
    mask = masked(x)
    return array if mask is None else np.where(mask, np.asarray(np.nan, dtype), array)


def masked(x: Any) -> Any:
    """Where a masked array is; None of any other."""
    return np.ma.getmaskarray(x) if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x) else None


def _array(x):
    if isinstance(x, jax.Array | np.ma.MaskedArray):
        return x
    if hasattr(x, "__jax_array__") or (is_list(x) and any(isinstance(each, jax.Array) for each in jax.tree.leaves(x))):
        return jnp.asarray(x)
    if is_list(x) and any(each is np.ma.masked for each in jax.tree.leaves(x)):
        mask = jax.tree.map(lambda each: each is np.ma.masked, x)
        return np.ma.array(jax.tree.map(lambda each, gone: 0 if gone else each, x, mask), mask=mask)
    return np.asarray(x)


def _is_number(x):
    if isinstance(x, jax.Array | np.ndarray):
        return x.shape == ()
    return isinstance(x, int | float | complex | np.number | np.bool_)


def _no_numbers(name, x):
    kind = getattr(x, "dtype", None) or type(x).__name__
    remedy = "leave out what is none"
    if hasattr(x, "select_dtypes"):
        remedy = "of a frame, take the columns of numbers: frame.select_dtypes('number').to_numpy(float)"
    return TypeError(f"{name} must be an array of numbers, got {kind}; {remedy}.")
