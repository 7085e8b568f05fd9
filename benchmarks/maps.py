"""Which 256 numbers should stand for an average: eight maps, by what they do to averages and to trainings.

Each map is a list of sizes in [0, 1], times the largest of a block; all are rounded stochastically, and no
second moment is rounded to 0.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

import ewa_optax
from benchmarks import tasks
from benchmarks.peers import Peers
from ewa_optax import storage
from ewa_optax.storage._blocks import from_blocks, into_blocks

BLOCKS = (32, 64, 128, 256)
CHOSEN = "powers 4 and 8"


class Sizes(NamedTuple):
    """Which maps in which blocks, and what to train with the blocks of 128."""

    maps: tuple[str, ...]
    blocks: tuple[int, ...]
    tasks: tuple[Callable[[], tasks.Task], ...]


def sizes(quick: bool, platform: str) -> Sizes:
    """Ten minutes on two cores, unless quick."""
    if quick:
        return Sizes((CHOSEN,), (128,), ())
    return Sizes(tuple(MAPS), BLOCKS, (tasks.regression, tasks.digits))


def measure(sizes: Sizes, peers: Peers) -> Iterator[dict]:
    """How true averages stay, and a table for each training."""
    cases = [(name, block) for block in sizes.blocks for name in sizes.maps]
    yield {"title": "how true averages stay", "rows": [fidelity(*case) for case in shown(cases, "averages")]}
    for make in sizes.tasks:
        task = make()
        reference = tasks.train(task, ewa_optax.adamw).mean()
        chosen = [(name, 128) for name in sizes.maps] + [(CHOSEN, block) for block in sizes.blocks if block != 128]
        rows = [training(task, reference, *case) for case in shown(chosen, task.name)]
        yield {"title": f"trainings, {task.name}", "rows": rows}


def shown(cases: list, title: str) -> Iterator:
    """With a bar."""
    return iter(track(cases, title, console=Console(stderr=True)))


def label(name: str, block: int) -> str:
    """A map and its blocks, in words."""
    return f"{name}, blocks of {block}"


def power(top: int, exponent: float) -> np.ndarray:
    """Powers of a linear scale."""
    return np.linspace(0, 1, top + 1) ** exponent


def softsign(top: int) -> np.ndarray:
    """The sizes x whose 2x / (1 + x) are on a linear scale: FlashOptim's map of first moments."""
    y = np.linspace(0, 1, top + 1)
    return y / (2 - y)


def logarithm(top: int, octaves: int) -> np.ndarray:
    """Zero, and a geometric sequence."""
    return np.concatenate([[0], 2.0 ** np.linspace(-octaves, 0, top)])


def minifloat(exponent: int, mantissa: int) -> np.ndarray:
    """Floats with so many bits, subnormal ones too, scaled to [0, 1]."""
    codes = np.arange(2 ** (exponent + mantissa))
    e, m = codes >> mantissa, (codes % 2**mantissa) / 2**mantissa
    sizes = np.where(e == 0, m * 2.0, (1 + m) * 2.0**e)
    return sizes / sizes[-1]


def dynamic(signed: bool) -> np.ndarray:
    """Seven decades, each with twice the numbers of the one below it: bitsandbytes' map.

    That has no -1; here the smallest size makes room for it.
    """
    decades = []
    for i in range(7):
        edges = np.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1)
        decades.append(10.0 ** (i - 6) * (edges[1:] + edges[:-1]) / 2)
    return np.sort(np.concatenate([[0], *decades[signed:], [1]]))


MAPS = {  # Of first moments, which have a sign besides, and of second moments.
    "linear": (power(127, 1), power(255, 1)),
    "softsign, square root": (softsign(127), power(255, 2)),
    "powers 2 and 2": (power(127, 2), power(255, 2)),
    "powers 3 and 6": (power(127, 3), power(255, 6)),
    "powers 4 and 8": (power(127, 4), power(255, 8)),
    "logarithm": (logarithm(127, 24), logarithm(255, 32)),
    "minifloat": (minifloat(4, 3), minifloat(5, 3)),
    "dynamic": (dynamic(True), dynamic(False)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mapped(storage.Storage):
    """8 bits by any list of sizes."""

    sizes: tuple[float, ...]
    signed: bool
    block: int

    def encode(self, average: jax.Array, bits: jax.Array) -> storage.Blocks:
        """Up or down to a size of the list."""
        x, sizes = into_blocks(jnp.abs(average), self.block), jnp.asarray(self.sizes, jnp.float32)
        scales = x.max(-1, keepdims=True)
        x /= jnp.where(scales == 0, 1, scales)
        low = jnp.clip(jnp.searchsorted(sizes, x, side="right") - 1, 0, len(self.sizes) - 2)
        share = (x - sizes[low]) / (sizes[low + 1] - sizes[low])
        code = low + (into_blocks(bits, self.block).astype(jnp.float32) * np.float32(2**-32) < share)
        if not self.signed:
            code = jnp.where(x > 0, jnp.maximum(code, 1), code)
        code = from_blocks(code, average.shape)
        codes = jnp.where(average < 0, -code, code).astype(jnp.int8) if self.signed else code.astype(jnp.uint8)
        return storage.Blocks(codes, scales[..., 0])

    def decode(self, kept: storage.Blocks) -> jax.Array:
        """The size, times the scale of its block."""
        codes = kept.codes.astype(jnp.int32)
        sizes = jnp.asarray(self.sizes, jnp.float32)[jnp.abs(codes)]
        return from_blocks(into_blocks(jnp.sign(codes) * sizes, self.block) * kept.scales[..., None], codes.shape)


def pair(name: str, block: int) -> tuple[Mapped, Mapped]:
    """The storages of both moments."""
    first, second = (tuple(float(x) for x in sizes) for sizes in MAPS[name])
    return Mapped(sizes=first, signed=True, block=block, min_size=0), Mapped(
        sizes=second, signed=False, block=block, min_size=0
    )


def kept_and_true(kept: Mapped, decay: float, scales: np.ndarray, sizes: jax.Array, squares: bool):
    """What is kept at the end, and the true average, of Gaussian gradients with a scale per step and per element."""
    ewa = ewa_optax.scale_by_ewa(decay, kept)

    def step(carry: Any, at: Any):
        state, true = carry
        t, scale = at
        g = scale * sizes * (0.1 + jax.random.normal(jax.random.fold_in(jax.random.key(0), t), sizes.shape))
        g = g**2 if squares else g
        return (ewa.update(g, state)[1], true + (1 - decay) * (g - true)), None

    @jax.jit
    def run():
        start: Any = ewa.init(sizes), jnp.zeros_like(sizes)
        end: Any = jax.lax.scan(step, start, (jnp.arange(len(scales)), jnp.asarray(scales, jnp.float32)))[0]
        return kept.decode(storage.Blocks(*end[0].average.arrays)), end[1]

    return [np.asarray(x, np.float64) for x in run()]


def fidelity(name: str, block: int) -> dict:
    """How true the averages stay: after gradients fell 20-fold, and where they differ by decades within a block."""
    equal, spread = jnp.ones(4096), jnp.exp(2 * jax.random.normal(jax.random.key(1), (4096,)))
    first, second = pair(name, block)
    row: dict = {"name": label(name, block)}
    for decay in (0.999, 0.9999):
        fallen = np.repeat([1.0, 0.05], [3000, 5000])
        kept, true = kept_and_true(second, decay, fallen, equal, squares=True)
        row[f"second moment, mean, decay {decay}"] = float(np.mean(kept / true))
        row[f"second moment, deviation of the root, decay {decay}"] = float(np.std(np.sqrt(kept / true)))
    kept, true = kept_and_true(second, 0.999, np.ones(3000), spread, squares=True)
    row["spread second moment, mean"] = float(np.mean(kept / true))
    row["spread second moment, deviation of the root"] = float(np.std(np.sqrt(kept / true)))
    kept, true = kept_and_true(first, 0.9, np.ones(300), spread, squares=False)
    row["spread first moment, error over the gradient's size"] = float(
        np.sqrt(np.mean(((kept - true) / np.asarray(spread)) ** 2))
    )
    return row


def training(task: tasks.Task, reference: float, name: str, block: int) -> dict:
    """The mean final loss over float32's."""
    losses = tasks.train(task, lambda rate: ewa_optax.adamw(rate, storage=pair(name, block)))
    return {"name": label(name, block), "mean loss / float32's": float(losses.mean() / reference)}
