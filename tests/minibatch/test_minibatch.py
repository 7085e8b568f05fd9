"""One shuffled pass over the data."""

import functools
import itertools

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ROUGHLY

import ewa_optax
from ewa_optax import minibatch
from ewa_optax.minibatch import _loops

roughly_compiled = functools.partial(jax.jit, compiler_options=ROUGHLY)
SIZES = [1, 2, 63, 64, 65, 1000, 4097]


def count_visits(visits, rows, mask=None):
    weights = jnp.ones(rows.shape[0]) if mask is None else mask
    return visits.at[rows].add(weights.astype(visits.dtype)), jnp.array([weights.sum(), rows[0]])


def visits_in(size, batch_size, **keywords):
    rows, zeros = jnp.arange(size), jnp.zeros(size, int)
    return minibatch.epoch(count_visits, zeros, rows, batch_size=batch_size, key=jax.random.key(1), **keywords)


REMAINDERS = ["keep", "drop", "mask"]
QUICK = [(1, "all", "keep"), (65, 1, "keep"), (65, "all", "mask"), (4097, "all", "drop")]
QUICK += [(4097, 64, remainder) for remainder in REMAINDERS]


@pytest.mark.parametrize(
    ("size", "batch_size", "remainder"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product(SIZES, [1, 2, 64, "all"], REMAINDERS)
    ],
)
def test_every_example_is_seen_once(size, batch_size, remainder):
    batch_size = size if batch_size == "all" else min(batch_size, size)
    visits, out = roughly_compiled(lambda: visits_in(size, batch_size, remainder=remainder))()
    whole, rest = divmod(size, batch_size)
    seen, sizes = np.ones(size), [batch_size] * whole + [rest] * (rest > 0)
    if remainder == "drop":
        left_over = minibatch.order(size, key=jax.random.key(1))[whole * batch_size :]
        seen[left_over], sizes = 0, sizes[:whole]
    np.testing.assert_array_equal(visits, seen)
    np.testing.assert_array_equal(out[:, 0], sizes)


MORE_LOOPS = [
    *itertools.product([(1000, 64, 1), (4096, 96, 8)], REMAINDERS),
    ((65, 2, 1), "keep"),
    ((65, 2, 1), "mask"),
]


@pytest.mark.parametrize(
    ("sizes", "remainder"),
    [
        ((65, 2, 1), "drop"),
        ((96, 28, 4), "keep"),
        ((96, 28, 4), "mask"),
        pytest.param((96, 28, 4), "drop", marks=pytest.mark.slow),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_LOOPS),
    ],
)
def test_every_loop_and_every_number_of_shards_sees_the_same(sizes, remainder):
    size, batch_size, shards = sizes
    keywords = dict(remainder=remainder, shards=shards)
    visits, out = visits_in(size, batch_size, loop="python", **keywords)
    expected, expected_out = roughly_compiled(lambda: visits_in(size, batch_size, loop="scan", **keywords))()
    np.testing.assert_array_equal(visits, expected)
    np.testing.assert_array_equal(out, expected_out)
    left_over = size % batch_size if remainder == "drop" else 0
    assert visits.max() == 1
    np.testing.assert_array_equal(visits.reshape(shards, -1).sum(axis=1), (size - left_over) // shards)


def test_each_batch_takes_its_share_of_every_shard():
    _, rows = minibatch.epoch(lambda c, b: (c, b), None, jnp.arange(96), batch_size=24, key=jax.random.key(0), shards=4)
    np.testing.assert_array_equal(rows.reshape(-1, 4, 6) // 24, np.broadcast_to(np.arange(4)[:, None], (4, 4, 6)))
    for s in range(4):
        part = minibatch.order(24, key=jax.random.fold_in(jax.random.key(0), s))[np.arange(24)]
        np.testing.assert_array_equal(rows.reshape(-1, 4, 6)[:, s].ravel() - 24 * s, part)


def test_a_masked_last_batch_is_a_kept_one():
    rng = np.random.default_rng(0)
    data = (rng.standard_normal((150, 3)).astype(np.float32), rng.standard_normal(150).astype(np.float32))
    optimizer = ewa_optax.adam(0.05)

    def step(carry, batch, mask=None):
        w, state = carry
        weights = jnp.ones(len(batch[1])) if mask is None else mask
        gradient = jax.grad(lambda w: jnp.sum(weights * (batch[0] @ w - batch[1]) ** 2) / weights.sum())(w)
        updates, state = optimizer.update(gradient, state, w)
        return (optax.apply_updates(w, updates), state), None

    carries = {"keep": (jnp.zeros(3), optimizer.init(jnp.zeros(3)))}
    carries["mask"] = carries["keep"]
    for epoch in range(3):
        for remainder, carry in carries.items():
            carries[remainder], _ = minibatch.epoch(
                step, carry, data, batch_size=64, key=jax.random.key(0), epoch=epoch, remainder=remainder
            )
    chex.assert_trees_all_close(carries["mask"], carries["keep"], rtol=1e-5)


@pytest.mark.parametrize("kind", ["permutation", "bijection"])
def test_it_follows_the_order_of_key_and_epoch(kind):
    keywords = dict(key=jax.random.key(3), epoch=5)
    _, batches = minibatch.epoch(lambda c, b: (c, b), None, jnp.arange(12), batch_size=4, order=kind, **keywords)
    np.testing.assert_array_equal(batches.ravel(), minibatch.order(12, kind=kind, **keywords)[np.arange(12)])


def test_keys_decide_the_order_and_nothing_else_does():
    def first_rows(key, data):
        return minibatch.epoch(count_visits, jnp.zeros(64, int), data, batch_size=8, key=key)[1]

    data = jnp.arange(64)
    np.testing.assert_array_equal(first_rows(jax.random.key(0), data), first_rows(jax.random.PRNGKey(0), data))
    assert not np.array_equal(first_rows(jax.random.key(0), data), first_rows(jax.random.key(1), data))


@pytest.mark.parametrize("container", [np.asarray, jnp.asarray])
def test_rows_of_all_leaves_stay_together(container):
    size = 10
    data = {"x": (container(np.arange(size * 3).reshape(size, 3)),), "y": container(np.arange(size)), "none": None}

    def step(carry, batch):
        return carry, jnp.all(batch["x"][0][:, 0] == 3 * batch["y"])

    _, together = minibatch.epoch(step, None, data, batch_size=4, key=jax.random.key(0))
    assert together.shape == (3,)
    assert np.all(together)


def test_a_second_epoch_compiles_nothing():
    @chex.assert_max_traces(n=2)  # Once for the whole mini-batches, once for the smaller last one.
    def step(carry, batch):
        return carry + batch.mean(), None

    carry = jnp.float32(0)
    for t in range(5):
        data = np.random.default_rng(t).standard_normal(10).astype(np.float32)
        carry, _ = minibatch.epoch(step, carry, data, batch_size=4, key=jax.random.key(t), epoch=t)


@pytest.mark.parametrize("loop", ["scan", "python"])
def test_what_is_given_is_left_as_it_is(loop):
    carry, data = (jnp.zeros(3), jnp.ones(())), jnp.ones((10, 3))
    step = lambda c, b: ((c[0] + b.sum(axis=0), c[1] * 2), None)  # noqa: E731
    first, _ = minibatch.epoch(step, carry, data, batch_size=4, key=jax.random.key(0), loop=loop)
    again, _ = minibatch.epoch(step, carry, data, batch_size=4, key=jax.random.key(0), loop=loop)
    chex.assert_trees_all_equal(first, again)
    np.testing.assert_array_equal(carry[0], 0)


def convolving(w, batch):
    return w - 1e-3 * jnp.convolve(batch.sum(axis=0), w, mode="same"), batch.mean()


def test_a_convolution_is_stepped_from_python_and_that_is_said_once(caplog):
    _loops._tell_once.cache_clear()
    data = jnp.ones((10, 5))
    for _ in range(2):
        w, out = minibatch.epoch(convolving, jnp.ones(5), data, batch_size=4, key=jax.random.key(0))
    (record,) = caplog.records
    assert "convolution" in record.message
    assert "steps run from Python" in record.message
    expected, expected_out = minibatch.epoch(
        convolving, jnp.ones(5), data, batch_size=4, key=jax.random.key(0), loop="scan"
    )
    np.testing.assert_allclose(w, expected, rtol=1e-5)
    np.testing.assert_allclose(out, expected_out, rtol=1e-5)


@pytest.mark.parametrize("wrap", [lambda f: jax.jit(f), lambda f: jax.vmap(f), lambda f: jax.jacfwd(f)])
def test_a_step_that_encloses_what_is_traced_is_compiled(wrap):
    data = jnp.ones((8, 5))

    def final(rates, loop):
        def step(w, batch):
            return w - rates.sum() * jnp.convolve(batch.sum(axis=0), w, mode="same"), None

        return minibatch.epoch(step, jnp.ones(5), data, batch_size=4, key=jax.random.key(0), loop=loop)[0]

    rates = jnp.full((3, 1), 1e-3)
    found = wrap(functools.partial(final, loop="auto"))(rates)
    expected = roughly_compiled(wrap(functools.partial(final, loop="scan")))(rates)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"can't run inside of jax.jit"):
        wrap(functools.partial(final, loop="python"))(rates)


def test_keys_may_be_stacked_by_every_loop():
    for loop in ("scan", "python"):
        _, keys = minibatch.epoch(
            lambda key, batch: (jax.random.split(key)[0], key), jax.random.key(0), jnp.arange(6), batch_size=4,
            key=jax.random.key(1), loop=loop,
        )  # fmt: skip
        assert keys.shape == (2,)


def test_a_convolution_under_jit_is_told_of_too(caplog):
    _loops._tell_once.cache_clear()
    jax.jit(lambda w, x: minibatch.epoch(convolving, w, x, batch_size=4, key=jax.random.key(0)))(
        jnp.ones(5), jnp.ones((12, 5))
    )
    assert "outside of jax.jit" in caplog.records[0].message


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: jnp.convolve(x, x), True),
        (jax.jit(lambda x: jnp.convolve(x, x)), True),
        (lambda x: jax.lax.cond(x[0] > 0, lambda x: jnp.convolve(x, x, "same"), lambda x: x, x), True),
        (lambda x: jax.lax.fori_loop(0, 2, lambda i, x: jnp.convolve(x, x, "same"), x), True),
        (jax.checkpoint(lambda x: jnp.convolve(x, x)), True),
        (jax.grad(lambda x: jnp.convolve(x, x).sum()), True),
        (lambda x: jax.nn.relu(x) @ x, False),
        (lambda x: jax.lax.scan(lambda c, y: (c + y, None), 0.0, x)[0], False),
    ],
)
def test_convolutions_are_found_wherever_they_are(function, expected):
    assert _loops.holds_convolution(jax.make_jaxpr(function)(jnp.ones(3))) is expected


def test_it_is_gradient_descent_on_each_mini_batch_in_turn():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 3)).astype(np.float32), rng.standard_normal(50).astype(np.float32)
    optimizer, key = ewa_optax.adam(0.05), jax.random.key(4)

    def loss(w, batch):
        return jnp.mean((batch[0] @ w - batch[1]) ** 2)

    def step(carry, batch):
        w, state = carry
        value, gradient = jax.value_and_grad(loss)(w, batch)
        updates, state = optimizer.update(gradient, state, w)
        return (optax.apply_updates(w, updates), state), value

    start = (jnp.zeros(3), optimizer.init(jnp.zeros(3)))
    (w, _), costs = minibatch.epoch(step, start, (x, y), batch_size=16, key=key)
    by_hand, expected, order = start, [], np.asarray(minibatch.order(50, key=key)[np.arange(50)])
    step = jax.jit(step)
    for rows in np.split(order, [16, 32, 48]):
        by_hand, value = step(by_hand, (x[rows], y[rows]))
        expected.append(value)
    np.testing.assert_allclose(costs, expected, rtol=1e-5)
    np.testing.assert_allclose(w, by_hand[0], rtol=1e-5)


def test_batch_gradient_descent_never_climbs_and_stochastic_does():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 2)).astype(np.float32)
    y = x @ np.array([1.0, -2.0], np.float32) + rng.standard_normal(40).astype(np.float32)

    def step(w, batch):
        value, gradient = jax.value_and_grad(lambda w: jnp.mean((batch[0] @ w - batch[1]) ** 2))(w)
        return w - 0.1 * gradient, value

    def costs(batch_size, epochs):
        w, history = jnp.zeros(2), []
        for t in range(epochs):
            w, out = minibatch.epoch(step, w, (x, y), batch_size=batch_size, key=jax.random.key(t))
            history.extend(np.asarray(out))
        return np.array(history)

    batch, stochastic = costs(40, 60), costs(1, 3)
    assert batch.shape == (60,)
    assert stochastic.shape == (120,)
    assert np.all(np.diff(batch) <= 1e-6)
    assert np.any(np.diff(stochastic) > 0.5)


@pytest.mark.parametrize(("examples", "steps"), [(5_000_000, 5000), (50_000_000, 50_000), (5_000_001, 5001)])
def test_an_epoch_takes_a_step_for_each_mini_batch_begun(examples, steps):
    data = jax.ShapeDtypeStruct((examples, 20), jnp.float32)
    _, out = jax.eval_shape(
        lambda data, key: minibatch.epoch(lambda c, b: (c, b.mean()), None, data, batch_size=1000, key=key),
        data,
        jax.random.key(0),
    )
    assert out.shape == (steps,)


def test_it_goes_under_jit_vmap_and_grad():
    data = np.arange(10, dtype=np.float32)

    def step(w, batch):
        return w * 0.9 + batch.mean(), None

    def final(w, key):
        return minibatch.epoch(step, w, data, batch_size=3, key=key)[0]

    keys = jax.random.split(jax.random.key(0), 4)
    together = jax.jit(jax.vmap(final))(np.arange(4, dtype=np.float32), keys)
    alone = [final(np.float32(i), key) for i, key in enumerate(keys)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.grad(final))(1.0, keys[0]), 0.9**4, rtol=1e-6)


def test_it_lowers_for_every_platform():
    def epoch(carry, data, key):
        return minibatch.epoch(count_visits, carry, data, batch_size=4, key=key)

    exported = jax.export.export(jax.jit(epoch), platforms=("cpu", "cuda", "rocm", "tpu"))(
        jnp.zeros(10, int), jnp.arange(10), jax.random.key(0)
    )
    assert exported.platforms == ("cpu", "cuda", "rocm", "tpu")
