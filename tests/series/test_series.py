"""Averages of series: pandas is the twin, in float64; and what pandas has not."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import ROUGHLY
from jax import export

from ewa_optax import series
from ewa_optax.series._ewa import _averages
from ewa_optax.series._recurrence import recurrence

LENGTHS = [0, 1, 2, 1000, 100_003]
DECAYS = [0.0, 0.5, 0.9, 0.98, 0.999, 0.99999]
N = 1000  # Of most series here, so that they share programs.
GAPS = ["none", "random", "start", "everywhere", "long"]
MISSING = {False: "decay", True: "skip"}
METHODS = [None, "serial", "associative", "blocks"]


def noisy(n, gaps="none", seed=0, shape=()):
    rng = np.random.default_rng([seed, n])
    x = 5 + rng.standard_normal((n, *shape), np.float32)
    missing = {
        "none": np.zeros(n, bool),
        "random": rng.random(n) < 0.3,
        "start": np.arange(n) <= n // 3,
        "everywhere": np.ones(n, bool),
        "long": (np.arange(n) > n // 4) & (np.arange(n) < n // 2),
    }[gaps]
    x[missing] = np.nan
    return x


def window(x, decay, adjust=True, ignore_na=False, times=None):
    x, keywords = np.asarray(x, np.float64), {"adjust": adjust, "ignore_na": ignore_na}
    frame = pd.DataFrame(x.reshape(len(x), math.prod(x.shape[1:])))
    if times is not None:
        ticks = pd.to_datetime(np.int64(np.round(1e9 * np.asarray(times, np.float64))))
        return frame.ewm(halflife=pd.Timedelta(seconds=math.log(0.5) / math.log(decay)), times=ticks, **keywords)
    # Not 0.5 itself: pandas 3 takes that for irregular times without adjustment (its issue 66523).
    share = np.nextafter(0.5, 1) if decay == 0.5 else 1 - decay
    return frame.ewm(alpha=share, **keywords)


def exact(x, decay, *, debias=True, initial=None, missing="decay", times=None, reverse=False):
    """What `series.ewa` should find along the first axis, by pandas; an `initial` of numbers is a value before it."""
    x, times = np.asarray(x, np.float64), None if times is None else np.asarray(times, np.float64)
    if reverse:
        x, times = x[::-1], None if times is None else times[-1] - times[::-1]
    before = not debias and not (initial is not None and np.isnan(initial))
    if times is not None and missing == "skip" and np.isnan(x).any():
        # Of pandas' rows left out: by itself it drops the interval up to a missing value.
        lanes = []
        for lane in x.reshape(len(x), -1).T:
            there = ~np.isnan(lane)
            found = exact(lane[there], decay, debias=debias, initial=initial, times=times[there]) if there.any() else []
            lanes.append(np.concatenate([[(initial or 0.0) if before else np.nan], found])[np.cumsum(there)])
        found = np.stack(lanes, 1).reshape(x.shape)
        return found[::-1] if reverse else found
    if before:
        x = np.concatenate([np.full((1, *x.shape[1:]), initial or 0.0), x])
        times = None if times is None else np.append(times[0] - 1, times)
    found = window(x, decay, debias, missing == "skip", times).mean().to_numpy().reshape(x.shape)[int(before) :]
    return found[::-1] if reverse else found


def options(adjust, ignore_na):
    return {"debias": adjust, "missing": MISSING[ignore_na]}


def assert_close(found, expected, tolerance, scale):
    found, expected = np.asarray(found, np.float64), np.asarray(expected).reshape(np.shape(found))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    if (~np.isnan(expected)).any():
        assert np.nanmax(np.abs(found - expected)) <= tolerance * scale


# Programs that several tests run; none is kept for other modules. Those of derivatives are large; in double precision,
# or compared with less, machine code of any quality will do.
roughly_compiled = functools.partial(jax.jit, compiler_options=ROUGHLY)


@functools.cache
def lowered(shape, decay=0.97, method=None):
    return jax.jit(lambda x: series.ewa(x, decay, method=method)).lower(jax.ShapeDtypeStruct(shape, jnp.float32))


@functools.cache
def compiled(shape, decay=0.97, method=None):
    return lowered(shape, decay, method).compile()


@functools.cache
def small(shape, method=None):
    return lowered(shape, method=method).compile(ROUGHLY)


@pytest.fixture(autouse=True, scope="module")
def _programs_are_dropped():
    yield
    for programs in (lowered, compiled, small, average_of, deviation, with_slopes):
        programs.cache_clear()


# Equal to pandas.

# (adjust, ignore_na): two that differ in both, and the other two.
CHOICES = [((True, False), (False, True)), ((True, True), (False, False))]
QUICK = {(0, False, 0), (1, False, 0), (1000, False, 0), (1000, True, 1), (100_003, False, 0)}


@pytest.mark.parametrize(
    ("n", "x64", "choices"),
    [
        pytest.param(n, x64, CHOICES[i], marks=() if (n, x64, i) in QUICK else pytest.mark.slow)
        for n, x64, i in itertools.product(LENGTHS, [False, True], [0, 1])
    ],
)
def test_means_are_those_of_pandas(n, x64, choices):
    with jax.enable_x64(x64):
        for decay, gaps, (adjust, ignore_na) in itertools.product(DECAYS, GAPS, choices):
            x = noisy(n, gaps).astype(np.float64) / 3 if x64 else noisy(n, gaps)
            initial = None if adjust else np.nan
            found = series.ewa(x, decay, initial=initial, **options(adjust, ignore_na))
            assert found.dtype == x.dtype
            assert_close(found, window(x, decay, adjust, ignore_na).mean(), 1e-12 if x64 else 2e-6, 10)


def check_moments(n, x64, decays, all_gaps, choices, statistics=("var", "std", "cov")):
    with jax.enable_x64(x64):
        for decay, gaps, (adjust, ignore_na, bias), name in itertools.product(decays, all_gaps, choices, statistics):
            dtype = np.float64 if x64 else np.float32
            x = noisy(n, gaps).astype(dtype)
            y = (x + noisy(n, "random" if gaps == "random" else "none", seed=1)).astype(dtype)
            other = [y] if name == "cov" else []
            found = getattr(series, f"ewa_{name}")(x, *other, decay, bias=bias, **options(adjust, ignore_na))
            pairs = getattr(window(x, decay, adjust, ignore_na), name)
            expected = pairs(*(pd.DataFrame(y.astype(np.float64)) for y in other), bias=bias)
            if gaps == "long" and not bias:
                # A variance does not change in a gap; but pandas loses its digits there, as its weights cancel, and
                # has them again at the second value.
                missing, found = np.isnan(x), np.asarray(found)
                lost = missing | np.roll(missing, 1)
                assert decay == 0 or not np.isnan(found[1:]).any()
                np.testing.assert_allclose(found[missing], np.full(missing.sum(), found[n // 4]), rtol=1e-6)
                found, expected = np.where(lost, np.nan, found), expected.mask(lost[:, None])
            assert_close(found, expected, 1e-11 if x64 else 2e-6, 10)


ALL = list(itertools.product([True, False], repeat=3))


@pytest.mark.parametrize(
    ("statistic", "choice"),
    [("cov", (True, True, False)), ("std", (True, False, False)), ("var", (False, False, True))],
)
def test_variances_deviations_and_covariances_are_those_of_pandas(statistic, choice):
    check_moments(300, False, DECAYS, GAPS, [choice], [statistic])


@pytest.mark.slow
@pytest.mark.parametrize(("n", "x64"), [(1, False), (300, True), (300, False)])
def test_all_variances_deviations_and_covariances_are_those_of_pandas(n, x64):
    check_moments(n, x64, DECAYS, GAPS, ALL)


@pytest.mark.slow
@pytest.mark.parametrize("choice", ALL)
@pytest.mark.parametrize("x64", [False, True])
def test_long_variances_deviations_and_covariances_are_those_of_pandas(choice, x64):
    check_moments(100_003, x64, DECAYS, GAPS, [choice])


# But where pandas is at odds with the weights that it documents, and has without times: (1 - alpha)**2 and alpha.
TIMED = set(itertools.product([False, True], [False, True], GAPS[:3])) - {(False, False, "random")}


@pytest.mark.parametrize(("adjust", "ignore_na", "gaps"), sorted(TIMED))
def test_irregular_times_are_those_of_pandas(adjust, ignore_na, gaps):
    x, ticks = noisy(N, gaps), np.cumsum(np.random.default_rng(0).integers(0, 4 * 10**9, N))
    given = pd.Series(x.astype(np.float64), pd.to_datetime(ticks))
    there = given.dropna() if ignore_na else given  # By itself, pandas drops the interval up to a missing value.
    expected = there.ewm(halflife="3s", times=there.index, adjust=adjust).mean().reindex(given.index).ffill()
    decay, initial = series.decay_from_half_life(3.0), None if adjust else np.nan
    found = series.ewa(x, decay, times=ticks / 1e9, initial=initial, **options(adjust, ignore_na))
    assert_close(found, expected, 2e-6, 10)
    rounded = series.ewa(x, decay, times=jnp.asarray(ticks / 1e9), initial=initial, **options(adjust, ignore_na))
    assert_close(rounded, expected, 2e-5, 10)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.uint8, np.uint32])
def test_differences_of_short_integers_do_not_wrap(kind):
    low, high = (0, 250) if np.issubdtype(kind, np.unsignedinteger) else (-100, 120)
    times = np.repeat([low, high - 20, high], [N - 2, 1, 1]).astype(kind)
    expected = series.ewa(noisy(N), 0.99, times=times.astype(np.float64))
    for each in (times, jnp.asarray(times)):
        np.testing.assert_array_equal(series.ewa(noisy(N), 0.99, times=each), expected)


def test_nanoseconds_since_1970_keep_their_digits():
    x, ticks = noisy(N), 1_700_000_000_000_000_000 + np.cumsum(np.random.default_rng(0).integers(1, 1000, N))
    near = series.ewa(x, 0.999, times=ticks - ticks[0])
    np.testing.assert_array_equal(series.ewa(x, 0.999, times=ticks), near)


@pytest.mark.parametrize(("debias", "gaps"), [(True, "random"), (False, "none")])
def test_times_one_apart_are_steps(debias, gaps):
    x, keywords = noisy(N, gaps), {"debias": debias, "initial": 2.0}
    plain = series.ewa(x, 0.9, **keywords)
    np.testing.assert_allclose(series.ewa(x, 0.9, times=np.arange(N), **keywords), plain, 1e-5)


# Worked numbers of the course.


def test_the_first_days():
    days = np.append([40.0, 49.0], np.zeros(N - 2))
    found = series.ewa(days, 0.98)
    np.testing.assert_allclose(found[:2], [40, (0.0196 * 40 + 0.02 * 49) / 0.0396], rtol=1e-6)
    np.testing.assert_allclose(series.ewa(days, 0.98, debias=False)[0], 0.8, rtol=1e-6)


@pytest.mark.parametrize(("decay", "steps"), [(0.5, 2), (0.9, 10), (0.98, 50), (0.999, 1000), (0.9995, 2000)])
def test_the_steps_a_decay_averages_over(decay, steps):
    np.testing.assert_allclose(series.window_from_decay(decay), steps, rtol=1e-9)
    left = np.asarray(series.weights(decay, 2001), np.float64)
    assert len(left) == 2001
    np.testing.assert_allclose(left[steps] / left[0], decay**steps, rtol=1e-5)
    np.testing.assert_allclose(left[: steps + 1].sum(), 1 - decay ** (steps + 1), rtol=1e-5)


def test_smoother_curves_lag():
    days = np.arange(N)
    season = 10 + 10 * np.sin(2 * np.pi * days / 365)
    low = np.asarray(series.ewa(season, 0.98, debias=False))[:365]
    quick, slow = (np.asarray(series.ewa(season, decay))[:365] for decay in (0.9, 0.98))
    assert days[300] > np.argmax(slow) > np.argmax(quick) > np.argmax(season[:365])
    assert np.all(low[:50] < 0.7 * slow[:50])
    np.testing.assert_allclose(low[-1], slow[-1], rtol=1e-3)


@pytest.mark.parametrize("constant", [1.0, 1 / 3, -1e30])
def test_a_constant_stays_constant(constant):
    found = compiled((10_000_000,), 0.99999)(np.full(10_000_000, constant, np.float32))
    assert np.abs(np.asarray(found) / np.float32(constant) - 1).max() <= 1e-6


# Laws.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "shape",
    [(20, 3), *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((70, 2), (500, 5), (3000,), (1000, 300)))],
)
def test_methods_agree(method, shape):
    x = noisy(shape[0], shape=shape[1:])
    np.testing.assert_allclose(small(shape, method)(x), exact(x, 0.97), rtol=2e-6)
    x[5:15] = np.nan
    np.testing.assert_allclose(small(shape, method)(x), exact(x, 0.97), rtol=2e-6)


@pytest.mark.parametrize("axis", [1, 2, *(pytest.param(axis, marks=pytest.mark.slow) for axis in (0, -1))])
def test_any_axis(axis):
    x = noisy(40, shape=(35, 15))
    average = roughly_compiled(functools.partial(series.ewa, axis=axis))
    for gaps in (False, True):
        x[np.random.default_rng(0).random(x.shape) < 0.3 * gaps] = np.nan
        found = np.moveaxis(np.asarray(average(x, 0.9)), axis, 0)
        np.testing.assert_allclose(found, exact(np.moveaxis(x, axis, 0), 0.9), rtol=2e-6)


@pytest.mark.parametrize("n", [33, *(pytest.param(n, marks=pytest.mark.slow) for n in (16_385, 50_000))])
@pytest.mark.parametrize("reverse", [pytest.param(False, marks=pytest.mark.slow), True])
def test_any_length(n, reverse):
    x = noisy(n)
    assert_close(series.ewa(x, 0.995, reverse=reverse), exact(x, 0.995, reverse=reverse), 2e-6, 10)


@pytest.mark.slow
@pytest.mark.parametrize("gaps", ["none", "random"])
def test_backwards_is_forwards_of_what_is_turned(gaps):
    x, y, times = noisy(90, gaps), noisy(90, seed=1), np.cumsum(np.random.default_rng(0).random(90))
    for extra, turned in (({}, {}), ({"times": times}, {"times": times[-1] - times[::-1]})):
        for average in (series.ewa, series.ewa_var, lambda x, d, **k: series.ewa_cov(x, y[::-1], d, **k)):
            found = average(x, 0.9, reverse=True, **extra)
            if average not in (series.ewa, series.ewa_var):
                found = series.ewa_cov(x, y, 0.9, reverse=True, **extra)
            np.testing.assert_allclose(found, average(x[::-1], 0.9, **turned)[::-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "keywords",
    [{}, *(pytest.param(k, marks=pytest.mark.slow) for k in ({"debias": False, "initial": 3.0}, {"reverse": True}))],
    ids=str,
)
@pytest.mark.parametrize(
    "shape", [(40,), *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((1000, 2), (40_000,)))]
)
def test_all_at_once_is_piece_by_piece(shape, keywords):
    """What accelerators do, and derivatives: with those a CPU does it too."""
    for gaps in ("none", "random"):
        x = noisy(shape[0], gaps, shape=shape[1:])
        at_once, _, _ = with_slopes(series.ewa, **keywords)(x, 0.99)
        assert_close(at_once, exact(x, 0.99, **keywords), 2e-6, 10)


PIECES = [{}, {"debias": False}, {"missing": "skip"}, {"debias": False, "initial": np.nan}, {"reverse": True}]


@pytest.mark.parametrize("keywords", PIECES, ids=str)
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("gaps", [pytest.param("none", marks=pytest.mark.slow), "start"])
def test_pieces_are_the_whole(keywords, timed, gaps):
    x, times = noisy(160, gaps, shape=(3,)), np.cumsum(np.random.default_rng(0).random(160)).astype(np.float32)

    def clock(part):
        return {"times": times[part]} if timed else {}

    if timed and keywords == {"debias": False}:  # See TIMED.
        whole = np.asarray(series.ewa(x, 0.95, **keywords, **clock(slice(None))))
    else:
        whole = exact(x, 0.95, **keywords, **clock(slice(None)))
    parts, state, found = [slice(0, 40), slice(40, 40), slice(40, 80), slice(80, 120), slice(120, 160)], None, []
    for part in parts[::-1] if "reverse" in keywords else parts:
        first = {} if state is None else {"initial": None}
        piece, state = series.ewa_with_state(x[part], 0.95, state, **{**keywords, **first}, **clock(part))
        found.append(piece)
    together = np.concatenate(found[::-1] if "reverse" in keywords else found)
    assert_close(together, whole, 2e-6, 10)


def test_a_past_whose_weight_has_faded_out_of_the_range_of_floats_is_still_one():
    x = np.full((40, 3), np.nan, np.float32)
    x[0] = 5
    for keywords in ({}, {"debias": False, "initial": np.nan}):
        _, state = series.ewa_with_state(x, 0.01, **keywords)
        keywords.pop("initial", None)
        np.testing.assert_array_equal(series.ewa_with_state(np.full_like(x, np.nan), 0.01, state, **keywords)[0], 5)


def test_a_state_goes_through_scan():
    x = noisy(160)
    _, state = series.ewa_with_state(x[:0], 0.95)

    def next_piece(state, piece):
        found, state = series.ewa_with_state(piece, 0.95, state)
        return state, found

    state, found = jax.lax.scan(next_piece, state, x.reshape(4, 40))
    whole = exact(x, 0.95)
    np.testing.assert_allclose(np.asarray(found).reshape(160), whole, rtol=2e-6)
    np.testing.assert_allclose(state.average, whole[-1], rtol=2e-6)


def test_where_tells_what_is_there():
    x, there = noisy(50, shape=(3,)), np.arange(50) % 3 > 0
    found = series.ewa(x, 0.9, where=there[:, None])
    np.testing.assert_allclose(found, exact(np.where(there[:, None], x, np.nan), 0.9), rtol=2e-6)
    x[10] = np.nan
    spread = np.isnan(np.asarray(series.ewa(x, 0.9, where=there[:, None] | True)))
    assert not spread[:10].any()
    assert spread[10:].all()
    covered = series.ewa_cov(x, x, 0.9, where=np.arange(50)[:, None] != 10, bias=True)
    np.testing.assert_allclose(covered, window(x, 0.9).var(bias=True), rtol=1e-5, atol=1e-12)
    spread = np.isnan(np.asarray(series.ewa_cov(x, x, 0.9, where=True, bias=True)))
    assert not spread[:10].any()
    assert spread[10:].all()


def test_an_infinity_is_a_value():
    x = noisy(N)
    x[60] = np.inf
    found = np.asarray(series.ewa(x, 0.9))
    assert np.isfinite(found[:60]).all()
    assert found[60] == np.inf
    np.testing.assert_allclose(found[:60], exact(x[:60], 0.9), rtol=2e-6)


MORE_METHODS = [pytest.param(method, marks=pytest.mark.slow) for method in METHODS[1:3]]


@pytest.mark.parametrize("method", [None, *MORE_METHODS])
@pytest.mark.parametrize("decay", [0.5, 0.999])
@pytest.mark.parametrize("gaps", [False, True])
def test_one_huge_value_is_forgotten(decay, method, gaps):
    x = noisy(100_003)
    x[[0, 15_999, 20_000, 39_000]] = 1e10
    if gaps:
        x[16_030:16_055], x[1:200] = np.nan, np.nan
    np.testing.assert_allclose(series.ewa(x, decay, method=method), exact(x, decay), rtol=1e-5)
    if method == "associative" or gaps:
        return
    first, then = np.append(np.full(N - 2, np.nan), np.float32([1, 1e8])).astype(np.float32), noisy(100_003, seed=1)
    _, state = series.ewa_with_state(first, decay)
    whole = exact(np.append([1, 1e8], then), decay)[2:]
    np.testing.assert_allclose(series.ewa_with_state(then, decay, state, method=method)[0], whole, rtol=1e-5)


def test_small_changes_of_large_values_keep_their_digits():
    x = 1e6 + noisy(100_003)
    assert_close(series.ewa(x, 0.999), exact(x, 0.999), 1e-7, 1e6)
    assert_close(series.ewa_std(x[:300], 0.999), window(x[:300], 0.999).std(), 0.02, 1)


@pytest.mark.slow
def test_deviations_of_small_changes_of_large_values_keep_their_digits():
    x = 1e6 + noisy(50_000)
    assert_close(series.ewa_std(x, 0.999), window(x, 0.999).std(), 0.02, 1)


def test_what_is_no_number_shows_in_variances_too():
    x = noisy(300)
    x[2] = np.inf
    found = series.ewa_std(x, 0.5)
    np.testing.assert_array_equal(np.isnan(found), np.arange(300) != 1)


def test_initial_values():
    x, v = noisy(40, shape=(3,)), np.array([1.0, 7.0, -2.0])
    steady = series.ewa(x, 0.9, debias=False, initial=v)
    np.testing.assert_allclose(series.ewa(x, 0.9, initial=jnp.asarray(v)), steady, rtol=2e-6)
    for row, found in zip(x, np.asarray(steady), strict=True):
        v = 0.9 * v + 0.1 * row
        np.testing.assert_allclose(found, v, rtol=1e-6)


@pytest.mark.slow
def test_trees():
    x = {"a": noisy(20), "b": (noisy(20, shape=(2,)), np.arange(20))}
    there = {"a": np.arange(20) > 3, "b": (np.arange(20)[:, None] > 3, np.arange(20) > 3)}
    found, state = series.ewa_with_state(x, 0.9, where=there, initial={"a": 1.0, "b": 2.0})
    assert jax.tree.structure(found) == jax.tree.structure(x) == jax.tree.structure(state.weight)
    np.testing.assert_array_equal(found["b"][0], series.ewa(x["b"][0], 0.9, where=there["b"][0], initial=2.0))
    assert jax.tree.structure(series.ewa_std(x, 0.9)) == jax.tree.structure(x)


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow), jnp.int32, jnp.complex64]
)
def test_dtypes(dtype):
    x = (10 * noisy(N)).astype(dtype)
    found, state = series.ewa_with_state(x, 0.99)
    assert found.dtype == (jnp.float32 if dtype == jnp.int32 else dtype)
    assert state.average.dtype == (jnp.complex64 if dtype == jnp.complex64 else jnp.float32)
    expected = exact(x.astype(complex).real, 0.99)
    rounding = 2e-6 if dtype in (jnp.int32, jnp.complex64) else float(jnp.finfo(dtype).eps)
    assert_close(np.asarray(found).astype(complex).real, expected, rounding, 100)
    assert_close(np.asarray(state.average).real, expected[-1], 2e-6, 100)


def test_deviations_that_16_bits_hold_though_variances_do_not():
    for scale in (2000, 1e-4):
        x = (scale * (noisy(200) - 5)).astype(np.float16)
        found = series.ewa_std(x, 0.9)
        assert found.dtype == jnp.float16
        np.testing.assert_allclose(found[1:], window(x, 0.9).std()[0][1:], rtol=2e-3)


# Derivatives.


def finite(y):
    return jnp.where(jnp.isnan(y), 0, y)


WAYS_TO_AVERAGE = {
    "plain": {},
    "uncorrected": {"debias": False},
    "irregular": {"times": np.cumsum(np.random.default_rng(0).random(12)), "reverse": True},
}


def in_both_directions(function):
    """Its values, its derivative along tangents, and that in reverse of cotangents: one program."""

    @roughly_compiled
    def program(primals, tangents, cotangents):
        y, back = jax.vjp(function, *primals)
        return y, jax.jvp(function, primals, tangents)[1], back(cotangents)

    return program


@functools.cache
def average_of(way):
    keywords = WAYS_TO_AVERAGE[way]
    return in_both_directions(lambda x, decay, initial: finite(series.ewa(x, decay, initial=initial, **keywords)))


@functools.cache
def deviation(statistic):
    return in_both_directions(lambda x, decay: finite(statistic(x, decay)))


def check_differences(program, *primals, step=1e-6):
    rng = np.random.default_rng(0)
    tangents = tuple(np.asarray(rng.standard_normal(np.shape(x))) for x in primals)
    cotangents = rng.standard_normal(np.shape(primals[0]))
    _, slope, back = program(primals, tangents, cotangents)
    above, below = (
        np.asarray(program(tuple(x + sign * step * t for x, t in zip(primals, tangents, strict=True)), *rest)[0])
        for rest in [(tangents, cotangents)]
        for sign in (1, -1)
    )
    differences = (above - below) / (2 * step)
    np.testing.assert_allclose(slope, differences, rtol=1e-6, atol=1e-6)
    in_reverse = sum(np.sum(x * t) for x, t in zip(back, tangents, strict=True))
    np.testing.assert_allclose(in_reverse, np.sum(cotangents * differences), rtol=1e-6, atol=1e-6)


@functools.cache
def with_slopes(statistic, **keywords):
    """The statistic, and derivatives of the sum of its squares."""

    @roughly_compiled
    def both(x, decay):
        y, back = jax.vjp(lambda x, decay: statistic(x, decay, **keywords), x, decay)
        return y, *back(2 * finite(y))

    return both


@pytest.mark.parametrize("way", WAYS_TO_AVERAGE)
def test_derivatives_are_finite_differences(way):
    with jax.enable_x64(True):
        for gaps in ("none", "random"):
            x = noisy(12, gaps, shape=(2,)).astype(np.float64)
            check_differences(average_of(way), x, np.float64(0.8), np.float64(3.0))


@pytest.mark.parametrize("way", WAYS_TO_AVERAGE)
def test_all_at_once_is_exact_in_double_precision(way):
    with jax.enable_x64(True):
        initial = 3.0 if way == "uncorrected" else np.nan
        for gaps in ("none", "random"):
            x = noisy(12, gaps, shape=(2,)).astype(np.float64)
            primals = x, np.float64(0.8), np.float64(initial)
            found, _, _ = average_of(way)(primals, (np.zeros_like(x), np.float64(0), np.float64(0)), np.ones_like(x))
            expected = np.nan_to_num(exact(x, 0.8, initial=initial, **WAYS_TO_AVERAGE[way]))
            np.testing.assert_allclose(found, expected, rtol=1e-8 if way == "irregular" else 1e-12)


@pytest.mark.parametrize("statistic", [pytest.param(series.ewa_var, marks=pytest.mark.slow), series.ewa_std])
def test_derivatives_of_variances_are_finite_differences(statistic):
    with jax.enable_x64(True):
        for gaps in ("none", "random"):
            check_differences(deviation(statistic), noisy(10, gaps).astype(np.float64), np.float64(0.8))


@pytest.mark.slow
def test_a_second_derivative():
    with jax.enable_x64(True):
        x = jnp.asarray(noisy(9).astype(np.float64))
        slope = jax.jit(jax.grad(lambda decay: (series.ewa(x, decay) ** 2).sum()))
        expected = (slope(0.7 + 1e-6) - slope(0.7 - 1e-6)) / 2e-6
        np.testing.assert_allclose(jax.jit(jax.jacfwd(slope))(0.7), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "statistic", [series.ewa, *(pytest.param(x, marks=pytest.mark.slow) for x in (series.ewa_std, series.ewa_var))]
)
def test_no_derivative_is_nan_where_values_are_missing(statistic):
    for gaps in ("random", "start", "everywhere"):
        x = noisy(40, gaps)
        check_slopes(x, *with_slopes(statistic)(x, 0.9)[1:])


@pytest.mark.parametrize("statistic", [pytest.param(series.ewa_var, marks=pytest.mark.slow), series.ewa_std])
def test_no_derivative_of_a_variance_is_nan_in_double_precision(statistic):
    with jax.enable_x64(True):
        for x in (*(noisy(10, gaps).astype(np.float64) for gaps in ("random", "start", "everywhere")), np.ones(10)):
            primals, tangents = (x, np.float64(0.8)), (np.ones_like(x), np.float64(1))
            _, slope, back = deviation(statistic)(primals, tangents, np.ones_like(x))
            check_slopes(x, *back)
            assert np.isfinite(slope).all()


def check_slopes(x, by_x, by_decay):
    by_x, by_decay = np.asarray(by_x), np.asarray(by_decay)
    assert np.isfinite(by_x).all()
    assert np.isfinite(by_decay)
    assert (by_x[np.isnan(x)] == 0).all()


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_derivatives_at_the_ends_of_formulas(decay):
    with jax.enable_x64(True):
        x, nothing = noisy(12, shape=(2,)).astype(np.float64), np.float64(np.nan)
        along, ones = (np.zeros_like(x), np.float64(1), np.float64(0)), np.ones_like(x)
        near, _, _ = average_of("plain")((x, np.float64(decay + 1e-7), nothing), along, ones)
        step = (np.asarray(near) - exact(x, decay)) / 1e-7
        found, slope, back = average_of("plain")((x, np.float64(decay), nothing), along, ones)
        np.testing.assert_allclose(found, exact(x, decay), rtol=1e-12)
        np.testing.assert_allclose(slope, step, atol=1e-5)
        np.testing.assert_allclose(back[1], step.sum(), atol=1e-5)


# Transformations.


@pytest.mark.slow
@pytest.mark.parametrize("gaps", ["none", "random"])
def test_vmap(gaps):
    x = jnp.asarray(noisy(64, gaps, shape=(3,)))
    one_by_one = jnp.stack([series.ewa(x[:, i], 0.9) for i in range(3)], 1)
    np.testing.assert_allclose(jax.vmap(lambda s: series.ewa(s, 0.9), 1, 1)(x), one_by_one, rtol=2e-6)
    decays = jnp.array([0.5, 0.9, 0.99])
    for found, decay in zip(jax.vmap(lambda decay: series.ewa(x, decay))(decays), decays, strict=True):
        np.testing.assert_allclose(found, series.ewa(x, decay), rtol=2e-6)
    by_series = jax.vmap(jax.grad(lambda s: finite(series.ewa(s, 0.9)).sum()), 1, 1)(x)
    np.testing.assert_allclose(by_series, jax.grad(lambda x: finite(series.ewa(x, 0.9)).sum())(x), rtol=1e-5)


def test_vmap_over_decays_costs_as_many_averages():
    x, decay, decays = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4000, 10), (), (3,)))
    one = jax.jit(series.ewa).lower(x, decay).compile()
    all_of_them = jax.jit(jax.vmap(series.ewa, (None, 0))).lower(x, decays).compile()
    assert all_of_them.cost_analysis()["bytes accessed"] < 12 * one.cost_analysis()["bytes accessed"]


@pytest.mark.parametrize("statistic", [series.ewa, pytest.param(series.ewa_std, marks=pytest.mark.slow)])
def test_derivatives_of_a_vmap(statistic):
    x = noisy(30, shape=(3,))

    @roughly_compiled
    @jax.value_and_grad
    def total(decay):
        return jax.vmap(lambda s: statistic(s, decay)[-1], 1)(x).sum()

    (above, _), (below, _), (_, slope) = map(total, (0.801, 0.799, 0.8))
    np.testing.assert_allclose(slope, (above - below) / 0.002, rtol=1e-2)


MORE_AXES = [("time",), (None, "lanes"), (("time", "lanes"),)]
AXES = [("time", "lanes"), *(pytest.param(axes, marks=pytest.mark.slow) for axes in MORE_AXES)]


@pytest.mark.parametrize("spec", AXES, ids=str)
@pytest.mark.parametrize("kind", [pytest.param("Auto", marks=pytest.mark.slow), "Explicit"])
def test_divided_among_devices(spec, kind):
    mesh = jax.make_mesh((4, 2), ("time", "lanes"), axis_types=(getattr(jax.sharding.AxisType, kind),) * 2)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    timed = {"times": np.cumsum(np.random.default_rng(0).integers(0, 64, 320)) / 64}  # Exact in float32.
    ways = ({}, {}), ({"debias": False}, {}), ({"missing": "skip", "reverse": True}, timed)
    # Inside of jax.jit automatic axes are not known, and what is divided need not stay so.
    compiled_for = roughly_compiled if kind == "Explicit" else lambda function: function
    averages = [compiled_for(functools.partial(series.ewa_with_state, **way)) for way, _ in ways]
    for gaps in ("none", "start"):
        x = noisy(320, gaps, shape=(4,))
        x[150:250, 1] = np.nan if gaps == "start" else x[150:250, 1]
        divided = jax.device_put(x, sharding)
        for (keywords, times), average in zip(ways, averages, strict=True):
            found, state = average(divided, 0.9, **times)
            expected = exact(x, 0.9, **keywords, **times)
            assert_close(found, expected, 2e-6, 10)
            assert_close(state.average, expected[0 if "reverse" in keywords else -1], 2e-6, 10)
            if keywords == {}:
                assert found.sharding.is_equivalent_to(sharding, 2)
    assert_close(compiled_for(series.ewa_var)(divided, 0.9), window(x, 0.9).var(), 2e-6, 10)


def test_devices_exchange_only_ends():
    mesh = jax.make_mesh((4,), ("time",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("time"))
    x = jax.ShapeDtypeStruct((40_000, 3), jnp.float32, sharding=sharding)
    text = jax.jit(lambda x: series.ewa(x, 0.9)).lower(x).compile().as_text()
    exchanged = re.findall(r"= \(?\w+\[([\d,]*)\]\S* (?:all-gather|all-reduce|all-to-all|collective-permute)\(", text)
    assert exchanged
    assert all(np.prod([int(n) for n in shape.split(",") if n]) <= 4 * 3 for shape in exchanged)


@pytest.mark.slow
def test_inside_of_shard_map():
    mesh = jax.make_mesh((4,), ("lanes",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jnp.asarray(noisy(40, "random", shape=(8,)))
    spec = jax.sharding.PartitionSpec(None, "lanes")
    for average in (lambda x: series.ewa(x, 0.9), jax.grad(lambda x: finite(series.ewa(x, 0.9)).sum())):
        mapped = jax.shard_map(average, mesh=mesh, in_specs=spec, out_specs=spec)
        np.testing.assert_allclose(jax.jit(mapped)(x), average(x), rtol=1e-5)


@pytest.mark.parametrize(("lanes", "method"), [pytest.param(2, "blocks", marks=pytest.mark.slow), (3, "serial")])
def test_the_way_is_chosen_by_the_lanes(lanes, method):
    by_default, *others = (small((20, lanes), m).cost_analysis() for m in METHODS)
    assert by_default == others[METHODS.index(method) - 1]
    assert len({cost["flops"] for cost in others}) == 3


def test_another_decay_compiles_nothing_anew():
    x = noisy(N)
    series.ewa(x, 0.91)
    before = _averages._cache_size()
    for decay in (0.0, 0.31, 0.99991, 0.51):
        series.ewa(x, decay)
    assert _averages._cache_size() == before


@pytest.mark.parametrize("shape", [(10_000_000,), (10_000, 1000)])
def test_nothing_else_is_as_large_as_the_series(shape):
    """But for a byte for each value, if some are missing. And no program is as long as the series."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert compiled(shape, 0.99999).memory_analysis().temp_size_in_bytes < 11_000_000
    assert len(lowered(shape, 0.99999).as_text()) < 200_000
    assert len(jax.jit(lambda x: series.ewa_var(x, 0.99)).lower(x).as_text()) < 400_000


def test_it_is_exported_for_every_platform():
    x = jax.ShapeDtypeStruct((40, 2), jnp.float32)
    function = jax.jit(lambda x: (series.ewa(x, 0.99), series.ewa_var(x, 0.99)))
    exported = export.export(function, platforms=["cpu", "cuda", "rocm", "tpu"])(x)
    data = noisy(40, shape=(2,))
    averages, variances = roughly_compiled(exported.call)(data)
    np.testing.assert_allclose(averages, exact(data, 0.99), rtol=2e-6)
    assert_close(variances, window(data, 0.99).var(), 2e-6, 10)


# What a decay means.

WAYS = ["window", "span", "half_life", "center_of_mass"]


@pytest.mark.parametrize("way", WAYS)
def test_conversions_and_their_inverses(way):
    there, back = getattr(series, f"decay_from_{way}"), getattr(series, f"{way}_from_decay")
    both = jax.jit(lambda d: there(back(d)))
    for decay in (0.1, 0.5, 0.9, 0.99999):
        np.testing.assert_allclose(there(back(decay)), decay, rtol=1e-12)
        np.testing.assert_allclose(both(np.float32(decay)), decay, rtol=1e-6)
    assert back(0.0) == (1 if way in ("window", "span") else 0)


@pytest.mark.parametrize(
    ("way", "pandas_name"), [("span", "span"), ("half_life", "halflife"), ("center_of_mass", "com")]
)
def test_conversions_are_those_of_pandas(way, pandas_name):
    x = noisy(N)
    decay = getattr(series, f"decay_from_{way}")(7.0)
    expected = pd.Series(x.astype(np.float64)).ewm(**{pandas_name: 7.0}).mean()
    assert_close(series.ewa(x, decay), expected, 2e-6, 10)


def test_short_integers_do_not_wrap_in_what_a_decay_means():
    for span in (np.int8(127), jnp.int8(127), np.array(127, np.int8)):
        np.testing.assert_allclose(series.decay_from_span(span), 126 / 128)
    np.testing.assert_allclose(series.decay_from_center_of_mass(np.int8(127)), 127 / 128)


# Bad arguments.

X = np.ones((4, 2), np.float32)
STATE = series.EwaState(X[0], X[0], None)
AT_3 = STATE._replace(time=np.int32(3))
BAD = [
    (lambda: series.ewa(X, 1.0), ValueError, r"ewa: decay must be in \[0, 1\), got 1.0"),
    (lambda: series.ewa(X, jnp.array(1.2)), ValueError, r"decay must be in \[0, 1\), got 1.2"),
    (lambda: series.ewa_with_state(X, 0.9, times=[0, 1, 2, np.inf]), ValueError, "times must be finite .*, got inf"),
    (lambda: series.ewa_std(X, 2), ValueError, "ewa_std: decay must be in"),
    (lambda: series.ewa_cov(X, X, 2), ValueError, "ewa_cov: decay must be in"),
    (lambda: series.ewa_with_state(X, 2), ValueError, "ewa_with_state: decay must be in"),
    (lambda: series.ewa_var(X, -0.1), ValueError, r"ewa_var: decay must be in \[0, 1\), got -0.1"),
    (lambda: series.ewa(X, "0.9"), TypeError, "decay must be a number"),
    (lambda: series.ewa(X, 0.9, axis=2), ValueError, r"axis must be from -2 to 1 for shape \(4, 2\), got 2"),
    (lambda: series.ewa(X, 0.9, axis=0.0), TypeError, "axis must be an integer, got 0.0"),
    (lambda: series.ewa(1.0, 0.9), ValueError, r"axis of time, got the scalar 1.0; make an array: \[x\]"),
    (lambda: series.ewa([1.0, None], 0.9), ValueError, r"axis of time, got the scalar 1.0; .* write NaN for a missing"),
    (lambda: series.ewa([[1, 2], [3]], 0.9), ValueError, "a series must be an array, got lists of several lengths"),
    (lambda: series.ewa(jax.random.key(0), 0.9), TypeError, "a series must be an array of numbers, got key"),
    (lambda: series.ewa(np.array(["1"], object), 0.9), TypeError, "a series must be an array of numbers, got object"),
    (lambda: series.ewa(X, 0.9, times=np.ma.array(range(4), mask=[0, 1, 0, 0])), ValueError, "not be masked, got 1"),
    (lambda: series.ewa({"x": "text"}, 0.9), TypeError, "a series must be an array of numbers, got str"),
    (lambda: series.ewa(X, 0.9, where=np.ones(3, bool)), ValueError, r"where must broadcast to shape \(4, 2\)"),
    (lambda: series.ewa(X, 0.9, where=np.ones(2)), TypeError, "where must be boolean, got float"),
    (lambda: series.ewa(X, 0.9, initial=np.ones(3)), ValueError, r"initial must broadcast to shape \(2,\)"),
    (lambda: series.ewa(X, 0.9, missing="drop"), ValueError, "missing must be one of .*'skip'.*, got 'drop'"),
    (lambda: series.ewa(X, 0.9, method="scan"), ValueError, "method must be one of .*'serial'.*, got 'scan'"),
    (lambda: series.ewa(X, 0.9, times=[0, 2, 1, 3]), ValueError, "times must not fall"),
    (lambda: series.ewa(X, 0.9, times=[0, 1, np.nan, 3]), ValueError, "none may be NaN"),
    (lambda: series.ewa(X, 0.9, times=[0, 1]), ValueError, r"times must have shape \(4,\)"),
    (lambda: series.ewa(X, 0.9, times=np.arange("2020", "2024", dtype="M8[Y]")), TypeError, "got dates|got datetime64"),
    (lambda: series.ewa(X, 0.9, times=list("abcd")), TypeError, "times must be numbers"),
    (lambda: series.ewa([X, X[:3]], 0.9, times=[0, 1, 2, 3]), ValueError, r"lengths are \[3, 4\]"),
    (lambda: series.ewa_with_state(X, 0.9, STATE, initial=1.0), ValueError, "initial must be None beside a state"),
    (lambda: series.ewa_with_state(X, 0.9, STATE, times=[0, 1, 2, 3]), ValueError, "made without times"),
    (lambda: series.ewa_with_state(X[:, :1], 0.9, STATE), ValueError, "a state of shapes"),
    (lambda: series.ewa_with_state(X[:0], 0.9, times=[]), ValueError, "of one value at least in a first piece"),
    (
        lambda: series.ewa_with_state(X, 0.9, AT_3, times=[2, 3, 4, 5]),
        ValueError,
        "2 comes after 3 of the piece",
    ),
    (lambda: series.ewa_with_state(X, 0.9, AT_3), ValueError, "times must go on"),
    (lambda: series.ewa(X, 0.9, initial=1j), TypeError, "initial must be real"),
    (lambda: series.ewa(X, 0.9, initial="a"), TypeError, "initial must be an array of numbers, got str"),
    (lambda: series.ewa_with_state(X, 0.9, 3.0), TypeError, "state must be an EwaState, got float"),
    (lambda: series.ewa_cov(X, X[:3], 0.9), ValueError, "x and y must have the same shapes"),
    (lambda: series.ewa_var(X + 1j, 0.9), TypeError, "x and y must be real, got complex64"),
    (lambda: series.weights(0.9, -1), ValueError, "length must be from 0"),
    (lambda: series.weights(1.5, 3), ValueError, "decay must be in"),
    (lambda: series.decay_from_window(0.5), ValueError, "window must be finite and 1 or more, got 0.5"),
    (lambda: series.decay_from_span(0), ValueError, "span must be finite and 1 or more"),
    (lambda: series.decay_from_half_life(0.0), ValueError, "half_life must be finite and more than 0"),
    (lambda: series.decay_from_center_of_mass(-1), ValueError, "center_of_mass must be finite and 0 or more"),
    (lambda: series.span_from_decay(1.0), ValueError, "decay must be in"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


# What faults on purpose showed to be tested nowhere else.


def test_a_long_recurrence_does_not_stall():
    share = jnp.full((1, 200_000, 1), np.float32(1e-6))
    found = recurrence(share, share, 1 - share, jnp.zeros((1, 1)))[0, -1, 0]
    np.testing.assert_allclose(found, -np.expm1(200_000 * np.log1p(-np.float64(np.float32(1e-6)))), rtol=1e-6)


@pytest.mark.parametrize(("decay", "times"), [(0.0, None), (0.5, [0.0, 1000.0])])
def test_a_past_that_has_faded_away_has_been(decay, times):
    _, state = series.ewa_with_state(np.float32([3.0, np.nan]), decay, times=times)
    after = series.ewa_with_state(np.float32([np.nan]), decay, state, times=times and [1001.0])[0]
    np.testing.assert_array_equal(after, [3])


def test_a_piece_after_a_gap():
    x = np.float32([1.0, np.nan, np.nan, 5.0, 6.0, 8.0])
    keywords = dict(debias=False, initial=np.nan)
    whole = series.ewa(x, 0.5, **keywords)
    _, state = series.ewa_with_state(x[:3], 0.5, **keywords)
    np.testing.assert_allclose(series.ewa_with_state(x[3:], 0.5, state, debias=False)[0], whole[3:], rtol=1e-6)


def test_the_average_of_nothing_is_nan():
    assert np.isnan(series.ewa_with_state(np.float32([np.nan, np.nan]), 0.5)[1].average)


def test_unbiased_and_undebiased():
    import pandas as pd

    x = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    expected = pd.Series(x.astype(np.float64)).ewm(alpha=0.1, adjust=False).var()
    np.testing.assert_allclose(series.ewa_var(x, 0.9, debias=False), expected, rtol=1e-4)
