"""The numbers that the course works out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ewa_optax


def averages(transformation, values):
    state, out = transformation.init(jnp.zeros(())), []
    for value in values:
        v, state = transformation.update(jnp.float32(value), state)
        out.append(float(v))
    return out


# Exponentially weighted averages.


@pytest.mark.parametrize(("decay", "steps"), [(0.5, 2), (0.9, 10), (0.98, 50), (0.999, 1000), (0.9995, 2000)])
def test_an_average_spans_about_one_over_one_minus_decay_steps(decay, steps):
    assert round(1 / (1 - decay)) == steps
    value, *rest = averages(ewa_optax.scale_by_ewa(decay), [1.0] + [0.0] * steps)
    left = rest[-1] / value
    np.testing.assert_allclose(left, decay**steps, rtol=1e-4)
    assert abs(left - 1 / math.e) < 0.12


def test_after_ten_steps_at_decay_nine_tenths_a_value_weighs_a_third():
    value, *rest = averages(ewa_optax.scale_by_ewa(0.9), [1.0] + [0.0] * 10)
    assert round(rest[-1] / value, 3) == 0.349


def test_the_weights_sum_to_one_minus_a_power_of_the_decay():
    ones = averages(ewa_optax.scale_by_ewa(0.9), [1.0] * 20)
    np.testing.assert_allclose(ones, 1 - 0.9 ** np.arange(1, 21), rtol=1e-6)


# Bias correction.


def test_the_first_day_at_forty_degrees():
    corrected = optax.chain(ewa_optax.scale_by_ewa(0.98), ewa_optax.bias_correct(0.98))
    np.testing.assert_allclose(averages(ewa_optax.scale_by_ewa(0.98), [40.0]), [0.8], rtol=1e-6)
    np.testing.assert_allclose(averages(corrected, [40.0]), [40.0], rtol=1e-6)
    second = averages(corrected, [40.0, 49.0])[1]
    np.testing.assert_allclose(second, (0.0196 * 40 + 0.02 * 49) / 0.0396, rtol=1e-6)


def test_the_uncorrected_curve_starts_low_and_meets_the_corrected_one():
    days = 10 + 5 * np.sin(np.arange(600) / 58)
    plain = np.array(averages(ewa_optax.scale_by_ewa(0.98), days))
    corrected = np.array(averages(optax.chain(ewa_optax.scale_by_ewa(0.98), ewa_optax.bias_correct(0.98)), days))
    assert np.all(plain[:50] < 0.7 * corrected[:50])
    np.testing.assert_allclose(plain[-1], corrected[-1], rtol=1e-5)


# Learning-rate decay. The rates of the first epochs, from epoch 1 on.

WORKED = [
    (ewa_optax.schedule_inverse_time, (0.2, 1.0), {}, [0.1, 0.0667, 0.05, 0.04]),
    (ewa_optax.schedule_inverse_time, (0.1, 0.05), {}, [0.0952, 0.0909, 0.0870]),
    (ewa_optax.schedule_exponential, (0.2, 0.95), {}, [0.19, 0.1805, 0.171475]),
    (ewa_optax.schedule_inverse_sqrt, (0.2, 1.0), {}, [0.2, 0.1414, 0.1155]),
    (ewa_optax.schedule_inverse_sqrt, (0.2,), {"k": 0.5}, [0.1, 0.0707, 0.0577]),
    (ewa_optax.schedule_staircase, (0.2,), {}, [0.1, 0.05, 0.025]),
    (ewa_optax.schedule_staircase, (0.2,), {"every": 3}, [0.2, 0.2, 0.1, 0.1, 0.1, 0.05]),
]
worked = pytest.mark.parametrize(("make", "arguments", "options", "rates"), WORKED)


def digits_of(rates):
    return max(len(str(rate).split(".")[1]) for rate in rates)


@worked
@pytest.mark.parametrize("steps_per_epoch", [1, 7, 5000])
def test_schedules(make, arguments, options, rates, steps_per_epoch):
    schedule = make(*arguments, **options, steps_per_epoch=steps_per_epoch)
    for epoch, rate in enumerate(rates):
        for count in {epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch - 1}:
            for value in (schedule(count), jax.jit(schedule)(jnp.int32(count))):
                assert value.dtype == jnp.float32
                assert round(float(value), digits_of(rates)) == pytest.approx(rate, abs=1e-7)


@worked
def test_schedules_of_many_counts_at_once(make, arguments, options, rates):
    values = make(*arguments, **options)(jnp.arange(len(rates)))
    np.testing.assert_allclose(np.round(values, digits_of(rates)), rates, atol=1e-7)


@worked
def test_schedules_vmap_over_their_arguments(make, arguments, options, rates):
    def value(number, steps_per_epoch, first_epoch):
        numbers = (number, *arguments[1:])
        return make(*numbers, **options, steps_per_epoch=steps_per_epoch, first_epoch=first_epoch)(41)

    numbers, steps, firsts = jnp.array([0.1, 0.2, 0.3]), jnp.array([1, 3, 20]), jnp.array([1, 2, 5])
    together = jax.vmap(value)(numbers, steps, firsts)
    alone = [value(float(n), int(s), int(f)) for n, s, f in zip(numbers, steps, firsts, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    if len(arguments) > 1:
        seconds = jnp.array([0.25, 0.5, 1.0])
        together = jax.vmap(lambda x: make(arguments[0], x, **options)(3))(seconds)
        alone = [make(arguments[0], float(x), **options)(3) for x in seconds]
        np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_schedules_are_exact_far_out_and_when_epochs_count_from_zero():
    assert float(ewa_optax.schedule_exponential(0.2, first_epoch=0)(0)) == pytest.approx(0.2)
    late = ewa_optax.schedule_exponential(0.2, 0.999)
    np.testing.assert_allclose(late(4999), 0.2 * 0.999**5000, rtol=2e-6)
    counted = ewa_optax.schedule_inverse_time(1.0, 1.0, steps_per_epoch=2)
    np.testing.assert_allclose(counted(2**30 + 1), 1 / (1 + 2**29 + 1), rtol=1e-6)
    with jax.enable_x64(True):
        value = ewa_optax.schedule_inverse_sqrt(0.2)(2)
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, 0.2 / np.sqrt(3), rtol=1e-15)


@worked
def test_schedules_are_optax_schedules(make, arguments, options, rates):
    optimizer = optax.sgd(make(*arguments, **options))
    state = optimizer.init(jnp.zeros(()))
    for rate in rates:
        update, state = optimizer.update(jnp.ones(()), state)
        assert round(-float(update), digits_of(rates)) == pytest.approx(rate, abs=1e-7)


LARGE = 2**31 + 5


@pytest.mark.parametrize("count", [LARGE, np.int64(LARGE), np.array([LARGE, 5]), np.uint64(LARGE), np.uint32(LARGE)])
def test_counts_of_64_bits_do_not_wrap(count):
    for make in (ewa_optax.schedule_inverse_time, ewa_optax.schedule_inverse_sqrt):
        found = make(1.0, steps_per_epoch=1000)(count)
        np.testing.assert_array_equal(np.ravel(found)[0], make(1.0, steps_per_epoch=1000)(LARGE))
    np.testing.assert_allclose(np.ravel(found)[0], (LARGE // 1000 + 1) ** -0.5, rtol=1e-6)
    steps = jnp.int32(10)
    with pytest.raises(ValueError, match="count must be at most 2147483647 where steps_per_epoch is an array"):
        ewa_optax.schedule_inverse_time(1.0, steps_per_epoch=steps)(count)


def test_numbers_of_schedules_do_not_wrap():
    large = np.int64(LARGE)
    numbers = {"steps_per_epoch": large, "first_epoch": large}
    found = ewa_optax.schedule_inverse_time(large, large, **numbers)(10 * LARGE)
    np.testing.assert_allclose(found, 1 / (LARGE + 10), rtol=1e-6)
    np.testing.assert_allclose(ewa_optax.schedule_inverse_sqrt(1.0, large)(0), float(LARGE), rtol=1e-6)
    np.testing.assert_allclose(ewa_optax.schedule_exponential(large, 0.5, first_epoch=0)(0), float(LARGE), rtol=1e-6)
    np.testing.assert_allclose(ewa_optax.schedule_staircase(1.0, 0.5, large)(2 * LARGE), 0.25)


@worked
@pytest.mark.parametrize(
    "count", [2**31 - 1, np.uint8(255), np.int8(127), np.int32(2**31 - 1), jnp.int32(2**31 - 1), jnp.uint8(255), 2**31]
)
def test_no_count_wraps_round(make, arguments, options, rates, count):
    value = float(make(*arguments, **options)(count))
    nearest = float(make(*arguments, **options)(jnp.float32(int(count))))
    assert 0 <= value <= 0.2
    np.testing.assert_allclose(value, nearest, rtol=1e-4)


# What faults on purpose showed to be tested nowhere else.


def test_epochs_are_divided_as_integers():
    late = ewa_optax.schedule_staircase(1.0, 0.5, steps_per_epoch=2**24 + 1, first_epoch=0)
    assert (float(late(2**24)), float(late(2**24 + 1))) == (1.0, 0.5)


def test_first_steps_of_leaves_whose_first_gradients_were_none():
    """Those that the documents tell of, and the remedy."""
    params = {"always": jnp.zeros(()), "late": jnp.zeros(())}
    both, one = jax.tree.map(jnp.ones_like, params), {"always": jnp.ones(()), "late": None}
    adam = ewa_optax.adam(0.01)
    grouped = optax.partition({"a": adam, "b": adam}, {"always": "a", "late": "b"})
    masked = optax.masked(adam, {"always": False, "late": True})

    @jax.jit
    def after(state):
        return adam.update(both, state)[0]["late"]

    @jax.jit
    def thousand(state):
        return jax.lax.scan(lambda state, _: (adam.update(one, state)[1], None), state, length=1000)[0]

    start = adam.init(params)
    np.testing.assert_allclose(after(adam.update(one, start)[1]), -0.0074, atol=5e-5)
    np.testing.assert_allclose(after(thousand(start)), -0.025, atol=5e-4)
    np.testing.assert_allclose(after(start), -0.01, rtol=1e-6)
    for wrapped in (grouped, masked):
        _, state = wrapped.update(one, wrapped.init(params))
        np.testing.assert_allclose(wrapped.update(both, state)[0]["late"], -0.0074, atol=5e-5)
    own = adam.init(params["late"])  # Which is updated at the second step only.
    np.testing.assert_allclose(adam.update(both["late"], own)[0], -0.01, rtol=1e-6)
