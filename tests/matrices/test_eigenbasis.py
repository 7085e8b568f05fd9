"""Pieces in the basis of a matrix's eigenvectors, and SOAP, which is Adam there."""

import re

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from cases import with_eigenvectors
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from runs import (
    assert_close_in_size,
    followed,
    gradients_like,
    roughly_compiled,
    run_updates,
    trained,
)

import ewa_optax
from ewa_optax import matrices, pieces, storage

NUMBERS = dict(learning_rate=0.1, b1=0.9, b2=0.95, shampoo_decay=0.9, eps=1e-8, weight_decay=1e-2)
# Of the last, one side is longer than what is rotated: on that side the eigenvectors of a null space would be anything.
SHAPES = {"real": (8, 8), "complex": (8, 8), "of_one_side": (8, 10)}
OPTIMIZER = ewa_optax.soap(**NUMBERS, max_size=8, axes=(0, 1))
EIGHT_BIT = storage.EightBit(min_size=0)


@pytest.mark.parametrize("bits", [32, 64])
def test_soap_equals_the_code_of_its_paper(bits):
    """Which turns one moment and permutes the other, where here the columns of a basis keep their places."""
    gradients = {name: with_eigenvectors(200, shape, name == "complex") for name, shape in SHAPES.items()}
    params = {name: g[7] for name, g in gradients.items()}
    exact, started = (
        jax.tree.map(lambda x: x.astype(complex if np.iscomplexobj(x) else float), tree) for tree in (gradients, params)
    )
    with jax.enable_x64(bits == 64):
        given = (started, exact) if bits == 64 else (params, gradients)
        updates = run_updates(OPTIMIZER, *given, jit=roughly_compiled)
    for name, g in exact.items():
        expected = oracles.soap(g, started[name], **NUMBERS, max_size=8)
        assert_close_in_size(updates[name], expected, 2e-4 if bits == 32 else 1e-10)


def test_each_matrix_of_a_batch_and_of_a_stack_is_taken_by_itself():
    each = {f"layer_{i}": {"kernel": with_eigenvectors(24, (6, 6), seed=i)} for i in range(3)}
    first = jax.tree.map(lambda g: g[0], each)
    batch = {"kernel": np.stack([x["kernel"] for x in each.values()], axis=1)}
    turned = {"kernel": batch["kernel"].transpose(0, 3, 2, 1)}  # Outputs, inputs, batch.
    optimizers = ewa_optax.soap(0.1), ewa_optax.soap(0.1, axes=(1, 2)), ewa_optax.soap(0.1, axes=(1, 0))

    @roughly_compiled
    def ends(each, batch, turned):
        stacked = jax.vmap(ewa_optax.stack_leaves)(each), ewa_optax.stack_leaves(first)
        of_first = [jax.tree.map(lambda g: g[0], x) for x in (batch, turned)]
        trees = (first, each), (of_first[0], batch), (of_first[1], turned)
        made = [followed(o, *tree)[0][0] for o, tree in zip(optimizers, trees, strict=True)]
        return [*made, ewa_optax.unstack_leaves(followed(optimizers[0], stacked[1], stacked[0])[0][0])]

    alone, in_batch, in_turned, in_stack = ends(each, batch, turned)
    expected = np.stack([x["kernel"] for x in alone.values()])
    np.testing.assert_allclose(in_batch["kernel"], expected, atol=1e-4)
    np.testing.assert_allclose(in_turned["kernel"].transpose(2, 1, 0), expected, atol=1e-4)
    chex.assert_trees_all_close(in_stack, alone, atol=1e-4)


def test_the_first_step_makes_the_basis_and_nothing_else():
    gradients, params = with_eigenvectors(2, (6, 6)), jnp.ones((6, 6))
    inner, outer = optax.chain(pieces.take(1), ewa_optax.scale_by_ewa(0.9)), ewa_optax.scale_by_ewa(0.5)
    piece = matrices.in_eigenbasis(inner, 0.9, unrotated=outer)
    state = piece.init(params)
    updates, after = piece.update(gradients[0], state)
    chex.assert_trees_all_equal(updates, jnp.zeros((6, 6)))
    chex.assert_trees_all_equal((after.unrotated, after.piece), (state.unrotated, state.piece))
    left, right = after.bases
    turned = left.T @ gradients[0] @ right
    np.testing.assert_allclose(np.abs(turned), np.diag(np.abs(np.diag(turned))), atol=1e-5)
    updates, _ = piece.update(gradients[1], after)
    np.testing.assert_allclose(updates, 0.5 * 0.1 * gradients[1], atol=1e-5)  # And back.


def test_bases_stay_orthogonal_whatever_rounds_the_averages():
    gradients = {"kernel": with_eigenvectors(60, (32, 32))}
    piece = matrices.in_eigenbasis(optax.scale_by_sign(), ewa_optax.scale_by_ewa(0.9, EIGHT_BIT), every=3)
    _, state = trained(piece, {"kernel": jnp.zeros((32, 32))}, gradients)
    for (basis,) in map(jax.tree.leaves, state.bases):
        np.testing.assert_allclose(basis.T @ basis, np.eye(32), atol=1e-5)


@pytest.mark.parametrize("kept", [None, EIGHT_BIT], ids=["float32", "8 bits"])
def test_soap_takes_no_long_step_along_what_has_no_gradient(kept):
    """Of the layer in front of a softmax each row of gradients sums to zero: rounded momentum would not."""
    gradients = np.random.default_rng(0).standard_normal((60, 32, 32)).astype(np.float32)
    gradients -= gradients.mean(axis=2, keepdims=True)
    optimizer = ewa_optax.soap(1.0, weight_decay=0.0, storage=kept)
    updates = run_updates(optimizer, np.zeros((32, 32), np.float32), gradients, roughly_compiled)
    assert np.abs(updates).max() < 10


def test_soap_with_averages_in_8_bits_stays_near():
    gradients, params = with_eigenvectors(60, (32, 32)), np.zeros((32, 32), np.float32)
    rounded, full = (
        run_updates(ewa_optax.soap(0.1, storage=kept), params, gradients, roughly_compiled)
        for kept in (EIGHT_BIT, None)
    )
    assert np.sqrt(np.mean((rounded - full) ** 2) / np.mean(full**2)) < 0.3


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e18])
def test_the_basis_does_not_depend_on_the_size_of_gradients(size):
    gradients = with_eigenvectors(22, (6, 6))
    piece = matrices.in_eigenbasis(optax.scale_by_sign(), 0.9)
    unit, scaled = (trained(piece, jnp.zeros((6, 6)), g)[1].bases for g in (gradients, gradients * np.float32(size)))
    chex.assert_trees_all_close(jax.tree.map(jnp.abs, scaled), jax.tree.map(jnp.abs, unit), atol=1e-3)


def test_a_side_that_is_long_and_a_side_of_one_are_not_rotated():
    params = {"long": jnp.ones((9, 4)), "row": jnp.ones(5)}
    optimizer = ewa_optax.soap(0.1, max_size=8, axes={"long": (0, 1), "row": ((), 0)})
    state = jax.eval_shape(optimizer.init, params)[1]
    assert jax.tree.map(jnp.shape, state.bases) == ({"long": None, "row": None}, {"long": (4, 4), "row": (5, 5)})
    # Two moments, two matrices of each side that is rotated, and some numbers.
    assert 0 < ewa_optax.state_bytes(optimizer, params) - 4 * 41 * 2 - 8 * (16 + 25) < 4 * 10


def test_a_leaf_without_a_gradient_keeps_its_basis():
    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
    optimizer = ewa_optax.soap(0.1, every=1)
    gradients = gradients_like(params, 0)
    _, state = optimizer.update(gradients, optimizer.init(params), params)
    updates, after = optimizer.update(gradients_like(params, 1) | {"a": None}, state, params)
    assert updates["a"] is None
    for before, now in zip(state[1].bases, after[1].bases, strict=True):
        chex.assert_trees_all_equal(before["a"], now["a"])
        assert not np.array_equal(before["b"], now["b"])


@pytest.mark.parametrize(("platform", "solver"), [("cuda", "cusolver_syevd"), ("tpu", "Eigh")])
def test_soap_lowers_for(platform, solver):
    params = {"kernel": jnp.ones((64, 96))}
    optimizer = ewa_optax.soap(0.1, storage="8bit")
    state = jax.eval_shape(optimizer.init, params)
    made = jax.export.export(jax.jit(optimizer.update), platforms=[platform])(params, state, params)
    assert solver in made.mlir_module()


# Of a matrix that is divided, three are put together: gradient, momentum and step. Of a batch, none.
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize(
    ("shape", "spec", "gathers"),
    [((16, 24), (None, "x"), 3), ((8, 16, 24), ("x", None, None), 0)],
    ids=["one", "batch"],
)
def test_collectives(kind, shape, spec, gathers):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(getattr(AxisType, kind),))
    optimizer = ewa_optax.soap(0.1, axes=(-2, -1))
    with jax.set_mesh(mesh):
        params = {"kernel": jax.device_put(jnp.ones(shape), NamedSharding(mesh, PartitionSpec(*spec)))}
        state = optimizer.init(params)
        lowered = roughly_compiled(optimizer.update).lower(params, state, params)
        text = lowered.compile().as_text()
        after = jax.eval_shape(optimizer.update, params, state, params)[1]
        if kind == "Explicit":
            leaves = zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True)
            assert all(jax.typeof(before).sharding.spec == now.sharding.spec for before, now in leaves if now.ndim)
    found = re.findall(r" (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(", text)
    assert found == ["all-gather"] * gathers


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match=r"soap: every must be a whole number, 1 or more, got 0"):
        ewa_optax.soap(0.1, every=0)
    with pytest.raises(ValueError, match=r"in_eigenbasis: max_size must be from 1"):
        ewa_optax.soap(0.1, max_size=0)
    with pytest.raises(ValueError, match=r"in_eigenbasis: average must be in \[0, 1\), got 1.0"):
        matrices.in_eigenbasis(optax.identity(), 1.0)
    with pytest.raises(TypeError, match="in_eigenbasis: piece must be a transformation"):
        matrices.in_eigenbasis(lambda u: u, 0.9)
    with pytest.raises(ValueError, match="is no matrix; give it another optimizer"):
        ewa_optax.soap(0.1).init({"bias": jnp.ones(3)})


def test_how_the_state_lies_is_known_before():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,))
    lies = NamedSharding(mesh, PartitionSpec("x", None, None))
    params = {"kernel": jax.ShapeDtypeStruct((8, 16, 24), jnp.float32, sharding=lies)}
    found = ewa_optax.state_shardings(ewa_optax.soap(0.1, axes=(1, 2)), params)
    specs = {x.spec for x in jax.tree.leaves(found[1])}
    assert specs == {PartitionSpec(), PartitionSpec("x", None, None)}
