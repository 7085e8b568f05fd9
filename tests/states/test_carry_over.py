"""A training that is taken over goes on as it would have: from optax and back, between storages, stacked or not."""

import functools
import inspect

import cases
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import EVERY
from helpers import ROUGHLY
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import ewa_optax
from ewa_optax import pieces, storage

SHAPES = {"a": (8, 10), "b": (5,), "c": (10, 8)}
BEFORE, AFTER = 7, 20
MASK = {"a": True, "b": False, "c": True}
BY = {"a": "one", "b": "other", "c": "one"}
RATE = optax.exponential_decay(0.1, 10, 0.5)


def normal(seed, steps=()):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=(*steps, *shape)), jnp.float32) for name, shape in SHAPES.items()}


PARAMS, GRADIENTS = normal(0), normal(1, (BEFORE + AFTER,))
EARLY, LATE = (jax.tree.map(lambda g, part=part: g[part], GRADIENTS) for part in (slice(BEFORE), slice(BEFORE, None)))


def run(optimizer, state, gradients, params=PARAMS):
    """The state and all updates."""

    @functools.partial(jax.jit, compiler_options=ROUGHLY)
    def steps(state, gradients, params):
        def step(carry, gradients):
            state, params = carry
            updates, state = optimizer.update(gradients, state, params)
            return (state, params), updates

        (state, _), updates = jax.lax.scan(step, (state, params), gradients)
        return state, updates

    return steps(state, gradients, params)


def kinds(tree):
    return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


def yogi_of_optax():
    """With the correction that optax has, and whose averages begin at 0 here, and where they are there from then on."""
    second = optax.chain(pieces.scale_by_additive_ewa(0.99), pieces.bias_correct(0.99))
    first = optax.chain(pieces.scale_by_ewa(0.9), pieces.bias_correct(0.9))
    return pieces.optimizer(pieces.scale_by_rms(second, 1e-3, numerator=first), pieces.scale_by_learning_rate(0.1))


TWINS = {case.name: (case.twin, case.optimizer) for case in cases.FULL + cases.FAMILY if case.twin}
del TWINS["gradient_descent"]  # Which learns nothing.
HERE, THERE = ewa_optax.adamw, optax.adamw
PAIRS = TWINS | {
    "yogi": (lambda: optax.yogi(0.1, 0.9, 0.99, 1e-3), yogi_of_optax),
    "momentum_as_sgd": (lambda: optax.sgd(0.1, momentum=0.9), lambda: ewa_optax.momentum(1.0)),
    "lars": (lambda: optax.lars(RATE, 0.0, momentum=0.9), lambda: ewa_optax.lars(RATE, momentum=0.9)),
    "novograd": (lambda: optax.novograd(0.1, 0.9, 0.5, 1e-6), lambda: ewa_optax.novograd(0.1, 0.9, 0.5, 1e-6)),
    "rmsprop_momentum": (
        lambda: optax.rmsprop(0.1, 0.95, 1e-8, momentum=0.8),
        lambda: ewa_optax.rmsprop_momentum(0.1, 0.95, 0.0, 1e-8, momentum=0.8),
    ),
    # Where 1 - b2 is b2, they weigh differences alike.
    "adan": (
        lambda: optax.adan(0.1, 0.98, 0.5, 0.99, 1e-8, 1e-3, weight_decay=0.0),
        lambda: ewa_optax.adan(0.1, 0.98, 0.5, 0.99, 1e-8, 1e-3),
    ),
    "scheduled_and_masked_decay": (lambda: THERE(RATE, mask=MASK), lambda: HERE(RATE, mask=MASK)),
}
WRAPPERS = {
    "chain": lambda of: optax.chain(optax.clip_by_global_norm(1.0), of(RATE)),
    "masked": lambda of: optax.masked(of(RATE), MASK),
    "partition": lambda of: optax.partition({"one": of(RATE), "other": of(0.1)}, BY),
    "MultiSteps": lambda of: optax.MultiSteps(of(RATE), 3),
    "inject_hyperparams": lambda of: optax.inject_hyperparams(of)(RATE, b1=0.8),
    "apply_if_finite": lambda of: optax.apply_if_finite(of(RATE), 3),
    "all": lambda of: optax.MultiSteps(
        optax.partition({"one": optax.masked(of(RATE), MASK), "other": optax.apply_if_finite(of(0.1), 3)}, BY), 3
    ),
}
PAIRS |= {name: (functools.partial(wrap, THERE), functools.partial(wrap, HERE)) for name, wrap in WRAPPERS.items()}
QUICK = {"adamw", "heavy_ball", "adamax", "rmsprop_centered", "adafactor", "MultiSteps"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PAIRS]
)
def test_goes_on_from_optax_and_back(name):
    there, here = (make() for make in PAIRS[name])
    state, _ = run(there, there.init(PARAMS), EARLY)
    _, expected = run(there, state, LATE)
    mine = ewa_optax.carry_over(state, here, PARAMS)
    assert kinds(mine) == kinds(here.init(PARAMS))
    _, actual = run(here, mine, LATE)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5 * np.abs(e).max())
    back = ewa_optax.carry_over(mine, there, PARAMS)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for a, e in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "kept",
    [
        None,
        *(
            pytest.param(x, marks=pytest.mark.slow)
            for x in (storage.BFloat16(min_size=0), storage.EightBit(min_size=0))
        ),
    ],
)
def test_a_training_that_switches_in_the_middle_has_the_losses_of_optax(kept):
    rng = np.random.default_rng(0)
    target = jnp.asarray(rng.normal(size=(32, 16)), jnp.float32)
    inputs = jnp.asarray(rng.normal(size=(3, 1000, 8, 32)), jnp.float32)
    noise = jnp.asarray(rng.normal(size=(3, 1000, 8, 16)), jnp.float32)

    def losses_of(optimizer, state, w, inputs, noise):
        def loss(w, x, e):
            return jnp.mean((jnp.tanh(x @ w) - x @ target / 8 - e) ** 2)

        def step(carry, batch):
            w, state = carry
            cost, gradient = jax.value_and_grad(loss)(w, *batch)
            updates, state = optimizer.update(gradient, state, w)
            return (optax.apply_updates(w, updates), state), cost

        (w, state), costs = jax.lax.scan(step, (w, state), (inputs, noise))
        return w, state, costs

    def half(optimizer, state, w, part):
        of_seeds = jax.jit(jax.vmap(functools.partial(losses_of, optimizer)))
        return of_seeds(state, w, inputs[:, part], noise[:, part])

    there, w = optax.adamw(3e-3), jnp.zeros((3, 32, 16))
    w, state, _ = half(there, jax.vmap(there.init)(w), w, slice(500))
    _, _, expected = half(there, state, w, slice(500, None))
    here = ewa_optax.adamw(3e-3, storage=kept)
    mine = jax.vmap(lambda state, w: ewa_optax.carry_over(state, here, w))(state, w)
    _, _, actual = half(here, mine, w, slice(500, None))
    if kept is None:
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
    else:
        assert np.all(np.abs(np.mean(actual - expected, axis=1)) < np.ptp(np.mean(expected, axis=1)))


NUMBERS = jnp.asarray(np.random.default_rng(2).uniform(0.5, 1.0, (64, 96)) ** 4, jnp.float32)


def learned(kept=None, params=NUMBERS):
    optimizer = ewa_optax.adamw(1e-3, storage=kept)
    return optimizer.update(params, optimizer.init(params), params)[1]


@pytest.mark.parametrize("kept", ["bfloat16", "8bit"])
def test_what_is_rounded_is_in_the_mean_what_it_was(kept):
    optimizer, exact = ewa_optax.adamw(1e-3, storage=kept), NUMBERS
    state, before = learned(), []
    for chosen in (kept, storage.EightBit(block=32)):
        optimizer = ewa_optax.adamw(1e-3, storage=chosen)
        state = ewa_optax.carry_over(state, optimizer, NUMBERS)
        read = pieces.read_average(state[1].numerator.average, storage.first_moment(chosen))
        errors = np.asarray(read - exact) / np.asarray(exact)
        assert np.abs(errors).max() > 1e-4
        before.append(errors)
        assert abs(errors.mean()) < 5 * errors.std() / np.sqrt(errors.size)
        read = pieces.read_average(state[1].second_moment.average, storage.second_moment(chosen))
        errors = np.asarray(read / exact**2) - 1
        assert abs(errors.mean()) < 5 * errors.std() / np.sqrt(errors.size)
    # The second rounding is of rounded numbers, by another chance.
    correlation = np.corrcoef(before[0].ravel(), (before[1] - before[0]).ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(NUMBERS.size)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("8bit", None),
        ("float16", "24bit"),
        (storage.EightBit(block=48), "float16"),
        ("24bit", storage.EightBit(block=24, min_size=0)),
        ((None, storage.Factored()), None),
    ],
)
def test_storages_into_each_other(first, second):
    old, new = learned(first), ewa_optax.adamw(1e-3, storage=second)
    state = ewa_optax.carry_over(old, new, NUMBERS)
    assert kinds(state) == kinds(new.init(NUMBERS))
    for i, of in enumerate((storage.first_moment, storage.second_moment)):
        was, now = (pieces.read_average(s[1][i].average, of(kept)) for s, kept in ((old, first), (state, second)))
        np.testing.assert_allclose(now, was, rtol=0.15)


KEPT = storage.BFloat16(min_size=0)
STORED = [name for name, make in EVERY.items() if "storage" in inspect.signature(make).parameters]


@pytest.mark.parametrize("name", STORED)
def test_every_optimizer_changes_its_storage_in_stacks_too(name):
    """By structure, which needs no program."""
    rate = {} if name == "adadelta" else dict(learning_rate=0.1)
    plain, kept = EVERY[name](**rate), EVERY[name](**rate, storage=KEPT)
    stacked = ewa_optax.stack_leaves(PARAMS)
    wanted = jax.eval_shape(kept.init, stacked)
    there = jax.eval_shape(lambda s: ewa_optax.carry_over(s, kept, stacked), jax.eval_shape(plain.init, PARAMS))
    assert kinds(there) == kinds(wanted)
    back = jax.eval_shape(lambda s: ewa_optax.carry_over(s, plain, PARAMS), there)
    assert kinds(back) == kinds(jax.eval_shape(plain.init, PARAMS))


def test_nothing_learned_is_nothing_taken_over():
    there, here = optax.adamw(RATE), ewa_optax.adamw(RATE)
    first = ewa_optax.carry_over(there.init(PARAMS), here, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, first, here.init(PARAMS))
    jax.tree.map(np.testing.assert_array_equal, ewa_optax.carry_over(first, there, PARAMS), there.init(PARAMS))


def test_averages_of_parameters_and_recursions_of_ones_own_go_along():
    def summed(kept, update, step):
        return kept + update, update

    def chain(of, kept):
        mine = pieces.optimizer(pieces.recursion(summed, kept), pieces.scale_by_learning_rate(0.1))
        return optax.chain(of(RATE), mine, ewa_optax.average_parameters(0.9, storage=kept))

    old = chain(ewa_optax.adam, None)
    _, state = old.update(NUMBERS, old.init(NUMBERS), NUMBERS)
    with pytest.raises(ValueError, match="RecursionState"):
        ewa_optax.carry_over(state, ewa_optax.adam(RATE), NUMBERS)
    new = chain(ewa_optax.adam, "24bit")
    mine = ewa_optax.carry_over(state, new, NUMBERS)
    assert jax.tree.structure(mine) == jax.tree.structure(new.init(NUMBERS))
    np.testing.assert_allclose(ewa_optax.get_average(mine), ewa_optax.get_average(state), rtol=1e-4)
    kept = pieces.read_average(mine[1][1].kept, "24bit")
    np.testing.assert_allclose(kept, state[1][1].kept, rtol=1e-4)


def test_stacked_and_not_without_a_change():
    params = {f"layer {i}": {"w": jnp.full((64, 64), 1.0 + i), "b": jnp.ones(3, jnp.bfloat16)} for i in range(3)}
    stacked = ewa_optax.stack_leaves(params)
    optimizer = ewa_optax.adam(1e-3, storage="8bit")
    _, state = optimizer.update(params, optimizer.init(params))
    there = ewa_optax.carry_over(state, optimizer, stacked)
    assert jax.tree.structure(there) == jax.tree.structure(optimizer.init(stacked))
    back = ewa_optax.carry_over(there, optimizer, params)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)
    of_optax = ewa_optax.carry_over(there, optax.adam(1e-3), params)
    assert kinds(of_optax) == kinds(optax.adam(1e-3).init(params))
    from_optax = ewa_optax.carry_over(of_optax, optimizer, stacked)
    assert kinds(from_optax) == kinds(there)


def test_complex_leaves_and_leaves_of_none():
    params = {"a": jnp.full((64, 64), 1 + 2j), "b": None}
    there, here = optax.adam(1e-3), ewa_optax.adam(1e-3, storage="24bit")
    _, state = there.update(params, there.init(params))
    mine = ewa_optax.carry_over(state, here, params)
    assert kinds(mine) == kinds(here.init(params))
    m = pieces.read_average(mine[1].numerator.average, storage.first_moment("24bit"))["a"]
    np.testing.assert_allclose(m[0] + 1j * m[1], 0.1 * params["a"], rtol=1e-4)


@pytest.mark.parametrize("kept", [None, "8bit"])
def test_averages_stay_where_the_parameters_are(kept):
    mesh = Mesh(np.array(jax.devices()), ("x",))
    params = {"w": jax.device_put(jnp.ones((64, 1024)), NamedSharding(mesh, PartitionSpec("x")))}
    there, here = optax.adamw(1e-3), ewa_optax.adamw(1e-3, storage=kept)
    state = there.init(params)
    on_one = jax.tree.map(np.asarray, state)
    expected = jax.tree.map(lambda x: x.sharding, here.init(params))
    for given in (state, on_one):
        mine = ewa_optax.carry_over(given, here, params)
        for x, sharding in zip(jax.tree.leaves(mine[1]), jax.tree.leaves(expected[1]), strict=True):
            assert x.ndim == 0 or x.sharding.is_equivalent_to(sharding, x.ndim), (x.sharding, sharding)
    stacked = ewa_optax.carry_over(mine, here, ewa_optax.stack_leaves(params))
    for x in jax.tree.leaves(stacked[1]):
        assert x.ndim == 0 or x.sharding.shard_shape(x.shape)[1] == x.shape[1] // 8


def test_rates_and_their_factor_are_taken_over():
    here = ewa_optax.adamw(RATE)
    state, _ = run(here, here.init(PARAMS), EARLY)
    state = ewa_optax.rescale_learning_rate(state, 0.5)
    other = ewa_optax.carry_over(state, ewa_optax.adamw(RATE, storage="8bit"), PARAMS)
    assert (other[-1].factor, other[-1].step, other[-1].learning_rate) == (0.5, BEFORE, RATE(BEFORE - 1))
    of_optax, _ = run(there := optax.adamw(RATE), there.init(PARAMS), EARLY)
    rate = ewa_optax.get_learning_rate(ewa_optax.carry_over(of_optax, here, PARAMS))
    np.testing.assert_allclose(rate, RATE(BEFORE - 1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"\[3\].factor.*must be 1.*got 0.5"):
        ewa_optax.carry_over(state, there, PARAMS)


def test_a_decay_may_be_traced():
    state = optax.adamw(1e-3).update(PARAMS, optax.adamw(1e-3).init(PARAMS), PARAMS)[1]

    mine = ewa_optax.carry_over(state, ewa_optax.adamw(1e-3), PARAMS)

    def there_and_back(b2):
        average = ewa_optax.carry_over(state, ewa_optax.adamw(1e-3, b2=b2), PARAMS)[1].second_moment.average
        return average, ewa_optax.carry_over(mine, optax.adamw(1e-3, b2=b2), PARAMS)[0].nu

    average, back = jax.jit(jax.vmap(there_and_back))(jnp.array([0.99, 0.999]))
    np.testing.assert_allclose(average["b"], np.array([[0.1], [1.0]]) * np.asarray(PARAMS["b"]) ** 2, rtol=1e-4)
    np.testing.assert_allclose(back["b"], np.array([[0.01], [0.001]]) * np.asarray(PARAMS["b"]) ** 2, rtol=1e-4)


ADAM = optax.adam(1e-3).init(PARAMS)


@pytest.mark.parametrize(
    ("state", "optimizer", "params", "message"),
    [
        (ADAM, ewa_optax.heavy_ball(0.1), PARAMS, r"\[0\].nu, an average of squares .*found no place"),
        (ADAM, ewa_optax.ademamix(0.1), PARAMS, r"keeps an average of gradients at \[1\].numerator.*only 1"),
        (ADAM, ewa_optax.adam(1e-3), PARAMS | {"c": jnp.ones((8, 10))}, r"\['c'\] is an array of shape \(10, 8\)"),
        (ADAM, ewa_optax.adam(1e-3), {"a": PARAMS["a"]}, r"\['b'\], and 1 more arrays, found no place"),
        (ADAM, ewa_optax.adam(1e-3), PARAMS | {"d": jnp.ones(2)}, r"\['d'\] is missing"),
        (ADAM, optax.MultiSteps(ewa_optax.adam(1e-3), 2), PARAMS, "tuple, but the optimizer has MultiStepsState"),
        (
            optax.partition({"one": optax.adam(1.0), "other": optax.sgd(1.0)}, BY).init(PARAMS),
            optax.partition(
                {"one": ewa_optax.adam(1.0), "two": optax.sgd(1.0)}, lambda p: jax.tree.map(lambda x: "one", p)
            ),
            PARAMS,
            "inner_states has .*'other'.*'two'.*same labels",
        ),
        (
            optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9).init(PARAMS),
            optax.inject_hyperparams(ewa_optax.heavy_ball)(0.1),
            PARAMS,
            r"hyperparams\['momentum'\] found no place",
        ),
        (
            (
                optax.EmptyState(),
                optax.ScaleByAdamState(*(jnp.int32(3), {}, {})),
                optax.ScaleByScheduleState(jnp.int32(4)),
            ),
            ewa_optax.adam(1e-3),
            {},
            None,
        ),
    ],
)
def test_what_does_not_fit_is_named(state, optimizer, params, message):
    if message is None:
        assert ewa_optax.carry_over(state, optimizer, params)[-1][0].step == 4
        return
    with pytest.raises(ValueError, match=message):
        ewa_optax.carry_over(state, optimizer, params)


def test_what_is_no_optimizer_or_can_not_be_told():
    with pytest.raises(TypeError, match="optimizer must be a transformation, got 3"):
        ewa_optax.carry_over(ADAM, 3, PARAMS)
    odd = jnp.ones((64, 257))
    with pytest.raises(ValueError, match=r"int8\[64, 257\].*by none of the storages.*that it was made with"):
        ewa_optax.carry_over(learned(storage.EightBit(block=50), odd), ewa_optax.adamw(1e-3), odd)


@pytest.mark.parametrize("done", [2, 4])
def test_micro_batches_of_optax_and_back(done):
    """In the middle of a step and behind its end: the steps that optax goes on to make."""
    params = {"w": jnp.ones((64, 64)), "b": jnp.ones(3)}
    old = optax.MultiSteps(optax.adam(0.1), 3)
    new = ewa_optax.accumulate(ewa_optax.adam(0.1), 3)

    def steps(optimizer, state, first, last):
        for i in range(first, last):
            updates, state = optimizer.update(jax.tree.map(lambda p, i=i: p * np.float32(np.sin(i)), params), state)
        return updates, state

    state = steps(old, old.init(params), 0, done)[1]
    expected, there = steps(old, state, done, 6)
    updates, state = steps(new, ewa_optax.carry_over(state, new, params), done, 6)
    chex.assert_trees_all_close(updates, expected, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(ewa_optax.carry_over(state, old, params), there, rtol=1e-5, atol=1e-7)
    small = ewa_optax.accumulate(ewa_optax.adam(0.1, storage="8bit"), 3, storage="8bit")
    assert ewa_optax.carry_over(state, small, params).mean.arrays[0]["w"].dtype == jnp.int8
    weighted = state._replace(weight=state.weight + 1)
    with pytest.raises(ValueError, match=r"\.weight is .*optax.MultiSteps knows of no weights"):
        ewa_optax.carry_over(weighted, old, params)


CLIP = optax.clip_by_global_norm(1.0)


def divided(of, rest=None):
    return ewa_optax.groups({"matrices": ("a|c", of(RATE)), "rest": (..., (rest or of)(RATE))})


def looked_after(optimizer, average=None):
    chain = optax.chain(CLIP, optimizer, ewa_optax.average_parameters(0.9, storage=average))
    return ewa_optax.watch(ewa_optax.skip_spikes(chain))


ADDED = {
    "all wrappers": lambda: looked_after(HERE(RATE), "24bit"),
    "within a chain": lambda: optax.chain(CLIP, ewa_optax.skip_spikes(HERE(RATE)), ewa_optax.average_parameters(0.9)),
    "around optax": lambda: ewa_optax.accumulate(optax.chain(CLIP, THERE(RATE)), 1),
    "groups": lambda: optax.chain(CLIP, divided(HERE)),
    "groups of optax too": lambda: optax.chain(CLIP, optax.partition({"one": THERE(RATE), "other": HERE(RATE)}, BY)),
    "wrappers and groups": lambda: looked_after(divided(HERE)),
}


@functools.cache
def begun():
    """With optax: the optimizer, its state and the updates to come."""
    there = optax.chain(CLIP, THERE(RATE))
    state, _ = run(there, there.init(PARAMS), EARLY)
    return there, state, run(there, state, LATE)[1]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if "and" in name else pytest.mark.slow) for name in ADDED]
)
def test_what_a_run_gets_on_its_way_begins_and_the_rest_goes_on(name):
    (_, state, expected), new = begun(), ADDED[name]()
    mine = ewa_optax.carry_over(state, new, PARAMS)
    assert kinds(mine) == kinds(new.init(PARAMS))
    last, actual = run(new, mine, LATE)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5 * np.abs(e).max())
    if name == "wrappers and groups":
        # From groups to the same with storages, and wrappers of the state are not begun anew.
        other = looked_after(divided(functools.partial(HERE, storage="8bit")))
        carried = ewa_optax.carry_over(last, other, PARAMS)
        np.testing.assert_array_equal(ewa_optax.get_norms(carried)["gradient"], ewa_optax.get_norms(last)["gradient"])
        assert carried.inner_state.norm.seen == AFTER


def test_what_begins_begins_as_in_init():
    _, state, _ = begun()
    new = ewa_optax.accumulate(looked_after(HERE(RATE), "24bit"), lambda step: 2 + step, storage="8bit")
    mine, fresh = ewa_optax.carry_over(state, new, PARAMS), new.init(PARAMS)
    chex.assert_trees_all_equal(ewa_optax.get_average(mine), ewa_optax.get_average(fresh))
    assert (mine.step, ewa_optax.get_learning_rate(mine)) == (BEFORE, RATE(BEFORE - 1))  # By which `every` goes.
    assert ewa_optax.get_norms(mine)["gradient"] == mine.inner_state.step == 0
    chex.assert_trees_all_equal(mine.mean, fresh.mean)
    # What is there in another order, or no more, has learned something.
    seen = ewa_optax.watch(HERE(RATE)).init(PARAMS)
    other = ewa_optax.skip_spikes(ewa_optax.watch(HERE(RATE)))
    more = ewa_optax.watch(ewa_optax.skip_spikes(HERE(RATE)))
    assert kinds(ewa_optax.carry_over(seen, more, PARAMS)) == kinds(more.init(PARAMS))
    both = ewa_optax.watch(ewa_optax.skip_spikes(THERE(RATE))).init(PARAMS)
    for wrong in (other, HERE(RATE)):
        with pytest.raises(
            ValueError, match=r"is WatchState, but .*or give the inner_state of that to leave it behind"
        ):
            ewa_optax.carry_over(both, wrong, PARAMS)


def test_groups_take_their_leaves_and_no_others():
    _, state, _ = begun()
    frozen = optax.chain(CLIP, divided(HERE, lambda rate: None))
    mine = ewa_optax.carry_over(state, frozen, PARAMS)
    average = mine[1].inner_states["matrices"].inner_state[1].numerator.average
    np.testing.assert_allclose(average["a"], state[1][0].mu["a"] / (1 - 0.9**BEFORE), rtol=1e-5)
    assert not jax.tree.leaves((average["b"], mine[1].inner_states["rest"]))
    # Averages of parameters and of groups, behind one another; groups that get an average.
    average = ewa_optax.average_parameters(0.9)
    params = optax.apply_updates(PARAMS, PARAMS)
    old = optax.chain(HERE(RATE), average)
    kept = ewa_optax.carry_over(old.init(params), optax.chain(CLIP, divided(HERE), average), PARAMS)
    chex.assert_trees_all_equal(ewa_optax.get_average(kept), params)
    more = ewa_optax.carry_over(kept[1], optax.chain(divided(HERE), average), PARAMS)
    assert kinds(more[0]) == kinds(kept[1])
    # Rows and columns, from optax and back to it.
    factored = optax.adafactor(0.1, min_dim_size_to_factor=2).init(PARAMS)
    rows = ewa_optax.carry_over(factored, divided(ewa_optax.adafactor), PARAMS)
    assert kinds(rows) == kinds(divided(ewa_optax.adafactor).init(PARAMS))
    theirs = optax.partition(dict.fromkeys(("one", "other"), optax.adafactor(0.1, min_dim_size_to_factor=2)), BY)
    back = ewa_optax.carry_over(ewa_optax.adafactor(0.1).init(PARAMS), theirs, PARAMS)
    assert kinds(back) == kinds(theirs.init(PARAMS))
    with pytest.raises(ValueError, match=r"nu, an average of squares .*found no place"):
        ewa_optax.carry_over(state[1], divided(HERE, ewa_optax.momentum), PARAMS)
    with pytest.raises(ValueError, match=r"\['c'\] is of no parameter in params"):
        ewa_optax.carry_over(state[1], divided(HERE), {"a": PARAMS["a"], "b": PARAMS["b"]})
    with pytest.raises(ValueError, match=r"\['d'\] is missing"):
        ewa_optax.carry_over(state[1], divided(HERE), PARAMS | {"d": jnp.ones(2)})


def test_variables_of_flax_are_named():
    from flax import nnx

    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    state = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param).opt_state
    new, params = ewa_optax.watch(ewa_optax.adam(0.1)), nnx.as_pure(nnx.state(model, nnx.Param))
    with pytest.raises(TypeError, match=r"got one of flax variables; give nnx.as_pure\(optimizer.opt_state\)"):
        ewa_optax.carry_over(state, new, params)
    assert kinds(ewa_optax.carry_over(nnx.as_pure(state), new, params)) == kinds(new.init(params))
