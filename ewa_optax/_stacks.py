"""Parameters in stacks: leaves of one shape and dtype as one array, between the steps of a training.

A step with thousands of leaves costs Python and XLA for each of them: arguments to hand over, loops to compile and to
call. Stacks go across the boundary of `jax.jit` as a few arrays, and the loss sees the tree:

    stacked = stack_leaves(params)
    gradients = jax.grad(lambda stacked: loss(stacked.unstack()))(stacked)
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.core
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the leaves of a tree are: of each stack, their numbers and their names in the tree."""

    structure: Any
    members: tuple[tuple[int, ...], ...]
    names: tuple[tuple[str, ...], ...]

    def __post_init__(self):
        """Hashes once, since a jitted function looks it up at each call."""
        object.__setattr__(self, "_hash", hash((self.structure, self.members, self.names)))

    def by_stacks(self, leaves: Sequence[Any]) -> list[list[Any]]:
        """The leaves of a tree, those of each stack together."""
        return [[leaves[number] for number in members] for members in self.members]

    def __hash__(self) -> int:
        """Of all of it."""
        return self._hash  # pyright: ignore[reportAttributeAccessIssue]

    def __reduce__(self) -> Any:
        """Pickles without the hash, which is another one in another process."""
        return Layout, (self.structure, self.members, self.names)


class StackKey(jax.tree_util.FlattenedIndexKey):
    """The number of a stack in its tree, as a path has it, and the names of what is in it."""

    def __init__(self, index: int, names: tuple[str, ...]) -> None:
        super().__init__(index)
        self.names = names

    def __str__(self) -> str:
        """The number."""
        return f"<stack {self.key}>"


@jax.tree_util.register_pytree_with_keys_class
class Stacked:
    """A tree of arrays in which those of one kind are stacked along a new first axis: a pytree of a few arrays.

    Made by `ewa_optax.stack_leaves`. Parameters, gradients, updates and what optimizers keep may all be so.

    Attributes:
        stacks: one array for each kind, of shape (how many, *their shape).
        layout: where each leaf of the tree is. Static under `jax.jit`.
    """

    def __init__(self, stacks: tuple[Any, ...], layout: Layout) -> None:
        self.stacks, self.layout = stacks, layout

    def unstack(self) -> Any:
        """The tree, whose leaves are views under `jax.jit`: to be called in a loss, and differentiated through."""
        # The transpose of unstacking is one concatenation; that of as many slices is a sum of as many paddings.
        return self._spread(jax.numpy.unstack)

    def shapes(self) -> Any:
        """The tree, with a shape and a dtype for each array."""
        return self._spread(lambda x: [jax.ShapeDtypeStruct(x.shape[1:], x.dtype)] * x.shape[0])

    def _spread(self, rows_of):
        leaves: list[Any] = [None] * self.layout.structure.num_leaves
        for stack, members in zip(self.stacks, self.layout.members, strict=True):
            arrays, kind = jax.tree.flatten(stack)
            rows = [rows_of(x) for x in arrays]
            for number, member in enumerate(members):
                leaves[member] = kind.unflatten([row[number] for row in rows])
        return self.layout.structure.unflatten(leaves)

    def like(self, labels: Any) -> "Stacked":
        """Labels for `optax.partition`, or a mask for `optax.masked`: one for each stack.

        Args:
            labels: a tree of labels like the tree that was stacked, or a prefix of it.

        Raises:
            ValueError: the labels of a stack differ; `stack_leaves(params, labels)` puts them into different ones.
        """
        found = []
        each = broadcast(labels, self.layout.structure)
        for of_leaves, names in zip(self.layout.by_stacks(each), self.layout.names, strict=True):
            of_stack = dict(zip(of_leaves, names, strict=True))
            if len(of_stack) > 1:
                raise ValueError(
                    f"leaves of one stack have different labels ({_listed(of_stack)}); stack those with different "
                    "labels apart, by stack_leaves(params, labels)."
                )
            found.append(next(iter(of_stack)))
        return Stacked(tuple(found), self.layout)

    def tree_flatten_with_keys(self):
        """For JAX."""
        keys = (StackKey(i, names) for i, names in enumerate(self.layout.names))
        return list(zip(keys, self.stacks, strict=True)), self.layout

    def tree_flatten(self):
        """For JAX."""
        return self.stacks, self.layout

    @classmethod
    def tree_unflatten(cls, layout, stacks):
        """For JAX."""
        return cls(tuple(stacks), layout)

    def __repr__(self) -> str:
        """The shapes and dtypes."""
        kinds = ", ".join(f"{jax.numpy.shape(x)}" for x in jax.tree.leaves(self))
        return f"Stacked({self.layout.structure.num_leaves} leaves in arrays of shapes {kinds})"


def is_stacked(x: Any) -> bool:
    """Whether it is a tree in stacks."""
    return isinstance(x, Stacked)


MOST = 64
"""Leaves a stack. XLA takes a time to compile their concatenation that grows with the square of it."""


def stack_leaves(params: Any, labels: Any = None) -> Stacked:
    r"""Stacks the leaves of a tree: those of one shape and dtype, up to 64 at a time, become one array.

    All optimizers of this library, and what else treats each element alike, give stacks the steps that they give the
    leaves. So does what sums over all of a tree, such as `optax.clip_by_global_norm`; but not a piece of another
    library that looks at one array at a time, such as `optax.adaptive_grad_clip`.

    Args:
        params: a pytree of arrays. Arrays in parts on several devices are stacked if they lie alike.
        labels: a tree of hashable labels like `params`, or a prefix of it: leaves with different labels go into
            different stacks. `optax.masked` and `optax.partition`, which say one thing of a whole array, need it; then
            `Stacked.like(labels)` is what they take. The masks of this library do not. Optimizers of matrices, such as
            `muon`, need it where leaves of one shape are matrices along different axes, and raise ValueError without.

    Returns:
        A `Stacked`, a pytree. Its `unstack` gives the tree, to be called in the loss.

    Raises:
        ValueError: `labels` is no prefix of `params`.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, ewa_optax
        >>> params = {f"layer {i}": {"w": jnp.ones((3, 3)), "b": jnp.zeros(3)} for i in range(8)}
        >>> stacked, optimizer = ewa_optax.stack_leaves(params), ewa_optax.adam(0.1, eps=0.0)
        >>> print(stacked)
        Stacked(16 leaves in arrays of shapes (8, 3), (8, 3, 3))
        >>> def loss(params):
        ...     return sum(jnp.sum((layer["w"] @ jnp.ones(3) + layer["b"]) ** 2) for layer in params.values())
        >>> @jax.jit
        ... def step(stacked, state):
        ...     gradients = jax.grad(lambda stacked: loss(stacked.unstack()))(stacked)
        ...     updates, state = optimizer.update(gradients, state, stacked)
        ...     return optax.apply_updates(stacked, updates), state
        >>> stacked, state = step(stacked, optimizer.init(stacked))
        >>> print(stacked.unstack()["layer 7"]["b"].round(3))
        [-0.1 -0.1 -0.1]

    Reference:
        Bradbury et al., "JAX: composable transformations of Python+NumPy programs", 2018: `jax.vmap`, by which a piece
        of an optimizer sees one leaf of a stack.
    """
    with_paths, structure = jax.tree_util.tree_flatten_with_path(params)
    leaves = [jnp.asarray(x) for _, x in with_paths]
    try:
        of_leaves = broadcast(labels, structure) if labels is not None else [None] * len(leaves)
    except ValueError as error:
        raise ValueError(f"labels must be a tree like the parameters, or a prefix of theirs: {error}") from error
    kinds: dict[Any, list[list[int]]] = {}
    for number, (x, label) in enumerate(zip(leaves, of_leaves, strict=True)):
        stacks = kinds.setdefault((x.shape, x.dtype, x.weak_type, _in_parts(x), label), [[]])
        if len(stacks[-1]) == MOST:
            stacks.append([])
        stacks[-1].append(number)
    members = tuple(tuple(stack) for stacks in kinds.values() for stack in stacks)
    names = tuple(tuple(jax.tree_util.keystr(with_paths[number][0]) for number in stack) for stack in members)
    return _stacked(leaves, Layout(structure, members, names))


def unstack_leaves(tree: Any) -> Any:
    """The tree in which everything stacked is in the form that it had before.

    Args:
        tree: any pytree with `Stacked` in it: parameters, or the state of an optimizer, for which this gives what the
            optimizer would keep of the leaves themselves: for a checkpoint in the form of the model.

    Returns:
        A tree like it, with no stacks. What is not stacked stays as it is.

    Raises:
        Nothing of its own.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> params = {"a": jnp.zeros(2), "b": jnp.ones(2)}
        >>> state = ewa_optax.momentum(0.1).init(ewa_optax.stack_leaves(params))
        >>> print(ewa_optax.unstack_leaves(state)[1].average)
        {'a': Array([0., 0.], dtype=float32), 'b': Array([0., 0.], dtype=float32)}

    Reference:
        `stack_leaves`, of which it is the inverse.
    """
    return jax.tree.map(lambda x: x.unstack() if is_stacked(x) else x, tree, is_leaf=is_stacked)


def stack_leaves_like(like: Any, tree: Any) -> Any:
    """The tree, stacked where another one is: the inverse of `unstack_leaves`.

    Args:
        like: a pytree with `Stacked` in it, such as `optimizer.init(stacked)`.
        tree: what `unstack_leaves` gave of such a one, restored from a checkpoint for example.

    Returns:
        A tree of the structure of `like`, with the numbers of `tree`.

    Raises:
        ValueError: `tree` has another structure, or leaves of other shapes.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> stacked = ewa_optax.stack_leaves({"a": jnp.zeros(2), "b": jnp.ones(2)})
        >>> print(ewa_optax.stack_leaves_like(stacked, {"a": jnp.ones(2), "b": jnp.zeros(2)}))
        Stacked(2 leaves in arrays of shapes (2, 2))

    Reference:
        `stack_leaves`.
    """

    def stack(like, x):
        if not is_stacked(like):
            return x
        return _stacked(like.layout.structure.flatten_up_to(x), like.layout)

    return jax.tree.map(stack, like, tree, is_leaf=is_stacked)


def _stacked(leaves, layout):
    """Leaves, which may be trees of arrays, by their kinds."""

    def stack(*xs):
        sharding, stacked = _in_parts(xs[0]), _stack(*xs)
        if sharding is None or isinstance(stacked, jax.core.Tracer):
            return stacked
        return jax.device_put(stacked, NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec)))

    return Stacked(tuple(jax.tree.map(stack, *of_stack) for of_stack in layout.by_stacks(leaves)), layout)


@jax.jit
def _stack(*xs):
    return jnp.stack(xs)


def _in_parts(x):
    """How an array lies on several devices; None for one that is on one device, or not yet anywhere."""
    sharding = None if isinstance(x, jax.core.Tracer) else getattr(x, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1 else None


def broadcast(prefix: Any, structure: Any, is_leaf: Any = None) -> list[Any]:
    """For each leaf of a tree of that structure, what a prefix of it says."""
    numbers = structure.unflatten(range(structure.num_leaves))
    said: list[Any] = [None] * structure.num_leaves

    def say(label, part):
        for number in jax.tree.leaves(part):
            said[number] = label

    jax.tree.map(say, prefix, numbers, is_leaf=is_leaf)
    return said


def _listed(names):
    return ", ".join(f"{label!r} of {name or 'the root'}" for label, name in [*names.items()][:3])


class TreatsStacksAsLeaves(optax.GradientTransformationExtraArgs):
    """An optimizer of this library: it gives stacks of leaves the steps that it gives the leaves."""

    def labels(self, params: Any) -> Any:
        """Leaves with different ones must be in different stacks; None if all may be in one."""
        return None


def treating_stacks_as(
    inner: optax.GradientTransformation, init: Callable[..., Any], update: Callable[..., Any]
) -> optax.GradientTransformationExtraArgs:
    """What is made of another optimizer, and asks of stacks what that one does."""
    if not isinstance(inner, TreatsStacksAsLeaves):
        return optax.GradientTransformationExtraArgs(init, update)
    made = TreatsStacksAsLeaves(init, update)
    made.labels = inner.labels
    return made
