"""Groups of parameters by their paths, each with an optimizer of its own."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import transformation
from ewa_optax._stacks import TreatsStacksAsLeaves, is_stacked
from ewa_optax._trees import Where, check_where, path_name, shape_of, shapes_of, takes
from ewa_optax.pieces._learning_rate import named_rates
from ewa_optax.storage._sharding import is_box

Rules = Mapping[str, tuple[Where, optax.GradientTransformation | None]]


class Groups(optax.GradientTransformationExtraArgs):
    """What `ewa_optax.groups` returns: a transformation that tells its groups."""

    rules: Rules

    def labels(self, params: Any) -> Any:
        """The name of its group for each leaf of `params`, as `optax.partition` and `stack_leaves` take them.

        A box of flax has one in its place, and so has a stack.
        """
        return _labels(self.rules, params)

    def table(self, params: Any) -> str:
        """Of each group the leaves, the parameters, the learning rate at the start and the bytes of its state.

        Nothing is allocated, and `params` may be of `jax.ShapeDtypeStruct`s. A rate is "not told" by what keeps none
        that `get_learning_rates` could read, such as optimizers of optax. No state tells a weight decay.
        """
        return _table(self, params)


class _OfStacks(Groups, TreatsStacksAsLeaves):
    """One all of whose optimizers treat stacks as leaves."""


def groups(rules: Rules) -> Groups:
    """An optimizer for each group of parameters, by their paths: the first rule that takes a leaf has it.

    The path of a leaf has all of its keys, attributes and indices, with "/" in between: "layers/3/attention/kernel". So
    it is in flax (of nnx and of linen, whatever boxes its arrays are in), equinox and haiku.

    Args:
        rules: for the name of each group, where it is and its optimizer. Where: a regular expression that is searched
            in the path (`re.search`); or a function `(path, leaf) -> bool`, of the shape and dtype of a leaf; or `...`,
            which takes the rest. The optimizer: any transformation, or None for leaves that stay as they are, without a
            state.

    Returns:
        `optax.partition` with these labels, so the state is a `PartitionState`. Its `labels(params)` are the names, and
        `print(groups.table(params))` shows each group. Several learning rates are read by `get_learning_rates`, and one
        is changed by `rescale_learning_rate(state, factor, group=name)`. Parameters in stacks need
        `stack_leaves(params, groups.labels(params))`; `fit` stacks them by itself.

    Raises:
        ValueError: no rule, a rule behind `...`, what is no regular expression; by `init` and `update`, a leaf that no
            rule takes, a rule that takes no leaf, a stack with leaves of several groups.
        TypeError: a rule that is no pair of where and a transformation.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.groups(
        ...     {
        ...         "tables": ("^embed/", ewa_optax.adam(1e-2, storage="bfloat16")),
        ...         "matrices": (lambda path, leaf: leaf.ndim == 2, ewa_optax.adamw(1e-3, weight_decay=0.1)),
        ...         "frozen": ("scale$", None),
        ...         "rest": (..., ewa_optax.momentum(0.1)),
        ...     }
        ... )
        >>> layer = {"kernel": jnp.ones((8, 8)), "bias": jnp.zeros(8), "scale": jnp.ones(8)}
        >>> params = {"embed": {"table": jnp.ones((1000, 8))}, "layers": [layer, layer]}
        >>> print(optimizer.table(params))
        group     leaves  parameters      rate  state bytes
        tables         1        8000      0.01        32024
        matrices       2         128     0.001         1048
        frozen         2          16  (frozen)            0
        rest           2          16       0.1           76
        all            7        8160                  33148
        >>> state = ewa_optax.rescale_learning_rate(optimizer.init(params), 0.5, group="rest")
        >>> _, state = optimizer.update(params, state, params)
        >>> print({name: f"{rate:g}" for name, rate in ewa_optax.get_learning_rates(state).items()})
        {'matrices': '0.001', 'rest': '0.05', 'tables': '0.01'}

    Reference:
        `optax.partition`, whose labels these are.
    """
    optimizers = _checked(rules)
    rules = dict(rules)

    def by_labels_of(params):
        labels = _labels(rules, params)
        return optax.partition(optimizers, lambda _: labels)  # Since models, and so their labels, may be callable.

    def init(params):
        return by_labels_of(params).init(params)

    def update(updates, state, params=None, **extra_args):
        # Not of updates, if it can be: rules may go by dtype.
        return by_labels_of(updates if params is None else params).update(updates, state, params, **extra_args)

    as_leaves = all(optimizer is None or isinstance(optimizer, TreatsStacksAsLeaves) for _, optimizer in rules.values())
    made = (_OfStacks if as_leaves else Groups)(init, update)
    made.rules = rules
    return made


def _checked(rules):
    """The transformations by name."""
    if not isinstance(rules, Mapping):
        raise TypeError(f"groups: rules must be a dict, got {rules!r}; such as {{'all': (..., adam(1e-3))}}.")
    if not rules:
        raise ValueError("groups: there must be one rule or more, got none; such as {'all': (..., adam(1e-3))}.")
    optimizers, rest = {}, None
    for name, rule in rules.items():
        if not isinstance(name, str):
            raise TypeError(f"groups: the name of a group must be a string, got {name!r}; write {str(name)!r}.")
        # A transformation is a pair, too.
        if not (isinstance(rule, tuple) and len(rule) == 2) or isinstance(rule, optax.GradientTransformation):
            raise TypeError(
                f"groups: the rule of {name!r} must be a pair, got {rule!r}; such as ('kernel$', adam(1e-3))."
            )
        if rest is not None:
            raise ValueError(f"groups: {name!r} is behind {rest!r}, which takes all with ...; put {rest!r} last.")
        where, optimizer = rule
        if where is ...:
            rest = name
        check_where(f"groups: where {name!r} is", where)
        if optimizer is None:
            optimizers[name] = optax.set_to_zero()
        else:
            optimizers[name] = transformation("groups", f"the optimizer of {name!r}", optimizer, "adam(1e-3), or None")
    return optimizers


def _labels(rules, params):
    boxes, structure = jax.tree_util.tree_flatten_with_path(shapes_of(params), is_leaf=is_box)
    names, labels = [path_name(path) for path, _ in boxes], [box for _, box in boxes]
    leaves = {i: shape_of(x) for i, (_, box) in enumerate(boxes) for x in jax.tree.leaves(box)}  # Some boxes are empty.
    for i, leaf in leaves.items():
        labels[i] = next((name for name, (where, _) in rules.items() if takes(where, names[i], leaf)), None)
    # First, since a rule that has a slip in it leaves leaves behind.
    _check_all_take(rules, [(names[i], leaf, labels[i]) for i, leaf in leaves.items()])
    _check_all_taken([(names[i], labels[i]) for i in leaves])
    whole = structure.unflatten(labels)
    return jax.tree.map(_of_stack, params, whole, is_leaf=lambda x: is_stacked(x) or is_box(x))


def _of_stack(param, labels):
    if not is_stacked(param):
        return labels
    try:
        return param.like(labels)
    except ValueError as error:
        raise ValueError(f"groups: {error} Those of groups are groups.labels(params).") from error


def _check_all_taken(groups):
    """Raises ValueError if there are leaves that nobody takes."""
    left = [path for path, group in groups if group is None]
    taken = {path: group for path, group in groups if group is not None}
    if left:
        near = [f"{path!r} in {taken[path]!r}" for path in _near(left[0], taken)]
        raise ValueError(
            f"groups: no rule takes {_listed(left)}{' (the nearest are ' + ', '.join(near) + ')' if near else ''}; "
            "add one, or 'rest': (..., None), which leaves the rest as it is."
        )


def _check_all_take(rules, leaves):
    """Raises ValueError if there are rules that take no leaf, of a tree that has some."""
    unused = [name for name in rules if name not in {group for *_, group in leaves}] if leaves else []
    if not unused:
        return
    where, paths = rules[unused[0]][0], [path for path, *_ in leaves]
    pattern = getattr(where, "pattern", where)
    shown = "..." if where is ... else repr(pattern)
    before = {group for path, leaf, group in leaves if takes(where, path, leaf)}
    if where is ...:
        why = "the others take all; leave it out"
    elif before:
        why = f"{', '.join(map(repr, sorted(before)))} before it takes all that it would; put it in front"
    else:
        why = f"the nearest paths are {_listed(_near(str(pattern), paths) or paths)}"
    raise ValueError(f"groups: the rule of {unused[0]!r}, {shown}, takes no leaf; {why}.")


def _near(text, paths):
    """The paths that are like the text, or have a word in them that is."""
    import difflib  # Which a tree without errors does not need.

    words = {}
    for path in paths:
        for word in (path, *path.split("/")):
            words.setdefault(word, path)
    return [*dict.fromkeys(words[word] for word in difflib.get_close_matches(text.strip("^$/"), words))]


def _listed(paths):
    return ", ".join(map(repr, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _table(groups, params):
    shapes, labels = jax.tree.map(shape_of, params), groups.labels(params)

    def rates():
        # Of zeros that nothing needs, and which the compiled program does not make.
        state = groups.init(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
        return {name: [*named_rates(x).values()] for name, x in state.inner_states.items()}

    states, told = jax.eval_shape(groups.init, shapes).inner_states, jax.jit(rates)()
    rows = []
    for name, (_, optimizer) in groups.rules.items():
        mine = jax.tree.map(lambda label, x, name=name: x if label == name else None, labels, shapes)
        sizes = [x.size for x in jax.tree.leaves(shapes_of(mine))]
        rate = "(frozen)" if optimizer is None else ", ".join(f"{x:.6g}" for x in told[name]) or "not told"
        kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(states[name]))
        rows.append((name, len(sizes), sum(sizes), rate, kept))
    _, leaves, parameters, _, kept = zip(*rows, strict=True)
    head, end = ("group", "leaves", "parameters", "rate", "state bytes"), ("all", *map(sum, (leaves, parameters)), "")
    return _aligned([head, *rows, (*end, sum(kept))])


def _aligned(rows):
    """The first column to the left, the others to the right."""
    columns = [[str(x) for x in column] for column in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    columns = [
        [x.rjust(n) if i else x.ljust(n) for x in column]
        for i, (column, n) in enumerate(zip(columns, widths, strict=True))
    ]
    return "\n".join("  ".join(row) for row in zip(*columns, strict=True))
