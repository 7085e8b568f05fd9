"""How what is kept lies on devices: which of its axes are which of the parameters'.

On an explicit mesh JAX keeps, with the type of each array, along which axes of the mesh its own axes lie. So `init` of
any optimizer, of parameters of such types, tells how its state lies with no array made.
"""

import contextvars
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

_WITHIN = contextvars.ContextVar("within", default=False)


def placed_shapes(init: Callable[[Any], Any], params: Any, specs: Any, sizes: dict[str, int]) -> Any:
    """The shapes and dtypes of what `init` makes, and as their `sharding` how they lie on a mesh with axes so long.

    `specs` is a tree like the parameters, with a PartitionSpec for each.
    """
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Explicit,) * len(sizes))

    def place(p, spec):
        return jax.ShapeDtypeStruct(jax.numpy.shape(p), jax.numpy.result_type(p), sharding=NamedSharding(mesh, spec))

    # A mesh may follow on none, but not on one of another size, which may be in use outside.
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())), jax.sharding.use_abstract_mesh(mesh):
        return jax.eval_shape(init, jax.tree.map(place, params, specs))


def parts_along(names: Any, sizes: Mapping[str, int], ndim: int) -> tuple[int, ...]:
    """In how many parts an array lies along each axis, by the names of axes of a mesh; of others, in one."""
    several = [name if isinstance(name, tuple) else (name,) for name in names]
    parts = [math.prod(sizes.get(name, 1) for name in each) for each in several]
    return (*parts, *(1,) * (ndim - len(parts)))


def spec_of(shape: Any) -> PartitionSpec:
    """Of one of `placed_shapes`: how it lies; a scalar that no parameter decides lies everywhere."""
    return shape.sharding.spec if shape.sharding is not None else PartitionSpec()


def boxes_that_fit(init: Callable[..., Any]) -> Callable[..., Any]:
    """An `init` in whose state boxes of flax name the axes of what is in them, if the parameters are in boxes.

    A box is a `Variable` of nnx, or a `Partitioned` of linen. What is kept of a parameter may have fewer axes.
    """

    def in_boxes(params: Any) -> Any:
        if _WITHIN.get() or not _has_boxes(params):
            return init(params)
        # What is made of this `init` sees to all boxes, those of what it is made of among them.
        token = _WITHIN.set(True)
        try:
            state = init(params)
        finally:
            _WITHIN.reset(token)
        pure = unboxed(params)
        longest = max((x.ndim for x in jax.tree.leaves(pure)), default=0)
        names = [str(axis) for axis in range(longest)]
        specs = jax.tree.map(lambda p: PartitionSpec(*names[: p.ndim]), pure)
        shapes = placed_shapes(init, pure, specs, dict.fromkeys(names, 1))
        axes = iter([[None if x is None else int(x) for x in spec_of(s)] for s in jax.tree.leaves(shapes)])
        nodes, structure = jax.tree.flatten(state, is_leaf=is_box)
        return structure.unflatten([_fitted(node, [next(axes) for _ in jax.tree.leaves(node)]) for node in nodes])

    return in_boxes


def unboxed(tree: Any) -> Any:
    """The tree with what is in boxes in their place."""
    return jax.tree.map(lambda x: _content(x) if is_box(x) else x, tree, is_leaf=is_box)


def through_boxes(update: Callable[..., Any]) -> Callable[..., Any]:
    """An `update` that sees no boxes, of a state of `boxes_that_fit`; what leaves is in those that came."""

    def of_contents(updates, state, params=None, **extra_args):
        if not (_has_boxes(updates) or _has_boxes(state) or _has_boxes(params)):
            return update(updates, state, params, **extra_args)
        kinds = jax.tree.structure(updates), jax.tree.structure(state)
        made = update(unboxed(updates), unboxed(state), unboxed(params), **extra_args)
        return tuple(kind.unflatten(jax.tree.leaves(x)) for kind, x in zip(kinds, made, strict=True))

    return of_contents


def _has_boxes(tree):
    return any(map(is_box, jax.tree.leaves(tree, is_leaf=is_box)))


def is_box(x: Any) -> bool:
    """Whether it is one of flax's that holds a parameter, or what is kept of it."""
    boxes = callable(getattr(x, "replace", None)) and (hasattr(x, "get_metadata") or hasattr(x, "replace_boxed"))
    return boxes and len(jax.tree.leaves(x)) <= 1


def parts_of_boxes(params: Any) -> list[tuple[int, ...]]:
    """Of each leaf, in how many parts it lies along each axis, as far as boxes say it of a mesh that is in use.

    In `jax.jit`, and for shapes, nothing else tells.
    """
    parts = []
    for node in jax.tree.leaves(params, is_leaf=is_box):
        names, sizes = (_names(node) or (), _sizes_of_mesh(node)) if is_box(node) else ((), {})
        parts += [parts_along(names, sizes, jax.numpy.ndim(x)) for x in jax.tree.leaves(node)]
    return parts


def _sizes_of_mesh(box):
    given = box.get_metadata().get("mesh") if hasattr(box, "get_metadata") else getattr(box, "mesh", None)
    return (given or jax.sharding.get_abstract_mesh()).shape


def _names(box):
    """Of the axes; None where a box names none."""
    if not hasattr(box, "get_metadata"):
        return getattr(box, "names", None)
    metadata = box.get_metadata()
    return next((metadata[key] for key in _NAMES if isinstance(metadata.get(key), _LISTS)), None)


def _content(box):
    (content,) = jax.tree.leaves(box) or [None]
    return content


def _fitted(box, axes):
    """With the names of those axes of the parameter that the axes of the content are; an empty box is none."""
    if not is_box(box) or not axes:
        return box if axes else None

    def of_content(names):
        return tuple(names[axis] if axis is not None and axis < len(names) else None for axis in axes[0])

    if not hasattr(box, "get_metadata"):
        return box if _names(box) is None else box.replace(names=of_content(box.names))
    metadata = box.get_metadata()
    names = {key: of_content(metadata[key]) for key in _NAMES if isinstance(metadata.get(key), _LISTS)}
    return box.replace(**names) if names else box


_NAMES = ("out_sharding", "optimizer_sharding", "sharding_names", "sharding")
_LISTS = tuple | list | PartitionSpec
