"""Pictures of costs: by mini-batch, by epoch, of a whole training, by batch size."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ewa_optax.plots._axes import COLOURS, DASHES, axes_or_new, finish, styled
from ewa_optax.series._ewa import ewa

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def minibatch_costs(histories: Mapping[str, Any], *, decay: float = 0.9, ax: "Axes | None" = None) -> "Axes":
    r"""Draws costs per mini-batch: each one faintly, and their bias-corrected exponentially weighted average.

    Args:
        histories: for each label, the costs of the mini-batches in order, of shape `(steps,)`.
        decay: of the average, in [0, 1): over about $1/(1-\beta)$ mini-batches, 10 for 0.9.
        ax: the axes to draw on; a new figure's by default.

    Returns:
        The axes: a logarithmic cost over the number of the mini-batch, from 1.

    Raises:
        ValueError: `decay` outside [0, 1), or costs that are not one-dimensional.

    Examples:
        >>> from ewa_optax import plots
        >>> ax = plots.minibatch_costs({"adam": [2.3, 1.1, 1.2, 0.7]}, decay=0.5)
        >>> print(ax.get_xlabel())
        mini-batch
    """
    ax = axes_or_new(ax)
    for label, costs, style in styled(histories):
        numbers = np.arange(1, len(costs) + 1)
        ax.plot(numbers, costs, color=style["color"], alpha=0.2, linewidth=0.8)
        ax.plot(numbers, _smooth(costs, decay), label=label, **style)
    return finish(ax, "mini-batch", f"cost of the mini-batch, and its average (decay {decay:g})")


def epoch_costs(histories: Mapping[str, Any], *, ax: "Axes | None" = None) -> "Axes":
    """Draws costs per epoch, the one before training among them.

    What `ewa_optax.fit` records are means over each epoch, with none before training: for those `minibatch_costs` of
    the `history.costs` of several runs, or `history` of one.

    Args:
        histories: for each label, the cost before training and after each epoch, of shape `(epochs + 1,)`.
        ax: the axes to draw on; a new figure's by default.

    Returns:
        The axes: a logarithmic cost over the number of epochs trained, from 0.

    Raises:
        ValueError: costs that are not one-dimensional.

    Examples:
        >>> from ewa_optax import plots
        >>> ax = plots.epoch_costs({"adam": [2.3, 0.4, 0.2]})
        >>> print(ax.get_xlabel())
        epochs
    """
    ax = axes_or_new(ax)
    for label, costs, style in styled(histories):
        ax.plot(np.arange(len(costs)), costs, label=label, **style)
    ax.locator_params(axis="x", integer=True)
    return finish(ax, "epochs", "training cost")


def history(record: Any, *, decay: float = 0.9, ax: "Axes | None" = None) -> "Axes":
    r"""Draws a training by `ewa_optax.fit`: costs per mini-batch, their means per epoch, validation costs, the best.

    Args:
        record: the `history` of what `ewa_optax.fit` returned.
        decay: of the average of the costs per mini-batch, in [0, 1): over about $1/(1-\beta)$ mini-batches.
        ax: the axes to draw on; a new figure's by default.

    Returns:
        The axes: a logarithmic cost over epochs, the cost of a step where the step is in its epoch, those of whole
        epochs where they end.

    Raises:
        ValueError: `decay` outside [0, 1), or a record without steps.
        TypeError: no record of a training.

    Examples:
        >>> import jax, jax.numpy as jnp, ewa_optax
        >>> from ewa_optax import plots
        >>> run = ewa_optax.fit(
        ...     lambda w, batch: jnp.mean((batch - w) ** 2), ewa_optax.momentum(0.1), jnp.zeros(()), jnp.ones(400),
        ...     batch_size=40, epochs=3, key=jax.random.key(0), progress=False,
        ... )
        >>> print(plots.history(run.history).get_xlabel())
        epochs
    """
    if not hasattr(record, "costs"):
        kind = type(record).__name__
        raise TypeError(f"record must be the history of a training, got {kind}; of what fit returned give run.history.")
    if not len(record.costs):
        raise ValueError("the record holds no steps, so there is nothing to draw; train first.")
    ax, done = axes_or_new(ax), int(record.steps.sum())
    # An epoch that was cut short is drawn to the scale of the one before.
    pace = [*record.steps, record.steps[-1] if len(record.steps) else len(record.costs)]
    lengths = np.repeat(pace, [*record.steps, len(record.costs) - done])
    epochs = np.cumsum(1 / lengths)
    ax.plot(epochs, record.costs, color=COLOURS[0], alpha=0.2, linewidth=0.8)
    label = f"mini-batches, averaged (decay {decay:g})"
    ax.plot(epochs, _smooth(record.costs, decay), color=COLOURS[0], label=label)
    ends = np.arange(1, len(record.epoch_costs) + 1)
    marker = "o" if len(ends) == 1 else ""
    ax.plot(ends, record.epoch_costs, color=COLOURS[1], linestyle=DASHES[1], marker=marker, label="epochs")
    if len(record.validation_costs):
        costs, best = record.validation_costs, int(np.argmin(record.validation_costs))
        ax.plot(ends, costs, color=COLOURS[2], linestyle=DASHES[2], marker=marker, label="validation")
        label = f"the best: {costs[best]:.3g}, after epoch {best + 1}"
        ax.plot(best + 1, costs[best], color=COLOURS[3], marker="*", linestyle="", label=label)
    return finish(ax, "epochs", "cost")


def batch_sizes(found: Any, *, ax: "Axes | None" = None) -> "Axes":
    """Draws what each batch size reached, over the seconds that it trained.

    Args:
        found: what `minibatch.find_batch_size` returned.
        ax: the axes to draw on; a new figure's by default.

    Returns:
        The axes: a logarithmic cost over seconds, the best batch size marked in the legend.

    Raises:
        ValueError: `found` holds no trials.

    Examples:
        >>> import jax, jax.numpy as jnp, ewa_optax
        >>> from ewa_optax import minibatch, plots
        >>> found = minibatch.find_batch_size(
        ...     lambda w, batch: jnp.mean((batch - w) ** 2), ewa_optax.momentum(0.1), jnp.zeros(()), jnp.ones(400),
        ...     key=jax.random.key(0), batch_sizes=[40, 200], seconds=0.02, progress=False,
        ... )
        >>> print(plots.batch_sizes(found).get_xlabel())
        seconds
    """
    if not found.trials:
        raise ValueError("found holds no trials, so there is nothing to draw; try at least one batch size.")
    ax = axes_or_new(ax)
    labels = {f"batch size {x.batch_size}" + " (best)" * (x.batch_size == found.best): x for x in found.trials}
    for label, _, style in styled({label: trial.costs for label, trial in labels.items()}):
        ax.plot(labels[label].seconds, labels[label].costs, label=label, **style)
    return finish(ax, "seconds", "cost of a sample")


def _smooth(costs, decay):
    return ewa(jnp.asarray(costs, float), decay, where=True)  # A NaN is a cost here, not a missing one.
