"""The form in which `fit` keeps parameters: in stacks, where that pays, or as they are."""

import contextlib
import re
from typing import Any, NamedTuple

import jax
import optax

from ewa_optax._fit.result import Fitted
from ewa_optax._stacks import (
    TreatsStacksAsLeaves,
    broadcast,
    is_stacked,
    stack_leaves,
    stack_leaves_like,
    unstack_leaves,
)

LEAVES, ELEMENTS = 32, 2**12
"""From how many leaves on, of at most how many elements in the mean, stacks cost less than loops and arguments."""


class StackedForm(NamedTuple):
    """How parameters and the state of the optimizer are kept while steps run: stacked like `like`, or as they are."""

    like: Any

    def inside(self, run: Fitted) -> Fitted:
        """The run as steps see it."""
        if self.like is None:
            return run
        params, opt_state = stack_leaves_like(self.like, (run.params, run.opt_state))
        best = None if run.best_params is None else stack_leaves_like(self.like[0], run.best_params)
        return run._replace(params=params, opt_state=opt_state, best_params=best)

    def outside(self, run: Fitted) -> Fitted:
        """The run as those see it who call `fit`."""
        if self.like is None:
            return run
        kept = unstack_leaves((run.params, run.opt_state, run.best_params))
        return run._replace(**dict(zip(("params", "opt_state", "best_params"), kept, strict=True)))


def stacked_form_for(optimizer: optax.GradientTransformation, params: Any) -> StackedForm:
    """Stacks, of many small leaves on one device, if the optimizer is known to treat stacks as it treats leaves."""
    leaves = jax.tree.leaves(params)
    small = len(leaves) >= LEAVES and sum(x.size for x in leaves) <= ELEMENTS * len(leaves)
    here = all(len(x.sharding.device_set) == 1 for x in leaves)
    if not (isinstance(optimizer, TreatsStacksAsLeaves) and small and here) or any(
        map(is_stacked, jax.tree.leaves(params, is_leaf=is_stacked))
    ):
        return StackedForm(None)
    labels = optimizer.labels(params)
    for apart in (labels, _with_names(labels, params)):
        stacked = jax.eval_shape(lambda params, apart=apart: stack_leaves(params, apart), params)
        if 2 * len(stacked.stacks) > len(leaves):
            break
        with contextlib.suppress(ValueError):  # Leaves of one stack may be different things, such as axes of matrices.
            return StackedForm((stacked, jax.eval_shape(optimizer.init, stacked)))
    return StackedForm(None)


def _with_names(labels, params):
    """These labels, and the names of the leaves but for their numbers: those of one layer are one thing."""
    with_paths, structure = jax.tree_util.tree_flatten_with_path(params)
    said = broadcast("" if labels is None else labels, structure)
    names = (re.sub(r"\d+", "", jax.tree_util.keystr(path)) for path, _ in with_paths)
    return structure.unflatten(f"{label} {name}" for label, name in zip(said, names, strict=True))
