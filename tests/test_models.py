"""The optimizers in real models: flax (nnx and linen), equinox and haiku, through `optax.chain`."""

import dataclasses
import itertools

import chex
import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import ewa_optax
from ewa_optax import storage

X = jax.random.normal(jax.random.key(0), (32, 4))
Y = jnp.sin(X[:, :1]) + X[:, 1:2] * X[:, 2:3]
OPTIMIZERS = {
    "ours": lambda rate: optax.chain(optax.clip_by_global_norm(1.0), ewa_optax.adam(rate)),
    "optax's": lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
}


def train_equinox(optimizer, steps):
    model = eqx.nn.MLP(4, 1, 16, 2, key=jax.random.key(1))
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        loss, gradients = eqx.filter_value_and_grad(lambda m: jnp.mean((jax.vmap(m)(X) - Y) ** 2))(model)
        updates, state = optimizer.update(gradients, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(steps):
        model, state, loss = step(model, state)
        losses.append(loss)
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)), jnp.stack(losses), state


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(nn.Dense(16)(x)))


def train_functional(init, apply, optimizer, steps):
    params = init(jax.random.key(1), X)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        loss, gradients = jax.value_and_grad(lambda p: jnp.mean((apply(p, X) - Y) ** 2))(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(steps):
        params, state, loss = step(params, state)
        losses.append(loss)
    return jax.tree.leaves(params), jnp.stack(losses), state


def train_linen(optimizer, steps):
    return train_functional(Linen().init, Linen().apply, optimizer, steps)


def train_haiku(optimizer, steps):
    network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([16, 1])(x)))
    return train_functional(network.init, network.apply, optimizer, steps)


def train_nnx(optimizer, steps):
    rngs = nnx.Rngs(1)
    model = nnx.Sequential(
        nnx.Linear(4, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs), nnx.relu, nnx.Linear(16, 1, rngs=rngs)
    )
    wrapped = nnx.Optimizer(model, optimizer, wrt=nnx.Param)

    @nnx.jit
    def step(model, wrapped):
        loss, gradients = nnx.value_and_grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model)
        wrapped.update(model, gradients)
        return loss

    losses = [step(model, wrapped) for _ in range(steps)]
    return jax.tree.leaves(nnx.state(model, nnx.Param)), jnp.stack(losses), wrapped.opt_state


LIBRARIES = [train_equinox, train_linen, train_haiku, train_nnx]


MEMBERS = {
    "lion": (ewa_optax.lion(1e-3), optax.lion(1e-3)),
    "nesterov": (ewa_optax.nesterov(1e-2), optax.sgd(1e-2, 0.9, nesterov=True)),
    "nadamw": (ewa_optax.nadamw(1e-2), optax.nadamw(1e-2)),
    "adabelief": (ewa_optax.adabelief(1e-2, eps=1e-8), optax.adabelief(1e-2, eps=1e-8)),
    "lamb": (ewa_optax.lamb(1e-2, weight_decay=0.01), optax.lamb(1e-2, weight_decay=0.01)),
    "novograd": (ewa_optax.novograd(1e-3, 0.9, 0.25, 1e-6), optax.novograd(1e-3)),
    "adafactor": (ewa_optax.adafactor(1e-2), optax.adafactor(1e-2, min_dim_size_to_factor=1)),
}


QUICK = {"lion", "lamb", "adafactor"}
PAIRS = [
    pytest.param(name, train, marks=() if name in QUICK else pytest.mark.slow)
    for name, train in zip(MEMBERS, itertools.cycle(LIBRARIES), strict=False)
]


@pytest.mark.parametrize("train", LIBRARIES)
def test_one_step_equals_that_of_optax(train):
    ours, theirs = (train(make(1e-3), 1)[0] for make in OPTIMIZERS.values())
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-8)
    unmoved = train(OPTIMIZERS["ours"](0.0), 1)[0]
    assert all(jnp.all(jnp.abs(x - y) < 1.01e-3) for x, y in zip(unmoved, ours, strict=True))
    assert all(jnp.any(x != y) for x, y in zip(unmoved, ours, strict=True))


@pytest.mark.parametrize("train", LIBRARIES)
def test_a_model_learns(train):
    _, losses, _ = train(OPTIMIZERS["ours"](1e-2), 200)
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize(("name", "train"), PAIRS)
def test_a_member_trains_a_model_as_that_of_optax_does(name, train):
    ours, theirs = MEMBERS[name]
    (params, losses, _), (expected, losses_of_optax, _) = train(ours, 30), train(theirs, 30)
    if train is not train_nnx:  # A bias in front of its BatchNorm has gradients of rounding only.
        chex.assert_trees_all_close(params, expected, rtol=1e-3, atol=1e-4)
    chex.assert_trees_all_close(losses, losses_of_optax, rtol=1e-3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("train", LIBRARIES)
@pytest.mark.parametrize(
    "name", ["8bit", *(pytest.param(x, marks=pytest.mark.slow) for x in storage.NAMED if x != "8bit")]
)
def test_a_model_learns_with_some_averages_encoded(train, name):
    kept = dataclasses.replace(storage.NAMED[name], min_size=32)
    _, losses, state = train(ewa_optax.adam(1e-2, storage=kept), 200)
    assert losses[-1] < 0.1 * losses[0]
    dtypes = {x.dtype for x in jax.tree.leaves(state) if x.ndim}
    assert jnp.dtype(jnp.float32) in dtypes
    assert len(dtypes) > 1


@pytest.mark.parametrize("train", LIBRARIES)
def test_the_rate_of_a_model_is_read_and_rescaled(train):
    state = train(OPTIMIZERS["ours"](1e-2), 1)[2]
    assert ewa_optax.get_learning_rate(state) == jnp.float32(1e-2)
    rescaled = ewa_optax.rescale_learning_rate(state, 0.5)
    assert jax.tree.structure(rescaled) == jax.tree.structure(state)


def test_an_nnx_optimizer_goes_on_at_the_rescaled_rate():
    model = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
    wrapped = nnx.Optimizer(model, ewa_optax.adam(0.5), wrt=nnx.Param)

    @nnx.jit
    def step(model, wrapped):
        wrapped.update(model, nnx.grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model))

    step(model, wrapped)
    wrapped.opt_state = ewa_optax.rescale_learning_rate(wrapped.opt_state, 0.1)
    step(model, wrapped)
    assert jnp.isclose(ewa_optax.get_learning_rate(wrapped.opt_state), 0.05)


def test_the_l2_cost_is_a_piece_in_front():
    model = {"weights": jnp.array([[2.0, -1.0]]), "bias": jnp.array([3.0])}
    batch_size, strength = 4, 0.5

    def cost(params, penalty):
        data_cost = jnp.mean((params["weights"] @ jnp.array([1.0, 1.0]) + params["bias"]) ** 2)
        return data_cost + penalty * strength / (2 * batch_size) * jnp.sum(params["weights"] ** 2)

    def weights_only(params):
        return jax.tree.map(lambda p: p.ndim > 1, params)

    plain = ewa_optax.adam(0.1)
    with_l2 = optax.chain(optax.add_decayed_weights(strength / batch_size, mask=weights_only), plain)
    by_piece, _ = with_l2.update(jax.grad(cost)(model, 0.0), with_l2.init(model), model)
    by_cost, _ = plain.update(jax.grad(cost)(model, 1.0), plain.init(model), model)
    chex.assert_trees_all_close(by_piece, by_cost, rtol=1e-6)
