"""What the optimizers of the family must do beyond the laws of the table."""

import dataclasses
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from cases import DIFFERENT, EVERY, FAMILY, FULL
from runs import (
    assert_close_in_size,
    eight_decades,
    followed,
    parametrized,
    roughly_compiled,
    run_updates,
    trained,
)

import ewa_optax
from ewa_optax import pieces, storage
from ewa_optax.pieces._decay_schedules import share_of_growing_half_life
from ewa_optax.storage import _encoding
from ewa_optax.storage._formats import BFloat16, Float16

DECAYING = [name for name, x in EVERY.items() if "weight_decay" in inspect.signature(x).parameters]
STORED = [name for name, x in EVERY.items() if "storage" in inspect.signature(x).parameters]
OF_PAIRS = [n for n in STORED if inspect.signature(EVERY[n]).parameters["storage"].annotation == storage.MomentStorages]


@parametrized([case._replace(slow=case.name not in DIFFERENT) for case in FULL + FAMILY])
def test_its_oracle_would_notice_another_value_of_each_hyperparameter(case):
    gradients, params = eight_decades(50, case.shape), eight_decades(1, case.shape, seed=1)[0]
    expected = case.oracle(gradients.astype(np.float64), params)
    # An eps that only guards against 0; a size that its parameters exceed.
    free = {("adafactor", "min_scale")} | {(case.name, n) for n, x in case.hyperparameters.items() if 0 < x < 1e-7}
    names = [name for name in case.hyperparameters if (case.name, name) not in free]
    rows = [{n: 0.8 * x or 1e-3 if n == name else x for n, x in case.hyperparameters.items()} for name in names]
    table = {n: np.array([row[n] for row in (*rows, case.hyperparameters)], np.float32) for n in names}
    each = roughly_compiled(jax.vmap(lambda values: followed(case.optimizer(**values), params, gradients)[1]))(table)
    *changed, same = np.asarray(each)
    assert_close_in_size(same, expected, 100 * case.oracle_tolerance)
    for updates in changed:
        with pytest.raises(AssertionError):
            assert_close_in_size(updates, expected, 100 * case.oracle_tolerance)


# What optax has in another form, by the recipes of the docstrings.


def of_eight_decades(optimizer):
    params, gradients = eight_decades(1, (64,), seed=1)[0], eight_decades(200, (64,))
    return np.asarray(run_updates(optimizer, params, gradients, roughly_compiled))


def assert_twins(ours, theirs, tolerance=1e-5):
    assert_close_in_size(of_eight_decades(ours), of_eight_decades(theirs), tolerance)


def descend(*chain):
    return optax.chain(*chain, ewa_optax.scale_by_learning_rate(0.1))


def test_amsgrad_as_optax_corrects_it():
    m, v = pieces.scale_by_corrected_ewa(0.9), pieces.scale_by_corrected_ewa(0.99)
    ours = descend(ewa_optax.scale_by_rms(optax.chain(v, pieces.running_max()), numerator=m))
    assert_twins(ours, optax.amsgrad(0.1, 0.9, 0.99))


def test_yogi_as_optax_corrects_it_from_zero():
    m, v = pieces.scale_by_corrected_ewa(0.9), pieces.scale_by_additive_ewa(0.99)
    ours = descend(ewa_optax.scale_by_rms(optax.chain(v, ewa_optax.bias_correct(0.99)), 1e-3, numerator=m))
    theirs = optax.scale_by_yogi(0.9, 0.99, 1e-3, initial_accumulator_value=0.0)
    assert_twins(ours, optax.chain(theirs, optax.scale(-0.1)))


def test_rmsprop_with_momentum_is_that_of_optax_at_a_constant_rate():
    theirs = optax.rmsprop(0.1, 0.95, 1e-8, eps_in_sqrt=False, momentum=0.8)
    assert_twins(ewa_optax.rmsprop_momentum(0.1, 0.95, 1e-8, momentum=0.8), theirs)


def test_novograd_is_that_of_optax():
    ours = ewa_optax.novograd(0.1, 0.9, 0.25, 1e-6, weight_decay=1e-2)
    assert_twins(ours, optax.novograd(0.1, 0.9, 0.25, 1e-6, weight_decay=1e-2))


def test_lars_is_that_of_optax_without_weight_decay_and_with_it_by_pieces():
    """Optax divides by the norm of the sum of gradient and decay; the paper by the sum of their norms."""
    assert_twins(ewa_optax.lars(0.1), optax.lars(0.1))
    decayed = optax.chain(ewa_optax.add_decayed_weights(0.5), pieces.scale_by_trust_ratio(0.001))
    summed = optax.chain(optax.scale(-0.1), ewa_optax.scale_by_ewa(0.9), optax.scale(10.0))
    theirs = of_eight_decades(optax.lars(0.1, weight_decay=0.5))
    assert_close_in_size(of_eight_decades(optax.chain(decayed, summed)), theirs, 1e-5)
    with pytest.raises(AssertionError):
        assert_close_in_size(of_eight_decades(ewa_optax.lars(0.1, 0.5)), theirs, 1e-2)


def test_adan_of_optax_weighs_differences_by_what_is_not_in_the_paper():
    """The paper's weight of a difference is 1 - beta2 = b2 (0.92); optax 0.2.8 has 1 - b2 (0.08) there."""

    def adan(weight):
        m, v, n = (pieces.scale_by_corrected_ewa(b) for b in (0.98, 0.92, 0.99))
        numerator = pieces.add(optax.chain(pieces.take(0), m), optax.chain(pieces.take(1), v, optax.scale(weight)))
        ahead = optax.chain(pieces.combine(1, weight), pieces.root_mean_square(n, 1e-8))
        return descend(pieces.beside(pieces.difference()), pieces.divide(numerator, ahead))

    ours = of_eight_decades(ewa_optax.adan(0.1))
    assert_close_in_size(of_eight_decades(adan(0.92)), ours, 1e-6)
    if optax.__version__ == "0.2.8":
        theirs = of_eight_decades(optax.adan(0.1, 0.98, 0.92, 0.99, 1e-8, 0.0))
        assert_close_in_size(of_eight_decades(adan(1 - 0.92)), theirs, 1e-5)
        with pytest.raises(AssertionError):
            assert_close_in_size(ours, theirs, 0.1)


def test_nadam_with_the_factor_of_its_paper():
    root = 0.99**0.5
    v = optax.chain(pieces.scale_by_corrected_ewa(0.99), optax.scale(0.99))
    m = pieces.add(
        optax.chain(ewa_optax.scale_by_ewa(0.9), pieces.bias_correct_ahead(0.9), optax.scale(0.9)),
        optax.chain(ewa_optax.bias_correct(0.9), optax.scale(0.1)),
    )
    papers = descend(ewa_optax.scale_by_rms(v, 1e-8, numerator=m))
    assert_twins(ewa_optax.nadam(0.1 / root, 0.9, 0.99, 1e-8 / root), papers, tolerance=1e-6)


# Weight decay.


@pytest.mark.parametrize("name", DECAYING)
def test_weights_decay_where_the_mask_says(name):
    params = {"a": {"w": np.ones((2, 2), np.float32), "n": None}, "b": np.full(2, 2.0, np.float32)}
    masks = {
        "function": lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        "tree": {"a": {"w": True, "n": None}, "b": False},
        "prefix": {"a": True, "b": False},
        "none": None,
    }
    of_w, of_b = np.array([[0.1, -0.2], [0.3, 0.05]], np.float32), np.array([0.1, -0.3], np.float32)
    gradients = {"a": {"w": of_w, "n": None}, "b": of_b}

    @roughly_compiled
    def updates(gradients, params):
        decaying = {mask: dict(weight_decay=0.5, mask=masks[mask]) for mask in masks}
        each = decaying | {"plain": dict(weight_decay=0.0), "everywhere": dict(weight_decay=0.5)}
        optimizers = {kind: EVERY[name](0.1, **keywords) for kind, keywords in each.items()}
        return {kind: o.update(gradients, o.init(params), params)[0] for kind, o in optimizers.items()}

    found = updates(gradients, params)
    plain, everywhere = found["plain"], found["everywhere"]
    for mask in masks:
        chex.assert_trees_all_equal(found[mask]["a"], everywhere["a"])
        chex.assert_trees_all_equal(found[mask]["b"], everywhere["b"] if mask == "none" else plain["b"])
    assert np.abs(plain["a"]["w"] - everywhere["a"]["w"]).min() > 1e-5


@pytest.mark.parametrize("name", DECAYING)
def test_weight_decay_may_be_a_schedule(name):
    rates = np.array([0.5, 0.1, 0.3], np.float32)
    scheduled = EVERY[name](0.1, weight_decay=lambda count: jnp.asarray(rates)[count])
    params = np.array([1.0, -2.0], np.float32)

    @roughly_compiled
    def both(gradients, state, rate):
        by_hand, _ = EVERY[name](0.1, weight_decay=rate).update(gradients, state, params)
        return scheduled.update(gradients, state, params), by_hand

    state = jax.jit(scheduled.init)(params)
    for t, rate in enumerate(rates):
        (updates, state), by_hand = both(np.array([0.3, 0.4], np.float32) * (t + 1), state, rate)
        chex.assert_trees_all_close(updates, by_hand, rtol=1e-6)


def test_coupled_weight_decay_goes_through_the_averages():
    coupled = optax.chain(ewa_optax.add_decayed_weights(0.1), ewa_optax.momentum(0.5, 0.9))
    params, v = np.array([1.0, -3.0]), 0.0
    ours, state = jnp.asarray(params, jnp.float32), coupled.init(jnp.zeros(2))
    for g in eight_decades(20, (2,)).astype(np.float64):
        updates, state = coupled.update(jnp.asarray(g, jnp.float32), state, ours)
        ours = optax.apply_updates(ours, updates)
        v = 0.9 * v + 0.1 * (g + 0.1 * params)
        params = params - 0.5 * v
    np.testing.assert_allclose(ours, params, rtol=1e-5)


def test_a_decay_of_no_weight_needs_no_parameters():
    for name in DECAYING:
        optimizer = EVERY[name](0.1, weight_decay=0.0)
        if name not in ("lars", "lamb"):
            optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
        optimizer = EVERY[name](0.1, weight_decay=0.1)
        with pytest.raises(ValueError, match="needs the parameters; call update"):
            optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))


# Storage.


@pytest.mark.parametrize("name", OF_PAIRS)
def test_of_a_pair_of_storages_the_first_is_for_gradients_and_the_second_for_squares(name):
    optimizer = EVERY[name](0.1, storage=(BFloat16(min_size=0), Float16(min_size=0)))
    gradients = np.array([-1.0, -1.5, -1.2], np.float32)[:, None, None] * np.ones((2, 2), np.float32)
    _, state = trained(optimizer, np.ones((2, 2), np.float32), gradients)
    kept = {jnp.dtype(kind): [x for x in jax.tree.leaves(state) if x.dtype == kind] for kind in ("bfloat16", "float16")}
    assert all(kept.values())
    signs = {"adan", "rmsprop_centered"}  # Whose differences change sign; which averages steps downhill.
    assert name in signs or all((x < 0).all() for x in kept[jnp.dtype("bfloat16")])
    # In a basis of its own, what is the same everywhere has but one direction.
    assert all((x > 0).any() if name == "soap" else (x > 0).all() for x in kept[jnp.dtype("float16")])


@pytest.mark.parametrize("name", STORED)
def test_no_two_averages_are_rounded_by_the_same_chance(name, monkeypatch):
    keys = []
    monkeypatch.setattr(_encoding, "fold", lambda *numbers: keys.append(repr(numbers)) or jnp.uint32(0))
    decays = inspect.signature(EVERY[name]).parameters.keys() & {"decay", "momentum", "b1", "b2", "b3"}
    optimizer = EVERY[name](0.1, storage=BFloat16(min_size=0), **dict.fromkeys(decays, 0.5))
    with jax.disable_jit():  # What is traced already would fold no more.
        jax.make_jaxpr(lambda p: optimizer.update(p, optimizer.init(p), p))(np.ones(4, np.float32))
    assert len(set(keys)) == len(keys) > 0


# Adafactor.


def test_the_step_of_adafactor_is_the_papers():
    optimizer = ewa_optax.adafactor()
    params = np.full((3, 3), 2.0, np.float32)
    update, first = jax.jit(optimizer.update), optimizer.init(params)
    for t in (1, 2, 9_999, 10_001, 11_999):
        state = jax.tree.map(lambda x, t=t: np.full_like(x, t - 1) if x.dtype == np.int32 else x, first)
        assert float(ewa_optax.get_learning_rate(update(params, state, params)[1])) == pytest.approx(
            min(0.01, t**-0.5), rel=1e-6
        )


def test_adafactor_factors_the_last_two_axes_of_each_array():
    shapes = {"m": (5, 7), "v": (5,), "k": (2, 3, 5, 7), "s": ()}
    params = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    optimizer = ewa_optax.adafactor(0.1)
    assert ewa_optax.state_bytes(optimizer, params) == 4 * (12 + 5 + 6 * 12 + 1 + 4)
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda p: rng.standard_normal(p.shape).astype(np.float32), params)
    updates, _ = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p))(gradients, params)
    alone = ewa_optax.scale_by_rms(pieces.of_rows_and_columns(pieces.scale_by_ewa_of_share(lambda t: t**-0.8)), 0.0)
    kernel, _ = jax.jit(lambda g: alone.update(g, alone.init(g)))(gradients["k"][0, 1])
    ratio = np.asarray(updates["k"])[0, 1] / kernel  # Each matrix of an array is factored for itself.
    np.testing.assert_allclose(ratio, np.full((5, 7), ratio[0, 0]), rtol=1e-5)


# Averages whose shares change.


def test_an_average_whose_share_is_one_in_the_long_run_forgets():
    average = pieces.scale_by_ewa_of_share(lambda t: jnp.where(t == 1, 1.0, 0.9), decay=0.1)
    state = average.init(jnp.zeros(()))
    for x in (1e10, 1e-3, 1e-3, 1e-3, 1e-3):
        v, state = average.update(jnp.array(x), state)
    assert float(v) == pytest.approx(1e6 + 1e-3, rel=1e-6)


def test_the_half_life_of_ademamix_grows_linearly():
    share = share_of_growing_half_life(0.9, 0.9999, 1000)
    shares = np.array([float(share(jnp.float32(t))) for t in (1, 500, 1000, 5000)])
    lives = -np.log(2) / np.log1p(-shares.astype(np.float64))
    first, last = -np.log(2) / np.log(0.9), -np.log(2) / np.log(0.9999)
    expected = [first + x * (last - first) for x in (0.001, 0.5, 1, 1)]
    np.testing.assert_allclose(lives, expected, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999, 0.9999, 0.99999])
def test_the_length_of_radam_keeps_its_digits(decay):
    """Of an average of float32, where the formula as printed has lost them all at 0.99999."""
    rectified = pieces.rectify(decay)
    t = np.arange(5, 1000, 17, dtype=np.float64)
    longest = 2 / (1 - np.float64(decay)) - 1
    x = -t * np.log1p(np.float64(decay) - 1)
    y = np.array([np.longdouble(v) for v in x])
    length = np.asarray(longest - 2 * t / np.expm1(y), np.float64)
    r = np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    update = jax.jit(rectified.update)
    for step, expected in zip(t, r, strict=True):
        state = rectified.init(0.0)._replace(step=jnp.int32(step - 1))
        if longest > 4.5 and expected == expected:
            assert float(1 / update(jnp.float32(1.0), state)[0]) == pytest.approx(expected, rel=3e-5)


def test_storages_keep_their_options_for_each_average():
    kept = dataclasses.replace(BFloat16(), seed=7)
    assert storage.first_moment(kept).seed == 7
    assert (
        len({storage.first_moment(kept).seed, storage.first_moment(kept, 1).seed, storage.second_moment(kept).seed})
        == 3
    )
    assert storage.second_moment((None, kept)).min_size == kept.min_size


# What faults on purpose showed to be tested nowhere else.


def test_radam_at_its_default_threshold():
    gradients = eight_decades(20, (3,))
    expected = oracles.radam(gradients.astype(np.float64), 0.1, 0.9, 0.999, 1e-8, 0.0, 4.0)
    assert_close_in_size(run_updates(ewa_optax.radam(0.1), jnp.zeros(3), gradients), expected, 1e-5)


def test_a_large_layer_of_spikes():
    optimizer = ewa_optax.lars(1.0)
    updates, _ = optimizer.update(jnp.full(100, 3e38), optimizer.init(jnp.ones(100)), jnp.ones(100))
    np.testing.assert_allclose(updates, -0.001, rtol=1e-5)


@pytest.mark.parametrize("make", [ewa_optax.heavy_ball])
def test_steady_spikes(make):
    gradients = jnp.full((100, 1), jnp.finfo(jnp.float32).max)
    assert np.isfinite(run_updates(make(1.0), jnp.zeros(1), gradients)).all()


def test_a_layer_of_zeros_moves():
    ratio = pieces.scale_by_trust_ratio(0.001)
    np.testing.assert_array_equal(ratio.update(jnp.ones(3), ratio.init(jnp.zeros(3)), jnp.zeros(3))[0], 1)


def test_clip_by_rms():
    clip = pieces.clip_by_rms(0.5)
    np.testing.assert_allclose(clip.update(jnp.full(4, 3.0), clip.init(jnp.zeros(4)))[0], 0.5, rtol=1e-6)
