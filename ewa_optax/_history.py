"""The record of a training: what it cost, step by step and epoch by epoch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ewa_optax._train import Step


class History(NamedTuple):
    """NumPy arrays, longer by each step or epoch."""

    costs: np.ndarray
    """Of each mini-batch, before its step."""
    examples: np.ndarray
    """How many examples each mini-batch had."""
    learning_rates: np.ndarray | None
    """Of each step; None where the state of the optimizer does not tell a single one."""
    epoch_costs: np.ndarray
    """The mean of `costs` over the examples of each epoch, while it was trained on."""
    validation_costs: np.ndarray
    """After each epoch; empty without validation data."""
    seconds: np.ndarray
    """Of each epoch, compilation included."""
    aux: Any
    """The auxiliary outputs of each step, stacked; None without `has_aux`."""

    def with_steps(self, steps: Step) -> "History":
        """The record, longer by some steps."""
        if not len(steps.cost):
            return self
        all_steps = steps
        if len(self.costs):
            before = jax.tree.leaves((self.costs, self.learning_rates, self.examples, self.aux))
            # Leaves, since restored auxiliary outputs of an iterable have no structure yet.
            all_steps = concatenate([jax.tree.unflatten(jax.tree.structure(steps), before), steps])
        return self._replace(
            costs=all_steps.cost,
            examples=all_steps.examples,
            learning_rates=all_steps.learning_rate,
            aux=all_steps.aux,
        )

    def with_epoch(self, steps: int, validation_cost: float | None, seconds: float) -> "History":
        """The record, longer by an epoch, which had the last `steps` steps."""
        costs, examples = self.costs[-steps:].astype(np.float64), self.examples[-steps:]
        validation = [] if validation_cost is None else [validation_cost]
        return self._replace(
            epoch_costs=np.append(self.epoch_costs, np.average(costs, weights=examples)),
            validation_costs=np.append(self.validation_costs, validation),
            seconds=np.append(self.seconds, seconds),
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name."""
        named = {name: value for name, value in self._asdict().items() if name != "aux" and value is not None}
        return {**named, **{f"aux {i:06}": leaf for i, leaf in enumerate(jax.tree.leaves(self.aux))}}

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> "History":
        """The record of those arrays, with auxiliary outputs in the structure of this one, or as a list if unknown."""
        aux = [arrays[name] for name in sorted(arrays) if name.startswith("aux ")]
        structure = jax.tree.structure(self.aux)
        named = {name: value for name, value in arrays.items() if not name.startswith("aux ")}
        return self._replace(
            **named, aux=jax.tree.unflatten(structure, aux) if structure.num_leaves == len(aux) else aux
        )


def empty(aux: Any = None) -> History:
    """The record of nothing; `aux` of shapes and dtypes, where they are known."""
    none, aux = np.zeros(0), jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), aux)
    return History(none, none, None, none, none, none, aux)


def concatenate(parts: list[Step]) -> Step:
    """Steps end to end; without any, no costs."""
    if not parts:
        return Step(np.zeros(0, np.float32), None, np.zeros(0, np.float32), None)

    def join(path, *xs):
        shapes = sorted({x.shape[1:] for x in xs})
        if len(shapes) > 1:
            raise ValueError(
                f"loss returned an aux{jax.tree_util.keystr(path[1:])} of shapes {shapes} for mini-batches of unlike "
                "sizes, which can't be stacked; return something of one shape, such as a mean, or pass "
                "remainder='mask' or 'drop'."
            )
        return np.concatenate(xs)

    return jax.tree_util.tree_map_with_path(join, *parts)
