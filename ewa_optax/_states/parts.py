"""What the parts of a state are: averages of gradients or of squares, counts of steps, learning rates, other states.

Where two states of one algorithm have different shapes (optax keeps both moments of Adam side by side, this library one
within the other), their parts are found here, by the types of the states, and are in one order in both: averages of
gradients, as they come; averages of squares, as they come.
"""

import dataclasses
from typing import Any, Final, NamedTuple

import jax
import optax

from ewa_optax.pieces._averages import ScaleByEwaState
from ewa_optax.pieces._combining import DivideState, StepCount
from ewa_optax.pieces._learning_rate import ScaleByLearningRateState
from ewa_optax.pieces._recursion import AverageState
from ewa_optax.pieces._rms import ScaleByRmsState
from ewa_optax.pieces._weight_decay import ProximalWeightDecayState
from ewa_optax.storage._telling import Kept

GRADIENTS, SQUARES, STEP, SCHEDULE, FACTOR, RATE, OTHER = (
    "an average of gradients", "an average of squares", "a count of steps", "the step of a schedule",
    "the factor on learning rates", "a learning rate", "a state",
)  # fmt: skip


@dataclasses.dataclass(eq=False)
class Part:
    """A part of a state: where it is, what it is, in which form, what is there; of what `init` told, its `Kept`.

    Forms of averages: "raw", with the weights of its recursion; "corrected" of its bias; "sum", without the share
    of the newest value; "steps", a sum of steps, the learning rate in it; "with the mean", of squares, where
    this library keeps those of deviations from it; "maximum"; "factored"; any other, of what stays as it is.
    """

    path: str
    role: str
    form: str
    value: Any
    decay: Any = None


_SIDE_BY_SIDE: Final = {
    "ScaleByAdamState": dict(count=(STEP, ""), mu=(GRADIENTS, "raw"), nu=(SQUARES, "raw")),
    "ScaleByBeliefState": dict(count=(STEP, ""), mu=(GRADIENTS, "raw"), nu=(SQUARES, "raw")),
    "ScaleByAmsgradState": dict(
        count=(STEP, ""), mu=(GRADIENTS, "raw"), nu=(SQUARES, "raw"), nu_max=(SQUARES, "as it is")
    ),
    "ScaleByLionState": dict(count=(STEP, ""), mu=(GRADIENTS, "raw")),
    "ScaleByRmsState": dict(nu=(SQUARES, "raw")),
    "ScaleByRmsWithCountState": dict(count=(STEP, ""), nu=(SQUARES, "raw")),
    "ScaleByRStdDevState": dict(mu=(GRADIENTS, "raw"), nu=(SQUARES, "with the mean")),
    "ScaleByRStdDevWithCountState": dict(count=(STEP, ""), mu=(GRADIENTS, "raw"), nu=(SQUARES, "with the mean")),
    "ScaleByNovogradState": dict(count=(STEP, ""), mu=(GRADIENTS, "sum"), nu=(SQUARES, "as it is")),
    "ScaleByAdanState": dict(
        t=(STEP, ""), g=(GRADIENTS, "as it is"), m=(GRADIENTS, "raw"), v=(GRADIENTS, "raw"), n=(SQUARES, "raw")
    ),
    "ScaleByAdemamixState": dict(
        count=(STEP, ""), count_m2=(STEP, ""), m1=(GRADIENTS, "raw"), m2=(GRADIENTS, "as it is"), nu=(SQUARES, "raw")
    ),
    "ScaleByAdaDeltaState": dict(e_g=(SQUARES, "raw"), e_x=(GRADIENTS, "as it is")),
    "FactoredState": dict(count=(STEP, "")),
    "TraceState": dict(trace=(GRADIENTS, "sum")),
    "EmaState": dict(count=(STEP, ""), ema=(GRADIENTS, "raw")),
    "ScaleByScheduleState": dict(count=(SCHEDULE, "")),
    "WeightDecaySchedule": dict(count=(STEP, "")),
}
"""Of the states of optax, what each field is, those of averages in the order in which this library has them."""


class New(NamedTuple):
    """A wrapper that the given state has not: it begins, around what is taken over."""

    begun: Any
    inner_state: Any


class Divided(NamedTuple):
    """A partition that the given state has not: each group takes its leaves of what is there."""

    partition: Any


def is_of_optax(node: Any) -> bool:
    """Whether it is a state of optax that is told of here."""
    return type(node).__module__.startswith("optax.") and type(node).__name__ in _SIDE_BY_SIDE


def is_state(node: Any) -> bool:
    """Whether it is a tuple with names, as states are."""
    return isinstance(node, tuple) and hasattr(node, "_fields")


def in_parts(path: str, state: Any) -> tuple[Any, list[Part]]:
    """A chain of pieces with its parts in place of what is there, and these in order."""
    taking = _Taking()
    return taking.apart(path, state, GRADIENTS), taking.parts


class _Taking:
    """What takes a chain apart, in order."""

    def __init__(self):
        self.parts: list[Part] = []
        self._behind_rate = False

    def apart(self, path: str, node: Any, role: str) -> Any:
        """The node with parts in place of what is there."""
        if isinstance(node, ScaleByEwaState):
            form = "steps" if self._behind_rate else "raw"
            average = self._part(f"{path}.average", role, form, node.average)
            step = None if node.step is None else self._part(f"{path}.step", STEP, "", node.step)
            return ScaleByEwaState(average, step)
        if isinstance(node, AverageState):
            step = self._part(f"{path}.step", STEP, "", node.step)
            return AverageState(step, self._part(f"{path}.average", role, "average", node.average))
        if isinstance(node, ScaleByRmsState | DivideState):
            of = dict(zip(node._fields, (role, SQUARES), strict=True))
            # The learning rate of what is divided is one of its own.
            return type(node)(*(self.apart(f"{path}.{name}", getattr(node, name), of[name]) for name in of))
        if isinstance(node, ScaleByLearningRateState):
            self._behind_rate = True
            roles = (SCHEDULE, FACTOR, RATE)
            names = zip(roles, node._fields, strict=True)
            return type(node)(*(self._part(f"{path}.{n}", r, "", getattr(node, n)) for r, n in names))
        if isinstance(node, StepCount):
            return StepCount(self._part(f"{path}.step", STEP, "", node.step))
        if isinstance(node, ProximalWeightDecayState):
            step = self._part(f"{path}.step", STEP, "", node.step)
            return ProximalWeightDecayState(step, self.apart(f"{path}.scaling", node.scaling, role))
        if is_of_optax(node):
            return self._of_optax(path, node, role)
        if isinstance(node, New):
            return New(node.begun, self.apart(f"{path}.inner_state", node.inner_state, role))
        if type(node) is tuple:
            return self._chain(path, node, role)
        if not jax.tree.leaves(node, is_leaf=lambda x: isinstance(x, Kept)):
            return node
        if isinstance(node, optax.MaskedState) and _counts_only(node):
            return type(node)(self.apart(f"{path}.inner_state", node.inner_state, role))
        return self._part(path, OTHER, "", node)

    def _chain(self, path, node, role):
        done = []
        for i, x in enumerate(node):
            # optax ends a chain with momentum where the learning rate is in its sum.
            done.append(self.apart(f"{path}[{i}]", x, role))
            if isinstance(x, optax.TraceState) and i == len(node) - 1 > 0:
                self.parts[-1].form = "steps"
        return tuple(done)

    def _of_optax(self, path, node, role):
        if isinstance(node, optax.ScaleByScheduleState) and role != GRADIENTS:
            return node._replace(count=self._part(f"{path}.count", STEP, "", node.count))
        fields = {
            name: self._part(f"{path}.{name}", kind, form, getattr(node, name))
            for name, (kind, form) in _SIDE_BY_SIDE[type(node).__name__].items()
        }
        if isinstance(node, optax.FactoredState):
            names = ("v_row", "v_col", "v")
            value = node._replace(count=None)
            whole = self._part(f"{path}.v_row", SQUARES, "factored", value)
            fields.update(dict.fromkeys(names, whole))
        return node._replace(**fields)

    def _part(self, path, role, form, value) -> Any:
        part = Part(path, role, form, value)
        if isinstance(value, Kept):
            part.decay = value.decay
            if not (value.told.form == "raw" and form == "steps"):
                part.form = value.told.form
        self.parts.append(part)
        return part


def _counts_only(node):
    states = jax.tree.leaves(node.inner_state, is_leaf=is_state)
    return all(type(x).__name__ in ("WeightDecaySchedule", "StepCount") for x in states)


def filled(apart: Any, made: dict["Part", Any]) -> Any:
    """The inverse of `in_parts`: a state that was taken apart, with what was made of its parts."""

    def fill(x):
        return made[x] if isinstance(x, Part) else x

    state = jax.tree.map(fill, apart, is_leaf=lambda x: isinstance(x, Part))

    def factored(x):
        # All three fields of it are one part.
        return x.v_row._replace(count=x.count) if _is_factored(x) and _is_factored(x.v_row) else x

    return jax.tree.map(factored, state, is_leaf=_is_factored)


def _is_factored(x):
    return isinstance(x, optax.FactoredState)
