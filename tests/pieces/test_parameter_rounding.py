"""Parameters of 16 bits, rounded without bias."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ewa_optax

HALVES = [jnp.bfloat16, jnp.float16]


@functools.partial(jax.jit, static_argnames="seed")
def landed(params, updates, seed=0):
    """Parameters after one update, as `optax.apply_updates` forms them."""
    piece = ewa_optax.round_stochastically(seed)
    rounded, _ = piece.update(updates, piece.init(params), params)
    return optax.apply_updates(params, rounded)


def neighbours(x, dtype):
    """The largest number of `dtype` up to `x`, and the smallest from it."""
    near = x.astype(dtype)
    exact, towards = np.asarray(near, np.float64), np.asarray(x, np.float64)
    below = np.where(exact <= towards, near, np.nextafter(near, np.asarray(-np.inf, near.dtype)))
    above = np.where(exact >= towards, near, np.nextafter(near, np.asarray(np.inf, near.dtype)))
    return below, above


@pytest.mark.parametrize("dtype", HALVES)
def test_every_parameter_lands_on_a_neighbour_of_the_exact_sum(dtype):
    rng = np.random.default_rng(0)
    low, high = (-30, 30) if dtype == jnp.bfloat16 else (-5, 4)
    p = (10 ** rng.uniform(low, high, 100_000) * rng.choice([-1, 1], 100_000)).astype(np.float32).astype(dtype)
    ratios = 10 ** rng.uniform(-12, 4, p.shape) * rng.choice([-1, 1], p.shape)
    u = (p.astype(np.float64) * ratios).astype(np.float32)
    u[:1000], u[1000:2000] = 0, -p[1000:2000].astype(np.float32)
    u[2000:3000] = -p[2000:3000].astype(np.float32) * np.float32(1 - 2**-20)
    exact = (p.astype(np.float32) + u).astype(np.float32)
    inside = np.abs(exact) <= float(jnp.finfo(dtype).max)
    new = np.asarray(landed(p, u))
    assert new.dtype == dtype
    below, above = neighbours(exact[inside], new.dtype)
    assert ((new[inside] == below) | (new[inside] == above)).all()
    assert np.isfinite(new.astype(np.float32)).all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("update", [1e-6, -3e-5, 1e-3, -0.3])
def test_the_mean_is_the_exact_sum(dtype, update):
    params = np.linspace(-2, 2, 1_000_000).astype(np.float32).astype(dtype)
    new = np.asarray(landed(params, np.full(params.shape, update, np.float32)), np.float64)
    error = new - (np.asarray(params, np.float64) + np.float32(update))
    assert abs(error.mean()) <= 5 * error.std() / 1000


def test_small_updates_add_up():
    """A thousand updates of 1e-4, each far less than half a unit in the last place of 1."""
    optimizer = optax.chain(ewa_optax.gradient_descent(1e-4), ewa_optax.round_stochastically())
    start = jnp.ones(4096, jnp.bfloat16)

    def train(optimizer):
        def step(carry, _):
            updates, state = optimizer.update(-jnp.ones_like(start), carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        (params, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=1000))(start)
        return np.asarray(params, np.float64)

    assert abs(train(optimizer).mean() - 1.1) < 2e-3
    assert (train(ewa_optax.gradient_descent(1e-4)) == 1).all()


def test_wider_parameters_and_missing_updates_pass():
    params = {"half": jnp.ones(3, jnp.bfloat16), "full": jnp.ones(3), "none": jnp.ones(2), "absent": None}
    updates = {"half": jnp.full(3, 1e-4), "full": jnp.full(3, 1e-4), "none": None, "absent": None}
    piece = ewa_optax.round_stochastically()
    rounded, state = jax.jit(piece.update)(updates, piece.init(params), params)
    assert rounded["none"] is None
    assert rounded["half"].dtype == jnp.float32
    np.testing.assert_array_equal(rounded["full"], updates["full"])
    assert int(state.step) == 1


def test_seeds_steps_and_leaves_differ():
    params = {"a": jnp.ones(100_000, jnp.bfloat16), "b": jnp.ones(100_000, jnp.bfloat16)}
    updates = jax.tree.map(lambda p: jnp.full(p.shape, 2.0**-8), params)
    piece = ewa_optax.round_stochastically()
    first, state = piece.update(updates, piece.init(params), params)
    second, _ = piece.update(updates, state, params)
    other = landed(params, updates, seed=1)
    again = landed(params, updates)
    up = [np.asarray(x, float) for x in (first["a"], first["b"], second["a"], other["a"])]
    assert (np.abs(np.corrcoef(up)) - np.eye(4)).max() < 0.015
    np.testing.assert_array_equal(again["a"], optax.apply_updates(params, first)["a"])
