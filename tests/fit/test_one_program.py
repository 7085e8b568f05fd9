"""A learning rate is data, not program; and so are the bounds of several epochs, where nobody looks in between."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import EVERY
from runs import roughly_compiled

import ewa_optax
from ewa_optax import minibatch
from ewa_optax._shared_programs import shared

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((23, 3)).astype(np.float32)
DATA = (X, X @ np.float32([1, -2, 0.5]))
fit = functools.partial(ewa_optax.fit, data=DATA, batch_size=5, key=KEY, progress=False)


def loss(w, batch):
    return jnp.mean((batch[0] @ w["w"] + w["b"] - batch[1]) ** 2)


START = {"w": jnp.zeros(3), "b": jnp.zeros(())}


@pytest.fixture
def compilations():
    """How many programs were compiled since the last time that this was called."""
    count = [0]

    def listen(event, duration, **_):
        count[0] += event == "/jax/core/compile/backend_compile_duration"

    def since():
        found, count[0] = count[0], 0
        return found

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield since
    jax.monitoring.unregister_event_duration_listener(listen)


RATES = np.geomspace(1e-4, 0.03, 10).tolist()
FAMILIES = {
    "adam": ewa_optax.adam,
    "a decay": lambda rate: ewa_optax.adam(0.01, b1=1 - 10 * rate, b2=1 - rate, eps=rate),
    "a schedule": lambda rate: ewa_optax.momentum(ewa_optax.schedule_inverse_time(rate, rate, steps_per_epoch=5)),
    "a warm-up": lambda rate: ewa_optax.momentum(
        ewa_optax.schedule_cooldown(ewa_optax.schedule_warmup(rate, 3), 5, 9, rate / 2)
    ),
    "storage": lambda rate: ewa_optax.adamw(rate, weight_decay=rate, storage="bfloat16"),
    "optax": lambda rate: optax.chain(optax.clip_by_global_norm(100 * rate), optax.adamw(rate)),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "adam"]


@pytest.mark.parametrize("family", ["adam", *SLOW])
def test_ten_rates_are_one_compilation(family, compilations):
    make, found = FAMILIES[family], []
    trains = {
        "fit": lambda optimizer: fit(loss, optimizer, START, epochs=3).params,
        "python": lambda optimizer: fit(loss, optimizer, START, epochs=1, loop="python").params,
        "train": lambda optimizer: (
            minibatch.train(loss, optimizer, START, DATA, batch_size=5, epochs=3, key=KEY).params
        ),
    }
    for train in trains.values():
        train(make(RATES[0]))
        compilations()
        found.append([train(make(rate)) for rate in RATES])
        assert compilations() == 0
    of_fit, _, of_train = found
    for one, other in zip(of_fit, of_train, strict=True):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, other)
    assert len({float(x["b"]) for x in of_fit}) == 10


@pytest.mark.parametrize("loop", ["scan", pytest.param("python", marks=pytest.mark.slow)])
def test_each_rate_is_what_it_says(loop):
    """The history, and the path by hand."""
    for rate in (0.01, 0.02):
        run = fit(loss, ewa_optax.gradient_descent(rate), START, epochs=1, loop=loop)
        np.testing.assert_array_equal(run.history.learning_rates, np.float32(rate))
        w = {name: np.asarray(x, float) for name, x in START.items()}
        order = np.asarray(minibatch.order(23, key=KEY, epoch=0)[np.arange(23)])
        for rows in np.split(order, range(5, 23, 5)):
            error = X[rows] @ w["w"] + w["b"] - DATA[1][rows]
            w = {"w": w["w"] - 2 * rate * X[rows].T @ error / len(rows), "b": w["b"] - 2 * rate * error.mean()}
        np.testing.assert_allclose(run.params["w"], w["w"], rtol=1e-5)


def made(name, rate):
    return EVERY[name](rate)


def test_the_numbers_are_those_of_each_optimizer():
    """Of all of the family, to the last bit; and those of one name share."""
    gradients = jax.tree.map(lambda x: jnp.full_like(x, 0.3), START)
    optimizers = {(name, rate): made(name, rate) for name in EVERY for rate in (0.01, 0.3)}
    states = {name: optimizer.init(START) for name, optimizer in optimizers.items()}
    parts = {name: shared(x.update, gradients, states[name], START) for name, x in optimizers.items()}
    for name in EVERY:
        one, other = parts[name, 0.01], parts[name, 0.3]
        assert one is not None
        assert (one, hash(one)) == (other, hash(other))

    @roughly_compiled
    def updates(numbers):
        return {name: parts[name[0], 0.01](numbers[name], gradients, states[name], START)[0] for name in optimizers}

    @roughly_compiled
    def expected(gradients):
        return {name: x.update(gradients, states[name], START)[0] for name, x in optimizers.items()}

    found = updates({name: part.numbers for name, part in parts.items()})
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, expected(gradients))


def scaled(function):
    return optax.stateless_with_tree_map(lambda g, p: function(g))


def test_other_arithmetic_is_another_program():
    x = jnp.ones((4, 4))
    loop = jax.lax.fori_loop
    functions = [
        *(lambda g: g * 0.1, lambda g: g + 0.1, lambda g: 0.1 - g, lambda g: g.T * 0.1, lambda g: g**2, lambda g: g**3),
        *(lambda g: g.sum(0), lambda g: g.sum(1), lambda g: g[1], lambda g: g[2], lambda g: jnp.roll(g, 1)),
        *(lambda g: jnp.where(g > 0, g, 0.1), lambda g: jnp.where(g < 0, g, 0.1), lambda g: jnp.where(g < 0, 0.1, g)),
        *(lambda g: g.astype(jnp.float16) * 0.1, lambda g: g.astype(jnp.bfloat16) * 0.1, lambda g: jnp.roll(g, 2)),
        lambda g: loop(0, 3, lambda i, g: g * 0.1, g),
        lambda g: loop(0, 4, lambda i, g: g * 0.1, g),
        lambda g: loop(0, 3, lambda i, g: g * 0.2, g),  # What is in loops stays where it is.
    ]
    kinds = [scaled(function) for function in functions]
    parts = [shared(kind.update, x, optax.EmptyState(), x) for kind in kinds]
    assert None not in parts
    assert len({*parts}) == len(kinds)
    assert shared(scaled(lambda g: g * 0.7).update, x, optax.EmptyState(), x) == parts[0]
    assert shared(scaled(lambda g: g * 0.7).update, x[:2], optax.EmptyState(), x[:2]) != parts[0]


def test_what_is_traced_or_prints_is_not_shared():
    x = jnp.ones(3)

    def printing(g):
        jax.debug.print("{}", g[0])
        return g

    assert shared(scaled(printing).update, x, optax.EmptyState(), x) is None

    @jax.vmap
    def final(rate):
        return minibatch.train(loss, ewa_optax.adam(rate), START, DATA, batch_size=5, epochs=1, key=KEY).params["b"]

    rates = jnp.array([0.01, 0.03])
    apart = [fit(loss, ewa_optax.adam(rate), START, epochs=1).params["b"] for rate in rates.tolist()]
    np.testing.assert_allclose(final(rates), apart, rtol=1e-5)


def test_of_what_is_traced_nothing_is_kept():
    """By `train`, which compiles for itself only where nobody else does."""

    def final(scale):
        def scaled_loss(w, batch):
            return scale * loss(w, batch)

        trained = minibatch.train(scaled_loss, ewa_optax.adam(0.01), START, DATA, batch_size=5, epochs=1, key=KEY)
        return trained.params["b"]

    with jax.checking_leaks():
        alone = jax.jit(final)(2.0)
        np.testing.assert_allclose(jax.vmap(final)(jnp.array([1.0, 2.0]))[1], alone, rtol=1e-5)
        assert np.isfinite(jax.grad(final)(2.0))


# Several epochs in one program.


def test_epochs_that_nobody_looks_at_are_those_that_one_looks_at():
    seen = []
    looked_at = fit(loss, ewa_optax.adam(0.01), START, epochs=40, callbacks=[lambda run: seen.append(run.epoch)])
    alone = fit(loss, ewa_optax.adam(0.01), START, epochs=40)
    assert seen == list(range(1, 41))
    assert (alone.epoch, alone.step, alone.stopped) == (40, 0, "finished")
    for name in ("costs", "learning_rates", "examples", "steps", "epoch_costs"):
        ours, theirs = getattr(alone.history, name), getattr(looked_at.history, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, err_msg=name)
    assert alone.history.seconds.shape == (40,)
    np.testing.assert_allclose(alone.params["w"], looked_at.params["w"], rtol=1e-5)


def test_a_stretch_of_epochs_is_one_call(monkeypatch):
    runs = []

    def counted(self, carry, epoch, start, stop, run=minibatch._engines.CompiledLoop.run):
        runs.append(stop - start)
        return run(self, carry, epoch, start, stop)

    monkeypatch.setattr(minibatch._engines.CompiledLoop, "run", counted)
    fit(loss, ewa_optax.adam(0.01), START, epochs=200)
    assert sum(runs) == 1000
    assert len(runs) < 20


@pytest.mark.parametrize("bad", [0, 3, 4, 117, 120])
def test_a_bad_step_in_a_later_epoch_ends_with_the_last_finite_state(bad):
    """From a learning rate that is no number at one step: the parameters stop being finite there."""

    def rate(count):
        return jnp.where(count.astype(jnp.float32) == float(bad), jnp.nan, 0.01)

    with pytest.warns(RuntimeWarning, match=f"since step {bad % 5} of epoch {bad // 5} .both from 0. gave") as told:
        run = fit(loss, optax.sgd(rate), START, epochs=50)
    assert len(told) == 1
    assert (run.epoch, run.step, run.stopped) == (bad // 5, bad % 5, "not finite")
    assert len(run.history.costs) == bad
    assert len(run.history.epoch_costs) == bad // 5
    assert np.isfinite(run.params["w"]).all()
    if bad % 5 == 0 and bad:
        expected = fit(loss, optax.sgd(0.01), START, epochs=bad // 5)
        np.testing.assert_allclose(run.params["w"], expected.params["w"], rtol=1e-5)
