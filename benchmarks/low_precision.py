"""What rounding the averages of AdamW does to real trainings, to the bytes of its state, and to the time of its step.

Run as `python -m benchmarks.low_precision [--large] [--json FILE]` in a checkout, with the `test` extra installed. It
takes about ten minutes on two cores; `--large` trains a larger transformer for longer, and is meant for a GPU.
"""

import argparse
import dataclasses
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.progress import track
from rich.table import Table

import ewa_optax
from benchmarks import tasks
from benchmarks.records import parsed, write
from ewa_optax import storage


class Variant(NamedTuple):
    """A way to keep the state of AdamW."""

    name: str
    make: Callable[[Any], optax.GradientTransformation]
    dtype: Any = jnp.float32


def stored(kept: Any) -> Callable[[Any], optax.GradientTransformation]:
    """AdamW with a storage."""
    return lambda rate: ewa_optax.adamw(rate, storage=kept)


def every_leaf(name: str, rounding: str = "stochastic") -> storage.Storage:
    """A storage that encodes small leaves too: what follows is to show what it does."""
    return dataclasses.replace(storage.NAMED[name], min_size=0, rounding=rounding)


def all_in_bfloat16(rate: Any) -> optax.GradientTransformation:
    """For bfloat16 parameters: 6 bytes a parameter, state and parameter together."""
    return optax.chain(ewa_optax.adamw(rate, storage=every_leaf("bfloat16")), ewa_optax.round_stochastically())


REFERENCE = Variant("float32", stored(None))
VARIANTS = [
    REFERENCE,
    Variant("optax.adamw, float32", optax.adamw),
    Variant("24bit", stored(every_leaf("24bit"))),
    Variant("bfloat16", stored(every_leaf("bfloat16"))),
    Variant("float16", stored(every_leaf("float16"))),
    Variant("8bit", stored(every_leaf("8bit"))),
    Variant("float32, factored", stored((None, storage.Factored(min_size=0)))),
    Variant("8bit, factored", stored((every_leaf("8bit"), storage.Factored(min_size=0)))),
    Variant("bfloat16 to nearest", stored(every_leaf("bfloat16", "nearest"))),
    Variant("float16 to nearest", stored(every_leaf("float16", "nearest"))),
    Variant("8bit to nearest", stored(every_leaf("8bit", "nearest"))),
    Variant("bfloat16, parameters too", all_in_bfloat16, jnp.bfloat16),
    Variant("optax.adamw, all bfloat16", optax.adamw, jnp.bfloat16),
]


def source_code(large: bool) -> tasks.Task:
    """The transformer, for a CPU or for a GPU."""
    if large:
        return tasks.source_code(context=256, width=512, layers=6, batch=32, steps=5000)
    return tasks.source_code(steps=1000)


TASKS = {
    "regression": lambda large: tasks.regression(),
    "digits": lambda large: tasks.digits(),
    "source-code": source_code,
}


def trainings(chosen: list[tasks.Task], variants: list[Variant], seeds: int) -> list[dict]:
    """A row per task and variant."""
    rows = []
    both = [(task, variant) for task in chosen for variant in variants]
    for task, variant in track(both, "training", console=Console(stderr=True)):
        params = jax.eval_shape(task.init, jax.random.key(0))
        params = jax.tree.map(lambda p, dtype=variant.dtype: jax.ShapeDtypeStruct(p.shape, dtype), params)
        run = tasks.compiled(task, variant.make, seeds, variant.dtype)
        start = time.perf_counter()
        losses = run()
        rows.append(
            {
                "task": task.name,
                "variant": variant.name,
                "final losses": losses.tolist(),
                "seconds a step": (time.perf_counter() - start) / task.steps / seeds,
                "bytes of state": ewa_optax.state_bytes(variant.make(1e-3), params),
                "parameters": sum(p.size for p in jax.tree.leaves(params)),
            }
        )
    return rows


def step_times(shapes: dict[str, tuple[int, ...]], variants: list[Variant], repeats: int) -> list[dict]:
    """The compiled step alone, donated, all variants in turn: medians, beside a copy of the bytes it must move."""
    programs = {}
    for variant in variants:
        if "nearest" in variant.name:
            continue
        optimizer = variant.make(1e-3)
        keys = jax.random.split(jax.random.key(0), len(shapes))
        gradients = {
            name: jax.random.normal(key, shape, variant.dtype)
            for key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        params = jax.tree.map(jnp.copy, gradients)

        def step(params, state, gradients, optimizer=optimizer):
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        carry = params, optimizer.init(params)
        needed = sum(x.nbytes for x in jax.tree.leaves((carry, carry, gradients)))  # Read all; write all but gradients.
        program = jax.jit(step, donate_argnums=(0, 1)).lower(*carry, gradients).compile()
        block = jnp.ones(needed // 8, jnp.float32)
        copy = jax.jit(jnp.negative, donate_argnums=0).lower(block).compile()
        programs[variant.name] = [program, carry, gradients, copy, block, [], []]
    for _ in track(range(repeats), "timing", console=Console(stderr=True)):
        for entry in programs.values():
            program, carry, gradients, copy, block, seconds, copying = entry
            start = time.perf_counter()
            entry[1] = jax.block_until_ready(program(*carry, gradients))
            between = time.perf_counter()
            entry[4] = jax.block_until_ready(copy(block))
            copying.append(time.perf_counter() - between)
            seconds.append(between - start)
    numbers = sum(int(np.prod(shape)) for shape in shapes.values())
    return [
        {
            "variant": name,
            "seconds": float(np.median(seconds)),
            "seconds of a copy of as many bytes": float(np.median(copying)),
            "bytes accessed a parameter": program.cost_analysis()["bytes accessed"] / numbers,
        }
        for name, (program, _, _, _, _, seconds, copying) in programs.items()
    ]


def show(rows: list[dict], times: list[dict]) -> None:
    """Prints both tables."""
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        reference = np.mean(next(r["final losses"] for r in of_task if r["variant"] == REFERENCE.name))
        table = Table("storage", "final losses", "mean / float32's", "bytes", "ms a step", title=task)
        for row in of_task:
            table.add_row(
                row["variant"],
                " ".join(f"{x:.4g}" for x in row["final losses"]),
                f"{np.mean(row['final losses']) / reference:.4f}",
                f"{row['bytes of state'] / row['parameters']:.2f}",
                f"{1000 * row['seconds a step']:.2f}",
            )
        Console().print(table)
    table = Table("storage", "time / float32's", "a copy's time / time", "bytes moved", title="the step alone")
    reference = next(t["seconds"] for t in times if t["variant"] == REFERENCE.name)
    for t in times:
        share = t["seconds of a copy of as many bytes"] / t["seconds"]
        moved = t["bytes accessed a parameter"]
        table.add_row(t["variant"], f"{t['seconds'] / reference:.2f}", f"{share:.2f}", f"{moved:.1f}")
    Console().print(table)


def main() -> None:
    """Prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--large", action="store_true", help="a larger transformer, for longer: for a GPU")
    parser.add_argument("--seeds", type=int, default=3, help="how many trainings of each kind (default: 3)")
    parser.add_argument("--steps", type=int, help="how long each training is (default: its own length)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="which trainings (default: all)")
    parser.add_argument("--parameters", type=int, help="of the step that is timed (default: 10 or, large, 84 million)")
    names = [variant.name for variant in VARIANTS if variant is not REFERENCE]
    parser.add_argument("--storages", nargs="+", choices=names, default=names, help="beside float32 (default: all)")
    options = parsed(parser)
    for name in ("seeds", "steps", "parameters"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"argument --{name}: must be 1 or more, got {value}")
    numbers = options.parameters or (84_000_000 if options.large else 10_000_000)
    variants = [REFERENCE, *(variant for variant in VARIANTS if variant.name in options.storages)]
    times = step_times({"w": (-(-numbers // 1024), 1024)}, variants, repeats=20)
    chosen = [TASKS[name](options.large) for name in options.tasks]
    if options.steps:
        chosen = [task._replace(steps=options.steps) for task in chosen]
    rows = trainings(chosen, variants, options.seeds)
    show(rows, times)
    if options.json:
        versions = {"jax": jax.__version__, "optax": optax.__version__, "ewa_optax": ewa_optax.__version__}
        versions["python"] = platform.python_version()  # Whose library is the text.
        record = {"versions": versions, "device": jax.devices()[0].device_kind, "rows": rows, "steps": times}
        write(record, options.json)


if __name__ == "__main__":
    main()
