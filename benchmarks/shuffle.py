"""What it costs to shuffle, and how well it is shuffled: the bijection, sorts, and other libraries."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ewa_optax
from benchmarks.epoch import compute_only, digits, epoch, stepper
from benchmarks.measuring import Variant, compared
from benchmarks.peers import Peers
from ewa_optax import minibatch

KEY = jax.random.key(0)


class Sizes(NamedTuple):
    """How many indices to shuffle, examples of a small network, indices of orders to judge and how many, and turns."""

    indices: tuple[int, ...]
    examples: tuple[int, ...]
    judged: tuple[int, ...]
    orders: int
    turns: int


def sizes(quick: bool, platform: str) -> Sizes:
    """What all of them cost, or the small ones."""
    if quick:
        return Sizes((1000, 100_000), (512,), (4099,), 20, 5)
    examples = (64, 128, 256, 512, 1024, 2048, 4096, 16_384)
    return Sizes((1000, 10_000, 100_000, 1_000_000, 5_000_000), examples, (257, 4099, 65_537), 300, 9)


def measure(sizes: Sizes, peers: Peers) -> Iterator[dict]:
    """A table for each number of indices and of examples, and one of the quality."""
    for n in sizes.indices:
        yield speed(n, sizes.turns, peers)
    yield from shares(sizes.examples, 5 * sizes.turns)
    yield quality(sizes.judged, sizes.orders)


def whole_order(kind: str, n: int) -> Callable[[int], jax.Array]:
    """The order of all of an epoch, by its number."""
    make = jax.jit(lambda epoch: minibatch.order(n, key=KEY, epoch=epoch, kind=kind)[jnp.arange(n)])
    return lambda i: jax.block_until_ready(make(i))


def grain_order(n: int, peers: Peers) -> list[Variant]:
    """Grain's shuffled index, position by position, of as many as it does in some milliseconds."""
    module = peers("grain._src.python.experimental.index_shuffle.python.index_shuffle_module")
    if module is None:
        return []
    some = min(n, 10_000)

    def run(i):
        return [module.index_shuffle(t, max_index=n - 1, seed=i, rounds=4) for t in range(some)]

    return [Variant("grain's index_shuffle", run, some / n)]


def speed(n: int, turns: int, peers: Peers) -> dict:
    """Orders of n examples; nanoseconds an index besides."""
    variants = [
        Variant("bijection", whole_order("bijection", n)),
        Variant("jax.random.permutation", whole_order("permutation", n)),
        Variant("NumPy's permutation", lambda i: np.random.default_rng(i).permutation(n)),
        *grain_order(n, peers),
    ]
    table = compared(f"{n} indices", variants, turns)
    for row in table["rows"]:
        row["ns an index"] = row["seconds"] / n * 1e9
    return table


def shares(examples: tuple[int, ...], turns: int) -> Iterator[dict]:
    """What an epoch of a small network on n digits (64 pixels, 64 hidden units, Adam, B = 64) saves with the bijection.

    That is 1 less the ratio of the bijection.
    """
    pixels, digit = digits()
    params = {"w": jax.random.normal(KEY, (64, 64)) / 8, "b": jnp.zeros(64), "v": jnp.zeros((64, 10))}

    def loss(params, batch):
        logits = jax.nn.relu(batch[0] @ params["w"] + params["b"]) @ params["v"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    optimizer = ewa_optax.adam(1e-3)
    step, carry = stepper(loss, optimizer), (params, optimizer.init(params))
    for n in examples:
        data = (jnp.resize(jnp.asarray(pixels), (n, 64)), jnp.resize(jnp.asarray(digit), (n,)))
        variants = [Variant(kind, epoch(step, carry, data, 64, order=kind)) for kind in ("permutation", "bijection")]
        variants.append(Variant("compute only", compute_only(step, carry, data, 64)))
        yield compared(f"an epoch of a small network on {n} digits", variants, turns)


def quality(judged: tuple[int, ...], orders: int) -> dict:
    """Chi-square per degree of freedom of the differences of indices one, and one column of the grid, apart."""
    rows = []
    for n in judged:
        side = math.isqrt(n - 1) + 1
        column = -(-n // (side + side % 2))  # Of the grid of the bijection.
        kinds: dict[str, Callable[[int], np.ndarray]] = {
            kind: (lambda i, make=whole_order(kind, n): np.asarray(make(i))) for kind in ("bijection", "permutation")
        }
        kinds["NumPy's permutation"] = lambda i, n=n: np.random.default_rng(i).permutation(n)
        for name, make in kinds.items():
            counts = {lag: np.zeros(n) for lag in (1, column)}
            for i in range(orders):
                order = make(i)
                for lag, count in counts.items():
                    count += np.bincount((order[lag:] - order[:-lag]) % n, minlength=n)
            found = {
                f"lag {lag}": float(((c[1:] - c[1:].mean()) ** 2 / c[1:].mean()).sum() / (n - 2))
                for lag, c in (("1", counts[1]), ("column", counts[column]))
            }
            rows.append({"name": f"{name}, {n} indices", **found})
    return {"title": f"chi-square per degree of freedom of differences of indices, {orders} orders", "rows": rows}
