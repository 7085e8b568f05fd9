"""What a storage keeps of one array, told by shapes and dtypes: all of it, or a part, or nothing."""

import functools
import math
from itertools import combinations

import jax
import jax.core
import jax.numpy as jnp
from jax.sharding import NamedSharding

from ewa_optax._numerics import wide_dtype
from ewa_optax.storage._sharding import parts_along
from ewa_optax.storage._storage import Storage


@functools.lru_cache(maxsize=4096)
def kept_shapes(storage, shape):
    """What a storage makes of an average of that shape, as shapes and dtypes."""
    return jax.eval_shape(storage.init, jax.ShapeDtypeStruct(shape, jnp.float32))


def structure_of(storage):
    """Of what it makes of an average, which is one for all shapes."""
    return jax.tree.structure(kept_shapes(storage, (128, 128)))


def is_as_it_came(arrays):
    first, *others = (x for x in arrays if x is not None)
    return first.dtype == wide_dtype(first.dtype) and all(says_nothing_of(first, x) for x in others)


def says_nothing_of(first, x):
    return x is None or (x.dtype == bool and x.shape == first.shape)


def as_kept(storage, arrays):
    if type(storage).as_kept is Storage.as_kept:  # The shapes tell it nothing.
        return storage
    if (axes := manual_axes()) and not _is_part(storage, arrays, axes):
        return storage
    return storage.as_kept(jax.tree.unflatten(structure_of(storage), arrays))


def _is_part(storage, arrays, axes):
    """Whether in `jax.shard_map` these are parts, along their last axes, of what it keeps of a whole."""
    *rest, n = arrays[0].shape or (1,)
    for parts in {
        math.prod(axes[name] for name in some) for k in range(len(axes)) for some in combinations(axes, k + 1)
    }:
        whole = jax.tree.leaves(kept_shapes(storage, (*rest, n * parts)))
        if [(x.shape, x.dtype) for x in whole] == [((*x.shape[:-1], x.shape[-1] * parts), x.dtype) for x in arrays]:
            return True
    return False


def encoded_shape(storage, shape, arrays):
    """The shape of the average, or of its two parts, that these arrays encode; None where they encode none of it."""
    if not storage.takes(shape) and (is_as_it_came(arrays) or not manual_axes()):
        return None
    found = [(x.shape, x.dtype) for x in arrays if x is not None]
    for with_parts in (shape, (2, *shape)):
        try:
            expected = jax.tree.leaves(kept_shapes(as_kept(storage, arrays), with_parts))
        except Exception:  # Of shapes that it does not take, it may make anything.
            continue
        if [(x.shape, x.dtype) for x in expected] == found:
            return with_parts
    return None


def shards_of(x):
    """In how many parts it lies along each axis, as far as that is known: of an array, or on an explicit mesh."""
    sharding = getattr(jax.typeof(x) if isinstance(x, jax.core.Tracer) else x, "sharding", None)
    return parts_of(sharding, x.shape) if isinstance(sharding, NamedSharding) else (1,) * x.ndim


def parts_of(sharding, shape):
    """In how many parts an array of that shape lies along each axis."""
    return parts_along(sharding.spec, sharding.mesh.shape, len(shape))


def listed(arrays):
    return ", ".join(f"{x.dtype}{list(x.shape)}" for x in arrays if x is not None)


def takes(storage, x, shape):
    """Whether it keeps an average of that shape, of which `x` holds all, or a part in `jax.shard_map`."""
    axes = manual_axes()

    def takes_together(axes_of_x):
        parts = math.prod(axes[name] for name in axes_of_x)
        return storage.takes((parts * shape[0], *shape[1:]) if shape else (parts,))

    if not axes or storage.takes(shape):
        return storage.takes(shape)
    if any(map(_varying, map(jax.lax.axis_index, axes))):  # Else JAX was told not to keep track.
        return takes_together(_varying(x))
    if takes_together(axes):
        raise ValueError(
            f"whether an array of shape {shape} is one of {axes} parts, or all, is not known here, and {storage} keeps "
            "no array as small as a part: write min_size=0 (or another min_size that is that of a part), leave "
            "check_vma=True in jax.shard_map, or call init outside of it."
        )
    return False


def manual_axes():
    """Of the mesh of `jax.shard_map` that we are in, the names and sizes."""
    mesh = jax.sharding.get_abstract_mesh()
    return {name: mesh.shape[name] for name in mesh.manual_axes}


def _varying(x):
    """The axes of `jax.shard_map` along which an array differs, as far as JAX keeps track."""
    return jax.typeof(x).manual_axis_type.varying
