"""What `fit` and its kin do with numbers of every kind: 16 bits, NaN, complex, integers that JAX would wrap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ewa_optax
from ewa_optax import minibatch
from ewa_optax._fit.fit import _early
from ewa_optax._fit.result import Fitted, empty
from ewa_optax.minibatch._evaluation import validator

KEY = jax.random.key(0)
fit = functools.partial(ewa_optax.fit, key=KEY, progress=False)
STILL = ewa_optax.gradient_descent(0.0)


# Validation: means of parts, and patience.


def of_dtype(dtype):
    def loss(w, batch):
        return (w * batch.mean()).astype(dtype)

    return loss


def forms_of(x, folder):
    np.save(folder / "x.npy", x)
    return {"arrays": x, "mapped": np.load(folder / "x.npy", mmap_mode="r"), "iterable": Batches(x)}


class Batches:
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(np.split(self.x, range(2000, len(self.x), 2000)))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_a_validation_cost_is_no_sum_in_16_bits(dtype, tmp_path):
    """3000 times 144 is more than float16 holds; of 1 and 257, bfloat16 holds no mean."""
    x = np.repeat(np.float32([144, 288]), [2000, 1000])
    for form, data in forms_of(x, tmp_path).items():
        for size in (2000, 1000):
            np.testing.assert_equal(validator(of_dtype(dtype), data, size)(1.0), 192, err_msg=form)


def test_fit_takes_the_mean_for_what_it_is():
    x = np.full(550, 300, np.float32)
    run = fit(of_dtype(jnp.float16), STILL, jnp.ones(()), x, batch_size=300, epochs=1, validation=x)
    np.testing.assert_array_equal(run.history.validation_costs, [300])
    np.testing.assert_array_equal(run.best_params, 1)


@pytest.mark.parametrize("cost", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_patience_ends_a_run_whose_validation_cost_is_never_a_number(cost):
    def validation_loss(w, batch):
        return jnp.float16(cost) + 0 * w

    x = np.ones(8, np.float32)
    run = fit(
        of_dtype(jnp.float16), STILL, jnp.ones(()), x, batch_size=8, epochs=9, validation=x,
        validation_loss=validation_loss, patience=2,
    )  # fmt: skip
    assert (run.stopped, run.epoch) == ("early", 3)


def test_patience_counts_epochs_since_the_lowest_cost():
    rng = np.random.default_rng(0)
    for _ in range(500):
        costs = rng.choice([np.nan, np.inf, -np.inf, 0.0, 1.0, 2.0, 3.0], rng.integers(1, 9))
        patience, since, lowest = int(rng.integers(1, 5)), -1, None
        for cost in costs:  # By the words: one that is lower than all before, of which the first is.
            lower = lowest is None or cost < lowest or (np.isnan(lowest) and cost < np.inf)
            since, lowest = (0, cost) if lower else (since + 1, lowest)
        run = Fitted(None, None, empty()._replace(validation_costs=costs), len(costs), 0, None, None)
        assert (_early(run, patience).stopped == "early") == (since >= patience), (costs, patience)


# Complex parameters.

RNG = np.random.default_rng(1)
Z = (RNG.standard_normal((64, 2)) + 1j * RNG.standard_normal((64, 2))).astype(np.complex64)
TRUE = np.array([1 - 2j, 0.5j], np.complex64)
PAIRS = {"z": Z, "y": Z @ TRUE}


def distance(w, batch):
    return jnp.mean(jnp.abs(batch["z"] @ w - batch["y"]) ** 2)


def distance_of_parts(w, batch):
    return distance(jax.lax.complex(w["re"], w["im"]), batch)


@pytest.mark.parametrize(
    "make",
    [lambda: ewa_optax.momentum(0.05), pytest.param(lambda: optax.sgd(0.05), marks=pytest.mark.slow)],
    ids=["momentum", "optax"],
)
def test_complex_parameters_go_downhill_as_their_parts_do(make):
    """Of optimizers whose step is a sum of gradients."""
    zeros = jnp.zeros(2)
    train = dict(batch_size=16, epochs=20)
    parts = fit(distance_of_parts, make(), {"re": zeros, "im": zeros}, PAIRS, **train)
    for loop in ("scan", "python"):
        run = fit(distance, make(), jnp.zeros(2, jnp.complex64), PAIRS, loop=loop, **train)
        np.testing.assert_allclose(run.params, parts.params["re"] + 1j * parts.params["im"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(run.params, TRUE, atol=0.05)
        assert run.params.dtype == np.complex64
    pure = minibatch.train(distance, make(), jnp.zeros(2, jnp.complex64), PAIRS, key=KEY, **train)
    np.testing.assert_allclose(pure.params, run.params, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_complex_parameters_by_adam_in_stacks_with_checkpoints(tmp_path):
    params = {f"w{i:02}": jnp.zeros(2, jnp.complex64) for i in range(40)}

    def loss(w, batch):
        return distance(sum(w.values()), batch)

    train = dict(params=params, data=PAIRS, batch_size=64)
    optimizer = ewa_optax.adam(0.003, storage="bfloat16")
    whole = fit(loss, optimizer, epochs=40, **train)
    assert whole.history.costs[-1] < 0.1 * whole.history.costs[0]
    fit(loss, optimizer, epochs=20, checkpoint=tmp_path, **train)
    again = fit(loss, optimizer, epochs=40, checkpoint=tmp_path, **train)
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def test_a_batch_size_is_found_for_complex_parameters():
    found = minibatch.find_batch_size(
        distance, ewa_optax.momentum(0.02), jnp.zeros(2, jnp.complex64), PAIRS, key=KEY, batch_sizes=[16], seconds=0.05,
        progress=False,
    )  # fmt: skip
    assert found.trials[0].costs[-1] < found.trials[0].costs[0]


def test_integers_are_no_parameters():
    assert np.issubdtype(distance(np.zeros(2, int), PAIRS).dtype, np.floating)  # Which alone would be taken.
    for train in (minibatch.train, minibatch.find_batch_size, fit):
        sizes = {} if train is minibatch.find_batch_size else dict(batch_size=16, epochs=1)
        with pytest.raises(TypeError, match="params must be of floats or complex numbers, got int32; keep what is not"):
            train(distance, STILL, jnp.zeros(2, int), PAIRS, **{"key": KEY, **sizes})


# Integers.

FAR = [np.int64(-(2**31) - 1), np.uint64(2**40), np.uint64(2**32)]


@pytest.mark.parametrize("far", [np.int64(2**31), *(pytest.param(x, marks=pytest.mark.slow) for x in FAR)])
def test_integers_that_jax_would_wrap_are_an_error(far, tmp_path):
    x = np.array([0, 1, far, 3], far.dtype)

    def loss(w, batch):
        return w * batch.astype(jnp.float32).mean()

    for form, data in forms_of(x, tmp_path).items():
        sizes = {} if form == "iterable" else dict(batch_size=4)
        with pytest.raises(ValueError, match=rf"of numbers that u?int32 holds, got {far}; subtract"):
            fit(loss, STILL, jnp.ones(()), data, epochs=1, **sizes)
        with pytest.raises(ValueError, match=rf"got {far}; subtract"):
            fit(loss, STILL, jnp.ones(()), np.ones(4, np.int64), batch_size=4, epochs=1, validation=data)
    with pytest.raises(ValueError, match=f"data must be of .* got {far}; subtract"):
        minibatch.epoch(lambda carry, batch: (carry, None), 0, x, batch_size=2, key=KEY)


def test_integers_that_fit_are_data_of_64_bits_too():
    x = np.array([-(2**31), 2**31 - 1], np.int64)
    run = fit(lambda w, batch: w * batch.max().astype(float), STILL, jnp.ones(()), x, batch_size=2, epochs=1)
    np.testing.assert_allclose(run.history.costs, [2**31 - 1])
