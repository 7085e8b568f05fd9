r"""Which axes of a parameter are the rows and the columns of a matrix: its inputs and its outputs. The rest is a batch.

One description serves all that looks at matrices, by path: a layer's kernel is one whatever optimizer has it.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax.sharding import PartitionSpec

from ewa_optax._numerics import widen
from ewa_optax._stacks import Stacked, is_stacked
from ewa_optax._trees import Where, check_where, map_leaves, path_name, shape_of, shapes_of, takes
from ewa_optax.storage._sharding import is_box

Sides = tuple[int | tuple[int, ...], int | tuple[int, ...]]
AxesLike = Sides | Mapping[Where, Sides] | Callable[[str, jax.ShapeDtypeStruct], Sides | None] | None
"""What `axes=` of the pieces for matrices means.

None for the rules below; `(inputs, outputs)`, each an axis or several, for all leaves; a dict from where to that pair,
the first that fits, where a regular expression is searched in the path (`re.search`) or a function
`(path, leaf) -> bool` is called, and `...` is the rest; or a function `(path, leaf)` that gives the pair. What neither
names, or is given as None, follows the rules:

- `kernel` and `w` of two axes are (inputs, outputs), as in flax and haiku, and so is what has another name, since
  `jax.nn.initializers` say so; `weight`, and what begins with `weight_`, is (outputs, inputs), as in equinox and torch.
- With more axes: of a layer with "conv" in its name, `kernel` and `w` have their outputs last (haiku's transposed ones
  last but one), `weight` first; flax's `query`, `key` and `value` have one axis of inputs and two of outputs, its `out`
  two and one: all heads in one matrix.
- Errors are: tables of embeddings (`embedding`, `embeddings`), which no inputs are multiplied by; biases, scales, gains
  and offsets, of however many axes; what has fewer than two axes, or more and is none of these, such as layers in a
  scan. A scan is seen by "scan" in the path: in one of another name, convolutions, and dense layers that are called
  query, key, value or out, look like one layer, and their axes must be said. So must those of convolutions in groups.
"""

NO_MATRIX = re.compile(r"^(bias_.*|.*_bias_.*|.*(bias|scale|gain|offset))$", re.IGNORECASE)
"""The last part of a path, of what is added or multiplied element by element; in a scan it has two axes."""

_SCANNED = re.compile("scan", re.IGNORECASE)
_CONVOLUTION = re.compile("conv(?!.*local)", re.IGNORECASE)  # flax's ConvLocal has a kernel for each place.


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Matrix:
    """The axes of a leaf that are the inputs and the outputs of a matrix, none negative; the others are a batch."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    is_flat: bool = False
    """Whether it is, as it lies, a batch of matrices: inputs before the last axis, outputs the last."""

    @property
    def both(self) -> tuple[int, ...]:
        """All axes that are no batch."""
        return self.inputs + self.outputs

    def in_stack(self) -> "Matrix":
        """The same of a stack of such leaves."""
        inputs, outputs = (tuple(axis + 1 for axis in axes) for axes in (self.inputs, self.outputs))
        return Matrix(inputs, outputs, self.is_flat)

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """How many inputs and outputs it has."""
        return math.prod(shape[axis] for axis in self.inputs), math.prod(shape[axis] for axis in self.outputs)

    def flat(self, x: jax.Array) -> jax.Array:
        """An array as (*batch, inputs, outputs)."""
        if self.is_flat:
            return x
        # On an explicit mesh, JAX merges axes if none of them but the first is divided.
        merged = self.inputs[1:] + self.outputs[1:]
        x = placed(x, [None if axis in merged else name for axis, name in enumerate(jax.typeof(x).sharding.spec)])
        batch = [axis for axis in range(x.ndim) if axis not in self.both]
        return x.transpose(*batch, *self.both).reshape(*(x.shape[axis] for axis in batch), *self.sizes(x.shape))

    def shaped(self, flat: jax.Array, like: jax.Array) -> jax.Array:
        """The inverse of `flat`, of the shape of an array and where it lies."""
        if self.is_flat:
            return flat
        batch = [axis for axis in range(like.ndim) if axis not in self.both]
        order = (*batch, *self.both)
        places = sorted(range(len(order)), key=order.__getitem__)
        shaped = flat.reshape([like.shape[axis] for axis in order]).transpose(places)
        return placed(shaped, jax.typeof(like).sharding.spec)


def placed(x: jax.Array, spec: Any) -> jax.Array:
    """An array, divided along the axes of an explicit mesh in that way; without such a mesh there is only one."""
    return x if jax.typeof(x).sharding.spec == PartitionSpec(*spec) else jax.sharding.reshard(x, PartitionSpec(*spec))


def map_matrices(of: Callable[[Matrix], Callable[..., Any]], who: str, axes: AxesLike, updates: Any, *rest: Any) -> Any:
    """`of(matrix)(update, *others)` of each leaf, or of a whole stack of leaves, whose first axis is a batch."""
    matrices = check_matrices(who, axes, updates)

    def one(u, matrix, *others):
        if u is None:
            return None
        if not is_stacked(u):
            return of(matrix)(u, *others)
        if any(other.layout != u.layout for other in others):
            return map_leaves(lambda x, *xs: None, u, *others)  # Which is the error.
        each = zip(u.stacks, matrix, *(other.stacks for other in others), strict=True)
        return Stacked(tuple(of(m)(x, *xs) if jax.tree.leaves(x) else x for x, m, *xs in each), u.layout)

    return jax.tree.map(one, updates, matrices, *rest, is_leaf=_is_leaf)


def matrices_of(who: str, axes: AxesLike, tree: Any) -> Any:
    """A `Matrix` for each leaf of a tree, in the form that it has without stacks; ValueError for what is no matrix."""

    def matrix(path, box):
        return jax.tree.map(lambda leaf: _matrix(who, axes, path_name(path), shape_of(leaf)), box)

    return jax.tree_util.tree_map_with_path(matrix, shapes_of(tree), is_leaf=is_box)


def check_matrices(who: str, axes: AxesLike, tree: Any) -> Any:
    """A `Matrix` for each leaf, or array of a stack; ValueError for what is none, and for stacks of different ones."""
    return jax.tree.map(_of_leaves, tree, matrices_of(who, axes, tree), is_leaf=_is_leaf)


def check_axes(who: str, axes: AxesLike) -> None:
    """Raises ValueError or TypeError for what describes no axes."""
    if isinstance(axes, Mapping):
        for where, sides in axes.items():
            check_where(f"{who}: where axes are", where)
            _sides(who, sides)
    elif axes is not None and not callable(axes):
        _sides(who, axes)


def _is_leaf(x):
    return x is None or is_stacked(x)


def _of_leaves(u, matrices):
    """For a stack, one for each of its arrays."""
    if not is_stacked(u):
        return matrices
    each = []
    for of_stack, names in zip(
        u.layout.by_stacks(u.layout.structure.flatten_up_to(matrices)), u.layout.names, strict=True
    ):
        found = {x: name for x, name in zip(of_stack, names, strict=True) if isinstance(x, Matrix)}
        if len(found) > 1:
            listed = ", ".join(f"({x.inputs}, {x.outputs}) of {name}" for x, name in [*found.items()][:3])
            raise ValueError(
                f"leaves of one stack are matrices along different axes: {listed}; stack them apart, by "
                "stack_leaves(params, labels)."
            )
        each.append(next((x.in_stack() for x in found), None))
    return tuple(each)


def _matrix(who, axes, path, leaf):
    sides = _said(axes, path, leaf)
    inputs, outputs = _by_name(who, path, leaf.shape) if sides is None else _sides(who, sides)
    try:
        inputs, outputs = (tuple(range(leaf.ndim)[axis] for axis in side) for side in (inputs, outputs))
    except IndexError:
        raise ValueError(
            f"{who}: axes ({inputs}, {outputs}) are not all of {path!r} of shape {leaf.shape}; count them from 0, or "
            "from -1 backwards."
        ) from None
    both = inputs + outputs
    if len({*both}) < len(both):
        raise ValueError(
            f"{who}: {path!r} has an axis twice in ({inputs}, {outputs}); each is input or output, or batch."
        )
    return Matrix(inputs, outputs, len(both) == 2 and both == (leaf.ndim - 2, leaf.ndim - 1))


def _said(axes, path, leaf):
    """What the user said of a leaf, or None."""
    if isinstance(axes, Mapping):
        return next((sides for where, sides in axes.items() if takes(where, path, leaf)), None)
    return axes(path, leaf) if callable(axes) else axes


def _sides(who, sides):
    """Each side as a tuple of axes."""
    if isinstance(sides, tuple | list) and len(sides) == 2:
        each = [(side,) if isinstance(side, int) else side for side in sides]
        if all(isinstance(side, tuple | list) and all(isinstance(axis, int) for axis in side) for side in each):
            return [tuple(side) for side in each]
    raise TypeError(
        f"{who}: axes must be a pair (inputs, outputs), each an axis or several, a dict from paths to these or a "
        f"function, got {sides!r}; such as (-2, -1), or {{'conv': ((0, 1, 2), 3)}}."
    )


def _by_name(who, path, shape):
    """By the rules that `AxesLike` tells."""
    *layers, name = path.split("/")
    layer = next((part for part in reversed(layers) if not part.isdigit()), "")
    ndim, outputs_first = len(shape), name == "weight" or name.startswith("weight_")
    if ndim < 2 or NO_MATRIX.search(name):
        raise ValueError(
            f"{who}: {path!r} of shape {shape} is no matrix; give it another optimizer, such as by ewa_optax.groups("
            "{'matrices': ('kernel$', muon(...)), 'rest': (..., adamw(...))}), or muon_with_adamw(...)."
        )
    if name in ("embedding", "embeddings"):
        raise ValueError(
            f"{who}: {path!r} of shape {shape} is a table of rows, each of which stands for itself; give it another "
            "optimizer, such as by ewa_optax.groups({'tables': ('embedding', adamw(...)), 'rest': (..., muon(...))}), "
            f"or say that it is a matrix by axes={{{name!r}: (0, 1)}}."
        )
    if ndim == 2:
        return ((1,), (0,)) if outputs_first else ((0,), (1,))
    if not _SCANNED.search(path):
        *front, before, last = range(ndim)
        if _CONVOLUTION.search(layer) and name in ("kernel", "w", "weight"):
            if outputs_first:
                return range(1, ndim), (0,)
            return ((*front, last), (before,)) if name == "w" and "transpose" in layer else ((*front, before), (last,))
        if name == "kernel" and ndim == 3 and layer in ("query", "key", "value"):
            return (0,), (1, 2)
        if name == "kernel" and ndim == 3 and layer == "out":
            return (0, 1), (2,)
    raise ValueError(
        f"{who}: {path!r} of shape {shape} has {ndim} axes, and its name does not tell which are those of a matrix; "
        f"write axes={{{path!r}: (inputs, outputs)}}, such as ({ndim - 2}, {ndim - 1}) for a batch of matrices, or "
        f"({tuple(range(ndim - 1))}, {ndim - 1}) for one."
    )


def wide_flat(matrix: Matrix, x: jax.Array) -> jax.Array:
    """An array in float32 or wider as a batch of matrices."""
    return matrix.flat(widen(x))


def stateless(who: str, axes: AxesLike, of: Callable[[Matrix], Callable[..., Any]]) -> optax.GradientTransformation:
    """`of(matrix)(update)` of each leaf; `init` finds out whether all are matrices."""
    check_axes(who, axes)

    def init(params):
        check_matrices(who, axes, params)
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params
        return map_matrices(of, who, axes, updates), state

    return optax.GradientTransformation(init, update)


def with_parameters(
    who: str, axes: AxesLike, of: Callable[[Matrix], Callable[..., Any]]
) -> optax.GradientTransformation:
    """`of(matrix)(update, parameter)` of each leaf; its `update` needs the parameters."""
    inner = stateless(who, axes, of)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(f"{who} needs the parameters; call update(gradients, state, params).")
        return map_matrices(of, who, axes, updates, params), state

    return optax.GradientTransformation(inner.init, update)
