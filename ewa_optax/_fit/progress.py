"""What `fit` tells of steps, of epochs, and of its end."""

import numpy as np

from ewa_optax._fit.result import Fitted
from ewa_optax.minibatch._progress import Progress


class FitProgress(Progress):
    """What `fit` tells of steps, epochs and its end."""

    def __init__(self, shown: bool, epochs: int) -> None:
        super().__init__(shown, "compiling")
        self.epochs = epochs

    def step(self, run: Fitted, steps: int | None) -> None:
        """Tells where it is; `steps` of an epoch are None as long as nobody knows."""
        if self._bar and len(run.history.costs):
            cost, epoch = run.history.costs[-1], min(run.epoch + 1, self.epochs)
            text = f"epoch {epoch}/{self.epochs}, cost {cost:.4g}{_rate(run)}"
            total, completed = (steps * self.epochs, run.epoch * steps + run.step) if steps else (None, run.step)
            self.at(text, total, completed)

    def epoch(self, run: Fitted) -> None:
        """Tells of an epoch that is over."""
        history = run.history
        checked = f", validation cost {history.validation_costs[-1]:.4g}" if len(history.validation_costs) else ""
        cost, seconds = history.epoch_costs[-1], history.seconds[-1]
        self.line(f"epoch {run.epoch}/{self.epochs}: cost {cost:.4g}{checked}{_rate(run)}, {seconds:.3g} s")

    def end(self, run: Fitted) -> None:
        """Tells where and why the run is over."""
        costs, text = run.history.validation_costs, f"{run.stopped} after {run.epoch} epochs"
        if run.step:
            text += f" and {run.step} steps"
        if len(costs):
            best = np.argmin(np.where(np.isnan(costs), np.inf, costs))
            text += f"; the lowest validation cost was {costs[best]:.4g}, after epoch {best + 1}"
        self.line(text)


def _rate(run):
    rates = run.history.learning_rates
    if isinstance(rates, dict):
        return ", learning rates " + ", ".join(f"{name} {rate[-1]:.3g}" for name, rate in rates.items())
    return "" if rates is None else f", learning rate {rates[-1]:.3g}"
