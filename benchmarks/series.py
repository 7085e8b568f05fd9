"""Averages of series against pandas, polars, SciPy, numba, and what one writes in JAX; and which way suits a shape.

Run as `python -m benchmarks.series [--points N] [--repeats N] [--cases ...] [--json FILE]` in a checkout, with the
`benchmark` extra installed. Peers that are not installed are left out. All variants take turns in one process; medians
are reported. What is on a GPU is compared with a copy there.
"""

import argparse
import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.signal import lfilter

from benchmarks.epoch import Variant, timed, versions
from benchmarks.records import parsed, write
from ewa_optax import series

DECAY = 0.99
CASES = ("long", "batch", "gaps", "shapes")
METHODS = ("serial", "associative", "blocks")
SHAPES = (
    ((10_000,), 0), ((1_000_000,), 0), ((10_000_000,), 0), ((100_000_000,), 0),
    ((5_000_000, 2), 0), ((1_000_000, 8), 0), ((10_000, 1000), 0), ((1000, 10_000), 1),
    ((100_000, 100), 1), ((100, 100_000), 0), ((10_000, 10_000), 0), ((10_000, 10_000), 1),
)  # fmt: skip
"""Shapes, and their axis of time."""


def on_device(function: Callable[..., Any], *arrays: Any) -> Callable[[int], Any]:
    """A turn of a compiled function."""
    compiled = jax.jit(function)
    return lambda i: jax.block_until_ready(compiled(*arrays))


def scan(x: jax.Array) -> jax.Array:
    """The formula in `jax.lax.scan`, with the bias corrected."""

    def step(carry, x):
        v, t = carry
        v, t = v + (1 - DECAY) * (x - v), t + 1
        return (v, t), v / (1 - DECAY**t)

    return jax.lax.scan(step, (jnp.zeros_like(x[0]), 0), x)[1]


def associative(x: jax.Array, axis: int = 0) -> jax.Array:
    """The same by `jax.lax.associative_scan`."""

    def then(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    _, v = jax.lax.associative_scan(then, (jnp.full_like(x, DECAY), (1 - DECAY) * x), axis=axis)
    t = jnp.arange(1, x.shape[axis] + 1).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return v / (1 - DECAY**t)


def copy(x: jax.Array) -> jax.Array:
    """As little as reads and writes every value."""
    return x * 1.0000001


def peer(name: str, make: Callable[[Any], Callable[[int], Any]], module: str) -> list[Variant]:
    """A variant that needs a module; none where that is not installed."""
    try:
        return [Variant(name, make(importlib.import_module(module)))]
    except ImportError:
        return []


def numba_average(numba: Any, rows: np.ndarray) -> Callable[[int], Any]:
    """A loop over each row, compiled."""

    @numba.njit(fastmath=True)
    def average(rows, decay):
        out = np.empty_like(rows)
        for i in range(rows.shape[0]):
            v, total = np.float32(0), np.float32(0)
            for t in range(rows.shape[1]):
                v += (np.float32(1) - decay) * (rows[i, t] - v)
                total += (np.float32(1) - decay) * (np.float32(1) - total)
                out[i, t] = v / total
        return out

    return lambda i: average(rows, np.float32(DECAY))


def peers(rows: np.ndarray) -> list[Variant]:
    """Libraries that average the rows of an array on a CPU: each in the types and the layout it likes."""
    share = 1 - DECAY
    columns = {f"{i}": row for i, row in enumerate(rows)}
    ratio = np.array([share], np.float32), np.array([1, -DECAY], np.float32)

    def pandas(module):
        frame = module.DataFrame({name: row.astype(np.float64) for name, row in columns.items()})
        return lambda i: frame.ewm(alpha=share).mean()

    def polars(module):
        frame = module.DataFrame(columns)
        return lambda i: frame.select(module.all().ewm_mean(alpha=share))

    return [
        *peer("pandas", pandas, "pandas"),
        *peer("polars", polars, "polars"),
        Variant("scipy.signal.lfilter", lambda i: lfilter(*ratio, rows, axis=1)),
        *peer("numba", lambda module: numba_average(module, rows), "numba"),
    ]


def values(*shape: int) -> np.ndarray:
    """Normal float32 numbers."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def long(points: int, repeats: int) -> dict[str, float]:
    """One long series."""
    x = values(points)
    array = jnp.asarray(x)
    average = functools.partial(series.ewa, decay=DECAY)
    variants = [
        Variant("series.ewa", on_device(average, array)),
        *(Variant(f"series.ewa, {m}", on_device(functools.partial(average, method=m), array)) for m in METHODS),
        Variant("jax.lax.scan", on_device(scan, array)),
        Variant("jax.lax.associative_scan", on_device(associative, array)),
        Variant("a copy", on_device(copy, array)),
        *peers(x[None]),
    ]
    return timed(variants, repeats, f"{points} points")


def batch(points: int, repeats: int, axis: int) -> dict[str, float]:
    """A thousand series, along the first or the second axis."""
    rows = values(1000, max(2, points // 1000))
    array = jnp.asarray(rows if axis else np.ascontiguousarray(rows.T))
    average = functools.partial(series.ewa, decay=DECAY, axis=axis)
    variants = [
        Variant("series.ewa", on_device(average, array)),
        *(Variant(f"series.ewa, {m}", on_device(functools.partial(average, method=m), array)) for m in METHODS),
        Variant("jax.lax.scan", on_device(jax.vmap(scan) if axis else scan, array)),
        Variant("jax.lax.associative_scan", on_device(functools.partial(associative, axis=axis), array)),
        Variant("a copy", on_device(copy, array)),
        *peers(rows),
    ]
    return timed(variants, repeats, f"1000 series of {rows.shape[1]}")


def gaps(points: int, repeats: int) -> dict[str, float]:
    """A tenth of the values missing, and irregular times."""
    rng = np.random.default_rng(1)
    x = np.where(rng.random(points, np.float32) < 0.1, np.float32(np.nan), values(points))
    times = np.cumsum(rng.integers(1, 3, points))
    array, ticks, share = jnp.asarray(x), jnp.asarray(times.astype(np.int32)), 1 - DECAY

    def pandas(module):
        column = module.Series(x.astype(np.float64))
        return lambda i: column.ewm(alpha=share).mean()

    def polars(module):
        column = module.Series(x).fill_nan(None)
        return lambda i: column.ewm_mean(alpha=share, ignore_nulls=False)

    def pandas_times(module):
        column, index = module.Series(x.astype(np.float64)), module.to_datetime(times * 10**9)
        return lambda i: column.ewm(halflife="60s", times=index).mean()

    average = functools.partial(series.ewa, decay=DECAY)
    irregular = on_device(lambda x, t: series.ewa(x, series.decay_from_half_life(60.0), times=t), array, ticks)
    variants = [
        Variant("series.ewa, a tenth missing", on_device(average, array)),
        *peer("pandas, a tenth missing", pandas, "pandas"),
        *peer("polars, a tenth missing", polars, "polars"),
        Variant("series.ewa, irregular times", irregular),
        *peer("pandas, irregular times", pandas_times, "pandas"),
    ]
    return timed(variants, repeats, f"{points} points with gaps")


def shapes(points: int, repeats: int) -> list[dict]:
    """Each way on each shape."""
    rows = []
    for shape, axis in SHAPES:
        sizes = list(shape)
        sizes[axis] = max(2, sizes[axis] * points // 10_000_000)
        array = jnp.asarray(values(*sizes))
        average = functools.partial(series.ewa, decay=DECAY, axis=axis)
        variants = [Variant(method, on_device(functools.partial(average, method=method), array)) for method in METHODS]
        found = timed([*variants, Variant("a copy", on_device(copy, array))], repeats, f"{tuple(sizes)}, axis {axis}")
        rows.append({"shape": sizes, "axis": axis, "seconds": found})
    return rows


def show(record: dict) -> None:
    """Prints the tables."""
    for title, seconds in record["seconds"].items():
        table = Table(title, "ms", "ratio")
        first = next(iter(seconds.values()))
        for name, value in seconds.items():
            table.add_row(name, f"{1000 * value:.3g}", f"{value / first:.2f}")
        Console().print(table)
    if record["shapes"]:
        table = Table("shape", "axis", *record["shapes"][0]["seconds"], title="ms")
        for row in record["shapes"]:
            cells = (f"{1000 * value:.3g}" for value in row["seconds"].values())
            table.add_row(" x ".join(map(str, row["shape"])), str(row["axis"]), *cells)
        Console().print(table)


def main() -> None:
    """Prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--points", type=int, default=10_000_000, help="of the first cases (default: 10000000)")
    parser.add_argument("--repeats", type=int, default=9, help="turns, the first one not counted (default: 9)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="which comparisons (default: all)")
    options = parsed(parser)
    if options.repeats < 1 or options.points < 1000:
        parser.error("--repeats must be 1 or more and --points 1000 or more")
    points, repeats = options.points, options.repeats
    cases = {
        "long": lambda: {f"{points} points": long(points, repeats)},
        "batch": lambda: {
            f"1000 series of {points // 1000}, {name}": batch(points, repeats, axis)
            for axis, name in enumerate(("time first", "time last"))
        },
        "gaps": lambda: {f"{points} points with gaps": gaps(points, repeats)},
    }
    record = {
        "versions": versions("pandas", "polars", "scipy", "numba"),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "points": points,
        "seconds": {name: found for case in options.cases if case in cases for name, found in cases[case]().items()},
        "shapes": shapes(points, repeats) if "shapes" in options.cases else [],
    }
    show(record)
    write(record, options.json)


if __name__ == "__main__":
    main()
