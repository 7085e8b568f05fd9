"""Gradients of several micro-batches as one."""

import functools
import pickle
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ROUGHLY
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from runs import compiled_step

import ewa_optax
from benchmarks import tasks
from ewa_optax import accumulate, minibatch, storage

RNG = np.random.default_rng(0)
PARAMS = {"w": RNG.standard_normal((4, 3)).astype(np.float32), "b": np.ones(3, np.float32)}


def gradients_like(params, count, scale=1.0):
    return jax.tree.map(lambda p: scale * RNG.standard_normal((count, *p.shape)).astype(np.float32), params)


def along(optimizer, gradients, params=PARAMS, weights=None):
    """The updates of all micro-batches, and the last state: one program."""

    def step(carry, given):
        params, state = carry
        gradient, extra = given
        updates, state = optimizer.update(gradient, state, params, **extra)
        return (optax.apply_updates(params, updates), state), updates

    @functools.partial(jax.jit, compiler_options=ROUGHLY)
    def run(params, gradients, extra):
        (_, state), updates = jax.lax.scan(step, (params, optimizer.init(params)), (gradients, extra))
        return updates, state

    return run(params, gradients, {} if weights is None else dict(weight=np.asarray(weights, np.float32)))


MEAN = optax.scale(-1.0)
"""An optimizer whose updates say what it was given."""


@pytest.mark.parametrize("every", [3, lambda step: 1 + step % 3], ids=["3", "schedule"])
def test_equals_multisteps(every):
    """Of one optimizer of ours, and a chain of optax's that looks at all leaves and at the parameters."""
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.1))
    gradients = gradients_like(PARAMS, 12)
    for optimizer in (ewa_optax.adam(0.1), theirs):
        updates, state = along(accumulate(optimizer, every), gradients)
        expected, other = along(optax.MultiSteps(optimizer, every).gradient_transformation(), gradients)
        chex.assert_trees_all_close(updates, expected, rtol=1e-6, atol=1e-6)
        chex.assert_trees_all_close(state.inner_state, other.inner_opt_state, rtol=1e-6, atol=1e-6)
        assert (state.step, state.mini_step, state.skipped) == (other.gradient_step, other.mini_step, 0)


def oracle(gradients, weights, every):
    """The means of finite micro-batches, in float64; None where there is none yet."""
    total, summed, count, out, skipped = 0.0, 0.0, 0, [], 0
    for g, w in zip(gradients.astype(np.float64), np.asarray(weights, np.float64), strict=True):
        mean = None
        if (w != 0 and not np.isfinite(g).all()) or not (np.isfinite(w) and w >= 0):
            skipped += 1
        else:
            count += 1
            if w > 0:
                total, summed = total + w, summed + w * g
            if count >= every and total > 0:
                mean, total, summed, count = summed / total, 0.0, 0.0, 0
        out.append(mean)
    return out, skipped


def test_weights_skipped_and_empty_micro_batches():
    gradients = RNG.standard_normal((40, 5)).astype(np.float32)
    weights = RNG.integers(1, 2000, 40).astype(np.float32)
    gradients[[1, 7, 8, 9, 10, 11]] = [[np.nan] * 5, *[[1, np.inf, 1, 1, 1]] * 5]  # One, and all there are of a mean.
    weights[[3, 14, 20, 21, 22, 23, 24]] = 0  # One within, the last of a mean, and more than a mean.
    gradients[[3, 22]] = np.nan  # Of no token the mean is NaN.
    weights[[30, 31, 32]] = [np.nan, np.inf, -1]
    updates, state = along(accumulate(MEAN, 3), gradients, np.zeros(5, np.float32), weights)
    expected, skipped = oracle(gradients, weights, 3)
    assert state.skipped == skipped == 9
    assert state.step == sum(x is not None for x in expected) > 8
    for found, mean in zip(updates, expected, strict=True):
        np.testing.assert_allclose(found, np.zeros(5) if mean is None else -mean, rtol=2e-6, atol=1e-6)


def test_the_mean_reaches_the_optimizer_in_float32_and_updates_leave_as_gradients_came():
    seen = []

    def look(updates, params):
        seen.append(updates.dtype)
        return updates

    optimizer = accumulate(optax.chain(optax.stateless(look), optax.trace(0.9)), 2)
    params = jnp.zeros(2, jnp.bfloat16)
    gradients = np.array([[1.0, 256], [1 / 64, 1]], jnp.bfloat16)
    updates, state = along(optimizer, gradients, params)
    assert {*seen} == {jnp.dtype(jnp.float32)}
    assert updates.dtype == jnp.bfloat16
    assert state.inner_state[1].trace.dtype == jnp.bfloat16  # As `init` made it.
    assert state.mean.dtype == jnp.float32
    np.testing.assert_array_equal(state.mean, [65 / 128, 128.5])


def test_no_finite_gradient_makes_nan():
    largest = np.finfo(np.float32).max
    gradients = np.array([-largest, -largest, largest, -largest, 1, 3], np.float32)[:, None]
    updates, _ = along(accumulate(MEAN, 2), gradients, np.zeros(1, np.float32))
    assert np.isfinite(updates).all()
    assert updates[5] == -2


# In storages.

LARGE = np.zeros((64, 128), np.float32)


@pytest.mark.parametrize("kept", ["8bit", "bfloat16", pytest.param("24bit", marks=pytest.mark.slow)])
def test_rounding_is_without_bias_and_another_one_each_time(kept):
    """The mean over many means of the same micro-batches is that of float32, which no single one of them is."""
    few = RNG.standard_normal((4, *LARGE.shape)).astype(np.float32)
    updates, state = along(accumulate(MEAN, 4, kept), np.tile(few, (100, 1, 1)), LARGE)
    means = -np.asarray(updates[3::4], np.float64)
    exact = few.mean(0, dtype=np.float64)
    one, all_of_them = (np.sqrt(np.mean((x - exact) ** 2)) for x in (means[0], means.mean(0)))
    assert 0 < one < 0.03
    assert 7 < one / all_of_them < 14
    assert state.mean.arrays[0].dtype == (jnp.int8 if kept == "8bit" else jnp.bfloat16)


def test_what_is_skipped_leaves_codes_and_optimizer_alone():
    optimizer = accumulate(ewa_optax.adam(0.1, storage="8bit"), 4, "8bit")
    gradients = RNG.standard_normal((3, *LARGE.shape)).astype(np.float32)
    _, before = along(optimizer, gradients[:2], LARGE)
    gradients[2, 5, 5] = np.nan
    updates, after = along(optimizer, gradients, LARGE)
    assert (updates == 0).all()
    chex.assert_trees_all_equal(after, before._replace(skipped=jnp.int32(1)))


# Structure.


def operations(jaxpr, conditional=False):
    """The names of all operations of a program, and whether they are under a condition."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name, conditional
        for x in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(x := getattr(x, "jaxpr", x), "eqns"):
                yield from operations(x, conditional or eqn.primitive.name == "cond")


def test_the_optimizer_is_in_the_program_once_under_a_condition():
    optimizer = accumulate(ewa_optax.adam(0.1), 8)
    params = {"w": LARGE}
    state = jax.eval_shape(optimizer.init, params)
    traced = jax.make_jaxpr(optimizer.update)(params, state, params)
    assert [conditional for name, conditional in operations(traced.jaxpr) if name == "sqrt"] == [True]


def test_nothing_is_copied_through_the_condition():
    """Besides the updates there are no temporaries: all that is donated is overwritten in place."""
    params = {f"w{i}": jax.ShapeDtypeStruct((256, 256), jnp.float32) for i in range(4)}
    compiled = compiled_step(accumulate(ewa_optax.adam(0.1), 8), params)
    memory, numbers = compiled.memory_analysis(), 4 * 256**2
    assert memory.alias_size_in_bytes >= 4 * 4 * numbers
    assert memory.temp_size_in_bytes <= 4 * numbers + 1000
    entry = compiled.as_text().split("\nENTRY ")[1]
    assert entry.count(" conditional(") == 1
    assert "sqrt" not in entry


@pytest.mark.slow
@pytest.mark.parametrize(("kept", "peak"), [("8bit", 13.0), (None, 21.1)])
def test_the_peak_of_a_step(kept, peak):
    """Parameters, gradients and state, and a few of eight leaves; `optax.MultiSteps` takes 17.1, and 24.5."""
    params = {f"w{i}": jax.ShapeDtypeStruct((512, 512), jnp.float32) for i in range(8)}
    optimizer = accumulate(ewa_optax.adam(0.1, storage=kept), 8, kept)
    assert ewa_optax.peak_bytes(optimizer, params) <= peak * 8 * 512**2


@pytest.mark.slow
def test_bytes_of_the_state():
    """Of a transformer in the shapes of GPT-2, of 3 million parameters: `state_bytes` says what arrays take."""
    optimizer = optax.chain(
        accumulate(ewa_optax.adam(0.1, storage="8bit"), 8, "8bit"), ewa_optax.average_parameters(0.99, storage="24bit")
    )
    matrices = [(256, 768), (256, 256), (256, 1024), (1024, 256)]
    layer = [*matrices, *((shape[1],) for shape in matrices), *4 * [(256,)]]
    params = [np.zeros(shape, np.float32) for shape in [(1024, 256), (128, 256), *4 * layer]]
    numbers = sum(x.size for x in params)
    live = sum(x.nbytes for x in jax.tree.leaves(optimizer.init(params)))
    assert 3e6 < numbers < 4e6
    assert live == ewa_optax.state_bytes(optimizer, params) <= 6.2 * numbers


@pytest.mark.parametrize("kept", [None, "8bit"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_state_keeps_its_structure(kept, dtype):
    params = {"w": jnp.ones((64, 128), dtype), "none": None, "z": jnp.ones(3, jnp.complex64)}
    for inner in (ewa_optax.adam(0.1, storage=kept), optax.adam(0.1)):
        optimizer = accumulate(inner, 2, kept)
        state = jax.eval_shape(optimizer.init, params)
        updates, after = jax.eval_shape(optimizer.update, params, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        assert all(not x.weak_type for x in jax.tree.leaves(after))
    mapped = optax.tree.map_params(optimizer, lambda _: 1, optimizer.init(params), transform_non_params=lambda _: 0)
    assert sum(jax.tree.leaves(mapped)) >= 5
    again = pickle.loads(pickle.dumps(jax.device_get(optimizer.init(params))))
    assert jax.tree.structure(again) == jax.tree.structure(state)


# In company.


def test_none_leaves_complex_ones_and_masks():
    params = {"w": np.ones(2, np.float32), "z": np.ones(2, np.complex64), "left": np.ones(2, np.float32), "none": None}
    gradients = {**jax.tree.map(lambda p: np.stack([p * (1 + 2j) if p.dtype == np.complex64 else p, 3 * p]), params)}
    masked = optax.masked(accumulate(MEAN, 2), {"w": True, "z": True, "left": False, "none": True})
    updates, state = along(masked, gradients, params)
    np.testing.assert_allclose(updates["w"], [[0, 0], [-2, -2]])
    np.testing.assert_allclose(updates["z"], [[0, 0], [-2 - 1j] * 2])
    np.testing.assert_allclose(updates["left"], gradients["left"])
    assert updates["none"] is None
    assert state.inner_state.mean["left"] == optax.MaskedNode()


def test_stacks_get_what_leaves_get():
    params = {f"layer {i}": {"w": LARGE[:, :64] + i, "b": np.ones(3, np.float32)} for i in range(3)}
    optimizer = accumulate(ewa_optax.adam(0.1, storage="8bit"), 2, "8bit")
    assert type(optimizer) is type(ewa_optax.adam(0.1))
    assert type(accumulate(optax.adam(0.1), 2)) is not type(optimizer)
    gradients = gradients_like(params, 2)

    @functools.partial(jax.jit, compiler_options=ROUGHLY)
    def both(params, gradients):
        stacked, found = ewa_optax.stack_leaves(params), []
        for p, stack in ((params, lambda x: x), (stacked, functools.partial(ewa_optax.stack_leaves_like, stacked))):
            state = optimizer.init(p)
            for i in range(2):
                gradient = stack(jax.tree.map(lambda g, i=i: g[i], gradients))
                updates, state = optimizer.update(gradient, state, p)
            found.append(ewa_optax.unstack_leaves((updates, state.mean.arrays[0])))
        return found

    of_leaves, of_stacks = both(params, gradients)
    chex.assert_trees_all_close(of_leaves[0], of_stacks[0], rtol=1e-5, atol=1e-7)
    same = [np.mean(a == b) for a, b in zip(*map(jax.tree.leaves, (of_leaves[1], of_stacks[1])), strict=True)]
    assert min(same) > 0.99


def test_hyperparameters_may_be_vmapped():
    gradients = gradients_like(PARAMS, 6)
    rates, everies = np.array([0.1, 0.2], np.float32), np.array([2, 3])

    def run(rate, every):
        return along(accumulate(ewa_optax.momentum(rate), every), gradients)[0]

    together = jax.vmap(run)(rates, everies)
    for i in range(2):
        expected = along(accumulate(ewa_optax.momentum(float(rates[i])), int(everies[i])), gradients)[0]
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], together), expected, rtol=1e-6)


COLLECTIVE = r"= (\(?\w+\[[\d,]*\].*?) (all-\w+|reduce-scatter|collective-permute)(?:-start)?\("


@pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("kept", [None, pytest.param("8bit", marks=pytest.mark.slow)])
def test_on_a_mesh_there_are_no_collectives_that_multisteps_lacks(types, kept):
    """`optax.MultiSteps` that looks at finiteness, too."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(types,))
    params = {"w": np.ones((64, 1024), np.float32), "b": np.ones(1024, np.float32)}
    specs = {"w": PartitionSpec("data"), "b": PartitionSpec()}

    def collectives(optimizer):
        with jax.set_mesh(mesh):
            there = {name: jax.device_put(p, NamedSharding(mesh, specs[name])) for name, p in params.items()}
            state = jax.jit(optimizer.init)(there)
            step = jax.jit(optimizer.update)
            found = re.findall(COLLECTIVE, step.lower(there, state, there).compile().as_text())
            for _ in range(2):
                updates, state = step(there, state, there)
        return updates, [kind for _, kind in found]

    inner = ewa_optax.adam(0.1, storage=kept)
    theirs = optax.MultiSteps(inner, 2, should_skip_update_fn=optax.skip_not_finite).gradient_transformation()
    updates, ours = collectives(accumulate(inner, 2, kept))
    expected, others = collectives(theirs)
    assert len(ours) <= len(others)
    assert set(ours) <= {"all-reduce"}
    chex.assert_trees_all_close(jax.device_get(updates), jax.device_get(expected), rtol=1e-3)


@pytest.mark.parametrize("wrap", [lambda inner: accumulate(inner, 2, "8bit"), ewa_optax.skip_spikes])
def test_on_an_explicit_mesh_gradients_may_lie_everywhere(wrap):
    """As they may without the wrapper: updates lie as the averages do."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    p, g = (
        {"w": jax.ShapeDtypeStruct((64, 192), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*names)))}
        for names in [("data", None), (None, None)]
    )

    def step(optimizer):
        return lambda p, g: optimizer.update(g, optimizer.init(p), p)

    inner = ewa_optax.adam(0.1)
    with jax.set_mesh(mesh):
        alone, updates = (jax.eval_shape(step(optimizer), p, g)[0] for optimizer in (inner, wrap(inner)))
        assert updates == alone
        assert updates["w"].sharding.spec == PartitionSpec("data", None)


AVERAGED = {
    "inside": lambda inner, average: accumulate(optax.chain(inner, average), 4),
    "outside": lambda inner, average: optax.chain(accumulate(inner, 4), average),
    "of MultiSteps": lambda inner, average: optax.chain(optax.MultiSteps(inner, 4).gradient_transformation(), average),
}


@pytest.mark.parametrize("where", AVERAGED)
def test_averages_of_parameters_count_real_steps_only(where):
    gradients = gradients_like(PARAMS, 18)
    inner, average = ewa_optax.adam(0.1), ewa_optax.average_parameters(0.5)
    updates, state = along(AVERAGED[where](inner, average), gradients)
    value, p = 0.0, PARAMS["w"].astype(np.float64)
    for u in np.asarray(updates["w"][3::4], np.float64):
        p = p + u
        value = 0.5 * value + 0.5 * p
    np.testing.assert_allclose(ewa_optax.get_average(state)["w"], value / (1 - 0.5**4), rtol=1e-5)


def test_what_is_in_the_state_can_be_read_and_changed():
    optimizer = accumulate(optax.chain(ewa_optax.momentum(0.5), ewa_optax.average_parameters(0.9)), 2)
    state = ewa_optax.rescale_learning_rate(optimizer.init(PARAMS), 0.5)
    update = jax.jit(optimizer.update)
    for _ in range(2):
        _, state = update(PARAMS, state, PARAMS)
    assert ewa_optax.get_learning_rate(state) == 0.25
    np.testing.assert_allclose(ewa_optax.get_average(state)["b"], 0.975)


def test_further_arguments_reach_the_optimizer_with_the_last_micro_batch():
    def scaled(updates, state, params=None, *, value):
        return jax.tree.map(lambda u: value * u, updates), state

    optimizer = accumulate(optax.GradientTransformationExtraArgs(lambda _: (), scaled), 2)
    state, update = optimizer.init(np.ones(1, np.float32)), jax.jit(optimizer.update)
    for value in (2.0, 3.0):
        updates, state = update(np.ones(1, np.float32), state, value=value, weight=5)
    assert updates == 3


def test_in_fit_and_in_minibatch_train():
    x = RNG.standard_normal((96, 4)).astype(np.float32)
    data = {"x": x, "y": x @ np.arange(4, dtype=np.float32)}

    def loss(params, batch):
        return jnp.mean((batch["x"] @ params - batch["y"]) ** 2)

    start, options = np.zeros(4, np.float32), dict(batch_size=8, epochs=30, key=jax.random.key(0))
    run = ewa_optax.fit(loss, accumulate(ewa_optax.adam(0.1), 4, "8bit"), start, data, progress=False, **options)
    assert run.history.costs[-1] < 0.1 * run.history.costs[0]
    assert run.opt_state.step == 90
    theirs = minibatch.train(loss, accumulate(ewa_optax.adam(0.1), 4, "8bit"), start, data, **options)
    np.testing.assert_allclose(theirs.params, run.params, rtol=1e-4)


# Trainings.


def eight_bits(rate):
    accumulated = accumulate(ewa_optax.adam(lambda step: rate(4 * step), storage="8bit"), 4, "8bit")
    return optax.chain(accumulated, ewa_optax.average_parameters(0.99, storage="24bit"))


def multisteps(rate):
    return optax.MultiSteps(optax.adam(lambda step: rate(4 * step)), 4).gradient_transformation()


def final_loss(task, optimizer):
    """Of one training; not of several by `jax.vmap`, by which the condition would become a choice of two results."""
    key = jax.random.key(0)

    def step(carry, t):
        params, state = carry
        gradients = jax.grad(task.loss)(params, task.batch(jax.random.fold_in(key, t), task.data))
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params):
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(task.steps))
        return task.final_loss(params, task.data)

    return run(jax.jit(task.init)(key))


def off(task):
    """How far the final loss is from that of `optax.MultiSteps`."""
    rate = optax.cosine_decay_schedule(task.learning_rate, task.steps)
    ours, theirs = (final_loss(task, make(rate)) for make in (eight_bits, multisteps))
    return abs(ours / theirs - 1)


def test_a_short_training_ends_as_by_multisteps_in_32_bits():
    assert off(tasks.regression()._replace(steps=600)) < 0.03


@pytest.mark.slow
def test_a_transformer_trains_as_by_multisteps_in_32_bits():
    assert off(tasks.source_code(context=32, width=64, layers=2, batch=4, steps=1600)) < 0.01


X = jnp.ones(3)
TWO = accumulate(MEAN, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: accumulate(MEAN, 0), ValueError, "accumulate: every must be a whole number, 1 or more, got 0"),
        (lambda: accumulate(MEAN, 1.5), ValueError, "a whole number, 1 or more, got 1.5; 8 is one step for 8"),
        (lambda: accumulate(MEAN, True), TypeError, r"every must be .* a schedule, got True \(bool\)"),
        (lambda: accumulate(MEAN, jnp.arange(2)), ValueError, r"every must be a scalar, got an array of shape \(2,\)"),
        (lambda: accumulate(lambda x: x, 2), TypeError, "accumulate: optimizer must be a transformation"),
        (lambda: accumulate(MEAN, 2, "4bit"), ValueError, "storage must be"),
        (lambda: accumulate(MEAN, 2, storage.Factored()), ValueError, "averages of squares only"),
        (lambda: accumulate(MEAN, lambda step: 0).update(X, TWO.init(X)), ValueError, "as the schedule says it, must"),
        (lambda: TWO.update(X, TWO.init(X), weight=-1), ValueError, "weight must be finite and 0 or more, got -1"),
        (lambda: TWO.update(X, TWO.init(X), weight=X), ValueError, r"weight must be a scalar, got .* \(3,\)"),
        (lambda: TWO.update(X, TWO.init(X), weight="1"), TypeError, "weight must be a number"),
        (
            lambda: TWO.update(jnp.ones(4), TWO.init(X)),
            ValueError,
            r"shape \(4,\) came for a parameter of shape \(3,\)",
        ),
        (lambda: TWO.init(jnp.arange(3)), TypeError, "has dtype int32"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
