"""Decay by its own rule, and masks by what parameters are called and how many axes they have."""

import re

import chex
import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import ewa_optax
from ewa_optax import pieces

# Steps against the weights, along them, none at all; and weights of 0, which have nowhere to decay to.
PARAMS = np.array([2.0, -2.0, 3.0, -0.5, 0.0, 1e-25], np.float32)
STEPS = [np.array([1.0, 1.0, 0.0, -0.25, 1.0, 1e-25], np.float32) * (-1) ** t for t in range(3)]
RATES, DECAYS = np.array([0.1, 0.05, 0.2]), np.array([0.5, 0.25, 0.125])


def at(numbers):
    return lambda count: jnp.asarray(numbers, float)[count]


def cautious_by_hand(u, w, decay):
    return u + decay * w * (np.sign(u) * np.sign(w) > 0)


def run(optimizer, params, gradients):
    """The parameters after all steps, in one program."""

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    return jax.lax.scan(step, start, jax.tree.map(lambda *xs: jnp.stack(xs), *gradients))[0][0]


# Cautious.


def test_cautious_decay_is_by_the_formula():
    piece = pieces.cautious_weight_decay(at(DECAYS))
    found = run(pieces.optimizer(piece, pieces.scale_by_learning_rate(at(RATES))), jnp.asarray(PARAMS), STEPS)
    w = PARAMS.astype(np.float64)
    for u, rate, decay in zip(STEPS, RATES, DECAYS, strict=True):
        w = w - rate * cautious_by_hand(u.astype(np.float64), w, decay)
    np.testing.assert_allclose(found, w, rtol=1e-6)


def cautious_adamw(learning_rate, weight_decay, mask=None):
    """As a user writes it."""
    m, v = pieces.scale_by_corrected_ewa(0.9), pieces.scale_by_corrected_ewa(0.999)
    decay = pieces.cautious_weight_decay(weight_decay, mask)
    step = pieces.scale_by_rms(v, 1e-8, numerator=m)
    return pieces.optimizer(step, decay, pieces.scale_by_learning_rate(learning_rate))


def test_cautious_adamw_is_adam_plus_the_decay_of_what_shrinks():
    w = PARAMS.astype(np.float64)
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(STEPS, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.astype(np.float64) ** 2
        u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - 0.1 * cautious_by_hand(u, w, 0.5)
    found = run(cautious_adamw(0.1, 0.5), jnp.asarray(PARAMS), STEPS)
    np.testing.assert_allclose(found[:5], w[:5], rtol=2e-6, atol=1e-7)


def test_cautious_decay_of_complex_weights_of_none_and_of_16_bits():
    params = {"z": np.array([1 + 1j, 1 + 1j], np.complex64), "n": None, "h": jnp.array([2.0, -2.0], jnp.bfloat16)}
    updates = {"z": np.array([1j, -1 - 0.5j], np.complex64), "n": None, "h": jnp.array([1.0, 1.0], jnp.bfloat16)}
    piece = pieces.cautious_weight_decay(0.5)
    found, _ = piece.update(updates, piece.init(params), params)
    np.testing.assert_array_equal(found["z"], np.array([0.5 + 1.5j, -1 - 0.5j], np.complex64))
    assert found["n"] is None
    assert found["h"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["h"].astype(np.float32), [2.0, 1.0])


# Independent of the rate.


def test_independent_decay_is_a_loop_by_hand():
    optimizer = pieces.optimizer(ewa_optax.gradient_descent(at(RATES)), pieces.decay_weights(at(DECAYS)), guard=None)
    w = PARAMS.astype(np.float64)
    for g, rate, decay in zip(STEPS, RATES, DECAYS, strict=True):
        w = w - rate * g - decay * w
    np.testing.assert_allclose(run(optimizer, jnp.asarray(PARAMS), STEPS), w, rtol=1e-6)


def independent(rate, decay):
    return pieces.optimizer(ewa_optax.adam(rate), pieces.decay_weights(decay), guard=None)


def test_independent_adamw_is_adamw_whose_decay_is_divided_by_the_rate():
    params = jnp.asarray(PARAMS)
    ours = run(independent(at(RATES), 0.01), params, STEPS)
    divided = ewa_optax.adamw(at(RATES), weight_decay=at(0.01 / RATES))
    np.testing.assert_allclose(ours, run(divided, params, STEPS), rtol=1e-6, atol=1e-30)
    # Corrected decay, of the square of the course: adamw's, with a schedule.
    corrected = ewa_optax.adamw(at(RATES), weight_decay=at(0.1 * RATES / RATES.max()))
    by_hand = independent(at(RATES), at(RATES * 0.1 * RATES / RATES.max()))
    chex.assert_trees_all_close(run(corrected, params, STEPS), run(by_hand, params, STEPS), rtol=1e-6)


def test_a_rescaled_rate_leaves_it_as_it_is():
    optimizer, w = independent(0.1, 0.25), jnp.array([2.0])
    state = ewa_optax.rescale_learning_rate(optimizer.init(w), 0.5)
    updates, _ = optimizer.update(jnp.zeros(1), state, w)
    np.testing.assert_array_equal(updates, [-0.5])


def test_decays_may_be_traced_and_vmapped():
    makers = cautious_adamw, independent

    @jax.jit
    @chex.assert_max_traces(n=1)
    def both(decays):
        return jax.vmap(lambda x: [run(make(0.1, x), jnp.asarray(PARAMS), STEPS) for make in makers])(decays)

    for decays in (jnp.array([0.0, 0.5]), jnp.array([0.25, 0.1])):
        for rows, make in zip(both(decays), makers, strict=True):
            alone = run(make(0.1, float(decays[1])), jnp.asarray(PARAMS), STEPS)
            np.testing.assert_allclose(rows[1], alone, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [pieces.cautious_weight_decay, pieces.decay_weights])
def test_errors_of_both(make):
    with pytest.raises(ValueError, match=f"{make.__name__}: weight_decay must be finite and 0 or more, got -0.1; 0"):
        make(-0.1)
    with pytest.raises(TypeError, match="weight_decay must be a number, a scalar array or a schedule, got 'x'"):
        make("x")
    piece = make(0.1)
    with pytest.raises(ValueError, match=r"weight decay needs the parameters; call update\(gradients, state, params"):
        piece.update(PARAMS, piece.init(PARAMS))


# Masks.


class Layers(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(2)])
        self.out = nnx.Linear(2, 1, rngs=rngs)


class Boxed(linen.Module):
    @linen.compact
    def __call__(self, x):
        kernel_init = linen.with_partitioning(linen.initializers.ones, (None, "model"))
        return linen.Dense(2, kernel_init=kernel_init)(x)


def trees():
    """For each library, shapes of parameters; a pattern, and the names that it and two axes choose."""
    x = jax.ShapeDtypeStruct((1, 2), np.float32)
    model = nnx.eval_shape(lambda: Layers(nnx.Rngs(0)))
    mlp = eqx.filter_eval_shape(eqx.nn.MLP, 2, 1, 2, 1, key=jax.random.key(0))
    perceptron = hk.transform(lambda x: hk.nets.MLP([2, 1])(x))
    linen_params = jax.eval_shape(Boxed().init, jax.random.key(0), x)
    haiku_params = jax.eval_shape(perceptron.init, jax.random.key(0), x)
    return {
        "nnx": (nnx.state(model, nnx.Param), "kernel$", ["layers/0/kernel", "layers/1/kernel", "out/kernel"]),
        "nnx pure": (nnx.to_pure_dict(nnx.state(model)), "^layers/.*bias$", ["layers/0/bias", "layers/1/bias"]),
        "linen": (linen_params, r"Dense_0/kernel$", ["params/Dense_0/kernel"]),
        "equinox": (
            eqx.filter(mlp, lambda x: isinstance(x, jax.ShapeDtypeStruct)), re.compile("WEIGHT$", re.IGNORECASE),
            ["layers/0/weight", "layers/1/weight"],
        ),
        "haiku": (haiku_params, r"linear_\d/w$", ["mlp/~/linear_0/w", "mlp/~/linear_1/w"]),
    }  # fmt: skip


@pytest.mark.parametrize("library", ["nnx", "nnx pure", "linen", "equinox", "haiku"])
def test_masks_of_every_library(library):
    params, pattern, names = trees()[library]
    chosen = pieces.path_matches(pattern)(params)
    assert jax.tree.structure(chosen) == jax.tree.structure(params)
    assert all(type(x) is bool for x in jax.tree.leaves(chosen))
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, x in with_paths(chosen) if x]
    assert [path.removesuffix("/value") for path in paths] == names
    matrices = pieces.ndim_at_least(2)(params)
    assert jax.tree.leaves(matrices) == [len(x.shape) > 1 for x in jax.tree.leaves(params)]
    assert jax.tree.structure(matrices) == jax.tree.structure(params)
    # In optimizers of this library, and in optax's.
    for make in (ewa_optax.adamw, optax.adamw):
        optimizer = make(1e-3, weight_decay=0.1, mask=pieces.path_matches(pattern))
        state = jax.eval_shape(optimizer.init, params)
        updates, _ = jax.eval_shape(optimizer.update, params, state, params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)


def with_paths(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


PLAIN = {
    "layers": [{"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for _ in range(2)],
    "scale": jnp.ones(2),
    "n": None,
}


@pytest.mark.parametrize("mask", [pieces.path_matches("0/kernel$|bias"), pieces.ndim_at_least(2)])
def test_masks_of_stacks_are_those_of_the_leaves(mask):
    stacked = ewa_optax.stack_leaves(PLAIN)
    for make in (ewa_optax.adamw, cautious_adamw):
        optimizer = make(0.1, weight_decay=0.5, mask=mask)

        @jax.jit
        def both(optimizer=optimizer):
            ours, _ = optimizer.update(stacked, optimizer.init(stacked), stacked)
            return ours.unstack(), optimizer.update(PLAIN, optimizer.init(PLAIN), PLAIN)[0]

        ours, theirs = both()
        chex.assert_trees_all_close(ours, theirs, rtol=1e-6)
        for x, decays in zip(*map(jax.tree.leaves, (ours, mask(PLAIN))), strict=True):
            np.testing.assert_allclose(x, -0.15 if decays else -0.1, rtol=1e-5)


def test_what_says_one_thing_of_a_stack_needs_one():
    """As `optax.masked` does, which keeps or drops an array."""
    mask = pieces.path_matches("kernel$")
    found = mask(ewa_optax.stack_leaves(PLAIN))
    assert jax.tree.leaves(found) == [False, True]
    decayed = optax.adamw(0.1, mask=mask)
    jax.eval_shape(decayed.init, ewa_optax.stack_leaves(PLAIN))
    with pytest.raises(ValueError, match="leaves of one stack have different labels"):
        pieces.path_matches("0/kernel$")(ewa_optax.stack_leaves(PLAIN))
    with pytest.raises(ValueError, match="leaves of one stack have different labels"):
        pieces.path_matches("bias$")(ewa_optax.stack_leaves(PLAIN))  # The scale is of the same shape.


def test_what_is_wrong_with_a_mask():
    with pytest.raises(
        ValueError, match=r"'kernle\$' is in no path of the parameters, such as \['layers/0/bias', .*write one that"
    ):
        pieces.path_matches("kernle$")(PLAIN)
    assert pieces.path_matches("kernle$")({}) == {}
    with pytest.raises(ValueError, match=r"pattern must be a regular expression, got '\(' \(.*re.escape makes one"):
        pieces.path_matches("(")
    with pytest.raises(TypeError, match=r"pattern must be a regular expression, got 3; such as 'kernel\$'"):
        pieces.path_matches(3)
    with pytest.raises(
        TypeError, match=r"ndim_at_least: axes must be an integer, got 1.5 \(float\); 2 leaves out biases"
    ):
        pieces.ndim_at_least(1.5)
    with pytest.raises(ValueError, match="axes must be from 0 to"):
        pieces.ndim_at_least(-1)
