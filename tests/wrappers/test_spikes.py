"""Gradients far above those before, which are scaled down, or whose steps are skipped."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ROUGHLY
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from sklearn.datasets import load_digits
from test_accumulate import operations

import ewa_optax
from ewa_optax import accumulate, clip_by_past_norm, get_skipped, skip_spikes

RNG = np.random.default_rng(0)
KEPT = optax.scale(-1.0)


def along(optimizer, gradients, values=None, params=None):
    """The updates and the state after each step: one program."""
    params = jax.tree.map(lambda g: jnp.zeros(g.shape[1:], g.dtype), gradients) if params is None else params

    def step(state, given):
        gradient, extra = given
        updates, state = optimizer.update(gradient, state, params, **extra)
        return state, (updates, state)

    @functools.partial(jax.jit, compiler_options=ROUGHLY)
    def run(gradients, extra):
        return jax.lax.scan(step, optimizer.init(params), (gradients, extra))[1]

    return jax.device_get(run(gradients, {} if values is None else {"value": np.asarray(values, np.float32)}))


def usual(logs, decay):
    """Mean and standard deviation of the numbers so far, in double precision; a deviation is at least 0.1."""
    weights = decay ** np.arange(len(logs))[::-1]
    mean = np.average(logs, weights=weights)
    return mean, max(np.sqrt(np.average((logs - mean) ** 2, weights=weights)), 0.1)


def clipped(norms, deviations, decay, warmup):
    """What leaves of norms."""
    out = []
    for norm in norms:
        if np.isfinite(norm) and norm > 0 and len(out) >= max(warmup, 1):
            mean, deviation = usual(np.log(out), decay)
            norm = min(norm, np.exp(mean + deviations * deviation))
        out.append(norm)
    return np.array(out)


@pytest.mark.parametrize(
    ("deviations", "decay", "warmup"), [(3.0, 0.9, 5), pytest.param(1.5, 0.99, 0, marks=pytest.mark.slow)]
)
def test_norms_are_clipped_as_the_formula_says(deviations, decay, warmup):
    norms = np.exp(0.3 * RNG.standard_normal(200))
    norms[[50, 120, 121]] *= 1e4
    direction = np.array([0.6, -0.8])
    gradients = {
        "a": norms[:, None].astype(np.float32) * direction[:1].astype(np.float32),
        "b": norms[:, None].astype(np.float32) * direction[1:].astype(np.float32),
    }
    updates, _ = along(clip_by_past_norm(deviations, decay, warmup=warmup), gradients)
    expected = clipped(norms, deviations, decay, warmup)
    assert (expected < norms).sum() >= 3
    np.testing.assert_allclose(updates["a"][:, 0] / 0.6, expected, rtol=1e-4)
    np.testing.assert_allclose(updates["b"][:, 0] / -0.8, expected, rtol=1e-4)


def test_one_spike_does_not_raise_the_limit_for_long_and_a_lasting_rise_passes():
    norms = np.exp(0.2 * RNG.standard_normal(400))
    norms[50] *= 1e4
    norms[300:] *= 100
    updates, _ = along(clip_by_past_norm(3.0, 0.9), norms[:, None].astype(np.float32))
    left = updates[:, 0] / norms
    assert left[50] < 1e-3
    assert (left[60:300] > 0.5).all()
    assert left[300] < 0.1
    assert left[-50:].min() > 0.5
    constant = along(clip_by_past_norm(3.0), np.repeat([1.0, 1.2], 50)[:, None].astype(np.float32))[0]
    np.testing.assert_array_equal(constant[:, 0], np.repeat([1.0, 1.2], 50).astype(np.float32))


def test_clipping_lets_what_it_cannot_scale_pass_and_forgets_it():
    gradients = np.array([1, 2, np.nan, 0, np.inf, 1e30, 1, 3e38], np.float32)[:, None]
    updates, state = along(clip_by_past_norm(3.0, 0.5, warmup=1), gradients)
    np.testing.assert_array_equal(updates[2:5], gradients[2:5])
    assert [*state.past.seen] == [1, 2, 2, 2, 2, 3, 4, 5]
    assert updates[5] < 50
    assert 0 < updates[7] < 1e5


def test_clipping_keeps_dtypes_and_takes_complex_and_none_leaves():
    params = {"w": np.ones(3, jnp.bfloat16), "z": np.ones(2, np.complex64), "none": None}
    optimizer = clip_by_past_norm(warmup=1)
    gradients = jax.tree.map(lambda p: np.stack([p, p, 1000 * p]), params)
    updates, state = along(optimizer, gradients, params=params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, gradients)
    np.testing.assert_allclose(updates["z"][2], np.exp(0.3), rtol=1e-4)
    assert updates["none"] is None
    assert all(x.shape == (3,) for x in jax.tree.leaves(state))


def test_clipping_is_differentiable():
    """By the size of a gradient, of which a part is 0: the first leaves as it is, and the second is scaled to it."""

    def clipped_to(size, scale):
        gradients = {"w": size * jnp.ones(4), "b": jnp.zeros(2)}
        optimizer = clip_by_past_norm(warmup=1)
        _, state = optimizer.update(gradients, optimizer.init(gradients))
        updates, _ = optimizer.update(jax.tree.map(lambda g: scale * g, gradients), state)
        return updates["w"][0]

    slopes = jax.jit(jax.vmap(jax.grad(clipped_to), (None, 0)), compiler_options=ROUGHLY)(2.0, jnp.array([1.0, 100.0]))
    np.testing.assert_allclose(slopes, [1, np.exp(0.3)], rtol=1e-5)


# Skipping.


def skipped(norms, deviations, decay, warmup, most):
    """Which steps are."""
    logs, out, in_a_row = [], [], 0
    for norm in norms:
        limit = np.inf
        if len(logs) >= max(warmup, 1):
            mean, deviation = usual(np.array(logs), decay)
            limit = mean + deviations * deviation
        skips = not np.isfinite(norm) or (np.log(norm) > limit and in_a_row < most)
        in_a_row = in_a_row + bool(np.isfinite(norm)) if skips else 0
        out.append(skips)
        if not skips:
            logs.append(np.log(norm))
    return np.array(out)


@pytest.mark.parametrize("of", ["gradient", "loss"])
def test_steps_are_skipped_as_the_rule_says(of):
    """Their updates are 0, and the optimizer does not know of them."""
    x = np.exp(0.3 * RNG.standard_normal(300))
    x[[60, 110, 200]] *= 1e4
    x[[40, 70, 71]] = [np.nan, np.inf, np.nan]
    x[130:180] *= 300  # More in a row than are skipped.
    expected = skipped(x, 4.0, 0.95, 10, 6)
    assert 8 < expected.sum() < 20
    others = np.ones((300, 1), np.float32)
    optimizer = skip_spikes(ewa_optax.momentum(0.5), 4.0, 0.95, warmup=10, most=6)
    if of == "gradient":
        gradients, values = x[:, None].astype(np.float32), others[:, 0]
    else:
        gradients, values = others, x
    updates, state = along(optimizer, gradients, values)
    np.testing.assert_array_equal(updates[:, 0] == 0, expected)
    np.testing.assert_array_equal(state.skipped, expected.cumsum())
    of_rest, rest = along(ewa_optax.momentum(0.5), gradients[~expected])
    np.testing.assert_allclose(updates[~expected], of_rest, rtol=1e-6)
    chex.assert_trees_all_close(*(jax.tree.map(lambda x: x[-1], s) for s in (state.inner_state, rest)), rtol=1e-6)


def test_a_burst_does_not_lock_it_and_what_stays_large_passes():
    norms = np.ones(200)
    norms[50:100] = 1e4
    _, burst = along(skip_spikes(KEPT), norms[:, None].astype(np.float32))
    assert 10 < burst.skipped[99] < 50
    assert burst.skipped[-1] == burst.skipped[99]
    norms[50:] = 1e4
    _, stays = along(skip_spikes(KEPT), norms[:, None].astype(np.float32))
    assert stays.skipped[-1] == stays.skipped[-50]
    _, never = along(skip_spikes(KEPT), np.full((60, 1), np.nan, np.float32))
    assert (never.skipped[-1], never.in_a_row[-1]) == (60, 0)


def test_a_loss_that_has_no_log_is_no_spike():
    values = np.array([1.0, 1.0, -5.0, 0.0, 1.0, 1e4, np.nan], np.float32)
    updates, state = along(skip_spikes(KEPT, warmup=1), np.ones((7, 1), np.float32), values)
    assert [*updates[:, 0]] == [-1] * 5 + [0, 0]
    assert state.loss.seen[-1] == 3
    with pytest.raises(ValueError, match=r"value must be a scalar, the loss, got shape \(2,\)"):
        skip_spikes(KEPT).update(jnp.ones(1), skip_spikes(KEPT).init(jnp.ones(1)), value=jnp.ones(2))


# Structure.


def test_the_optimizer_is_in_the_program_once_under_a_condition():
    optimizer = skip_spikes(ewa_optax.adabelief(0.1))
    params = {"w": jnp.ones((8, 8))}
    state = jax.eval_shape(optimizer.init, params)
    traced = jax.make_jaxpr(optimizer.update)(params, state, params)
    # One is of norms that are too large or too small for a plain sum of squares.
    assert sum(name == "cond" for name, _ in operations(traced.jaxpr)) == 1 + 1
    marked = skip_spikes(optax.stateless(lambda u, _: jax.tree.map(jnp.tan, u)))
    lowered = jax.jit(marked.update).lower(params, jax.eval_shape(marked.init, params), params)
    assert [
        under
        for name, under in operations(jax.make_jaxpr(marked.update)(params, marked.init(params)).jaxpr)
        if name == "tan"
    ] == [True]
    text = lowered.as_text()
    assert text.count("stablehlo.case") == 1 + 1
    assert text.count("tan") > 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_state_keeps_its_structure(dtype):
    params = {"w": jnp.ones((4, 3), dtype), "none": None, "z": jnp.ones(3, jnp.complex64)}
    for inner in (ewa_optax.adam(0.1), optax.adam(0.1)):
        optimizer = skip_spikes(inner)
        state = jax.eval_shape(optimizer.init, params)
        updates, after = jax.eval_shape(functools.partial(optimizer.update, value=1.0), params, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        assert all(not x.weak_type for x in jax.tree.leaves(after))
    mapped = optax.tree.map_params(optimizer, lambda _: 1, optimizer.init(params), transform_non_params=lambda _: 0)
    assert sum(jax.tree.leaves(mapped)) == 4
    again = pickle.loads(pickle.dumps(jax.device_get(optimizer.init(params))))
    assert jax.tree.structure(again) == jax.tree.structure(state)


def test_counts_are_read_in_any_nesting_and_two_are_an_error():
    params = np.ones(2, np.float32)
    inner = skip_spikes(ewa_optax.momentum(0.1))
    nests = (
        optax.chain(optax.clip(1.0), inner),
        optax.masked(inner, True),
        optax.MultiSteps(inner, 2).gradient_transformation(),
        optax.partition({"a": inner}, "a"),
        ewa_optax.watch(inner),
        accumulate(optax.scale(1.0), 2),
    )
    for optimizer in nests:
        assert get_skipped(optimizer.init(params)) == 0
    state = accumulate(inner, 2).init(params)
    with pytest.raises(ValueError, match="holds 1 counts of steps, by skip_spikes, and 1 of micro-batches, by accum"):
        get_skipped(state)
    assert get_skipped(state.inner_state) == 0
    with pytest.raises(ValueError, match="holds 0 counts"):
        get_skipped(ewa_optax.adam(0.1).init(params))


def test_stacks_and_vmap_give_what_leaves_give():
    params = {f"layer {i}": np.full((2, 2), 1.0 + i, np.float32) for i in range(3)}
    factors = np.array([1, 1, 1, 1e3, np.nan, 1], np.float32)

    @functools.partial(jax.jit, compiler_options=ROUGHLY)
    def both(params, deviations):
        def run(deviations, stacked):
            optimizer = optax.chain(
                skip_spikes(ewa_optax.momentum(0.1), deviations, warmup=2), clip_by_past_norm(deviations, warmup=2)
            )
            like = ewa_optax.stack_leaves(params) if stacked else params

            def step(state, factor):
                updates, state = optimizer.update(jax.tree.map(lambda g: factor * g, like), state, like)
                return state, ewa_optax.unstack_leaves(updates)

            state, updates = jax.lax.scan(step, optimizer.init(like), factors)
            return updates, get_skipped(state)

        return run(3.0, False), run(3.0, True), jax.vmap(lambda d: run(d, False))(deviations)

    plain, stacked, vmapped = both(params, np.array([3.0, 100.0], np.float32))
    chex.assert_trees_all_close(stacked, plain, rtol=1e-6)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], vmapped), plain, rtol=1e-6)
    assert [*vmapped[1]] == [2, 1]
    assert type(skip_spikes(ewa_optax.adam(0.1))) is type(ewa_optax.adam(0.1))


@pytest.mark.parametrize(
    "types", [pytest.param(AxisType.Auto, marks=pytest.mark.slow), AxisType.Explicit], ids=["auto", "explicit"]
)
def test_on_a_mesh_all_devices_decide_alike(types):
    """Though only one of them has the large number."""
    params = {"w": np.ones((16, 4), np.float32), "b": np.ones(4, jnp.bfloat16)}
    spike = {**params, "w": params["w"] + 1e3 * (np.arange(16) == 5)[:, None].astype(np.float32)}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(types,))
    specs = {"w": PartitionSpec("data"), "b": PartitionSpec()}
    optimizer = optax.chain(skip_spikes(ewa_optax.momentum(1.0), warmup=1), clip_by_past_norm(warmup=1))
    with jax.set_mesh(mesh):
        there, large = jax.device_put((params, spike), ({n: NamedSharding(mesh, s) for n, s in specs.items()},) * 2)
        state = jax.jit(optimizer.init)(there)
        step = jax.jit(optimizer.update, compiler_options=ROUGHLY)
        for gradients, moves in ((there, True), (large, False), (there, True)):
            updates, state = step(gradients, state, there)
            assert bool((updates["w"] != 0).all()) == moves
            assert bool((updates["b"] != 0).all()) == moves
            assert updates["w"].sharding.is_equivalent_to(there["w"].sharding, 2)
    assert get_skipped(state) == 1


def test_a_skipped_step_is_not_in_the_average_of_parameters():
    optimizer = optax.chain(skip_spikes(ewa_optax.momentum(0.1)), ewa_optax.average_parameters(0.5))
    _, state = along(optimizer, np.array([1, 1, np.nan, 1], np.float32)[:, None])
    assert [*state[1].count] == [1, 2, 2, 3]


# Trainings.


def cost_of(params, batch):
    x, y = batch
    hidden = jax.nn.relu(x @ params["a"] + params["b"][None])
    return optax.softmax_cross_entropy_with_integer_labels(hidden @ params["c"] + params["d"][None], y).mean()


def digits():
    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target.astype(np.int32)


def start(seed):
    rng = np.random.default_rng(seed)
    shapes = {"a": (64, 24), "b": (24,), "c": (24, 10), "d": (10,)}
    return {
        n: (rng.standard_normal(s) / np.sqrt(s[0]) if len(s) > 1 else np.zeros(s)).astype(np.float32)
        for n, s in shapes.items()
    }


STEPS = 600


def ends(optimizers, factors):
    """The costs on all digits after trainings by each, on mini-batches whose inputs are multiplied, for five seeds."""
    x, y = map(jnp.asarray, digits())
    seeds = jax.tree.map(lambda *xs: np.stack(xs), *map(start, range(5)))

    def run(params, key):
        rows = jax.random.randint(key, (STEPS, 64), 0, len(x))

        def step(carry, given):
            chosen, factor = given
            out = []
            for optimizer, (params, state), f in zip(optimizers, carry, factor, strict=True):
                value, gradient = jax.value_and_grad(cost_of)(params, (f * x[chosen], y[chosen]))
                updates, state = optimizer.update(gradient, state, params, value=value)
                out.append((optax.apply_updates(params, updates), state))
            return out, None

        carry = [(params, optimizer.init(params)) for optimizer in optimizers]
        carry, _ = jax.lax.scan(step, carry, (rows, factors))
        return [cost_of(params, (x, y)) for params, _ in carry], [state for _, state in carry]

    keys = jax.random.split(jax.random.key(0), 5)
    costs, states = jax.device_get(jax.jit(jax.vmap(run), compiler_options=ROUGHLY)(seeds, keys))
    return np.array(costs), states


def test_a_training_with_spikes_ends_where_one_without_ends():
    """One in a hundred mini-batches is ten thousand times too large, one is NaN, but not for the one that clips."""
    spikes = np.ones(STEPS, np.float32)
    spikes[np.random.default_rng(0).choice(np.arange(30, STEPS), STEPS // 100, replace=False)] = 1e4
    bad = np.where(np.arange(STEPS) == 150, np.nan, spikes).astype(np.float32)
    adam = optax.with_extra_args_support(ewa_optax.adam(3e-3))
    optimizers = [adam, skip_spikes(adam), optax.with_extra_args_support(optax.chain(clip_by_past_norm(), adam)), adam]
    costs, states = ends(optimizers, np.stack([np.ones_like(spikes), bad, spikes, spikes], axis=1))
    clean, skipping, clipping, plain = costs
    spread = clean.max() - clean.min()
    assert (
        get_skipped(states[1]) >= (bad != 1).sum() - 1
    ).all()  # Of what is classified without doubt, the gradient is 0.
    assert abs(skipping.mean() - clean.mean()) < spread
    assert abs(clipping.mean() - clean.mean()) < spread
    assert plain.min() > 2 * clean.max()


def test_fit_skips_what_it_trains_on():
    """By the loss too, of which `fit` tells."""
    x, y = digits()
    x = np.where((np.arange(640) // 64 % 10 == 7)[:, None], 1e5, 1).astype(np.float32) * x[:640]
    found = ewa_optax.fit(
        cost_of,
        skip_spikes(ewa_optax.adam(1e-3), warmup=3),
        jax.tree.map(jnp.asarray, start(0)),
        lambda epoch: [(x[i : i + 64], y[i : i + 64]) for i in np.roll(range(0, 640, 64), epoch)],
        epochs=2,
        key=jax.random.key(0),
        progress=False,
    )
    assert found.stopped == "finished"
    assert get_skipped(found.opt_state) == 2
    assert found.opt_state.loss.seen == 18


@pytest.mark.parametrize("given", ["arrays", pytest.param("iterable", marks=pytest.mark.slow)])
def test_fit_goes_on_where_the_step_of_a_cost_that_is_not_finite_was_skipped(given):
    """And stops as ever where it was not."""
    x = np.linspace(0.9, 1.1, 48, dtype=np.float32).reshape(24, 2)
    x[5] = np.nan

    def loss(params, batch):
        return jnp.mean(jnp.square(batch @ params - 1))

    def fitted(optimizer):
        return ewa_optax.fit(
            loss,
            optimizer,
            jnp.zeros(2),
            x if given == "arrays" else lambda epoch: np.split(np.roll(x, 4 * epoch, axis=0), 6),
            epochs=2,
            key=jax.random.key(0),
            progress=False,
            **({"batch_size": 4} if given == "arrays" else {}),
        )

    run = fitted(skip_spikes(ewa_optax.momentum(0.1)))
    assert (run.stopped, int(get_skipped(run.opt_state))) == ("finished", 2)
    assert np.isnan(run.history.costs).sum() == 2
    assert np.isfinite(run.history.epoch_costs).all()
    assert np.isfinite(run.params).all()
    with pytest.warns(RuntimeWarning, match="gave a cost of nan"):
        assert fitted(ewa_optax.momentum(0.1)).stopped == "not finite"


def test_errors():
    with pytest.raises(TypeError, match="skip_spikes: optimizer must be a transformation"):
        skip_spikes(0.1)
    with pytest.raises(ValueError, match="deviations must be finite and more than 0, got 0"):
        clip_by_past_norm(0.0)
    with pytest.raises(ValueError, match="most must be a whole number, 1 or more, got 0"):
        skip_spikes(optax.sgd(0.1), most=0)
    with pytest.raises(ValueError, match="warmup must be a whole number, 0 or more, got -1"):
        clip_by_past_norm(warmup=-1)
