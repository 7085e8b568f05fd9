"""Averages that stay true in 8, 16 and 24 bits."""

import dataclasses
import functools
import itertools
import pickle

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from helpers import ROUGHLY
from runs import well_compiled

import ewa_optax
from benchmarks import maps
from ewa_optax import storage
from ewa_optax._random_bits import fold, key_of, random_bits
from ewa_optax.storage import _encoding
from ewa_optax.storage._argument import NAMED, resolve
from ewa_optax.storage._encoding import AverageCodec
from ewa_optax.storage._formats import BFloat16
from ewa_optax.storage._rounding import round_bits

NAMES = list(NAMED)
QUICK = [pytest.param(x, marks=() if x in ("8bit", "bfloat16") else pytest.mark.slow) for x in NAMES]
ONE = [pytest.param(x, marks=() if x == "8bit" else pytest.mark.slow) for x in NAMES]
SQUARES = {name: kept.for_squares() for name, kept in NAMED.items()}


roughly_compiled = functools.partial(jax.jit, compiler_options=ROUGHLY)


def nearest(kept):
    return dataclasses.replace(kept, rounding="nearest")


def bits_of(seed, shape):
    return np.random.default_rng(seed).integers(0, 2**32, shape, np.uint32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@functools.partial(jax.jit, static_argnums=0)
def there_and_back(kept, x, bits):
    encoded = kept.encode(x, bits)
    return encoded, kept.decode(encoded)


def round_trip(kept, x, seed=0):
    """In programs of `MANY` numbers: one for each storage."""
    parts = np.concatenate([x, np.zeros(-len(x) % MANY, np.float32)]).reshape(-1, MANY)
    bits = bits_of(seed, parts.shape)
    return np.concatenate([there_and_back(kept, *both)[1] for both in zip(parts, bits, strict=True)])[: len(x)]


MANY = 2**16


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    yield
    three_steps.cache_clear()
    for program in (there_and_back, million):
        program.clear_cache()


# The averages.


@functools.lru_cache
def ratchet(decay, elements=4096, loud=3000, quiet=5000):
    """Stored over true second moment, when gradients of scale 1 have fallen to 0.05.

    By storages as they are and to nearest; also of Adam of optax in bfloat16, with a decay of 0.999.
    """
    ways = {(name, to): nearest(SQUARES[name]) if to == "nearest" else SQUARES[name] for name in NAMES for to in TO}
    averages = {way: ewa_optax.scale_by_ewa(decay, kept) for way, kept in ways.items()}
    adam = optax.scale_by_adam(b2=0.999)

    def step(carry, at):
        states, of_optax, true, true_of_optax = carry
        t, scale = at
        g = scale * jax.random.normal(jax.random.fold_in(jax.random.key(0), t), (elements,))
        states = {way: averages[way].update(g**2, state)[1] for way, state in states.items()}
        narrow = g.astype(jnp.bfloat16)
        true_of_optax += 0.001 * (narrow.astype(jnp.float32) ** 2 - true_of_optax)
        return (states, adam.update(narrow, of_optax)[1], true + (1 - decay) * (g**2 - true), true_of_optax), None

    @well_compiled
    def run(scales):
        zeros = jnp.zeros(elements)
        start = {way: average.init(zeros) for way, average in averages.items()}, adam.init(zeros.astype(jnp.bfloat16))
        carry = (*start, zeros, zeros)
        states, of_optax, true, true_of_optax = jax.lax.scan(step, carry, (jnp.arange(loud + quiet), scales))[0]
        codecs = {way: AverageCodec(resolve(kept), 0) for way, kept in ways.items()}
        kept = {way: codecs[way].decode(true.shape, *codecs[way].trees(states[way].average)) for way in ways}
        return {**{way: x / true for way, x in kept.items()}, OPTAX: of_optax.nu.astype(jnp.float32) / true_of_optax}

    scales = np.repeat(np.float32([1.0, 0.05]), [loud, quiet])
    return {way: np.asarray(x, np.float64) for way, x in run(scales).items()}


TO, OPTAX = ("stochastic", "nearest"), ("adam of optax", "bfloat16")
# How far the mean ratio, and the deviation of its root, may be from 1 and from 0.
TRUE = {"bfloat16": (0.01, 0.07), "float16": (0.01, 0.07), "24bit": (0.001, 0.001), "8bit": (0.03, 0.15)}
DECAYS = [pytest.param(0.999, marks=pytest.mark.slow), 0.9999]


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("name", NAMES)
def test_second_moments_follow_gradients_down(name, decay):
    ratio = ratchet(decay)[name, "stochastic"]
    mean, deviation = TRUE[name]
    assert abs(ratio.mean() - 1) <= mean
    assert np.sqrt(ratio).std() <= deviation


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("name", ["bfloat16", "float16", "8bit"])
def test_rounded_to_nearest_they_do_not(name, decay):
    ratio = ratchet(decay)[name, "nearest"]
    assert abs(ratio.mean() - 1) > TRUE[name][0]


def test_optax_in_bfloat16_keeps_a_hundred_times_too_much():
    assert ratchet(0.9999)[OPTAX].mean() > 100


@functools.lru_cache
def constant_gradient(storages, decay, steps, elements=4096):
    """The means over elements of the debiased averages of ones, at every step."""
    averages = [optax.chain(ewa_optax.scale_by_ewa(decay, x), ewa_optax.bias_correct(decay)) for x in storages]
    codecs = [AverageCodec(resolve(x), 0) for x in storages]

    def step(states, _):
        states = [x.update(jnp.ones(elements), state)[1] for x, state in zip(averages, states, strict=True)]
        kept = [x.decode((elements,), *x.trees(s[0].average)) for x, s in zip(codecs, states, strict=True)]
        return states, [x.mean() for x in kept]

    @well_compiled
    def run():
        return jax.lax.scan(step, [x.init(jnp.zeros(elements)) for x in averages], length=steps)[1]

    means = run()
    return np.asarray(means, np.float64) / -np.expm1(np.arange(1, steps + 1) * np.log(decay))


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("name", NAMES)
def test_the_average_of_a_constant_is_that_constant_at_every_step(name, decay):
    means = constant_gradient(tuple(NAMES), decay, 20_000)[NAMES.index(name)]
    assert np.abs(means - 1).max() < 0.01


@pytest.mark.parametrize(("decay", "stalled"), [(0.999, 0.25), (0.9999, 0.03)])
def test_rounded_to_nearest_it_stalls(decay, stalled):
    few = storage.BFloat16(rounding="nearest", min_size=0)  # As all elements are alike.
    means = constant_gradient((few,), decay, 100_000 if decay > 0.999 else 20_000, elements=8)
    np.testing.assert_allclose(means[0, -1], stalled, rtol=0.1)


def test_what_leaves_is_the_fresh_average():
    averages = ewa_optax.scale_by_ewa(0.9, "8bit"), ewa_optax.scale_by_ewa(0.9)
    updates, expected = jax.jit(lambda g: [x.update(g, x.init(g))[0] for x in averages])(normal(4096))
    np.testing.assert_array_equal(updates, expected)


# Rounding.

BINADES = [1e-38, *(2.0**e for e in range(-126, 127)), 1e38]


def units_in_the_last_place(x, name):
    """The distance of the neighbours of `x` in the grid of a storage."""
    digits, smallest = {"bfloat16": (7, -126), "float16": (10, -14), "24bit": (15, -126)}[name]
    return np.maximum(2.0 ** np.floor(np.log2(np.abs(x))), 2.0**smallest) * 2.0**-digits


@pytest.mark.parametrize(
    ("name", "every"),  # So many binades on.
    [
        ("bfloat16", 16),
        ("float16", 8),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in ("bfloat16", "float16", "24bit")),
    ],
)
def test_rounding_is_unbiased_in_every_binade(name, every):
    """Over 1e6 numbers of both signs, the mean error is within 5 standard errors of 0."""
    kept = NAMED[name]
    top = 3e4 if name == "float16" else 2e38

    @jax.jit
    def round_all(x, seed):
        return kept.decode(kept.encode(x, random_bits(seed, x.shape)))

    binades = [x for x in BINADES if x < top]
    for i, binade in enumerate([*binades[:-1:every], binades[-1]]):
        rng = np.random.default_rng(i)
        x = (rng.uniform(1, 2, 1_000_000) * rng.choice([-1, 1], 1_000_000) * binade).astype(np.float32)
        exact = x.astype(np.float64)
        error = (np.asarray(round_all(x, jnp.uint32(i)), np.float64) - exact) / units_in_the_last_place(exact, name)
        assert np.abs(error).max() <= 1
        assert abs(error.mean()) <= 5 * max(error.std() / 1000, 1e-6), binade
        # Towards zero and away from it, as well.
        assert abs((error * np.sign(x)).mean()) <= 5 * max(error.std() / 1000, 1e-6), binade


def test_subnormal_numbers_are_rounded_without_bias():
    raw = np.random.default_rng(0).integers(0, 2**23, 1_000_000).astype(np.uint32)
    rounded = jax.jit(round_bits, static_argnums=1)(raw.view(np.float32), 16, bits_of(0, raw.shape))
    rounded = np.asarray(rounded)
    error = (rounded.astype(np.int64) - raw) / 2.0**16
    assert np.abs(error).max() <= 1
    assert abs(error.mean()) <= 5 * error.std() / 1000


@pytest.mark.parametrize("squares", [False, True])
def test_rounding_to_codes_is_unbiased(squares):
    kept = storage.EightBit(squares=squares)
    x = normal(1_000_000)
    x = x**2 if squares else x
    error = (round_trip(kept, x, seed=1) - x).astype(np.float64)
    assert np.std(error) < 0.05 * np.std(x)
    assert abs(error.mean()) <= 5 * error.std() / 1000
    assert abs((error * np.sign(x)).mean()) <= 5 * error.std() / 1000


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", jnp.bfloat16), ("float16", jnp.float16)])
def test_every_number_of_16_bits_stays_what_it_is(name, dtype):
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    wide, finite = every.astype(np.float32), np.isfinite(every.astype(np.float32))
    for seed in range(3):
        kept = np.asarray(there_and_back(NAMED[name], wide, bits_of(seed, every.shape))[0])
        np.testing.assert_array_equal(kept.view(np.uint16)[finite], every.view(np.uint16)[finite])
        np.testing.assert_array_equal(kept.astype(np.float32)[~finite], wide[~finite])


def test_every_number_of_24_bits_stays_what_it_is():
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 2**24, 1_000_000, dtype=np.uint32) << 8).view(np.float32)
    x = x[np.isfinite(x)]
    np.testing.assert_array_equal(round_trip(storage.Float24(), x).view(np.uint32), x.view(np.uint32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("squares", [False, True])
def test_the_largest_numbers_stay_finite(name, squares):
    kept = SQUARES[name] if squares else NAMED[name]
    top = np.finfo(np.float32).max
    sizes = np.float32([top, np.nextafter(top, 0), 3.39e38, 65504.0, 65519.0, 0.0] * 100)
    x = np.concatenate([sizes] * 3 if squares else [sizes, -sizes] * 3)
    back = round_trip(kept, x)
    assert np.isfinite(back).all()
    assert (np.abs(back[np.abs(x) > 1e38]) > 3e4).all()


@pytest.mark.parametrize("name", ["bfloat16", "float16", "24bit"])
def test_infinities_and_nan_pass_through(name):
    raw = np.uint32([0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001])
    x = np.tile(raw.view(np.float32), 20)
    np.testing.assert_array_equal(round_trip(NAMED[name], x), x)


@pytest.mark.parametrize("size", [pytest.param(512, marks=pytest.mark.slow), 8192, MANY])
def test_a_block_with_a_nan_does_not_hide_it(size):
    """At some sizes XLA's maximum loses a NaN on a CPU."""
    x = np.ones(size, np.float32)
    x[[200, 300]] = np.nan, np.inf
    for kept in (storage.EightBit(), SQUARES["8bit"]):
        back = np.asarray(there_and_back(kept, x, bits_of(0, x.shape))[1])
        assert np.isnan(back[200])
        assert not np.isfinite(back[300])
        assert np.isfinite(back[:128]).all()
        assert np.isfinite(back[384:]).all()


@pytest.mark.parametrize("name", ["float16", "8bit"])
def test_a_second_moment_is_never_rounded_to_zero(name):
    x = np.random.default_rng(0).permutation(10.0 ** np.linspace(-37, 37, 4096)).astype(np.float32)
    assert (round_trip(SQUARES[name], np.tile(x, 20)) > 0).all()
    assert (round_trip(SQUARES[name], np.zeros(128, np.float32)) == 0).all()


# The chance.


def correlation(a, b):
    return abs(np.corrcoef(np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel())[0, 1])


def test_leaves_moments_and_steps_of_adam_are_rounded_independently():
    decay = 0.95
    optimizer = ewa_optax.adam(1e-3, b1=decay, b2=decay, storage="bfloat16")
    g = 1 + np.random.default_rng(0).random((1000, 1000), np.float32)
    params, update = [g, g], jax.jit(optimizer.update)
    state, errors = jax.jit(optimizer.init)(params), []
    for t in (1, 2, 3):
        before, state = state[1], update(params, state, params)[1]
        newest = (1 - decay) / (1 - decay**t)
        for field, value, share in (("numerator", g, 1 - decay), ("second_moment", g**2, newest)):
            for old, new in zip(
                getattr(before, field).average.arrays[0], getattr(state[1], field).average.arrays[0], strict=True
            ):
                kept, now = (np.asarray(x).astype(np.float32) for x in (old, new))
                errors.append((now - (kept + np.float32(share) * (value - kept))).ravel())
    assert min(np.abs(error).max() for error in errors) > 1e-4
    between = np.abs(np.corrcoef(errors)) - np.eye(len(errors))
    assert between.max() < 0.01


@jax.jit
def million(key, step):
    return random_bits(fold(key, step), (1024, 1024))


def bits_at(step, *name):
    return np.asarray(million(np.uint32(key_of(*name)), np.int32(step)))


@pytest.mark.parametrize("other", ["seed", "piece", "leaf", "part", "step", "next step"])
def test_random_bits_of_different_names_are_independent(other):
    names = {"seed": (1, 0, "w", 0), "piece": (0, 1, "w", 0), "leaf": (0, 0, "b", 0), "part": (0, 0, "w", 1)}
    steps = {"step": 1000, "next step": 2}
    here, there = bits_at(1, 0, 0, "w", 0), bits_at(steps.get(other, 1), *names.get(other, (0, 0, "w", 0)))
    assert correlation(here, there) < 0.01
    assert correlation(here & 0xFFFF, there & 0xFFFF) < 0.01


@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (1, 1), (0, 2), (8, 0), (0, 512), (256, 0)])
def test_random_bits_of_neighbours_are_independent(shift):
    bits = bits_at(7, 0)
    assert correlation(bits, np.roll(bits, shift, (0, 1))) < 0.01


def test_no_key_gives_the_bits_of_another_one_at_an_offset():
    here, there = (np.asarray(jax.jit(random_bits, static_argnums=1)(np.uint32(key), (10_000,))) for key in (7, 12))
    assert correlation(here[5:], there[:-5]) < 0.05


def test_random_bits_are_uniform_in_each_bit_and_over_steps():
    bits = np.stack([bits_at(t, 0)[:256, :256] for t in range(64)])
    for i in range(32):
        ones = (bits >> i) & 1
        assert abs(ones.mean() - 0.5) < 5 * 0.5 / np.sqrt(ones.size)
        of_elements = ones.mean(0)  # Over steps, no element leans up or down.
        np.testing.assert_allclose(of_elements.std(), 0.5 / 8, rtol=0.02)


# Elsewhere, and again.


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        *itertools.product(["8bit", "bfloat16", None], [jax.P(None, "x")]),
        *(pytest.param(name, jax.P("x"), marks=pytest.mark.slow) for name in [*NAMES, None]),
        *(pytest.param(name, jax.P(None, "x"), marks=pytest.mark.slow) for name in ("float16", "24bit")),
    ],
)
def test_explicit_meshes_and_shard_map(name, spec):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    optimizer = ewa_optax.adam(1e-3, storage=name)
    whole = normal(64, 1024)

    def second_updates(p):
        _, state = optimizer.update(p, optimizer.init(p), p)
        return optimizer.update(p, state, p)[0]

    params = jax.device_put(whole, jax.NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        updates = roughly_compiled(second_updates)(params)
    alone = np.asarray(roughly_compiled(second_updates)(whole))
    np.testing.assert_allclose(updates, alone, rtol=1e-5)
    sharded = roughly_compiled(jax.shard_map(second_updates, mesh=mesh, in_specs=spec, out_specs=spec))(params)
    # Of the same averages; but here each device rounds its part of them as if that were the whole.
    assert np.abs(sharded - alone).mean() < 0.02 * np.abs(alone).mean()


def in_parts(function, *specs, out, check_vma=True):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out, check_vma=check_vma)


# Of the first, eighths are smaller than what storages take; the second is small, and whole on each device.
PARTED, SPECS = {"w": normal(64, 128), "b": normal(1024)}, {"w": jax.P("x"), "b": jax.P()}


def specs_of(optimizer):
    """Of its state: as its parameters lie."""
    state = jax.eval_shape(optimizer.init, PARTED)
    return jax.tree_util.tree_map_with_path(lambda path, _: jax.P("x") if "w" in str(path) else jax.P(), state)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_parts_in_shard_map_are_kept_as_their_whole_is(name, check_vma):
    optimizer = ewa_optax.adam(1e-3, storage=name)
    state, specs = jax.eval_shape(optimizer.init, PARTED), specs_of(optimizer)
    update = in_parts(optimizer.update, SPECS, specs, out=(SPECS, specs), check_vma=check_vma)
    assert jax.tree.map(kind, jax.eval_shape(update, PARTED, state)[1]) == jax.tree.map(kind, state)
    init = in_parts(optimizer.init, SPECS, out=specs, check_vma=check_vma)
    if check_vma:
        assert jax.tree.map(kind, jax.eval_shape(init, PARTED)) == jax.tree.map(kind, state)
    else:
        with pytest.raises(ValueError, match=r"write min_size=0 .*, leave check_vma=True in jax.shard_map, or call"):
            jax.eval_shape(init, PARTED)


def kind(x):
    return x.shape, x.dtype


def test_factors_in_shard_map():
    """Each device has those of its part."""
    optimizer, g = ewa_optax.rmsprop(1.0, storage=storage.Factored(min_size=0)), normal(64, 32)

    def second_updates(g):
        return optimizer.update(g, optimizer.update(g, optimizer.init(g))[1])[0]

    parts = jax.jit(in_parts(second_updates, jax.P("x"), out=jax.P("x")))(g)
    np.testing.assert_allclose(parts[8:16], jax.jit(second_updates)(g[8:16]), rtol=1e-5)


def test_parts_of_what_is_small_anyhow_and_parts_that_storages_take():
    def kept_by(kept, p):
        return ewa_optax.scale_by_ewa(0.9, kept).init(p).average.arrays[0]

    for kept, dtype in (("8bit", jnp.float32), (storage.EightBit(min_size=0), jnp.int8)):
        init = in_parts(functools.partial(kept_by, kept), jax.P("x"), out=jax.P("x"), check_vma=False)
        assert jax.eval_shape(init, normal(8, 16)).dtype == dtype


def test_a_state_made_outside_of_shard_map_gives_the_steps_of_the_whole():
    average = ewa_optax.scale_by_ewa(0.9, "8bit")
    state, specs = jax.jit(average.init)(PARTED), specs_of(average)

    def two_steps(update, gradients, state):
        return update(gradients, update(gradients, state)[1])[0]

    update = in_parts(average.update, SPECS, specs, out=(SPECS, specs))
    whole, parts = roughly_compiled(lambda g, s: [two_steps(x, g, s) for x in (average.update, update)])(PARTED, state)
    np.testing.assert_array_equal(whole["b"], parts["b"])
    assert np.abs(whole["w"] - parts["w"]).mean() < 0.02 * np.abs(whole["w"]).mean()


def test_parts_that_cut_blocks_are_told():
    average = ewa_optax.scale_by_ewa(0.9, "8bit")
    state = jax.eval_shape(average.init, normal(64, 192))
    specs = jax.tree.map(lambda x: jax.P(None, "x") if x.shape == (64, 192) else jax.P(), state)
    update = in_parts(average.update, jax.P(None, "x"), specs, out=(jax.P(None, "x"), specs))
    with pytest.raises(ValueError, match=r"In jax.shard_map, a part has blocks of its own: call init there, too"):
        jax.eval_shape(update, normal(64, 192), state)


SEVERAL = {"w": normal(64, 1024), "b": normal(8192, seed=1), "small": np.ones(3, np.float32)}


@functools.lru_cache(maxsize=2)
def three_steps(name):
    """State and three factors of the gradients, powers of two, to the next state; and the first state."""
    optimizer = ewa_optax.adam(1e-3, storage=name)

    def step(params, state, factor):
        return optimizer.update(jax.tree.map(lambda p: p * factor, params), state, params)[1], None

    @well_compiled
    def run(params, state, factors=np.float32([1, 2, 4])):
        return jax.lax.scan(functools.partial(step, params), state, factors)[0]

    return run, jax.tree.map(np.asarray, jax.jit(optimizer.init)(SEVERAL))


def spread(tree, devices, spec=jax.P("x")):
    """On so many devices: matrices by `spec`, long vectors by their only axis, others whole on each of them."""
    mesh = jax.make_mesh((devices,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def put(x):
        return jax.device_put(
            np.asarray(x), jax.NamedSharding(mesh, spec if x.ndim == 2 else jax.P("x") if x.size > 8 else jax.P())
        )

    return jax.tree.map(put, tree)


@pytest.mark.parametrize("name", ONE)
def test_codes_do_not_depend_on_the_number_of_devices(name):
    run, start = three_steps(name)
    expected = run(SEVERAL, start)
    for devices, spec in ((2, jax.P("x")), (8, jax.P("x")), (8, jax.P(None, "x"))):
        actual = run(spread(SEVERAL, devices, spec), spread(start, devices, spec))
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("name", ONE)
def test_a_state_resharded_between_steps_gives_the_same_codes(name):
    run, start = three_steps(name)
    moved = stayed = run(SEVERAL, start)
    for devices in (1, 8, 2):
        moved = run(spread(SEVERAL, devices), spread(moved, devices))
        stayed = run(SEVERAL, stayed)
    jax.tree.map(np.testing.assert_array_equal, moved, stayed)


@pytest.mark.parametrize("name", QUICK)
def test_a_checkpoint_resumes_to_the_bit(name, tmp_path):
    run, start = three_steps(name)
    state = run(SEVERAL, start)
    checkpointer = ocp.StandardCheckpointer()
    checkpointer.save(tmp_path / "state", state)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(tmp_path / "state", jax.device_put(start))
    expected = run(SEVERAL, state)
    for resumed in (restored, pickle.loads(pickle.dumps(state))):
        jax.tree.map(np.testing.assert_array_equal, run(SEVERAL, resumed), expected)


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow if x == "float16" else ()) for x in NAMES])
def test_jit_scan_and_vmap_give_the_same_codes(name):
    gradients = normal(3, 4096)
    ewa = ewa_optax.scale_by_ewa(0.5, name)  # Exact halves, so that all of them form the same average.

    def run(gradients):
        return jax.lax.scan(lambda s, g: (ewa.update(g, s)[1], None), ewa.init(gradients[0]), gradients)[0]

    plain = ewa.init(gradients[0])
    for g in gradients:
        _, plain = ewa.update(g, plain)
    jitted, of_two = jax.jit(lambda x: (run(x), jax.vmap(run)(jnp.stack([x, x]))))(gradients)
    for other in (jitted, jax.tree.map(lambda x: np.asarray(x)[1], of_two)):
        jax.tree.map(np.testing.assert_array_equal, plain, other)


# Memory.

LARGE = {
    "embedding": jax.ShapeDtypeStruct((10_000, 512), jnp.float32),
    "layers": [
        {"w": jax.ShapeDtypeStruct((512, 1536), jnp.float32), "b": jax.ShapeDtypeStruct((1536,), jnp.float32)}
        for _ in range(6)
    ],
}
BYTES = {None: 8.0, "24bit": 6.0, "bfloat16": 4.0, "float16": 4.0, "8bit": 2.13}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_of_state_per_parameter(name):
    numbers = sum(x.size for x in jax.tree.leaves(LARGE))
    assert 9e6 < numbers < 11e6
    per_parameter = ewa_optax.state_bytes(ewa_optax.adam(1e-3, storage=name), LARGE) / numbers
    assert per_parameter == pytest.approx(BYTES[name], abs=0.01) if name != "8bit" else per_parameter <= BYTES[name]


def test_state_bytes_are_those_of_the_state():
    params = {"w": jnp.ones((100, 100)), "b": jnp.ones(5, jnp.bfloat16), "none": None}
    optimizers = ewa_optax.adam(1e-3, storage="8bit"), ewa_optax.gradient_descent(0.1), optax.adam(1e-3)
    states = jax.jit(lambda params: [optimizer.init(params) for optimizer in optimizers])(params)
    for optimizer, state in zip(optimizers, states, strict=True):
        assert ewa_optax.state_bytes(optimizer, params) == sum(x.nbytes for x in jax.tree.leaves(state))


COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: COMPILED.append(event) if "backend_compile" in event else None
)


@pytest.mark.parametrize("name", ONE)
def test_a_start_outside_of_jit_compiles_few_programs_for_another_shape(name):
    """Not one for each operation of a storage."""
    optimizer = optax.chain(ewa_optax.adam(1e-3, storage=name), ewa_optax.average_parameters(0.9, storage=name))
    optimizer.init(np.ones((70, 131), np.float32))
    before = len(COMPILED)
    optimizer.init(np.ones((70, 132), np.float32))
    assert 0 < len(COMPILED) - before <= 8


def test_small_leaves_stay_float32():
    params = {"w": np.ones((64, 64), np.float32), "b": np.ones(4095, np.float32)}
    state = jax.eval_shape(ewa_optax.scale_by_ewa(0.9, "8bit").init, params)
    assert state.average.arrays[0]["b"].dtype == jnp.float32
    assert (state.average.arrays[1]["b"].dtype, state.average.arrays[1]["b"].shape) == (bool, (4095,))
    assert state.average.arrays[0]["w"].dtype == jnp.int8
    everything = jax.eval_shape(ewa_optax.scale_by_ewa(0.9, storage.BFloat16(min_size=0)).init, params)
    assert everything.average.arrays[0]["b"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("shape", "scales"),
    [
        ((5, 1031), (5, 9)),
        pytest.param((5, 256), (5, 4), marks=pytest.mark.slow),
        ((300, 1), (4,)),
        pytest.param((256,), (4,), marks=pytest.mark.slow),
        pytest.param((5, 100), (5, 1), marks=pytest.mark.slow),
        pytest.param((5, 1000), (5, 8), marks=pytest.mark.slow),
    ],
)
def test_codes_keep_the_shape_and_scales_are_per_block(shape, scales):
    x = np.abs(normal(*shape))
    for kept in (storage.EightBit(), SQUARES["8bit"]):
        encoded, back = there_and_back(kept, x, bits_of(0, shape))
        assert encoded.codes.shape == shape
        assert encoded.scales.shape == scales
        np.testing.assert_allclose(back, x, atol=0.07 * x.max())


@pytest.mark.parametrize("squares", [False, True])
def test_codes_stand_for_the_powers_that_they_should(squares):
    """The map of the benchmark that compares maps, which is a table, is the twin."""
    twin = maps.Mapped(sizes=tuple(maps.MAPS["powers 4 and 8"][squares].tolist()), signed=not squares, block=128)
    assert {len(pair[squares]) for pair in maps.MAPS.values()} == {256 if squares else 128}
    codes = np.arange(256, dtype=np.uint8) if squares else np.arange(-127, 128, dtype=np.int8)
    scales = np.float32([3.0, 0.01] if squares else [3.0, 0.01, 1.0])
    blocks, ours = storage.Blocks(codes, scales), storage.EightBit(squares=squares)
    kept, expected = jax.jit(lambda blocks: (ours.decode(blocks), twin.decode(blocks)))(blocks)
    np.testing.assert_allclose(kept, expected, rtol=3e-5)


# Factors.


def test_factors_are_exact_for_a_product_and_right_in_the_mean_of_rows_and_columns():
    rng = np.random.default_rng(0)
    rows, columns = 10 ** rng.uniform(-20, 0, (50, 1)), 10 ** rng.uniform(-3, 3, 90)
    product, other = np.float32(rows * columns), np.float32(rng.chisquare(1, (4, 50, 90)))
    _, back = there_and_back(storage.Factored(), np.stack([product, *other]), None)
    np.testing.assert_allclose(back[0], product, rtol=1e-5)
    for axis in (-1, -2):
        np.testing.assert_allclose(np.asarray(back)[1:].mean(axis), other.mean(axis), rtol=1e-5)


def test_factored_second_moments_are_those_of_adafactor():
    """The means of rows and columns are averages themselves: of the means of the squares."""
    optimizer = ewa_optax.rmsprop(1.0, 0.9, eps=0.0, storage=storage.Factored(min_size=0))
    gradients = np.random.default_rng(0).standard_normal((20, 30, 40))
    update, state = jax.jit(optimizer.update), optimizer.init(jnp.zeros((30, 40)))
    rows, columns = np.zeros(30), np.zeros(40)
    for g in gradients:
        average = 0.9 * np.outer(rows, columns) / max(rows.mean(), 1e-300) + 0.1 * g**2
        updates, state = update(np.float32(g), state)
        np.testing.assert_allclose(updates, -g / np.sqrt(average), rtol=1e-5)
        rows, columns = 0.9 * rows + 0.1 * (g**2).mean(1), 0.9 * columns + 0.1 * (g**2).mean(0)


@pytest.mark.parametrize("value", [1e-30, 1.0, 3e38])
def test_factors_neither_overflow_nor_vanish(value):
    x = np.full((5, 50, 90), value, np.float32)
    x[1:, 3, 5] = 1e10
    back = np.asarray(there_and_back(storage.Factored(), x, None)[1])
    assert np.isfinite(back).all()
    assert (back > 0).all()


def test_spikes_do_not_break_factored_averages():
    optimizer = ewa_optax.adam(1.0, storage=(None, storage.Factored()))
    spikes = np.zeros((64, 64), np.float32)
    spikes[0] = spikes[:, 0] = 1e19
    update, state = jax.jit(optimizer.update), jax.jit(optimizer.init)(spikes)
    for g in (spikes, spikes, spikes * 0 + np.float32(3e38), spikes * 0, spikes * 0 + 1, spikes):
        updates, state = update(g, state)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((updates, state)))


def test_factors_take_next_to_no_bytes():
    numbers = sum(x.size for x in jax.tree.leaves(LARGE))
    optimizer = ewa_optax.adam(1e-3, storage=("8bit", storage.Factored()))
    assert ewa_optax.state_bytes(optimizer, LARGE) / numbers < 1.08


# A storage of one's own.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signs(storage.Storage):
    """One bit a number and one scale a leaf, in the mean what it should be."""

    def encode(self, average, bits):
        top = jnp.abs(average).max()
        up = bits.astype(jnp.float32) < (average / jnp.where(top > 0, top, 1) + 1) * 2.0**31
        return {"up": up, "top": top}

    def decode(self, kept):
        return jnp.where(kept["up"], kept["top"], -kept["top"])


def test_a_storage_of_ones_own():
    gradients = np.linspace(-1, 1, 100_000, dtype=np.float32)
    ewa = ewa_optax.scale_by_ewa(0.5, Signs())
    state = ewa.init(gradients)
    assert [x.dtype for x in state.average.arrays] == [jnp.float32, bool]
    for _ in range(3):
        updates, state = jax.jit(ewa.update)(gradients, state)
    expected = gradients * (1 - 0.5**3)
    blocks = (np.asarray(updates) - expected).reshape(100, -1).mean(1)
    assert np.abs(blocks).max() < 0.15
    adam = ewa_optax.adam(1e-3, storage=(Signs(), "8bit"))
    step = jax.jit(lambda g: adam.update(g, adam.init(g), g))
    assert np.isfinite(step(gradients)[0]).all()
    adam = ewa_optax.adam(1e-3, storage=(None, "8bit"))
    assert jax.eval_shape(adam.init, gradients)[1].numerator.average.dtype == jnp.float32


class Wavering(storage.Storage):
    """Makes more arrays of vectors than of matrices."""

    def encode(self, average, bits):
        return [average] * (3 - average.ndim)

    def decode(self, kept):
        return kept[0]


def test_a_storage_must_make_as_many_arrays_of_every_average():
    with pytest.raises(ValueError, match="Wavering makes 2 arrays of one average and 1 of another; give encode"):
        ewa_optax.scale_by_ewa(0.9, Wavering()).init(jnp.ones(5000))


# What faults on purpose showed to be tested nowhere else.


def test_squares_in_float16():
    kept = storage.Float16().for_squares()
    back = kept.decode(kept.encode(jnp.full(8, 3e38), jnp.zeros(8, jnp.uint32)))
    np.testing.assert_allclose(back, 65504.0**2, rtol=1e-3)


def test_no_key_gives_the_sequence_of_another_at_an_offset():
    here, there = (np.asarray(random_bits(jnp.uint32(key), (1000,))) for key in (7, 8))
    assert not len(np.intersect1d(here, there))


def test_averages_of_two_decays_in_one_chain(monkeypatch):
    keys = []
    monkeypatch.setattr(_encoding, "fold", lambda *numbers: keys.append(repr(numbers)) or jnp.uint32(0))
    chain = optax.chain(*(ewa_optax.scale_by_ewa(decay, BFloat16(min_size=0)) for decay in (0.5, 0.75)))
    with jax.disable_jit():  # What is traced already would fold no more.
        chain.update(jnp.ones(4), chain.init(jnp.ones(4)))
    assert len(set(keys)) == 2
