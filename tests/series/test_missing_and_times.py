"""Missing values, times and their pieces, against the definition: every value with a weight by its age, in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROUGHLY

from ewa_optax import series

ROWS, LANES, PIECE = 24, 6, 8
NAN = np.nan


def defined(x, y, decay, *, debias, skip, initial=NAN, times=None):
    """For each row of one lane the mean of `x`, and its covariance with `y`, with bias and without."""
    there = ~np.isnan(x + y)
    if skip and not there.all():  # As if the other rows had not been there.
        times = None if times is None else times[there]
        found = defined(x[there], y[there], decay, debias=debias, skip=True, initial=initial, times=times)
        return np.concatenate([[(initial, NAN, NAN)], found])[np.cumsum(there)]
    clock = np.arange(len(x)) if times is None else times
    weights, values, found = np.array([0.0 if np.isnan(initial) else 1.0]), [(np.nan_to_num(initial), 0.0)], []
    for i, interval in enumerate(np.diff(clock, prepend=clock[:1] - 1)):
        weights = weights * decay**interval
        if there[i]:
            own = 1 - decay if debias else 1 - decay**interval if weights.any() else 1.0
            weights, values = np.append(weights, own), [*values, (x[i], y[i])]
            weights = weights if debias else weights / weights.sum()
        if not weights.any():
            found.append((NAN, NAN, NAN))
            continue
        w, (a, b) = weights / weights.sum(), np.array(values).T
        pairs = np.triu(np.outer(w, w), 1)  # A covariance by pairs, which cancels nothing.
        biased = (pairs * np.subtract.outer(a, a) * np.subtract.outer(b, b)).sum()
        found.append((w @ a, biased, biased / (2 * pairs.sum()) if pairs.any() else NAN))
    return np.array(found).reshape(-1, 3)


def defined_by_lane(x, y, decay, initial, times, reverse, **options):
    """The same of all lanes, by kind, row and lane."""
    turn = slice(None, None, -1 if reverse else 1)
    times = None if times is None else (-1 if reverse else 1) * times[turn]
    lanes = [
        defined(a[turn], b[turn], decay, initial=v, times=times, **options)[turn]
        for a, b, v in zip(x.T, y.T, initial, strict=True)
    ]
    return np.moveaxis(np.array(lanes), -1, 0).swapaxes(1, 2)


def some_data(seed):
    """Lanes that miss values in ways of their own, one of them all; some begin with a past, some without; and times."""
    rng = np.random.default_rng(seed)
    x, y = 5 + rng.standard_normal((2, ROWS, LANES))
    x[rng.random(x.shape) < rng.choice([0.0, 0.2, 0.6, 0.9], LANES)] = NAN
    x[: rng.integers(ROWS), 1], x[rng.integers(ROWS) :, 2], x[:, 3] = NAN, NAN, NAN
    initial = np.where(rng.random(LANES) < 0.5, NAN, rng.normal(size=LANES))
    times = 1000 + np.cumsum(rng.choice([0, 1 / 8, 1, 2.25, 20], ROWS, p=[0.1, 0.3, 0.3, 0.2, 0.1]))
    return x, y, rng.choice([0.3, 0.8, 0.95]), initial, times


def told(x, where):
    """A series whose missing values are NaN, or garbage beside a `where`."""
    there = ~np.isnan(x)
    return (np.where(there, x, 1e6), {"where": there}) if where else (x, {})


@functools.cache
def programs(method, debias, skip, reverse):
    """Of a whole series, averages and covariances, with bias or without; and averages of a piece."""
    options = dict(method=method, debias=debias, missing="skip" if skip else "decay", reverse=reverse)

    @functools.partial(jax.jit, compiler_options=ROUGHLY)
    def whole(x, y, decay, initial, **more):
        average = series.ewa(x, decay, initial=initial, **more, **options)
        return average, series.ewa_cov(x, y, decay, bias=reverse, **more, **options)

    @functools.partial(jax.jit, compiler_options=ROUGHLY)
    def piece(x, decay, state, **more):
        return series.ewa_with_state(x, decay, state, **more, **options)

    return whole, piece


@pytest.fixture(autouse=True, scope="module")
def _programs_are_dropped():
    yield
    programs.cache_clear()


def assert_close(found, expected):
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


ALL = list(itertools.product([None, "associative"], [True, False], [True, False]))
WAYS = [
    pytest.param(*way, (i + i // 2 + i // 4) % 2 == 1, marks=[pytest.mark.slow] if way[0] and way[1] != way[2] else [])
    for i, way in enumerate(ALL)
]


def drawn(count, *, debias, skip, reverse):
    """As many series, as they are told, and what defines their averages."""
    for seed in range(count):
        x, *others = some_data(seed)
        y, decay, *_ = others
        lanes = functools.partial(defined_by_lane, x, y, decay, reverse=reverse, debias=debias, skip=skip)
        yield *told(x, debias == skip), *others, lanes


@pytest.mark.parametrize(("method", "debias", "skip", "reverse"), WAYS)
def test_the_definition(method, debias, skip, reverse):
    whole, piece = programs(method, debias, skip, reverse)
    for z, where, y, decay, initial, times, lanes in drawn(6, debias=debias, skip=skip, reverse=reverse):
        means, (_, *covariances) = lanes(initial, times)[0], lanes(np.full(LANES, NAN), times)
        found = whole(z, y, decay, initial, times=times, **where)
        assert_close(found[0], means)
        assert_close(found[1], covariances[0 if reverse else 1])
        state, first = None, {"initial": initial}
        for i in () if method else range(0, ROWS, PIECE)[:: -1 if reverse else 1]:
            part = slice(i, i + PIECE)
            there = {name: each[part] for name, each in where.items()}
            averages, state = piece(z[part], decay, state, times=times[part], **first, **there)
            assert_close(averages, means[part])
            first = {}


def test_the_interval_up_to_a_row_that_is_skipped_is_part_of_the_next():
    average = jax.jit(functools.partial(series.ewa, missing="skip"), compiler_options=ROUGHLY)
    found = [average(np.array([1, NAN, 4]), 0.5, times=np.array([0, t, 2]))[-1] for t in (0.0, 1, 1.5, 2)]
    np.testing.assert_allclose(found, 3.4, rtol=1e-6)


@pytest.mark.parametrize(("method", "debias", "skip", "reverse"), [way for way in WAYS if not way.values[2]])
def test_times_one_apart_are_none(method, debias, skip, reverse):
    whole, _ = programs(method, debias, skip, reverse)
    for z, where, y, decay, initial, _, lanes in drawn(3, debias=debias, skip=skip, reverse=reverse):
        found = whole(z, y, decay, initial, times=7 + np.arange(ROWS, dtype=float), **where)
        assert_close(found[0], lanes(initial, None)[0])
        assert_close(found[1], lanes(np.full(LANES, NAN), None)[1 if reverse else 2])


def test_with_and_without_times_a_gap_is_the_same():
    average = jax.jit(functools.partial(series.ewa, debias=False, initial=NAN), compiler_options=ROUGHLY)
    for times in (None, np.arange(3)):
        np.testing.assert_allclose(average(np.array([1, NAN, 5]), 0.5, times=times), [1, 1, 11 / 3], rtol=1e-6)


def test_a_divided_series_waits_for_its_first_value():
    mesh = jax.make_mesh((4,), ("time",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("time"))
    average = jax.jit(functools.partial(series.ewa_with_state, missing="skip"), compiler_options=ROUGHLY)
    x, y, decay, initial, times = some_data(2)
    found, state = average(jax.device_put(np.float32(x), sharding), decay, initial=initial, times=times)
    expected = defined_by_lane(x, y, decay, initial, times, False, debias=True, skip=True)[0]
    assert_close(found, expected)
    assert_close(state.average, expected[-1])
    np.testing.assert_array_equal(state.waiting, np.isnan(x).all(0))


WEEK = np.cumsum(
    np.random.default_rng(0).integers(0, 400, 4 * PIECE)
)  # In milliseconds, of which a float32 has no week.
CLOCKS = {
    "seconds of a week": (6e5 + WEEK / 1000, 1000),
    "scattered over the week": (np.sort(np.random.default_rng(0).integers(0, 604_800_000, 4 * PIECE)) / 1000, 1),
    "seconds since 1970": (1_700_000_000 + WEEK / 1000, 1000),
    "nanoseconds since 1970": (1_700_000_000_000_000_000 + 1_000_000 * WEEK, 1_000_000_000),
    "unsigned": (np.uint64(2**63 - 1000) + WEEK.astype(np.uint64), 1000),
    "before zero": (-6e5 + WEEK / 1000, 1000),
    "a list": ((6e5 + WEEK / 1000).tolist(), 1000),
}


@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_week_of_milliseconds_in_chunks(clock, reverse):
    (times, per_second), x = CLOCKS[clock], 5 + np.random.default_rng(1).standard_normal(4 * PIECE)
    decay = 0.5 ** (1 / per_second) if isinstance(times, np.ndarray) and times.dtype.kind in "iu" else 0.5
    whole, state = series.ewa(x, decay, times=times, reverse=reverse), None
    for i in range(0, len(x), PIECE)[:: -1 if reverse else 1]:
        part = slice(i, i + PIECE)
        found, state = series.ewa_with_state(x[part], decay, state, times=times[part], reverse=reverse)
        np.testing.assert_allclose(found, whole[part], rtol=1e-6)
    assert state.time.dtype == np.float32
    assert (
        sum(map(int if "nano" in clock or "un" in clock else float, state.time.tolist())) == times[0 if reverse else -1]
    )


@pytest.mark.parametrize("kind", [np.int32, pytest.param(np.uint32, marks=pytest.mark.slow), np.float32])
def test_times_of_jax_go_through_scan(kind):
    start = {np.int32: -(2**31) + 3, np.uint32: 2**31 - 40, np.float32: 2**14}[kind]
    ticks = start + np.cumsum(np.random.default_rng(0).integers(0, 4, 4 * PIECE))
    x = 5 + np.random.default_rng(1).standard_normal(4 * PIECE)
    whole, times = series.ewa(x, 0.5, times=ticks), jnp.asarray(ticks.astype(kind)).reshape(4, PIECE)
    pieces = jnp.asarray(x).reshape(4, PIECE)
    _, state = series.ewa_with_state(x[:PIECE], 0.5, times=ticks[:PIECE])

    def next_piece(state, piece):
        found, state = series.ewa_with_state(piece[0], 0.5, state, times=piece[1])
        return state, found

    _, found = jax.lax.scan(next_piece, state, (pieces[1:], times[1:]))
    np.testing.assert_allclose(found.reshape(-1), whole[PIECE:], rtol=2e-6)
    lanes = jax.eval_shape(jax.vmap(next_piece, (None, (0, None))), state, (pieces, times[0]))
    assert lanes[1].shape == pieces.shape
