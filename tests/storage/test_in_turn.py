"""Steps that take one leaf after the other: the numbers of steps that don't, at the peak that was promised."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import STORED, Case
from helpers import ROUGHLY

import ewa_optax
from benchmarks import trees
from ewa_optax import pieces
from ewa_optax.storage import _in_turn

PEAKS = {"bfloat16": 12.5, "24bit": 14.6, "8bit": 10.6}
"""Bytes a parameter, besides 4 more for each number of the largest leaf: parameters, gradients, and what is kept."""

TREES = {
    "one leaf": trees.equal_leaves(1, 8_000_000),
    "six leaves": trees.equal_leaves(6, 2_000_000),
    "GPT-2": trees.gpt2(),
    "1000 leaves": trees.equal_leaves(1000, 10_000),
}
LARGE = ("GPT-2", "1000 leaves")


def shapes_of(name):
    return {leaf: jax.ShapeDtypeStruct(shape, jnp.float32) for leaf, shape in TREES[name].items()}


def sizes(params):
    found = [x.size for x in jax.tree.leaves(params)]
    return sum(found), max(found)


@pytest.mark.parametrize("storage", PEAKS)
@pytest.mark.parametrize("tree", [pytest.param(x, marks=pytest.mark.slow if x in LARGE else ()) for x in TREES])
def test_a_step_decodes_one_average_of_one_leaf_at_a_time(tree, storage):
    params = shapes_of(tree)
    numbers, largest = sizes(params)
    peak = ewa_optax.peak_bytes(ewa_optax.adamw(1e-3, storage=storage), params)
    assert peak <= PEAKS[storage] * numbers + 4 * largest


@pytest.mark.parametrize("tree", ["one leaf", "six leaves"])
def test_float32_takes_what_it_takes_in_optax(tree):
    params = shapes_of(tree)
    ours, theirs = (ewa_optax.peak_bytes(x.adamw(1e-3), params) for x in (ewa_optax, optax))
    assert ours <= theirs + 100


@pytest.mark.parametrize("storage", PEAKS)
def test_given_gradients_take_no_more_than_one_leaf_besides(storage):
    params = shapes_of("six leaves")
    optimizer = ewa_optax.adamw(1e-3, storage=storage)

    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimizer.init, params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    numbers, largest = sizes(params)
    assert compiled.memory_analysis().temp_size_in_bytes <= 4 * largest + 0.5 * numbers


def tree_of(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = {"a": (64, 128), "b": (9000,), "of one shape with a": (64, 128), "small": (3,), "number": ()}
    return {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}


def gradients_of(params, step):
    return jax.tree.map(lambda x: (jnp.sin(3 * x + step) * jnp.exp(x)).astype(x.dtype), params)


def a_step(optimizer):
    """With its gradient, in one program."""

    @functools.partial(jax.jit, compiler_options=ROUGHLY)
    def step(params, state, number):
        updates, state = optimizer.update(gradients_of(params, number), state, params)
        return optax.apply_updates(params, updates), state

    return step


def both_ways(optimizer, params, monkeypatch, before=3):
    """A step from one state, leaf after leaf and as the pieces are written."""
    in_turn = a_step(optimizer)
    state = optimizer.init(params)
    for number in range(before):
        params, state = in_turn(params, state, np.float32(number))
    found = [in_turn(params, state, np.float32(before))]
    monkeypatch.setattr(_in_turn, "_is_for", lambda updates, state: False)
    return [*found, a_step(optimizer)(params, state, np.float32(before))]


def assert_same(one, other, most=0.01):
    """Numbers to a last digit or two; and of codes so large a share, at most, is another.

    Where a number lies between two codes, the last rounding of a float32 decides which it gets, and in another loop it
    may be another one: in 24 bits for one in 256 of such numbers. By other random bits a third of all were others.
    """
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert (a == b).all()
        elif a.dtype.itemsize < 4:
            assert np.sum(np.asarray(a) != np.asarray(b)) <= most * a.size
        else:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.nanmax(np.abs(b), initial=0.0))


# What is kept of each element, of three storages; norms of a leaf; and what two averages share.
OF_EACH = ("adamw-24bit", "rmsprop-float16", "lamb-8bit", "adan-bfloat16")


def chosen(case: Case):
    return pytest.param(case, marks=() if case.name in OF_EACH else pytest.mark.slow, id=case.name)


@pytest.mark.parametrize("case", [*map(chosen, STORED)])
def test_every_optimizer_keeps_the_same_codes_leaf_after_leaf(case, monkeypatch):
    one, other = both_ways(case.optimizer(), tree_of(), monkeypatch)
    assert_same(one, other)


def test_the_quick_cases_are_among_all():
    assert {*OF_EACH} <= {case.name for case in STORED}


def kept_in_8_bits(*before):
    kept = pieces.scale_by_rms(
        pieces.scale_by_corrected_ewa(0.99, ewa_optax.storage.second_moment("8bit")),
        numerator=pieces.scale_by_ewa(0.9, "8bit"),
    )
    return pieces.optimizer(*before, kept, pieces.scale_by_learning_rate(0.1))


def all_but_b(params):
    return {name: name != "b" for name in params}


CHAINS = {
    "a norm of all leaves before": lambda: kept_in_8_bits(optax.clip_by_global_norm(1.0)),
    "a norm of all leaves behind": lambda: optax.chain(kept_in_8_bits(), optax.clip_by_global_norm(0.01)),
    "noise, by a key in the state": lambda: kept_in_8_bits(optax.add_noise(0.1, 0.5, jax.random.key(0))),
    "leaves that are masked": lambda: optax.chain(optax.masked(kept_in_8_bits(), all_but_b), optax.scale(-0.01)),
    "a decay with a mask": lambda: kept_in_8_bits(pieces.add_decayed_weights(0.1, mask=all_but_b)),
    "once in two steps": lambda: optax.MultiSteps(kept_in_8_bits(), 2),
    "arguments of a schedule": lambda: optax.inject_hyperparams(lambda rate: ewa_optax.adam(rate, storage="8bit"))(0.1),
    "two kinds of storage": lambda: ewa_optax.adam(0.1, storage=("24bit", "8bit")),
    "what is left out at steps that are not finite": lambda: optax.apply_if_finite(kept_in_8_bits(), 3),
    "an average of parameters": lambda: optax.chain(
        kept_in_8_bits(), ewa_optax.average_parameters(0.9, storage="24bit")
    ),
}


OFTEN = ("a norm of all leaves before", "once in two steps", "an average of parameters")


@pytest.mark.parametrize("name", [pytest.param(x, marks=() if x in OFTEN else pytest.mark.slow) for x in CHAINS])
def test_chains_of_all_kinds_keep_the_same_codes(name, monkeypatch):
    one, other = both_ways(CHAINS[name](), tree_of(), monkeypatch)
    assert_same(one, other)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.complex64, marks=pytest.mark.slow)])
def test_other_parameters_too(dtype, monkeypatch):
    one, other = both_ways(kept_in_8_bits(), tree_of(dtype), monkeypatch)
    assert_same(one, other)


def test_leaves_without_gradients_and_without_numbers_stay():
    params = tree_of() | {"empty": jnp.zeros((0, 64))}
    optimizer = kept_in_8_bits()

    @jax.jit
    def step(gradients, state):
        return optimizer.update(gradients | {"b": None}, state, params)

    state = optimizer.init(params)
    updates, after = step(gradients_of(params, 1.0), state)
    assert updates["b"] is None
    assert updates["empty"].shape == (0, 64)
    for before, now in zip(*(s[1].numerator.average.arrays for s in (state, after)), strict=True):
        np.testing.assert_array_equal(before["b"], now["b"])


def test_an_optimizer_in_an_optimizer_computes_nothing_twice():
    m, v = pieces.scale_by_ewa(0.99, "8bit"), pieces.scale_by_ewa(0.9, ewa_optax.storage.second_moment("8bit"))
    params = {str(i): jax.ShapeDtypeStruct((512, 128), jnp.float32) for i in range(2)}

    def branches(numerator):
        optimizer = pieces.optimizer(pieces.scale_by_rms(v, numerator=numerator))
        state = jax.eval_shape(optimizer.init, params)
        return jax.jit(optimizer.update).lower(params, state).compile().as_text().count(" conditional(")

    assert branches(pieces.optimizer(m, guard=None)) == branches(m) == 2 * 2 * len(params)


def test_leaves_that_get_one_update_are_one_group(monkeypatch):
    def together(updates, params):
        del params
        both = updates["a"] + updates["of one shape with a"]
        return updates | {"a": both, "of one shape with a": both}

    kept = pieces.optimizer(ewa_optax.adam(0.1, storage="8bit"), optax.stateless(together))
    assert_same(*both_ways(kept, tree_of(), monkeypatch))


def test_a_state_goes_on_where_nothing_is_trained():
    params = tree_of()
    optimizer = kept_in_8_bits()
    state = optimizer.init(params)
    updates, after = jax.jit(optimizer.update)(jax.tree.map(lambda p: None, params), state, params)
    assert jax.tree.leaves(updates) == []
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_what_is_printed_is_printed_in_its_order(capfd):
    def shown(u):
        jax.debug.print("the largest is {}", u.max(), ordered=True)
        return u

    optimizer = kept_in_8_bits(optax.stateless(lambda updates, params: jax.tree.map(shown, updates)))
    params = {"a": jnp.ones((64, 128)), "b": jnp.full((64, 128), 2.0)}
    jax.jit(optimizer.update)(params, optimizer.init(params))
    jax.effects_barrier()
    assert [line for line in capfd.readouterr().out.splitlines() if line] == [
        "the largest is 1.0",
        "the largest is 2.0",
    ]


def operations_of(optimizer, params, platform):
    """How often each stands in the program that is lowered, but for what chooses by the platform."""
    traced = jax.jit(optimizer.update).trace(params, jax.eval_shape(optimizer.init, params))
    found = collections.Counter(
        re.findall(r"(?:stablehlo|chlo)\.\w+", traced.lower(lowering_platforms=(platform,)).as_text())
    )
    return {name: count for name, count in found.items() if name.split(".")[1] not in ("case", "constant", "return")}


def test_accelerators_get_the_program_as_the_pieces_are_written(monkeypatch):
    optimizer, params = ewa_optax.adam(1e-3, storage="8bit"), {"a": jnp.ones((64, 128)), "b": jnp.ones(9000)}
    in_turn = {x: operations_of(optimizer, params, x) for x in ("cpu", "cuda", "tpu")}
    monkeypatch.setattr(_in_turn, "_is_for", lambda updates, state: False)
    jax.clear_caches()
    assert operations_of(optimizer, params, "cuda") == in_turn["cuda"]
    assert operations_of(optimizer, params, "tpu") == in_turn["tpu"]
    assert operations_of(optimizer, params, "cpu") != in_turn["cpu"]


@pytest.mark.parametrize("storage", ["24bit", "8bit"])
def test_no_average_of_a_leaf_is_decoded_before_the_one_before_is_kept(storage):
    """In the order in which XLA runs them, so that two are never there at once."""
    optimizer = ewa_optax.adam(1e-3, storage=storage)
    params = {str(i): jax.ShapeDtypeStruct((512, 128), jnp.float32) for i in range(3)}
    state = jax.eval_shape(optimizer.init, params)
    text = jax.jit(optimizer.update).lower(params, state).compile().as_text()
    entry = text[text.index("\nENTRY") :].splitlines()
    branches = [line.split(" conditional(")[0].split("= ")[1] for line in entry if " conditional(" in line]
    decoded = ["512,128" in kind and ("f32[512,128]" in kind or "u32[512,128]" in kind) for kind in branches]
    assert decoded == [True, False] * (len(branches) // 2)
    assert len(branches) == 2 * 2 * len(params)


def test_a_gradient_of_a_step_is_that_of_one_that_is_not_in_turn(monkeypatch):
    optimizer = functools.partial(pieces.optimizer, pieces.scale_by_ewa(0.9, "24bit"))
    params = {"a": jnp.ones((64, 128))}

    def after_two(rate):
        chain = optimizer(pieces.scale_by_learning_rate(rate))
        state, p = chain.init(params), params
        for number in range(2):
            updates, state = chain.update(gradients_of(p, number), state, p)
            p = optax.apply_updates(p, updates)
        return jnp.sum(p["a"])

    one = jax.jit(jax.grad(after_two))(0.1)
    monkeypatch.setattr(_in_turn, "_is_for", lambda updates, state: False)
    np.testing.assert_allclose(one, jax.jit(jax.grad(after_two))(0.1), rtol=1e-5)
