"""The averages of all leaves between steps: which leaves a storage encodes, and by which random bits."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from ewa_optax._numerics import Number, narrow, wide_dtype
from ewa_optax._random_bits import HALF, fold, key_of, random_bits
from ewa_optax._trees import Leafwise, is_in_stack, map_by_name, map_leaves
from ewa_optax.storage._kept import (
    as_kept,
    encoded_shape,
    is_as_it_came,
    kept_shapes,
    listed,
    manual_axes,
    shards_of,
    structure_of,
    takes,
)
from ewa_optax.storage._sharding import parts_of_boxes
from ewa_optax.storage._storage import Storage

_OF_SQUARES = contextvars.ContextVar("of squares", default=False)


@contextlib.contextmanager
def only_of_squares() -> Iterator[None]:
    """Averages that are initialized in here are of squares: storages that think otherwise are an error."""
    token = _OF_SQUARES.set(True)
    try:
        yield
    finally:
        _OF_SQUARES.reset(token)


def are_of_squares() -> bool:
    """Whether averages that are initialized here are of squares."""
    return _OF_SQUARES.get()


class Encoded(NamedTuple):
    """What a storage keeps: for each array that it makes of an average, a tree of these, like the parameters.

    A leaf that the storage does not take stands, as it is, in the first tree; in the others stands an array of its
    shape that says that there is nothing of it, False throughout, since tools that walk two trees at once take no None.
    The codes of a complex average have a first axis more, of its real and its imaginary part.
    """

    arrays: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class AverageCodec:
    """Keeps averages by a storage; without one, as they are.

    `piece` tells averages with one storage apart, so that not the same chance rounds them. The numbers are those of
    pieces that had one before pieces had names: their bits hang on them.
    """

    storage: Storage | None
    piece: int | str

    def init(self, params: Any) -> Any:
        """What is kept at first of averages of 0 for parameters, in float32 or wider."""
        jax.tree_util.tree_map_with_path(_check_inexact, params)
        storage = self.storage
        if not storage:
            return jax.tree.map(_zeros, params)
        if _OF_SQUARES.get() and storage.for_squares() != storage:
            raise ValueError(
                f"an average of squares can't be kept by {storage}, which is for averages of gradients: it has a sign, "
                "and may round a small square to 0; wrap it, or its name, in ewa_optax.storage.second_moment(...)."
            )

        boxed = iter(parts_of_boxes(params))

        def of_leaf(path, p):
            parts = next(boxed)
            in_stack = is_in_stack(path)
            # Of an array that is there, where it lies is all that is needed: nobody holds zeros as large as it is.
            like = p if isinstance(p, jax.Array) and not isinstance(p, jax.core.Tracer) else _zeros(p)
            shape = like.shape[1:] if in_stack else like.shape
            if not takes(storage, like, shape):
                return [_zeros(p), *_fillers(p, structure_of(storage).num_leaves - 1)]
            try:
                shards = tuple(map(max, shards_of(like), parts))
                fitting = storage.for_shards(shape, shards[in_stack:])
            except ValueError as error:
                raise ValueError(f"{jax.tree_util.keystr(path) or 'the root'}: {error}") from error
            of_one = Leafwise(_first_in_parts if like is p and len(p.devices()) > 1 else _first, fitting)
            arrays = jax.tree.leaves((jax.vmap(of_one) if in_stack else of_one)(like))
            if len(arrays) > 1 and is_as_it_came(arrays):
                raise ValueError(
                    f"{type(storage).__name__} makes {listed(arrays)} of an average, which stand for one that it does "
                    "not take; give them another dtype than bool."
                )
            return arrays

        structure = jax.tree.structure(params)
        leaves = structure.flatten_up_to(jax.tree_util.tree_map_with_path(of_leaf, params))
        return self._in_trees(structure, leaves)

    def trees(self, kept: Any) -> tuple[Any, ...]:
        """The trees whose leaves `decode` takes."""
        if isinstance(kept, Encoded) != (self.storage is not None):
            raise ValueError(
                f"this state was made {'with' if isinstance(kept, Encoded) else 'without'} a storage, but came to one "
                f"whose storage is {self.storage}; use the storage that it was made with."
            )
        return kept.arrays if self.storage else (kept,)

    def decode(self, shape: tuple[int, ...], *arrays: Any) -> jax.Array:
        """The average of that shape that one leaf of each tree makes up."""
        if not self.storage:
            return arrays[0]
        encoded = encoded_shape(self.storage, shape, arrays)
        if encoded is not None:
            average = self.storage.decode(jax.tree.unflatten(structure_of(self.storage), arrays))
            return average if encoded == shape else jax.lax.complex(average[0], average[1])
        if not self.storage.takes(shape) and is_as_it_came(arrays):
            return arrays[0]
        inside = " In jax.shard_map, a part has blocks of its own: call init there, too." if manual_axes() else ""
        raise ValueError(
            f"an update of shape {shape} came for a parameter of another one, or its state was made with another "
            f"storage than {self.storage}: its average is kept as {listed(arrays)}. Give it a gradient of its own "
            f"shape, and the storage, with its options, that the state was made with.{inside}"
        )

    def read(self, kept: Any) -> Any:
        """The averages, real ones, in what is kept of them."""
        trees = self.trees(kept)
        return map_leaves(Leafwise(_read, self.storage), *trees) if self.storage else kept

    def encode(self, averages: Any, trees: tuple[Any, ...], step: jax.Array | None, decay: Number) -> Any:
        """What is kept of a tree of averages at a step; where one is None, what was kept before."""
        # The decay, because two averages in one hand-made chain have the same storage and piece.
        chance = Leafwise(_chance, decay if isinstance(decay, jax.Array) else float(decay), step)

        def one(key, x, *old):
            # As it was kept: in jax.shard_map, the storage does not see the shape of the whole.
            if not self.storage or encoded_shape(self.storage, x.shape, old) is None:
                return [narrow(x, old[0].dtype), *old[1:]]
            return jax.tree.leaves(Leafwise(_encoded, as_kept(self.storage, old))(chance(key), x))

        structure = jax.tree.structure(averages, is_leaf=lambda x: x is None)
        new = structure.flatten_up_to(map_by_name(self.number_of, one, averages, *trees))
        before = zip(*(structure.flatten_up_to(tree) for tree in trees), strict=True)
        return self._in_trees(structure, [list(old) if x is None else x for x, old in zip(new, before, strict=True)])

    def number_of(self, name: str) -> int:
        """What tells a leaf of that name, and the average, apart from others: its random bits hang on it."""
        # Not the number of the leaf: it keeps its bits when others are masked, or stacked.
        return key_of(int(self.storage.seed), self.piece, name) if self.storage else 0

    def encode_one(self, average: jax.Array, number: Any, step: Any) -> list[jax.Array]:
        """What is kept of one average, outside of an update: the arrays of one leaf, for `together`."""
        if not self.storage or not self.storage.takes(average.shape):
            return [average]
        return jax.tree.leaves(_encoded(self.storage, fold(number, step), average))

    def together(self, structure: Any, leaves: list[list[Any]]) -> Any:
        """What is kept, of the arrays of each leaf of a tree of that structure; of one as it came, of that alone."""
        count = structure_of(self.storage).num_leaves if self.storage else 1
        rest = [_fillers(arrays[0], count - len(arrays)) for arrays in leaves]
        return self._in_trees(structure, [[*arrays, *others] for arrays, others in zip(leaves, rest, strict=True)])

    def _in_trees(self, structure, leaves):
        if not self.storage:
            return structure.unflatten([arrays[0] for arrays in leaves])
        count = structure_of(self.storage).num_leaves
        if (most := max(map(len, leaves), default=0)) > count:
            raise ValueError(
                f"{type(self.storage).__name__} makes {most} arrays of one average and {count} of another; "
                "give encode one structure for all shapes, with empty arrays where there is nothing to keep."
            )
        filled = [(arrays + [None] * count)[:count] for arrays in leaves]
        return Encoded(tuple(structure.unflatten([arrays[i] for arrays in filled]) for i in range(count)))


def _fillers(p, count):
    # One array each, or a state could not be donated.
    return [jnp.zeros_like(p, dtype=bool) for _ in range(count)]


def _first(storage, p):
    return storage.init(_real(_zeros(p)))


def _first_in_parts(storage, p):
    """The same, in parts on several devices that go with those of the array."""
    average = _real(_in_parts_of(p, _zeros(p)))
    bits = jnp.full(average.shape, HALF)
    return jax.tree.map(_in_parts_of, storage.encode(average, bits), storage.init(average))


def _in_parts_of(like, x):
    # A choice that XLA doesn't know before it has found the parts. Of arrays that are made anew it would choose others.
    return jnp.where(jax.lax.optimization_barrier(np.bool_(False)), like.astype(x.dtype), x)


def _chance(decay, step, key):
    return fold(key, decay, step)


def _encoded(storage, key, average):
    x = _real(average)
    bits = jnp.full(x.shape, HALF) if storage.rounding == "nearest" else Leafwise(_bits, x.shape)(key)
    return storage.encode(x, bits)


def _bits(shape, key):
    return random_bits(key, shape)


def _read(storage, first, *others):
    arrays = [x for x in (first, *others) if x is not None]
    if not storage.takes(first.shape) and is_as_it_came(arrays):
        return first
    structure, found = structure_of(storage), [(x.shape, x.dtype) for x in arrays]
    if structure.num_leaves == len(arrays):
        kept = jax.tree.unflatten(structure, arrays)
        try:
            shape = jax.eval_shape(storage.decode, kept).shape
            expected = jax.tree.leaves(kept_shapes(as_kept(storage, arrays), shape))
        except Exception:  # Of what another storage kept, it may make anything.
            expected = None
        if expected is not None and found == [(x.shape, x.dtype) for x in expected]:
            return storage.decode(kept)
    raise ValueError(
        f"{storage} did not keep this average, which is kept as {listed(arrays)}; name the storage that did."
    )


def _real(x):
    """A complex average as one of real numbers, with its parts along a new first axis."""
    return narrow(jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x, jnp.float32)


def _check_inexact(path, p):
    dtype = jnp.result_type(p)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"the parameter at {jax.tree_util.keystr(path) or 'the root'} has dtype {dtype}, but an average "
            "needs a float or complex one; leave it out with optax.masked, optax.partition or a None leaf."
        )


def _zeros(p):
    return jnp.zeros_like(p, dtype=wide_dtype(jnp.result_type(p)))
