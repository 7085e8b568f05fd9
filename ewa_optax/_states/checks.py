"""What must hold of the parts of two states so that one becomes the other: errors that name the part."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import jax
import jax.core
import numpy as np

from ewa_optax._states.averages import rows_of
from ewa_optax._states.factors import COLUMNS, ROWS
from ewa_optax._states.parts import GRADIENTS, SQUARES, Part
from ewa_optax.storage._encoding import Encoded


def check_is_pure(state: Any) -> None:
    """Of an `nnx.Optimizer`, each array is in a variable."""

    def is_variable(x):
        return type(x).__module__.startswith("flax.nnx.") and type(x).__name__.startswith("Opt")

    if any(map(is_variable, jax.tree.leaves(state, is_leaf=is_variable))):
        raise TypeError(
            "carry_over: state must be one of arrays, got one of flax variables; give nnx.as_pure(optimizer.opt_state)."
        )


def check_has_params(part: Part, names: AbstractSet[str]) -> None:
    """What is divided among groups must be of parameters that they have."""
    if part.role not in (GRADIENTS, SQUARES) or part.form == "factored":
        return
    for name in rows_of(part.value.arrays[0] if isinstance(part.value, Encoded) else part.value):
        if name.removesuffix(ROWS).removesuffix(COLUMNS) not in names:
            raise ValueError(
                f"carry_over: {part.path}{name} is of no parameter in params; give those that the state is of."
            )


def check_equal(parts: Sequence[Part]) -> None:
    """Counts of one kind, of one chain, must agree."""
    values = [x.value for x in parts]
    if any(isinstance(x, jax.core.Tracer) for x in values):
        return
    if len({int(x) for x in values}) > 1:
        listed = ", ".join(f"{x.path} is {int(x.value)}" for x in parts)
        raise ValueError(
            f"carry_over: counts of steps of one chain differ ({listed}), and which one is meant is unclear; "
            "make them equal in the state that you give."
        )


def check_one_rate(sums: Sequence[Part], schedules: Sequence[Part], others: Sequence[Part]) -> None:
    """Of steps that are summed as they were, rates can't be taken out again where they changed."""
    if sums and schedules and not any(x.form == "steps" for x in others):
        raise ValueError(
            f"carry_over: {sums[0].path} is a sum of steps, each with its own learning rate by the schedule whose step "
            f"is at {schedules[0].path}, and the other optimizer sums them without; give both a fixed learning rate."
        )


def check_number(role: str, theirs: Sequence[Part], ours: Sequence[Part]) -> None:
    """Each part must find a place, and each place a part."""
    if len(theirs) > len(ours):
        part = theirs[len(ours)]
        raise ValueError(
            f"carry_over: {part.path}, {role} ({type(part.value).__name__}), found no place: the optimizer keeps "
            f"{len(ours)} of these, and the state has {len(theirs)}; give an optimizer of the same algorithm."
        )
    if len(ours) > len(theirs):
        raise ValueError(
            f"carry_over: the optimizer keeps {role} at {ours[len(theirs)].path}, but the state has only "
            f"{len(theirs)} of these; give the state of an optimizer of the same algorithm."
        )


def check_is_one(part: Part) -> None:
    """A factor on learning rates is without information only if it is 1."""
    if isinstance(part.value, jax.core.Tracer):
        raise ValueError(
            f"carry_over: {part.path}, by which rescale_learning_rate multiplies learning rates, must be 1 for an "
            "optimizer that has no such factor, got one that is traced; give a state from outside of jax.jit."
        )
    if np.any(np.asarray(part.value) != 1):
        raise ValueError(
            f"carry_over: {part.path}, by which rescale_learning_rate multiplies learning rates, must be 1 for an "
            f"optimizer that has no such factor, got {part.value}; multiply its learning rate instead, and give a "
            "state that was rescaled back to 1."
        )
