"""The command line: `python -m ewa_optax` compares optimizers on handwritten digits."""

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ewa_optax import __version__, _compare

PICTURE_TYPES = (".png", ".pdf", ".svg", ".jpg", ".webp")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = _Parser(prog="python -m ewa_optax", description="Optimizers for JAX over exponentially weighted averages.")
    parser.add_argument("--version", action="version", version=f"ewa_optax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    compare_parser = commands.add_parser(
        "compare", help="(the default) train one network on digits with each optimizer"
    )
    _add_compare_options(compare_parser)
    if not arguments or arguments[0] not in ("compare", "-h", "--help", "--version"):
        arguments.insert(0, "compare")
    options = parser.parse_args(arguments)
    try:
        return compare(options, compare_parser)
    except ModuleNotFoundError as missing:
        compare_parser.exit(
            1, f"{compare_parser.prog}: {missing.name} is missing; python -m pip install 'ewa-optax[demo]' brings it\n"
        )
    except KeyboardInterrupt:
        compare_parser.exit(130, "\ninterrupted\n")


def _add_compare_options(parser: argparse.ArgumentParser) -> None:
    known = list(_compare.LEARNING_RATES)
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=known,
        metavar="NAME",
        default=["gradient_descent", "momentum", "rmsprop", "adam"],
        help=f"any of {', '.join(known)} (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=_whole_number(1), default=20, help="passes over the data (default: 20)")
    parser.add_argument("--batch-size", type=_whole_number(1), default=64, help="examples a mini-batch (default: 64)")
    parser.add_argument(
        "--learning-rate", type=_rate, help="one for all optimizers (default: each one's best of a coarse grid)"
    )
    parser.add_argument("--seed", type=_whole_number(0), default=0, help="of split, weights and shuffles (default: 0)")
    parser.add_argument(
        "--out", type=_picture, default=Path("ewa_optax_compare.png"), help="the picture (default: %(default)s)"
    )


def _whole_number(least: int):
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value < 2**31:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {2**31 - 1}, got {text!r}")
        return value

    return parse


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number more than 0, got {text!r}")
    return value


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in PICTURE_TYPES:
        raise argparse.ArgumentTypeError(f"must end in one of {', '.join(PICTURE_TYPES)}, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}; make it first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"can't write to {text!r}; name another file")
    return path


def compare(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Trains with each optimizer, prints a table and saves a picture."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    train_set, test_set = _compare.load_digits(options.seed)
    if options.batch_size > len(train_set.digit):
        parser.error(
            f"argument --batch-size: must be at most the number of training examples, {len(train_set.digit)}, "
            f"got {options.batch_size}"
        )
    console, runs = Console(), {}
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for name in dict.fromkeys(options.optimizers):
            rate = options.learning_rate or _compare.LEARNING_RATES[name]
            bar = progress.add_task(name, total=options.epochs)
            for run in _compare.train(
                name,
                rate,
                train_set,
                test_set,
                epochs=options.epochs,
                batch_size=options.batch_size,
                seed=options.seed,
            ):
                progress.update(bar, advance=1, description=f"{name}, cost {run.epoch_costs[-1]:.4f}")
                runs[name] = run
    console.print(_table(runs.values(), options, len(train_set.digit), len(test_set.digit)))
    _draw(runs.values(), options.out)
    print(f"picture: {options.out}")
    return 0


def _table(runs, options, train_size, test_size):
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=f"{train_size} handwritten digits, {options.epochs} epochs of mini-batches of {options.batch_size}",
        caption=f"accuracy on {test_size} other digits; seconds are medians, without compilation",
        box=SIMPLE_HEAD,
    )
    table.add_column("optimizer")
    for heading in ("rate", "training cost", "test accuracy", "seconds/epoch"):
        table.add_column(heading, justify="right")
    for run in runs:
        final_cost = run.epoch_costs[-1]
        table.add_row(
            run.optimizer,
            f"{run.learning_rate:g}",
            f"{final_cost:.4g}" if math.isfinite(final_cost) else "diverged",
            f"{run.test_accuracy:.1%}",
            f"{run.seconds_per_epoch:.4f}",
        )
    return table


def _draw(runs, path):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    from ewa_optax import plots

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    label = {run.optimizer: f"{run.optimizer}, rate {run.learning_rate:g}" for run in runs}
    plots.minibatch_costs({label[run.optimizer]: run.minibatch_costs for run in runs}, ax=left)
    plots.epoch_costs({label[run.optimizer]: run.epoch_costs for run in runs}, ax=right)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
