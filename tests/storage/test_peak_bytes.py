"""The peak of a step: what stands on paper, and what XLA says of trainings written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ewa_optax

NUMBERS = 100_000
VECTOR = {"w": jax.ShapeDtypeStruct((NUMBERS,), jnp.float32)}


def a_parameter(optimizer, params=VECTOR):
    """Bytes of the peak, divided by the numbers in `params`; scalars and addresses are next to nothing."""
    return ewa_optax.peak_bytes(optimizer, params) / sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("optimizer", "averages"),
    [
        (optax.sgd(0.1), 0),
        (ewa_optax.gradient_descent(0.1), 0),
        (optax.sgd(0.1, momentum=0.9), 1),
        (optax.adam(0.1), 2),
        (ewa_optax.adam(0.1), 2),
        (optax.adamw(0.1), 2),
    ],
)
def test_parameters_gradients_and_averages_are_there_at_once(optimizer, averages):
    assert a_parameter(optimizer) == pytest.approx(4 * (2 + averages), abs=0.02)


def test_the_average_of_parameters_takes_new_parameters_besides():
    """At most: whether an update moves anything is known before it is averaged."""
    optimizer = optax.chain(ewa_optax.adamw(0.1), ewa_optax.average_parameters(0.99))
    assert 4 * (2 + 3) <= a_parameter(optimizer) <= 4 * (2 + 3) + 4 + 0.02


def test_parameters_of_16_bits_have_gradients_of_16_and_averages_of_32():
    params = {"w": jax.ShapeDtypeStruct((NUMBERS,), jnp.bfloat16)}
    assert a_parameter(optax.sgd(0.1), params) == pytest.approx(2 + 2, abs=0.02)
    assert a_parameter(ewa_optax.adam(0.1), params) == pytest.approx(2 + 2 + 8, abs=0.02)


def test_gradients_of_all_leaves_are_counted():
    tree = {"a": [jnp.ones((300, 100)), None], "b": {"c": jnp.ones((300, 100)), "d": jnp.ones(40_000)}}
    assert a_parameter(ewa_optax.adam(0.1), tree) == pytest.approx(16, abs=0.02)
    assert a_parameter(ewa_optax.adam(0.1), ewa_optax.stack_leaves(tree)) == pytest.approx(16, abs=0.02)
    assert not tree["b"]["d"].is_deleted()


def test_gradients_that_nobody_uses_are_not():
    assert a_parameter(optax.set_to_zero()) == pytest.approx(4, abs=0.02)


def test_a_state_that_stays_as_it_is_counts():
    keeps_two = optax.GradientTransformation(lambda p: (p, p), lambda updates, state, params=None: (updates, state))
    assert a_parameter(keeps_two) == pytest.approx(4 * (2 + 2), abs=0.02)


def test_gradients_of_several_steps_are_there_too():
    assert a_parameter(optax.MultiSteps(optax.adam(0.1), every_k_schedule=4)) >= 4 * (2 + 2 + 1)


def test_nothing_is_allocated():
    huge = [jax.ShapeDtypeStruct((2**17, 2**17), jnp.float32)] * 64  # Of one of 2**40 XLA of jax 0.12 dies.
    assert a_parameter(ewa_optax.adam(0.1), huge) == pytest.approx(16, abs=0.02)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), ewa_optax.adam(0.1)], ids=["sgd", "adam"])
def test_it_is_what_a_training_needs_beside_its_data(optimizer):
    """One whose layers stand side by side, so that all gradients, each a product of matrices, are there at once."""
    params = [jax.ShapeDtypeStruct((400, 300), jnp.float32)] * 4
    x = jax.ShapeDtypeStruct((2, 400), jnp.float32)

    def loss(params, x):
        return sum(jnp.sum(jnp.tanh(x @ w)) for w in params)

    def step(params, state, x):
        updates, state = optimizer.update(jax.grad(loss)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimizer.init, params)
    memory = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, x).compile().memory_analysis()
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    np.testing.assert_allclose(ewa_optax.peak_bytes(optimizer, params), needed, rtol=0.02)


def test_what_it_can_not_tell_is_an_error(monkeypatch):
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'value'"):
        ewa_optax.peak_bytes(optax.polyak_sgd(), VECTOR)
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
    with pytest.raises(RuntimeError, match=r"peak_bytes: the compiler must tell .*, got None on 'cpu'; call it within"):
        ewa_optax.peak_bytes(optax.sgd(0.1), VECTOR)
