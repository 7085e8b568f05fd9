"""How the state of an optimizer lies on devices, before any of it is made."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding

from ewa_optax._stacks import broadcast
from ewa_optax._states.state_bytes import state_of
from ewa_optax.storage._blocks import EightBit
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
        _check_fits(jax.tree_util.keystr(path), jnp.shape(p), sharding)
    specs = structure.unflatten([getattr(x, "spec", None) for x in given])
    placed = jax.tree.leaves(placed_shapes(optimizer.init, structure.unflatten(leaves), specs, dict(mesh.shape)))
    cut = any(x.shape != y.shape for x, y in zip(jax.tree.leaves(state), placed, strict=True))
    if cut and AxisType.Explicit not in mesh.axis_types:
        # Where a shard would cut a block, what `init` sees of the mesh has shapes of its own.
        raise _cut_blocks(jax.eval_shape(optimizer.init, pure), placed, pure, given)
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


class _Cut(NamedTuple):
    """Of an axis that is divided: which, its length, in how many parts, in what blocks it is, and could be."""

    axis: int
    length: int
    parts: int
    block: int
    fitting: int


def _cut_blocks(state, placed, params, shardings):
    """The error that shards would cut blocks of what is kept."""
    with_paths, kept, cut = jax.tree_util.tree_flatten_with_path(params)[0], {}, {}
    for (path, now), fitting in zip(jax.tree_util.tree_flatten_with_path(state)[0], placed, strict=True):
        # The parameter with the longest path at the end of that of what is kept of it.
        ends = [(len(name), i) for i, (name, _) in enumerate(with_paths) if path[len(path) - len(name) :] == name]
        is_cut = now.shape != fitting.shape
        if is_cut and not ends:
            return ValueError(
                f"state_shardings: shards would cut the blocks of {jax.tree_util.keystr(path)}; write a shorter "
                "storage.EightBit(block=...), or shard its parameter along another axis."
            )
        if not (is_cut or (ends and now.dtype in (jnp.int8, jnp.uint8))):
            continue
        name, p = with_paths[number := max(ends)[1]]
        kept[number] = p.shape, (parts := parts_of(shardings[number], p.shape))
        if is_cut:
            axis = next(i for i in reversed(range(len(p.shape))) if p.shape[i] > 1 or i == 0)
            blocks = (-(-p.shape[axis] // x.shape[-1]) for x in (now, fitting))
            cut.setdefault(_Cut(axis, p.shape[axis], parts[axis], *blocks), {})[jax.tree_util.keystr(name)] = None
    told = ", and that ".join(
        f"of params{' and params'.join(names)} is kept in blocks of {x.block} along axis {x.axis}, which shards of "
        f"{x.length // x.parts} ({x.length} on {x.parts} devices) would cut"
        for x, names in cut.items()
    )
    some = {n for n in range(16, 1 + max(max(x[-2:]) for x in cut)) if any(x.length // x.parts % n == 0 for x in cut)}
    of_all = [n for n in some if all(_is_uncut(n, *x) for x in kept.values())]
    each = ", ".join(f"block={x.fitting} for params{next(iter(names))}" for x, names in cut.items())
    remedy = f"no block of 16 or more fits all, so give them storages of their own by ewa_optax.groups ({each})"
    if of_all:
        remedy = f"write storage.EightBit(block={max(of_all)})"
    it = "it" if sum(map(len, cut.values())) == 1 else "them"
    return ValueError(f"state_shardings: the average {told}; {remedy}, or shard {it} along another axis.")


def _is_uncut(block, shape, parts):
    try:
        return EightBit(block=block).for_shards(shape, parts).block == block
    except ValueError:
        return False
