"""What is shown while steps run: a bar on a terminal, lines elsewhere."""

import sys
from contextlib import ExitStack
from typing import Any, Self

import jax
import numpy as np

from ewa_optax._training import Fitted


class Progress:
    """A context manager; `rich` draws the bar, where it is installed."""

    def __init__(self, shown: bool, doing: str) -> None:
        self.shown = shown and jax.process_index() == 0
        self.doing = doing
        self._bar: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self.shown and sys.stderr.isatty():
            try:
                from rich import console, progress
            except ImportError:
                return self
            columns = (*progress.Progress.get_default_columns(), progress.TimeElapsedColumn())
            bar = progress.Progress(*columns, console=console.Console(stderr=True), transient=True)
            self._bar = self._stack.enter_context(bar)
            self._task = self._bar.add_task(self.doing, total=None)
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.close()

    def at(self, doing: str, total: int | None, completed: int) -> None:
        """Moves the bar."""
        if self._bar:
            self._bar.update(self._task, description=doing, total=total, completed=completed)

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._bar:
            self._bar.console.print(text, highlight=False)
        elif self.shown:
            print(text, file=sys.stderr, flush=True)


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
            text += f"; the lowest validation cost was {np.min(costs):.4g}, after epoch {np.argmin(costs) + 1}"
        self.line(text)


def _rate(run):
    rates = run.history.learning_rates
    return "" if rates is None else f", learning rate {rates[-1]:.3g}"
