"""Averages of series against pandas, polars, SciPy, numba, and what one writes in JAX; and which way suits a shape.

The peers are on the CPU; what is on a GPU is compared with a copy there.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measuring import Variant, compared
from benchmarks.peers import Peers
from ewa_optax import series

DECAY = 0.99
METHODS = ("serial", "associative", "blocks")
SHAPES = (
    ((10_000,), 0), ((1_000_000,), 0), ((10_000_000,), 0), ((100_000_000,), 0),
    ((5_000_000, 2), 0), ((1_000_000, 8), 0), ((10_000, 1000), 0), ((1000, 10_000), 1),
    ((100_000, 100), 1), ((100, 100_000), 0), ((10_000, 10_000), 0), ((10_000, 10_000), 1),
)  # fmt: skip
"""Shapes, and their axis of time."""


class Sizes(NamedTuple):
    """Points of a series, methods to name, axes of time of a thousand series, shapes with theirs, and turns."""

    points: int
    methods: tuple[str, ...]
    axes: tuple[int, ...]
    shapes: tuple[tuple[tuple[int, ...], int], ...]
    turns: int


def sizes(quick: bool, platform: str) -> Sizes:
    """A tenth of the points, and no other ways than that which is taken, if quick."""
    if quick:
        return Sizes(1_000_000, (), (0,), (), 3)
    return Sizes(10_000_000, METHODS, (0, 1), SHAPES, 9)


def measure(sizes: Sizes, peers: Peers) -> Iterator[dict]:
    """One long series, a thousand either way, gaps, irregular times; and a table for each shape."""
    yield long(sizes, peers)
    for axis in sizes.axes:
        yield batch(sizes, axis, peers)
    yield missing(sizes.points, sizes.turns, peers)
    yield irregular(sizes.points, sizes.turns, peers)
    for shape, axis in sizes.shapes:
        yield ways(shape, axis, sizes.turns)


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


@functools.cache
def numba_average(numba: Any) -> Callable[[np.ndarray, np.float32], np.ndarray]:
    """A loop over each row, compiled once."""

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

    return average


def peer(name: str, make: Callable[[Any], Callable[[int], Any]], peers: Peers, module: str = "") -> list[Variant]:
    """A variant made of a module (of its own name, unless another is given); none where that is not installed."""
    found = peers(module or name)
    return [] if found is None else [Variant(name, make(found))]


def on_a_cpu(rows: np.ndarray, peers: Peers) -> list[Variant]:
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

    def lfilter(module):
        return lambda i: module.lfilter(*ratio, rows, axis=1)

    def numba(module):
        return lambda i: numba_average(module)(rows, np.float32(DECAY))

    return [
        *peer("pandas", pandas, peers),
        *peer("polars", polars, peers),
        *peer("scipy.signal.lfilter", lfilter, peers, "scipy.signal"),
        *peer("numba", numba, peers),
    ]


def values(*shape: int) -> np.ndarray:
    """Normal float32 numbers."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def long(sizes: Sizes, peers: Peers) -> dict:
    """One long series."""
    x = values(sizes.points)
    array = jnp.asarray(x)
    average = functools.partial(series.ewa, decay=DECAY)
    variants = [
        Variant("series.ewa", on_device(average, array)),
        *(Variant(f"series.ewa, {m}", on_device(functools.partial(average, method=m), array)) for m in sizes.methods),
        Variant("jax.lax.scan", on_device(scan, array)),
        Variant("jax.lax.associative_scan", on_device(associative, array)),
        Variant("a copy", on_device(copy, array)),
        *on_a_cpu(x[None], peers),
    ]
    return compared(f"{sizes.points} points", variants, sizes.turns)


def batch(sizes: Sizes, axis: int, peers: Peers) -> dict:
    """A thousand series, along the first or the second axis."""
    rows = values(1000, max(2, sizes.points // 1000))
    array = jnp.asarray(rows if axis else np.ascontiguousarray(rows.T))
    average = functools.partial(series.ewa, decay=DECAY, axis=axis)
    variants = [
        Variant("series.ewa", on_device(average, array)),
        *(Variant(f"series.ewa, {m}", on_device(functools.partial(average, method=m), array)) for m in sizes.methods),
        Variant("jax.lax.scan", on_device(jax.vmap(scan) if axis else scan, array)),
        Variant("jax.lax.associative_scan", on_device(functools.partial(associative, axis=axis), array)),
        Variant("a copy", on_device(copy, array)),
        *on_a_cpu(rows, peers),
    ]
    return compared(f"1000 series of {rows.shape[1]}, time {'last' if axis else 'first'}", variants, sizes.turns)


def missing(points: int, turns: int, peers: Peers) -> dict:
    """A tenth of the values missing."""
    x = np.where(np.random.default_rng(1).random(points, np.float32) < 0.1, np.float32(np.nan), values(points))

    def pandas(module):
        column = module.Series(x.astype(np.float64))
        return lambda i: column.ewm(alpha=1 - DECAY).mean()

    def polars(module):
        column = module.Series(x).fill_nan(None)
        return lambda i: column.ewm_mean(alpha=1 - DECAY, ignore_nulls=False)

    variants = [
        Variant("series.ewa", on_device(functools.partial(series.ewa, decay=DECAY), jnp.asarray(x))),
        *peer("pandas", pandas, peers),
        *peer("polars", polars, peers),
    ]
    return compared(f"{points} points, a tenth missing", variants, turns)


def irregular(points: int, turns: int, peers: Peers) -> dict:
    """One or two seconds apart."""
    x, times = values(points), np.cumsum(np.random.default_rng(1).integers(1, 3, points))

    def average(x, times):
        return series.ewa(x, series.decay_from_half_life(60.0), times=times)

    def pandas(module):
        column, index = module.Series(x.astype(np.float64)), module.to_datetime(times * 10**9)
        return lambda i: column.ewm(halflife="60s", times=index).mean()

    variants = [
        Variant("series.ewa", on_device(average, jnp.asarray(x), jnp.asarray(times.astype(np.int32)))),
        *peer("pandas", pandas, peers),
    ]
    return compared(f"{points} points at irregular times", variants, turns)


def ways(shape: tuple[int, ...], axis: int, turns: int) -> dict:
    """Each way on a shape."""
    array, average = jnp.asarray(values(*shape)), functools.partial(series.ewa, decay=DECAY, axis=axis)
    variants = [Variant(method, on_device(functools.partial(average, method=method), array)) for method in METHODS]
    variants.append(Variant("a copy", on_device(copy, array)))
    return compared(f"shape {' x '.join(map(str, shape))}, axis {axis}", variants, turns)
