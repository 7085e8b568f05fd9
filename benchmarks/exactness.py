"""How far a step of Adam is from the same step in float64, ours and optax's, by decay.

Run as `python -m benchmarks.exactness [--steps N] [--json FILE]` in a checkout, with the `demo` extra installed.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import ewa_optax
from benchmarks.records import parsed, write

DECAYS = (0.9, 0.99, 0.999, 0.9999, 0.99999)
WIDTH = 100


def updates_in_float64(gradients: np.ndarray, b2: float, at: list[int]) -> dict[int, np.ndarray]:
    """Adam's updates, as the paper has them, at some steps."""
    m, v, updates = np.zeros(WIDTH), np.zeros(WIDTH), {}
    for t, g in enumerate(gradients.astype(np.float64), start=1):
        m, v = 0.9 * m + (1 - 0.9) * g, b2 * v + (1 - b2) * g**2
        if t in at:
            updates[t] = -(m / (1 - 0.9**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
    return updates


def worst_median_error(optimizer, gradients: np.ndarray, expected: dict[int, np.ndarray]) -> float:
    """The largest of the median relative errors at the steps of `expected`."""

    @jax.jit
    def run(state, gradients):
        def step(state, g):
            updates, state = optimizer.update(g, state)
            return state, updates

        return jax.lax.scan(step, state, gradients)[1]

    updates = np.asarray(run(optimizer.init(jnp.zeros(WIDTH)), gradients))
    return max(float(np.median(np.abs(updates[t - 1] - u) / np.abs(u))) for t, u in expected.items())


def measure(steps: int) -> list[dict]:
    """A row per decay."""
    gradients = np.random.default_rng(0).standard_normal((steps, WIDTH)).astype(np.float32)
    at = sorted({t for t in (1, 10, 100, 2000) if t < steps} | {steps})
    rows = []
    for b2 in DECAYS:
        expected = updates_in_float64(gradients, b2, at)
        ours = worst_median_error(ewa_optax.adam(1.0, b2=b2), gradients, expected)
        theirs = worst_median_error(optax.adam(1.0, b2=b2), gradients, expected)
        rows.append({"b2": b2, "ewa_optax": ours, "optax": theirs})
    return rows


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=20_000, help="how old the averages get (default: 20000)")
    options = parsed(parser)
    if options.steps < 1:
        parser.error(f"argument --steps: must be 1 or more, got {options.steps}")
    rows = measure(options.steps)
    title = f"largest median relative error of an Adam step, up to step {options.steps}"
    table = Table("b2", "ewa_optax", f"optax {optax.__version__}", title=title)
    for row in rows:
        table.add_row(f"{row['b2']:g}", f"{row['ewa_optax']:.1e}", f"{row['optax']:.1e}")
    Console().print(table)
    if options.json:
        versions = {"jax": jax.__version__, "optax": optax.__version__, "ewa_optax": ewa_optax.__version__}
        record = {"versions": versions, "backend": jax.default_backend(), "steps": options.steps, "rows": rows}
        write(record, options.json)


if __name__ == "__main__":
    main()
