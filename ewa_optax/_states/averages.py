"""Averages from one form and storage into another, one leaf after the other."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ewa_optax._numerics import narrow, squared_magnitude, widen
from ewa_optax._states.storages import storages_of
from ewa_optax._trees import Leafwise, names_of
from ewa_optax.storage._encoding import AverageCodec, Encoded
from ewa_optax.storage._kept import parts_of
from ewa_optax.storage._telling import Kept


class Change(NamedTuple):
    """What an average becomes: its square, or times and over a number; unless that is False, else its root."""

    squared: bool = False
    times: Any = None
    over: Any = None
    unless: Any = None


class Row(NamedTuple):
    """One of the arrays in a stack, or an array of its own."""

    array: Any
    number: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        shape = tuple(np.shape(self.array))
        return shape if self.number is None else shape[1:]

    @property
    def dtype(self) -> Any:
        """Of the array."""
        return self.array.dtype if hasattr(self.array, "dtype") else jnp.result_type(self.array)

    def read(self) -> Any:
        """The array."""
        return self.array if self.number is None else _row(self.array, self.number)


class Computed(NamedTuple):
    """An array that is computed when its turn comes."""

    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], Any]


@jax.jit
def _row(x, number):
    return jax.lax.dynamic_index_in_dim(x, number, keepdims=False)


@jax.jit
def _stack(*xs):
    return jnp.stack(xs)


def rows_of(tree: Any) -> dict[str, Row]:
    """All arrays of a tree, those in stacks too, by their names; of these, as they are."""
    if isinstance(tree, dict) and any(isinstance(x, Row | Computed) for x in tree.values()):
        return tree
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        names = names_of(path)
        found.update({names: Row(x, None)} if isinstance(names, str) else {n: Row(x, i) for i, n in enumerate(names)})
    return found


def places_of(params: Any) -> Mapping[str, Any]:
    """How the parameters lie on several devices, by their names: the shape and the sharding."""
    found = {}
    for name, row in rows_of(params).items():
        x = row.array
        sharding = None if isinstance(x, jax.core.Tracer) else getattr(x, "sharding", None)
        if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
            continue
        if row.number is not None:
            sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
        found[name] = row.shape, sharding
    return found


def carried(
    path: str, source: Any, kept: Kept, change: Change, step: Any, places: Mapping[str, Any], divided: bool = False
) -> Any:
    """What `kept` describes, of an average that is kept in another way, is changed, and lies where parameters lie.

    One that is divided has more arrays than those of one group.
    """
    codec = kept.told.codec
    if codec.storage:  # The chance of an update at that step may have rounded what is rounded again here.
        codec = dataclasses.replace(codec, piece=f"{codec.piece} carried over to {codec.storage}")
    given = [rows_of(tree) for tree in (source.arrays if isinstance(source, Encoded) else (source,))]
    wanted, expected = rows_of(kept.told.like), [rows_of(tree) for tree in codec.trees(kept.kept)]
    _check_names(
        path, given[0] if not divided else {name: given[0][name] for name in given[0] if name in wanted}, wanted
    )
    arrays = {name: [g[name] for g in given if name in g] for name in wanted}
    storage_of = storages_of(path, arrays, wanted, kept) if isinstance(source, Encoded) else lambda name: None
    at = jnp.asarray(0 if step is None else step, jnp.int32)

    def one(name):
        like, theirs, storage = wanted[name], arrays[name], storage_of(name)
        as_it_is = storage is None
        if as_it_is:
            theirs = theirs[:1]
            if theirs[0].shape != like.shape:
                raise ValueError(
                    f"carry_over: {path}{name} is an array of shape {theirs[0].shape}, but the average that the "
                    f"optimizer keeps there is of shape {like.shape}; give the params that the state is of."
                )
            if not kept.told.of_squares:  # optax keeps squares of complex numbers as complex ones.
                _check_kind(f"{path}{name}", theirs[0], like)
        ours = [e[name] for e in expected if name in e]
        shape, sharding = places.get(name, (None, None))
        read = [_placed(row.read(), sharding if row.shape == shape else None) for row in theirs]
        alike = [(r.shape, r.dtype) for r in theirs] == [(r.shape, r.dtype) for r in ours][: len(theirs)]
        same = storage == kept.told.codec.storage or (
            as_it_is and not (codec.storage and codec.storage.takes(like.shape))
        )
        if alike and same and not any(x is not None and x is not False for x in change):
            return [jnp.asarray(x) for x in read]
        fitting = codec
        if codec.storage and sharding is not None:
            fitting = dataclasses.replace(
                codec, storage=codec.storage.for_shards(like.shape, parts_of(sharding, like.shape))
            )
        convert = Leafwise(_converted, fitting, storage, like.shape, np.dtype(like.dtype).name, change.squared)
        made = convert(np.uint32(codec.number_of(name)), at, *change[1:], *read)
        return [_placed(x, sharding if x.shape == shape else None) for x in made]

    structure, leaves = jax.tree.structure(kept.told.like), []
    for tree_path, _ in jax.tree_util.tree_leaves_with_path(kept.told.like):
        names = names_of(tree_path)
        if isinstance(names, str):
            leaves.append(one(names))
        else:
            leaves.append([_stacked(rows) for rows in zip(*map(one, names), strict=True)])
    return codec.together(structure, leaves)


def _converted(codec, storage, shape, dtype, squared, number, step, times, over, unless, *arrays):
    x = given = widen(AverageCodec(storage, "").decode(shape, *arrays))
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        x = x.real
    x = squared_magnitude(x) if squared else x
    x = x if times is None else x * times.astype(x.dtype)
    x = x if over is None else x / over.astype(x.dtype)
    x = x if unless is None else jnp.where(unless, x, jnp.sqrt(given))
    return codec.encode_one(narrow(x.astype(jnp.promote_types(x.dtype, dtype)), dtype), number, step)


def _placed(x, sharding):
    if sharding is None or isinstance(x, jax.core.Tracer):
        return x
    return x if getattr(x, "sharding", None) == sharding else jax.device_put(x, sharding)


def _stacked(rows):
    stacked = _stack(*rows)
    sharding = None if isinstance(stacked, jax.core.Tracer) else getattr(rows[0], "sharding", None)
    if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
        return jax.device_put(stacked, NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec)))
    return stacked


def _check_names(path, given, wanted):
    for ours, theirs, what in (
        (given, wanted, "found no place in"),
        (wanted, given, "is missing in what was given for"),
    ):
        if missing := [name for name in ours if name not in theirs]:
            more = f", and {len(missing) - 1} more arrays," if len(missing) > 1 else ""
            raise ValueError(
                f"carry_over: {path}{missing[0]}{more} {what} the state of the optimizer; give the params, and the "
                "masks, that the state is of."
            )


def _check_kind(path, given, wanted):
    if jnp.issubdtype(given.dtype, jnp.complexfloating) and not jnp.issubdtype(wanted.dtype, jnp.complexfloating):
        raise TypeError(f"carry_over: {path} is complex, but the optimizer keeps real numbers there; give its params.")
