"""The bytes a parameter of AdamW in each storage: those of its step, by `peak_bytes`, and those of a whole process."""

import functools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ewa_optax
from benchmarks import resident, trees
from benchmarks.adams import RATE
from benchmarks.measuring import in_turns
from benchmarks.peers import Peers
from benchmarks.step import STORAGES, trees_of

LAYERS, EXAMPLES, STEPS = 16, 8, 3
FIRST = "optax.adam"
WAYS: dict[str, optax.GradientTransformation] = {
    FIRST: optax.adam(RATE),
    "optax.adamw": optax.adamw(RATE),
    "ewa_optax.adamw": ewa_optax.adamw(RATE),
    **{f"ewa_optax.adamw, {kept}": ewa_optax.adamw(RATE, storage=kept) for kept in STORAGES},
}
TRAINED = tuple(name for name in WAYS if name != FIRST)
FIGURES = ("peak of init", "the program", "peak of the steps")


class Sizes(NamedTuple):
    """Shapes of trees by name; of what is trained the width of a layer, the ways, and turns."""

    trees: dict[str, dict[str, tuple[int, ...]]]
    width: int
    ways: tuple[str, ...]
    turns: int


def sizes(quick: bool, platform: str) -> Sizes:
    """100 million parameters in 16 layers, up to 3 GB a process, or one million."""
    if quick:
        return Sizes({"one leaf of 1000000": {"w": (1_000_000,)}}, 250, (TRAINED[0], TRAINED[-1]), 1)
    few = {"one leaf of 8000000": {"w": (8_000_000,)}, "6 leaves of 2000000": trees.equal_leaves(6, 2_000_000)}
    return Sizes(few | trees_of(trees.gpt2(), (100, 10_000)), 2500, TRAINED, 1)


def measure(sizes: Sizes, peers: Peers) -> Iterator[dict]:
    """A table for each tree, and one for each net that is trained."""
    for name, shapes in sizes.trees.items():
        yield peaks(name, shapes)
    if sys.platform == "linux":
        for net in NETS:
            yield processes(net, sizes)
    else:
        peers.missing.append("Linux, which tells what a process holds")


def peaks(tree: str, shapes: dict[str, tuple[int, ...]]) -> dict:
    """What XLA says of a step: nothing of these sizes is allocated."""
    params: Any = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    numbers = sum(map(math.prod, shapes.values()))
    rows = []
    for name, optimizer in WAYS.items():
        state, peak = (of(optimizer, params) / numbers for of in (ewa_optax.state_bytes, ewa_optax.peak_bytes))
        rows.append({"name": name, "state": state, "peak": peak})
    return {"title": f"{tree}: bytes a parameter of a step", "parameters": numbers, "rows": rows}


def side_by_side(params: Any, x: jax.Array) -> jax.Array:
    """Each layer sees the data: no gradient has to wait for another, and XLA forms all of them first."""
    return sum((jnp.mean(jnp.tanh(x @ w) ** 2) for w in params), jnp.zeros(()))


def in_a_row(params: Any, x: jax.Array) -> jax.Array:
    """Each layer sees what the one before it makes: gradients come one by one, and each can be used up at once."""
    for w in params:
        x = jnp.tanh(x @ w)
    return jnp.mean(x**2)


NETS: dict[str, Callable[[Any, jax.Array], jax.Array]] = {"side by side": side_by_side, "in a row": in_a_row}


def processes(net: str, sizes: Sizes) -> dict:
    """What processes hold that train such a net on a CPU, each of them new."""
    numbers = LAYERS * sizes.width**2
    found = in_turns(
        {way: functools.partial(held_by, way, net, sizes.width) for way in sizes.ways}, sizes.turns, f"layers {net}"
    )
    medians = {way: (np.median(turns, axis=0) / numbers).tolist() for way, turns in found.items()}
    rows = [{"name": way, **dict(zip(FIGURES, held, strict=True))} for way, held in medians.items()]
    title = f"{numbers} parameters in {LAYERS} layers {net}: bytes a parameter of a process"
    return {"title": title, "turns": sizes.turns, "parameters": numbers, "rows": rows}


def held_by(way: str, net: str, width: int, turn: int) -> tuple[int, ...]:
    """What `training` prints in an interpreter of its own."""
    command = [sys.executable, "-c", "import sys; from benchmarks import memory; memory.training(*sys.argv[1:])"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*command, way, net, str(width)], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return tuple(map(int, done.stdout.split()))


def training(way: str, net: str, width: str) -> None:
    """Trains for a few steps, and prints the FIGURES of this process, over what it held without parameters."""
    optimizer, loss, shape = WAYS[way], NETS[net], (int(width), int(width))
    x = jax.block_until_ready(jnp.ones((EXAMPLES, int(width))))
    before = resident.now()

    params = jax.block_until_ready([jnp.full(shape, 0.01) for _ in range(LAYERS)])
    resident.forget_peak()
    state = jax.block_until_ready(optimizer.init(params))
    peak_of_init, held = resident.peak(), resident.now()

    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state).compile()
    program = resident.now() - held
    resident.forget_peak()
    for _ in range(STEPS):
        params, state = jax.block_until_ready(compiled(params, state))
    print(peak_of_init - before, program, resident.peak() - before)
