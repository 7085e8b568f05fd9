"""How far a step of Adam is from the same step in float64, ours and optax's, by decay."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ewa_optax
from benchmarks.peers import Peers

DECAYS = (0.9, 0.99, 0.999, 0.9999, 0.99999)
WIDTH = 100


class Sizes(NamedTuple):
    """How old the averages get."""

    steps: int


def sizes(quick: bool, platform: str) -> Sizes:
    """A tenth, if quick."""
    return Sizes(2000 if quick else 20_000)


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


def measure(sizes: Sizes, peers: Peers) -> Iterator[dict]:
    """A row per decay."""
    gradients = np.random.default_rng(0).standard_normal((sizes.steps, WIDTH)).astype(np.float32)
    at = sorted({t for t in (1, 10, 100, 2000) if t < sizes.steps} | {sizes.steps})
    rows = []
    for b2 in DECAYS:
        expected = updates_in_float64(gradients, b2, at)
        ours = worst_median_error(ewa_optax.adam(1.0, b2=b2), gradients, expected)
        theirs = worst_median_error(optax.adam(1.0, b2=b2), gradients, expected)
        rows.append({"name": f"{b2:g}", "ewa_optax": ours, "optax": theirs})
    yield {"title": f"largest median relative error of an Adam step, up to step {sizes.steps}", "rows": rows}
