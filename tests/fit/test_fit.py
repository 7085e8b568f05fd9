"""`fit`, and `minibatch.train` below it.

Tests that need no loss, optimizer or batch size of their own share these, and so the programs of steps.
"""

import functools
import os
import signal
import subprocess
import sys
import threading
import time

import chex
import equinox as eqx
import flax.linen as nn
import grain
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ROUGHLY

import ewa_optax
from ewa_optax import minibatch
from ewa_optax._fit import result
from ewa_optax.minibatch import _engines

KEY = jax.random.key(1)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((150, 3)).astype(np.float32)
DATA = {"x": X, "y": X @ np.array([1.0, -2.0, 0.5], np.float32)}
OPTIMIZER = ewa_optax.adam(0.05)
LOOPS = ["scan", "python"]
SAME_ORDER = pytest.mark.filterwarnings("ignore:data has the same order in each epoch")
roughly_compiled = functools.partial(jax.jit, compiler_options=ROUGHLY)  # What `fit` compiles itself is not.


def loss(w, batch):
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)


def masked_loss(w, batch, mask):
    return jnp.sum(mask * (batch["x"] @ w - batch["y"]) ** 2) / mask.sum()


def noisy_loss(w, batch, key):
    kept = jax.random.bernoulli(key, 0.5, batch["x"].shape)
    return jnp.mean(((batch["x"] * kept * 2) @ w - batch["y"]) ** 2)


def keyed_loss(w, batch, key):
    return loss(w, batch), {"key": jax.random.key_data(key), "mean": batch["y"].mean()}


def fit(loss=loss, optimizer=OPTIMIZER, data=DATA, **keywords):
    sizes = {} if minibatch_free(data) else {"batch_size": 64}
    return ewa_optax.fit(
        loss, optimizer, jnp.zeros(3), data, **{**sizes, "epochs": 3, "key": KEY, "progress": False, **keywords}
    )


def minibatch_free(data):
    return not isinstance(data, dict)


@jax.jit
def rows_of(epoch):
    return minibatch.order(150, key=KEY, epoch=epoch)[jnp.arange(150)]


def batches_of(epoch, size=64):
    """What an epoch must go through, from the public order."""
    rows = np.asarray(rows_of(epoch))
    return [jax.tree.map(lambda x, part=part: x[part], DATA) for part in np.split(rows, range(size, 150, size))]


@functools.partial(jax.jit, static_argnums=0)
def step_by_hand(optimizer, w, state, batch):
    cost, gradient = jax.value_and_grad(loss)(w, batch)
    updates, state = optimizer.update(gradient, state, w)
    return optax.apply_updates(w, updates), state, cost, ewa_optax.get_learning_rate(state)


@functools.lru_cache
def by_hand(epochs=3, optimizer=OPTIMIZER):
    """The loop that everybody writes."""
    w, costs, rates = jnp.zeros(3), [], []
    state = jax.jit(optimizer.init)(w)
    for epoch in range(epochs):
        for batch in batches_of(epoch):
            w, state, cost, rate = step_by_hand(optimizer, w, state, batch)
            costs.append(cost)
            rates.append(rate)
    return w, state, np.array(costs), np.array(rates)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    yield
    step_by_hand.clear_cache()


SCHEDULED = ewa_optax.adam(ewa_optax.schedule_inverse_time(0.1, 1.0, steps_per_epoch=3))


@pytest.mark.parametrize("loop", LOOPS)
def test_it_is_the_loop_by_hand(loop):
    run = fit(optimizer=SCHEDULED, loop=loop)
    w, state, costs, rates = by_hand(optimizer=SCHEDULED)
    np.testing.assert_allclose(run.params, w, rtol=1e-5)
    chex.assert_trees_all_close(run.opt_state, state, rtol=1e-5)
    np.testing.assert_allclose(run.history.costs, costs, rtol=1e-5)
    np.testing.assert_allclose(run.history.learning_rates, rates, rtol=1e-6)
    np.testing.assert_array_equal(run.history.examples, [64, 64, 22] * 3)
    means = np.average(costs.reshape(3, 3), axis=1, weights=[64, 64, 22])
    np.testing.assert_allclose(run.history.epoch_costs, means, rtol=1e-5)
    assert run.history.seconds.shape == (3,)
    assert (run.epoch, run.step, run.stopped, run.best_params) == (3, 0, "finished", None)


def test_both_loops_give_the_same_bits():
    chex.assert_trees_all_equal(fit(loop="scan").params, fit(loop="python").params)


def test_train_is_fit_without_python():
    run = fit(noisy_loss, has_key=True, batch_size=50)
    trained = roughly_compiled(
        lambda w: minibatch.train(noisy_loss, OPTIMIZER, w, DATA, batch_size=50, epochs=3, key=KEY, has_key=True)
    )(jnp.zeros(3))
    np.testing.assert_allclose(trained.params, run.params, rtol=1e-5)
    np.testing.assert_allclose(trained.costs.ravel(), run.history.costs, rtol=1e-5)
    np.testing.assert_allclose(trained.learning_rates.ravel(), run.history.learning_rates)
    chex.assert_trees_all_close(trained.opt_state, run.opt_state, rtol=1e-5)


def test_train_goes_on_where_it_ended():
    def train(w, state, epoch, epochs):
        keywords = dict(batch_size=64, key=KEY, opt_state=state, epoch=epoch, epochs=epochs)
        return minibatch.train(loss, OPTIMIZER, w, DATA, **keywords)

    part = roughly_compiled(functools.partial(train, epochs=1))
    whole, first = train(jnp.zeros(3), None, 0, 2), part(jnp.zeros(3), OPTIMIZER.init(jnp.zeros(3)), 0)
    second = part(first.params, first.opt_state, 1)
    np.testing.assert_allclose(second.params, whole.params, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate([first.costs, second.costs]), whole.costs, rtol=1e-6)


def test_train_is_differentiable():
    def final(log_rate):
        optimizer = ewa_optax.momentum(jnp.exp(log_rate))
        return minibatch.train(loss, optimizer, jnp.zeros(3), DATA, batch_size=64, epochs=2, key=KEY).costs[-1].mean()

    final_and_slope = roughly_compiled(jax.value_and_grad(final))
    (above, _), (below, _), (_, slope) = map(final_and_slope, np.float32([-3.0 + 1e-2, -3.0 - 1e-2, -3.0]))
    np.testing.assert_allclose(slope, (above - below) / 2e-2, rtol=1e-2)


def test_vmap_over_learning_rates_and_keys_is_as_many_runs_and_compiles_once():
    @chex.assert_max_traces(n=2)  # Vmapped and alone.
    def train(rate, key):
        return minibatch.train(loss, ewa_optax.adam(rate), jnp.zeros(3), DATA, batch_size=50, epochs=2, key=key)

    rates, keys = np.geomspace(1e-3, 1.0, 16, dtype=np.float32), jax.random.split(KEY, 16)
    together, single = roughly_compiled(jax.vmap(train)), roughly_compiled(train)
    for _ in range(2):
        runs = jax.device_get(together(rates, keys))
    for i in range(16):
        alone = single(rates[i], keys[i])
        np.testing.assert_allclose(runs.costs[i], alone.costs, rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(runs.params[i], alone.params, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("loop", LOOPS)
def test_remainders(loop):
    kept, masked = fit(loop=loop), fit(masked_loss, remainder="mask", loop=loop)
    np.testing.assert_allclose(masked.params, kept.params, rtol=1e-5)
    np.testing.assert_array_equal(masked.history.examples, kept.history.examples)
    np.testing.assert_array_equal(fit(remainder="drop", loop=loop).history.examples, [64, 64] * 3)


@pytest.mark.parametrize("loop", LOOPS)
def test_each_step_gets_a_key_of_its_own_and_aux_comes_back(loop):
    run, again = (fit(keyed_loss, has_aux=True, has_key=True, loop=loop) for _ in range(2))
    assert len(np.unique(run.history.aux["key"], axis=0)) == 9
    chex.assert_trees_all_equal(run.history.aux, again.history.aux)
    expected = [batch["y"].mean() for epoch in range(3) for batch in batches_of(epoch)]
    np.testing.assert_allclose(run.history.aux["mean"], expected, atol=1e-6)


def test_a_second_fit_compiles_nothing():
    @chex.assert_max_traces(n=2)  # Whole mini-batches, and the smaller last one.
    def traced(w, batch):
        return loss(w, batch)

    for seed in range(3):
        fit(traced, key=jax.random.key(seed))


def test_optimizers_of_optax_with_a_line_search_or_no_rate():
    plateau = optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau())
    history = fit(optimizer=plateau, batch_size=50).history
    assert history.learning_rates is None
    assert np.isfinite(history.costs).all()
    assert fit(optimizer=optax.lbfgs(), batch_size=150, epochs=8).history.costs[-1] < 1e-6


def equinox_model():
    params, static = eqx.partition(eqx.filter_jit(eqx.nn.MLP)(3, 1, 8, 1, key=KEY), eqx.is_inexact_array)
    return params, lambda p, x: jax.vmap(eqx.combine(p, static))(x)


def haiku_model():
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 1])(x)))
    return jax.jit(model.init)(KEY, X), model.apply


def linen_model():
    model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(1)])
    return jax.jit(model.init)(KEY, X), model.apply


def squares(apply):
    return lambda params, batch: jnp.mean((apply(params, batch["x"])[:, 0] - batch["y"]) ** 2)


@pytest.mark.parametrize(
    "make", [equinox_model, *(pytest.param(make, marks=pytest.mark.slow) for make in (haiku_model, linen_model))]
)
def test_models_of_other_libraries(make, tmp_path):
    start, apply = make()
    run = ewa_optax.fit(
        squares(apply), OPTIMIZER, start, DATA, batch_size=50, epochs=30, key=KEY, progress=False,
        checkpoint=tmp_path, checkpoint_every=1000,
    )  # fmt: skip
    assert run.history.epoch_costs[-1] < 0.3 * run.history.epoch_costs[0]
    assert jax.tree.structure(run.params) == jax.tree.structure(start)


def test_what_is_not_trained_in_a_model_of_equinox_is_told():
    model = eqx.filter_jit(eqx.nn.MLP)(3, 1, 8, 1, key=KEY)
    with pytest.raises(
        TypeError, match=r"params.activation must be of floats or complex numbers, got .*; keep what is not trained"
    ):
        ewa_optax.fit(squares(lambda m, x: jax.vmap(m)(x)), OPTIMIZER, model, DATA, batch_size=64, epochs=1, key=KEY)


def test_validation_early_stopping_and_the_best():
    shift = {"x": X, "y": DATA["y"] + RNG.standard_normal(150).astype(np.float32) * 3}
    keywords = dict(data=shift, optimizer=ewa_optax.adam(0.3), batch_size=50, epochs=200, validation=DATA, patience=4)
    run, again = fit(**keywords), fit(**{**keywords, "patience": None, "epochs": 30})
    costs = run.history.validation_costs
    assert run.stopped == "early"
    assert len(costs) - 1 - costs.argmin() == 4
    assert not any(len(costs[:e]) - 1 - costs[:e].argmin() >= 4 for e in range(1, len(costs)))
    np.testing.assert_allclose(loss(run.best_params, DATA), costs.min(), rtol=1e-5)
    np.testing.assert_array_equal(again.history.validation_costs[: len(costs)], costs)


@pytest.mark.parametrize("form", ["arrays", "mapped", "iterable"])
def test_validation_data_of_every_form_is_a_mean_over_examples(form, tmp_path):
    given = {
        "arrays": DATA,
        "mapped": mapped(tmp_path),
        "iterable": tuple_of([jax.tree.map(lambda x: x[:100], DATA), jax.tree.map(lambda x: x[100:], DATA)]),
    }[form]
    run = fit(validation=given, epochs=1)
    np.testing.assert_allclose(run.history.validation_costs, loss(run.params, DATA), rtol=1e-5)


def test_validation_of_a_loss_with_a_key_aux_and_mask():
    run = fit(noisy_loss, has_key=True, batch_size=50, validation=DATA, validation_loss=loss)
    np.testing.assert_allclose(run.history.validation_costs[-1], loss(run.params, DATA), rtol=1e-5)

    def both(w, batch, mask):
        return masked_loss(w, batch, mask), None

    run = fit(both, has_aux=True, remainder="mask", validation=DATA)
    np.testing.assert_allclose(run.history.validation_costs[-1], loss(run.params, DATA), rtol=1e-5)


def test_callbacks_lower_the_rate_by_hand_and_end_the_run():
    seen = []

    def halve(run):
        seen.append((run.epoch, run.step, len(run.history.epoch_costs)))
        return run._replace(opt_state=ewa_optax.rescale_learning_rate(run.opt_state, 0.5))

    def enough(run):
        return run._replace(stopped="enough") if run.epoch == 3 else None

    run = fit(callbacks=[halve, enough], epochs=10)
    np.testing.assert_allclose(run.history.learning_rates, np.repeat([0.05, 0.025, 0.0125], 3), rtol=1e-6)
    assert run.stopped == "enough"
    assert seen == [(1, 0, 1), (2, 0, 2), (3, 0, 3)]


def test_an_interrupt_ends_with_what_was_trained():
    def interrupt(run):
        if run.epoch == 2:
            raise KeyboardInterrupt

    run = fit(callbacks=[interrupt], epochs=10)
    assert run.stopped == "interrupted"
    np.testing.assert_allclose(run.params, by_hand(2)[0], rtol=1e-5)


@pytest.fixture
def interruptible():
    """A shell has what it starts in the background ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_compiled_loop_ends_with_what_was_trained(interruptible):
    """Sent by a thread, as by a terminal, while steps run."""
    begun = threading.Event()

    def send():
        if begun.wait(30):
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    run = fit(epochs=10**6, callbacks=[lambda run: begun.set()])
    thread.join()
    assert run.stopped == "interrupted"
    assert len(run.history.costs) == run.epoch * 3 + run.step
    assert np.isfinite(run.params).all()


# What is not finite.


def data_nan_at(bad_epoch, bad_step, nan="cost"):
    """Data on which `marked_loss` is NaN, or its gradient is, on the mini-batch of one step only."""
    bad = batches_of(bad_epoch)[bad_step]["x"]
    marks = dict(first=(bad[0] == X).all(1), size=np.full(150, len(bad)), cost=np.full(150, nan == "cost"))
    return {**DATA, **marks}


def marked_loss(w, batch):
    here = batch["first"][0] & (batch["size"][0] == len(batch["x"]))
    factor = jnp.where(here & ~batch["cost"][0], 0.0, 1.0) * (1 + 0 * w.sum())
    return jnp.where(here & batch["cost"][0], jnp.nan, loss(w, batch)) + jnp.sqrt(factor) - 1


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("nan", ["cost", "gradient"])
@pytest.mark.parametrize(
    ("epoch", "step"),
    [(0, 0), (1, 2), (2, 1), *(pytest.param(*at, marks=pytest.mark.slow) for at in ((0, 1), (2, 2)))],
)
def test_a_nan_ends_with_the_last_finite_state(epoch, step, nan, loop):
    with pytest.warns(
        RuntimeWarning, match=f"step {step} of epoch {epoch} .both from 0. gave .*before step {step}.*Lower"
    ):
        run = fit(marked_loss, data=data_nan_at(epoch, step, nan), loop=loop)
    assert (run.epoch, run.step, run.stopped) == (epoch, step, "not finite")
    assert len(run.history.costs) == 3 * epoch + step
    assert np.isfinite(run.history.costs).all()
    w, costs = by_hand(epoch + 1)[0], by_hand(epoch + 1)[2]
    np.testing.assert_allclose(run.history.costs, costs[: 3 * epoch + step], rtol=1e-4)
    assert np.isfinite(run.params).all()
    assert not np.allclose(run.params, w)


DIVERGING = ewa_optax.gradient_descent(1e6)


def test_a_divergence_ends_with_the_last_finite_state_of_all():
    with pytest.warns(RuntimeWarning, match="of epoch .* gave (a cost of|parameters or state)"):
        run = fit(optimizer=DIVERGING, batch_size=50, epochs=100)
    w = jnp.zeros(3)
    state = DIVERGING.init(w)
    for batch in [b for epoch in range(run.epoch + 1) for b in batches_of(epoch, 50)]:
        new, state, cost, _ = step_by_hand(DIVERGING, w, state, batch)
        if not (np.isfinite(cost) and np.isfinite(new).all()):
            break
        w = new
    np.testing.assert_allclose(run.params, w, rtol=1e-4)


def test_a_nan_in_an_iterable_ends_with_the_last_finite_state():
    batches = [batch for epoch in range(30) for batch in batches_of(epoch)]
    batches[50] = {**batches[50], "y": batches[50]["y"] * np.nan}
    with pytest.warns(RuntimeWarning, match="step 50 of epoch 0 .* gave a cost of nan"):
        run = fit(data=tuple_of(batches))
    assert run.step == 50
    assert len(run.history.costs) == 50
    np.testing.assert_allclose(run.params, fit(data=tuple_of(batches[:50]), epochs=1).params, rtol=1e-6)


# Data that does not fit.


class tuple_of:  # noqa: N801
    """An iterable that begins anew each time."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def mapped(folder):
    for name, value in DATA.items():
        np.save(folder / f"{name}.npy", value)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in DATA}


@pytest.mark.parametrize("shards", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_memory_mapped_arrays_are_as_others(shards, tmp_path):
    keywords = dict(batch_size=64, shards=shards)
    files, arrays = fit(data=mapped(tmp_path), **keywords), fit(**keywords)
    np.testing.assert_allclose(files.params, arrays.params, rtol=1e-6)
    np.testing.assert_allclose(files.history.costs, arrays.history.costs, rtol=1e-5)


def test_memory_mapped_arrays_are_not_read_whole(tmp_path):
    """Nor copied to the device: a run that a NaN ends at once takes up a small part of the file."""
    rows = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(50_000, 1000))
    script = """
import resource, sys, jax, jax.numpy as jnp, numpy as np, ewa_optax
def fit(x):
    return ewa_optax.fit(lambda w, x: jnp.mean(w / x), ewa_optax.momentum(0.1), jnp.zeros(1), x, batch_size=10,
                         epochs=1, key=jax.random.key(0), progress=False)
fit(np.lib.format.open_memmap(sys.argv[1] + ".small", mode="w+", dtype=np.float32, shape=(2000, 1000)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(fit(np.load(sys.argv[1], mmap_mode="r")).stopped)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "x.npy")]
    stopped, kilobytes = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\n")[:2]
    assert stopped == "not finite"
    assert int(kilobytes) * 1024 < rows.nbytes / 10


def test_any_iterable_of_batches():
    class Epochs:
        """Counts its epochs, so that each has its own order."""

        epoch = -1

        def __iter__(self):
            self.epoch += 1
            return iter(batches_of(self.epoch))

    run = fit(data=Epochs())
    expected = fit()
    np.testing.assert_allclose(run.params, expected.params, rtol=1e-6)
    np.testing.assert_array_equal(run.history.examples, expected.history.examples)
    np.testing.assert_allclose(run.history.epoch_costs, expected.history.epoch_costs, rtol=1e-5)
    assert run.epoch == 3


@SAME_ORDER
def test_a_grain_pipeline():
    source = [jax.tree.map(lambda x, i=i: x[i], DATA) for i in range(150)]
    pipeline = grain.MapDataset.source(source).shuffle(seed=3).batch(32).to_iter_dataset()
    run = fit(data=pipeline, epochs=40)
    np.testing.assert_allclose(run.params, [1.0, -2.0, 0.5], atol=0.05)
    np.testing.assert_array_equal(run.history.examples[:5], [32, 32, 32, 32, 22])


def test_keys_of_an_iterable_are_those_of_arrays():
    keywords = dict(has_aux=True, has_key=True, epochs=1)
    actual, expected = (fit(keyed_loss, data=data, **keywords).history.aux for data in (tuple_of(batches_of(0)), DATA))
    np.testing.assert_array_equal(actual["key"], expected["key"])
    np.testing.assert_allclose(actual["mean"], expected["mean"], rtol=1e-5)


@SAME_ORDER
def test_batches_of_another_library():
    batches = [jax.tree.map(Foreign, batch) for batch in batches_of(0)]
    run, expected = (fit(data=tuple_of(x), validation=tuple_of(x)) for x in (batches, batches_of(0)))
    chex.assert_trees_all_equal(run.params, expected.params)
    np.testing.assert_array_equal(run.history.validation_costs, expected.history.validation_costs)


def test_batches_may_be_made_in_the_same_memory():
    def batches():
        buffer = np.empty((8192, 64), np.float32)
        for value in range(12):
            buffer[:] = value
            yield buffer

    run = ewa_optax.fit(
        lambda w, x: (w.sum() + 0 * x.sum(), x.mean()), OPTIMIZER, jnp.zeros(1), batches(), epochs=1, key=KEY,
        has_aux=True, progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(run.history.aux, np.arange(12))


def test_a_context_of_jax_holds_for_every_source(tmp_path):
    with jax.enable_x64(True):
        data = jax.tree.map(lambda x: x.astype(np.float64), DATA)
        sources = [data, tuple_of([jax.tree.map(lambda x: x[:64], data)])]
        for source in sources:
            run = ewa_optax.fit(
                lambda w, batch: (loss(w, batch), batch["x"]), OPTIMIZER, np.zeros(3), source, epochs=1, key=KEY,
                has_aux=True, progress=False, **({"batch_size": 150} if source is data else {}),
            )  # fmt: skip
            assert run.history.aux.dtype == np.float64
            assert run.params.dtype == np.float64


def test_ctrl_c_ends_the_wait_for_a_batch(interruptible):
    def batches():
        yield from batches_of(0)
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
        time.sleep(30)

    began = time.monotonic()
    run = fit(data=batches(), epochs=1)
    assert time.monotonic() - began < 20
    assert run.stopped == "interrupted"


def loss_with_nothing(w, batch):
    return loss(w, batch) + batch["nothing"].sum()


@pytest.mark.parametrize("loop", ["scan", pytest.param("python", marks=pytest.mark.slow)])
def test_data_without_columns_has_steps_too(loop):
    data = {**DATA, "nothing": np.zeros((150, 0), np.float32)}
    run = fit(loss_with_nothing, data=data, loop=loop)
    np.testing.assert_allclose(run.params, by_hand()[0], rtol=1e-5)


# What is shown.


def test_progress_is_a_line_an_epoch_where_there_is_no_terminal(capsys):
    fit(progress=True, validation=DATA)
    out, err = capsys.readouterr()
    assert out == ""
    first, *_, last = err.strip().splitlines()
    assert first.startswith("epoch 1/3: cost ")
    assert "validation cost" in first
    assert "learning rate 0.05" in first
    assert last.startswith("finished after 3 epochs; the lowest validation cost was ")
    assert last.endswith(", after epoch 3")
    fit(progress=False)
    assert capsys.readouterr().err == ""


@SAME_ORDER
def test_the_steps_of_each_epoch_are_recorded():
    assert fit().history.steps.tolist() == [3, 3, 3]
    assert fit(data=tuple_of(batches_of(0)[:2])).history.steps.tolist() == [2, 2, 2]


def test_the_picture_of_a_history():
    run = fit(validation=DATA, epochs=4)
    ax = ewa_optax.plots.history(run.history)
    _, smooth, epochs, validation, best = ax.get_lines()
    np.testing.assert_allclose(smooth.get_xdata(), np.arange(1, 13) / 3)
    np.testing.assert_array_equal(epochs.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_array_equal(validation.get_ydata(), run.history.validation_costs)
    assert (best.get_xdata(), best.get_ydata()) == (4, run.history.validation_costs.min())
    cut = fit(callbacks=[interrupt_at_once], epochs=1).history
    assert ewa_optax.plots.history(cut).get_lines()[0].get_xdata()[-1] == 1
    with pytest.raises(ValueError, match="holds no steps"):
        ewa_optax.plots.history(result.empty())


def interrupt_at_once(run):
    raise KeyboardInterrupt


# Batch sizes.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1,), 1),
        ((2000,), 2000),
        ((2001,), 512),
        ((5_000_000,), 512),
        ((5_000_000, 1000, 512_000), 512),
        ((5_000_000, 1000, 511_999), 256),
        ((5_000_000, 1000, 64_000), 64),
        ((5_000_000, 1000, 3500), 2),
        ((1500, 1000, 1_000_000), 512),
        ((1500, 1000, 1_200_000), 512),
        ((1500, 1000, 1_500_000), 1500),
        ((5_000_000, 1000, 1000), 1),
    ],
)
def test_suggested_batch_sizes(arguments, expected):
    examples, example_bytes, memory_bytes = (*arguments, None, None)[:3]
    assert minibatch.suggest_batch_size(examples, example_bytes=example_bytes, memory_bytes=memory_bytes) == expected


def test_finding_a_batch_size():
    x = RNG.standard_normal((5000, 3)).astype(np.float32)
    data = {"x": x, "y": x @ np.array([1.0, -2.0, 0.5], np.float32)}
    found = minibatch.find_batch_size(
        loss,
        ewa_optax.gradient_descent(1e-3),
        jnp.zeros(3),
        data,
        key=KEY,
        batch_sizes=[1, 5000],
        seconds=0.2,
        progress=False,
    )
    assert found.best == 1  # Thousands of steps against hundreds.
    one, everything = found.trials
    assert one.steps > everything.steps
    assert one.cost < everything.cost
    for trial in found.trials:
        assert trial.seconds[0] == 0
        assert np.all(np.diff(trial.seconds) > 0)
        assert len(trial.seconds) == len(trial.costs) <= 12
        np.testing.assert_allclose(trial.costs[0], np.mean(data["y"] ** 2), rtol=0.2)
        assert trial.cost == trial.costs[-1]
    table = str(found).splitlines()
    assert len(table) == 3
    assert table[1].endswith("best")
    ax = ewa_optax.plots.batch_sizes(found)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["batch size 1 (best)", "batch size 5000"]


def test_batches_that_fill_the_memory_are_counted_right(tmp_path, monkeypatch):
    monkeypatch.setattr(_engines, "KEPT_BYTES", 1000)
    found = minibatch.find_batch_size(
        loss, OPTIMIZER, jnp.zeros(3), mapped(tmp_path), key=KEY, batch_sizes=[10], seconds=0.2, progress=False
    )
    taken = []
    monkeypatch.setattr(_engines.PythonLoop, "run", count_steps(_engines.PythonLoop.run, taken))
    again = minibatch.find_batch_size(
        loss, OPTIMIZER, jnp.zeros(3), mapped(tmp_path), key=KEY, batch_sizes=[10], seconds=0.2, progress=False
    )
    assert again.trials[0].steps == sum(taken[2:])  # The first two warm up.
    assert found.trials[0].steps > 0


def count_steps(run, taken):
    def counted(*arguments):
        carry, steps = run(*arguments)
        taken.append(len(steps.cost))
        return carry, steps

    return counted


def test_a_batch_size_that_diverges_is_not_the_best():
    found = minibatch.find_batch_size(
        keyed_loss, ewa_optax.gradient_descent(1e3), jnp.zeros(3), DATA, key=KEY, has_aux=True, has_key=True,
        batch_sizes=[1, 150], seconds=5.0, progress=False,
    )  # fmt: skip
    assert all(np.isnan(trial.cost) for trial in found.trials)
    assert found.best is None


# Errors.


class Foreign:
    """An array of another library."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)

    def __iter__(self):
        return iter(self.values)


def vector(w, batch):
    return (batch["x"] @ w - batch["y"]) ** 2


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        (dict(loss=vector), ValueError, r"loss must return a scalar, got shape \(64,\); average it"),
        (dict(loss=lambda w, b: 1), TypeError, "loss must return a real number, got int32"),
        (dict(loss=lambda w, b: (loss(w, b), 1)), TypeError, "got a tuple of 2; for .cost, aux. pass has_aux=True"),
        (dict(has_aux=True), TypeError, "with has_aux, loss must return .cost, aux., got"),
        (dict(batch_size=0), ValueError, "batch_size must be from 1 to 150, got 0"),
        (dict(batch_size=None), TypeError, "batch_size must be an integer, got None"),
        (dict(batch_size=151), ValueError, "batch_size must be from 1 to 150, got 151"),
        (dict(data={"x": X, "y": X[:9]}), ValueError, "differ in length"),
        (dict(data={"x": X[:0]}), ValueError, "data holds no examples"),
        (dict(data={"x": [1, 2]}), TypeError, r"data\['x'\]\[0\] must be an array of numbers, got int"),
        (dict(data=np.array([None] * 64)), TypeError, "data must be an array of numbers, got one of objects"),
        (dict(data=Foreign(X), batch_size=64), TypeError, "data must be an array of numbers, got Foreign; convert it"),
        (dict(loss=3), TypeError, "loss must be a function, got 3"),
        (dict(optimizer=optax.adam), TypeError, r"optimizer must be an optax.GradientTransformation.*adam\(1e-3\)"),
        (dict(callbacks=print), TypeError, "callbacks must be a sequence of functions.*put one in brackets"),
        (dict(opt_state=()), ValueError, "opt_state is of another optimizer or model"),
        (dict(checkpoint_every=0), ValueError, "checkpoint_every must be from 1"),
        (dict(checkpoint=__file__), ValueError, "checkpoint must be a folder, got the file"),
        (dict(validation_loss=loss), ValueError, "needs validation data"),
        (dict(data=tuple_of([]), remainder="mask"), ValueError, "remainder must be 'keep' for an iterable of batches"),
        (dict(data=tuple_of([]), loop="scan"), ValueError, "loop, of data that is not on the device, must be"),
        (dict(has_aux=True, loss=lambda w, b: (loss(w, b), b["y"])), ValueError, r"aux of shapes \[\(22,\), \(64,\)\]"),
        (dict(validation=DATA, validation_loss=vector), ValueError, r"loss must return a scalar, got shape \(64,\)"),
        (dict(validation=DATA, validation_loss=3), TypeError, "validation_loss must be a function, got 3"),
        (dict(has_aux=True, loss=lambda w, b: (loss(w, b), KEY)), TypeError, "aux must be of numbers, got key<fry>"),
        (dict(data=lambda: 0), TypeError, r"data, a function, must be one of the epoch, as in def data\(epoch\)"),
        (dict(data=lambda epoch: 0), TypeError, "must return an iterable of batches, got int for epoch 0"),
        (dict(data=[(X, X[:9])] * 9, batch_size=9), ValueError, "and 14 more.; cut .* no list or tuple"),
        (dict(key=3), TypeError, "key must be a jax.random key, got 3"),
        (dict(key=jax.random.split(KEY)), ValueError, "key must be one key"),
        (dict(epochs=0), ValueError, "epochs must be from 1"),
        (dict(epochs=1.5), TypeError, "epochs must be an integer, got 1.5"),
        (dict(patience=3), ValueError, "patience=3 needs validation data"),
        (dict(loss=noisy_loss, has_key=True, validation=DATA), ValueError, "pass it as validation_loss"),
        (dict(validation={"x": X, "y": X[:9]}), ValueError, "the leaves of validation differ in length"),
        (dict(callbacks=[lambda run: 1]), TypeError, "a callback must return None or a Fitted, got int"),
        (dict(data=iter([]), epochs=1), ValueError, "data gave no batch in epoch 0; pass an iterable that"),
        (dict(data=(b for b in batches_of(0))), ValueError, "epochs must be 1 for an iterator such as <gen.*got 3"),
        (dict(validation=iter(batches_of(0))), ValueError, "epochs must be 1 for an iterator such as <list.*got 3"),
        (dict(data=tuple_of([]), batch_size=64), ValueError, "batch_size must be None for an iterable"),
        (dict(data=tuple_of([{"x": X, "y": X[:9]}])), ValueError, "the leaves of a batch differ in length"),
    ],
)
def test_bad_calls(keywords, error, message):
    with pytest.raises(error, match=message):
        fit(**keywords)
