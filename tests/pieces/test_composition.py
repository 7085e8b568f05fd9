"""Optimizers of one's own: of the words that those of the library are made of, and as good as these."""

import ast
import dataclasses
import importlib
import inspect
import types
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import own
import pytest

import ewa_optax
from ewa_optax import matrices, pieces, stack_leaves, storage, unstack_leaves
from ewa_optax._optimizers import OPTIMIZERS
from ewa_optax.pieces import (
    add_decayed_weights,
    beside,
    bias_correct,
    combine,
    elementwise,
    optimizer,
    read_average,
    recursion,
    saturate,
    scale_by_corrected_ewa,
    scale_by_ewa,
    scale_by_learning_rate,
    scale_by_rms,
    scale_once,
)
from ewa_optax.storage import BFloat16
from ewa_optax.storage._argument import NAMED as NAMES

FAMILIES = ("momentum", "rmsprop", "adam", "layerwise", "muon")
FACES = {
    "ewa_optax": ewa_optax,
    "ewa_optax.matrices": matrices,
    "ewa_optax.pieces": pieces,
    "ewa_optax.storage": storage,
}


def face_of(name, value):
    """The public module that has this value under this name."""
    return next(
        (module for module, face in FACES.items() if name in face.__all__ and getattr(face, name) is value), None
    )


def in_public_words(module):
    """The source of a module of the package, in which each import from the package is one that a user could write."""
    tree = ast.parse(inspect.getsource(module))
    found, rest = [], []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("ewa_optax"):
            faces = {x.name: face_of(x.name, vars(module)[x.name]) for x in node.names}
            assert all(faces.values()), f"{module.__name__} needs what is not public: {faces}"
            found += [ast.ImportFrom(face, [ast.alias(name)], 0) for name, face in faces.items()]
        else:
            rest.append(node)
    return ast.unparse(ast.Module([*found, *rest], []))


@pytest.mark.parametrize("family", FAMILIES)
def test_all_are_made_of_words_that_users_have(family):
    module = importlib.import_module(f"ewa_optax._optimizers.{family}")
    rewritten = {"__name__": "users"}
    exec(compile(in_public_words(module), "users", "exec"), rewritten)
    params = {"w": jnp.ones((4, 8)), "b": jnp.ones((1, 8))}
    own_names = [name for name, x in OPTIMIZERS.items() if x.__module__ == module.__name__]
    assert own_names
    for name in own_names:
        theirs, ours = rewritten[name](0.1), OPTIMIZERS[name](0.1)
        programs = [
            str(jax.make_jaxpr(lambda g, p, x=x: x.update(g, x.init(p), p))(params, params)) for x in (theirs, ours)
        ]
        assert programs[0] == programs[1], name


def test_that_test_can_fail():
    fake = types.ModuleType("fake")
    source = "from ewa_optax._trees import map_leaves\n"
    exec(source, vars(fake))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "getsource", lambda module: source)
        with pytest.raises(AssertionError, match=r"needs what is not public: {'map_leaves': None}"):
            in_public_words(fake)


def test_every_optimizer_is_made_by_optimizer():
    for family in FAMILIES:
        module = importlib.import_module(f"ewa_optax._optimizers.{family}")
        for function in ast.parse(inspect.getsource(module)).body:
            if isinstance(function, ast.FunctionDef):
                assert ast.unparse(function.body[-1]).startswith("return optimizer("), function.name


OWN = [getattr(own, name) for name in ("adopt", "cautious_adamw", "adam_of_rows", "grokfast", "momentum_of_clipped")]


def test_those_of_users_are_short_and_of_public_words():
    tree = ast.parse(Path(own.__file__).read_text())
    imports = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not [name for name in imports if "._" in name]
    assert "_" not in {name[0] for node in ast.walk(tree) if isinstance(node, ast.Attribute) for name in [node.attr]}
    for function in OWN:
        lines = [x for x in inspect.getsource(function).splitlines() if x.strip() and not x.strip().startswith('"""')]
        assert len(lines) <= 13, function.__name__  # With the line of the decorator.


# A chain of one's own is the optimizer of that name, to the last bit.


def adam(rate):
    m, v = scale_by_ewa(0.9), scale_by_corrected_ewa(0.999)
    return optimizer(scale_by_rms(v, numerator=m), scale_once(scale_by_learning_rate(rate), bias_correct(0.9)))


def adamw(rate):
    m, v = scale_by_corrected_ewa(0.9), scale_by_corrected_ewa(0.999)
    return optimizer(scale_by_rms(v, numerator=m), add_decayed_weights(1e-4), scale_by_learning_rate(rate))


def rmsprop(rate):
    return optimizer(scale_by_rms(0.9), scale_by_learning_rate(rate))


def momentum(rate):
    return optimizer(scale_by_ewa(0.9), scale_by_learning_rate(rate), guard=saturate())


def lion(rate):
    direction = beside(scale_by_ewa(0.99)), combine(1 - 0.9 / 0.99, 0.9 / 0.99), optax.scale_by_sign()
    return optimizer(*direction, add_decayed_weights(1e-3), scale_by_learning_rate(rate), guard=saturate())


def gradients(t, scale):
    rng = np.random.default_rng(t)
    tree = {f"w{i}": np.float32(scale * rng.standard_normal((3, 4))) for i in range(3)}
    tree["half"] = rng.standard_normal(5).astype(jnp.bfloat16)
    return tree | {"spiked": np.float32([1e25 if t == 1 else 0.5, -1e38 if t == 2 else -0.5])}


@pytest.mark.parametrize("make", [adam, adamw, rmsprop, momentum, lion])
def test_a_chain_by_hand_is_the_optimizer_of_that_name(make):
    steps = jax.tree.map(lambda *xs: np.stack(xs), *(gradients(t, 1.0) for t in range(5)))

    def follow(tx, stack):
        def step(carry, g):
            params, state = carry
            updates, state = tx.update(stack(g), state, params)
            return (optax.apply_updates(params, updates), state), None

        start = stack(gradients(9, 1.0))
        return jax.lax.scan(step, (start, tx.init(start)), steps)[0]

    @jax.jit
    def all_ways():
        return [
            [unstack_leaves(follow(tx, stack)) for stack in (lambda tree: tree, stack_leaves)]
            for tx in (make(0.1), OPTIMIZERS[make.__name__](0.1))
        ]

    mine, named = all_ways()
    for a, b in zip(mine, named, strict=True):
        chex.assert_trees_all_equal(a, b)
    assert np.isfinite(mine[0][0]["spiked"]).all()
    chex.assert_trees_all_close(*mine, rtol=1e-6)


# A recursion of one's own.


def running_sum(kept, update, step):
    return kept + update, kept + update / step


def test_a_recursion_gets_wide_arrays_and_the_step_from_one():
    seen = []

    def advance(kept, update, step):
        seen.append((kept.dtype.name, update.dtype.name, step.dtype.name))
        return kept + update, step * update

    piece = recursion(advance)
    params = {"a": jnp.zeros(3, jnp.bfloat16), "b": None, "c": jnp.zeros((), jnp.complex64)}
    state = piece.init(params)
    for t in (1, 2):
        out, state = piece.update(jax.tree.map(jnp.ones_like, params), state)
        assert out["b"] is None
        chex.assert_trees_all_equal(out["a"], jnp.full(3, t, jnp.bfloat16))
    assert set(seen) == {("float32", "float32", "int32"), ("complex64", "complex64", "int32")}
    assert state.kept["a"].dtype == jnp.float32
    chex.assert_trees_all_equal(state.kept["c"], jnp.array(2, jnp.complex64))


def test_two_recursions_in_one_optimizer_never_share_their_chance():
    kept = BFloat16(min_size=0)
    same = recursion(running_sum, kept)
    params = jnp.zeros(2000)
    for tx in (
        optimizer(same, same, guard=None),
        optimizer(optax.chain(same, optax.masked(same, True)), guard=None),
        optimizer(optimizer(same, guard=None), optimizer(same, guard=None), guard=None),
    ):
        # Both keep the same number of each element, which has no bfloat16.
        state = jax.tree.map(lambda x: x, tx.init(params))
        states = [x for x in jax.tree.leaves(state, is_leaf=is_recursion) if is_recursion(x)]
        assert sorted(int(x.number) for x in states) == [0, 1]
        rounded = [same.update(params + 1.001, x)[1].kept.arrays[0] for x in states]
        assert not (rounded[0] == rounded[1]).all()
        assert 0.3 < np.mean(np.equal(*rounded)) < 0.95


def is_recursion(x):
    return hasattr(x, "number")


def test_the_same_optimizer_made_anew_has_the_same_chance():
    kept = BFloat16(min_size=0)
    states = []
    for _ in range(2):
        tx = optimizer(recursion(running_sum, kept), recursion(running_sum, kept), guard=None)
        state = tx.init(jnp.zeros(100))
        states.append(tx.update(jnp.linspace(1, 2, 100), state)[1])
    chex.assert_trees_all_equal(*states)


def test_functions_of_other_names_have_another_chance():
    def other(kept, update, step):
        return running_sum(kept, update, step)

    found = [
        piece.update(jnp.full(1000, 1.001), piece.init(jnp.zeros(1000)))[1].kept.arrays[0]
        for piece in (recursion(f, BFloat16(min_size=0)) for f in (running_sum, other))
    ]
    assert not (found[0] == found[1]).all()


@pytest.mark.parametrize(
    ("advance", "error", "message"),
    [
        (lambda k, u, t: k, TypeError, "advance must return what is kept and what leaves"),
        (lambda k, u, t: (k.sum(), u), ValueError, r"for what is kept, an array of shape \(\) where \(3,\) came"),
        (lambda k, u, t: (k, u[:2]), ValueError, r"for what leaves, an array of shape \(2,\) where \(3,\) came"),
        (lambda k, u, t: (k + 1j, u), TypeError, r"for what is kept, complex numbers where real ones came"),
        (lambda k, u, t: (k, u * 1j), TypeError, r"for what leaves, complex numbers where real ones came"),
        (lambda k, u, t: (None, u), TypeError, "advance returned None for what is kept"),
    ],
)
def test_what_a_recursion_must_return(advance, error, message):
    piece = recursion(advance)
    with pytest.raises(error, match=message):
        piece.update(jnp.ones(3), piece.init(jnp.ones(3)))


def test_what_is_no_float_becomes_one():
    piece = recursion(lambda kept, update, step: (kept + 1, update > 0))
    out, state = piece.update(jnp.array([1.0, -1.0]), piece.init(jnp.ones(2)))
    chex.assert_trees_all_equal((out, state.kept), (jnp.array([1.0, 0.0]), jnp.ones(2)))
    chex.assert_trees_all_equal(elementwise(jnp.isnan).update(jnp.ones(2), optax.EmptyState())[0], jnp.zeros(2))


def test_arrays_of_numpy_in_a_function_are_arrays():
    of = jax.tree_util.Partial(lambda factor, u: factor * u, np.array([2.0, 3.0], np.float32))
    chex.assert_trees_all_equal(elementwise(of).update(jnp.ones(2), optax.EmptyState())[0], jnp.array([2.0, 3.0]))


def test_a_state_of_numpy_has_the_same_chance():
    tx = optimizer(recursion(running_sum, BFloat16(min_size=0)), recursion(running_sum, BFloat16(min_size=0)))
    x = jnp.linspace(0.1, 1, 100)
    state = tx.update(x, tx.init(x))[1]
    chex.assert_trees_all_equal(tx.update(x, jax.device_get(state))[1], tx.update(x, state)[1])


def test_a_recursion_of_no_function():
    with pytest.raises(TypeError, match=r"recursion: advance must be a function, got 0\.9"):
        recursion(0.9)


# What keeps nothing.


def test_elementwise_of_two_behind_beside_and_of_any_leaf():
    tx = optax.chain(beside(optax.scale(2.0)), elementwise(lambda g, x: g * x))
    updates = {"a": jnp.array([1.0, 3.0], jnp.float16), "b": None}
    out, _ = tx.update(updates, tx.init(updates))
    chex.assert_trees_all_equal(out, {"a": jnp.array([2.0, 18.0], jnp.float16), "b": None})
    with pytest.raises(ValueError, match=r"returned, for an update, an array of shape \(\) where \(2,\) came"):
        elementwise(jnp.sum).update(updates, optax.EmptyState())
    with pytest.raises(TypeError, match="function must be a function"):
        elementwise(1.0)
    with pytest.raises(TypeError, match="for an update, complex numbers where real ones came"):
        elementwise(lambda u: u * 1j).update(updates, optax.EmptyState())
    with pytest.raises(TypeError, match="returned None for an update"):
        elementwise(lambda u: None).update(updates, optax.EmptyState())


def test_one_update_may_be_made_of_two_by_an_optimizer_or_a_quotient():
    two, x = beside(optax.scale(2.0)), jnp.array([1.0, 3.0])
    for end, expected in (
        (optimizer(combine(1, 1)), 3 * x),
        (scale_by_rms(optax.chain(pieces.take(0), scale_by_ewa(0.0)), 0.0, numerator=pieces.take(1)), [2.0, 2.0]),
    ):
        tx = optax.chain(two, end)
        np.testing.assert_allclose(tx.update(x, tx.init(x))[0], expected, rtol=1e-6)


@pytest.mark.parametrize("storages", [None, "bfloat16"])
def test_a_chain_that_ends_with_two_is_an_error(storages):
    params = jnp.ones(3)
    two = beside(scale_by_ewa(0.9, storages))
    for end in (optimizer(two), scale_by_rms(0.9, numerator=two), scale_by_rms(two)):
        with pytest.raises(TypeError, match=r"end with an update and what stands beside it.*take\(\.\.\.\)"):
            end.update(params, end.init(params), params)


def test_bad_optimizers():
    with pytest.raises(ValueError, match="optimizer: there must be one piece or more"):
        optimizer()
    with pytest.raises(TypeError, match=r"optimizer: every piece must be a transformation, got 0\.9"):
        optimizer(0.9)
    with pytest.raises(TypeError, match="optimizer: guard must be a transformation, got 'none'; try saturate"):
        optimizer(scale_by_ewa(0.9), guard="none")
    with pytest.raises(ValueError, match="saturate: power must be from 1 to"):
        saturate(0)


# Averages of squares know that they are.


@pytest.mark.parametrize("name", ["8bit", "float16"])
def test_an_average_of_squares_that_would_be_kept_as_one_of_gradients_is_an_error(name):
    wrong = scale_by_corrected_ewa(0.999, of_any_size(name))
    right = scale_by_corrected_ewa(0.999, storage.for_squares(of_any_size(name)))
    params = jnp.zeros(16)
    for make in (scale_by_rms, pieces.root_mean_square, lambda x: scale_by_rms(optax.chain(x, bias_correct(0.999)))):
        with pytest.raises(ValueError, match=r"average of squares can't be kept by .*storage.second_moment\(\.\.\.\)"):
            make(wrong).init(params)
        make(right).init(params)
    scale_by_rms(0.999, numerator=scale_by_ewa(0.9, of_any_size(name))).init(params)


def of_any_size(name):
    return dataclasses.replace(NAMES[name], min_size=0)


@pytest.mark.parametrize("name", [None, *NAMES])
def test_what_an_average_keeps_can_be_read(name):
    kept = name and of_any_size(name)
    tx = ewa_optax.adam(0.1, storage=kept)
    params = {"a": jnp.zeros((4, 64)), "b": None}
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update({"a": jnp.full((4, 64), 2.0), "b": None}, state)
    m = read_average(state[1].numerator.average, storage.first_moment(kept))
    v = read_average(state[1].second_moment.average, storage.second_moment(kept))
    assert m["b"] is None
    np.testing.assert_allclose(m["a"].mean(), 2 * (1 - 0.9**3), rtol=2e-2)
    np.testing.assert_allclose(v["a"].mean(), 4.0, rtol=2e-2)
    assert m["a"].dtype == v["a"].dtype == jnp.float32
    wrong = {"8bit": storage.second_moment(kept), None: of_any_size("8bit")}.get(name)
    with pytest.raises(ValueError, match="storage"):
        read_average(state[1].numerator.average, of_any_size("24bit" if name == "8bit" else "8bit"))
    if wrong:
        with pytest.raises(ValueError, match="storage"):
            read_average(state[1].numerator.average, wrong)


@pieces.checked
def halved(decay: pieces.Decay | None = None, *others: pieces.Decay, **named: pieces.Decay):
    return decay


def test_rules_of_several_kinds_and_of_many_arguments():
    assert halved() is None
    assert halved(0.5, 0.5, x=0.5) == 0.5
    for call in (lambda: halved(5.0), lambda: halved(0.5, 5.0), lambda: halved(x=5.0)):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\), got 5\.0"):
            call()


def test_rules_in_a_module_with_future_annotations():
    source = "from __future__ import annotations\n@checked\ndef f(decay: Decay):\n    return decay\n"
    module = {"checked": pieces.checked, "Decay": pieces.Decay}
    exec(compile(source, "future", "exec", dont_inherit=True), module)
    with pytest.raises(ValueError, match=r"f: decay must be in \[0, 1\)"):
        module["f"](5.0)
