r"""Norms of gradients, updates and parameters along a training, as averages in the state: what one looks at first."""

import functools
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ewa_optax._checks import Decay, checked, transformation
from ewa_optax._numerics import corrected_shares, increment, largest, norm, wide_dtype
from ewa_optax._stacks import broadcast, treating_stacks_as, unstack_leaves
from ewa_optax._trees import Leafwise, map_leaves, path_name, shapes_of
from ewa_optax._wrappers.found import content, states_within
from ewa_optax._wrappers.norms import as_kept, leaf_norms, parts_of, spread
from ewa_optax.storage._sharding import boxes_that_fit, through_boxes, unboxed

KINDS = ("gradient", "update", "parameters", "update_to_parameters", "unmoved")


class WatchState(NamedTuple):
    """How many steps are in the averages, how many were left out as not finite, and the averages: see `KINDS`.

    Of all parameters, and of each group by its name; and in a row below them what they have been rounded by.
    """

    step: jax.Array
    not_finite: jax.Array
    whole: jax.Array
    groups: Any
    inner_state: Any


@checked
def watch(
    optimizer: optax.GradientTransformation, decay: Decay = 0.99, *, groups: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps averages of the norms of gradients, updates and parameters. Updates are those of the optimizer.

    $$v_t = \beta v_{t-1} + (1 - \beta) \lVert x_t \rVert, \qquad \hat v_t = v_t / (1 - \beta^t)$$

    `get_norms` reads them, and `fit` records them. The parameters are those before the step, and the gradients
    those that come in: around a chain, those before its clip.

    A step counts if its updates move something, as in `average_parameters`: so between two steps of `accumulate`, or
    where `skip_spikes` skips, no average moves. Nor does it where one of the norms is not finite.

    Args:
        optimizer: any transformation, to which further keyword arguments of `update` go.
        decay: $\beta$ in [0, 1): averages over about $1/(1-\beta)$ steps. With 0 they are the norms of the last step.
        groups: for norms of parts of the parameters besides those of all: a tree of labels like the parameters, or a
            prefix of theirs; or a function of the path of a leaf and the leaf (an array, or its shape and dtype) that
            gives its label. A path is as in `groups`, "layers/0/kernel", so `lambda path, leaf: path` makes a group of
            each leaf. A leaf whose label is None is in no group.

    Returns:
        A transformation that needs the parameters, and keeps ten numbers, and ten for each group: five averages, and
        what each is rounded by. It costs one reading of gradients, updates and parameters each, and two more of those
        whose norm, or that of one group, is below about 1e-12 or above 1e19.

    Raises:
        ValueError: a decay outside [0, 1); labels that are no prefix of the parameters; by `update`, no parameters.
        TypeError: `optimizer` is no transformation, or `decay` no number.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.watch(ewa_optax.gradient_descent(0.1))
        >>> params = jnp.array([3.0, 4.0])
        >>> _, state = optimizer.update(jnp.array([6.0, 8.0]), optimizer.init(params), params)
        >>> norms = ewa_optax.get_norms(state)
        >>> print(norms["gradient"], norms["update"], norms["parameters"], norms["update_to_parameters"])
        10.0 1.0 5.0 0.2

    Reference:
        Andrej Karpathy, "A recipe for training neural networks", 2019, on the ratio of updates to parameters;
        `optax.monitor`.
    """
    inner = transformation("watch", "optimizer", optimizer, "adam(1e-3)")

    def init(params):
        zeros = jnp.zeros((2, len(KINDS)), _dtype_of(params))
        names = _members(groups, unboxed(params))
        # Of what stands for parameters of any kind, as in `optax.tree.map_params`, the names are unknown.
        known = names or not callable(groups) or jax.tree.leaves(params)
        step, not_finite = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32)
        return WatchState(step, not_finite, zeros, dict.fromkeys(names, zeros) if known else zeros, inner.init(params))

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError("watch needs the parameters; call update(gradients, state, params).")
        members = _members(groups, params)
        out, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        values, out = _values(params, updates, out, members, state.whole)
        whole = values[0]
        finite, moves = jnp.isfinite(whole).all(), whole[KINDS.index("update")] > 0
        step = jnp.where(finite & moves, increment(state.step), state.step)
        past, newest = (x.astype(values.dtype) for x in corrected_shares(decay, jnp.maximum(step, 1)))

        def averaged(average, value):
            return jnp.where(finite & moves, _averaged(average, value, decay, past, newest), average)

        averages = jax.vmap(averaged)(jnp.stack([state.whole, *(state.groups[name] for name in members)]), values)
        not_finite = jnp.where(finite, state.not_finite, increment(state.not_finite))
        of_groups = dict(zip(members, averages[1:], strict=True)) if members else state.groups
        return out, WatchState(step, not_finite, averages[0], of_groups, inner_state)

    return treating_stacks_as(optimizer, boxes_that_fit(init), through_boxes(update))


def get_norms(opt_state: Any) -> dict[str, jax.Array]:
    r"""The averages that `watch` keeps, corrected for bias; before the first step, 0.

    Args:
        opt_state: the state of an optimizer with one `watch` in it, however deep in chains, masks, `accumulate`,
            `optax.MultiSteps` or `optax.partition`. Where each part of an `optax.partition` has a `watch`, pass the
            state of one part: `state.inner_states["name"]`.

    Returns:
        A dict of scalars: the norms of `"gradient"`, `"update"` and `"parameters"`; `"update_to_parameters"`, the
        average of their ratio, where 0 stands for one by 0; `"unmoved"`, the share of parameters in 16 bits that a step
        leaves as they were, 0 where none are in 16 bits; all five of each group as `"gradient/name"`. And
        `"not_finite"`: how many steps were left out.

    Raises:
        ValueError: there is no `watch` in the state, or more than one.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> params = {"w": jnp.ones((4, 4)), "b": jnp.zeros(4)}
        >>> optimizer = ewa_optax.watch(ewa_optax.adam(0.1), groups={"w": "weights", "b": "biases"})
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> print([name for name in ewa_optax.get_norms(state) if name.startswith("gradient")])
        ['gradient', 'gradient/biases', 'gradient/weights']

    Reference:
        `watch`.
    """
    found = [*states_within(opt_state, (WatchState,))]
    if len(found) != 1:
        raise ValueError(
            f"the optimizer state holds {len(found)} watches, but must hold one; put ewa_optax.watch around the "
            "optimizer, and pass the part of the state that holds the one you mean."
        )
    (state,) = found
    of_parts = {"": state.whole, **{f"/{name}": average for name, average in state.groups.items()}}
    norms = {
        kind + name: content(average)[..., 0, i] for i, kind in enumerate(KINDS) for name, average in of_parts.items()
    }
    return {**norms, "not_finite": content(state.not_finite)}


def norms_or_none(opt_state: Any) -> dict[str, jax.Array] | None:
    """The same; None where not one thing is watched."""
    try:
        return get_norms(opt_state)
    except ValueError:
        return None


def _dtype_of(params):
    """Of the norms: wide enough for those of all parameters."""
    dtypes = [jnp.finfo(wide_dtype(jnp.result_type(x))).dtype for x in jax.tree.leaves(params)]
    return functools.reduce(jnp.promote_types, dtypes, jnp.dtype(jnp.float32))


def _members(groups: Any, params: Any) -> dict[str, list[int]]:
    """The numbers of the leaves in each group, by its name, in order."""
    paths, structure = jax.tree_util.tree_flatten_with_path(shapes_of(params))
    found: dict[str, list[int]] = {}
    if not paths:
        labels = []
    elif callable(groups):
        labels = [groups(path_name(path), leaf) for path, leaf in paths]
    else:
        try:
            labels = broadcast(groups, structure, is_leaf=lambda x: x is None)
        except ValueError as error:
            raise ValueError(
                f"watch: groups must be a tree of labels like the parameters, or a prefix of theirs: {error}; "
                "or pass a function of path and leaf."
            ) from error
    if not callable(groups):
        found = {str(label): [] for label in jax.tree.leaves(groups)}
    for number, label in enumerate(labels):
        if label is not None:
            if not isinstance(label, Hashable):
                raise TypeError(f"watch: the label of {paths[number][0]} must be a name, got {label!r}; give a string.")
            found.setdefault(str(label), []).append(number)
    return dict(sorted(found.items()))


def _averaged(average, value, decay, past, newest):
    """`lerp` that keeps what it rounds off, which else would hold an average up to half of a rounding / newest off."""
    high, low = average
    forth, back = value - high - low, high - value + low
    start = jnp.where(decay >= 0.5, high, value)
    step = jnp.where(decay >= 0.5, newest * forth + low, past * back)
    total = start + step
    moved = total - start
    return jnp.stack([total, (start - (total - moved)) + (step - moved)])


def _values(params, updates, out, members, like):
    """Of one step what is averaged, in a row for all parameters, and one for each group; and the updates to go out."""
    structure = jax.tree.structure(shapes_of(params))
    count = structure.num_leaves
    if not count:
        return jnp.zeros((1 + len(members), len(KINDS)), like.dtype), out
    parts = [parts_of(x, count) for x in ([range(count)], [*members.values()]) if x]

    def norms_of(tree):
        return as_kept(leaf_norms(tree, structure, parts), like)

    of_updates, of_params = norms_of(updates), norms_of(params)
    out = map_leaves(Leafwise(_made_once, of_updates.sum() + of_params.sum()), out, params)
    norms = [of_updates, norms_of(out), of_params]
    sizes = np.array([x.size * _is_short(x) for x in jax.tree.leaves(shapes_of(params))])
    unmoved = jnp.zeros(count, jnp.int32)
    if sizes.any():
        each = structure.flatten_up_to(unstack_leaves(map_leaves(Leafwise(_unmoved), params, out)))
        unmoved = jnp.stack(each)
        out = map_leaves(Leafwise(_behind, unmoved.sum()), out, params)
    return jnp.concatenate([_of_parts(norms, unmoved, sizes, x) for x in parts]), out


def _of_parts(norms, unmoved, sizes, parts):
    gradient, update, parameters = (jax.vmap(norm)(spread(x, parts)) for x in norms)
    ratio = jnp.where(parameters > 0, update / jnp.where(parameters > 0, parameters, 1), 0)
    still = spread(unmoved, parts).astype(ratio.dtype).sum(1) / np.maximum(np.append(sizes, 0)[parts].sum(1), 1)
    ratio = jnp.where(jnp.isfinite(update), jnp.minimum(ratio, largest(ratio.dtype) / 4), ratio)
    return jnp.stack([gradient, update, parameters, ratio, still.astype(ratio.dtype)], axis=1)


def _unmoved(p, u):
    """How many of the parameters in 16 bits do not move."""
    if u is None or not _is_short(p):
        return jnp.int32(p.size * _is_short(p))
    # As optax applies it.
    return jnp.sum(jnp.asarray(p + u, p.dtype) == p, dtype=jnp.int32)


def _made_once(norms, u, p):
    """The update, on a CPU as an array, and after the norms of gradients and of parameters.

    Else it would be computed anew, from all that it is made of, where it is used, as XLA does to what one large array
    is enough for; and a step that overwrites gradients or parameters would copy them first. Norms are never less than
    0, which no compiler finds out.
    """
    if u.dtype != p.dtype:
        return u
    return jax.lax.platform_dependent(
        norms, u, p, cpu=lambda norms, u, p: jnp.where(norms < 0, p, u), default=lambda norms, u, p: u
    )


def _behind(unmoved, u, p):
    """The update, on a CPU after what has read parameters of 16 bits beside it, and before what overwrites them."""
    if not _is_short(p):
        return u

    def after(unmoved, u):
        # Less 0, which no compiler finds out, and which keeps the sign of -0.
        return u - jnp.where(unmoved < 0, 1, 0).astype(u.dtype)

    return jax.lax.platform_dependent(unmoved, u, cpu=after, default=lambda unmoved, u: u)


def _is_short(x):
    return jnp.finfo(x.dtype).bits <= 16
