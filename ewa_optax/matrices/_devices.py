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
    batch = x.shape[:-2]
    spec = [None] * x.ndim
    if not batch:
        made = function(place(x, PartitionSpec(*spec)))
        return place(made, came) if is_explicit else made
    axis = max(range(len(batch)), key=batch.__getitem__)
    spec[axis] = names
    n = x.shape[axis]
    fill = -n % devices
    if fill:
        if is_explicit:
            x = place(x, PartitionSpec(*[None] * x.ndim))
        x = jnp.pad(x, [(0, fill if i == axis else 0) for i in range(x.ndim)])
    made = function(place(x, PartitionSpec(*spec)))
    if fill:
        if is_explicit:
            made = place(made, PartitionSpec(*[None] * x.ndim))
        made = jax.lax.slice_in_dim(made, 0, n, axis=axis)
    return place(made, came) if is_explicit else made
