"""The arithmetic equals the formula: float64 oracles, to the last digits that float32 has."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import ewa_optax

STEPS = (1, 10, 100, 2000, 20_000)


def median_error(updates, expected, step):
    return np.median(np.abs(updates[step - 1] - expected[step - 1]) / np.abs(expected[step - 1]))


def all_updates(optimizer, gradients):
    def step(state, g):
        updates, state = optimizer.update(g, state)
        return state, updates

    state = optimizer.init(jnp.zeros_like(gradients[0]))
    return np.asarray(jax.jit(lambda s, g: jax.lax.scan(step, s, g)[1])(state, gradients))


def textbook_adam(b2):
    """Adam in float32 with the two coefficients and the power of the formula as printed."""

    def init(params):
        return jnp.int32(0), jnp.zeros_like(params), jnp.zeros_like(params)

    def update(g, state, params=None):
        del params
        t, m, v = state
        t, m, v = t + 1, 0.9 * m + (1 - 0.9) * g, b2 * v + (1 - b2) * g**2
        return -(m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - b2**t)) + 1e-8), (t, m, v)

    return optax.GradientTransformation(init, update)


@pytest.mark.parametrize("b2", [0.9, 0.99, 0.999, 0.9999, 0.99999])
def test_adam_equals_float64_at_every_age_and_decay(b2):
    gradients = np.random.default_rng(0).standard_normal((max(STEPS), 100)).astype(np.float32)
    expected = oracles.adam(gradients.astype(np.float64), 1.0, 0.9, b2, 1e-8)
    updates = all_updates(ewa_optax.adam(1.0, b2=b2), gradients)
    errors = {t: median_error(updates, expected, t) for t in STEPS}
    assert max(errors.values()) <= 1e-6, errors
    if b2 == 0.99999:  # What the bound is for: it notices the formula as printed.
        assert max(median_error(all_updates(textbook_adam(b2), gradients), expected, t) for t in STEPS) > 1e-4


def test_with_the_pieces_of_optax_it_equals_optax_to_the_last_bit():
    params = {"a": jnp.zeros(3), "b": [jnp.zeros((2, 2)), jnp.zeros(())], "c": (jnp.zeros((4, 1)), jnp.zeros(7))}
    ours = ewa_optax.scale_by_rms(optax.ema(0.999), numerator=optax.ema(0.9))
    theirs = optax.scale_by_adam(0.9, 0.999)
    our_state, their_state = ours.init(params), theirs.init(params)
    our_step, their_step = jax.jit(ours.update), jax.jit(theirs.update)
    for t in range(200):
        gradients = jax.tree.map(
            lambda p, t=t: 10.0 ** (t % 7 - 3) * jax.random.normal(jax.random.key(t), p.shape), params
        )
        our_updates, our_state = our_step(gradients, our_state)
        their_updates, their_state = their_step(gradients, their_state)
        for x, y in zip(jax.tree.leaves(our_updates), jax.tree.leaves(their_updates), strict=True):
            np.testing.assert_array_equal(np.asarray(x).view(np.uint32), np.asarray(y).view(np.uint32))


def test_the_first_step_of_adam_is_the_learning_rate_against_the_sign():
    sizes = jnp.array([1e-18, 1e-9, 1e-3, 1.0, 300.0, 1e9, 1e18])
    for gradients in (sizes, -sizes):
        optimizer = ewa_optax.adam(0.01, eps=0.0)
        updates, _ = optimizer.update(gradients, optimizer.init(gradients))
        np.testing.assert_allclose(updates, -0.01 * np.sign(gradients), rtol=3e-7)


@pytest.mark.parametrize("gradient", [1e-4, 300.0])
def test_float16_gradients_do_not_distort_the_first_step(gradient):
    optimizer = ewa_optax.adam(1e-2)
    updates, _ = optimizer.update(jnp.full(3, gradient, jnp.float16), optimizer.init(jnp.zeros(3)))
    assert updates.dtype == jnp.float16
    np.testing.assert_allclose(np.asarray(updates, np.float64), -1e-2, rtol=1e-3)


def quick_adam(rate):
    return ewa_optax.adam(rate, b2=0.9)


@pytest.mark.parametrize("make", [ewa_optax.rmsprop, ewa_optax.adam, quick_adam, ewa_optax.adamw])
@pytest.mark.parametrize("spike", [1e20, 1e25, 3e38, -3e38])
def test_a_spike_moves_a_parameter_by_an_ordinary_step(make, spike):
    optimizer = make(0.1)
    gradients, params = jnp.array([1.0] * 10 + [spike] + [1.0] * 100), jnp.zeros(1)
    state = optimizer.init(params)
    for g in gradients:
        updates, state = optimizer.update(g[None], state, params)
        assert np.all(np.abs(updates) < 1.0)


@pytest.mark.parametrize("make", [ewa_optax.rmsprop, quick_adam])
@pytest.mark.parametrize("spike", [1e20, 3e38])
def test_a_spike_does_not_freeze_a_parameter(make, spike):
    later = all_updates(make(0.1), jnp.array([spike, *[1.0] * 2000])[:, None])
    np.testing.assert_allclose(later[-1], -0.1, rtol=1e-5)


@pytest.mark.parametrize("make", [ewa_optax.momentum, ewa_optax.heavy_ball])
def test_float16_gradients_keep_their_digits_between_the_pieces(make):
    optimizer = make(100.0, 0.999)
    updates, _ = optimizer.update(jnp.full(1, 1e-5, jnp.float16), optimizer.init(jnp.zeros(1)))
    expected = -100.0 * float(jnp.float16(1e-5)) * (1e-3 if make is ewa_optax.momentum else 1.0)
    np.testing.assert_allclose(np.asarray(updates, np.float64), expected, rtol=0.03)


@pytest.mark.parametrize("name", ["learning_rate", "b1", "b2", "eps", "eps_root", "weight_decay"])
@pytest.mark.parametrize("zero", [True, False])
def test_the_derivative_by_a_hyperparameter_is_that_of_optax(name, zero):
    numbers = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-3, "eps_root": 1e-3, "weight_decay": 0.1}

    def loss_after_training(make, value):
        optimizer, w = make(**(numbers | {name: value})), jnp.array([1.0, -2.0])
        state = optimizer.init(w)
        for t in range(5):
            updates, state = optimizer.update(2 * w + jnp.sin(jnp.float32(t)), state, w)
            w = optax.apply_updates(w, updates)
        return jnp.sum(w**2)

    value = 0.0 if zero else numbers[name]
    ours, theirs = (jax.grad(lambda x, f=f: loss_after_training(f, x))(value) for f in (ewa_optax.adamw, optax.adamw))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.99999])
def test_a_decay_given_as_an_array_is_as_exact_as_the_array(decay):
    exact = float(np.float32(decay))
    gradients = np.random.default_rng(0).standard_normal((1000, 50)).astype(np.float32)
    expected = oracles.adam(gradients.astype(np.float64), 1.0, 0.9, exact, 1e-8)
    updates = all_updates(ewa_optax.adam(1.0, b1=0.9, b2=jnp.float32(decay)), gradients)
    assert max(median_error(updates, expected, t) for t in (1, 10, 100, 1000)) <= 1e-6


def test_a_decay_that_rounds_to_one_gives_the_plain_mean():
    optimizer = ewa_optax.adam(1.0, b1=0.0, b2=jnp.bfloat16(0.999), eps=0.0)
    gradients = np.abs(np.random.default_rng(0).standard_normal((50, 3))).astype(np.float32)
    means = np.cumsum(gradients.astype(np.float64) ** 2, axis=0) / np.arange(1, 51)[:, None]
    np.testing.assert_allclose(all_updates(optimizer, gradients), -gradients / np.sqrt(means), rtol=2e-6)


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.99999])
@pytest.mark.parametrize("corrected", [False, True])
def test_averages_equal_float64(decay, corrected):
    values = (1 + np.random.default_rng(0).standard_normal((5000, 20))).astype(np.float32)
    expected = -oracles.momentum(values.astype(np.float64), 1.0, decay)
    average = ewa_optax.scale_by_ewa(decay)
    if corrected:
        expected /= (1 - decay ** np.arange(1.0, 5001))[:, None]
        average = optax.chain(average, ewa_optax.bias_correct(decay))
    error = np.abs(all_updates(average, values) - expected) / np.mean(np.abs(expected), axis=1, keepdims=True)
    assert np.max(error) <= 4e-6
    assert np.median(error) <= 6e-7


@pytest.mark.parametrize("as_array", [False, True], ids=["number", "array"])
@pytest.mark.parametrize("decay", [0.0, 0.01, 0.3, 0.5, 0.7])
def test_short_averages_do_not_drown_small_gradients_in_large_ones(decay, as_array):
    exact = float(np.float32(decay))
    given = jnp.float32(decay) if as_array else exact
    rng = np.random.default_rng(0)
    gradients = (10 ** rng.uniform(-6, 2, (200, 50))).astype(np.float32)
    adam = all_updates(ewa_optax.adam(1.0, b1=given, b2=given), gradients)
    momentum = all_updates(ewa_optax.momentum(1.0, given), gradients)
    np.testing.assert_allclose(adam, oracles.adam(gradients.astype(np.float64), 1.0, exact, exact, 1e-8), rtol=2e-6)
    np.testing.assert_allclose(momentum, oracles.momentum(gradients.astype(np.float64), 1.0, exact), rtol=2e-6)
