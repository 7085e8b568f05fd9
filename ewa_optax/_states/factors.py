"""The rows and columns of Adafactor, which optax keeps by the lengths of axes, and this library by their order.

optax takes the means over the longest axis, and over the second longest; here they are those over the last two axes. So
what fits are matrices, and arrays whose last two axes are the longest.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ewa_optax._states.averages import Change, Row, carried, rows_of
from ewa_optax._states.parts import Part
from ewa_optax.storage._telling import Kept

ROWS, COLUMNS = ".rows", ".columns"


def carried_factors(given: Part, wanted: Part, step: Any, places: Mapping[str, Any], divided: bool = False) -> Any:
    """What optax keeps of Adafactor as what this library does, or the other way round."""
    if isinstance(wanted.value, Kept):
        rows = _rows_and_columns(given, rows_of(wanted.value.told.like))
        return carried(wanted.path, rows, wanted.value, Change(), step, places)
    kept = Kept.as_it_is(wanted.value)
    return carried(wanted.path, _as_in_optax(given, rows_of(kept.told.like), divided), kept, Change(), step, places)


def _rows_and_columns(given, wanted):
    named = rows_of(given.value)
    if not any(name.startswith(".v_row") for name in named):
        raise ValueError(f"carry_over: {given.path} is {given.role}, but the optimizer keeps rows and columns of it.")
    found = {}
    for name in {name.removesuffix(ROWS).removesuffix(COLUMNS) for name in wanted}:
        full = named[f".v{name}"]
        if name in wanted:
            found[name] = full
            continue
        rows, columns = wanted[name + ROWS].shape, wanted[name + COLUMNS].shape
        shape = (*rows, columns[-1])
        if full.shape == shape and shape != (1,):
            found[name + ROWS], found[name + COLUMNS] = (Row(jnp.mean(full.read(), i), None) for i in (-1, -2))
        else:
            pair = named[f".v_row{name}"], named[f".v_col{name}"]
            found[name + ROWS], found[name + COLUMNS] = pair[:: _direction(given, name, shape)]
    return found


def _as_in_optax(given, wanted, divided):
    named, found = rows_of(given.value), {}
    for name in {name.removesuffix(ROWS).removesuffix(COLUMNS) for name in named}:
        fields = [f".{field}{name}" for field in ("v_row", "v_col", "v")]
        nothing = [Row(jnp.zeros(wanted[x].shape, wanted[x].dtype), None) for x in fields if x in wanted]
        if divided and not nothing:
            continue
        if len(nothing) != len(fields):
            raise ValueError(f"carry_over: {given.path}{name} found no place; give the params that the state is of.")
        if name in named:
            found.update(zip(fields, (*nothing[:2], named[name]), strict=True))
            continue
        pair = named[name + ROWS], named[name + COLUMNS]
        shape = (*pair[0].shape, pair[1].shape[-1])
        if wanted[fields[2]].shape == shape:
            raise ValueError(
                f"carry_over: {given.path}{name} is kept as rows and columns, but the optimizer keeps all of it; "
                f"optax.adafactor needs a min_dim_size_to_factor of {min(shape[-2:])} or less."
            )
        found.update(zip(fields, (*pair[:: _direction(given, name, shape)], nothing[2]), strict=True))
    return found


def _direction(given, name, shape):
    """1 where optax's first means are those over the last axis, -1 where they are those over the one before."""
    second, longest = np.argsort(shape)[-2:]
    if {second, longest} != {len(shape) - 1, len(shape) - 2}:
        raise ValueError(
            f"carry_over: {given.path}{name}, of shape {shape}, is kept by optax as the means over its longest axes, "
            "and here as those over the last two; leave it out, by optax.partition with an optimizer of its own."
        )
    return 1 if longest == len(shape) - 1 else -1
