"""The learning rates that `python -m ewa_optax compare` uses: the best of 1 and 3 times powers of ten.

    python -m benchmarks.rates adam momentum

trains the network of `compare` by each of these optimizers (by all, without names; about a minute each), and prints the
rate of the lowest training cost after 20 epochs of batches of 64, by the geometric mean over seeds 0, 1 and 2.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.progress import track

from ewa_optax._compare import digits
from ewa_optax._optimizers import OPTIMIZERS

RATES = [float(f"{digit}e{power}") for power in range(-4, 2) for digit in (1, 3)]
SEEDS, EPOCHS, BATCH_SIZE = (0, 1, 2), 20, 64


def cost(name: str, rate: float, seeds: Sequence[int] = SEEDS, epochs: int = EPOCHS) -> float:
    """The geometric mean of the final training costs; infinity where one of them is no number."""
    found = []
    for seed in seeds:
        sets = digits.load_digits(seed)
        *_, last = digits.train(name, rate, *sets, epochs=epochs, batch_size=BATCH_SIZE, seed=seed)
        found.append(last.epoch_costs[-1])
    mean = np.exp(np.mean(np.log(found)))
    return float(mean) if np.isfinite(mean) else np.inf


def best(name: str, rates: Sequence[float] = RATES, **smaller) -> float:
    """The rate of the lowest cost."""
    bar = track(rates, f"{name:<18}", console=Console(stderr=True), transient=True)
    costs = [cost(name, rate, **smaller) for rate in bar]
    return rates[int(np.argmin(costs))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each optimizer, as it stands in `digits.LEARNING_RATES`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rates", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(OPTIMIZERS)} (default: all)")
    names = parser.parse_args(arguments).names or list(OPTIMIZERS)
    if unknown := [name for name in names if name not in OPTIMIZERS]:
        parser.error(f"there is no optimizer {unknown[0]!r}; --help lists them")
    for name in names:
        rate = best(name)
        used = digits.LEARNING_RATES.get(name)
        print(f'    "{name}": {rate},' + ("" if rate == used else f"  # compare uses {used}"), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
