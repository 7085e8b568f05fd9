"""What one waits for before the first step: the import, and programs that are traced, lowered and compiled."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import optax

from benchmarks.measuring import in_turns, rows

Seconds = Mapping[str, float]
PARTS = ("trace", "lower", "compile")
IMPORT = "the import, in a new interpreter"


def programs(name: str, optimizers: dict[str, optax.GradientTransformation], params: Any, turns: int) -> Iterator[dict]:
    """A table for each part of making the update of given gradients, each time from nothing."""
    made = {key: lambda _, optimizer=optimizer: seconds_of(optimizer, params) for key, optimizer in optimizers.items()}
    found = in_turns(made, turns, f"{name}: before the first step")
    reference = next(iter(optimizers))
    for part in PARTS:
        of_part = {key: [seconds[part] for seconds in each] for key, each in found.items()}
        title = f"{name}: to {part} the update"
        yield {"title": title, "turns": turns, "reference": reference, "rows": rows(of_part, reference)}


def seconds_of(optimizer: optax.GradientTransformation, params: Any) -> Seconds:
    """To trace, to lower and to compile an update that is applied, parameters and state donated."""
    state = jax.eval_shape(optimizer.init, params)

    def update(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    jax.clear_caches()  # Else those who come later find parts of their trace made.
    began = time.perf_counter()
    traced = jax.jit(update, donate_argnums=(0, 1)).trace(params, state, params)
    after_trace = time.perf_counter()
    lowered = traced.lower()
    after_lowering = time.perf_counter()
    lowered.compile()
    ended = time.perf_counter()
    return dict(zip(PARTS, (after_trace - began, after_lowering - after_trace, ended - after_lowering), strict=True))


def first_states(
    name: str, optimizers: dict[str, optax.GradientTransformation], params: Any, turns: int
) -> dict[str, Any]:
    """A table: the program that makes the state, compiled each time from nothing."""
    title = f"{name}: to compile the first state"
    made = {
        key: lambda _, optimizer=optimizer: seconds_of_first_state(optimizer, params)
        for key, optimizer in optimizers.items()
    }
    reference = next(iter(optimizers))
    return {
        "title": title,
        "turns": turns,
        "reference": reference,
        "rows": rows(in_turns(made, turns, title), reference),
    }


def seconds_of_first_state(optimizer: optax.GradientTransformation, params: Any) -> float:
    """To compile its `init`."""
    jax.clear_caches()
    lowered = jax.jit(optimizer.init).lower(params)
    began = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - began


def imports(turns: int) -> dict:
    """A table: optax, with all that it imports itself, and then this library."""
    found = in_turns({IMPORT: lambda _: seconds_of_imports()}, turns, IMPORT)[IMPORT]
    first, second = found[0]
    by_name = {name: [seconds[name] for seconds in found] for name in (first, second)}
    return {"title": IMPORT, "turns": turns, "reference": first, "rows": rows(by_name, first)}


def seconds_of_imports() -> Seconds:
    """As an interpreter of its own measures them."""
    # What optax and jax have made is collected in between: it would take longer than the second import, within it.
    code = (
        "import gc, time; began = time.perf_counter(); import optax; print(time.perf_counter() - began); gc.collect(); "
        "began = time.perf_counter(); import ewa_optax; print(time.perf_counter() - began)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return dict(zip(("import optax", "import ewa_optax, after it"), map(float, out.split()), strict=True))
