r"""Maps over trees of parameters, whose leaves are arrays, or stand in stacks of arrays of one shape.

What a piece does to an array it does to each array of a stack, by `jax.vmap`: so that norms, blocks, random bits and
masks are those of the leaves, while a program has one loop for all of them.
"""

import re
from collections.abc import Callable
from types import EllipsisType
from typing import Any

import jax
import numpy as np

from ewa_optax._checks import check_pattern
from ewa_optax._numerics import narrow, widen
from ewa_optax._stacks import Stacked, StackKey, is_stacked


@jax.tree_util.register_pytree_node_class
class Leafwise:
    """A function of one leaf, with its first arguments: traced once for each shape and dtype, not once for each leaf.

    A program then has one function where it would have as many copies of it as leaves; outside of `jax.jit` each leaf
    is one program, compiled once. Arrays among what is given, traced or not, are arguments of that program. All else
    is a part of it: numbers of Python keep their digits, and two of these with equal numbers share what was traced.
    """

    def __init__(self, function: Callable[..., Any], *given: Any) -> None:
        leaves, structure = jax.tree.flatten(given)
        self._arrays = tuple(filter(_is_array, leaves))
        self._program = (function, structure, tuple(None if _is_array(x) else _number(x) for x in leaves))

    def __call__(self, *leaves: Any) -> Any:
        """Of the given and then of the leaves."""
        return _called(self, *leaves)

    def traced(self, *leaves: Any) -> Any:
        """The same, as a part of what is being traced."""
        function, structure, others = self._program
        arrays = iter(self._arrays)
        return function(*structure.unflatten(next(arrays) if x is None else x for x in others), *leaves)

    def tree_flatten(self):
        """For JAX."""
        return self._arrays, self._program

    @classmethod
    def tree_unflatten(cls, program, arrays):
        """For JAX."""
        new = object.__new__(cls)
        new._program, new._arrays = program, tuple(arrays)
        return new


def wide(function: Callable[..., jax.Array], *given: Any) -> Leafwise:
    """`function(*given, update, *others)` of leaves in float32 or wider; what leaves has the dtype of the update."""
    return Leafwise(_in_wide, function, given)


def _in_wide(function, given, u, *others):
    return narrow(function(*given, widen(u), *map(widen, others)), jax.numpy.result_type(u))


@jax.jit
def _called(leafwise, *leaves):
    return leafwise.traced(*leaves)


def _is_array(x):
    return isinstance(x, jax.Array) or (isinstance(x, np.ndarray) and x.ndim > 0)


def _number(x):
    """What is static must be hashable: a scalar of NumPy as a number of Python."""
    return x.item() if isinstance(x, np.ndarray | np.generic) else x


def map_leaves(function: Callable[..., Any], updates: Any, *rest: Any) -> Any:
    """`jax.tree.map` in which a leaf of `updates` may be None: it gives None, whatever the other trees hold there.

    Of stacks, `function` sees one array after the other.
    """

    def each(u, *others):
        if is_stacked(u):
            return _map_stacked(function, u, *others)
        return None if u is None else function(u, *others)

    return jax.tree.map(each, updates, *rest, is_leaf=lambda x: x is None or is_stacked(x))


def _map_stacked(function, stacked, *others):
    """`map_leaves` of each tree in the stacks; what has no arrays, such as what optax masks, stays as it is.

    In the others, a bool in place of a stack goes for all of it.
    """

    def each(stack, *rest):
        if not jax.tree.leaves(stack):
            return stack
        axes = (0, *(None if isinstance(x, bool) else 0 for x in rest))
        return jax.vmap(lambda x, *xs: map_leaves(function, x, *xs), axes)(stack, *rest)

    if any(other.layout != stacked.layout for other in others):
        raise ValueError(
            "trees that were stacked apart have different leaves in their stacks; stack them by "
            "stack_leaves_like(params, tree), or take gradients of stacked parameters."
        )
    of_stacks = zip(stacked.stacks, *(other.stacks for other in others), strict=True)
    return Stacked(tuple(each(*xs) for xs in of_stacks), stacked.layout)


def map_chosen(of: Callable[[bool], Callable[[Any, Any], Any]], chosen: Any, updates: Any, params: Any) -> Any:
    """`map_leaves` of the function of what is chosen, by a tree of booleans like the unstacked."""

    def flags(p, of_tree):
        if not is_stacked(p):
            return of_tree
        said = p.layout.by_stacks(p.layout.structure.flatten_up_to(of_tree))
        return Stacked(tuple(x[0] if len({*x}) == 1 else np.array(x) for x in said), p.layout)

    yes, no = of(True), of(False)

    def one(u, p, chosen):
        if isinstance(chosen, bool):
            return (yes if chosen else no)(u, p)
        return jax.numpy.where(chosen, yes(u, p), no(u, p))

    return map_leaves(one, updates, params, jax.tree.map(flags, params, chosen, is_leaf=is_stacked))


def shapes_of(tree: Any) -> Any:
    """The tree itself; where it is stacked, its shapes and dtypes in the form that it had before."""
    return jax.tree.map(lambda x: x.shapes() if is_stacked(x) else x, tree, is_leaf=is_stacked)


def path_name(path: tuple[Any, ...]) -> str:
    """A path of JAX as people write it, such as "layers/0/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


Where = str | re.Pattern[str] | Callable[[str, jax.ShapeDtypeStruct], Any] | EllipsisType
"""Which leaves: a regular expression searched in the path, a function of the path and the shape, or `...`, the rest."""


def check_where(what: str, where: Any) -> None:
    """Raises unless it says which leaves: TypeError, or ValueError for what is no regular expression."""
    if isinstance(where, str):
        check_pattern(what, where)
    elif where is not ... and not (callable(where) or isinstance(where, re.Pattern)):
        raise TypeError(
            f"{what} must be a regular expression, a function (path, leaf) -> bool or ..., got {where!r}; such as "
            "'kernel$'."
        )


def takes(where: Where, path: str, leaf: jax.ShapeDtypeStruct) -> bool:
    """Whether a leaf is one of those."""
    if where is ...:
        return True
    return bool(where(path, leaf)) if callable(where) else re.search(where, path) is not None


def shape_of(x: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a leaf."""
    return jax.ShapeDtypeStruct(jax.numpy.shape(x), jax.numpy.result_type(x))


class PartKey(jax.tree_util.GetAttrKey):
    """One of several trees, each with a part of each leaf; `suffix` is what is added to the names of leaves."""

    def __init__(self, name: str, suffix: str) -> None:
        super().__init__(name)
        self.suffix = suffix


def is_in_stack(path: tuple[Any, ...]) -> bool:
    """Whether a path of JAX leads to a stack of leaves."""
    return any(isinstance(key, StackKey) for key in path)


def names_of(path: tuple[Any, ...]) -> str | tuple[str, ...]:
    """The name of a leaf: its path in the tree, and behind it which part of the leaf it is; of a stack, those in it."""
    part = "".join(key.suffix for key in path if isinstance(key, PartKey))
    path = tuple(key for key in path if not isinstance(key, PartKey))
    for i, key in enumerate(path):
        if isinstance(key, StackKey):
            before, after = jax.tree_util.keystr(path[:i]), jax.tree_util.keystr(path[i + 1 :]) + part
            return tuple(before + name + after for name in key.names)
    return jax.tree_util.keystr(path) + part


def map_by_name(number_of: Callable[[str], int], function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`function(number_of(name), x, *others)` of each leaf, and of each in a stack; None where the tree has none."""

    def one(path, x, *others):
        if x is None:
            return None
        names = names_of(path)
        if isinstance(names, str):
            return function(np.uint32(number_of(names)), x, *others)
        return jax.vmap(function)(np.array([*map(number_of, names)], np.uint32), x, *others)

    return jax.tree_util.tree_map_with_path(one, tree, *rest, is_leaf=lambda x: x is None)
