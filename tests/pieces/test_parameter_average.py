"""The average of parameters along a training."""

import functools
import pickle

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from flax import nnx
from helpers import ROUGHLY
from runs import well_compiled

import ewa_optax
from ewa_optax import storage

PATH = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)
STORAGES = [None, "24bit", "bfloat16", "float16", "8bit"]


def followed(*options, path=PATH):
    """What `get_average` says at each step while the parameters go along a path: by all of these options, at once."""
    each = [ewa_optax.average_parameters(**keywords) for keywords in options]

    def step(carry, after):
        params, states = carry
        done = [piece.update(after - params, state, params) for piece, state in zip(each, states, strict=True)]
        states = [state for _, state in done]
        for updates, _ in done[:1]:
            params = optax.apply_updates(params, updates)
        return (params, states), [ewa_optax.get_average(state) for state in states]

    def along(path):
        start = path[0] - 1  # A step that moves nothing would not count.
        return jax.lax.scan(step, (start, [piece.init(start) for piece in each]), path)[1]

    return [np.asarray(found) for found in jax.jit(along, compiler_options=ROUGHLY)(path)]


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
def test_it_is_the_average_of_the_series_of_parameters(decay):
    share = 1 - decay
    debiased, undebiased, of_schedule, in_float32 = followed(
        dict(decay=decay),
        dict(decay=decay, debias=False),
        dict(decay=lambda t: decay),
        dict(decay=lambda t: jnp.float32(decay)),
    )
    np.testing.assert_allclose(debiased, pd.DataFrame(PATH).ewm(alpha=share).mean(), atol=2e-6)
    v, expected = np.zeros(3), []
    for p in PATH:
        v = decay * v + share * p
        expected.append(v)
    np.testing.assert_allclose(undebiased, expected, atol=2e-6)
    np.testing.assert_allclose(of_schedule, debiased, atol=2e-6)
    np.testing.assert_allclose(in_float32, debiased, atol=1e-4)


def test_the_uniform_average():
    means = np.cumsum(PATH, 0) / np.arange(1, 61)[:, None]
    of_schedule = dict(decay=lambda t: 1 - 1 / t)
    for found in followed(dict(decay=1.0), of_schedule, of_schedule | dict(debias=False)):
        np.testing.assert_allclose(found, means, atol=2e-6)


def test_a_schedule_counts_from_one():
    seen = []

    def schedule(t):
        jax.debug.callback(lambda t: seen.append(int(t)), t, ordered=True)
        return 0.5

    followed(dict(decay=schedule, start=2), path=PATH[:5])
    jax.effects_barrier()
    assert seen == [1, 1, 1, 2, 3]


def test_every_so_many_steps_from_a_start():
    found, late, of_arrays, undebiased = followed(
        dict(decay=1.0, start=10, every=5),  # Taken at the steps 15, 20, 25, ...
        dict(decay=0.9, start=10),
        dict(decay=0.9, start=jnp.array(10)),  # As arrays, which optax may make of them.
        dict(decay=0.9, start=10, debias=False),
    )
    np.testing.assert_allclose(found[:15], PATH[:15], atol=1e-6)
    np.testing.assert_allclose(found[15:19], np.broadcast_to(PATH[14], (4, 3)), atol=1e-6)
    np.testing.assert_allclose(found[24], PATH[[14, 19, 24]].mean(0), atol=2e-6)
    np.testing.assert_allclose(late[10:], followed(dict(decay=0.9), path=PATH[10:])[0], atol=2e-6)
    np.testing.assert_allclose(of_arrays, late, atol=2e-6)
    assert (undebiased[:10] == 0).all()


TINY = 1e-30
"""An update that moves 1 by less than a digit."""


def ones(decay, steps, **keywords):
    """The average after so many steps at 1, of as many parameters as a storage needs to take them."""
    piece, params = ewa_optax.average_parameters(decay, **keywords), np.ones(4096, np.float32)

    def step(state, _):
        return piece.update(jnp.full_like(params, TINY), state, params)[1], None

    def average(start):
        return ewa_optax.get_average(jax.lax.scan(step, piece.init(start), length=steps)[0])

    return np.asarray(well_compiled(average)(0 * params))


@pytest.mark.parametrize("kept", [pytest.param(x, marks=pytest.mark.slow if x == "float16" else ()) for x in STORAGES])
def test_a_constant_is_reached_in_every_storage(kept):
    """As in `optax.ema` kept in bfloat16 it is not: that stops at 0.5."""
    undebiased = ones(0.9999, 10_000, debias=False, storage=kept)
    assert abs(undebiased.mean() / (1 - 0.9999**10_000) - 1) < 0.01
    assert abs(ones(0.9999, 10_000, storage=kept).mean() - 1) < 0.002


def test_to_nearest_it_is_not_reached():
    nearest = ones(0.9999, 20_000, debias=False, storage=storage.BFloat16(rounding="nearest"))
    assert nearest.mean() < 0.1


def test_24_bits_are_quiet():
    """A walk around 1: 16 bits add noise of some 1e-2, 24 of some 1e-4."""
    noise = {}
    for kept in ("24bit", "bfloat16"):
        noise[kept] = float(ones(0.999, 3000, storage=kept, debias=False).std())
    assert noise["24bit"] < 1e-3 < noise["bfloat16"]


# As a piece of a chain.


def quadratic(params):
    return sum(jnp.sum((p - 3) ** 2) for p in jax.tree.leaves(params))


def test_it_sees_parameters_after_the_update_and_changes_nothing():
    params = {"w": jnp.ones(3), "none": None}
    plain, with_average = ewa_optax.adam(0.1), optax.chain(ewa_optax.adam(0.1), ewa_optax.average_parameters(0.9))
    a, b = plain.init(params), with_average.init(params)
    v, p, q = 0.0, params, params

    @jax.jit
    def both(p, a, q, b):
        updates, a = plain.update(jax.grad(quadratic)(p), a, p)
        p = optax.apply_updates(p, updates)
        updates, b = with_average.update(jax.grad(quadratic)(q), b, q)
        return p, a, optax.apply_updates(q, updates), b

    for t in range(1, 6):
        p, a, q, b = both(p, a, q, b)
        v = 0.9 * v + 0.1 * np.asarray(p["w"])
        np.testing.assert_allclose(ewa_optax.get_average(b)["w"], v / (1 - 0.9**t), rtol=1e-6)
    chex.assert_trees_all_equal(p, q)
    assert ewa_optax.get_average(b)["none"] is None


@pytest.mark.parametrize("kept", STORAGES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float32, marks=pytest.mark.slow)])
def test_structure_and_dtypes_stay_under_scan(kept, dtype):
    params = {"large": jnp.ones((64, 128), dtype), "small": jnp.ones(3, dtype)}
    optimizer = optax.chain(
        ewa_optax.gradient_descent(0.01),
        ewa_optax.round_stochastically(),
        ewa_optax.average_parameters(0.99, storage=kept, every=2),
    )

    @chex.assert_max_traces(n=1)
    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(quadratic)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    @functools.partial(jax.jit, donate_argnums=0, compiler_options=ROUGHLY)
    def train(carry):
        (params, state), _ = jax.lax.scan(step, carry, length=300)
        return params, state, ewa_optax.get_average(state, params)

    params, state, averaged = train((params, jax.jit(optimizer.init)(params)))
    chex.assert_trees_all_equal_shapes_and_dtypes(averaged, params)
    distances = [np.sum((np.asarray(x, np.float32) - 3) ** 2) for x in jax.tree.leaves(averaged)]
    assert sum(distances) / 8195 < 0.1
    unlike = jax.eval_shape(ewa_optax.get_average, state)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(unlike))
    again = pickle.loads(pickle.dumps(jax.device_get(state)))
    assert jax.tree.structure(again) == jax.tree.structure(state)


def test_a_state_made_outside_of_jit_can_be_donated():
    params = {"w": jnp.ones((4, 4))}
    optimizer = optax.chain(optax.sgd(0.1), ewa_optax.average_parameters(0.9))
    step = jax.jit(lambda p, s: optimizer.update(p, s, p), donate_argnums=(0, 1))
    _, state = step(params, optimizer.init(params))
    np.testing.assert_allclose(ewa_optax.get_average(state)["w"], 0.9, rtol=1e-6)


def test_a_schedule_of_one_follows_the_parameters():
    (found,) = followed(dict(decay=lambda t: jnp.where(t <= 2, 1.0, 0.5)))
    np.testing.assert_allclose(found[:3], PATH[:3], rtol=1e-6)
    assert np.isfinite(found).all()


def test_nothing_in_the_state_is_the_parameters():
    params = jnp.ones(5000)
    state = ewa_optax.average_parameters(0.9).init(params)
    assert all(x.unsafe_buffer_pointer() != params.unsafe_buffer_pointer() for x in jax.tree.leaves(state))


def test_the_average_of_a_noisy_end_is_better_than_the_end():
    """Linear regression by stochastic gradients at a large rate: why people average."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 10)).astype(np.float32)
    w = np.arange(10.0, dtype=np.float32)
    y = x @ w + rng.standard_normal(2000).astype(np.float32)
    optimizer = optax.chain(ewa_optax.gradient_descent(0.1), ewa_optax.average_parameters(0.99))

    def loss(w, batch):
        return jnp.mean((batch[0] @ w - batch[1]) ** 2)

    run = ewa_optax.fit(
        loss, optimizer, jnp.zeros(10), (x, y), batch_size=10, epochs=5, key=jax.random.key(0), progress=False
    )
    averaged = ewa_optax.get_average(run.opt_state)
    best = np.linalg.lstsq(x, y)[0]
    assert np.linalg.norm(averaged - best) < 0.3 * np.linalg.norm(run.params - best)


def test_models():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.out = nnx.Linear(3, 1, rngs=rngs)

    net = Net(nnx.Rngs(0))
    chain = optax.chain(ewa_optax.adam(0.1), ewa_optax.average_parameters(0.5))
    optimizer = nnx.Optimizer(net, chain, wrt=nnx.Param)
    optimizer.update(net, jax.tree.map(jnp.ones_like, nnx.state(net, nnx.Param)))
    copy = nnx.clone(net)
    copy.out.kernel[...] = 0
    nnx.update(copy, ewa_optax.get_average(nnx.as_pure(optimizer.opt_state)))
    np.testing.assert_allclose(copy.out.kernel[...], net.out.kernel[...], rtol=1e-6)

    model = eqx.nn.Linear(3, 1, key=jax.random.key(0))
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    state = chain.init(params)
    _, state = jax.jit(chain.update)(jax.tree.map(jnp.ones_like, params), state, params)
    assert eqx.combine(ewa_optax.get_average(state), rest)(jnp.ones(3)).shape == (1,)


def test_inside_of_other_transformations():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    inner = optax.chain(ewa_optax.gradient_descent(0.5), ewa_optax.average_parameters(0.5))
    masked = optax.masked(inner, {"a": True, "b": False})
    _, state = jax.jit(masked.update)(params, masked.init(params), params)
    np.testing.assert_allclose(ewa_optax.get_average(state)["a"], 0.5)
    np.testing.assert_allclose(ewa_optax.get_average(state, params)["b"], 1.0)
    injected = optax.inject_hyperparams(ewa_optax.average_parameters)(decay=0.5)
    _, state = jax.jit(injected.update)(params, injected.init(params), params)
    np.testing.assert_allclose(ewa_optax.get_average(state)["a"], 2.0)
    steps = optax.MultiSteps(inner, 2)
    update, state = jax.jit(steps.update), steps.init(params)
    for _ in range(4):
        _, state = update(params, state, params)
    assert int(state.inner_opt_state[1].step) == 2
    finite = optax.apply_if_finite(inner, 3)
    _, state = jax.jit(finite.update)(params, finite.init(params), params)
    np.testing.assert_allclose(ewa_optax.get_average(state)["b"], 0.5)


AVERAGE = ewa_optax.average_parameters


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: AVERAGE(1.5), ValueError, r"decay must be in \[0, 1\], got 1.5"),
        (lambda: AVERAGE("0.9"), TypeError, "decay must be a number, a scalar array or a schedule"),
        (lambda: AVERAGE(1.0, debias=False), ValueError, "a decay of 1 must have debias=True"),
        (lambda: AVERAGE(0.9, every=0), ValueError, "every must be a whole number, 1 or more, got 0"),
        (lambda: AVERAGE(0.9, start=-1), ValueError, "start must be a whole number, 0 or more, got -1"),
        (lambda: AVERAGE(0.9, storage="4bit"), ValueError, "storage must be"),
        (lambda: AVERAGE(0.9).update(X, AVERAGE(0.9).init(X)), ValueError, "needs the parameters"),
        (lambda: AVERAGE(0.9).init(jnp.arange(3)), TypeError, "has dtype int32"),
        (lambda: AVERAGE(0.9, storage="8bit").init(jnp.ones(5000) * 1j), TypeError, "no complex parameters"),
        (lambda: ewa_optax.get_average(ewa_optax.adam(0.1).init(X)), ValueError, "holds 0 averages of parameters"),
        (lambda: ewa_optax.get_average([AVERAGE(0.9).init(X)] * 2), ValueError, "holds 2 averages of parameters"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


X = jnp.ones(3)


# What faults on purpose showed to be tested nowhere else.


def test_weights_of_a_schedule():
    average = ewa_optax.average_parameters(lambda t: 1 - 1e-6, debias=True)
    state = average.init(jnp.zeros(1))
    state = jax.jit(
        lambda s: jax.lax.scan(
            lambda s, _: (average.update(jnp.full(1, TINY), s, jnp.ones(1))[1], None), s, length=200_000
        )[0]
    )(state)
    np.testing.assert_allclose(state.weight[0], -np.expm1(200_000 * np.log1p(-1e-6)), rtol=1e-6)
