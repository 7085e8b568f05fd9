"""The algebra of the pieces, over generated input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from helpers import ROUGHLY
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ewa_optax
from ewa_optax.pieces._averages import scale_by_corrected_ewa
from ewa_optax.pieces._learning_rate import scale_once

settings.register_profile("deterministic", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("deterministic")

STEPS, WIDTH = 12, 5
series = hnp.arrays(
    np.float32, (STEPS, WIDTH), elements=st.floats(-1000, 1000, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
)
decays = st.sampled_from([0.0, 0.5, 0.9, 0.98, 0.999, 0.99999])
# Each as either of two, which are averages on their own.
pairs_of_decays = st.sampled_from(
    [(0.0, 0.98), (0.5, 0.99999), (0.9, 0.999), (0.98, 0.0), (0.999, 0.9), (0.99999, 0.5)]
)
scales = st.sampled_from([-7.0, -1.0, 1e-3, 1.0, 30.0])


@functools.cache
def compiled(make, *numbers):
    """The updates of `make(*numbers)` for a series of gradients, compiled once for all generated input."""
    transformation = make(*numbers)

    def step(state, g):
        updates, state = transformation.update(g, state, jnp.zeros_like(g))
        return state, updates

    def steps(values):
        return jax.lax.scan(step, transformation.init(jnp.zeros_like(values[0])), values)[1]

    return jax.jit(steps, compiler_options=ROUGHLY)


def updates_of(make, *numbers, values):
    return np.asarray(compiled(make, *numbers)(np.asarray(values)))


def corrected_in_two(decay):
    return optax.chain(ewa_optax.scale_by_ewa(decay), ewa_optax.bias_correct(decay))


def adam_by_hand(rate, b1, b2):
    rms = ewa_optax.scale_by_rms(corrected_in_two(b2), 1e-8, numerator=corrected_in_two(b1))
    return optax.chain(rms, ewa_optax.scale_by_learning_rate(rate))


def rmsprop_by_hand(rate, decay):
    return optax.chain(ewa_optax.scale_by_rms(ewa_optax.scale_by_ewa(decay)), ewa_optax.scale_by_learning_rate(rate))


def rms_by_number(decay):
    return optax.chain(ewa_optax.scale_by_rms(decay), ewa_optax.scale_by_learning_rate(0.1))


def adamw_without_decay(rate):
    return ewa_optax.adamw(rate, weight_decay=0.0)


def rms_without_eps(decay):
    return ewa_optax.scale_by_rms(scale_by_corrected_ewa(decay), eps=0.0)


def momentum_by_hand(rate, decay):
    return optax.chain(ewa_optax.scale_by_ewa(decay), ewa_optax.scale_by_learning_rate(rate))


def scalings(decay):
    return optax.scale(3.0), ewa_optax.scale_by_learning_rate(0.1), ewa_optax.bias_correct(decay)


def scalings_at_once(decay):
    return scale_once(*scalings(decay))


def scalings_in_a_chain(decay):
    return optax.chain(*scalings(decay))


def assert_equal_up_to_rounding(x, y, tolerance=1e-5):
    scale = np.max(np.abs(y), initial=1e-30)
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * scale)


@given(series, decays)
def test_an_average_is_the_weighted_sum_of_its_past(values, decay):
    exact = values.astype(np.float64)
    weights = (1 - decay) * float(decay) ** np.arange(STEPS)
    unrolled = [np.tensordot(weights[: t + 1], exact[t::-1], axes=1) for t in range(STEPS)]
    assert_equal_up_to_rounding(updates_of(ewa_optax.scale_by_ewa, decay, values=values), np.array(unrolled))


@given(series, series, decays, scales, scales)
def test_an_average_is_linear(x, y, decay, a, b):
    def ewa(values):
        return updates_of(ewa_optax.scale_by_ewa, decay, values=values.astype(np.float32))

    slack = 1e-5 * np.max(np.abs(a * x) + np.abs(b * y))
    np.testing.assert_allclose(ewa(a * x + b * y), a * ewa(x) + b * ewa(y), atol=slack)


@given(series, decays)
def test_a_corrected_average_stays_within_its_values(values, decay):
    means = updates_of(scale_by_corrected_ewa, decay, values=values)
    slack = 1e-5 * np.max(np.abs(values))
    assert np.all(means <= np.maximum.accumulate(values) + slack)
    assert np.all(means >= np.minimum.accumulate(values) - slack)


@given(st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30), decays)
def test_a_corrected_average_of_a_constant_is_the_constant(value, decay):
    values = np.full((STEPS, WIDTH), value, np.float32)
    for make in (corrected_in_two, scale_by_corrected_ewa):
        np.testing.assert_allclose(updates_of(make, decay, values=values), values, rtol=1e-6)


@given(series, decays)
def test_the_correction_as_a_recursion_is_the_correction(values, decay):
    in_two = updates_of(corrected_in_two, decay, values=values)
    assert_equal_up_to_rounding(updates_of(scale_by_corrected_ewa, decay, values=values), in_two)


@given(series)
def test_a_decay_of_zero_forgets_everything(values):
    for make in (ewa_optax.scale_by_ewa, ewa_optax.bias_correct, scale_by_corrected_ewa):
        for zero in (0.0, 0):
            np.testing.assert_array_equal(updates_of(make, zero, values=values), values)


@given(series, decays)
def test_heavy_ball_is_momentum_at_another_rate(values, decay):
    momentum = updates_of(ewa_optax.momentum, 0.1, decay, values=values)
    heavy_ball = updates_of(ewa_optax.heavy_ball, 0.1 * (1 - decay), decay, values=values)
    assert_equal_up_to_rounding(heavy_ball, momentum)


@given(series, decays)
def test_momentum_is_its_pieces(values, decay):
    by_hand = updates_of(momentum_by_hand, 0.1, decay, values=values)
    np.testing.assert_array_equal(updates_of(ewa_optax.momentum, 0.1, decay, values=values), by_hand)


@given(series, pairs_of_decays)
def test_adam_is_its_pieces(values, pair):
    by_hand = updates_of(adam_by_hand, 0.1, *pair, values=values)
    assert_equal_up_to_rounding(updates_of(ewa_optax.adam, 0.1, *pair, values=values), by_hand)


@given(series, decays)
def test_rmsprop_is_its_pieces_and_a_number_stands_for_an_average(values, decay):
    by_hand = updates_of(rmsprop_by_hand, 0.1, decay, values=values)
    np.testing.assert_array_equal(updates_of(ewa_optax.rmsprop, 0.1, decay, values=values), by_hand)
    np.testing.assert_array_equal(updates_of(rms_by_number, decay, values=values), by_hand)


@given(series)
def test_adamw_without_weight_decay_is_adam(values):
    adam = updates_of(ewa_optax.adam, 0.1, values=values)
    assert_equal_up_to_rounding(updates_of(adamw_without_decay, 0.1, values=values), adam)


@given(series, scales, decays)
def test_rms_does_not_see_the_scale_of_gradients(values, scale, decay):
    values = np.where(values == 0, np.float32(1.0), values)
    expected = np.sign(scale) * updates_of(rms_without_eps, decay, values=values)
    assert_equal_up_to_rounding(updates_of(rms_without_eps, decay, values=np.float32(scale) * values), expected)


@given(series, st.permutations(range(WIDTH)))
def test_every_element_is_on_its_own(values, order):
    for make in (ewa_optax.momentum, ewa_optax.rmsprop, ewa_optax.adam):
        whole = updates_of(make, 0.1, values=values)
        np.testing.assert_allclose(updates_of(make, 0.1, values=values[:, order]), whole[:, order], rtol=1e-6)


@given(series, st.integers(0, STEPS - 1), st.integers(0, WIDTH - 1))
def test_nan_stays_where_it_is(values, t, i):
    clean = updates_of(ewa_optax.adam, 0.1, values=values)
    values = values.copy()
    values[t, i] = np.nan
    broken = updates_of(ewa_optax.adam, 0.1, values=values)
    assert np.all(np.isnan(broken[t:, i]))
    np.testing.assert_array_equal(np.delete(broken, i, axis=1), np.delete(clean, i, axis=1))


@given(
    hnp.arrays(np.float32, (STEPS, WIDTH), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)), decays
)
def test_finite_values_have_finite_averages_and_steps(values, decay):
    halves = values / 2
    for make in (ewa_optax.scale_by_ewa, scale_by_corrected_ewa, corrected_in_two):
        assert np.all(np.isfinite(updates_of(make, decay, values=halves)))
    for make in (ewa_optax.momentum, ewa_optax.heavy_ball, ewa_optax.rmsprop, ewa_optax.adam):
        assert np.all(np.isfinite(updates_of(make, 0.1, decay, values=values)))


@given(series, st.sampled_from([0.5, 0.9, 0.999]))
def test_scalings_at_once_are_scalings_in_a_chain(values, decay):
    in_a_chain = updates_of(scalings_in_a_chain, decay, values=values)
    assert_equal_up_to_rounding(updates_of(scalings_at_once, decay, values=values), in_a_chain)
