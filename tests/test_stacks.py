"""Leaves in stacks: the steps of the leaves themselves, at the cost of a few arrays."""

import contextlib
import functools
import pickle

import chex
import equinox as eqx
import flax.linen as nn
import haiku as hk
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, DIFFERENT
from helpers import ROUGHLY
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from runs import compiled_step

import ewa_optax
from ewa_optax import minibatch, pieces, stack_leaves, stack_leaves_like, storage, unstack_leaves

RNG = np.random.default_rng(0)
QUICK = {"lamb", "adafactor", "novograd", "adam-8bit", "adopt-8bit", "adam_of_rows"}  # And, below, adam and adamw.
KEY = jax.random.key(0)


def tree(dtype="float32", scale=1.0):
    """Layers alike, a leaf of the shape of some of theirs but of another meaning, a scalar."""

    def normal(*shape):
        return np.asarray(scale * RNG.standard_normal(shape), dtype)

    layers = [{"w": normal(8, 12), "b": normal(12)} for _ in range(2)]
    return {"layers": layers, "out": {"b": normal(12), "gain": normal()}}


def three(make):
    return jax.tree.map(lambda *xs: np.stack(xs), *(make() for _ in range(3)))


PARAMS, GRADIENTS = tree(), three(tree)


def matrices(params):
    return jax.tree.map(lambda p: p.ndim == 2, params)


roughly_compiled = functools.partial(jax.jit, compiler_options=ROUGHLY)


@functools.partial(roughly_compiled, static_argnums=(0, 1))
def steps(optimizer, stacks, params, gradients):
    """Parameters and state, unstacked, after some steps on them as each of `stacks` gives them."""

    def of(stack):
        def step(carry, gradients):
            params, state = carry
            updates, state = optimizer.update(stack(gradients), state, params)
            return (optax.apply_updates(params, updates), state), None

        stacked = stack(params)
        return unstack_leaves(jax.lax.scan(step, (stacked, optimizer.init(stacked)), gradients)[0])

    return [of(stack) for stack in stacks]


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    yield
    steps.clear_cache()
    model.cache_clear()


def as_leaves(tree):
    return tree


def assert_same_steps(optimizer, stack=stack_leaves, params=PARAMS, gradients=GRADIENTS):
    actual, expected = steps(optimizer, (stack, as_leaves), params, gradients)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    # To the bit, but where XLA contracts a product and a sum into one operation in one of the two.
    chex.assert_trees_all_close(actual, expected, rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize(
    "case",
    [pytest.param(x, id=x.name, marks=() if x.name in QUICK else pytest.mark.slow) for x in CASES],
)
def test_stacks_take_the_steps_of_their_leaves(case):
    assert_same_steps(case.optimizer(learning_rate=0.1))


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_of_16_bits_too(dtype):
    optimizer = optax.chain(
        ewa_optax.adamw(0.1, weight_decay=0.1, storage=storage.BFloat16(min_size=0)),
        ewa_optax.average_parameters(0.9, storage=storage.Float24(min_size=0)),
        ewa_optax.round_stochastically(),
    )
    assert_same_steps(optimizer, params=tree(dtype)["layers"], gradients=three(lambda: tree(dtype)["layers"]))


def test_blocks_and_sizes_are_those_of_leaves():
    """Rows of 5, whose blocks in a stack would cross from one leaf to the next; leaves below and above the least."""
    params = [RNG.standard_normal(shape, np.float32) for shape in [(6, 5), (5,), (6, 5), (5,), (6, 5)]]
    optimizer, gradients = (
        ewa_optax.momentum(0.1, storage=storage.EightBit(block=4, min_size=30)),
        three(lambda: params),
    )
    (_, state), _ = steps(optimizer, (stack_leaves, as_leaves), params, gradients)
    assert [x.shape for x in state[1].average.arrays[1] if x.dtype != bool] == [(6, 2)] * 3
    assert [x.dtype for x in state[1].average.arrays[0]] == [jnp.int8, jnp.float32, jnp.int8, jnp.float32, jnp.int8]
    assert_same_steps(optimizer, params=params, gradients=gradients)


def test_no_two_leaves_of_a_stack_are_rounded_by_the_same_chance():
    params = [np.zeros(4096, np.float32) for _ in range(4)]
    optimizer, gradients = ewa_optax.momentum(1.0, storage="bfloat16"), [np.full((1, 4096), 1.001, np.float32)] * 4
    ((_, state),) = steps(optimizer, (stack_leaves,), params, gradients)
    kept = np.stack([np.asarray(x, np.float32) for x in state[1].average.arrays[0]])
    assert np.abs(np.corrcoef(kept) - np.eye(4)).max() < 0.06


MASKED = (ewa_optax.lars, ewa_optax.adan)
MASKS = {
    "function": matrices,
    "tree": jax.tree.map(lambda p: p.ndim == 2, PARAMS),
    "prefix": {"layers": True, "out": False},
    "within a stack": lambda params: jax.tree_util.tree_map_with_path(
        lambda path, p: "[1]" in jax.tree_util.keystr(path), params
    ),
    "none": False,
}


SOME = ("function", "within a stack")


@pytest.mark.parametrize("mask", [pytest.param(x, marks=() if x in SOME else pytest.mark.slow) for x in MASKS])
@pytest.mark.parametrize("make", [ewa_optax.adamw, *(pytest.param(x, marks=pytest.mark.slow) for x in MASKED)])
def test_masks_are_those_of_leaves(make, mask):
    assert_same_steps(make(0.1, weight_decay=0.5, mask=MASKS[mask]))


def test_a_mask_that_fits_no_tree_is_told_as_ever():
    optimizer = ewa_optax.adamw(0.1, mask={"layers": True})
    with pytest.raises(ValueError, match="mask must be a tree of booleans like the parameters"):
        jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), stack_leaves(PARAMS))


def test_labels_for_partition_and_masks_for_masked():
    labels = jax.tree.map(lambda p: "matrices" if p.ndim == 2 else "rest", PARAMS)
    labels["layers"][1]["w"] = "rest"
    by_label = {"matrices": ewa_optax.adam(0.1), "rest": ewa_optax.lamb(0.01)}
    stack = functools.partial(stack_leaves, labels=labels)
    like = jax.eval_shape(stack, PARAMS).like
    ((params, _),), ((expected, _),) = (
        steps(optax.partition(by_label, of), (how,), PARAMS, GRADIENTS)
        for of, how in ((like(labels), stack), (labels, as_leaves))
    )
    chex.assert_trees_all_close(params, expected, rtol=1e-6)
    mask = jax.tree.map(lambda label: label == "rest", labels)
    ((params, _),), ((expected, _),) = (
        steps(optax.masked(ewa_optax.adamw(0.1), of), (how,), PARAMS, GRADIENTS)
        for of, how in ((like(mask), stack), (mask, as_leaves))
    )
    chex.assert_trees_all_close(params, expected, rtol=1e-6)


def test_one_stack_has_one_label():
    labels = {"layers": [{"w": "a", "b": "b"}, "a"], "out": "b"}
    with pytest.raises(ValueError, match=r"'b' of \['out'\]\['b'\].*stack_leaves\(params, labels\)"):
        stack_leaves(PARAMS).like(labels)
    assert {*jax.tree.leaves(stack_leaves(PARAMS, labels).like(labels))} == {"a", "b"}
    with pytest.raises(ValueError, match="labels must be a tree like the parameters, or a prefix"):
        stack_leaves(PARAMS, {"layers": "a"})


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.clip_by_global_norm(0.1), ewa_optax.adam(0.1)),
        pytest.param(optax.MultiSteps(ewa_optax.adam(0.1), 2), marks=pytest.mark.slow),
        pytest.param(optax.apply_if_finite(ewa_optax.momentum(0.1), 3), marks=pytest.mark.slow),
        pytest.param(optax.adam(0.1), marks=pytest.mark.slow),
        optax.chain(pieces.clip_by_rms(0.5), pieces.scale_by_parameter_rms(), ewa_optax.scale_by_learning_rate(0.1)),
    ],
    ids=["clipped", "multi-steps", "if finite", "optax.adam", "pieces"],
)
def test_in_chains_and_wrappers(optimizer):
    assert_same_steps(optimizer)


def loss(params):
    h = jnp.ones((4, 8))
    for layer in params["layers"]:
        h = jnp.tanh(h @ layer["w"] + layer["b"][None])[:, :8]
    return jnp.sum((params["out"]["gain"] * h) ** 2) + jnp.sum(params["out"]["b"] ** 2)


def test_derivatives_in_both_directions():
    def of_stacked(stacked):
        return loss(stacked.unstack())

    def all_of(of, params, tangent, twofold):
        product = jax.jvp(jax.grad(of), (params,), (tangent,))[1]  # A Hessian times a vector.
        return unstack_leaves((jax.grad(of)(params), product, jax.vmap(of)(twofold)))

    @roughly_compiled
    def both(params, tangent):
        twofold = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
        return [
            all_of(of, stack(params), stack(tangent), stack_each(twofold))
            for of, stack, stack_each in (
                (of_stacked, stack_leaves, jax.vmap(stack_leaves)),
                (loss, as_leaves, as_leaves),
            )
        ]

    actual, expected = both(PARAMS, jax.tree.map(lambda x: x[0], GRADIENTS))
    chex.assert_trees_all_close(actual[0], expected[0], rtol=1e-6)
    chex.assert_trees_all_close(actual[1], expected[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actual[2], expected[2], rtol=1e-6)


SHAPES = st.sampled_from([(), (1,), (3,), (2, 3), (0,), (3, 2)])
LEAVES = st.builds(
    lambda shape, dtype, seed: np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype),
    SHAPES, st.sampled_from(["float32", "bfloat16", "complex64"]), st.integers(0, 9),
)  # fmt: skip
TREES = st.recursive(
    st.one_of(LEAVES, st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from("abc"), inner), st.tuples(inner)
    ),
    max_leaves=12,
)


@hypothesis.settings(max_examples=15, deadline=None, derandomize=True, database=None)
@hypothesis.given(TREES)
def test_stacking_is_undone(params):
    stacked = stack_leaves(params)
    chex.assert_trees_all_equal(stacked.unstack(), params)
    assert jax.tree.structure(stacked.unstack()) == jax.tree.structure(params)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    assert stacked.shapes() == shapes
    again = stack_leaves(params)
    assert jax.tree.structure(again) == jax.tree.structure(stacked)
    assert hash(jax.tree.structure(again)) == hash(jax.tree.structure(stacked))
    state = ewa_optax.adam(0.1).init(stacked)
    chex.assert_trees_all_equal(stack_leaves_like(state, unstack_leaves(state)), state)
    chex.assert_trees_all_equal(unstack_leaves(state), ewa_optax.adam(0.1).init(params))


def test_a_state_goes_on_from_its_leaves():
    """A checkpoint in the form of the model serves both."""
    optimizer = ewa_optax.adamw(0.1, storage=storage.EightBit(min_size=0))
    ((params, state),) = steps(optimizer, (as_leaves,), PARAMS, GRADIENTS)

    @roughly_compiled
    def goes_on(gradients, state, params):
        stacked = stack_leaves(params)
        in_stacks = stack_leaves_like(jax.eval_shape(optimizer.init, stacked), state)
        updates, _ = optimizer.update(stack_leaves(gradients), in_stacks, stacked)
        return updates.unstack(), optimizer.update(gradients, state, params)[0]

    updates, expected = goes_on(PARAMS, state, params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"structure|key"):
        stack_leaves_like(stack_leaves(PARAMS), {"layers": []})


def test_at_most_64_leaves_a_stack_in_the_order_of_the_tree():
    stacked = stack_leaves([np.full(3, i) for i in range(150)])
    assert [x.shape for x in stacked.stacks] == [(64, 3), (64, 3), (22, 3)]
    np.testing.assert_array_equal(np.concatenate(stacked.stacks)[:, 0], np.arange(150))
    assert repr(stacked) == "Stacked(150 leaves in arrays of shapes (64, 3), (64, 3), (22, 3))"


def test_pickles():
    stacked = stack_leaves(PARAMS)
    again = pickle.loads(pickle.dumps(stacked))
    chex.assert_trees_all_equal(again, stacked)
    assert again.layout == stacked.layout
    assert hash(again.layout) == hash(stacked.layout)


def test_names_of_leaves_are_told_and_paths_too():
    (path, _), *_ = jax.tree_util.tree_leaves_with_path(stack_leaves(PARAMS))
    assert jax.tree_util.keystr(path) == "<stack 0>"
    with pytest.raises(TypeError, match=r"the parameter at <stack 0> has dtype int32"):
        ewa_optax.adam(0.1).init(stack_leaves([jnp.arange(3), jnp.arange(3)]))


def test_another_layout_is_another_structure():
    """Or the numbers of one leaf would go for those of another."""
    one, other = (stack_leaves({"a": np.ones(2, np.float32), name: np.ones(2, np.float32)}) for name in "bc")
    with pytest.raises(ValueError, match=r"[Mm]ismatch|differ|not match"):
        jax.tree.map(jnp.add, one, other)
    optimizer = ewa_optax.adam(0.1)
    with pytest.raises(ValueError, match=r"stacked apart .* stack_leaves_like"):
        optimizer.update(other, optimizer.init(one), one)


def test_a_step_traces_once_and_costs_a_few_arrays():
    """The operations and bytes of the leaves, in a fraction of the program."""
    params = [np.ones((10, 10), np.float32) for _ in range(64)]
    stacked, optimizer = stack_leaves(params), ewa_optax.adam(1e-3)
    programs = (
        compiled_step(optimizer, stacked),
        compiled_step(optimizer, params),
        compiled_step(optax.adam(1e-3), params),
    )
    ours, _, theirs = (program.cost_analysis() for program in programs)
    assert ours["flops"] <= theirs["flops"] + 100
    assert ours["bytes accessed"] <= theirs["bytes accessed"] + 500
    lines = [len(program.as_text().splitlines()) for program in programs]
    assert lines[0] < lines[1] / 6

    @chex.assert_max_traces(1)
    def step(stacked, state):
        gradients = jax.grad(lambda s: sum(jnp.sum(p**2) for p in s.unstack()))(stacked)
        updates, state = optimizer.update(gradients, state, stacked)
        return optax.apply_updates(stacked, updates), state

    step, state = jax.jit(step), optimizer.init(stacked)
    for _ in range(3):
        stacked, state = step(stacked, state)


def test_gradients_take_no_sums_of_paddings():
    """One concatenation for each stack, or the time would grow with the square of the leaves."""
    stacked = stack_leaves([np.ones(1000, np.float32) for _ in range(64)])
    gradient = jax.jit(jax.grad(lambda s: sum(jnp.sum(jnp.sin(p)) for p in s.unstack())))
    analysis = gradient.lower(stacked).compile().cost_analysis()
    assert analysis["bytes accessed"] < 10 * 4 * 64_000


@pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_leaves_in_parts_on_several_devices_stay_there(types):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(types,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((None, "model"), ()))
    alone = [RNG.standard_normal((4, 16), np.float32) for _ in range(3)]
    params = [*(jax.device_put(x, split) for x in alone), jax.device_put(alone[0], whole)]
    stacked = stack_leaves(params)
    assert [(x.shape, x.sharding.spec) for x in stacked.stacks] == [
        ((3, 4, 16), PartitionSpec(None, None, "model")), ((1, 4, 16), PartitionSpec(None))
    ]  # fmt: skip
    optimizer = ewa_optax.adam(0.1)
    with jax.set_mesh(mesh):
        updates, state = roughly_compiled(lambda p: optimizer.update(p, optimizer.init(p), p))(stacked)
    assert updates.stacks[0].sharding.spec[-1] == "model"
    assert state[1].numerator.average.stacks[0].sharding.spec[-1] == "model"
    expected = roughly_compiled(lambda p: optimizer.update(p, optimizer.init(p))[0])(jax.device_get(params))
    found = jax.device_get(updates.stacks)
    chex.assert_trees_all_close([*found[0], *found[1]], jax.device_get(expected), rtol=1e-6)


X = RNG.standard_normal((96, 4), np.float32)
DATA = {"x": X, "y": np.sin(X.sum(axis=1, keepdims=True))}


class Deep(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(16):
            x = x + nn.tanh(nn.Dense(4)(x))
        return nn.Dense(1)(x)


def deep_equinox():
    model = eqx.nn.MLP(4, 1, 4, 20, key=KEY)
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    return params, lambda params, x: jax.vmap(eqx.combine(params, rest))(x)


def deep_haiku():
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([4] * 20 + [1])(x)))
    return model.init(KEY, X), model.apply


def wide():
    """Small to compile, but of as many leaves."""
    rng = np.random.default_rng(1)
    params = {"w": [rng.standard_normal(4, np.float32) for _ in range(20)], "b": [*rng.standard_normal(20, np.float32)]}

    def apply(params, x):
        w, b = (sum(map(jnp.tanh, params[name])) for name in "wb")
        return (x @ w + b)[:, None]

    return params, apply


MODELS = {
    "flax": lambda: (jax.jit(Deep().init)(KEY, X), Deep().apply),
    "equinox": deep_equinox,
    "haiku": deep_haiku,
    "wide": wide,
}
ADAM = ewa_optax.adam(0.01)
CHAINED = optax.chain(ADAM)


@functools.cache
def model(name):
    params, apply = MODELS[name]()

    def loss(params, batch):
        return jnp.mean((apply(params, batch["x"]) - batch["y"]) ** 2)

    return params, loss


def fit(name, optimizer, stack=lambda x: x, **keywords):
    params, loss = model(name)
    defaults = dict(batch_size=32, epochs=2, key=KEY, progress=False)
    return ewa_optax.fit(loss, optimizer, stack(params), DATA, **{**defaults, **keywords})


@pytest.mark.parametrize("name", [pytest.param(x, marks=() if x == "wide" else pytest.mark.slow) for x in MODELS])
def test_fit_keeps_many_small_leaves_in_stacks_and_returns_trees(name):
    """A chain is not known to treat stacks as leaves: it gets the leaves, and the same steps."""
    seen = []
    run = fit(name, ADAM, callbacks=[seen.append])
    plain = fit(name, CHAINED)
    assert jax.tree.structure(run.params) == jax.tree.structure(plain.params) == jax.tree.structure(seen[0].params)
    assert jax.tree.structure((run.opt_state,)) == jax.tree.structure(plain.opt_state)
    np.testing.assert_allclose(run.history.costs, plain.history.costs, rtol=1e-5)
    chex.assert_trees_all_close(run.params, plain.params, rtol=1e-3, atol=1e-5)


class Seen(Exception):  # noqa: N818
    """Ends a training before anything is compiled."""


def kinds_seen(optimizer, params, runs=False, **keywords):
    """What a loss in `fit` gets gradients for: whether arrays of one axis more come in."""
    shapes = []

    def update(updates, state, params=None, **extra):
        shapes.append({x.ndim for x in jax.tree.leaves(updates)})
        if not runs:
            raise Seen
        return optimizer.update(updates, state, params, **extra)

    known = type(optimizer)(jax.jit(optimizer.init), update)
    loss = lambda params, batch: sum(jnp.sum(p * batch.mean()) for p in jax.tree.leaves(params))  # noqa: E731
    with contextlib.nullcontext() if runs else pytest.raises(Seen):
        ewa_optax.fit(loss, known, params, X, batch_size=48, epochs=1, key=KEY, progress=False, **keywords)
    return set.union(*shapes)


def test_where_fit_keeps_stacks():
    many, few = [np.ones(5, np.float32)] * 32, [np.ones(5, np.float32)] * 31
    assert kinds_seen(ADAM, many, runs=True) == {2}
    assert kinds_seen(ADAM, few) == {1}
    assert kinds_seen(CHAINED, many) == {1}
    assert kinds_seen(CHAINED, stack_leaves(many)) == {2}
    assert kinds_seen(ADAM, [np.ones(i % 17 + 1, np.float32) for i in range(32)]) == {1}  # Few alike.
    assert kinds_seen(ADAM, [np.ones(5000, np.float32)] * 32) == {1}  # Large.
    assert kinds_seen(ADAM, [np.ones((5, 5), np.float32)] * 32, loop="python") == {3}


def test_callbacks_change_what_is_in_stacks():
    def lower(run):
        params = jax.tree.map(jnp.zeros_like, run.params)
        return run._replace(params=params, opt_state=ewa_optax.rescale_learning_rate(run.opt_state, 0.5))

    run = fit("wide", ewa_optax.gradient_descent(1e-6), callbacks=[lower], validation=DATA)
    np.testing.assert_allclose(run.history.learning_rates, [1e-6] * 3 + [5e-7] * 3, rtol=1e-6)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(run.params)) == 0
    assert jax.tree.structure(run.best_params) == jax.tree.structure(run.params)


def test_checkpoints_are_in_the_form_of_the_model(tmp_path):
    """A run that was begun with leaves goes on with stacks, and the other way round."""
    whole = fit("wide", CHAINED, epochs=4)
    fit("wide", CHAINED, checkpoint=tmp_path)
    stacked = fit("wide", CHAINED, stack_leaves, epochs=3, checkpoint=tmp_path)
    assert isinstance(stacked.params, ewa_optax.Stacked)
    again = fit("wide", CHAINED, epochs=4, checkpoint=tmp_path)
    np.testing.assert_allclose(again.history.costs, whole.history.costs, rtol=1e-5)
    chex.assert_trees_all_close(again.params, whole.params, rtol=1e-3, atol=1e-5)


def test_a_resume_in_stacks_is_exact(tmp_path):
    optimizer = ewa_optax.adam(0.01, storage=storage.BFloat16(min_size=0))
    whole = fit("wide", optimizer, epochs=3)
    fit("wide", optimizer, epochs=2, checkpoint=tmp_path)
    again = fit("wide", optimizer, epochs=3, checkpoint=tmp_path)
    chex.assert_trees_all_equal((again.params, again.opt_state), (whole.params, whole.opt_state))


@pytest.mark.slow
def test_pure_training_takes_stacks():
    params, loss = model("flax")
    runs = [
        minibatch.train(loss, ewa_optax.adam(0.01), how(params), DATA, batch_size=32, epochs=2, key=KEY)
        for how in (stack_leaves, lambda x: x)
    ]
    np.testing.assert_allclose(runs[0].costs, runs[1].costs, rtol=1e-5)


@pytest.mark.slow
def test_the_average_of_parameters_comes_unstacked():
    optimizer = optax.chain(ewa_optax.adam(0.1), ewa_optax.average_parameters(0.9))
    (_, state), (_, expected) = steps(optimizer, (stack_leaves, as_leaves), PARAMS, GRADIENTS)
    chex.assert_trees_all_close(ewa_optax.get_average(state), ewa_optax.get_average(expected), rtol=1e-6)


def test_different_kinds_of_cases_are_tried():
    assert {case.name for case in CASES} >= QUICK | DIFFERENT


# What faults on purpose showed to be tested nowhere else.


def test_masks_within_a_stack():
    layers = [{"w": jnp.ones((2, 2))} for _ in range(3)]
    mask = [{"w": i == 1} for i in range(3)]
    stacked = ewa_optax.stack_leaves(layers)
    optimizer = ewa_optax.adamw(0.1, weight_decay=0.5, mask=mask)
    found = ewa_optax.unstack_leaves(optimizer.update(stacked, optimizer.init(stacked), stacked)[0])
    expected = optimizer.update(layers, optimizer.init(layers), layers)[0]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
