"""Groups of parameters by their paths, and several learning rates by name."""

import pickle
import re
from collections.abc import Callable
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
from flax import nnx
from helpers import ROUGHLY
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from orbax import checkpoint

import ewa_optax
from ewa_optax import (
    accumulate,
    carry_over,
    get_learning_rate,
    get_learning_rates,
    groups,
    minibatch,
    rescale_learning_rate,
    stack_leaves,
    state_shardings,
)
from ewa_optax._fit.result import empty, to_arrays, with_arrays, with_steps
from ewa_optax._fit.stacked import stacked_form_for
from ewa_optax._wrappers.groups import path_name
from ewa_optax.minibatch._step import Step

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 11, (3, 4, 5))
"""Of three steps: four sentences of five words."""


# One model in four libraries: words, a block of attention without softmax, a head.


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 4, rngs=rngs)
        self.layers = nnx.List([NnxBlock(rngs), NnxBlock(rngs)])
        self.head = nnx.Linear(4, 11, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.value = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return x + self.value(self.norm(x)).mean(-2, keepdims=True)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 4, name="embed")(tokens)
        for i in range(2):
            x = LinenBlock(name=f"layers_{i}")(x)
        return nn.Dense(11, name="head")(x)


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = nn.with_partitioning(nn.linear.default_kernel_init, (None, "model"))
        return x + nn.Dense(4, name="value", kernel_init=kernel)(nn.LayerNorm(name="norm")(x)).mean(-2, keepdims=True)


class Equinox(eqx.Module):
    embed: eqx.nn.Embedding
    layers: list
    head: eqx.nn.Linear

    def __init__(self, keys):
        self.embed = eqx.nn.Embedding(11, 4, key=keys[0])
        self.layers = [EquinoxBlock(keys[1]), EquinoxBlock(keys[2])]
        self.head = eqx.nn.Linear(4, 11, key=keys[3])

    def __call__(self, tokens):
        x = self.embed.weight[tokens]
        for layer in self.layers:
            x = layer(x)
        return jax.vmap(jax.vmap(self.head))(x)


class EquinoxBlock(eqx.Module):
    norm: eqx.nn.LayerNorm
    value: eqx.nn.Linear

    def __init__(self, key):
        self.norm, self.value = eqx.nn.LayerNorm(4), eqx.nn.Linear(4, 4, key=key)

    def __call__(self, x):
        values = jax.vmap(jax.vmap(lambda word: self.value(self.norm(word))))(x)
        return x + values.mean(-2, keepdims=True)


def haiku(tokens):
    x = hk.Embed(11, 4, name="embed")(tokens)
    for i in range(2):
        with hk.experimental.name_scope(f"layers_{i}"):
            normed = hk.LayerNorm(-1, create_scale=True, create_offset=True, name="norm")(x)
            x = x + hk.Linear(4, name="value")(normed).mean(-2, keepdims=True)
    return hk.Linear(11, name="head")(x)


class Model(NamedTuple):
    """The parameters, `(params, tokens) -> logits`, and some of the paths."""

    params: Any
    apply: Callable
    paths: set


def model(library):
    """Nothing is compiled: parameters are of NumPy."""
    if library.startswith("nnx"):
        graph, state = nnx.split(nnx.eval_shape(lambda: Nnx(nnx.Rngs(0))))
        state = nnx.as_pure(state) if library == "nnx, pure" else state
        paths = {"embed/embedding", "layers/1/norm/scale", "layers/0/value/kernel", "head/bias"}
        return Model(filled(state), lambda params, tokens: nnx.merge(graph, params)(tokens), paths)
    if library == "linen":
        params = jax.eval_shape(Linen().init, jax.random.key(0), TOKENS[0])
        paths = {"params/embed/embedding", "params/layers_1/norm/scale", "params/layers_0/value/kernel"}
        return Model(filled(params), Linen().apply, paths)
    if library == "equinox":
        made = eqx.filter_eval_shape(lambda: Equinox(jax.random.split(jax.random.key(0), 4)))
        params, static = eqx.partition(made, lambda x: isinstance(x, jax.ShapeDtypeStruct))
        paths = {"embed/weight", "layers/1/norm/weight", "layers/0/value/weight", "head/bias"}
        return Model(filled(params), lambda params, tokens: eqx.combine(params, static)(tokens), paths)
    network = hk.without_apply_rng(hk.transform(haiku))
    paths = {"embed/embeddings", "layers_1/norm/scale", "layers_0/value/w", "head/b"}
    return Model(filled(jax.eval_shape(network.init, jax.random.key(0), TOKENS[0])), network.apply, paths)


def filled(shapes):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), shapes)


LIBRARIES = ["nnx", "nnx, pure", "linen", "equinox", "haiku"]
HALVED = ewa_optax.schedule_exponential(0.04, 0.5)
OPTIMIZERS = {
    "embedding": ewa_optax.adam(0.01, b1=0.5),
    "head": ewa_optax.momentum(lambda count: 0.1 * (count + 1)),
    "matrices": ewa_optax.adamw(HALVED, weight_decay=0.1),
    "norms": ewa_optax.adamw(0.03, weight_decay=0.2),
}
RULES = {
    "embedding": (r"(^|/)embed/", OPTIMIZERS["embedding"]),
    "head": (re.compile("(^|/)head/"), OPTIMIZERS["head"]),
    "matrices": (lambda path, leaf: leaf.ndim == 2, OPTIMIZERS["matrices"]),
    "norms": (..., OPTIMIZERS["norms"]),
}


def by_hand(params):
    def label(path, x):
        words = jax.tree_util.keystr(path)
        if "embed" in words:
            return "embedding"
        return "head" if "head" in words else "matrices" if x.ndim == 2 else "norms"

    labels = jax.tree_util.tree_map_with_path(label, params)
    return optax.partition(OPTIMIZERS, lambda _: labels)  # Since one is of equinox, and callable.


def step_of(optimizer, apply):
    def step(params, state, tokens):
        def loss(params):
            logits = apply(params, tokens)
            return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.roll(tokens, 1, -1)).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return step


def trained(optimizer, params, apply, state=None, steps=range(3)):
    step = jax.jit(step_of(optimizer, apply), compiler_options=ROUGHLY)
    state = optimizer.init(params) if state is None else state
    for i in steps:
        params, state = step(params, state, TOKENS[i])
    return params, state


def equal(tree, other):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True))


def program(step, *arguments):
    """As text, without the addresses of functions."""
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(step)(*arguments)))


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_program_is_that_of_a_partition_by_hand(library):
    params, _, paths = model(library)
    optimizer, hand, seen = groups(RULES), by_hand(params), []
    groups({"all": (lambda path, leaf: seen.append((path, leaf.shape)) or True, None)}).labels(params)
    assert {path for path, _ in seen} >= paths
    assert [shape for _, shape in seen] == [x.shape for x in jax.tree.leaves(params)]
    assert program(optimizer.init, params) == program(hand.init, params)
    ours, theirs = jax.eval_shape(optimizer.init, params), jax.eval_shape(hand.init, params)
    assert type(ours) is type(theirs)
    assert program(optimizer.update, params, ours, params) == program(hand.update, params, theirs, params)


@pytest.mark.parametrize("library", [pytest.param(x, marks=() if x == "nnx" else pytest.mark.slow) for x in LIBRARIES])
def test_rates_are_read_one_rescaled_saved_and_restored(library, tmp_path):
    params, apply, _ = model(library)
    optimizer = groups(RULES)
    before, state = trained(optimizer, params, apply, steps=[0])
    expected = {"embedding": 0.01, "head": 0.1, "matrices": 0.02, "norms": 0.03}
    chex.assert_trees_all_close(get_learning_rates(state), expected, rtol=1e-6)
    state = rescale_learning_rate(state, 0.5, group="matrices")
    with checkpoint.StandardCheckpointer() as saved:
        saved.save(tmp_path / "state", jax.tree.leaves(state))
        saved.wait_until_finished()
        like = optimizer.init(params)
        kept = saved.restore(tmp_path / "state", jax.tree.leaves(like))
    restored = jax.tree.unflatten(jax.tree.structure(like), kept)
    assert equal(pickle.loads(pickle.dumps(jax.tree.leaves(state))), restored)
    _, state = trained(optimizer, before, apply, restored, steps=[1])
    expected = {"embedding": 0.01, "head": 0.2, "matrices": 0.005, "norms": 0.03}
    chex.assert_trees_all_close(get_learning_rates(state), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_training_is_that_of_a_partition_by_hand_to_the_bit(library):
    params, apply, _ = model(library)
    assert equal(trained(groups(RULES), params, apply), trained(by_hand(params), params, apply))


# Small trees: what is asked of structure only, and data in one program.

PARAMS = {
    "embed": {"table": np.ones((8, 4), np.float32)},
    "layers": [{"kernel": np.ones((4, 4), np.float32), "bias": np.ones(4, np.float32)} for _ in range(3)],
    "scale": np.ones(4, np.float32),
}
SMALL = {
    "tables": ("^embed", ewa_optax.adam(0.1)),
    "kernels": (re.compile("kernel$"), ewa_optax.momentum(0.2)),
    "frozen": ("scale", None),
    "rest": (..., ewa_optax.gradient_descent(ewa_optax.schedule_inverse_time(0.3, 1.0))),
}
LABELS = {
    "embed": {"table": "tables"},
    "layers": [{"kernel": "kernels", "bias": "rest"}] * 3,
    "scale": "frozen",
}
TWIN = optax.partition(
    {name: optimizer or optax.set_to_zero() for name, (_, optimizer) in SMALL.items()}, lambda _: LABELS
)


def gradients_like(params):
    return jax.tree.map(lambda p: jnp.asarray(RNG.standard_normal(p.shape), p.dtype), params)


def test_the_first_rule_that_takes_a_leaf_has_it():
    assert groups(SMALL).labels(PARAMS) == LABELS
    assert groups(SMALL).labels(jax.tree.map(jnp.asarray, PARAMS)) == LABELS
    assert groups(SMALL).labels(PARAMS | {"none": None}) == LABELS | {"none": None}
    both = {"kernels": ("layers", optax.sgd(0.1)), "bias": (lambda path, leaf: leaf.dtype == "float32", None)}
    assert groups(both).labels(PARAMS)["layers"] == [{"kernel": "kernels", "bias": "kernels"}] * 3
    assert groups({"root": ("^$", None)}).labels(jnp.ones(2)) == "root"


def test_paths_are_as_people_write_them():
    tree = {"a": [0, (1, {"b/~/c": 2})], "node": optax.EmaState(0, {"value": 1})}
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    assert paths == ["a/0", "a/1/0", "a/1/1/b/~/c", "node/count", "node/ema/value"]


def test_rules_see_shapes_and_dtypes_of_parameters_and_not_of_gradients():
    seen = []

    def where(path, leaf):
        seen.append(leaf)
        return leaf.dtype == jnp.bfloat16

    optimizer = groups({"half": (where, ewa_optax.momentum(0.1)), "rest": (..., None)})
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    gradients = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    updates = jax.eval_shape(lambda: optimizer.update(gradients, optimizer.init(params), params)[0])
    assert updates["a"].dtype == jnp.float32
    assert {type(x) for x in seen} == {jax.ShapeDtypeStruct}


ADAM = ewa_optax.adam(0.1)


@pytest.mark.parametrize(
    ("rules", "kind", "message"),
    [
        ({}, ValueError, "one rule or more, got none"),
        ([("a", ADAM)], TypeError, "rules must be a dict"),
        ({0: (..., ADAM)}, TypeError, "name of a group must be a string, got 0; write '0'"),
        ({"a": ADAM}, TypeError, "rule of 'a' must be a pair"),
        ({"a": ("[", ADAM)}, ValueError, "regular expression, got '\\['.*re.escape"),
        ({"a": (3, ADAM)}, TypeError, "where 'a' is must be a regular expression, a function .* got 3"),
        ({"a": (..., "adam")}, TypeError, "the optimizer of 'a' must be a transformation, got 'adam'; try adam"),
        ({"a": (..., ADAM), "b": ("w", ADAM)}, ValueError, "'b' is behind 'a', which takes all with ...; put 'a' last"),
    ],
)
def test_bad_rules(rules, kind, message):
    with pytest.raises(kind, match=message):
        groups(rules)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"layers": ("layers/./kernel", ADAM)},
            "no rule takes 'embed/table', 'layers/0/bias', 'layers/1/bias' and 2 more; add one, or 'rest'",
        ),
        (
            {"first": ("layers/[01]|embed|scale", ADAM)},
            r"no rule takes 'layers/2/bias', 'layers/2/kernel' \(the nearest are 'layers/1/bias' in 'first'",
        ),
        (
            {"tables": ("embeds/table", ADAM), "rest": (..., None)},
            r"'embeds/table', takes no.* are 'embed/table'\.",
        ),
        ({"kernels": ("kernal$", ADAM)}, r"'kernal\$', takes no leaf; the nearest paths are 'layers/0/kernel'\."),
        ({"all": ("", ADAM), "rest": ("scale", None)}, "rule of 'rest', 'scale', takes no leaf; 'all' before it takes"),
        (
            {"all": ("", ADAM), "rest": (..., None)},
            "rule of 'rest', ..., takes no leaf; the others take all",
        ),
        ({"x": (lambda path, leaf: leaf.ndim > 4, ADAM), "rest": (..., None)}, "takes no leaf; the nearest paths are"),
    ],
)
def test_leaves_that_nobody_takes_and_rules_that_take_none(rules, message):
    for call in (groups(rules).labels, groups(rules).init, lambda p: groups(rules).update(p, None)):
        with pytest.raises(ValueError, match=message):
            call(PARAMS)


def test_the_table():
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))
    rules = SMALL | {"kernels": ("kernel", optax.adam(0.1))}
    for params in (PARAMS, shapes):
        assert groups(rules).table(params).splitlines() == [
            "group    leaves  parameters      rate  state bytes",
            "tables        1          32       0.1          276",
            "kernels       3          48  not told          388",
            "frozen        1           4  (frozen)            0",
            "rest          3          12      0.15           12",
            "all           8          96                    676",
        ]
    stacked = stack_leaves(PARAMS, groups(SMALL).labels(PARAMS))
    assert groups(SMALL).table(stacked) == groups(SMALL).table(PARAMS)


def stepped(optimizer, params, gradients, state=None):
    state = optimizer.init(params) if state is None else state

    def step(carry, gradients):
        params, state = carry
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), gradients)[0]


SEVERAL = jax.tree.map(lambda p: jnp.asarray(RNG.standard_normal((2, *p.shape)), p.dtype), PARAMS)
WRAPPERS = {
    "alone": lambda inner: inner,
    "accumulate": lambda inner: accumulate(inner, 2),
    "MultiSteps": lambda inner: optax.MultiSteps(inner, 2).gradient_transformation(),
    "chain, masked": lambda inner: optax.chain(
        optax.clip_by_global_norm(1.0), optax.masked(inner, jax.tree.map(lambda _: True, PARAMS))
    ),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_in_wrappers_the_program_is_that_of_a_partition(wrap):
    ours, theirs = wrap(groups(SMALL)), wrap(TWIN)
    assert program(lambda g: stepped(ours, PARAMS, g), SEVERAL) == program(
        lambda g: stepped(theirs, PARAMS, g), SEVERAL
    )
    state = jax.eval_shape(ours.init, PARAMS)
    assert jax.tree.structure(state) == jax.tree.structure(jax.eval_shape(theirs.init, PARAMS))
    assert [*get_learning_rates(ours.init(PARAMS))] == ["kernels", "rest", "tables"]


def test_the_tools_of_optax_see_what_is_like_the_parameters():
    optimizer = groups(SMALL)
    state = jax.eval_shape(optimizer.init, PARAMS)
    marked = optax.tree.map_params(optimizer, lambda x: "of a parameter", state)
    assert jax.tree.leaves(marked).count("of a parameter") == 2 + 3  # Adam of one, momentum of three.
    assert jax.tree.structure(marked) == jax.tree.structure(state)


def test_with_injected_hyperparameters():
    @optax.inject_hyperparams
    def make(learning_rate):
        return groups({"tables": ("^embed", ewa_optax.adam(learning_rate)), "rest": (..., ewa_optax.momentum(0.2))})

    optimizer = make(0.5)
    state = optimizer.init(PARAMS)
    _, state = optimizer.update(PARAMS, state, PARAMS)
    chex.assert_trees_all_close(get_learning_rates(state), {"tables": 0.5, "rest": 0.2}, rtol=1e-6)


def test_hyperparameters_may_be_traced_and_vmapped():
    def update(rate):
        optimizer = groups(SMALL | {"rest": (..., ewa_optax.gradient_descent(rate))})
        return optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)[0]["layers"][0]["bias"][0]

    rates = jnp.array([0.1, 0.2])
    np.testing.assert_allclose(jax.jit(jax.vmap(update))(rates), -rates, rtol=1e-6)


@pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit])
def test_states_lie_as_parameters_do(types):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(types,))
    place = NamedSharding(mesh, PartitionSpec("fsdp"))
    whole = {"embed": {"table": jnp.ones((64, 4))}, "layers": [{"kernel": jnp.ones((8, 4)), "bias": jnp.ones(8)}]}
    params = jax.device_put(whole, place)
    rules = {name: rule for name, rule in SMALL.items() if name != "frozen"}
    optimizer = groups(rules)
    labels = optimizer.labels(params)
    hand = optax.partition({name: x for name, (_, x) in rules.items()}, labels)
    said = state_shardings(optimizer, params)
    assert said == state_shardings(hand, params)
    assert said.inner_states["tables"].inner_state[1].numerator.average["embed"]["table"].spec[0] == "fsdp"
    # On an explicit mesh the types of arrays say how they lie.
    shapes = jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), params)
    assert shapes == jax.eval_shape(lambda p: hand.update(p, hand.init(p), p), params)


def test_a_state_of_a_partition_is_carried_over():
    theirs = optax.partition(
        {
            "tables": optax.adam(0.1),
            "kernels": optax.sgd(0.2, 0.9),
            "frozen": optax.set_to_zero(),
            "rest": optax.sgd(0.3),
        },
        lambda _: LABELS,
    )
    ours = groups(
        SMALL | {"kernels": ("kernel", ewa_optax.heavy_ball(0.2)), "rest": (..., ewa_optax.gradient_descent(0.3))}
    )
    params, state = stepped(theirs, PARAMS, SEVERAL)
    carried = carry_over(state, ours, params)
    assert carried.inner_states["tables"].inner_state[1].second_moment.step == 2
    expected, actual = (stepped(*x, params, SEVERAL, s)[0] for x, s in (((theirs,), state), ((ours,), carried)))
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_stacks_are_those_of_the_labels():
    optimizer, labels = groups(SMALL), groups(SMALL).labels(PARAMS)
    with pytest.raises(ValueError, match=r"different labels.*stack_leaves\(params, labels\).*groups.labels\(params\)"):
        optimizer.init(stack_leaves(PARAMS))
    stacked = stack_leaves(PARAMS, labels)
    assert set(optimizer.labels(stacked).stacks) == {*SMALL}
    gradients = stack_leaves(jax.tree.map(lambda g: g[0], SEVERAL), labels)
    updates, state = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p), compiler_options=ROUGHLY)(
        gradients, stacked
    )
    expected, plain = optimizer.update(jax.tree.map(lambda g: g[0], SEVERAL), optimizer.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(updates.unstack(), expected, rtol=1e-6)
    chex.assert_trees_all_equal_structs(ewa_optax.unstack_leaves(state), plain)
    assert equal(get_learning_rates(state), get_learning_rates(plain))
    assert not np.any(expected["scale"])
    assert not jax.tree.leaves(plain.inner_states["frozen"])
    # A stack may lie anywhere in the parameters.
    inner = {
        "a": stack_leaves(PARAMS["layers"], [{"kernel": "kernels", "bias": "rest"}] * 3),
        "embed": jnp.ones((2, 2)),
    }
    rules = {name: rule for name, rule in SMALL.items() if name != "frozen"}
    assert {*groups(rules).labels(inner)["a"].stacks} == {"kernels", "rest"}


# Several learning rates.


def test_rates_by_the_names_of_groups():
    rate = ewa_optax.scale_by_learning_rate
    inner = optax.partition({"x": rate(0.1), "y": optax.chain(rate(0.2), rate(0.5))}, {"a": "x", "b": "y"})
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    state = optax.chain(optax.partition({"outer": inner}, "outer"), optax.named_chain(("last", rate(1.0)))).init(params)
    expected = {"outer/x": 0.1, "outer/y/0": 0.2, "outer/y/1": 0.5, "last": 1.0}
    chex.assert_trees_all_close(get_learning_rates(state), expected, rtol=1e-6)
    assert [*get_learning_rates(optax.chain(rate(0.1), rate(0.2)).init(params))] == ["0", "1"]
    assert [*get_learning_rates(ADAM.init(params))] == [""]
    with pytest.raises(ValueError, match=r"holds 4 learning rates \('outer/x', .*get_learning_rates tells"):
        get_learning_rate(state)

    def factors(state):
        return [x.factor.item() for x in jax.tree.leaves(state, is_leaf=is_rate) if is_rate(x)]

    def is_rate(x):
        return hasattr(x, "factor")

    assert factors(rescale_learning_rate(state, 0.5)) == [0.5] * 4
    assert factors(rescale_learning_rate(state, 0.5, group="outer/y")) == [1.0, 0.5, 0.5, 1.0]
    assert factors(rescale_learning_rate(state, 0.5, group="outer/y/1")) == [1.0, 1.0, 0.5, 1.0]
    assert factors(rescale_learning_rate(state, 0.5, group="outer")) == [0.5, 0.5, 0.5, 1.0]
    assert factors(rescale_learning_rate(ADAM.init(params), 0.5, group="")) == [0.5]
    with pytest.raises(ValueError, match=r"group must be one of \['outer/x', .*, got 'oute'; None"):
        rescale_learning_rate(state, 0.5, group="oute")


def test_a_factor_of_zero_freezes_for_good():
    state = rescale_learning_rate(groups(SMALL).init(PARAMS), 0, group="kernels")
    state = rescale_learning_rate(state, 10.0)
    updates, state = groups(SMALL).update(PARAMS, state, PARAMS)
    assert not np.any(updates["layers"][0]["kernel"])
    assert np.all(updates["layers"][0]["bias"])
    assert get_learning_rates(state)["kernels"] == 0


def cost(params, batch):
    x = batch["x"] @ params["embed"]["table"]
    for layer in params["layers"]:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"][None])
    return jnp.mean((x * params["scale"][None]).sum(-1) ** 2)


DATA = {"x": RNG.standard_normal((12, 8)).astype(np.float32)}
KEY = jax.random.key(0)


def fitted(folder=None, epochs=2, optimizer=None, **options):
    return ewa_optax.fit(
        cost,
        optimizer or groups(SMALL),
        PARAMS,
        DATA,
        batch_size=6,
        epochs=epochs,
        key=KEY,
        checkpoint=folder,
        **options,
    )


def test_fit_records_and_shows_all_rates(tmp_path, capsys):
    expected = {"tables": np.full(4, 0.1), "kernels": np.full(4, 0.2), "rest": 0.3 / np.arange(2, 6)}
    fitted(tmp_path / "run", 1)
    run = fitted(tmp_path / "run")  # Goes on.
    assert run.history.learning_rates.keys() == expected.keys()
    chex.assert_trees_all_close(run.history.learning_rates, expected, rtol=1e-6)
    assert ", learning rates kernels 0.2, rest 0.06, tables 0.1, " in capsys.readouterr().err
    trained = jax.eval_shape(
        lambda: minibatch.train(cost, groups(SMALL), PARAMS, DATA, batch_size=6, epochs=2, key=KEY)
    )
    assert {name: x.shape for name, x in trained.learning_rates.items()} == dict.fromkeys(expected, (2, 2))


def test_a_record_without_rates_goes_on_with_nothing_for_the_past():
    """Version 0.1.0 recorded None where there were several."""
    steps = Step(np.ones(2), {"a": np.ones(2), "b": np.full(2, 0.5)}, np.ones(2), None)
    before = with_steps(empty(), steps._replace(learning_rate=None))
    assert before.learning_rates is None
    after = with_steps(with_arrays(empty(), to_arrays(before)), steps)
    np.testing.assert_array_equal(after.learning_rates["b"], [np.nan, np.nan, 0.5, 0.5])
    chex.assert_trees_all_equal(with_arrays(empty(), to_arrays(after)), after)


@pytest.mark.parametrize(
    "wrap",
    [lambda inner: inner, lambda inner: accumulate(inner, 1), ewa_optax.watch, ewa_optax.skip_spikes],
    ids=["alone", "accumulate", "watch", "skip_spikes"],
)
def test_fit_stacks_by_the_labels(wrap):
    params = {f"layer {i}": jax.tree.map(jnp.asarray, PARAMS["layers"][0]) for i in range(20)}
    rules = {"first": ("layer 1?[02468]/", ewa_optax.adam(0.1)), "frozen": ("bias$", None), "rest": (..., ADAM)}
    like = stacked_form_for(wrap(groups(rules)), params).like[0]
    assert sorted(x.shape[0] for x in like.stacks) == [10] * 4
    assert stacked_form_for(wrap(groups(rules | {"rest": (..., optax.adam(0.1))})), params).like is None


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda inner: inner, lambda inner: accumulate(inner, 2)], ids=["alone", "accumulate"])
def test_a_training_in_stacks_is_that_of_the_leaves(wrap, tmp_path):
    """With a rate that is lowered by name after each epoch, and a checkpoint."""
    rules = {"first": ("layer 0", ADAM), "b": ("b$", ewa_optax.momentum(0.1)), "rest": (..., OPTIMIZERS["matrices"])}
    params = {
        f"layer {i:02}": {"w": RNG.standard_normal((8, 8)).astype(np.float32), "b": np.zeros(8, np.float32)}
        for i in range(20)
    }

    def loss(params, batch):
        x = batch["x"]
        for layer in params.values():
            x += 0.1 * jnp.tanh(x @ layer["w"] + layer["b"][None])
        return jnp.mean((x - 1) ** 2)

    def halve(run):
        return run._replace(opt_state=rescale_learning_rate(run.opt_state, 0.5, group="rest"))

    def run(optimizer, epochs, folder=None):
        options = dict(batch_size=6, key=KEY, callbacks=[halve], checkpoint=folder, progress=False)
        return ewa_optax.fit(loss, wrap(optimizer), params, DATA, epochs=epochs, **options)

    labels = groups(rules).labels(params)
    expected = run(optax.partition({name: optimizer for name, (_, optimizer) in rules.items()}, labels), 3)
    run(groups(rules), 1, tmp_path / "run")
    found = run(groups(rules), 3, tmp_path / "run")
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal_structs(found.opt_state, expected.opt_state)
    chex.assert_trees_all_close(found.history.learning_rates, expected.history.learning_rates, rtol=1e-6)
