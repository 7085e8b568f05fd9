"""Surfaces against their derivatives by hand, paths against loops and closed forms, curvature against LAPACK."""

import functools
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from helpers import ROUGHLY
from jax.flatten_util import ravel_pytree

import ewa_optax
from ewa_optax import landscapes

roughly_compiled = functools.partial(jax.jit, compiler_options=ROUGHLY)
RNG = np.random.default_rng(0)
SURFACES = {
    "ravine": lambda n: landscapes.ravine(30.0, dimensions=n),
    "saddle": lambda n: landscapes.saddle(dimensions=n),
    "bounded saddle": lambda n: landscapes.saddle(0.16, dimensions=n),
    "plateau": lambda n: landscapes.plateau(1.5, dimensions=n),
    "rosenbrock": lambda n: landscapes.rosenbrock(50.0, dimensions=n),
}


# Derivatives by hand, in float64.


def ravine_by_hand(x):
    curvatures = 30.0 ** np.linspace(0, 1, len(x))
    return np.sum(curvatures * x**2) / 2, curvatures * x, np.diag(curvatures)


def saddle_by_hand(x, quartic=0.0):
    signs = np.append(np.ones(len(x) - 1), -1.0)
    last = np.append(np.zeros(len(x) - 1), 1.0)
    value = np.sum(signs * x**2) / 2 + quartic * x[-1] ** 4 / 4
    return value, signs * x + quartic * last * x**3, np.diag(signs + 3 * quartic * last * x**2)


def plateau_by_hand(x):
    z = x @ x / (2 * 1.5**2)
    slope = 2 * np.exp(-z) / (1 + np.exp(-z)) ** 2
    bend = -slope * np.tanh(z / 2)
    hessian = (slope * np.eye(len(x)) + bend * np.outer(x, x) / 1.5**2) / 1.5**2
    return np.tanh(z / 2), slope * x / 1.5**2, hessian


def rosenbrock_by_hand(x):
    gradient, hessian = np.zeros(len(x)), np.zeros((len(x), len(x)))
    value = 0.0
    for i in range(len(x) - 1):
        wall = x[i + 1] - x[i] ** 2
        value += (1 - x[i]) ** 2 + 50 * wall**2
        gradient[i] += -2 * (1 - x[i]) - 200 * x[i] * wall
        gradient[i + 1] += 100 * wall
        hessian[i, i] += 2 - 200 * wall + 400 * x[i] ** 2
        hessian[i + 1, i + 1] += 100
        hessian[i, i + 1] -= 200 * x[i]
        hessian[i + 1, i] -= 200 * x[i]
    return value, gradient, hessian


BY_HAND = {
    "ravine": ravine_by_hand,
    "saddle": saddle_by_hand,
    "bounded saddle": lambda x: saddle_by_hand(x, 0.16),
    "plateau": plateau_by_hand,
    "rosenbrock": rosenbrock_by_hand,
}


@pytest.mark.parametrize("dimensions", [2, 5])
@pytest.mark.parametrize("name", SURFACES)
def test_values_gradients_and_hessians_are_those_by_hand(name, dimensions):
    surface = SURFACES[name](dimensions)
    points = RNG.uniform(-2, 2, (20, dimensions)).astype(np.float32)
    of_each = jax.vmap(lambda x: (surface(x), jax.grad(surface)(x), jax.hessian(surface)(x)))
    found = roughly_compiled(of_each)(points)
    for i, point in enumerate(points):
        for ours, exact in zip(found, BY_HAND[name](point.astype(float)), strict=True):
            np.testing.assert_allclose(ours[i], exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("dimensions", [2, 5])
@pytest.mark.parametrize("name", SURFACES)
def test_a_minimum_is_one_and_the_start_can_be_seen(name, dimensions):
    surface = SURFACES[name](dimensions)
    low, high = np.array(surface.domain).T
    assert low.shape == surface.start.shape == (dimensions,)
    assert np.all((low < surface.start) & (surface.start < high))
    if name == "saddle":
        assert surface.minimum is None
        return
    assert np.all((low <= surface.minimum) & (surface.minimum <= high))
    value, gradient, hessian = BY_HAND[name](np.asarray(surface.minimum, float))
    np.testing.assert_allclose(value, -1 / (4 * 0.16) if name == "bounded saddle" else 0, atol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    assert np.all(np.linalg.eigvalsh(hessian) > 0)


def test_the_plateau_keeps_its_digits_near_and_far():
    surface = landscapes.plateau()
    for distance in (1e-3, 1.0, 6.0, 12.0):
        point = np.array([distance, 0.0], np.float32)
        z = float(point[0]) ** 2 / 2
        np.testing.assert_allclose(surface(point), np.tanh(z / 2), rtol=1e-6)
        slope = 2 * np.exp(-z) / (1 + np.exp(-z)) ** 2 * float(point[0])
        np.testing.assert_allclose(jax.grad(surface)(point), [slope, 0], rtol=2e-5)


def test_surfaces_of_traced_numbers():
    def last(condition):
        surface = landscapes.ravine(condition)
        return landscapes.path(ewa_optax.gradient_descent(0.01), surface, surface.start, 10).points[-1]

    conditions = np.array([2.0, 30.0])
    expected = np.stack([np.full(2, -4 * 0.99**10), (1 - 0.01 * conditions) ** 10], axis=1)
    np.testing.assert_allclose(roughly_compiled(jax.vmap(last))(conditions), expected, rtol=1e-5)
    minima = jax.vmap(lambda quartic: landscapes.saddle(quartic).minimum)(jnp.array([0.25, 1.0]))
    np.testing.assert_allclose(minima, [[0, 2], [0, 1]], rtol=1e-6)


# Paths.


def noisy_polyak(rate):
    """It needs the value beside the gradient."""
    return optax.chain(optax.add_noise(0.1, 0.5, key=0), optax.polyak_sgd(rate))


@pytest.mark.parametrize("make", [ewa_optax.adam, ewa_optax.momentum, noisy_polyak])
def test_a_path_is_what_a_loop_walks(make):
    surface, optimizer = landscapes.rosenbrock(), make(1e-3)
    found = landscapes.path(optimizer, surface, surface.start, 30)
    point, state = surface.start, optimizer.init(surface.start)
    update = jax.jit(optax.with_extra_args_support(optimizer).update)
    for t in range(31):
        np.testing.assert_allclose(found.points[t], point, rtol=2e-5)
        np.testing.assert_allclose(found.values[t], surface(point), rtol=1e-4)
        value, gradient = jax.value_and_grad(surface)(point)
        updates, state = update(gradient, state, point, value=value)
        point = optax.apply_updates(point, updates)
    assert found.points.shape == (31, 2)


def test_gradient_descent_on_a_bowl_is_its_closed_form():
    surface = landscapes.ravine(20.0)
    found = landscapes.path(ewa_optax.gradient_descent(0.09), surface, surface.start, 100)
    t = np.arange(101)[:, None]
    expected = (1 - 0.09 * np.array([[1.0, 20.0]])) ** t * np.array([[-4.0, 1.0]])
    np.testing.assert_allclose(found.points, expected, rtol=1e-4)
    np.testing.assert_allclose(found.values, (expected[:, 0] ** 2 + 20 * expected[:, 1] ** 2) / 2, rtol=3e-4)


def test_the_learning_rates_of_a_path_are_those_of_the_schedule():
    surface, schedule = landscapes.ravine(), ewa_optax.schedule_inverse_time(0.05, 0.5, steps_per_epoch=3)
    found = landscapes.path(ewa_optax.momentum(schedule), surface, surface.start, 10)
    np.testing.assert_allclose(found.learning_rates, 0.05 / (1 + 0.5 * (1 + np.arange(10) // 3)), rtol=1e-6)
    assert landscapes.path(optax.sgd(0.01), surface, surface.start, 10).learning_rates is None


def test_64_rates_of_adam_for_10000_steps_are_one_program_that_takes_less_than_a_second():
    surface = landscapes.rosenbrock()

    @chex.assert_max_traces(n=1)
    def walk(rate):
        return landscapes.path(ewa_optax.adam(rate), surface, surface.start, 10_000)

    sweep = jax.jit(jax.vmap(walk))
    jax.block_until_ready(sweep(jnp.geomspace(1e-4, 0.5, 64)))
    seconds = []
    for low in (1e-4, 2e-4, 3e-4):
        begin = time.perf_counter()
        found = jax.block_until_ready(sweep(jnp.geomspace(low, 0.5, 64)))
        seconds.append(time.perf_counter() - begin)
    assert found.points.shape == (64, 10_001, 2)
    assert np.all(found.values[:, -1] < found.values[:, 0])
    assert min(seconds) < 1


def test_many_starts_walk_as_each_alone():
    surface, optimizer = landscapes.saddle(0.25), ewa_optax.rmsprop(0.02)
    starts = jnp.array([[1.0, 1e-3], [1.0, -1e-3], [0.5, 0.1]])
    together = jax.vmap(lambda start: landscapes.path(optimizer, surface, start, 50))(starts)
    for i, start in enumerate(starts):
        alone = landscapes.path(optimizer, surface, start, 50)
        np.testing.assert_allclose(together.points[i], alone.points, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(together.points[0] * np.array([[1, -1]]), together.points[1], rtol=1e-5, atol=1e-7)


def test_the_derivative_of_a_path_in_its_rate():
    surface = landscapes.ravine(20.0)

    def last(rate):
        return landscapes.path(ewa_optax.gradient_descent(rate), surface, surface.start, 5).values[-1]

    expected = sum(c * 5 * -c * (1 - 0.01 * c) ** 9 * x**2 for c, x in ((1.0, -4.0), (20.0, 1.0)))
    np.testing.assert_allclose(jax.grad(last)(0.01), expected, rtol=1e-5)


def test_a_path_keeps_dtypes():
    start = {"a": jnp.ones(3, jnp.bfloat16), "b": 2.0}
    found = landscapes.path(ewa_optax.adam(0.1), lambda p: jnp.sum(p["a"] ** 2).astype(float) + p["b"] ** 2, start, 4)
    assert (found.points["a"].shape, found.points["a"].dtype) == ((5, 3), jnp.bfloat16)
    assert (found.points["b"].shape, found.points["b"].dtype) == ((5,), jnp.float32)


# Curvature.


class Net(linen.Module):
    width: int = 16

    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(linen.tanh(linen.Dense(self.width)(x)))


X = RNG.standard_normal((40, 15)).astype(np.float32)
Y = RNG.integers(0, 3, 40)


def curvature(function, point, **keywords):
    """Compiled roughly, as a program of its own."""
    return roughly_compiled(lambda point: landscapes.curvature(function, point, **keywords))(point)


def net_cost(params):
    return optax.softmax_cross_entropy_with_integer_labels(Net().apply(params, X), Y).mean()


@functools.cache
def net_params():
    return Net().init(jax.random.key(0), X)


@pytest.mark.parametrize("name", SURFACES)
def test_the_curvature_is_what_lapack_finds(name):
    surface = SURFACES[name](4)
    points = RNG.uniform(-2, 2, (10, 4)).astype(np.float32)
    found = roughly_compiled(jax.vmap(lambda point: landscapes.curvature(surface, point)))(points)
    assert not found.errors.any()
    for i, point in enumerate(points):
        _, gradient, hessian = BY_HAND[name](point.astype(float))
        exact = np.linalg.eigvalsh(hessian)
        np.testing.assert_allclose(found.eigenvalues[i], exact, atol=1e-5 * np.abs(exact).max())
        np.testing.assert_allclose(found.gradient_norm[i], np.linalg.norm(gradient), rtol=1e-5)


@pytest.mark.parametrize(
    ("curvatures", "kind"),
    [
        ([1.0, 2.0, 3.0], "minimum"),
        ([-1.0, -2.0, -3.0], "maximum"),
        ([1.0, 2.0, -1e-3], "saddle"),
        ([1.0, 0.0, -1.0], "saddle"),
        ([1.0, 2.0, 0.0], "flat"),
        ([-1.0, 0.0, 0.0], "flat"),
        ([1.0, 2.0, -1e-6], "flat"),
        ([0.0, 0.0, 0.0], "flat"),
    ],
)
def test_kinds(curvatures, kind):
    found = landscapes.curvature(lambda x: jnp.asarray(curvatures) @ x**2, jnp.zeros(3))
    assert found.kind == kind
    large = [x if abs(x) > 1e-5 else 0 for x in sorted(curvatures)]
    np.testing.assert_array_equal(found.signs, np.sign(large))
    assert found.gradient_norm == 0


def test_the_tolerance_is_a_share_of_the_largest():
    def function(x):
        return 1000 * x[0] ** 2 + x[1] ** 2

    assert landscapes.curvature(function, jnp.zeros(2), tolerance=0.9e-3).kind == "minimum"
    assert landscapes.curvature(function, jnp.zeros(2), tolerance=1.1e-3).kind == "flat"


def test_kinds_of_many_points():
    surface = landscapes.saddle(0.25)
    points = jnp.array([[0.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    found = jax.jit(jax.vmap(lambda x: landscapes.curvature(surface, x)))(points)
    assert found.kind.tolist() == ["saddle", "minimum", "minimum"]
    np.testing.assert_allclose(found.eigenvalues, [[-1, 1], [1, 2], [1, 2]], rtol=1e-6)


def test_a_point_where_the_hessian_is_not_finite_is_of_no_kind():
    found = landscapes.curvature(lambda x: jnp.sum(jnp.sqrt(x)), jnp.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="the Hessian is not finite, so the point is of no kind; go to where"):
        _ = found.kind


def test_the_curvature_of_a_net_is_that_of_its_raveled_parameters():
    params = net_params()
    flat, unravel = ravel_pytree(params)
    assert flat.size == 15 * 16 + 16 + 16 * 3 + 3
    hessian = np.asarray(roughly_compiled(jax.hessian(lambda x: net_cost(unravel(x))))(flat), float)
    exact = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    found = curvature(net_cost, params)
    np.testing.assert_allclose(found.eigenvalues, exact, atol=1e-5 * np.abs(exact).max())
    gradient = ravel_pytree(roughly_compiled(jax.grad(net_cost))(params))[0]
    np.testing.assert_allclose(found.gradient_norm, np.linalg.norm(gradient), rtol=1e-5)
    assert found.kind == "saddle"

    ends = curvature(net_cost, params, eigenvalues=5)
    assert ends.eigenvalues.shape == ends.errors.shape == ends.signs.shape == (10,)
    np.testing.assert_allclose(ends.eigenvalues, np.r_[exact[:5], exact[-5:]], atol=1e-5 * np.abs(exact).max())
    assert ends.kind == "saddle"


def test_a_trained_net_has_a_path_and_an_end():
    found = landscapes.path(ewa_optax.adam(0.02), net_cost, net_params(), 100)
    assert found.values[-1] < 0.1 * found.values[0]
    end = jax.tree.map(lambda x: x[-1], found.points)
    np.testing.assert_allclose(found.values[-1], net_cost(end), rtol=1e-5)


def quadratic(eigenvalues):
    """A function with those eigenvalues in a random basis."""
    basis, _ = np.linalg.qr(RNG.standard_normal((len(eigenvalues), len(eigenvalues))))
    matrix = jnp.asarray(basis * eigenvalues @ basis.T, jnp.float32)
    return lambda x: x @ matrix @ x / 2


@pytest.mark.parametrize("products", [8, 300])
def test_each_eigenvalue_of_lanczos_is_within_its_error_of_a_true_one(products):
    true = np.sort(RNG.standard_normal(300)) * np.linspace(0.1, 3, 300)
    found = curvature(quadratic(true), jnp.zeros(300), eigenvalues=4, products=products)
    away = np.abs(np.asarray(found.eigenvalues)[:, None] - true).min(axis=1)
    assert np.all(away <= found.errors + 1e-5)
    assert np.all(found.errors >= 0)
    if products == 300:
        np.testing.assert_allclose(found.eigenvalues, np.sort(true)[[0, 1, 2, 3, -4, -3, -2, -1]], atol=1e-5)


def test_what_is_not_sure_to_be_positive_has_no_sign():
    function = quadratic(np.geomspace(1e-3, 1.0, 300))
    assert curvature(function, jnp.zeros(300), eigenvalues=1, products=4).kind == "flat"
    assert curvature(function, jnp.zeros(300), eigenvalues=1, products=300).kind == "minimum"


def test_lanczos_goes_on_where_all_eigenvalues_are_equal():
    values = jnp.array([0.0, 2.0, -3.0])
    found = jax.vmap(lambda c: landscapes.curvature(lambda x: c * x @ x / 2, jnp.zeros(50), eigenvalues=3))(values)
    np.testing.assert_allclose(found.eigenvalues, np.repeat(values[:, None], 6, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.errors, 0, atol=1e-5)
    assert found.kind.tolist() == ["flat", "minimum", "maximum"]


def test_the_ends_of_a_million_parameters():
    surface = landscapes.saddle(dimensions=1_000_000)
    found = landscapes.curvature(surface, jnp.zeros(1_000_000), eigenvalues=1, products=5)
    np.testing.assert_allclose(found.eigenvalues, [-1, 1], rtol=1e-5)
    assert found.kind == "saddle"


def test_16_bit_parameters_are_widened():
    found = landscapes.curvature(lambda x: 1.5 * x[0] ** 2 + x[1] ** 2 / 3, jnp.ones(2, jnp.bfloat16))
    assert found.eigenvalues.dtype == jnp.float32
    np.testing.assert_allclose(found.eigenvalues, [2 / 3, 3], rtol=1e-6)


# Errors.


BOWL, ONES = landscapes.ravine(), np.ones(2, np.float32)
SGD = ewa_optax.gradient_descent(0.1)
BAD_CALLS = [
    (lambda: landscapes.ravine(0.5), ValueError, "ravine: condition must be finite and 1 or more, got 0.5; 1 is a rou"),
    (lambda: landscapes.ravine("20"), TypeError, "ravine: condition must be a number or a scalar array, got '20'"),
    (lambda: landscapes.saddle(-1.0), ValueError, "saddle: quartic must be finite and 0 or more, got -1.0; 0 has no"),
    (lambda: landscapes.plateau(0.0), ValueError, "plateau: width must be finite and more than 0, got 0.0"),
    (lambda: landscapes.rosenbrock(0), ValueError, "rosenbrock: steepness must be finite and more than 0, got 0"),
    (lambda: landscapes.rosenbrock(dimensions=1), ValueError, "dimensions must be from 2 to .*, got 1; 2 can be drawn"),
    (lambda: landscapes.saddle(dimensions=2.0), TypeError, r"dimensions must be an integer, got 2.0 \(float\)"),
    (lambda: BOWL(np.ones(3)), ValueError, r"must have shape \(2,\), got \(3,\); .*jax.vmap"),
    (lambda: BOWL(np.ones((5, 2))), ValueError, r"must have shape \(2,\), got \(5, 2\); .*jax.vmap"),
    (lambda: landscapes.path(0.1, BOWL, ONES, 5), TypeError, "optimizer must be an optax.GradientTransf.*got 0.1"),
    (
        lambda: landscapes.path(SGD, 3, ONES, 5),
        TypeError,
        r"function must be a function, got 3 \(int\); write",
    ),
    (lambda: landscapes.path(SGD, BOWL, ONES, 0), ValueError, "steps must be from 1 to .*, got 0; a path of one step"),
    (
        lambda: landscapes.path(SGD, BOWL, np.ones(2, int), 5),
        TypeError,
        "start must be of floats, got int.*; conv",
    ),
    (lambda: landscapes.path(SGD, BOWL, {"a": "b"}, 5), TypeError, r"start\['a'\] must be of floats, got str"),
    (lambda: landscapes.path(SGD, BOWL, {}, 5), ValueError, "start must be a pytree of float arrays, got {}; make one"),
    (lambda: landscapes.path(SGD, lambda x: x, ONES, 5), ValueError, r"must return a scalar, got shape \(2,\); sum or"),
    (lambda: landscapes.path(SGD, lambda x: 1, ONES, 5), TypeError, "function must return a real number, got int"),
    (lambda: landscapes.path(SGD, lambda x: (x[0], x), ONES, 5), TypeError, "must return a real number, got tuple"),
    (lambda: landscapes.curvature(3, ONES), TypeError, "function must be a function, got 3"),
    (lambda: landscapes.curvature(BOWL, np.ones(2, int)), TypeError, "point must be of floats, got int"),
    (
        lambda: landscapes.curvature(jnp.sum, np.ones(2001)),
        ValueError,
        "has 2001 parameters, .* 2000 at most; pass",
    ),
    (lambda: landscapes.curvature(BOWL, ONES, tolerance=-1), ValueError, r"tolerance must be in \[0, 1\), got -1; it"),
    (lambda: landscapes.curvature(BOWL, ONES, eigenvalues=2), ValueError, "eigenvalues must be from 1 to 1, got 2; th"),
    (
        lambda: landscapes.curvature(BOWL, ONES, eigenvalues=1, products=1),
        ValueError,
        "products must be from 2 .*1",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()
