"""The optimizers in real models: flax (nnx and linen), equinox and haiku, through `optax.chain`."""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import chex
import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, PIECES
from flax import nnx
from helpers import ROUGHLY

import ewa_optax
from ewa_optax import storage
from ewa_optax.storage._argument import NAMED

X = np.random.default_rng(0).standard_normal((32, 4), np.float32)
Y = np.sin(X[:, :1]) + X[:, 1:2] * X[:, 2:3]


def rate(count):
    return jnp.where(count < 1, 1e-3, 1e-2)


OPTIMIZERS = {
    "ours": optax.chain(optax.clip_by_global_norm(1.0), ewa_optax.adam(rate)),
    "optax's": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
}


class Trained(NamedTuple):
    """The parameters before and after each step, the losses before each, and the last state."""

    params: list[Any]
    losses: np.ndarray
    state: Any

    @classmethod
    def of(cls, params, losses, state):
        return cls(jax.device_get(params), np.stack(jax.device_get(losses)), state)


def train_equinox(optimizer, steps):
    model = eqx.filter_jit(eqx.nn.MLP)(4, 1, 16, 1, key=jax.random.key(1))
    state = jax.jit(optimizer.init)(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        loss, gradients = eqx.filter_value_and_grad(lambda m: jnp.mean((jax.vmap(m)(X) - Y) ** 2))(model)
        updates, state = optimizer.update(gradients, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    params, losses = [jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))], []
    for _ in range(steps):
        model, state, loss = step(model, state)
        params.append(jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
        losses.append(loss)
    return Trained.of(params, losses, state)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(nn.Dense(16)(x)))


roughly_compiled = functools.partial(jax.jit, compiler_options=ROUGHLY)


def train_functional(init, apply, optimizer, steps):
    params = roughly_compiled(init)(jax.random.key(1), X)
    state = roughly_compiled(optimizer.init)(params)

    @roughly_compiled
    def step(params, state):
        loss, gradients = jax.value_and_grad(lambda p: jnp.mean((apply(p, X) - Y) ** 2))(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    all_params, losses = [jax.tree.leaves(params)], []
    for _ in range(steps):
        params, state, loss = step(params, state)
        all_params.append(jax.tree.leaves(params))
        losses.append(loss)
    return Trained.of(all_params, losses, state)


def train_linen(optimizer, steps):
    return train_functional(Linen().init, Linen().apply, optimizer, steps)


def train_haiku(optimizer, steps):
    network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([16, 1])(x)))
    return train_functional(network.init, network.apply, optimizer, steps)


def train_nnx(optimizer, steps):
    @nnx.jit
    def create():
        rngs = nnx.Rngs(1)
        return nnx.Sequential(
            nnx.Linear(4, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs), nnx.relu, nnx.Linear(16, 1, rngs=rngs)
        )

    model = create()
    wrapped = nnx.Optimizer(model, optimizer, wrt=nnx.Param)

    @nnx.jit
    def step(model, wrapped):
        loss, gradients = nnx.value_and_grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model)
        wrapped.update(model, gradients)
        return loss

    params, losses = [jax.tree.leaves(nnx.state(model, nnx.Param))], []
    for _ in range(steps):
        losses.append(step(model, wrapped))
        params.append(jax.tree.leaves(nnx.state(model, nnx.Param)))
    return Trained.of(params, losses, wrapped.opt_state)


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


@functools.cache
def trained(train):
    return train(OPTIMIZERS["ours"], 200)


@pytest.fixture(autouse=True, scope="module")
def _forget():
    yield
    trained.cache_clear()


@pytest.mark.parametrize("train", LIBRARIES)
def test_one_step_equals_that_of_optax(train):
    before, ours, theirs = *trained(train).params[:2], train(OPTIMIZERS["optax's"], 1).params[1]
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-8)
    assert all(np.all(np.abs(x - y) < 1.01e-3) for x, y in zip(before, ours, strict=True))
    assert all(np.any(x != y) for x, y in zip(before, ours, strict=True))


@pytest.mark.parametrize("train", LIBRARIES)
def test_a_model_learns(train):
    losses = trained(train).losses
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("train", LIBRARIES)
def test_the_rate_of_a_model_is_read_and_rescaled(train):
    state = trained(train).state
    assert ewa_optax.get_learning_rate(state) == np.float32(1e-2)
    rescaled = ewa_optax.rescale_learning_rate(state, 0.5)
    assert jax.tree.structure(rescaled) == jax.tree.structure(state)


@pytest.mark.parametrize(("name", "train"), PAIRS)
def test_a_member_trains_a_model_as_that_of_optax_does(name, train):
    ours, theirs = (train(optimizer, 30) for optimizer in MEMBERS[name])
    if train is not train_nnx:  # A bias in front of its BatchNorm has gradients of rounding only.
        chex.assert_trees_all_close(ours.params[-1], theirs.params[-1], rtol=1e-3, atol=1e-4)
    chex.assert_trees_all_close(ours.losses, theirs.losses, rtol=1e-3)
    assert ours.losses[-1] < ours.losses[0]


@pytest.mark.parametrize(
    ("name", "train"),
    [  # Haiku keeps the trees that linen keeps.
        pytest.param(*pair, marks=() if pair[0] == "8bit" and pair[1] is not train_haiku else pytest.mark.slow)
        for pair in itertools.product(NAMED, LIBRARIES)
    ],
)
def test_a_model_learns_with_some_averages_encoded(train, name):
    kept = dataclasses.replace(NAMED[name], min_size=32)
    _, losses, state = train(ewa_optax.adam(1e-2, storage=kept), 200)
    assert losses[-1] < 0.1 * losses[0]
    dtypes = {x.dtype for x in jax.tree.leaves(state) if x.ndim}
    assert jnp.dtype(jnp.float32) in dtypes
    assert len(dtypes) > 1


def test_an_nnx_optimizer_goes_on_at_the_rescaled_rate():
    model = nnx.jit(lambda: nnx.Linear(4, 1, rngs=nnx.Rngs(0)))()
    wrapped = nnx.Optimizer(model, ewa_optax.adam(0.5), wrt=nnx.Param)

    @nnx.jit
    def step(model, wrapped):
        wrapped.update(model, nnx.grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model))

    step(model, wrapped)
    wrapped.opt_state = ewa_optax.rescale_learning_rate(wrapped.opt_state, 0.1)
    step(model, wrapped)
    assert np.isclose(ewa_optax.get_learning_rate(wrapped.opt_state), 0.05)


EIGHT = storage.EightBit(min_size=3)  # Of rows and columns, the columns.
WRAPPED = {
    **{f"pieces.{name}": piece(None) for name, piece in PIECES.items()},
    **{f"pieces.{name} in 8 bits": PIECES[name](EIGHT) for name in ("of_rows_and_columns", "average_parameters")},
    "MultiSteps of adafactor": optax.MultiSteps(ewa_optax.adafactor(0.01), 2).gradient_transformation(),
    **{case.name: case.optimizer() for case in CASES},
}
# Those whose states are of other shapes than the parameters, and one that is like most.
QUICK = {"adafactor", "novograd", "adam", "pieces.of_rows_and_columns", "pieces.of_rows", "pieces.average_parameters"}


def linear_in_nnx(bias):
    return nnx.Linear(2, 3, use_bias=bias, kernel_init=nnx.initializers.constant(0.5), rngs=nnx.Rngs(0))


def quarter(params):
    return jax.tree.map(lambda p: p / 4 - 1, params)


@pytest.mark.parametrize("name", [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in WRAPPED])
def test_nnx_takes_the_steps_of_plain_updates(name):
    """Operation by operation: those of all of them are the same few programs."""
    optimizer, model = WRAPPED[name], linear_in_nnx(bias=False)
    with jax.disable_jit():
        wrapped, params = nnx.Optimizer(model, optimizer, wrt=nnx.Param), nnx.as_pure(nnx.state(model, nnx.Param))
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(quarter(params), state, params)
            params = optax.apply_updates(params, updates)
            wrapped.update(model, quarter(nnx.state(model, nnx.Param)))
    chex.assert_trees_all_equal(nnx.as_pure(nnx.state(model, nnx.Param)), params)
    chex.assert_trees_all_equal(nnx.as_pure(wrapped.opt_state), state)


def test_nnx_takes_them_in_compiled_steps():
    optimizer, model = WRAPPED["MultiSteps of adafactor"], linear_in_nnx(bias=True)
    wrapped, params = nnx.Optimizer(model, optimizer, wrt=nnx.Param), nnx.as_pure(nnx.state(model, nnx.Param))
    state = optimizer.init(params)

    @nnx.jit
    def step(model, wrapped, params, state):
        updates, state = optimizer.update(quarter(params), state, params)
        wrapped.update(model, quarter(nnx.state(model, nnx.Param)))
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(model, wrapped, params, state)
    chex.assert_trees_all_close(nnx.as_pure(nnx.state(model, nnx.Param)), params, rtol=1e-6)
    chex.assert_trees_all_close(nnx.as_pure(wrapped.opt_state), state, rtol=1e-6)


def test_the_l2_cost_is_a_piece_in_front():
    model = {"weights": np.float32([[2.0, -1.0]]), "bias": np.float32([3.0])}
    batch_size, strength = 4, 0.5

    def cost(params, penalty):
        data_cost = jnp.mean((params["weights"] @ np.float32([1.0, 1.0]) + params["bias"]) ** 2)
        return data_cost + penalty * strength / (2 * batch_size) * jnp.sum(params["weights"] ** 2)

    def weights_only(params):
        return jax.tree.map(lambda p: p.ndim > 1, params)

    plain = ewa_optax.adam(0.1)
    with_l2 = optax.chain(optax.add_decayed_weights(strength / batch_size, mask=weights_only), plain)
    by_piece, by_cost = jax.jit(
        lambda model: [
            optimizer.update(jax.grad(cost)(model, penalty), optimizer.init(model), model)[0]
            for optimizer, penalty in ((with_l2, 0.0), (plain, 1.0))
        ]
    )(model)
    chex.assert_trees_all_close(by_piece, by_cost, rtol=1e-6)
