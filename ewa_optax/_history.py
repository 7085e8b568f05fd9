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
        rates = None if steps.learning_rate is None else join(self.learning_rates, steps.learning_rate)
        leaves, structure = jax.tree.flatten(steps.aux)
        aux = [
            join(old, new) for old, new in zip(jax.tree.leaves(self.aux) or [None] * len(leaves), leaves, strict=True)
        ]
        return self._replace(
            costs=join(self.costs, steps.cost),
            examples=join(self.examples, steps.examples),
            learning_rates=rates,
            aux=jax.tree.unflatten(structure, aux),
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
        """Its arrays by name, without those that are empty."""
        named = {name: value for name, value in self._asdict().items() if name != "aux"}
        named.update({f"aux {i:06}": leaf for i, leaf in enumerate(jax.tree.leaves(self.aux))})
        return {name: value for name, value in named.items() if np.size(value)}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> History:
    """The record of those arrays; of auxiliary outputs only the leaves, until a next step tells their structure."""
    none = np.zeros(0)
    aux = [arrays[name] for name in sorted(arrays) if name.startswith("aux ")]
    named = {name: arrays.get(name, none) for name in History._fields if name != "aux"}
    return History(**{**named, "learning_rates": arrays.get("learning_rates"), "aux": aux or None})


def join(old: np.ndarray | None, new: np.ndarray) -> np.ndarray:
    """One after the other, in the dtype of the new, since nothing has none."""
    return np.asarray(new) if old is None or not len(old) else np.concatenate([old, new])
