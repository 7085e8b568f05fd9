"""The record of a training: what it cost, step by step and epoch by epoch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ewa_optax.minibatch._step import Step, concatenate


class History(NamedTuple):
    """The record of a training by `ewa_optax.fit`, in NumPy arrays.

    Attributes:
        costs: of each mini-batch, before its step.
        examples: how many examples each mini-batch had.
        learning_rates: of each step; of several a dict of them, by their names in `get_learning_rates`; None where the
            state of the optimizer tells none.
        aux: the auxiliary outputs of each step, stacked; None without `has_aux`.
        steps: how many steps each epoch had, of those that are over.
        epoch_costs: the mean of `costs` over the examples of each epoch, while it was trained on; without those of
            skipped steps that are not finite.
        validation_costs: after each epoch; empty without validation data.
        seconds: of each epoch, compilation included; after a resume in mid-epoch, of the rest of it.
        norms: of each step, by name, what `ewa_optax.get_norms` reads after it; None where not one `watch` keeps them.
    """

    costs: np.ndarray
    examples: np.ndarray
    learning_rates: np.ndarray | dict[str, np.ndarray] | None
    aux: Any
    steps: np.ndarray
    epoch_costs: np.ndarray
    validation_costs: np.ndarray
    seconds: np.ndarray
    norms: dict[str, np.ndarray] | None = None


class Fitted(NamedTuple):
    """What `ewa_optax.fit` returns, and what it shows callbacks.

    Attributes:
        params: the parameters after the last step.
        opt_state: the state of the optimizer after the last step.
        history: the record of all steps and epochs.
        epoch: how many epochs are over.
        step: how many steps of the next epoch are over; 0 after a whole number of epochs.
        best_params: the parameters after the epoch of the lowest validation cost, whose number is
            `history.validation_costs.argmin()`; None without validation data.
        stopped: why it ended: "finished", "early" (by `patience`), "interrupted" (by Ctrl-C), "not finite", or what a
            callback put here. None until then.
    """

    params: Any
    opt_state: Any
    history: History
    epoch: int
    step: int
    best_params: Any
    stopped: str | None


def empty(aux: Any = None) -> History:
    """The record of nothing; `aux` of shapes and dtypes, where they are known."""
    none = np.zeros(0)
    aux = jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), aux)
    return History(none, none, None, aux, np.zeros(0, int), none, none, none)


def with_steps(history: History, steps: Step) -> History:
    """The record, longer by some steps."""
    if not len(steps.cost):
        return history
    if len(history.costs):
        if history.learning_rates is None:  # A checkpoint of 0.1.0 has none where there are several.
            rates = jax.tree.map(lambda x: np.full(len(history.costs), np.nan, x.dtype), steps.learning_rate)
            history = history._replace(learning_rates=rates)
        before = jax.tree.leaves((history.costs, history.learning_rates, history.examples, history.aux, history.norms))
        # Leaves, since restored auxiliary outputs of an iterable have no structure yet.
        steps = concatenate([jax.tree.unflatten(jax.tree.structure(steps), before), steps])
    return history._replace(
        costs=steps.cost, examples=steps.examples, learning_rates=steps.learning_rate, aux=steps.aux, norms=steps.norms
    )


def with_epoch(history: History, steps: int, validation_cost: float | None, seconds: float) -> History:
    """The record, longer by an epoch, which had the next `steps` steps of those that are recorded."""
    began = int(history.steps.sum())
    costs, examples = history.costs[began : began + steps].astype(np.float64), history.examples[began : began + steps]
    known = np.isfinite(costs)  # All but those of steps that the optimizer skipped.
    cost = np.average(costs[known], weights=examples[known]) if known.any() else np.nan
    validation = [] if validation_cost is None else [validation_cost]
    return history._replace(
        steps=np.append(history.steps, steps),
        epoch_costs=np.append(history.epoch_costs, cost),
        validation_costs=np.append(history.validation_costs, validation),
        seconds=np.append(history.seconds, seconds),
    )


def to_arrays(history: History) -> dict[str, np.ndarray]:
    """Its arrays by name."""
    trees = ("aux", "norms")
    named = {name: value for name, value in history._asdict().items() if name not in trees and value is not None}
    if isinstance(rates := named.get("learning_rates"), dict):
        named = {**named, **{RATES + name: rate for name, rate in rates.items()}}
        del named["learning_rates"]
    norms = {NORMS + name: norm for name, norm in (history.norms or {}).items()}
    return {**named, **norms, **{f"aux {i:06}": leaf for i, leaf in enumerate(jax.tree.leaves(history.aux))}}


RATES, NORMS = "learning_rates ", "norms "
"""In front of the name of each."""


def with_arrays(history: History, arrays: Mapping[str, np.ndarray]) -> History:
    """The record of those arrays, with auxiliary outputs in the structure of this one, or as a list if unknown."""
    aux = [arrays[name] for name in sorted(arrays) if name.startswith("aux ")]
    rates = {name.removeprefix(RATES): value for name, value in arrays.items() if name.startswith(RATES)}
    structure = jax.tree.structure(history.aux)
    named = {name: value for name, value in arrays.items() if not name.startswith(("aux ", NORMS, RATES))}
    norms = {name.removeprefix(NORMS): value for name, value in arrays.items() if name.startswith(NORMS)}
    return history._replace(
        **{**named, **({"learning_rates": rates} if rates else {})},
        norms=norms or None,
        aux=jax.tree.unflatten(structure, aux) if structure.num_leaves == len(aux) else aux,
    )
