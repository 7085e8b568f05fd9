"""A step of Muon beside optax's: on matrices of one shape, as leaves and in a stack, given their gradients."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import ewa_optax
from benchmarks.measuring import Variant, compared
from benchmarks.peers import Peers


class Sizes(NamedTuple):
    """How many matrices of which shape, and how many turns."""

    matrices: tuple[tuple[int, int, int], ...]
    turns: int


def sizes(quick: bool, platform: str) -> Sizes:
    """Five minutes on two cores, unless quick."""
    if quick:
        return Sizes(((2, 16, 32),), 1)
    return Sizes(((24, 512, 512), (12, 512, 2048)), 11)


def measure(sizes: Sizes, peers: Peers) -> Iterator[dict]:
    """A table for each shape."""
    for count, *shape in sizes.matrices:
        title = f"{count} matrices of {shape[0]} x {shape[1]}"
        variants = list(variants_of(count, tuple(shape)))
        yield compared(title, variants, sizes.turns) | {"parameters": count * shape[0] * shape[1]}


def variants_of(count: int, shape: tuple[int, ...]) -> Iterator[Variant]:
    """Of the same settings: five steps by Jordan's coefficients, float32, no weight decay."""
    leaves: Any = [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), count)]
    stacked = ewa_optax.stack_leaves(leaves)
    ours: dict[str, Any] = dict(weight_decay=0.0, rule="original")
    yield variant("optax.contrib.muon", optax.contrib.muon(0.02), leaves)
    yield variant("muon", ewa_optax.muon(0.02, **ours), leaves)
    yield variant("muon, stacked", ewa_optax.muon(0.02, **ours), stacked)
    yield variant("muon, stacked, 8bit", ewa_optax.muon(0.02, **ours, storage="8bit"), stacked)
    yield variant("normuon, stacked", ewa_optax.normuon(0.02, **ours), stacked)
    yield variant("muon_hyperball, stacked", ewa_optax.muon_hyperball(0.02), stacked)


def variant(name: str, optimizer: optax.GradientTransformation, params: Any) -> Variant:
    """A compiled update that is applied; parameters and state are donated from turn to turn."""

    def update(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    copies, state = jax.tree.map(jnp.copy, params), jax.jit(optimizer.init)(params)
    compiled = jax.jit(update, donate_argnums=(0, 1)).lower(copies, state, params).compile()
    carry = [(copies, state)]

    def run(i):
        carry[0] = jax.block_until_ready(compiled(*carry[0], params))

    cost = compiled.cost_analysis() or {}
    figures = {"state bytes": ewa_optax.state_bytes(optimizer, params), "operations": cost.get("flops", 0.0)}
    return Variant(name, run, figures=figures)
