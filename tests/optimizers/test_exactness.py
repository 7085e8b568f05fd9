"""The arithmetic equals the formula: float64 oracles, to the last digits that float32 has."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from cases import CASES
from runs import followed, roughly_compiled

import ewa_optax
from ewa_optax import pieces
from ewa_optax._numerics import norm

STEPS = (1, 10, 100, 2000, 20_000)


def median_error(updates, expected, step):
    return np.median(np.abs(updates[step - 1] - expected[step - 1]) / np.abs(expected[step - 1]))


def scanned(optimizer, gradients):
    """The updates of all steps, at parameters that stay 0."""

    def step(state, g):
        updates, state = optimizer.update(g, state, jnp.zeros_like(g))
        return state, updates

    return jax.lax.scan(step, optimizer.init(jnp.zeros_like(gradients[0])), gradients)[1]


def all_updates(optimizer, gradients):
    return np.asarray(jax.jit(lambda g: scanned(optimizer, g))(gradients))


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
    params = {"a": np.zeros(3), "b": [np.zeros((2, 2)), np.zeros(())], "c": (np.zeros((4, 1)), np.zeros(7))}
    params, rng = jax.tree.map(np.float32, params), np.random.default_rng(0)
    ours = ewa_optax.scale_by_rms(optax.ema(0.999), numerator=optax.ema(0.9))
    theirs = optax.scale_by_adam(0.9, 0.999)
    our_state, their_state = ours.init(params), theirs.init(params)
    our_step, their_step = jax.jit(ours.update), jax.jit(theirs.update)
    for t in range(200):
        gradients = jax.tree.map(
            lambda p, t=t: np.float32(10.0 ** (t % 7 - 3) * rng.standard_normal(np.shape(p))), params
        )
        our_updates, our_state = our_step(gradients, our_state)
        their_updates, their_state = their_step(gradients, their_state)
        for x, y in zip(jax.tree.leaves(our_updates), jax.tree.leaves(their_updates), strict=True):
            np.testing.assert_array_equal(np.asarray(x).view(np.uint32), np.asarray(y).view(np.uint32))


def first_updates(optimizer, gradients):
    """At parameters of float32."""
    return jax.jit(lambda g: optimizer.update(g, optimizer.init(jnp.zeros(g.shape)))[0])(gradients)


def test_the_first_step_of_adam_is_the_learning_rate_against_the_sign():
    sizes = np.array([1e-18, 1e-9, 1e-3, 1.0, 300.0, 1e9, 1e18], np.float32)
    gradients = np.concatenate([sizes, -sizes])
    updates = first_updates(ewa_optax.adam(0.01, eps=0.0), gradients)
    np.testing.assert_allclose(updates, -0.01 * np.sign(gradients), rtol=3e-7)


def test_float16_gradients_do_not_distort_the_first_step():
    updates = first_updates(ewa_optax.adam(1e-2), np.array([1e-4, 300.0], np.float16))
    assert updates.dtype == jnp.float16
    np.testing.assert_allclose(np.asarray(updates, np.float64), -1e-2, rtol=1e-3)


def quick_adam(rate):
    return ewa_optax.adam(rate, b2=0.9)


@pytest.mark.parametrize("make", [ewa_optax.rmsprop, ewa_optax.adam, quick_adam, ewa_optax.adamw])
def test_a_spike_moves_a_parameter_by_an_ordinary_step(make):
    spikes = [1e20, 1e25, 3e38, -3e38]
    gradients = np.array([[1.0] * 4] * 10 + [spikes] + [[1.0] * 4] * 100, np.float32)
    assert np.all(np.abs(all_updates(make(0.1), gradients)) < 1.0)


@pytest.mark.parametrize("make", [ewa_optax.rmsprop, quick_adam])
def test_a_spike_does_not_freeze_a_parameter(make):
    later = all_updates(make(0.1), np.array([[1e20, 3e38]] + [[1.0] * 2] * 2000, np.float32))
    np.testing.assert_allclose(later[-1], -0.1, rtol=1e-5)


@pytest.mark.parametrize("make", [ewa_optax.momentum, ewa_optax.heavy_ball])
def test_float16_gradients_keep_their_digits_between_the_pieces(make):
    updates = first_updates(make(100.0, 0.999), np.full(1, 1e-5, np.float16))
    expected = -100.0 * float(np.float16(1e-5)) * (1e-3 if make is ewa_optax.momentum else 1.0)
    np.testing.assert_allclose(np.asarray(updates, np.float64), expected, rtol=0.03)


def test_the_derivatives_by_hyperparameters_are_those_of_optax():
    numbers = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-3, "eps_root": 1e-3, "weight_decay": 0.1}

    def derivatives(make):
        def loss_after_training(values):
            optimizer = make(**values)

            def step(carry, t):
                w, state = carry
                updates, state = optimizer.update(2 * w + jnp.sin(t), state, w)
                return (optax.apply_updates(w, updates), state), None

            w = jnp.array([1.0, -2.0])
            (w, _), _ = jax.lax.scan(step, (w, optimizer.init(w)), jnp.arange(5.0))
            return jnp.sum(w**2)

        return jax.jit(jax.grad(loss_after_training))

    ours, theirs = derivatives(ewa_optax.adamw), derivatives(optax.adamw)
    for name in numbers:
        for value in (0.0, numbers[name]):
            values = numbers | {name: value}
            np.testing.assert_allclose(ours(values)[name], theirs(values)[name], rtol=1e-3)


def test_a_decay_given_as_an_array_is_as_exact_as_the_array():
    gradients = np.random.default_rng(0).standard_normal((1000, 50)).astype(np.float32)
    adam = jax.jit(lambda decay: scanned(ewa_optax.adam(1.0, b1=0.9, b2=decay), gradients))
    for decay in (0.9, 0.999, 0.99999):
        expected = oracles.adam(gradients.astype(np.float64), 1.0, 0.9, float(np.float32(decay)), 1e-8)
        updates = np.asarray(adam(np.float32(decay)))
        assert max(median_error(updates, expected, t) for t in (1, 10, 100, 1000)) <= 1e-6


def test_a_decay_that_rounds_to_one_gives_the_plain_mean():
    optimizer = ewa_optax.adam(1.0, b1=0.0, b2=jnp.bfloat16(0.999), eps=0.0)
    gradients = np.abs(np.random.default_rng(0).standard_normal((50, 3))).astype(np.float32)
    means = np.cumsum(gradients.astype(np.float64) ** 2, axis=0) / np.arange(1, 51)[:, None]
    np.testing.assert_allclose(all_updates(optimizer, gradients), -gradients / np.sqrt(means), rtol=2e-6)


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.99999])
def test_averages_equal_float64(decay):
    values = (1 + np.random.default_rng(0).standard_normal((5000, 20))).astype(np.float32)
    expected = -oracles.momentum(values.astype(np.float64), 1.0, decay)
    average = ewa_optax.scale_by_ewa(decay)
    corrected = optax.chain(average, ewa_optax.bias_correct(decay))
    weights = (1 - decay ** np.arange(1.0, 5001))[:, None]
    found = jax.jit(lambda x: (scanned(average, x), scanned(corrected, x)))(values)
    for updates, exact in zip(found, (expected, expected / weights), strict=True):
        error = np.abs(np.asarray(updates) - exact) / np.mean(np.abs(exact), axis=1, keepdims=True)
        assert np.max(error) <= 4e-6
        assert np.median(error) <= 6e-7


@pytest.mark.parametrize("as_array", [False, True], ids=["number", "array"])
def test_short_averages_do_not_drown_small_gradients_in_large_ones(as_array):
    gradients = (10 ** np.random.default_rng(0).uniform(-6, 2, (200, 50))).astype(np.float32)

    def adam_and_momentum(decay):
        optimizers = ewa_optax.adam(1.0, b1=decay, b2=decay), ewa_optax.momentum(1.0, decay)
        return [scanned(optimizer, gradients) for optimizer in optimizers]

    of_array = jax.jit(adam_and_momentum)
    for decay in (0.0, 0.01, 0.3, 0.5, 0.7):
        b = float(np.float32(decay))
        adam, momentum = of_array(np.float32(decay)) if as_array else jax.jit(lambda b=b: adam_and_momentum(b))()
        np.testing.assert_allclose(adam, oracles.adam(gradients.astype(np.float64), 1.0, b, b, 1e-8), rtol=2e-6)
        np.testing.assert_allclose(momentum, oracles.momentum(gradients.astype(np.float64), 1.0, b), rtol=2e-6)


# Norms.

SIZES = np.array([1e-30, 1e-20, 1.0, 1e19, 1e35, 3e38])
WITH_NORMS = [case for case in CASES if case.name in ("lars", "lamb", "adafactor", "adafactor_of_vectors")]


@pytest.mark.parametrize("case", WITH_NORMS, ids=[case.name for case in WITH_NORMS])
def test_parameters_of_any_size(case):
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((3, *case.shape)).astype(np.float32)
    params = rng.uniform(-1, 1, case.shape)
    sized = np.multiply.outer(SIZES, params).astype(np.float32)
    each = roughly_compiled(jax.vmap(lambda p: followed(case.optimizer(), p, gradients)[1]))(sized)
    assert np.isfinite(each).all()
    for size, p, updates in zip(SIZES[:-1], sized, each, strict=False):  # The last norms are larger than any number.
        expected = case.oracle(gradients.astype(np.float64), p) / size
        np.testing.assert_allclose(updates / size, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_updates_of_any_size():
    """By each piece on its own, which no guard stands in front of."""
    u, w = np.float32([3.0, -4.0]), np.float32([5.0, 12.0])
    by_size = {size: (u * np.float32(size), w * np.float32(size)) for size in (1e-30, 1.0, 1e30)}
    clip, scale, ratio = pieces.clip_by_rms(), pieces.scale_by_parameter_rms(0.0), pieces.scale_by_trust_ratio(0.5)

    @jax.jit
    def each(u, w):
        return [piece.update(x, piece.init(w), w)[0] for piece, x in ((clip, u), (scale, 0 * u + 1), (ratio, u))]

    for size, (u_of, w_of) in by_size.items():
        clipped, scaled, trusted = each(u_of, w_of)
        np.testing.assert_allclose(clipped, u / np.sqrt(12.5) if size >= 1 else u_of, rtol=1e-6)
        np.testing.assert_allclose(scaled / size, np.sqrt(84.5), rtol=1e-6)
        np.testing.assert_allclose(trusted / size, 0.5 * 13 / 5 * u, rtol=1e-6)


def test_a_norm_is_the_plain_one_where_that_is_right():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((100, 333)) * 10.0 ** rng.uniform(-8, 8, (100, 1))).astype(np.float32)

    @jax.jit
    @jax.vmap
    def both(x):
        return norm(x), jnp.sqrt(jnp.sum(jnp.square(x)))

    np.testing.assert_array_equal(*both(x))


@pytest.mark.parametrize("kind", [np.float32, pytest.param(np.complex64, marks=pytest.mark.slow)])
def test_norms_of_special_numbers(kind):
    special = np.array([0.0, 1e-45, 1e-38, 3e38, np.inf, np.nan])
    norms = jax.jit(jax.vmap(norm))(np.stack([0 * np.ones(6), special], 1).astype(kind))
    expected = [0.0, 0.0, 0.0, np.finfo(np.float32).max / 4, np.inf, np.nan]
    np.testing.assert_allclose(norms, expected, atol=1e-37)
    assert norm(np.zeros((0, 3), kind)) == 0.0
    np.testing.assert_allclose(norm(np.full(10**6, 2e16, kind)), 2e19, rtol=1e-6)  # Whose squares are finite.
