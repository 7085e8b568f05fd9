"""The options of `compare`, and what it does."""

import argparse
import math
import os
from pathlib import Path
from typing import NoReturn

from ewa_optax._compare import digits, report

PICTURE_TYPES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; --help lists the options\n")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of `compare`, to its parser."""
    known, default = list(digits.LEARNING_RATES), ["gradient_descent", "momentum", "rmsprop", "adam"]
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=known,
        metavar="NAME",
        default=default,
        help=f"any of {', '.join(known)} (default: {' '.join(default)})",
    )
    parser.add_argument("--epochs", type=_whole_number(1), default=20, help="passes over the data (default: 20)")
    parser.add_argument("--batch-size", type=_whole_number(1), default=64, help="examples per mini-batch (default: 64)")
    parser.add_argument(
        "--learning-rate", type=_rate, help="one for all optimizers (default: each one's best of a coarse grid)"
    )
    parser.add_argument(
        "--seed", type=_whole_number(0), default=0, help="decides split, initial weights and shuffles (default: 0)"
    )
    parser.add_argument(
        "--out",
        type=_picture,
        default="ewa_optax_compare.png",
        help=f"file for the picture, ending in {', '.join(PICTURE_TYPES)} (default: %(default)s)",
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
    try:
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}; make it first")
        new = not os.path.lexists(path)
        path.open("ab").close()
    except OSError as failure:
        raise argparse.ArgumentTypeError(
            f"can't write to {text!r} ({failure.strerror}); name another file"
        ) from failure
    if new:
        path.unlink()
    return path


def compare(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Trains with each optimizer, prints a table and saves a picture."""
    import matplotlib
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    matplotlib.use("agg")
    train_set, test_set = digits.load_digits(options.seed)
    if options.batch_size > len(train_set.digit):
        parser.error(
            f"argument --batch-size: must be at most the number of training examples, {len(train_set.digit)}, "
            f"got {options.batch_size}"
        )
    console, names, runs = Console(), dict.fromkeys(options.optimizers), {}
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bars = {name: progress.add_task(name, total=options.epochs) for name in names}
        trainings = {
            name: digits.train(
                name,
                options.learning_rate or digits.LEARNING_RATES[name],
                train_set,
                test_set,
                epochs=options.epochs,
                batch_size=options.batch_size,
                seed=options.seed,
            )
            for name in names
        }
        for _ in range(options.epochs):  # In turn, so that what else the machine does slows all of them.
            for name, training in trainings.items():
                runs[name] = next(training)
                progress.update(bars[name], advance=1, description=f"{name}, cost {runs[name].epoch_costs[-1]:.4f}")
    title = f"{len(train_set.digit)} handwritten digits, mini-batches of {options.batch_size}, epochs: {options.epochs}"
    caption = (
        f"rate: {'as given' if options.learning_rate else 'the best of a coarse grid on this task'}; "
        f"accuracy on {len(test_set.digit)} other digits; "
        "seconds: medians without compilation, in turns (a busy machine blurs them)"
    )
    try:
        console.print(report.table(list(runs.values()), title, caption))
    finally:
        report.draw(list(runs.values()), options.out)
    print(f"picture: {options.out}", flush=True)
    return 0
