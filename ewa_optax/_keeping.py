"""The averages of all leaves between steps: which leaves a storage encodes, and by which random bits."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ewa_optax._numerics import Number, narrow
from ewa_optax._rounding import HALF, fold, key_of, random_bits
from ewa_optax.storage import NAMED, Storage

Chosen = Storage | str | None
Pair = Chosen | tuple[Chosen, Chosen]


class Encoded(NamedTuple):
    """An average as its storage keeps it: one part, or the real and the imaginary one."""

    parts: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Keeper:
    """Keeps averages by a storage; without one, as they are.

    `piece` tells averages with one storage apart, so that not the same chance rounds them.
    """

    storage: Storage | None
    piece: int

    def init(self, zeros: Any) -> Any:
        """What is kept at first of a tree of averages, which are zeros."""

        def init(x):
            if not self.storage or not self.storage.takes(x.shape):
                return x
            return Encoded(tuple(self.storage.init(part) for part in _parts(x)))

        return jax.tree.map(init, zeros)

    def decode(self, kept: Any) -> jax.Array:
        """One average."""
        if not self.storage or not isinstance(kept, Encoded):
            return kept
        parts = [self.storage.decode(part) for part in kept.parts]
        return jax.lax.complex(*parts) if len(parts) == 2 else parts[0]

    def encode(self, averages: Any, kept: Any, step: jax.Array | None, decay: Number) -> Any:
        """What is kept of a tree of averages at a step; where one is None, what was kept before."""

        def encode(path, x, old):
            if x is None:
                return old
            if not self.storage or not isinstance(old, Encoded):
                return narrow(x, old.dtype)
            # The path, not the number of the leaf: it keeps its bits when others are masked.
            leaf = jax.tree_util.keystr(path)
            keys = [key_of(self.storage.seed, self.piece, leaf, i) for i in range(len(old.parts))]
            parts = zip(_parts(x), keys, strict=True)
            return Encoded(tuple(_encode(self.storage, part, key, decay, step) for part, key in parts))

        return jax.tree_util.tree_map_with_path(encode, averages, kept, is_leaf=lambda x: x is None)


def _encode(storage, x, key, decay, step):
    if storage.rounding == "nearest":
        return storage.encode(x, jnp.full(x.shape, HALF))
    # Two averages in one hand-made chain have the same storage and piece, but not the same decay.
    decay_bits = jax.lax.bitcast_convert_type(jnp.asarray(decay, jnp.float32), jnp.uint32)
    return storage.encode(x, random_bits(fold(fold(key, decay_bits), step), x.shape))


def resolve(storage: Chosen) -> Storage | None:
    """The storage of that name; a storage, or None, is itself."""
    if isinstance(storage, str) and storage in NAMED:
        return NAMED[storage]
    if storage is None or isinstance(storage, Storage):
        return storage
    names = ", ".join(map(repr, NAMED))
    raise (ValueError if isinstance(storage, str | tuple) else TypeError)(
        f"storage must be None (float32), {names} or a Storage such as ewa_optax.storage.EightBit(block=128), "
        f"got {storage!r}; optimizers with two moments also take a pair of them."
    )


def for_gradients(storage: Chosen) -> Storage | None:
    """The storage for an average of gradients."""
    resolved = resolve(storage)
    return resolved and resolved.for_gradients()


def for_squares(storage: Chosen) -> Storage | None:
    """The storage for an average of squares."""
    resolved = resolve(storage)
    return resolved and resolved.for_squares()


def first_moment(storage: Pair) -> Storage | None:
    """What a storage, or a pair of them, says of the average of gradients."""
    return for_gradients(_pair(storage)[0])


def second_moment(storage: Pair) -> Storage | None:
    """What a storage, or a pair of them, says of the average of squares."""
    return for_squares(_pair(storage)[1])


def _pair(storage):
    if isinstance(storage, tuple | list) and len(storage) == 2:
        return storage
    return storage, storage


def _parts(x):
    return [narrow(part, jnp.float32) for part in ((x.real, x.imag) if jnp.iscomplexobj(x) else (x,))]
