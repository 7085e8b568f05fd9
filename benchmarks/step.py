"""The step of Adam: one large leaf in every storage, and trees of many leaves, beside optax, torch and the limit.

And what comes before it: the import, the first state, and a program that is traced, lowered and compiled.

The limit is a loop in C on a CPU, and on a GPU a copy of as many bytes as `optax.adam` has to read and write.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ewa_optax
from benchmarks import adams, before_the_first_step, trees
from benchmarks.adams import COPY, LOOP, RATE
from benchmarks.measuring import Variant, compared
from benchmarks.peers import Peers
from ewa_optax.storage import Factored

STORAGES = ("bfloat16", "float16", "24bit", "8bit")
FULL = ()  # No storage: float32.
MOST_FLATTENED = 1000
"""Leaves: what it takes to compile their concatenation grows with the square, to minutes."""
GIVEN, TAKEN = "update of given gradients", "step, with the gradient of a loss"


class Sizes(NamedTuple):
    """Turns by parameters of one leaf, trees by name and turns with each, and torch's device: "cpu", or a GPU's.

    Of the trees whose update is compiled the shapes alone count, and the optimizers; of the leaf whose first state is
    compiled, the shape.
    """

    leaf: dict[int, int]
    trees: dict[str, dict[str, tuple[int, ...]]]
    turns: int
    device: str
    compiled: dict[str, tuple[dict[str, tuple[int, ...]], tuple[str, ...], int]]
    first: tuple[int, int]


def sizes(quick: bool, platform: str) -> Sizes:
    """GPT-2 is as wide as it is on a GPU, narrower on a CPU."""
    device = "cpu" if platform == "cpu" else "cuda"
    if quick:
        small = trees_of(trees.gpt2(32, 1), (10, 10_000), (20, 64))
        compiled = compiled_trees(trees.gpt2(256, 1), (10, 10_000), FULL, 2)
        return Sizes({1_000_000: 5}, small, 5, device, compiled, (1000, 768))
    whole = trees.gpt2(256 if device == "cpu" else trees.WIDTH)
    compiled = compiled_trees(trees.gpt2(), (1000, 10_000), STORAGES, 6)
    leaf, many = {10_000_000: 30, 50_000_000: 10}, trees_of(whole, (1000, 10_000), (3000, 64))
    return Sizes(leaf, many, 10, device, compiled, (trees.VOCABULARY, trees.WIDTH))


def compiled_trees(transformer: dict, equal: tuple[int, int], storages: tuple[str, ...], turns: int) -> dict[str, Any]:
    """Trees, the storages with which the first is compiled, and turns."""
    (first, shapes), (second, others) = trees_of(transformer, equal).items()
    return {first: (shapes, storages, turns), second: (others, FULL, turns)}


def trees_of(transformer: dict, *equal: tuple[int, int]) -> dict[str, dict]:
    """The shapes by name."""
    numbers = sum(math.prod(shape) for shape in transformer.values())
    named = {f"GPT-2, {len(transformer)} leaves, {numbers} in all": transformer}
    return named | {f"{count} leaves of {size}": trees.equal_leaves(count, size) for count, size in equal}


def measure(sizes: Sizes, peers: Peers) -> Iterator[dict]:
    """A table for each leaf and dtype, and two for each tree."""
    for numbers in sizes.leaf:
        yield one_leaf(numbers, jnp.float32, sizes, peers)
    yield one_leaf(next(iter(sizes.leaf)), jnp.bfloat16, sizes, peers)
    for name, shapes in sizes.trees.items():
        for with_loss in (False, True):
            yield many_leaves(name, shapes, with_loss, sizes, peers)
    for name, (shapes, storages, turns) in sizes.compiled.items():
        params = {leaf: jax.ShapeDtypeStruct(shape, jnp.float32) for leaf, shape in shapes.items()}
        yield from before_the_first_step.programs(f"{name}, float32", optimizers(storages), params, turns)
    yield first_state(sizes.first, sizes.turns)
    yield before_the_first_step.imports(sizes.turns)


def optimizers(storages: tuple[str, ...]) -> dict[str, optax.GradientTransformation]:
    """Those whose programs are made."""
    return {
        "optax.adam": optax.adam(RATE),
        "ewa_optax.adam": ewa_optax.adam(RATE),
        "optax.adamw": optax.adamw(RATE),
        "ewa_optax.adamw": ewa_optax.adamw(RATE),
        **{f"ewa_optax.adam, {kept}": ewa_optax.adam(RATE, storage=kept) for kept in storages},
    }


def first_state(shape: tuple[int, int], turns: int) -> dict:
    """Of one leaf, in every storage."""
    candidates = {
        "optax.adam": optax.adam(RATE),
        "ewa_optax.adam": ewa_optax.adam(RATE),
        **{f"ewa_optax.adam, {kept}": ewa_optax.adam(RATE, storage=kept) for kept in STORAGES},
        "ewa_optax.adam, factored": ewa_optax.adam(RATE, storage=(None, Factored())),
    }
    rows, columns = shape
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    return before_the_first_step.first_states(f"{rows} x {columns}, float32", candidates, leaf, turns)


def one_leaf(numbers: int, dtype: Any, sizes: Sizes, peers: Peers) -> dict:
    """The update alone: with one array, a gradient costs every library the same."""
    params = trees.normal({"w": (numbers,)}, dtype)
    variants = [
        adams.of_jax("optax.adam", optax.adam(RATE), params),
        adams.of_jax("ewa_optax.adam", ewa_optax.adam(RATE), params),
        *(adams.of_jax(f"ewa_optax.adam, {kept}", ewa_optax.adam(RATE, storage=kept), params) for kept in STORAGES),
        *adams.of_torch(params, peers, sizes.device),
        *limits(params, sizes.device, peers),
    ]
    return table(f"one leaf of {numbers}, {dtype.dtype.name}: {GIVEN}", variants, numbers, sizes.leaf[numbers])


def many_leaves(name: str, shapes: dict, with_loss: bool, sizes: Sizes, peers: Peers) -> dict:
    """The tree as leaves and in stacks, and as one vector, which no model has: without a cost of leaves."""
    params = trees.normal(shapes)
    vector = jnp.array(np.concatenate([np.asarray(x).ravel() for x in params.values()]))
    candidates = {
        "optax.adam": (optax.adam(RATE), params),
        "ewa_optax.adam": (ewa_optax.adam(RATE), params),
        "optax.flatten(optax.adam)": (optax.flatten(optax.adam(RATE)), params),
        "ewa_optax.adam, stacked leaves": (ewa_optax.adam(RATE), ewa_optax.stack_leaves(params)),
        "ewa_optax.adam, one vector": (ewa_optax.adam(RATE), vector),
    }
    if len(shapes) > MOST_FLATTENED:
        del candidates["optax.flatten(optax.adam)"]
    loss = loss_of_the_leaves if with_loss else None
    variants = [
        *(adams.of_jax(name, optimizer, kept, loss) for name, (optimizer, kept) in candidates.items()),
        *adams.of_torch(params, peers, sizes.device, with_loss),
        *limits(params, sizes.device, peers),
    ]
    return table(f"{name}, float32: {TAKEN if with_loss else GIVEN}", variants, vector.size, sizes.turns)


def loss_of_the_leaves(params: Any) -> jax.Array:
    """The loss, which wants a tree: of leaves, or of one vector as it is."""
    return trees.half_squared_distance(params.unstack() if isinstance(params, ewa_optax.Stacked) else params)


def limits(params: Any, device: str, peers: Peers) -> list[Variant]:
    """What no step can be faster than, by far."""
    numbers = sum(x.size for x in jax.tree.leaves(params))
    full = device == "cpu" and all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    loop = adams.loop_in_c(numbers, peers) if full else []
    return [*loop, adams.copy(adams.bytes_to_move(optax.adam(RATE), params))]


def table(title: str, variants: list[Variant], numbers: int, turns: int) -> dict:
    """The comparison with `optax.adam`, and what its figures are a parameter and of the limit."""
    found = compared(title, variants, turns)
    seconds = {row["name"]: row["seconds"] for row in found["rows"]}
    limit = LOOP if LOOP in seconds else COPY
    for row in found["rows"]:
        row["ns a parameter"] = row["seconds"] / numbers * 1e9
        row["share of the limit"] = seconds[limit] / row["seconds"]
        if "bytes accessed" in row:
            row["bytes accessed a parameter"] = row.pop("bytes accessed") / numbers
    return found | {"limit": limit, "parameters": numbers}
