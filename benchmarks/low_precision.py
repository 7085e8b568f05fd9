"""What rounding the averages of AdamW does to real trainings, and to the bytes of its state."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.progress import track

import ewa_optax
from benchmarks import tasks
from benchmarks.peers import Peers
from ewa_optax import storage
from ewa_optax.storage._argument import NAMED


class Kept(NamedTuple):
    """A way to keep the state of AdamW."""

    name: str
    make: Callable[[Any], optax.GradientTransformation]
    dtype: Any = jnp.float32


def stored(kept: Any) -> Callable[[Any], optax.GradientTransformation]:
    """AdamW with a storage."""
    return lambda rate: ewa_optax.adamw(rate, storage=kept)


def every_leaf(name: str, rounding: str = "stochastic") -> storage.Storage:
    """A storage that encodes small leaves too: what follows is to show what it does."""
    return dataclasses.replace(NAMED[name], min_size=0, rounding=rounding)


def all_in_bfloat16(rate: Any) -> optax.GradientTransformation:
    """For bfloat16 parameters: 6 bytes a parameter, state and parameter together."""
    return optax.chain(ewa_optax.adamw(rate, storage=every_leaf("bfloat16")), ewa_optax.round_stochastically())


WAYS = [
    Kept("float32", stored(None)),
    Kept("optax.adamw, float32", optax.adamw),
    Kept("24bit", stored(every_leaf("24bit"))),
    Kept("bfloat16", stored(every_leaf("bfloat16"))),
    Kept("float16", stored(every_leaf("float16"))),
    Kept("8bit", stored(every_leaf("8bit"))),
    Kept("float32, factored", stored((None, storage.Factored(min_size=0)))),
    Kept("8bit, factored", stored((every_leaf("8bit"), storage.Factored(min_size=0)))),
    Kept("bfloat16 to nearest", stored(every_leaf("bfloat16", "nearest"))),
    Kept("float16 to nearest", stored(every_leaf("float16", "nearest"))),
    Kept("8bit to nearest", stored(every_leaf("8bit", "nearest"))),
    Kept("bfloat16, parameters too", all_in_bfloat16, jnp.bfloat16),
    Kept("optax.adamw, all bfloat16", optax.adamw, jnp.bfloat16),
]
QUICK = ("float32", "8bit")


class Sizes(NamedTuple):
    """What to train, with what, and from how many seeds."""

    tasks: tuple[Callable[[], tasks.Task], ...]
    ways: list[Kept]
    seeds: int


def sizes(quick: bool, platform: str) -> Sizes:
    """Ten minutes on a CPU; on a GPU a larger transformer for longer."""
    if quick:
        return Sizes((lambda: tasks.regression()._replace(steps=200),), [way for way in WAYS if way.name in QUICK], 1)
    text = functools.partial(tasks.source_code, steps=1000)
    if platform != "cpu":
        text = functools.partial(tasks.source_code, context=256, width=512, layers=6, batch=32, steps=5000)
    return Sizes((tasks.regression, tasks.digits, text), WAYS, 3)


def measure(sizes: Sizes, peers: Peers) -> Iterator[dict]:
    """A table for each task: losses over those of the first way, which is float32."""
    for make in sizes.tasks:
        task = make()
        rows = [training(task, way, sizes.seeds) for way in track(sizes.ways, task.name, console=Console(stderr=True))]
        reference = float(np.mean(rows[0]["final losses"]))
        for row in rows:
            row["mean loss / float32's"] = float(np.mean(row["final losses"])) / reference
        yield {"title": task.name, "rows": rows}


def training(task: tasks.Task, way: Kept, seeds: int) -> dict:
    """Final losses, and what a step took, with all its seeds side by side."""
    params = jax.eval_shape(task.init, jax.random.key(0))
    params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, way.dtype), params)
    run = tasks.compiled(task, way.make, seeds, way.dtype)
    start = time.perf_counter()
    losses = run()
    return {
        "name": way.name,
        "seconds": (time.perf_counter() - start) / task.steps / seeds,
        "final losses": losses.tolist(),
        "bytes of state": ewa_optax.state_bytes(way.make(1e-3), params),
        "parameters": sum(p.size for p in jax.tree.leaves(params)),
    }
