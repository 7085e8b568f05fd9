"""A learning rate that one can read, and change while training runs."""

import itertools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import ewa_optax

PARAMS = {"w": jnp.ones(3), "b": jnp.zeros(2)}
GRADIENTS = jax.tree.map(jnp.ones_like, PARAMS)

NESTINGS = {
    "plain": lambda optimizer: optimizer,
    "chain": lambda optimizer: optax.chain(optax.clip_by_global_norm(100.0), optax.chain(optimizer, optax.identity())),
    "masked": lambda optimizer: optax.masked(optimizer, {"w": True, "b": False}),
    "MultiSteps": lambda optimizer: optax.MultiSteps(optimizer, 1),
    "partition": lambda optimizer: optax.partition(
        {"train": optimizer, "freeze": optax.set_to_zero()}, {"w": "train", "b": "freeze"}
    ),
    "apply_if_finite": lambda optimizer: optax.apply_if_finite(optimizer, 3),
    "all of them": lambda optimizer: optax.MultiSteps(
        optax.chain(optax.masked(optax.partition({0: optimizer}, {"w": 0, "b": 0}), {"w": True, "b": True})), 1
    ),
}
nestings = pytest.mark.parametrize("nest", [pytest.param(nest, id=name) for name, nest in NESTINGS.items()])


MAKERS = [ewa_optax.adam, ewa_optax.heavy_ball, ewa_optax.gradient_descent]
MADE = [
    # Each in the simplest nesting, and one of them in all.
    pytest.param(nest, make, id=f"{name}-{make.__name__}", marks=() if quick else pytest.mark.slow)
    for (name, nest), make in itertools.product(NESTINGS.items(), MAKERS)
    for quick in [make == ewa_optax.adam or name in ("plain", "partition")]
]


@pytest.mark.parametrize(("nest", "make"), MADE)
def test_it_is_read_out_of_any_nesting(nest, make):
    optimizer = nest(make(lambda count: 0.5 / (1 + count)))
    state = optimizer.init(PARAMS)
    assert ewa_optax.get_learning_rate(state) == 0.5
    for rate in (0.5, 0.25, 0.5 / 3):
        _, state = optimizer.update(GRADIENTS, state, PARAMS)
        np.testing.assert_allclose(ewa_optax.get_learning_rate(state), rate, rtol=1e-6)


@nestings
def test_it_is_rescaled_in_any_nesting(nest):
    optimizer = nest(ewa_optax.gradient_descent(0.5))
    state = ewa_optax.rescale_learning_rate(optimizer.init(PARAMS), 0.1)
    updates, state = optimizer.update(GRADIENTS, state, PARAMS)
    np.testing.assert_allclose(updates["w"], -0.05, rtol=1e-6)
    np.testing.assert_allclose(ewa_optax.get_learning_rate(state), 0.05, rtol=1e-6)


def test_a_rescaled_schedule_goes_on_from_where_it_is():
    optimizer = ewa_optax.gradient_descent(ewa_optax.schedule_inverse_time(0.2, 1.0))
    state, rates = optimizer.init(PARAMS), []
    for t in range(6):
        if t == 2:
            state = ewa_optax.rescale_learning_rate(state, 0.5)
        if t == 4:
            state = ewa_optax.rescale_learning_rate(state, 4.0)
        updates, state = optimizer.update(GRADIENTS, state)
        rates.append(float(ewa_optax.get_learning_rate(state)))
        np.testing.assert_allclose(updates["w"], -rates[-1], rtol=1e-6)
    expected = 0.2 / (1 + np.arange(1, 7)) * np.array([1, 1, 0.5, 0.5, 2, 2])
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_neither_call_compiles_anything_anew():
    optimizer = ewa_optax.adam(0.1)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(state):
        return optimizer.update(GRADIENTS, state, PARAMS)[1]

    @jax.jit
    @chex.assert_max_traces(n=1)
    def read_and_rescale(state, factor):
        return ewa_optax.get_learning_rate(state), ewa_optax.rescale_learning_rate(state, factor)

    state = optimizer.init(PARAMS)
    for factor in (0.5, 2.0, 3.0):
        state = ewa_optax.rescale_learning_rate(step(state), factor)
        rate, state = read_and_rescale(step(state), factor)
    np.testing.assert_allclose(rate, 0.1 * 0.5**2 * 2**2 * 3, rtol=1e-6)


def test_rescaling_keeps_structure_dtypes_and_the_old_state():
    state = optax.chain(optax.clip(1.0), ewa_optax.adamw(0.1)).init(PARAMS)
    rescaled = ewa_optax.rescale_learning_rate(state, 0.5)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, rescaled)
    assert jax.tree.structure(state) == jax.tree.structure(rescaled)
    assert sum(not np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (state, rescaled)), strict=True)) == 1


@pytest.mark.parametrize("checkpoint", ["pickle", "orbax"])
def test_it_survives_a_checkpoint(checkpoint, tmp_path):
    optimizer = optax.chain(optax.clip(1.0), ewa_optax.adam(ewa_optax.schedule_exponential(0.2)))
    _, state = optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)
    state = ewa_optax.rescale_learning_rate(state, 0.25)
    if checkpoint == "pickle":
        restored = pickle.loads(pickle.dumps(state))
    else:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "state", state)
            checkpointer.wait_until_finished()
            restored = checkpointer.restore(tmp_path / "state", optimizer.init(PARAMS))
    chex.assert_trees_all_equal(restored, state)
    _, after = optimizer.update(GRADIENTS, restored, PARAMS)
    np.testing.assert_allclose(ewa_optax.get_learning_rate(after), 0.2 * 0.95**2 * 0.25, rtol=1e-6)


def test_several_rates_are_all_rescaled_but_not_read():
    optimizer = optax.partition({"w": ewa_optax.adam(0.1), "b": ewa_optax.momentum(1.0)}, {"w": "w", "b": "b"})
    state = ewa_optax.rescale_learning_rate(optimizer.init(PARAMS), 0.5)
    with pytest.raises(ValueError, match=r"holds 2 learning rates .*get_learning_rates"):
        ewa_optax.get_learning_rate(state)
    _, state = optimizer.update(GRADIENTS, state, PARAMS)
    np.testing.assert_allclose(ewa_optax.get_learning_rate(state.inner_states["w"]), 0.05, rtol=1e-6)
    np.testing.assert_allclose(ewa_optax.get_learning_rate(state.inner_states["b"]), 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    "call", [ewa_optax.get_learning_rate, lambda state: ewa_optax.rescale_learning_rate(state, 0.5)]
)
@pytest.mark.parametrize("state", [optax.adam(0.1).init(PARAMS), PARAMS, (), None])
def test_no_rate_in_the_state_is_an_error(call, state):
    with pytest.raises(ValueError, match=r"no learning rate.*scale_by_learning_rate"):
        call(state)


def test_a_sweep_over_rates_reads_each():
    def rate_after_a_step(rate):
        optimizer = ewa_optax.adam(rate)
        return ewa_optax.get_learning_rate(optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)[1])

    rates = jnp.array([0.1, 0.01, 0.001])
    np.testing.assert_allclose(jax.vmap(rate_after_a_step)(rates), rates, rtol=1e-6)


def test_under_x64_the_rate_is_float64():
    with jax.enable_x64(True):
        optimizer = ewa_optax.gradient_descent(0.1)
        updates, state = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
        assert ewa_optax.get_learning_rate(state) == 0.1
        assert updates.dtype == jnp.float64
        np.testing.assert_array_equal(updates, [-0.1, -0.1])
