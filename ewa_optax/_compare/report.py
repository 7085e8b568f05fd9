"""What the command line shows of its runs: a table and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ewa_optax import plots
from ewa_optax._compare.digits import Run

if TYPE_CHECKING:
    from rich.table import Table


def table(runs: Sequence[Run], title: str, caption: str) -> "Table":
    """A row for each run: optimizer, rate, training cost, test accuracy, seconds per epoch."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = Table(title=title, caption=caption, box=SIMPLE_HEAD)
    rows.add_column("optimizer", overflow="fold")
    for heading in ("rate", "training cost", "test accuracy", "seconds/epoch"):
        rows.add_column(heading, justify="right", overflow="fold")
    for run in runs:
        rows.add_row(
            run.optimizer,
            f"{run.learning_rate:g}",
            "diverged" if run.diverged else f"{run.epoch_costs[-1]:.4g}",
            f"{run.test_accuracy:.1%}",
            f"{run.seconds_per_epoch:.4f}",
        )
    return rows


def draw(runs: Sequence[Run], path: Path) -> None:
    """The costs of all runs, by mini-batch and by epoch, as a picture in a file."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    labels = [f"{run.optimizer}, rate {run.learning_rate:g}" + ", diverged" * run.diverged for run in runs]
    plots.minibatch_costs({label: run.minibatch_costs for label, run in zip(labels, runs, strict=True)}, ax=left)
    plots.epoch_costs({label: run.epoch_costs for label, run in zip(labels, runs, strict=True)}, ax=right)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
