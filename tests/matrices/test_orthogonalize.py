"""Orthogonal matrices, by their definition, by the printed coefficients, and by other libraries."""

import functools
from pathlib import Path

import chex
import jax
import numpy as np
import optax
import oracles
import pytest
from cases import ROUNDS_MORE
from helpers import ROUGHLY

import ewa_optax
from ewa_optax import matrices, pieces

jitted = functools.partial(jax.jit, compiler_options=ROUGHLY)

RNG = np.random.default_rng(0)
BATCH = (-2, -1)
"""Axes of a matrix, or of a batch of matrices."""
PRINTED = {  # As in the papers: polynomials, the divisor of all but the last, and the factor of the norm.
    "jordan": ([(3.4445, -4.7750, 2.0315)], 1.0),
    "quintic": (
        [
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        ],
        1.0,
    ),
    "polar_express": (
        [
            (8.28721201814563, -23.595886519098837, 17.300387312530933),
            (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
            (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
            (3.3184196573706015, -2.488488024314874, 0.51004894012372),
            (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
            (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
            (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
            (1.875, -1.25, 0.375),
        ],
        1.01,
    ),
}


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def orthogonal(x, *arguments, axes=BATCH, **keywords):
    piece = matrices.orthogonalize(*arguments, axes=axes, **keywords)
    return piece.update(x, piece.init(x))[0]


def by_hand(x, name, steps):
    """Each singular value through the polynomials, in float64."""
    polynomials, factor = PRINTED[name]
    *first, last = polynomials
    divided = [(a / factor, b / factor**3, c / factor**5) for a, b, c in first]
    u, s, vt = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    s = s / (factor * np.sqrt(np.sum(s**2, -1, keepdims=True)) + 1e-7)
    for a, b, c in [*divided, *[last] * steps][:steps]:
        s = a * s + b * s**3 + c * s**5
    return (u * s[..., None, :]) @ vt


def conditioned(number, shape=(6, 10)):
    """A matrix with singular values from 1 down to one by that number."""
    u, _, vt = np.linalg.svd(RNG.standard_normal(shape), full_matrices=False)
    return ((u * np.geomspace(1, 1 / number, min(shape))) @ vt).astype(np.float32)


def of_oracle(x, coefficients):
    return np.stack([oracles.orthogonal(np.float64(each), coefficients) for each in x])


def close(x, expected, of_size):
    """Within a part of the size of what is expected."""
    np.testing.assert_allclose(x, expected, rtol=0, atol=of_size * np.abs(expected).max())


def test_thirty_steps_make_a_matrix_orthogonal_and_keep_its_singular_vectors():
    x = np.stack([conditioned(number) for number in (2, 1e3, 1e6)])
    tall = np.asarray(orthogonal(x.swapaxes(-1, -2), "polar_express", 30), np.float64)
    wide = np.asarray(orthogonal(x, "polar_express", 30), np.float64)
    for made in (wide, tall):
        np.testing.assert_allclose(np.linalg.svd(made, compute_uv=False), 1.0, rtol=0, atol=1e-5)
    u, _, vt = np.linalg.svd(np.float64(x), full_matrices=False)
    for i, within in enumerate((1e-6, 1e-4, 2e-2)):  # The small singular vectors of what float32 holds.
        np.testing.assert_allclose(wide[i], (u @ vt)[i], rtol=0, atol=within)
        np.testing.assert_allclose(tall[i].T, wide[i], rtol=0, atol=within)


@pytest.mark.parametrize("name", PRINTED)
def test_named_coefficients_are_the_printed_ones(name):
    """One singular value through the polynomials, of which the last one is repeated."""
    x = np.stack([conditioned(number) for number in (1, 3, 30)])

    @jitted
    def made(x):
        return [orthogonal(x, name, steps) for steps in (1, 3, 5, 8, 12)]

    with jax.enable_x64(True):
        found = made(np.float64(x))
    for steps, y in zip((1, 3, 5, 8, 12), found, strict=True):
        close(y, by_hand(x, name, steps), 1e-12)
    for steps, y in zip((1, 3, 5, 8, 12), made(x), strict=True):
        close(y, by_hand(x, name, steps), 5e-6 * ROUNDS_MORE)
    assert list(matrices.COEFFICIENTS) == list(PRINTED)


def run(optimizer, params, gradients):
    """The parameters after each step."""

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    @jitted
    def steps(params, gradients):
        return jax.lax.scan(step, (params, optimizer.init(params)), gradients)[1]

    return np.asarray(steps(params, gradients))


def test_two_hundred_steps_of_muon_are_those_of_float64():
    """Of gradients all of whose directions are within a factor of 3 of one another."""
    u, _, vt = np.linalg.svd(RNG.standard_normal((6, 10)), full_matrices=False)
    gradients = np.float32((u * RNG.uniform(1, 3, (200, 1, 6))) @ vt)
    optimizer = ewa_optax.muon(0.1, weight_decay=0.01)
    params = normal(6, 10)

    @jitted
    def steps(params, gradients):
        def step(carry, gradient):
            updates, state = optimizer.update(gradient, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), updates

        return jax.lax.scan(step, (params, optimizer.init(params)), gradients)[1]

    expected = oracles.muon(np.float64(gradients), np.float64(params), 0.1, 0.95, 0.01)
    made = np.asarray(steps(params, gradients))
    close(made, expected, 2e-6)
    assert np.sqrt(np.mean((made - expected) ** 2) / np.mean(expected**2)) < 1e-6


@pytest.mark.parametrize(("name", "theirs"), [("jordan", "standard"), ("quintic", "dion")])
def test_from_public_pieces_it_is_that_of_optax(name, theirs):
    """Which corrects the bias of both summands, has no shape of AdamW, and one eps for all."""
    params, gradients = normal(8, 10), normal(200, 8, 10)
    ours = pieces.optimizer(
        pieces.look_ahead(0.95),
        matrices.orthogonalize(name, eps=1e-8),
        matrices.scale_by_shape("original"),
        pieces.add_decayed_weights(0.1),
        pieces.scale_by_learning_rate(0.02),
        guard=pieces.saturate_norm(),
    )
    twin = optax.contrib.muon(0.02, ns_coeffs=theirs, weight_decay=0.1)
    close(run(ours, params, gradients), run(twin, params, gradients), 1e-5)


TORCH = Path(__file__).parent.parent / "fixtures" / "torch_muon.npz"
TO_TORCH = np.random.default_rng(3).standard_normal((21, 10, 6), np.float32)
"""Parameters of (outputs, inputs), and behind them gradients."""


def by_torch(torch, rule, learning_rate, wide):
    """The parameters after each step of `torch.optim.Muon`; `wide`, without its rounding to bfloat16."""
    p = torch.nn.Parameter(torch.tensor(TO_TORCH[0]))
    optimizer = torch.optim.Muon([p], lr=learning_rate, adjust_lr_fn=rule)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        if wide:
            patch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
        for gradient in TO_TORCH[1:]:
            p.grad = torch.tensor(gradient)
            optimizer.step()
            found.append(p.detach().numpy().copy())
    return np.stack(found)


RUNS = {  # Its default, and the other rule; and both as if it did not round, with larger steps.
    "default": ("original", 1e-3, False),
    "match_rms_adamw": ("match_rms_adamw", 1e-3, False),
    "wide": ("original", 0.02, True),
    "wide_match_rms_adamw": ("match_rms_adamw", 0.02, True),
}


@pytest.mark.parametrize("which", RUNS)
def test_it_is_that_of_torch(which):
    """To six digits if torch did not round; in bfloat16, as there, each step to its rounding."""
    rule, learning_rate, wide = RUNS[which]
    dtype = None if wide else "bfloat16"
    ours = run(ewa_optax.muon(learning_rate, rule=rule, axes=(1, 0), dtype=dtype), TO_TORCH[0], TO_TORCH[1:])
    with np.load(TORCH) as found:
        theirs = found[which]
    if wide:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6)
        return
    steps, their_steps = (np.diff(x, axis=0, prepend=TO_TORCH[:1]) for x in (ours, theirs))
    np.testing.assert_allclose(steps, their_steps, rtol=0, atol=1e-4)
    close(steps, their_steps, 0.06)  # It rounds the norm, too.


def test_the_numbers_of_torch_are_what_it_makes():
    torch = pytest.importorskip("torch")
    with np.load(TORCH) as found:
        for which, arguments in RUNS.items():
            np.testing.assert_allclose(by_torch(torch, *arguments), found[which], rtol=0, atol=1e-4)


# What goes wrong elsewhere.


def each_by_itself(x):
    """Matrices of (..., inputs, outputs), one at a time, in float64."""
    flat = np.float64(x).reshape(-1, *x.shape[-2:])
    return of_oracle(flat, PRINTED["jordan"][0] * 5).reshape(x.shape)


def moved(x, source, destination, shape):
    return np.moveaxis(x, source, destination).reshape(shape)


LEAVES = {  # A leaf, its axes, the same as a batch of (inputs, outputs), and back.
    "layers in a scan": (normal(3, 4, 6), (1, 2), lambda x: x),
    "experts of layers": (normal(2, 3, 4, 6), (-2, -1), lambda x: x),
    "a convolution of flax": (normal(3, 2, 4, 6), ((0, 1, 2), 3), lambda x: x.reshape(24, 6)),
    "a convolution of equinox": (normal(6, 4, 3, 2), ((1, 2, 3), 0), lambda x: x.reshape(6, 24).T),
    "all heads": (normal(6, 2, 5), (0, (1, 2)), lambda x: x.reshape(6, 10)),
    "each head": (normal(6, 2, 5), (0, 2), lambda x: x.swapaxes(0, 1)),
    "the way out of all heads": (normal(2, 5, 6), ((0, 1), 2), lambda x: x.reshape(10, 6)),
    "the way out of each head": (normal(2, 5, 6), (1, 2), lambda x: x),
    "heads of layers in a scan": (normal(3, 6, 2, 5), (1, (2, 3)), lambda x: x.reshape(3, 6, 10)),
    "a batch in the middle": (normal(4, 3, 6), (0, -1), lambda x: x.swapaxes(0, 1)),
    "one row": (normal(1, 6), None, lambda x: x),
    "one column": (normal(6, 1), None, lambda x: x),
    "a vector, as one row": (normal(6), ((), 0), lambda x: x[None]),
    "a vector, as one column": (normal(6), (0, ()), lambda x: x[:, None]),
    "numbers": (normal(5), ((), ()), lambda x: x[:, None, None]),
}


def test_each_matrix_is_taken_by_itself_along_the_axes_that_are_said():
    leaves = {name: leaf for name, (leaf, *_) in LEAVES.items()}
    axes = {f"^{name}$": said for name, (_, said, _) in LEAVES.items() if said is not None}
    piece = optax.chain(matrices.orthogonalize(axes=axes), matrices.scale_by_shape(lambda m, n: 100 * m + n, axes))
    made = jitted(piece.update)(leaves, piece.init(leaves))[0]
    for name, (leaf, _, as_batch) in LEAVES.items():
        *_, inputs, outputs = as_batch(leaf).shape
        close(as_batch(np.asarray(made[name])) / (100 * inputs + outputs), each_by_itself(as_batch(leaf)), 5e-6)


def of_matrices(make):
    return {"muon": ewa_optax.muon, "normuon": ewa_optax.normuon, "muon_hyperball": ewa_optax.muon_hyperball}[make]


@pytest.mark.parametrize("make", ["muon", "normuon", "muon_hyperball"])
def test_no_matrix_of_a_batch_sees_the_others(make):
    """Not even their norms; and zeros stay zeros beside them."""
    params, gradients = normal(3, 4, 6), normal(3, 4, 6)
    optimizer = of_matrices(make)(0.1, axes=BATCH)

    @jitted
    def update(gradients, params):
        return optimizer.update(gradients, optimizer.init(params), params)[0]

    alone, scale = np.asarray(update(gradients, params)), np.array([1, 0, 1e15], np.float32)[:, None, None]
    beside = np.asarray(update(gradients * scale, params * np.array([1, 0, 1], np.float32)[:, None, None]))
    np.testing.assert_array_equal(alone[0], beside[0])
    np.testing.assert_array_equal(beside[1], 0.0)
    close(beside[2], alone[2], 1e-5)


def test_no_hyperparameter_is_in_the_state():
    """So a checkpoint goes on with what is said after it is loaded."""
    params = {"kernel": normal(4, 6)}
    state = ewa_optax.muon(0.1).init(params)
    chex.assert_trees_all_equal(state, ewa_optax.muon(0.1, coefficients="polar_express", steps=8).init(params))
    after = ewa_optax.muon(1.0, 0.0, 0.0, coefficients="polar_express", steps=12, rule="original")
    updates = after.update(params, state, params)[0]
    singular = np.linalg.svd(updates["kernel"], compute_uv=False)
    np.testing.assert_allclose(singular, np.sqrt(6 / 4) * 1.0, rtol=1e-5)


def test_more_coefficients_are_cut_and_the_last_of_fewer_is_repeated():
    x = normal(4, 6)
    eight, three = PRINTED["polar_express"][0], PRINTED["quintic"][0][:3]
    cut, repeated = jitted(lambda x: (orthogonal(x, eight, 5), orthogonal(x, three, 5)))(x)
    close(cut, oracles.orthogonal(np.float64(x), eight[:5]), 1e-5)
    close(repeated, oracles.orthogonal(np.float64(x), [*three, three[2], three[2]]), 1e-5)


def test_its_eps_is_its_own_and_of_the_size_of_updates():
    x = 1e-3 * normal(4, 6)
    made, without = jitted(lambda x: (orthogonal(x, eps=1.0), orthogonal(1e-30 * x, eps=0.0)))(x)
    close(made, oracles.orthogonal(np.float64(x), eps=1.0), 1e-5)
    close(without, oracles.orthogonal(np.float64(x), eps=0.0), 1e-5)  # Tiny gradients, too, have directions.


def products(jaxpr):
    """The shapes of all products of matrices."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.outvars[0].aval.shape
        for inner in jax.tree.leaves([*equation.params.values()], is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner := getattr(inner, "jaxpr", inner), "eqns"):
                yield from products(inner)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 6, 4)])
def test_a_step_is_three_products_by_the_gram_matrix_of_the_shorter_side(shape):
    gram = (*shape[:-2], 4, 4)
    jaxpr = jax.make_jaxpr(lambda x: orthogonal(x, steps=2))(normal(*shape)).jaxpr
    assert [*products(jaxpr)] == [gram, gram, shape] * 2
