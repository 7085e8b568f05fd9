"""How the state of an optimizer lies on devices, before any of it is made."""

from typing import Any

import jax
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding

from ewa_optax._stacks import broadcast
from ewa_optax._states.state_bytes import state_of
from ewa_optax.storage._kept import parts_of
from ewa_optax.storage._sharding import placed_shapes, spec_of, unboxed


def state_shardings(optimizer: optax.GradientTransformation, params: optax.Params, shardings: Any = None) -> Any:
    """How the state of `optimizer` lies on devices, if the parameters lie as `shardings` say.

    What is kept of a parameter lies as it does, in memory of its kind too: averages and codes have its axes; the scales
    of blocks, means of rows or columns, and what else there is, those of its axes that they have. Counts and the like,
    and arrays that are made of a shape alone, lie everywhere. It is for
    `jax.jit(optimizer.init, out_shardings=...)`, for a restore, and for `jax.device_put`.

    Args:
        optimizer: any `optax.GradientTransformation`, wrapped or not.
        params: a pytree of arrays, in stacks or not, or of `jax.ShapeDtypeStruct`s for those that don't exist yet.
        shardings: a tree like `params`, or a prefix of it, of `jax.sharding.NamedSharding` on one mesh; or of
            `PartitionSpec`, on the mesh of `jax.set_mesh`. None: as the parameters lie.

    Returns:
        A tree like the state, of shardings.

    Raises:
        ValueError: shardings on several meshes, or on none; or a shard would cut a block of 8 bits, since within
            `jax.jit` on such a mesh `init` can't see it: the message tells the block to write.
        TypeError: `optimizer` is no transformation, or a sharding is none.

    Examples:
        >>> import jax, jax.numpy as jnp, ewa_optax
        >>> from jax.sharding import NamedSharding, PartitionSpec
        >>> mesh = jax.make_mesh((1,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> params = {"w": jax.ShapeDtypeStruct((512, 1024), jnp.float32)}
        >>> optimizer = ewa_optax.adam(1e-3, storage="8bit")
        >>> shardings = ewa_optax.state_shardings(optimizer, params, NamedSharding(mesh, PartitionSpec("fsdp")))
        >>> codes, scales = shardings[1].second_moment.average.arrays
        >>> print(tuple(codes["w"].spec), tuple(scales["w"].spec))
        ('fsdp', None) ('fsdp', None)

    Reference:
        "Explicit sharding", docs.jax.dev: types that tell how arrays lie, from which this is read.
    """
    pure = unboxed(params)
    state = state_of(optimizer, params, "state_shardings")
    leaves, structure = jax.tree.flatten(pure)
    given = _each(shardings, pure)
    meshes = {x.mesh for x in given if isinstance(x, NamedSharding)}
    if not meshes and len({*given}) == 1 and given[0] is not None:
        return jax.tree.map(lambda _: given[0], state)
    (mesh, *others), apart = [*meshes, None], sum(not isinstance(x, NamedSharding) for x in given)
    if mesh is None or others != [None] or apart:
        raise ValueError(
            f"state_shardings: all parameters must lie on one mesh, got {len(meshes)} meshes and {apart} of "
            f"{len(given)} parameters on none; give each a NamedSharding(mesh, PartitionSpec(...))."
        )
    for (path, p), sharding in zip(jax.tree_util.tree_flatten_with_path(pure)[0], given, strict=True):
        _check_fits(jax.tree_util.keystr(path), jax.numpy.shape(p), sharding)
    specs = structure.unflatten([getattr(x, "spec", None) for x in given])
    placed = jax.tree.leaves(placed_shapes(optimizer.init, structure.unflatten(leaves), specs, dict(mesh.shape)))
    cut = [i for i, x in enumerate(jax.tree.leaves(state)) if x.shape != placed[i].shape]
    if cut and AxisType.Explicit not in mesh.axis_types:
        # Where a shard would cut a block, what `init` sees of the mesh has shapes of its own.
        (path, now) = jax.tree_util.tree_flatten_with_path(jax.eval_shape(optimizer.init, pure))[0][cut[0]]
        raise _cut_block(path, now, placed[cut[0]], pure, structure.unflatten(given))
    kinds = {getattr(x, "memory_kind", None) for x in given}
    kind = kinds.pop() if len(kinds) == 1 else None
    each = [NamedSharding(mesh, spec_of(x), memory_kind=kind if x.ndim else None) for x in placed]
    return jax.tree.unflatten(jax.tree.structure(state), each)


def _each(shardings, params):
    """The sharding of each parameter."""
    if shardings is None:
        return [getattr(p, "sharding", None) for p in jax.tree.leaves(params)]
    try:
        each = broadcast(unboxed(shardings), jax.tree.structure(params), is_leaf=_is_one)
    except ValueError as error:
        raise ValueError(f"state_shardings: shardings must be a tree like params, or a prefix: {error}") from error
    return [_named(x) for x in each]


def _is_one(x):
    return x is None or isinstance(x, Sharding | PartitionSpec)


def _named(x):
    if isinstance(x, PartitionSpec) and not (mesh := jax.sharding.get_mesh()).empty:
        return NamedSharding(mesh, x)
    if isinstance(x, Sharding):
        return x
    raise (ValueError if isinstance(x, PartitionSpec) else TypeError)(
        "state_shardings: a sharding must be a NamedSharding, or a PartitionSpec within jax.set_mesh(mesh), got "
        f"{x!r}; write NamedSharding(mesh, PartitionSpec('fsdp'))."
    )


def _check_fits(name, shape, sharding):
    """Raises ValueError where a sharding divides a parameter into parts of different lengths, or has axes too many."""
    parts = parts_of(sharding, shape)
    if len(parts) > len(shape) or any(n % k for n, k in zip(shape, parts, strict=False)):
        raise ValueError(
            f"state_shardings: params{name} of shape {shape} must have axes that {sharding.spec} divides evenly, got "
            f"{parts} parts; give it a PartitionSpec of its own, PartitionSpec() where it lies everywhere."
        )


def _cut_block(path, now, fitting, params, shardings):
    """The error that a shard would cut a block of what is kept there."""
    # The parameter with the longest path at the end of that of what is kept of it.
    with_paths, structure = jax.tree_util.tree_flatten_with_path(params)
    ends = [(len(name), i) for i, (name, _) in enumerate(with_paths) if path[len(path) - len(name) :] == name]
    if not ends:
        return ValueError(
            f"state_shardings: shards would cut the blocks of {jax.tree_util.keystr(path)}; write a shorter "
            "storage.EightBit(block=...), or shard its parameter along another axis."
        )
    (name, p), sharding = with_paths[number := max(ends)[1]], structure.flatten_up_to(shardings)[number]
    axis = next(i for i in reversed(range(len(p.shape))) if p.shape[i] > 1 or i == 0)
    length, shards = p.shape[axis], parts_of(sharding, p.shape)[axis]
    return ValueError(
        f"state_shardings: the average of params{jax.tree_util.keystr(name)} is kept in blocks of "
        f"{-(-length // now.shape[-1])} along axis {axis}, which shards of {length // shards} ({length} on {shards} "
        f"devices) would cut; write storage.EightBit(block={length // fitting.shape[-1]}), or shard it along another "
        "axis."
    )
