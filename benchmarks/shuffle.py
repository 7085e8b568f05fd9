"""What it costs to shuffle, and how well it is shuffled: the bijection, sorts, and other libraries.

Run as `python -m benchmarks.shuffle [--keys N] [--repeats N] [--json FILE]` in a checkout, with the `benchmark` extra
installed. Peers that are not installed are left out. Variants take turns in one process; medians are reported.
"""

import argparse
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import ewa_optax
from benchmarks.epoch import Variant, compute_only, digits, epoch, stepper, timed, versions
from benchmarks.records import parsed, write
from ewa_optax import minibatch

SIZES = (1000, 10_000, 100_000, 1_000_000, 5_000_000)
DIGITS = (64, 128, 256, 512, 1024, 2048, 4096, 16_384)
KEY = jax.random.key(0)


def whole_order(kind: str, n: int) -> Callable[[int], jax.Array]:
    """The order of all of an epoch, by its number."""
    make = jax.jit(lambda epoch: minibatch.order(n, key=KEY, epoch=epoch, kind=kind)[jnp.arange(n)])
    return lambda i: jax.block_until_ready(make(i))


def grain_order(n: int) -> Callable[[int], Any] | None:
    """Grain's shuffled index, position by position, of as many as it does in some milliseconds."""
    try:
        from grain._src.python.experimental.index_shuffle.python import index_shuffle_module
    except ImportError:
        return None
    some = min(n, 10_000)
    return lambda i: [index_shuffle_module.index_shuffle(t, max_index=n - 1, seed=i, rounds=4) for t in range(some)]


def speed(sizes: list[int], repeats: int) -> list[dict]:
    """Nanoseconds an index."""
    rows = []
    for n in sizes:
        variants = [
            Variant("bijection", whole_order("bijection", n)),
            Variant("jax.random.permutation", whole_order("permutation", n)),
            Variant("NumPy's permutation", lambda i, n=n: np.random.default_rng(i).permutation(n)),
        ]
        if grain := grain_order(n):
            variants.append(Variant("grain's index_shuffle", grain, min(n, 10_000) / n))
        rows.append({"n": n, **{name: s / n * 1e9 for name, s in timed(variants, repeats, f"{n} indices").items()}})
    return rows


def shares(sizes: list[int], repeats: int) -> list[dict]:
    """How much of an epoch of a small network on n digits (64 pixels, 64 hidden units, Adam, B = 64) the sort takes.

    More exactly, what an epoch saves with the bijection.
    """
    pixels, digit = digits()
    params = {"w": jax.random.normal(KEY, (64, 64)) / 8, "b": jnp.zeros(64), "v": jnp.zeros((64, 10))}

    def loss(params, batch):
        logits = jax.nn.relu(batch[0] @ params["w"] + params["b"]) @ params["v"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    optimizer = ewa_optax.adam(1e-3)
    step, carry, rows = stepper(loss, optimizer), (params, optimizer.init(params)), []
    for n in sizes:
        data = (jnp.resize(jnp.asarray(pixels), (n, 64)), jnp.resize(jnp.asarray(digit), (n,)))
        variants = [Variant(kind, epoch(step, carry, data, 64, order=kind)) for kind in ("permutation", "bijection")]
        variants.append(Variant("compute only", compute_only(step, carry, data, 64)))
        seconds = timed(variants, repeats, f"{n} digits")
        share = 1 - seconds["bijection"] / seconds["permutation"]
        rows.append({"n": n, "seconds": seconds, "share of the sort": share})
    return rows


def quality(keys: int) -> list[dict]:
    """Chi-square per degree of freedom of the differences of indices one, and one column of the grid, apart."""
    rows = []
    for n in (257, 4099, 65_537):
        side = math.isqrt(n - 1) + 1
        column = -(-n // (side + side % 2))  # Of the grid of the bijection.
        kinds: dict[str, Callable[[int], np.ndarray]] = {
            kind: (lambda i, make=whole_order(kind, n): np.asarray(make(i))) for kind in ("bijection", "permutation")
        }
        kinds["NumPy's permutation"] = lambda i, n=n: np.random.default_rng(i).permutation(n)
        for name, make in kinds.items():
            counts = {lag: np.zeros(n) for lag in (1, column)}
            for i in range(keys):
                order = make(i)
                for lag, count in counts.items():
                    count += np.bincount((order[lag:] - order[:-lag]) % n, minlength=n)
            found = {
                f"lag {lag}": float(((c[1:] - c[1:].mean()) ** 2 / c[1:].mean()).sum() / (n - 2))
                for lag, c in (("1", counts[1]), ("column", counts[column]))
            }
            rows.append({"n": n, "order": name, "keys": keys, **found})
    return rows


def show(record: dict) -> None:
    """Prints the tables."""
    names = [name for name in record["speed"][0] if name != "n"]
    table = Table("n", *names, title="nanoseconds an index")
    for row in record["speed"]:
        table.add_row(f"{row['n']}", *(f"{row[name]:.1f}" for name in names))
    Console().print(table)
    table = Table(
        "digits", "share of the sort", "ms with a sort", "ms with the bijection", title="an epoch of a small network"
    )
    for row in record["shares"]:
        milliseconds = [1000 * row["seconds"][kind] for kind in ("permutation", "bijection")]
        table.add_row(f"{row['n']}", f"{row['share of the sort']:.2f}", *(f"{x:.2f}" for x in milliseconds))
    Console().print(table)
    table = Table("n", "order", "lag 1", "lag of a column", title="chi-square per degree of freedom of differences")
    for row in record["quality"]:
        table.add_row(f"{row['n']}", row["order"], f"{row['lag 1']:.3f}", f"{row['lag column']:.3f}")
    Console().print(table)


def main() -> None:
    """Prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, help="how many examples to shuffle (default: %(default)s)"
    )
    parser.add_argument("--keys", type=int, default=300, help="orders of each kind to judge (default: 300)")
    parser.add_argument("--repeats", type=int, default=9, help="turns, the first one not counted (default: 9)")
    options = parsed(parser)
    if min(options.repeats, options.keys, *options.sizes) < 1:
        parser.error("--repeats, --keys and --sizes must be 1 or more")
    record = {
        "versions": versions("torch", "grain"),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "speed": speed(options.sizes, options.repeats),
        "shares": shares([n for n in DIGITS if n <= max(options.sizes)], 5 * options.repeats),
        "quality": quality(options.keys),
    }
    show(record)
    write(record, options.json)


if __name__ == "__main__":
    main()
