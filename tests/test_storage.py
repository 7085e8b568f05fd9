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

import ewa_optax
from benchmarks import maps
from ewa_optax import storage
from ewa_optax._keeping import Keeper, resolve
from ewa_optax._rounding import fold, key_of, random_bits, round_bits

NAMES = list(storage.NAMED)
QUICK = [pytest.param(x, marks=() if x in ("8bit", "bfloat16") else pytest.mark.slow) for x in NAMES]
SQUARES = {name: kept.for_squares() for name, kept in storage.NAMED.items()}


def nearest(kept):
    return dataclasses.replace(kept, rounding="nearest")


def bits_of(seed, shape):
    return jax.random.bits(jax.random.key(seed), shape)


def round_trip(kept, x, bits):
    return kept.decode(kept.encode(jnp.asarray(x), bits))


# The averages.


def ratchet(kept, decay, elements=4096, loud=3000, quiet=5000):
    """Stored over true second moment, when gradients of scale 1 have fallen to 0.05."""
    ewa, keeper = ewa_optax.scale_by_ewa(decay, kept), Keeper(resolve(kept), 0)
    scales = np.repeat(np.float32([1.0, 0.05]), [loud, quiet])

    def step(carry, at):
        state, true = carry
        t, scale = at
        square = (scale * jax.random.normal(jax.random.fold_in(jax.random.key(0), t), (elements,))) ** 2
        return (ewa.update(square, state)[1], true + (1 - decay) * (square - true)), None

    @jax.jit
    def run():
        start = ewa.init(jnp.zeros(elements)), jnp.zeros(elements)
        (state, true), _ = jax.lax.scan(step, start, (jnp.arange(loud + quiet), scales))
        return keeper.decode(true.shape, *keeper.trees(state.average)) / true

    return np.asarray(run(), np.float64)


# How far the mean ratio, and the deviation of its root, may be from 1 and from 0.
TRUE = {"bfloat16": (0.01, 0.07), "float16": (0.01, 0.07), "24bit": (0.001, 0.001), "8bit": (0.03, 0.15)}


@pytest.mark.parametrize("decay", [pytest.param(0.999, marks=pytest.mark.slow), 0.9999])
@pytest.mark.parametrize("name", NAMES)
def test_second_moments_follow_gradients_down(name, decay):
    ratio = ratchet(SQUARES[name], decay)
    mean, deviation = TRUE[name]
    assert abs(ratio.mean() - 1) <= mean
    assert np.sqrt(ratio).std() <= deviation


@pytest.mark.parametrize("name", ["bfloat16", "float16", "8bit"])
def test_rounded_to_nearest_they_do_not(name):
    ratio = ratchet(nearest(SQUARES[name]), 0.999)
    assert abs(ratio.mean() - 1) > TRUE[name][0]


def test_optax_in_bfloat16_keeps_a_hundred_times_too_much():
    adam, scales = optax.scale_by_adam(b2=0.999), np.repeat(np.float32([1.0, 0.05]), [3000, 5000])

    def step(carry, at):
        state, true = carry
        g = at[1] * jax.random.normal(jax.random.fold_in(jax.random.key(0), at[0]), (4096,))
        g = g.astype(jnp.bfloat16)
        return (adam.update(g, state)[1], true + 0.001 * (g.astype(jnp.float32) ** 2 - true)), None

    @jax.jit
    def run():
        start = adam.init(jnp.zeros(4096, jnp.bfloat16)), jnp.zeros(4096)
        (state, true), _ = jax.lax.scan(step, start, (jnp.arange(8000), scales))
        return state.nu.astype(jnp.float32) / true

    assert run().mean() > 100


def constant_gradient(kept, decay, steps, elements=4096):
    """The mean over elements of the debiased average of ones, at every step."""
    average = optax.chain(ewa_optax.scale_by_ewa(decay, kept), ewa_optax.bias_correct(decay))
    keeper = Keeper(resolve(kept), 0)

    def step(state, _):
        state = average.update(jnp.ones(elements), state)[1]
        return state, keeper.decode((elements,), *keeper.trees(state[0].average)).mean()

    kept_means = jax.jit(lambda: jax.lax.scan(step, average.init(jnp.zeros(elements)), length=steps)[1])()
    return np.asarray(kept_means, np.float64) / -np.expm1(np.arange(1, steps + 1) * np.log(decay))


@pytest.mark.parametrize("decay", [0.999, 0.9999])
@pytest.mark.parametrize("name", NAMES)
def test_the_average_of_a_constant_is_that_constant_at_every_step(name, decay):
    assert np.abs(constant_gradient(name, decay, 20_000) - 1).max() < 0.01


@pytest.mark.parametrize(("decay", "stalled"), [(0.999, 0.25), (0.9999, 0.03)])
def test_rounded_to_nearest_it_stalls(decay, stalled):
    means = constant_gradient(nearest(storage.BFloat16()), decay, 100_000 if decay > 0.999 else 20_000)
    np.testing.assert_allclose(means[-1], stalled, rtol=0.1)


def test_what_leaves_is_the_fresh_average():
    gradients = jax.random.normal(jax.random.key(0), (4096,))
    rounded, exact = ewa_optax.scale_by_ewa(0.9, "8bit"), ewa_optax.scale_by_ewa(0.9)
    updates, _ = rounded.update(gradients, rounded.init(gradients))
    expected, _ = exact.update(gradients, exact.init(gradients))
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
        ("bfloat16", 8),
        ("float16", 4),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in ("bfloat16", "float16", "24bit")),
    ],
)
def test_rounding_is_unbiased_in_every_binade(name, every):
    """Over 1e6 numbers of both signs, the mean error is within 5 standard errors of 0."""
    kept = storage.NAMED[name]
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
    rounded = np.asarray(round_bits(raw.view(np.float32), 16, bits_of(0, raw.shape)))
    error = (rounded.astype(np.int64) - raw) / 2.0**16
    assert np.abs(error).max() <= 1
    assert abs(error.mean()) <= 5 * error.std() / 1000


@pytest.mark.parametrize("squares", [False, True])
def test_rounding_to_codes_is_unbiased(squares):
    kept = storage.EightBit(squares=squares)
    x = np.random.default_rng(0).standard_normal((1000, 1000)).astype(np.float32)
    x = x**2 if squares else x
    rounded = np.asarray(jax.jit(lambda x, bits: round_trip(kept, x, bits))(x, bits_of(0, x.shape)))
    error = (rounded - x).astype(np.float64)
    assert np.std(error) < 0.05 * np.std(x)
    assert abs(error.mean()) <= 5 * error.std() / 1000
    assert abs((error * np.sign(x)).mean()) <= 5 * error.std() / 1000


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", jnp.bfloat16), ("float16", jnp.float16)])
def test_every_number_of_16_bits_stays_what_it_is(name, dtype):
    every = jax.lax.bitcast_convert_type(jnp.arange(2**16, dtype=jnp.uint16), dtype)
    for seed in range(3):
        kept = storage.NAMED[name].encode(every.astype(jnp.float32), bits_of(seed, every.shape))
        finite = np.isfinite(np.asarray(every, np.float32))
        np.testing.assert_array_equal(
            np.asarray(kept).view(np.uint16)[finite], np.asarray(every).view(np.uint16)[finite]
        )
        np.testing.assert_array_equal(np.asarray(kept, np.float32)[~finite], np.asarray(every, np.float32)[~finite])


def test_every_number_of_24_bits_stays_what_it_is():
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 2**24, 1_000_000, dtype=np.uint32) << 8).view(np.float32)
    x = x[np.isfinite(x)]
    kept = round_trip(storage.Float24(), x, bits_of(0, x.shape))
    np.testing.assert_array_equal(np.asarray(kept).view(np.uint32), x.view(np.uint32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("squares", [False, True])
def test_the_largest_numbers_stay_finite(name, squares):
    kept = SQUARES[name] if squares else storage.NAMED[name]
    top = np.finfo(np.float32).max
    sizes = np.float32([top, np.nextafter(top, 0), 3.39e38, 65504.0, 65519.0, 0.0] * 100)
    for x in (sizes, sizes if squares else -sizes):
        for seed in range(3):
            back = np.asarray(round_trip(kept, x, bits_of(seed, x.shape)))
            assert np.isfinite(back).all()
            assert (np.abs(back[np.abs(x) > 1e38]) > 3e4).all()


@pytest.mark.parametrize("name", ["bfloat16", "float16", "24bit"])
def test_infinities_and_nan_pass_through(name):
    raw = np.uint32([0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001])
    x = raw.view(np.float32)
    for seed in range(20):
        np.testing.assert_array_equal(round_trip(storage.NAMED[name], x, bits_of(seed, x.shape)), x)


@pytest.mark.parametrize("size", [512, 8192, 65_536])
def test_a_block_with_a_nan_does_not_hide_it(size):
    """At some sizes XLA's maximum loses a NaN on a CPU."""
    x = jnp.ones(size).at[200].set(jnp.nan).at[300].set(jnp.inf)
    for kept in (storage.EightBit(), SQUARES["8bit"]):
        back = np.asarray(jax.jit(lambda x, kept=kept: round_trip(kept, x, bits_of(0, x.shape)))(x))
        assert np.isnan(back[200])
        assert not np.isfinite(back[300])
        assert np.isfinite(back[:128]).all()
        assert np.isfinite(back[384:]).all()


@pytest.mark.parametrize("name", ["float16", "8bit"])
def test_a_second_moment_is_never_rounded_to_zero(name):
    x = np.random.default_rng(0).permutation(10.0 ** np.linspace(-37, 37, 4096)).astype(np.float32)
    there_and_back = jax.jit(functools.partial(round_trip, SQUARES[name]))
    for seed in range(20):
        assert (np.asarray(there_and_back(x, bits_of(seed, x.shape))) > 0).all()
    assert (np.asarray(round_trip(SQUARES[name], jnp.zeros(128), bits_of(0, (128,)))) == 0).all()


# The chance.


def correlation(a, b):
    return abs(np.corrcoef(np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel())[0, 1])


def test_leaves_moments_and_steps_of_adam_are_rounded_independently():
    decay = 0.95
    optimizer, decode = ewa_optax.adam(1e-3, b1=decay, b2=decay, storage="bfloat16"), storage.BFloat16().decode
    g = 1 + jax.random.uniform(jax.random.key(0), (1000, 1000))
    params = [g, g]
    state, errors = optimizer.init(params), []
    for t in (1, 2, 3):
        before, state = state[1], optimizer.update(params, state, params)[1]
        newest = (1 - decay) / (1 - decay**t)
        for field, value, share in (("numerator", g, 1 - decay), ("second_moment", g**2, newest)):
            for old, new in zip(
                getattr(before, field).average.arrays[0], getattr(state[1], field).average.arrays[0], strict=True
            ):
                kept = decode(old)
                errors.append(np.asarray(decode(new) - (kept + share * (value - kept))).ravel())
    assert min(np.abs(error).max() for error in errors) > 1e-4
    between = np.abs(np.corrcoef(errors)) - np.eye(len(errors))
    assert between.max() < 0.01


@pytest.mark.parametrize("other", ["seed", "piece", "leaf", "part", "step", "next step"])
def test_random_bits_of_different_names_are_independent(other):
    shape = (1000, 1000)
    names = {"seed": (1, 0, "w", 0), "piece": (0, 1, "w", 0), "leaf": (0, 0, "b", 0), "part": (0, 0, "w", 1)}
    here = random_bits(fold(key_of(0, 0, "w", 0), jnp.int32(1)), shape)
    steps = {"step": 1000, "next step": 2}
    there = random_bits(fold(key_of(*names.get(other, (0, 0, "w", 0))), jnp.int32(steps.get(other, 1))), shape)
    assert correlation(here, there) < 0.01
    assert correlation(here & 0xFFFF, there & 0xFFFF) < 0.01


@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (1, 1), (0, 2), (8, 0), (0, 512), (256, 0)])
def test_random_bits_of_neighbours_are_independent(shift):
    bits = np.asarray(random_bits(fold(key_of(0), jnp.int32(7)), (1024, 1024)))
    assert correlation(bits, np.roll(bits, shift, (0, 1))) < 0.01


def test_random_bits_are_uniform_in_each_bit_and_over_steps():
    bits = np.stack([np.asarray(random_bits(fold(key_of(0), jnp.int32(t)), (256, 256))) for t in range(64)])
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
    params = jax.device_put(jax.random.normal(jax.random.key(0), (64, 1024)), jax.NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        state = jax.jit(optimizer.init)(params)
        for _ in range(2):
            updates, state = jax.jit(optimizer.update)(params, state, params)
    whole = jnp.asarray(np.asarray(params))
    state = optimizer.init(whole)
    for _ in range(2):
        alone, state = jax.jit(optimizer.update)(whole, state, whole)
    np.testing.assert_allclose(updates, alone, rtol=1e-5)

    def local(p):
        _, state = optimizer.update(p, optimizer.init(p), p)
        return optimizer.update(p, state, p)[0]

    sharded = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec))(params)
    # Of the same averages; but here each device rounds its part of them as if that were the whole.
    assert np.abs(sharded - alone).mean() < 0.02 * np.abs(alone).mean()


@pytest.mark.parametrize("name", ["8bit", *(pytest.param(x, marks=pytest.mark.slow) for x in NAMES if x != "8bit")])
def test_codes_do_not_depend_on_the_number_of_devices(name):
    params = {"w": jax.random.normal(jax.random.key(0), (64, 1024)), "b": jax.random.normal(jax.random.key(1), (8192,))}
    optimizer = ewa_optax.adam(1e-3, storage=name)
    results, (start, step) = [], (jax.jit(optimizer.init), jax.jit(optimizer.update))
    for devices, spec in ((1, jax.P("x")), (2, jax.P("x")), (8, jax.P("x")), (8, jax.P(None, "x"))):
        mesh = jax.make_mesh((devices,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
        on = {"w": jax.NamedSharding(mesh, spec), "b": jax.NamedSharding(mesh, jax.P("x"))}
        spread = jax.device_put(params, on)
        state = start(spread)
        for t in range(3):
            gradients = jax.tree.map(lambda x, t=t: x * (t + 1), spread)
            _, state = step(gradients, state, spread)
        results.append(jax.tree.map(np.asarray, state))
    for other in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, results[0], other)


@pytest.mark.parametrize("name", QUICK)
def test_a_state_resharded_between_steps_gives_the_same_codes(name):
    params = jax.random.normal(jax.random.key(0), (64, 1024))
    optimizer = ewa_optax.adam(1e-3, storage=name)
    moved, stayed = optimizer.init(params), optimizer.init(params)
    for devices in (1, 8, 2):
        mesh = jax.make_mesh((devices,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
        here = jax.NamedSharding(mesh, jax.P("x"))
        moved = jax.tree.map(
            lambda x, here=here, mesh=mesh: jax.device_put(x, here if x.ndim else jax.NamedSharding(mesh, jax.P())),
            moved,
        )
        _, moved = jax.jit(optimizer.update)(jax.device_put(params, here), moved, jax.device_put(params, here))
        _, stayed = jax.jit(optimizer.update)(params, stayed, params)
    jax.tree.map(np.testing.assert_array_equal, moved, stayed)


@pytest.mark.parametrize("name", QUICK)
def test_a_checkpoint_resumes_to_the_bit(name, tmp_path):
    params = {"w": jax.random.normal(jax.random.key(0), (64, 128)), "small": jnp.ones(3)}
    double = jax.tree.map(lambda p: 2 * p, params)
    optimizer = ewa_optax.adam(1e-3, storage=name)
    step = jax.jit(optimizer.update)
    _, state = step(params, optimizer.init(params), params)
    checkpointer = ocp.StandardCheckpointer()
    checkpointer.save(tmp_path / "state", state)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(tmp_path / "state", jax.tree.map(jnp.zeros_like, state))
    expected = step(double, state, params)
    for resumed in (restored, pickle.loads(pickle.dumps(state))):
        jax.tree.map(np.testing.assert_array_equal, step(double, resumed, params), expected)


@pytest.mark.parametrize("name", NAMES)
def test_jit_scan_and_vmap_give_the_same_codes(name):
    gradients = jax.random.normal(jax.random.key(0), (3, 4096))
    ewa = ewa_optax.scale_by_ewa(0.5, name)  # Exact halves, so that all of them form the same average.

    def run(gradients):
        return jax.lax.scan(lambda s, g: (ewa.update(g, s)[1], None), ewa.init(gradients[0]), gradients)[0]

    plain = ewa.init(gradients[0])
    for g in gradients:
        _, plain = ewa.update(g, plain)
    for other in (jax.jit(run)(gradients), jax.tree.map(lambda x: x[1], jax.vmap(run)(jnp.stack([gradients] * 2)))):
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
    for optimizer in (ewa_optax.adam(1e-3, storage="8bit"), ewa_optax.gradient_descent(0.1), optax.adam(1e-3)):
        assert ewa_optax.state_bytes(optimizer, params) == sum(
            x.nbytes for x in jax.tree.leaves(optimizer.init(params))
        )


COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: COMPILED.append(event) if "backend_compile" in event else None
)


@pytest.mark.parametrize("name", NAMES)
def test_a_start_outside_of_jit_compiles_few_programs_for_another_shape(name):
    """Not one for each operation of a storage."""
    optimizer = optax.chain(ewa_optax.adam(1e-3, storage=name), ewa_optax.average_parameters(0.9, storage=name))
    optimizer.init(np.ones((70, 131), np.float32))
    before = len(COMPILED)
    optimizer.init(np.ones((70, 132), np.float32))
    assert 0 < len(COMPILED) - before <= 8


def test_small_leaves_stay_float32():
    state = ewa_optax.scale_by_ewa(0.9, "8bit").init({"w": jnp.ones((64, 64)), "b": jnp.ones(4095)})
    assert state.average.arrays[0]["b"].dtype == jnp.float32
    assert state.average.arrays[1]["b"] is None
    assert state.average.arrays[0]["w"].dtype == jnp.int8
    everything = ewa_optax.scale_by_ewa(0.9, storage.BFloat16(min_size=0)).init({"b": jnp.ones(3)})
    assert everything.average.arrays[0]["b"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("shape", "scales"),
    [
        ((5, 1031), (5, 9)),
        pytest.param((5, 256), (5, 2), marks=pytest.mark.slow),
        ((300, 1), (3,)),
        pytest.param((256,), (2,), marks=pytest.mark.slow),
        pytest.param((5, 100), (5, 1), marks=pytest.mark.slow),
        pytest.param((5, 1000), (5, 8), marks=pytest.mark.slow),
    ],
)
def test_codes_keep_the_shape_and_scales_are_per_block(shape, scales):
    x = jax.random.normal(jax.random.key(0), shape)
    for kept in (storage.EightBit(), SQUARES["8bit"]):
        encoded = kept.encode(jnp.abs(x), bits_of(0, shape))
        assert encoded.codes.shape == shape
        assert encoded.scales.shape == scales
        np.testing.assert_allclose(kept.decode(encoded), jnp.abs(x), atol=0.07 * float(jnp.abs(x).max()))


@pytest.mark.parametrize("squares", [False, True])
def test_codes_stand_for_the_powers_that_they_should(squares):
    """The map of the benchmark that compares maps, which is a table, is the twin."""
    twin = maps.Mapped(sizes=tuple(maps.MAPS["powers 4 and 8"][squares].tolist()), signed=not squares, block=128)
    assert {len(pair[squares]) for pair in maps.MAPS.values()} == {256 if squares else 128}
    codes = jnp.arange(256, dtype=jnp.uint8) if squares else jnp.arange(-127, 128, dtype=jnp.int8)
    scales = jnp.array([3.0, 0.01] if squares else [3.0, 0.01, 1.0])
    kept = storage.EightBit(squares=squares).decode(storage.Blocks(codes, scales))
    np.testing.assert_allclose(kept, twin.decode(storage.Blocks(codes, scales)), rtol=3e-5)


# Factors.


def test_factors_are_exact_for_a_product_and_right_in_the_mean_of_rows_and_columns():
    rng = np.random.default_rng(0)
    rows, columns = 10 ** rng.uniform(-20, 0, (50, 1)), 10 ** rng.uniform(-3, 3, 90)
    product, other = np.float32(rows * columns), np.float32(rng.chisquare(1, (4, 50, 90)))
    kept = storage.Factored()
    np.testing.assert_allclose(round_trip(kept, product, None), product, rtol=1e-5)
    back = np.asarray(round_trip(kept, other, None))
    for axis in (-1, -2):
        np.testing.assert_allclose(back.mean(axis), other.mean(axis), rtol=1e-5)


def test_factored_second_moments_are_those_of_adafactor():
    """The means of rows and columns are averages themselves: of the means of the squares."""
    optimizer = ewa_optax.rmsprop(1.0, 0.9, eps=0.0, storage=storage.Factored(min_size=0))
    gradients = np.random.default_rng(0).standard_normal((20, 30, 40))
    state, rows, columns = optimizer.init(jnp.zeros((30, 40))), np.zeros(30), np.zeros(40)
    for g in gradients:
        average = 0.9 * np.outer(rows, columns) / max(rows.mean(), 1e-300) + 0.1 * g**2
        updates, state = optimizer.update(jnp.float32(g), state)
        np.testing.assert_allclose(updates, -g / np.sqrt(average), rtol=1e-5)
        rows, columns = 0.9 * rows + 0.1 * (g**2).mean(1), 0.9 * columns + 0.1 * (g**2).mean(0)


@pytest.mark.parametrize("value", [1e-30, 1.0, 3e38])
def test_factors_neither_overflow_nor_vanish(value):
    for x in (jnp.full((64, 64), value), jnp.full((64, 64), value).at[3, 5].set(1e10)):
        back = np.asarray(round_trip(storage.Factored(), x, None))
        assert np.isfinite(back).all()
        assert (back > 0).all()


def test_spikes_do_not_break_factored_averages():
    optimizer = ewa_optax.adam(1.0, storage=(None, storage.Factored()))
    spikes = jnp.zeros((64, 64)).at[0].set(1e19).at[:, 0].set(1e19)
    state = optimizer.init(spikes)
    for g in (spikes, spikes, jnp.full((64, 64), 3e38), jnp.zeros((64, 64)), jnp.ones((64, 64)), spikes):
        updates, state = optimizer.update(g, state)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((updates, state)))


def test_factors_take_next_to_no_bytes():
    numbers = sum(x.size for x in jax.tree.leaves(LARGE))
    optimizer = ewa_optax.adam(1e-3, storage=("8bit", storage.Factored()))
    assert ewa_optax.state_bytes(optimizer, LARGE) / numbers < 1.06


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
    gradients = jnp.linspace(-1.0, 1.0, 100_000)
    ewa = ewa_optax.scale_by_ewa(0.5, Signs())
    state = ewa.init(gradients)
    assert [x.dtype for x in state.average.arrays] == [jnp.float32, bool]
    for _ in range(3):
        updates, state = jax.jit(ewa.update)(gradients, state)
    expected = gradients * (1 - 0.5**3)
    blocks = (updates - expected).reshape(100, -1).mean(1)
    assert np.abs(blocks).max() < 0.15
    adam = ewa_optax.adam(1e-3, storage=(Signs(), "8bit"))
    step = jax.jit(lambda g: adam.update(g, adam.init(g), g))
    assert np.isfinite(step(gradients)[0]).all()
    adam = ewa_optax.adam(1e-3, storage=(None, "8bit"))
    assert adam.init(gradients)[1].numerator.average.dtype == jnp.float32


class Wavering(storage.Storage):
    """Makes more arrays of vectors than of matrices."""

    def encode(self, average, bits):
        return [average] * (3 - average.ndim)

    def decode(self, kept):
        return kept[0]


def test_a_storage_must_make_as_many_arrays_of_every_average():
    with pytest.raises(ValueError, match="Wavering makes 2 arrays of one average and 1 of another; give encode"):
        ewa_optax.scale_by_ewa(0.9, Wavering()).init(jnp.ones(5000))
