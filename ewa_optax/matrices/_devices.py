"""Matrices as whole ones on each device: then no product needs what lies elsewhere."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec


def on_whole_matrices(
    function: Callable[..., jax.Array], x: jax.Array, *others: jax.Array | None, is_side: bool = False
) -> jax.Array:
    """`function` of batches of matrices; on the mesh in use, a share of the matrices for each device.

    The longest axis of the batch is divided, filled up with zeros to a multiple of the devices; a single matrix goes to
    all of them. What leaves lies as `x` came, but on automatic axes as XLA chooses. If it is of one side, so do the
    axes of the batch, and no other. In `jax.shard_map` nothing is moved, since a device knows its part only.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    # Axes of both kinds are rare: then those of which JAX knows how arrays lie along them.
    kind = AxisType.Explicit if AxisType.Explicit in kinds.values() else AxisType.Auto
    names = tuple(name for name, its in kinds.items() if its == kind)
    devices = math.prod(mesh.shape[name] for name in names)
    is_explicit = kind == AxisType.Explicit
    # On an explicit mesh, even products along an axis of one device must say how they lie.
    if (devices == 1 and not is_explicit) or AxisType.Manual in kinds.values():
        return function(x, *others)
    place = jax.sharding.reshard if is_explicit else jax.lax.with_sharding_constraint
    came = jax.typeof(x).sharding.spec
    if is_side:
        came = PartitionSpec(*came[:-2], None, None)
    batch, whole = x.shape[:-2], PartitionSpec(*[None] * x.ndim)
    axis = max(range(len(batch)), key=batch.__getitem__, default=None)
    spec = PartitionSpec(*[names if i == axis else None for i in range(x.ndim)])
    fill = 0 if axis is None else -x.shape[axis] % devices

    def divided(y):
        if fill:
            y = jnp.pad(place(y, whole) if is_explicit else y, [(0, fill * (i == axis)) for i in range(y.ndim)])
        return place(y, spec)

    # Also behind it, since XLA would divide products on automatic axes in the way in which what needs them lies.
    made = place(function(*(y if y is None else divided(y) for y in (x, *others))), spec)
    if axis is not None and fill:
        made = place(made, whole) if is_explicit else made
        made = jax.lax.slice_in_dim(made, 0, made.shape[axis] - fill, axis=axis)
    return place(made, came) if is_explicit else made
