"""The storage that made what is kept of averages, by shapes and dtypes: a state does not name it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._numerics import wide_dtype
from ewa_optax.storage._blocks import EightBit
from ewa_optax.storage._formats import BFloat16, Factored, Float16, Float24
from ewa_optax.storage._kept import as_kept, kept_shapes
from ewa_optax.storage._storage import Storage
from ewa_optax.storage._telling import Kept


def storages_of(
    path: str, arrays: Mapping[str, Sequence[Any]], wanted: Mapping[str, Any], kept: Kept
) -> Callable[[str], Storage | None]:
    """For the name of a leaf, the storage that made these arrays of it; None for a leaf that is as it is."""
    encoded = {name: rows for name, rows in arrays.items() if not _is_as_it_is(rows[0], wanted[name])}
    if not encoded:
        return lambda name: None
    storage = _found(path, encoded, wanted, kept)
    return lambda name: storage if name in encoded else None


def _is_as_it_is(row, like):
    return row.shape == like.shape and jnp.issubdtype(row.dtype, jnp.inexact) and row.dtype == wide_dtype(row.dtype)


def _found(path, encoded, wanted, kept):
    name, rows = next(iter(encoded.items()))
    kinds = tuple(np.dtype(row.dtype).name for row in rows)
    ours = kept.told.codec.storage
    squares = kept.told.form in ("past", "maximum") or kept.told.of_squares
    if isinstance(ours, Storage) and all(_made_by(ours, rows, wanted[name]) for name, rows in encoded.items()):
        return ours
    found: Storage | None = None
    if kinds[0] == "bfloat16":
        found = Float24(min_size=0) if len(kinds) == 2 and rows[1].shape == rows[0].shape else BFloat16(min_size=0)
    elif kinds[0] == "float16":
        found = Float16(min_size=0, squares=squares)
    elif kinds[0] in ("int8", "uint8") and len(kinds) == 2:
        found = EightBit(min_size=0, squares=kinds[0] == "uint8")
    elif len(kinds) == 3:
        found = Factored(min_size=0)
    if found is None or not all(_made_by(found, rows, wanted[name]) for name, rows in encoded.items()):
        listed = ", ".join(f"{row.dtype}{list(row.shape)}" for row in rows)
        raise ValueError(
            f"carry_over: {path}{name} is kept as {listed}, by none of the storages of this library for an array of "
            f"shape {wanted[name].shape}; carry it over to an optimizer with the storage that it was made with, "
            "or read it by pieces.read_average."
        )
    return found


def _made_by(storage, rows, like):
    """Whether a storage, whatever its smallest size, makes such arrays of such an average."""
    shape = (2, *like.shape) if jnp.issubdtype(like.dtype, jnp.complexfloating) else like.shape
    shapes = [jax.ShapeDtypeStruct(row.shape, row.dtype) for row in rows]
    try:
        made = jax.tree.leaves(kept_shapes(as_kept(storage, shapes), shape))
    except Exception:  # Of shapes that it does not take it may make anything, and of another number of arrays.
        return False
    return [(x.shape, x.dtype) for x in made] == [(x.shape, x.dtype) for x in shapes]
