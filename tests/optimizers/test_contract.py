"""Every optimizer of the table through every law."""

import dataclasses
import functools
import inspect
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
from cases import CASES, DIFFERENT, FAMILY, FULL, OWN
from helpers import Programs
from runs import (
    assert_close_in_size,
    eight_decades,
    followed,
    gradients_like,
    parametrized,
    roughly_compiled,
    run,
    run_updates,
    trained,
)

import ewa_optax

DTYPES = ("float32", "bfloat16", "float16", "float64")
QUICK_MIXES = [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "float16"),
               ("float16", "float64"), ("float64", "float64")]  # fmt: skip
NARROW = {jnp.dtype(name) for name in ("bfloat16", "float16", "int8", "uint8")}
# Two leaves of one shape: outside of jit each shape has programs of its own.
PARAMS = {
    "w": jnp.array([[0.3, -1.2], [2.5, 0.01]]),
    "b": jnp.array([[0.5, -0.5], [1.5, -0.2]]),
    "scale": jnp.float32(2.0),
}


def slow_too(names):
    """All cases, those of these names and most of the family slow, and what is slow anyhow."""
    rare = {case.name for case in FAMILY + OWN} - DIFFERENT | names
    return [case._replace(slow=case.slow or case.name in rare) for case in CASES]


# To others of the table, but in their arithmetic, or in the range of their numbers.
ALIKE = {"rmsprop_eps_inside", "adam_eps_root", "heavy_ball"}
EXACT = {"soap": 1e-12}
"""Errors in float64, where they are larger than 1e-13."""
ALIKE_IN_RANGE = {"adam-float16", "momentum-24bit", "rmsprop-8bit"}
every_range = parametrized(slow_too(ALIKE))
every_case = parametrized(slow_too(ALIKE | ALIKE_IN_RANGE))
every_member = parametrized(CASES)  # For what must hold of the arithmetic of each.
# For wrappers, which ask of an optimizer only that its state is a tree of arrays whose shapes and dtypes stay.
some_cases = parametrized([c._replace(slow=c.name not in ("adam", "adam-8bit", "adan", "adafactor")) for c in CASES])


def gradients_of_steps(steps):
    """Gradients like `PARAMS`, along a first axis time."""
    return jax.tree.map(lambda *x: np.stack(x), *(gradients_like(PARAMS, seed) for seed in range(steps)))


def once(function):
    """The function under jit, for which it is an error to be traced again, unless its program was let go of."""
    generations = []

    def traced(*arguments):
        assert Programs.generation not in generations, "it is traced again"
        generations.append(Programs.generation)
        return function(*arguments)

    return roughly_compiled(traced)


@functools.lru_cache(maxsize=2)
def compiled(name):
    """The optimizer of that case for `PARAMS`, whose two programs several tests share."""
    optimizer = next(case for case in CASES if case.name == name).optimizer()
    return optax.GradientTransformation(once(optimizer.init), once(optimizer.update))


# Against the outside.


def gradients_of(case):
    return case.gradients or eight_decades


@functools.cache
def real_and_complex_updates(name):
    """Gradients, parameters and updates, for the oracle and for the twin: two leaves of one program."""
    case = next(case for case in CASES if case.name == name)
    gradients = {kind: gradients_of(case)(200, case.shape, kind == "complex") for kind in ("real", "complex")}
    params = {kind: eight_decades(1, case.shape, kind == "complex", seed=1)[0] for kind in gradients}
    return gradients, params, jax.device_get(run_updates(case.optimizer(), params, gradients))


@every_member
def test_equals_its_oracle(case):
    gradients, params, updates = (tree["real"] for tree in real_and_complex_updates(case.name))
    expected = case.oracle(gradients.astype(np.float64), params)
    assert_close_in_size(updates, expected, case.oracle_tolerance, case.error)


@every_member
def test_equals_its_oracle_of_complex_numbers(case):
    gradients, params, updates = (tree["complex"] for tree in real_and_complex_updates(case.name))
    expected = case.oracle(gradients.astype(np.complex128), params)
    # Two parts are rounded by chance, not one.
    tolerance = 1.1 * case.oracle_tolerance if case.storage else case.oracle_tolerance
    assert_close_in_size(updates, expected, max(tolerance, case.complex_tolerance), case.error)


@every_member
def test_equals_its_oracle_in_float64(case):
    gradients = gradients_of(case)(200, case.shape).astype(np.float64)
    params = eight_decades(1, case.shape, seed=1)[0]
    with jax.enable_x64(True):
        updates = run_updates(case.optimizer(), params.astype(np.float64), gradients, roughly_compiled)
        assert updates.dtype == jnp.float64
    assert_close_in_size(
        updates,
        case.oracle(gradients, params),
        case.oracle_tolerance if case.storage else EXACT.get(case.name, 1e-13),
        case.error,
    )


@functools.cache
def updates_of_twin(twin, shape):
    """Of the same gradients and parameters; a case shares its twin with those of it that are stored."""
    gradients, params = eight_decades(200, shape), eight_decades(1, shape, seed=1)[0]
    return np.asarray(run_updates(twin(), params, gradients, roughly_compiled))


@parametrized([case for case in CASES if case.twin])
def test_equals_its_optax_twin(case):
    ours = real_and_complex_updates(case.name)[2]["real"]
    assert_close_in_size(ours, updates_of_twin(case.twin, case.shape), case.twin_tolerance, case.error)


# What optax asks of its own optimizers.


def parabola(dtype):
    target = np.array([1.0, -1.0, 1.0], dtype)
    if np.iscomplexobj(target):
        target = target * np.complex64(1 + 1j)
    start = np.array([-1.0, 10.0, 1.0], dtype)
    return start, target, lambda x: jnp.sum(jnp.abs(x - target) ** 2)


def rosenbrock(dtype):
    a, b = 1.0, 100.0
    if np.issubdtype(dtype, np.complexfloating):
        a = 1.0 + 1.0j
    target = np.array([a, a**2], dtype)
    return np.zeros(2, dtype), target, lambda x: jnp.abs(a - x[0]) ** 2 + b * jnp.abs(x[1] - x[0] ** 2) ** 2


@parametrized([case for case in slow_too(ALIKE | ALIKE_IN_RANGE) if case.solves is not None])
def test_solves_toy_problems(case):
    """Each a leaf of one tree."""
    problems = {(f.__name__, t.__name__): f(t) for f in (parabola, rosenbrock) for t in (np.float32, np.complex64)}
    start, target, objectives = ({name: problem[i] for name, problem in problems.items()} for i in range(3))
    optimizer = case.optimizer(**case.solves)

    def objective(params):
        return sum(objectives[name](x) for name, x in params.items())

    def step(carry, _):
        params, state = carry
        # For complex parameters the direction of steepest descent is the conjugate of JAX's gradient.
        gradients = jax.tree.map(jnp.conj, jax.grad(objective)(params))
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = roughly_compiled(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=10_000))(start)
    chex.assert_trees_all_close(params, target, rtol=3e-2, atol=3e-2)


@every_case
def test_compiles_once_in_a_hundred_steps(case):
    optimizer = compiled(case.name)
    gradients, state = gradients_like(PARAMS, 0), optimizer.init(PARAMS)
    for _ in range(100):
        _, state = optimizer.update(gradients, state, PARAMS)


@every_case
def test_plain_jit_and_scan_agree(case):
    gradients = gradients_of_steps(3)
    plain, jitted = (run(optimizer, PARAMS) for optimizer in (case.optimizer(), compiled(case.name)))
    scanned = trained(case.optimizer(), PARAMS, gradients)
    chex.assert_trees_all_equal_shapes_and_dtypes(plain, jitted, scanned)
    absolute = 0.0 if case in FULL else 1e-7  # Where sums cancel.
    relative = 2e-6
    if case.storage:  # Of what differs in its last bit, chance may make the next code.
        plain, jitted, scanned, relative = plain[0], jitted[0], scanned[0], case.oracle_tolerance
    chex.assert_trees_all_close(plain, jitted, rtol=relative, atol=absolute)
    chex.assert_trees_all_close(jitted, scanned, rtol=relative, atol=absolute)


def check_sweep(case, names):
    """One compiled program over values of these hyperparameters, against a plain run for each set of values.

    The first are those of the table, whose programs other tests share.
    """
    gradients, usual = gradients_of_steps(3), {n: case.hyperparameters[n] for n in names}
    rows = [usual, {n: value * (0.5, 0.9)[j % 2] for j, (n, value) in enumerate(usual.items())}]
    table = {n: np.array([row[n] for row in rows], np.float32) for n in names}

    @roughly_compiled
    @jax.vmap
    @chex.assert_max_traces(n=1)
    def sweep(values):
        return followed(case.optimizer(**values), PARAMS, gradients)[0][0]

    swept = sweep(table)
    sweep({n: values * np.float32(0.99) for n, values in table.items()})
    singles = run(compiled(case.name), PARAMS)[0], trained(case.optimizer(**rows[1]), PARAMS, gradients)[0]
    for i, single in enumerate(singles):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], swept), single, rtol=3e-5, atol=within(case, 1e-7)
        )


def within(case, exact):
    """How far parameters may be from those of decays that are numbers, where they are float32 arrays.

    The square of AdaMax's, by which its chance is told apart, is then another float32, and its chance another.
    """
    if case.storage and case.make.func is ewa_optax.adamax:
        return 0.03
    return max(exact, 1e-6) if case.storage else exact


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
    rates = np.array([0.1, 0.05, 0.02], np.float32)
    scheduled = case.optimizer(learning_rate=lambda count: jnp.asarray(rates)[count])
    state = scheduled.init(PARAMS)
    for t, rate in enumerate(rates):
        gradients = gradients_like(PARAMS, t)
        updates, new_state = scheduled.update(gradients, state, PARAMS)
        by_hand, _ = case.optimizer(learning_rate=jnp.asarray(rate)).update(gradients, state, PARAMS)
        chex.assert_trees_all_close(updates, by_hand, rtol=1e-6)
        state = new_state


def variants_of(cases):
    """The first step by chex's variants: with and without jit, with arguments on and off the device."""

    class OneStep(chex.TestCase):
        @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
        @parameterized.named_parameters((case.name, case) for case in cases)
        def test_equals_the_oracle_in_every_variant(self, case):
            gradients, params = eight_decades(1, (2, 2)), eight_decades(1, (2, 2), seed=1)[0]
            optimizer = case.optimizer()
            updates, _ = self.variant(optimizer.update)(gradients[0], optimizer.init(params), params)
            expected = case.oracle(gradients.astype(np.float64), params)[0]
            relative, absolute = 1e-6 if case in FULL else 2e-6, case.of_parameters * np.abs(params)
            assert np.all(np.abs(updates - expected) <= relative * np.abs(expected) + absolute)

    return OneStep


IN_VARIANTS = ("adam", "adam-8bit", "adan", "adafactor")
OneStep = variants_of([case for case in CASES if case.name in IN_VARIANTS])
OneStepOfTheOthers = pytest.mark.slow(variants_of([case for case in CASES if case.name not in IN_VARIANTS]))


# Wrappers.


@some_cases
def test_multi_steps(case):
    optimizer = optax.MultiSteps(case.optimizer(), every_k_schedule=2)
    update = roughly_compiled(optimizer.update)
    params, state = run(optax.GradientTransformation(optimizer.init, update), PARAMS, steps=6)
    plain = compiled(case.name)
    expected, inner = PARAMS, plain.init(PARAMS)
    for t in (0, 2, 4):
        mean = jax.tree.map(lambda a, b: (a + b) / 2, gradients_like(PARAMS, t), gradients_like(PARAMS, t + 1))
        updates, inner = plain.update(mean, inner, expected)
        expected = optax.apply_updates(expected, updates)
    chex.assert_trees_all_close(params, expected, rtol=1e-5, atol=1e-8)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, optimizer.init(PARAMS))


@every_case
def test_the_state_of_multi_steps_keeps_its_shapes(case):
    optimizer = optax.MultiSteps(case.optimizer(), every_k_schedule=2)
    state = jax.eval_shape(optimizer.init, PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        jax.eval_shape(optimizer.update, PARAMS, state, PARAMS), (PARAMS, state)
    )


@every_case
def test_masked_leaves_pass_through(case):
    optimizer = optax.masked(case.optimizer(), {"w": True, "b": False, "scale": True})
    gradients = gradients_like(PARAMS, 0)
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    whole, _ = case.optimizer().update(gradients, case.optimizer().init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(updates, whole | {"b": gradients["b"]})


def injecting(case):
    """The optimizer whose numbers are arrays in its state, but for those that decide the structure of its program."""
    static = {"steps", "max_size"} & inspect.signature(case.make).parameters.keys()
    return optax.inject_hyperparams(case.make, static_args=tuple(static))


@every_case
def test_inject_hyperparams(case):
    injected = injecting(case)(**case.hyperparameters)
    params, state = trained(injected, PARAMS, gradients_of_steps(3))
    expected = run(compiled(case.name), PARAMS)[0]
    chex.assert_trees_all_close(params, expected, rtol=3e-5, atol=within(case, 0.0 if case in FULL else 1e-6))
    assert set(case.hyperparameters) <= set(state.hyperparams)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(injected.init, PARAMS))


@some_cases
def test_inject_hyperparams_outside_of_jit(case):
    injected = injecting(case)(**case.hyperparameters)
    params, state = run(injected, PARAMS)
    expected = run(compiled(case.name), PARAMS)[0]
    chex.assert_trees_all_close(params, expected, rtol=3e-5, atol=within(case, 0.0 if case in FULL else 1e-6))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, injected.init(PARAMS))


@every_case
def test_inject_hyperparams_in_bfloat16_stays_finite(case):
    params, gradients = (jax.tree.map(lambda x: x.astype(jnp.bfloat16), x) for x in (PARAMS, gradients_of_steps(3)))
    changes = dict(b2=0.999) if "b2" in case.hyperparameters else {}
    after = trained(injecting(case)(**(case.hyperparameters | changes)), params, gradients)
    chex.assert_tree_all_finite(after)


@some_cases
def test_apply_if_finite(case):
    optimizer = optax.apply_if_finite(case.optimizer(), max_consecutive_errors=5)
    optimizer = optax.GradientTransformation(optimizer.init, roughly_compiled(optimizer.update))
    params, state = run(optimizer, PARAMS)
    broken = jax.tree.map(lambda x: x * np.nan, gradients_like(PARAMS, 9))
    updates, after = optimizer.update(broken, state, params)
    chex.assert_trees_all_equal(updates, jax.tree.map(np.zeros_like, PARAMS))
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
    has_scalars = case.name.startswith("novograd") or case.name.endswith("-factored")
    for leaf, is_average in zip(jax.tree.leaves(state), jax.tree.leaves(reached), strict=True):
        assert is_average == (leaf.shape != ()) or (has_scalars and leaf.shape == ())


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


@some_cases
def test_state_may_be_donated(case):
    optimizer, plain = case.optimizer(), compiled(case.name)
    step = roughly_compiled(optimizer.update, donate_argnums=(0, 1))
    state, expected = optimizer.init(PARAMS), plain.init(PARAMS)
    for t in range(3):
        updates, state = step(gradients_like(PARAMS, t), state, PARAMS)
        by_hand, expected = plain.update(gradients_like(PARAMS, t), expected, PARAMS)
        chex.assert_trees_all_close(updates, by_hand, rtol=2e-6, atol=0.0 if case in FULL else 1e-7)


@every_case
def test_state_survives_pickling(case):
    _, state = run(compiled(case.name), PARAMS)
    chex.assert_trees_all_equal(pickle.loads(pickle.dumps(state)), state)


def at_each_leaf(state, params):
    """The arrays of a state that belong to each leaf of a flat dict of parameters."""
    found = {name: [] for name in params}
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        for key in path:
            if getattr(key, "key", None) in found:
                found[key.key].append(x)
    return found


@every_range
@pytest.mark.parametrize(
    "mixes",
    [
        pytest.param(QUICK_MIXES, id="some"),
        pytest.param([*itertools.product(DTYPES, DTYPES)], id="all", marks=pytest.mark.slow),
    ],
)
def test_dtypes_hold_and_no_finite_gradient_breaks_anything(case, mixes):
    """A leaf for each mix of the dtype of a parameter and that of its gradients."""
    with jax.enable_x64(True):
        optimizer = case.optimizer(learning_rate=1.0)
        params, gradients = {}, {}
        for mix in mixes:
            param_dtype, gradient_dtype = map(jnp.dtype, mix)
            top = float(jnp.finfo(gradient_dtype).max)
            tiny = float(jnp.finfo(gradient_dtype).smallest_subnormal)
            spikes = [top, -top, 0.0, 1.0, top, top, -top, tiny, 0.0, 300.0, 1e-4, -top, *[0.0] * 20]
            signs = np.array([1, -1, 0], gradient_dtype)
            gradients[mix] = np.array(spikes).astype(gradient_dtype)[:, None] * signs[None]
            large = jnp.dtype(param_dtype).name in ("bfloat16", "float64")
            params[mix] = np.array([1.0, 0.0, jnp.finfo(param_dtype).min if large else -2.0]).astype(param_dtype)
        first = {mix: g[0] for mix, g in gradients.items()}
        state = jax.eval_shape(optimizer.init, params)
        for (param_dtype, _), arrays in at_each_leaf(state, params).items():
            kept = {x.dtype for x in arrays if x.shape == (3,) and x.dtype != bool}
            assert bool(kept) == (case.name != "gradient_descent")
            wide = jnp.promote_types(param_dtype, jnp.float32)
            # A number for each output, of which a vector has as many as it is long, is never rounded. Nor is soap's m.
            exact = {wide} if case.name.startswith(("normuon", "soap")) else set()
            assert case.storage is None or (kept <= NARROW | exact and kept & NARROW)
            assert case.storage or kept <= {wide}

        def step(state, g):
            updates, new_state = optimizer.update(g, state, params)
            return new_state, (updates, new_state)

        chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(step, state, first)[0])
        every_step = roughly_compiled(lambda p, g: jax.lax.scan(step, optimizer.init(p), g))
        last, (updates, states) = every_step(params, gradients)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, last)
        chex.assert_trees_all_equal_dtypes(updates, gradients)
        chex.assert_tree_all_finite((updates, states))


@every_member
def test_no_finite_complex_gradient_breaks_anything(case):
    optimizer, top = case.optimizer(learning_rate=1.0), float(jnp.finfo(jnp.float32).max)
    spikes = np.array([top + 1j * top, -top - 1j * top, 0, 1j, top, -1j * top, 1 + 1j], np.complex64)
    updates = run_updates(optimizer, np.ones(1, np.complex64), spikes[:, None], roughly_compiled)
    chex.assert_tree_all_finite(updates)


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
    pieces = (
        (ewa_optax.scale_by_ewa(0.99), v),
        (ewa_optax.bias_correct(0.99), np.minimum(exact / weights, float(jnp.finfo(dtype).max))),
        (ewa_optax.scale_by_rms(0.99), -oracles.rmsprop(exact, 1.0, 0.99, 1e-8)),
        (ewa_optax.scale_by_learning_rate(0.3), -0.3 * exact),
        (ewa_optax.scale_by_learning_rate(3.0), np.maximum(-3.0 * exact, -float(jnp.finfo(dtype).max))),
    )

    @roughly_compiled
    def of_each(gradients):
        return [followed(piece, jnp.zeros(1, dtype), gradients)[1] for piece, _ in pieces]

    for updates, (_, expected) in zip(of_each(gradients), pieces, strict=True):
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


TREES = [
    (np.ones(2, np.float32), (np.ones(3, np.float32), [])),
    [np.ones(2, np.float32), {"a": np.ones((1, 2), np.float32)}],
    Layer(w=np.ones((2, 2), np.float32), b=np.ones(2, np.float32)),
    Plain(w=np.ones(2, np.float32)),
    {"scalar": np.ones((), np.float32), "empty": np.ones((0, 3), np.float32)},
    {"none": None, "w": np.ones(2, np.float32)},
    {},
    np.ones(2, np.float32),
]


@every_case
def test_takes_any_tree(case):
    optimizer = case.optimizer()
    for tree in TREES:
        params, state = jax.eval_shape(lambda tree: run(optimizer, tree, steps=1), tree)
        chex.assert_trees_all_equal_shapes_and_dtypes(params, tree)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(optimizer.init, tree))


@some_cases
def test_computes_on_any_tree(case):
    """On all of them in one."""
    params, state = trained(case.optimizer(), TREES, jax.tree.map(lambda x: np.stack([x, -x, x]), TREES))
    chex.assert_trees_all_equal_shapes_and_dtypes(params, TREES)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, case.optimizer().init(TREES))
    chex.assert_tree_all_finite((params, state))


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
    chex.assert_trees_all_equal(at_each_leaf(after, PARAMS)["w"], at_each_leaf(state, PARAMS)["w"])


@every_case
def test_init_needs_shapes_and_dtypes_only(case):
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(case.optimizer().init(shapes), case.optimizer().init(PARAMS))


@every_case
def test_a_whole_model_with_functions_in_it_may_be_the_parameters(case):
    model, arrays = {"w": PARAMS["w"], "activation": jax.nn.relu}, {"w": PARAMS["w"], "activation": None}
    optimizer = case.optimizer()
    updates, _ = optimizer.update(arrays, optimizer.init(arrays), model)
    chex.assert_trees_all_equal(updates, optimizer.update(arrays, optimizer.init(arrays), arrays)[0])


@every_case
def test_strict_promotion_and_nan_checks(case):
    """Without a storage of every intermediate result: each operation is a program, which all optimizers share."""
    optimizer, params = case.optimizer(), {t.__name__: np.ones(2, t) for t in (np.float32, np.complex64)}
    first_step = roughly_compiled(lambda p: optimizer.update(p, optimizer.init(p), p)[0])
    with jax.numpy_dtype_promotion("strict"), jax.debug_nans(True), jax.disable_jit(case.storage is None):
        updates = first_step(jax.tree.map(jnp.asarray, params))
    chex.assert_trees_all_equal_dtypes(updates, params)


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
    """One program, of an array that is spread, and of the same array whole on each device."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    shardings = {"spread": jax.NamedSharding(mesh, jax.P("x")), "whole": jax.NamedSharding(mesh, jax.P())}
    values = np.linspace(-1.0, 1.0, 32, dtype=np.float32)
    params, gradients = (jax.device_put(dict.fromkeys(shardings, x), shardings) for x in (values, values * 3))
    optimizer = case.optimizer()
    updates, _ = roughly_compiled(lambda g, p: optimizer.update(g, optimizer.init(p), p))(gradients, params)
    assert updates["spread"].sharding.is_equivalent_to(shardings["spread"], 1)
    # Where each number is a sum over all others, it is one in another order.
    relative = 2e-6 if case.name.startswith("muon") else 1e-6
    chex.assert_trees_all_close(updates["spread"], updates["whole"], rtol=relative, atol=case.of_parameters)
