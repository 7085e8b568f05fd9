"""Every optimizer of the table through every law."""

import dataclasses
import itertools
import pickle

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from absl.testing import parameterized
from cases import CASES, DIFFERENT, FAMILY, FULL

import ewa_optax

DTYPES = ("float32", "bfloat16", "float16", "float64")
QUICK_MIXES = [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "float16"),
               ("float16", "float64"), ("float64", "float64")]  # fmt: skip
MIXES = [
    pytest.param(*mix, marks=() if mix in QUICK_MIXES else pytest.mark.slow)
    for mix in itertools.product(DTYPES, DTYPES)
]
NARROW = {jnp.dtype(name) for name in ("bfloat16", "float16", "int8", "uint8")}
PARAMS = {"w": jnp.array([[0.3, -1.2], [2.5, 0.01]]), "b": jnp.array([0.5, -0.5]), "scale": jnp.float32(2.0)}


def parametrized(cases):
    slow = {True: pytest.mark.slow, False: ()}
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name, marks=slow[case.slow]) for case in cases])


ALIKE = {"rmsprop_eps_inside", "adam_eps_root", "heavy_ball"}  # To others of the table, but in their arithmetic.
every_case = parametrized(
    [
        case._replace(slow=case.slow or case.name in ALIKE or (case in FAMILY and case.name not in DIFFERENT))
        for case in CASES
    ]
)
every_member = parametrized(CASES)  # For what must hold of the arithmetic of each.


def eight_decades(steps, shape, complex_values=False, seed=0):
    """Gradients whose sizes span eight decades, over elements and over time."""
    rng = np.random.default_rng(seed)
    sizes = 10 ** rng.uniform(-6, 2, (steps, *shape))
    values = rng.standard_normal((steps, *shape))
    if complex_values:
        values = values + 1j * rng.standard_normal((steps, *shape))
    return (sizes * values).astype(np.complex64 if complex_values else np.float32)


def gradients_like(params, seed):
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), max(len(leaves), 1))
    return structure.unflatten([jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=False)])


def run(optimizer, params, steps=3, seed=0):
    """A few plain steps: the parameters and the state afterwards."""
    state = optimizer.init(params)
    for t in range(steps):
        updates, state = optimizer.update(gradients_like(params, seed + t), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def run_updates(optimizer, params, gradients):
    """The updates of all steps, by `lax.scan`."""

    def step(carry, g):
        params, state = carry
        updates, state = optimizer.update(g, state, params)
        return (optax.apply_updates(params, updates), state), updates

    return jax.jit(lambda g: jax.lax.scan(step, (params, optimizer.init(params)), g)[1])(gradients)


def assert_close_in_size(actual, expected, tolerance, error=np.max):
    """Errors relative to the update, or to the size of its element's updates over time where it passes through 0."""
    size = np.maximum(np.abs(expected), np.sqrt(np.mean(np.abs(expected) ** 2, axis=0)))
    assert error(np.abs(np.asarray(actual) - expected) / size) <= tolerance


# Against the outside.


@every_member
@pytest.mark.parametrize("complex_values", [False, True], ids=["real", "complex"])
def test_equals_its_oracle(case, complex_values):
    gradients = eight_decades(200, case.shape, complex_values)
    params = eight_decades(1, case.shape, complex_values, seed=1)[0]
    exact = gradients.astype(np.complex128 if complex_values else np.float64)
    updates = run_updates(case.optimizer(), jnp.asarray(params), gradients)
    tolerance = max(case.oracle_tolerance, case.complex_tolerance) if complex_values else case.oracle_tolerance
    assert_close_in_size(updates, case.oracle(exact, params), tolerance, case.error)


@every_member
def test_equals_its_oracle_in_float64(case):
    gradients, params = eight_decades(200, case.shape).astype(np.float64), eight_decades(1, case.shape, seed=1)[0]
    with jax.enable_x64(True):
        updates = run_updates(case.optimizer(), jnp.asarray(params, jnp.float64), gradients)
        assert updates.dtype == jnp.float64
    assert_close_in_size(
        updates, case.oracle(gradients, params), case.oracle_tolerance if case.storage else 1e-13, case.error
    )


@parametrized([case for case in CASES if case.twin])
def test_equals_its_optax_twin(case):
    gradients, params = eight_decades(200, case.shape), jnp.asarray(eight_decades(1, case.shape, seed=1)[0])
    ours, theirs = (run_updates(optimizer, params, gradients) for optimizer in (case.optimizer(), case.twin()))
    assert_close_in_size(ours, np.asarray(theirs), case.twin_tolerance, case.error)


# What optax asks of its own optimizers.


def parabola(dtype):
    target = jnp.array([1.0, -1.0, 1.0], dtype)
    if jnp.iscomplexobj(target):
        target = target * (1 + 1j)
    start = jnp.array([-1.0, 10.0, 1.0], dtype)
    return start, target, lambda x: jnp.sum(jnp.abs(x - target) ** 2)


def rosenbrock(dtype):
    a, b = 1.0, 100.0
    if jnp.issubdtype(dtype, jnp.complexfloating):
        a = 1.0 + 1.0j
    target = jnp.array([a, a**2], dtype)
    return jnp.zeros(2, dtype), target, lambda x: jnp.abs(a - x[0]) ** 2 + b * jnp.abs(x[1] - x[0] ** 2) ** 2


@every_case
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
@pytest.mark.parametrize("problem", [parabola, rosenbrock])
def test_solves_toy_problems(case, problem, dtype):
    start, target, objective = problem(dtype)
    optimizer = case.optimizer(**case.solves)

    def step(carry, _):
        params, state = carry
        # For complex parameters the direction of steepest descent is the conjugate of JAX's gradient.
        updates, state = optimizer.update(jax.grad(objective)(params).conj(), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=10_000))((start, optimizer.init(start)))
    chex.assert_trees_all_close(params, target, rtol=3e-2, atol=3e-2)


@every_case
def test_compiles_once_in_a_thousand_steps(case):
    optimizer = case.optimizer()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params, gradients = PARAMS, gradients_like(PARAMS, 0)
    state = optimizer.init(params)
    for _ in range(1000):
        params, state = step(params, state, gradients)


@every_case
def test_plain_jit_and_scan_agree(case):
    optimizer = case.optimizer()
    gradients = jax.vmap(lambda seed: gradients_like(PARAMS, seed))(jnp.arange(5))

    def step(carry, g):
        params, state = carry
        updates, state = optimizer.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    plain = jitted = (PARAMS, optimizer.init(PARAMS))
    compiled = jax.jit(step)
    for t in range(5):
        g = jax.tree.map(lambda x, t=t: x[t], gradients)
        plain, jitted = step(plain, g)[0], compiled(jitted, g)[0]
    scanned, _ = jax.lax.scan(step, (PARAMS, optimizer.init(PARAMS)), gradients)
    chex.assert_trees_all_equal_shapes_and_dtypes(plain, jitted, scanned)
    absolute = 0.0 if case in FULL else 1e-7  # Where sums cancel.
    chex.assert_trees_all_close(plain, jitted, rtol=2e-6, atol=absolute)
    chex.assert_trees_all_close(jitted, scanned, rtol=2e-6, atol=absolute)


def check_sweep(case, names):
    """One compiled program over values of these hyperparameters, against a plain run for each value of one of them."""
    gradients = [gradients_like(PARAMS, seed) for seed in range(3)]
    rows = [(name, case.hyperparameters[name] * share) for name in names for share in (0.5, 0.9)]
    table = {n: jnp.array([value if n == name else case.hyperparameters[n] for name, value in rows]) for n in names}

    @jax.jit
    @jax.vmap
    @chex.assert_max_traces(n=1)
    def sweep(values):
        optimizer = case.optimizer(**values)

        def step(carry, g):
            updates, state = optimizer.update(g, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        stacked = jax.tree.map(lambda *x: jnp.stack(x), *gradients)
        return jax.lax.scan(step, (PARAMS, optimizer.init(PARAMS)), stacked)[0][0]

    swept = sweep(table)
    sweep(jax.tree.map(lambda x: x * 0.99, table))
    for i, (name, value) in enumerate(rows):
        single = run(case.optimizer(**{name: value}), PARAMS)[0]
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], swept), single, rtol=3e-5, atol=1e-6 if case.storage else 1e-7
        )


@every_case
def test_vmaps_over_all_hyperparameters_without_recompiling(case):
    check_sweep(case, tuple(case.hyperparameters))


@parametrized([case._replace(slow=case.name not in ("momentum", "rmsprop")) for case in CASES])
def test_vmaps_over_one_hyperparameter_beside_numbers(case):
    for name in case.hyperparameters:
        chex.clear_trace_counter()
        check_sweep(case, (name,))


@every_case
def test_a_schedule_gives_the_rate_of_each_step(case):
    rates = jnp.array([0.1, 0.05, 0.02])
    scheduled = case.optimizer(learning_rate=lambda count: rates[count])
    state = scheduled.init(PARAMS)
    for t, rate in enumerate(rates):
        gradients = gradients_like(PARAMS, t)
        updates, new_state = scheduled.update(gradients, state, PARAMS)
        by_hand, _ = case.optimizer(learning_rate=rate).update(gradients, state, PARAMS)
        chex.assert_trees_all_close(updates, by_hand, rtol=1e-6)
        state = new_state


class OneStep(chex.TestCase):
    """The first step by chex's variants: with and without jit, with arguments on and off the device."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    @parameterized.named_parameters(
        (case.name, case) for case in CASES if not case.slow and (case not in FAMILY or case.name in DIFFERENT)
    )
    def test_equals_the_oracle_in_every_variant(self, case):
        gradients, params = eight_decades(1, (16,)), eight_decades(1, (16,), seed=1)[0]
        optimizer = case.optimizer()
        updates, _ = self.variant(optimizer.update)(gradients[0], optimizer.init(params), params)
        expected = case.oracle(gradients.astype(np.float64), params)[0]
        np.testing.assert_allclose(updates, expected, rtol=2e-6 if case in FAMILY else 1e-6)


# Wrappers.


@every_case
def test_multi_steps(case):
    optimizer = optax.MultiSteps(case.optimizer(), every_k_schedule=2)
    params, state = run(optax.GradientTransformation(optimizer.init, jax.jit(optimizer.update)), PARAMS, steps=6)
    plain = case.optimizer()
    expected, inner = PARAMS, plain.init(PARAMS)
    for t in (0, 2, 4):
        mean = jax.tree.map(lambda a, b: (a + b) / 2, gradients_like(PARAMS, t), gradients_like(PARAMS, t + 1))
        updates, inner = plain.update(mean, inner, expected)
        expected = optax.apply_updates(expected, updates)
    chex.assert_trees_all_close(params, expected, rtol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, optimizer.init(PARAMS))


@every_case
def test_masked_leaves_pass_through(case):
    optimizer = optax.masked(case.optimizer(), {"w": True, "b": False, "scale": True})
    gradients = gradients_like(PARAMS, 0)
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    whole, _ = case.optimizer().update(gradients, case.optimizer().init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(updates, whole | {"b": gradients["b"]})


@every_case
def test_inject_hyperparams(case):
    injected = optax.inject_hyperparams(case.make)(**case.hyperparameters)
    params, state = run(injected, PARAMS)
    expected = run(case.optimizer(), PARAMS)[0]
    # Decays are float32 arrays here; and the square of AdaMax's, by which its chance is told apart, another float32.
    chance = case.storage and case.make.func is ewa_optax.adamax
    chex.assert_trees_all_close(params, expected, rtol=3e-5, atol=0.03 if chance else 0.0 if case in FULL else 1e-6)
    assert set(case.hyperparameters) <= set(state.hyperparams)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, injected.init(PARAMS))


@every_case
def test_inject_hyperparams_in_bfloat16_stays_finite(case):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    changes = dict(b2=0.999) if "b2" in case.hyperparameters else {}
    params, state = run(optax.inject_hyperparams(case.make)(**(case.hyperparameters | changes)), params)
    chex.assert_tree_all_finite((params, state))


@parametrized([case._replace(slow=case.name not in ("adam", "adam-8bit", "adan", "adafactor")) for case in CASES])
def test_apply_if_finite(case):
    optimizer = optax.apply_if_finite(case.optimizer(), max_consecutive_errors=5)
    params, state = run(optimizer, PARAMS)
    broken = jax.tree.map(lambda x: x * jnp.nan, gradients_like(PARAMS, 9))
    updates, after = optimizer.update(broken, state, params)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))
    chex.assert_trees_all_equal(after.inner_state, state.inner_state)


@every_case
def test_extra_arguments_reach_nobody_who_did_not_ask(case):
    optimizer = optax.with_extra_args_support(case.optimizer())
    gradients, state = gradients_like(PARAMS, 0), optimizer.init(PARAMS)
    chex.assert_trees_all_equal(
        optimizer.update(gradients, state, PARAMS, value=1.0, unheard_of=2), optimizer.update(gradients, state, PARAMS)
    )


def test_extra_arguments_reach_the_averages_that_ask():
    def update(updates, state, params=None, *, temperature, **extra_args):
        return jax.tree.map(lambda u: u * temperature, updates), state

    hot = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    rms = optax.chain(ewa_optax.scale_by_rms(hot, eps=0.0, numerator=hot), ewa_optax.scale_by_learning_rate(1.0))
    updates, _ = rms.update(jnp.array([2.0]), rms.init(jnp.zeros(1)), temperature=9.0)
    np.testing.assert_allclose(updates, [-2.0 * 9 / np.sqrt(4.0 * 9)])


@pytest.mark.parametrize("mask", ["function", "tree", "prefix", "none"])
def test_adamw_decays_where_its_mask_says(mask):
    params = {"half": {"w": jnp.ones(2, jnp.bfloat16)}, "full": {"w": jnp.ones(3), "b": None}}
    masks = {
        "function": lambda params: jax.tree.map(lambda p: p.dtype == jnp.bfloat16, params),
        "tree": {"half": {"w": True}, "full": {"w": False, "b": None}},
        "prefix": {"half": True, "full": False},
        "none": None,
    }
    optimizer = ewa_optax.adamw(0.1, weight_decay=0.5, mask=masks[mask])
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    full = -0.05 if mask == "none" else 0.0
    expected = {"half": {"w": jnp.full(2, -0.05, jnp.bfloat16)}, "full": {"w": jnp.full(3, full), "b": None}}
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)


@every_case
def test_partition(case):
    optimizer = optax.partition(
        {"train": case.optimizer(), "freeze": optax.set_to_zero()}, {"w": "train", "b": "freeze", "scale": "train"}
    )
    params, _ = run(optimizer, PARAMS)
    chex.assert_trees_all_equal(params["b"], PARAMS["b"])
    assert not np.allclose(params["w"], PARAMS["w"])


@every_case
def test_map_params_reaches_the_averages_and_nothing_else(case):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    state = case.optimizer().init(params)
    reached = optax.tree.map_params(case.optimizer(), lambda _: True, state, transform_non_params=lambda _: False)
    for leaf, is_average in zip(jax.tree.leaves(state), jax.tree.leaves(reached), strict=True):
        assert is_average == (leaf.shape != ()) or case.name.startswith("novograd")  # Which keeps scalars, too.


# State and memory.


@every_case
def test_state_is_arrays_only_strongly_typed_and_aliases_nothing(case):
    rate = jnp.array(0.1)
    state = case.optimizer(learning_rate=rate).init(PARAMS)
    chex.assert_trees_all_equal_structs(state, case.optimizer(learning_rate=lambda count: 0.1).init(PARAMS))
    taken = {x.unsafe_buffer_pointer() for x in jax.tree.leaves((PARAMS, rate))}
    for leaf in jax.tree.leaves(state):
        assert isinstance(leaf, jax.Array)
        assert not leaf.aval.weak_type
        assert leaf.unsafe_buffer_pointer() not in taken
        taken.add(leaf.unsafe_buffer_pointer())


@every_case
def test_state_may_be_donated(case):
    optimizer = case.optimizer()
    step = jax.jit(optimizer.update, donate_argnums=(0, 1))
    state, expected = optimizer.init(PARAMS), optimizer.init(PARAMS)
    for t in range(3):
        updates, state = step(gradients_like(PARAMS, t), state, PARAMS)
        by_hand, expected = optimizer.update(gradients_like(PARAMS, t), expected, PARAMS)
        chex.assert_trees_all_close(updates, by_hand, rtol=2e-6, atol=0.0 if case in FULL else 1e-7)


@every_case
def test_state_survives_pickling(case):
    _, state = run(case.optimizer(), PARAMS)
    chex.assert_trees_all_equal(pickle.loads(pickle.dumps(state)), state)


@every_case
@pytest.mark.parametrize(("param_dtype", "gradient_dtype"), MIXES)
def test_dtypes_hold_and_no_finite_gradient_breaks_anything(case, param_dtype, gradient_dtype):
    with jax.enable_x64(True):
        optimizer = case.optimizer(learning_rate=1.0)
        top = float(jnp.finfo(gradient_dtype).max)
        tiny = float(jnp.finfo(gradient_dtype).smallest_subnormal)
        spikes = [top, -top, 0.0, 1.0, top, top, -top, tiny, 0.0, 300.0, 1e-4, -top, *[0.0] * 20]
        gradients = jnp.asarray(spikes, gradient_dtype)[:, None] * jnp.array([1, -1, 0], gradient_dtype)[None]
        params = jnp.array([1.0, 0.0, -2.0], param_dtype)
        state = optimizer.init(params)
        kept = {x.dtype for x in jax.tree.leaves(state) if x.shape == params.shape}
        assert bool(kept) == (case.name != "gradient_descent")
        assert kept <= ({jnp.promote_types(param_dtype, jnp.float32)} if case.storage is None else NARROW)

        def step(state, g):
            updates, new_state = optimizer.update(g, state, params)
            return new_state, (updates, new_state)

        after, _ = step(state, gradients[0])
        chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
        last, (updates, states) = jax.jit(lambda s, g: jax.lax.scan(step, s, g))(state, gradients)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, last)
        assert updates.dtype == jnp.dtype(gradient_dtype)
        chex.assert_tree_all_finite((updates, states))


@every_member
def test_no_finite_complex_gradient_breaks_anything(case):
    optimizer, top = case.optimizer(learning_rate=1.0), float(jnp.finfo(jnp.float32).max)
    spikes = np.array([top + 1j * top, -top - 1j * top, 0, 1j, top, -1j * top, 1 + 1j], np.complex64)
    chex.assert_tree_all_finite(run_updates(optimizer, jnp.ones(1, jnp.complex64), spikes[:, None]))


@every_case
def test_a_counter_at_its_end_stays_there(case):
    optimizer = case.optimizer()
    state = optimizer.init(PARAMS)
    last = jax.tree.map(lambda x: jnp.full_like(x, 2**31 - 1) if x.dtype == jnp.int32 else x, state)
    updates, after = optimizer.update(gradients_like(PARAMS, 0), last, PARAMS)
    chex.assert_tree_all_finite((updates, after))
    for leaf in jax.tree.leaves(after):
        assert leaf.dtype != jnp.int32 or leaf == 2**31 - 1


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_pieces_on_their_own_compute_in_float32_and_keep_the_dtype(dtype):
    gradients = jnp.asarray([300.0, 1e-4, 0.5, 1e-4, 65504.0], dtype)[:, None]
    exact = np.asarray(gradients, np.float64)
    v = -oracles.momentum(exact, 1.0, 0.99)
    weights = 1 - 0.99 ** np.arange(1.0, 6)[:, None]
    for piece, expected in (
        (ewa_optax.scale_by_ewa(0.99), v),
        (ewa_optax.bias_correct(0.99), np.minimum(exact / weights, float(jnp.finfo(dtype).max))),
        (ewa_optax.scale_by_rms(0.99), -oracles.rmsprop(exact, 1.0, 0.99, 1e-8)),
        (ewa_optax.scale_by_learning_rate(0.3), -0.3 * exact),
        (ewa_optax.scale_by_learning_rate(3.0), np.maximum(-3.0 * exact, -float(jnp.finfo(dtype).max))),
    ):
        updates = run_updates(piece, jnp.zeros(1, dtype), gradients)
        assert updates.dtype == dtype
        tolerance = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(updates, np.float64), expected, rtol=tolerance, atol=6e-8)


def test_weight_decay_of_bfloat16_parameters_is_formed_in_float32():
    params = jnp.array([1.0, 1.0078125], jnp.bfloat16)
    optimizer = ewa_optax.adamw(1.0, weight_decay=0.3)
    updates, _ = optimizer.update(jnp.zeros(2), optimizer.init(params), params)
    np.testing.assert_allclose(updates, [-0.3, -0.3 * 1.0078125], rtol=1e-6)


# Trees.


@chex.dataclass
class Layer:
    w: jax.Array
    b: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Plain:
    w: jax.Array


@every_case
@pytest.mark.parametrize(
    "tree",
    [
        (jnp.ones(2), (jnp.ones(3), [])),
        [jnp.ones(2), {"a": jnp.ones((1, 2))}],
        Layer(w=jnp.ones((2, 2)), b=jnp.ones(2)),
        Plain(w=jnp.ones(2)),
        {"scalar": jnp.ones(()), "empty": jnp.ones((0, 3))},
        {"none": None, "w": jnp.ones(2)},
        {},
        jnp.ones(2),
    ],
    ids=lambda tree: type(tree).__name__,
)
def test_takes_any_tree(case, tree):
    params, state = run(case.optimizer(), tree)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, tree)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, case.optimizer().init(tree))


@every_case
def test_python_numbers_as_leaves(case):
    optimizer = case.optimizer()

    def first_step(number):
        params, gradients = {"a": number(1.0)}, {"a": number(0.5)}
        return optimizer.update(gradients, optimizer.init(params), params)

    chex.assert_trees_all_equal(first_step(float), first_step(jnp.array))
    chex.assert_trees_all_equal_shapes_and_dtypes(first_step(float), first_step(jnp.array))


@every_case
def test_a_missing_gradient_leaves_its_average_alone(case):
    optimizer = case.optimizer()
    state = optimizer.init(PARAMS)
    _, state = optimizer.update(gradients_like(PARAMS, 0), state, PARAMS)
    updates, after = optimizer.update(gradients_like(PARAMS, 1) | {"w": None}, state, PARAMS)
    assert updates["w"] is None
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        if before.shape == PARAMS["w"].shape:
            chex.assert_trees_all_equal(now, before)


@every_case
def test_init_needs_shapes_and_dtypes_only(case):
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(case.optimizer().init(shapes), case.optimizer().init(PARAMS))


@every_case
def test_a_whole_model_with_functions_in_it_may_be_the_parameters(case):
    model, arrays = {"w": jnp.ones(2), "activation": jax.nn.relu}, {"w": jnp.ones(2), "activation": None}
    optimizer = case.optimizer()
    updates, _ = optimizer.update(arrays, optimizer.init(arrays), model)
    chex.assert_trees_all_equal(updates, optimizer.update(arrays, optimizer.init(arrays), arrays)[0])


@every_case
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_strict_promotion_and_nan_checks(case, dtype):
    params = jnp.ones(2, dtype)
    optimizer = case.optimizer()
    with jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
        updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates.dtype == dtype


@parametrized([case for case in CASES if "average" in repr(case.optimizer().init(0.0))])
def test_integer_parameters_are_an_error_that_names_them(case):
    with pytest.raises(TypeError, match=r"\['steps'\] has dtype int32.*optax.masked"):
        case.optimizer().init({"w": jnp.ones(2), "steps": jnp.arange(3)})


# Elsewhere.


@every_case
def test_lowers_for_every_platform(case):
    optimizer = case.optimizer()

    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    exported = jax.export.export(jax.jit(step), platforms=("cpu", "cuda", "rocm", "tpu"))(
        PARAMS, optimizer.init(PARAMS), PARAMS
    )
    assert exported.platforms == ("cpu", "cuda", "rocm", "tpu")


@every_case
def test_sharded_over_devices_equals_one_device(case):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("x"))
    params = jnp.linspace(-1.0, 1.0, 32)
    optimizer = case.optimizer()
    spread = jax.device_put(params, sharding)
    state = jax.jit(optimizer.init)(spread)
    updates, state = jax.jit(optimizer.update)(jax.device_put(params * 3, sharding), state, spread)
    assert updates.sharding.is_equivalent_to(sharding, 1)
    alone, _ = jax.jit(optimizer.update)(params * 3, optimizer.init(params), params)
    chex.assert_trees_all_close(updates, alone, rtol=1e-6)
