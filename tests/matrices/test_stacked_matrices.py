"""Matrices in stacks, in one program for many hyperparameters, and in each dtype."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ROUGHLY

import ewa_optax
from ewa_optax import matrices, stack_leaves, unstack_leaves
from ewa_optax._fit.stacked import stacked_form_for

jitted = functools.partial(jax.jit, compiler_options=ROUGHLY)

RNG = np.random.default_rng(0)
MAKE = {"muon": ewa_optax.muon, "normuon": ewa_optax.normuon, "muon_hyperball": ewa_optax.muon_hyperball}


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def layer():
    """Of which two leaves have one shape, and axes of their own."""
    return {"query": {"kernel": normal(4, 4, 4)}, "out": {"kernel": normal(4, 4, 4)}, "mlp": {"kernel": normal(4, 6)}}


def layers(number):
    return {f"layer_{i}": layer() for i in range(number)}


def labels_of(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: str(path[1]), params)


@pytest.mark.parametrize("make", MAKE)
def test_stacks_get_the_steps_of_their_leaves(make):
    optimizer, params, gradients = MAKE[make](0.1), layers(3), [layers(3) for _ in range(2)]

    @jitted
    def steps(params, gradients):
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return unstack_leaves((params, state))

    apart = functools.partial(stack_leaves, labels=labels_of(params))
    assert len(apart(params).stacks) == 3
    chex.assert_trees_all_close(
        steps(apart(params), [*map(apart, gradients)]), steps(params, gradients), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("make", MAKE)
def test_a_stack_of_matrices_along_different_axes_is_an_error_that_names_them(make):
    stacked = stack_leaves(layers(2))
    with pytest.raises(
        ValueError, match=r"\(\(0, 1\), \(2,\)\) of .*'out'.*, \(\(0,\), \(1, 2\)\) of .*'query'.* apart, by"
    ):
        MAKE[make](0.1).init(stacked)
    with pytest.raises(ValueError, match="stack them apart, by stack_leaves"):
        matrices.keep_norm().update(stacked, optax.EmptyState(), stacked)


def test_fit_stacks_matrices_along_different_axes_apart():
    """By the names of layers, numbers aside; and not at all where these do not tell."""
    params, x = jax.device_put((layers(11), normal(8, 4)))

    def loss(params, x):
        for layer in params.values():
            x = jnp.tanh(jnp.einsum("bi,ihd,hdo->bo", x, layer["query"]["kernel"], layer["out"]["kernel"]) / 16)
            x = x + (x @ layer["mlp"]["kernel"])[:, :4] / 4
        return jnp.mean((x - 1) ** 2)

    optimizer = ewa_optax.muon(0.1)
    assert len(stacked_form_for(optimizer, params).like[0].stacks) == 3
    run, expected = (
        ewa_optax.fit(loss, each, params, x, batch_size=8, epochs=2, key=jax.random.key(0), progress=False)
        for each in (optimizer, optax.chain(optimizer))
    )
    chex.assert_trees_all_close(run.params, expected.params, rtol=1e-4, atol=1e-5)
    assert set(run.params) == set(params)
    untold = jax.device_put({f"w{i}": normal(4, 4) for i in range(40)})
    by_number = ewa_optax.muon(0.1, axes=lambda path, leaf: (0, 1) if int(path[1:]) % 2 else (1, 0))
    assert stacked_form_for(by_number, untold).like is None
    assert stacked_form_for(ewa_optax.muon(0.1), untold).like is not None


def test_fit_stacks_the_groups_of_muon_with_adamw_apart():
    params = jax.device_put(layers(11) | {"head": {"kernel": normal(4, 6)}})
    found = stacked_form_for(ewa_optax.muon_with_adamw(0.1), params).like[0]
    assert sorted(len(names) for names in found.layout.names) == [1, 11, 11, 11]


def test_every_hyperparameter_may_be_an_array_of_many():
    params, gradients = {"kernel": normal(4, 6)}, {"kernel": normal(4, 6)}
    given = dict(learning_rate=0.1, decay=0.9, weight_decay=0.2, b2=0.8, eps=0.1)
    polynomials = np.float32([(3.4445, -4.7750, 2.0315), (1.5, -0.5, 0.0)])

    def one(numbers, polynomials, factor, epsilon):
        coefficients = matrices.Coefficients([tuple(each) for each in polynomials], factor)
        piece = matrices.orthogonalize(coefficients, 3, eps=epsilon)
        optimizer = optax.chain(piece, ewa_optax.normuon(**numbers, coefficients=coefficients, steps=2))
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(gradients, state, params)
        return updates["kernel"]

    scales = np.float32([1.0, 0.7])
    many = {name: value * scales for name, value in given.items()}
    factors, epsilons = np.float32([1.0, 1.3]), np.float32([1e-7, 0.1])
    both = jitted(jax.vmap(one))(many, np.stack([polynomials, 0.9 * polynomials]), factors, epsilons)
    for i, scale in enumerate(scales):
        of = {name: float(value * scale) for name, value in given.items()}
        alone = jitted(functools.partial(one, of))((polynomials, 0.9 * polynomials)[i], factors[i], epsilons[i])
        np.testing.assert_allclose(both[i], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("dtype", "within"), [("bfloat16", 2e-2), ("float16", 3e-3)])
def test_half_precision_of_parameters_of_the_iteration_and_of_both(dtype, within):
    """Rounding of products stays within some hundredths: it is no worse than that of gradients."""
    x = normal(3, 8, 12)

    @jitted
    def made(x):
        of = {None: matrices.orthogonalize(axes=(-2, -1)), dtype: matrices.orthogonalize(axes=(-2, -1), dtype=dtype)}
        return [of[each].update(y, of[each].init(y))[0] for each in (None, dtype) for y in (x, x.astype(dtype))]

    exact, *others = made(x)
    assert [y.dtype for y in others] == [dtype, np.float32, dtype]
    for y in others:
        error = np.asarray(y, np.float32) - exact
        assert np.sqrt(np.mean(error**2) / np.mean(exact**2)) < within
        assert np.abs(error).max() < 5 * within


def test_complex_matrices_become_unitary():
    x = {"kernel": normal(4, 6) + 1j * normal(4, 6), "w": normal(6, 4) + 1j * normal(6, 4)}
    piece = matrices.orthogonalize("polar_express", 12, dtype="bfloat16")
    made = jitted(lambda x: piece.update(x, piece.init(x))[0])(x)
    np.testing.assert_allclose(made["kernel"] @ made["kernel"].conj().T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(made["w"].conj().T @ made["w"], np.eye(4), atol=1e-5)
    u, _, vt = np.linalg.svd(np.complex128(x["kernel"]), full_matrices=False)
    np.testing.assert_allclose(made["kernel"], u @ vt, atol=1e-5)


def test_leaves_may_be_none_masked_or_empty():
    params = {"kernel": normal(4, 6), "none": None, "w": normal(0, 6), "masked": {"bias": normal(3)}}
    mask = {"kernel": True, "none": None, "w": True, "masked": False}
    for make in MAKE.values():
        optimizer = optax.masked(make(0.1), mask)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        assert updates["none"] is None
        assert updates["w"].shape == (0, 6)
        np.testing.assert_array_equal(updates["masked"]["bias"], params["masked"]["bias"])
        assert np.isfinite(updates["kernel"]).all()


@pytest.mark.parametrize("make", MAKE)
def test_spikes_pass_the_guard_and_what_is_no_number_stays_in_its_matrix(make):
    params = normal(3, 4, 6)
    optimizer = MAKE[make](0.1, axes=(-2, -1), dtype="float16")
    gradients = normal(3, 4, 6)
    gradients[0] *= 1e38

    @jitted
    def two(gradients, after):
        updates, state = optimizer.update(gradients, optimizer.init(params), params)
        return updates, optimizer.update(after, state, params)[0]

    for update in two(gradients, normal(3, 4, 6)):
        assert np.isfinite(update).all()
        assert np.abs(update).max() < 2
    for bad in (np.nan, np.inf):
        spoilt = gradients.copy()
        spoilt[1, 0, 0] = bad
        first = np.asarray(two(spoilt, gradients)[0])
        assert np.isfinite(first[[0, 2]]).all()
        assert np.isnan(first[1]).any() == np.isnan(bad)


def test_a_matrix_whose_squares_are_infinite_has_a_direction():
    x = 2e37 * np.float32([[1.0, 0.5], [0.25, 1.0]])
    piece = matrices.orthogonalize("polar_express", 10)
    made = jitted(lambda x: piece.update(x, piece.init(x))[0])(x)
    np.testing.assert_allclose(made @ made.T, np.eye(2), atol=1e-5)
