"""Matrices as whole ones on each device: then no product needs what lies elsewhere."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec


def on_whole_matrices(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """`function` of a batch of matrices; on the mesh in use, a share of the matrices for each device.

    The longest axis of the batch is divided, filled up with zeros to a multiple of the devices; a single matrix goes to
    all of them. What leaves lies as what came. In `jax.shard_map` nothing is moved, since a device knows its part only.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    # Axes of both kinds are rare: then those of which JAX knows how arrays lie along them.
    kind = AxisType.Explicit if AxisType.Explicit in kinds.values() else AxisType.Auto
    names = tuple(name for name, its in kinds.items() if its == kind)
    devices = math.prod(mesh.shape[name] for name in names)
    if devices == 1 or AxisType.Manual in kinds.values():
        return function(x)
    is_explicit = kind == AxisType.Explicit
    place = jax.sharding.reshard if is_explicit else jax.lax.with_sharding_constraint
    came = jax.typeof(x).sharding.spec
    batch, whole = x.shape[:-2], PartitionSpec(*[None] * x.ndim)
    if batch:
        axis = max(range(len(batch)), key=batch.__getitem__)
        divided = PartitionSpec(*[names if i == axis else None for i in range(x.ndim)])
        fill = -x.shape[axis] % devices
        if fill:
            x = jnp.pad(place(x, whole) if is_explicit else x, [(0, fill * (i == axis)) for i in range(x.ndim)])
        made = function(place(x, divided))
        if fill:
            made = place(made, whole) if is_explicit else made
            made = jax.lax.slice_in_dim(made, 0, made.shape[axis] - fill, axis=axis)
    else:
        made = function(place(x, whole))
    return place(made, came) if is_explicit else made
