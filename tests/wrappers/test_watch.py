"""Norms along a training, as averages in the state."""

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
from runs import compiled_step

import ewa_optax
from ewa_optax import accumulate, get_norms, plots, watch
from ewa_optax._wrappers import norms as of_trees
from ewa_optax._wrappers.watch import norms_or_none

RNG = np.random.default_rng(0)
KINDS = ("gradient", "update", "parameters", "update_to_parameters", "unmoved")
PARAMS = {
    "w": RNG.standard_normal((9, 4)).astype(np.float32),
    "z": (RNG.standard_normal(3) + 1j).astype(np.complex64),
    "short": RNG.standard_normal(50).astype(jnp.bfloat16),
    "none": None,
}
GROUPS = {"w": "wide", "z": "wide", "short": "short", "none": None}


def along(optimizer, gradients, params=PARAMS):
    """The norms, updates and parameters (before) at all steps, and the last state: one program."""

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), (get_norms(state), updates, params)

    @functools.partial(jax.jit, compiler_options=ROUGHLY)
    def run(params, gradients):
        (_, state), seen = jax.lax.scan(step, (params, optimizer.init(params)), gradients)
        return *seen, state

    return jax.device_get(run(params, gradients))


def gradients_like(params, count):
    def of(p):
        x = RNG.standard_normal((count, *p.shape))
        return (x * (1 + 1j) if np.iscomplexobj(p) else x).astype(p.dtype)

    return jax.tree.map(of, params)


def exact(x):
    """In double precision."""
    return np.asarray(x).astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def oracle(gradients, updates, params, names, decay):
    """The averages of each step, in double precision, of the leaves of those names."""

    def norms(tree):
        each = [exact(tree[name]) for name in names]
        return np.sqrt(sum((np.abs(x) ** 2).reshape(len(x), -1).sum(1) for x in each))

    g, u, p = norms(gradients), norms(updates), norms(params)
    still = np.zeros(len(g))
    if "short" in names:
        still = (np.asarray(params["short"] + updates["short"]) == params["short"]).mean(1)
    weights = decay ** np.arange(len(g))[::-1]
    return {
        kind: np.array([(x[: t + 1] * weights[-t - 1 :]).sum() / weights[-t - 1 :].sum() for t in range(len(x))])
        for kind, x in zip(KINDS, (g, u, p, u / p, still), strict=True)
    }


@pytest.mark.parametrize("decay", [pytest.param(0.0, marks=pytest.mark.slow), 0.999])
def test_norms_are_averaged_as_the_formula_says(decay):
    """After 1000 steps too, of all leaves and of groups; those of `optax.tree.norm`."""
    gradients = gradients_like(PARAMS, 1000)
    norms, updates, params, state = along(watch(ewa_optax.adam(1e-3), decay, groups=GROUPS), gradients)
    for end, names in (("", ("w", "z", "short")), ("/wide", ("w", "z")), ("/short", ("short",))):
        for kind, expected in oracle(gradients, updates, params, names, decay).items():
            np.testing.assert_allclose(norms[kind + end], expected, rtol=1e-6, atol=1e-12, err_msg=kind + end)
    assert state.step == 1000
    assert norms["not_finite"][-1] == 0
    assert 0.01 < norms["unmoved"][-1] < 0.99
    assert norms["unmoved/wide"][-1] == 0
    if not decay:
        last = jax.tree.map(lambda g: g[-1].astype(np.complex64 if np.iscomplexobj(g) else np.float32), gradients)
        np.testing.assert_allclose(norms["gradient"][-1], optax.tree.norm(last), rtol=1e-6)
    assert {*norms} == {f"{kind}{end}" for kind in KINDS for end in ("", "/short", "/wide")} | {"not_finite"}


def test_the_state_is_the_same_at_all_times():
    """In structure, shapes and dtypes; and updates are those of the optimizer."""
    inner = ewa_optax.adam(0.1)
    for groups in (None, GROUPS, lambda path, leaf: path):
        optimizer = watch(inner, groups=groups)
        state = jax.eval_shape(optimizer.init, PARAMS)
        updates, after = jax.eval_shape(optimizer.update, PARAMS, state, PARAMS)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, PARAMS)
        assert all(not x.weak_type for x in jax.tree.leaves(after))
    state = optimizer.init(PARAMS)
    assert {*state.groups} == {"w", "z", "short"}
    assert not any(jnp.any(x != 0) for x in get_norms(state).values())
    again = pickle.loads(pickle.dumps(jax.device_get(state)))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    mapped = optax.tree.map_params(optimizer, lambda _: 1, state, transform_non_params=lambda _: 0)
    assert sum(jax.tree.leaves(mapped)) == 6


SIZES = [1e30, 3e38, 1.0, 1e10, 1e-20, 1e-24, 4e6, 4.3e6]


def test_no_norm_of_finite_numbers_overflows():
    """Nor is one of tiny numbers 0."""
    sizes = np.array(SIZES, np.float32)
    for dtype in (jnp.float32, jnp.bfloat16):
        gradients = (sizes[:, None] * np.array([1, -0.5, 0], np.float32)).astype(dtype)
        norms, *_ = along(watch(optax.set_to_zero(), 0.0), gradients, np.zeros(3, dtype))
        assert (np.asarray(norms["gradient"]) == 0).all()  # Nothing moves, so no step counts.
        norms, *_ = along(watch(optax.scale(1.0), 0.0), gradients, np.zeros(3, dtype))
        expected = np.sqrt((exact(gradients) ** 2).sum(1))
        np.testing.assert_allclose(norms["gradient"], np.minimum(expected, 2.0**126), rtol=1e-6)
        assert norms["update_to_parameters"][0] == 0  # By parameters that are all 0.


def test_numbers_of_all_sizes_in_one_norm():
    x = (10.0 ** RNG.uniform(5.5, 7.5, (4, 64))).astype(np.float32)
    norms, *_ = along(watch(optax.scale(1.0), 0.0), x, np.zeros(64, np.float32))
    np.testing.assert_allclose(norms["gradient"], np.sqrt((exact(x) ** 2).sum(1)), rtol=1e-6)


@pytest.mark.parametrize("largest", [1.0, pytest.param(1e30, marks=pytest.mark.slow)])
def test_groups_of_all_sizes_beside_each_other(largest):
    """And one of zeros, and one of what is no number; each norm is right, though only one of them needs care."""
    sizes = np.array([1.0, 1e-30, largest, 0.0, 1e-19], np.float32)
    params = {str(i): np.full(5, size, np.float32) for i, size in enumerate(sizes)}
    for infinite in (False, True):
        gradients = {**params, "5": np.full(5, np.inf if infinite else 1.0, np.float32)}
        gradients = jax.tree.map(lambda g: g[None], gradients)
        tree = {**params, "5": np.ones(5, np.float32)}
        optimizer = watch(optax.stateless(no_infinity), 0.0, groups=lambda path, leaf: path)
        norms, *_ = along(optimizer, gradients, tree)
        expected = np.sqrt(5.0) * sizes.astype(np.float64) * (not infinite)  # No step counts that is not finite.
        np.testing.assert_allclose([norms[f"gradient/{i}"][0] for i in range(5)], expected, rtol=1e-6)
        assert norms["not_finite"][0] == infinite


def test_norms_of_many_numbers():
    """A sum in turn would stall: of eight million squares its last would be below a rounding of the others."""
    x = np.float32(1) + RNG.random((2, 2**22), np.float32)
    expected = np.sqrt((exact(x) ** 2).sum())
    for shaped in (x, x.reshape(-1, 8), x.reshape(-1)):
        found = jax.jit(of_trees.global_norm)([shaped, np.ones(3, np.float32)])
        np.testing.assert_allclose(found, np.sqrt(expected**2 + 3), rtol=1e-6)


def no_infinity(updates, params):
    return jax.tree.map(lambda u: jnp.where(jnp.isfinite(u), u, 0) / 10, updates)


def test_what_is_not_finite_is_left_out_and_counted():
    gradients = gradients_like(PARAMS, 6)
    bad = jax.tree.map(np.copy, gradients)
    bad["w"][2, 0, 0], bad["short"][4, 7] = np.nan, np.inf
    good = jax.tree.map(lambda g: g[[0, 1, 3, 5]], gradients)
    optimizer = watch(optax.stateless(no_infinity), 0.5, groups=GROUPS)
    norms, *_, state = along(optimizer, bad)
    expected, *_ = along(optimizer, good)
    assert (state.step, state.not_finite) == (4, 2)
    assert [*norms["not_finite"]] == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(norms["gradient"][[0, 1, 3, 5]], expected["gradient"], rtol=1e-6)
    np.testing.assert_array_equal(norms["gradient/wide"][2], norms["gradient/wide"][1])


NESTS = {
    "chain": lambda watched: optax.chain(optax.scale(1.0), watched),
    "masked": lambda watched: optax.masked(watched, {"w": True, "z": True, "short": True, "none": True}),
    "MultiSteps": lambda watched: optax.MultiSteps(watched, 1).gradient_transformation(),
    "partition": lambda watched: optax.partition(
        {"a": watched, "b": optax.set_to_zero()}, {**GROUPS, "w": "a", "z": "a", "short": "a"}
    ),
    "accumulate": lambda watched: accumulate(watched, 1),
    "skip_spikes": lambda watched: ewa_optax.skip_spikes(watched),
    "outside of all": lambda watched: watch(accumulate(optax.chain(ewa_optax.momentum(0.1)), 1)),
}


def test_norms_are_read_in_any_nesting():
    params = {**PARAMS, "z": np.ones(3, np.float32)}
    gradients = jax.tree.map(lambda p: 2 * p, params)
    inner = watch(ewa_optax.momentum(0.1))

    @functools.partial(jax.jit, compiler_options=ROUGHLY)
    def all_of_them(params, gradients):
        found = {}
        for name, nest in NESTS.items():
            optimizer = nest(inner)
            _, state = optimizer.update(gradients, optimizer.init(params), params)
            found[name] = get_norms(state)
        return found

    found = all_of_them(params, gradients)
    expected = optax.tree.norm(jax.tree.map(exact, gradients))
    for name, norms in found.items():
        np.testing.assert_allclose(norms["gradient"], expected, rtol=1e-5, err_msg=name)
    two = optax.chain(watch(optax.scale(1.0)), watch(optax.scale(1.0)))
    state = two.init(np.ones(2, np.float32))
    with pytest.raises(ValueError, match="holds 2 watches"):
        get_norms(state)
    assert get_norms(state[1])["gradient"] == 0
    with pytest.raises(ValueError, match="holds 0 watches"):
        get_norms(ewa_optax.adam(0.1).init(np.ones(2, np.float32)))
    with pytest.raises(ValueError, match="holds 2 watches"):
        get_norms(jax.eval_shape(watch(watch(optax.scale(1.0))).init, np.ones(2, np.float32)))


def test_steps_of_micro_batches_that_move_nothing_are_not_counted():
    gradients = gradients_like(PARAMS, 6)
    *_, state = along(watch(accumulate(ewa_optax.momentum(0.1), 3)), gradients)
    assert (state.step, state.not_finite) == (2, 0)


def test_stacks_and_vmap_give_what_leaves_give():
    """Decays vmapped, in one program with the stacked."""
    params = {
        f"layer {i}": {"w": RNG.standard_normal((4, 3)).astype(np.float32), "b": np.ones(3, jnp.bfloat16)}
        for i in range(3)
    }
    gradients = gradients_like(params, 2)

    def groups(path, leaf):
        return f"layer 0 of {leaf.ndim}" if "layer 0" in path else None

    @functools.partial(jax.jit, compiler_options=ROUGHLY)
    def both(params, gradients, decays):
        def run(decay, stacked):
            optimizer = watch(ewa_optax.adam(0.1), decay, groups=groups)
            like = ewa_optax.stack_leaves(params) if stacked else params
            state = optimizer.init(like)
            for i in range(2):
                gradient = jax.tree.map(lambda g, i=i: g[i], gradients)
                gradient = ewa_optax.stack_leaves_like(like, gradient) if stacked else gradient
                _, state = optimizer.update(gradient, state, like)
            return get_norms(state)

        return run(0.25, False), run(0.25, True), jax.vmap(lambda decay: run(decay, False))(decays)

    plain, stacked, vmapped = both(params, gradients, np.array([0.25, 0.99], np.float32))
    assert {"gradient/layer 0 of 1", "unmoved/layer 0 of 2"} < {*plain}
    chex.assert_trees_all_close(stacked, plain, rtol=1e-6)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], vmapped), plain, rtol=1e-6)
    assert type(watch(ewa_optax.adam(0.1))) is type(ewa_optax.adam(0.1))


@pytest.mark.parametrize(
    "types", [pytest.param(AxisType.Auto, marks=pytest.mark.slow), AxisType.Explicit], ids=["auto", "explicit"]
)
def test_on_a_mesh(types):
    """Parameters in parts give the norms of whole ones."""
    params = {"w": RNG.standard_normal((16, 4)).astype(np.float32), "b": np.ones(4, jnp.bfloat16)}
    optimizer = watch(ewa_optax.momentum(0.1), 0.5, groups={"w": "a", "b": "b"})
    mesh = jax.make_mesh((8,), ("data",), axis_types=(types,))
    specs = {"w": PartitionSpec("data"), "b": PartitionSpec()}
    with jax.set_mesh(mesh):
        there = {name: jax.device_put(p, NamedSharding(mesh, specs[name])) for name, p in params.items()}
        state = jax.jit(optimizer.init)(there)
        _, state = jax.jit(optimizer.update, compiler_options=ROUGHLY)(there, state, there)
    norms = jax.device_get(get_norms(state))
    for name, parts in (("", "wb"), ("/a", "w"), ("/b", "b")):
        expected = np.sqrt(sum((exact(params[part]) ** 2).sum() for part in parts))
        np.testing.assert_allclose(norms["gradient" + name], expected, rtol=1e-6)
        np.testing.assert_allclose(norms["parameters" + name], expected, rtol=1e-6)


def test_fit_records_them(tmp_path):
    """In its history, in checkpoints, and after a resume; and they are drawn."""
    x = RNG.standard_normal((64, 3)).astype(np.float32)

    def loss(params, batch):
        return jnp.mean(jnp.square(batch @ params - 1))

    def fitted(epochs, optimizer):
        return ewa_optax.fit(
            loss,
            optimizer,
            jnp.zeros(3),
            x,
            batch_size=16,
            epochs=epochs,
            key=jax.random.key(0),
            progress=False,
            checkpoint=tmp_path,
        )

    optimizer = watch(ewa_optax.adam(0.1), groups=lambda path, leaf: "all of it")
    fitted(1, optimizer)
    history = fitted(3, optimizer).history
    assert {name: norm.shape for name, norm in history.norms.items()} == dict.fromkeys(history.norms, (12,))
    assert (history.norms["update/all of it"] > 0).all()
    assert len(plots.norms(history).get_lines()) == 8
    assert norms_or_none(ewa_optax.adam(0.1).init(jnp.zeros(3))) is None
    with pytest.raises(ValueError, match=r"put ewa_optax\.watch around"):
        plots.norms(history._replace(norms=None))


def test_errors():
    with pytest.raises(TypeError, match="watch: optimizer must be a transformation"):
        watch(0.1)
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\)"):
        watch(optax.sgd(0.1), 1.0)
    with pytest.raises(ValueError, match="labels like the parameters, or a prefix"):
        watch(optax.sgd(0.1), groups={"other": "a"}).init(PARAMS)
    with pytest.raises(TypeError, match="must be a name"):
        watch(optax.sgd(0.1), groups=lambda path, leaf: [path]).init(PARAMS)
    optimizer = watch(optax.sgd(0.1))
    with pytest.raises(ValueError, match="watch needs the parameters"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))


@pytest.mark.parametrize(
    "shapes",
    [[(512, 512)], pytest.param([(256, 64), (64, 192), (192,), (64,)], marks=pytest.mark.slow)],
    ids=["one leaf", "layers"],
)
def test_what_it_costs(shapes, monkeypatch):
    """Beside an update by adamw each number of gradients, updates and parameters is read once, and no more.

    In a step that adds the updates at once they are also written, and read beside the parameters: without they are in
    registers only. What is under a condition, the norms of what is too large or too small, is left out.
    """
    monkeypatch.setattr(of_trees, "_norm", lambda x: jnp.zeros([]))
    params = [jnp.ones(shape) for shape in shapes]
    numbers = sum(x.size for x in params)
    inner = ewa_optax.adamw(1e-3, weight_decay=0.1)
    for donated in ((), (0, 1)):
        alone, within = (
            jax.jit(x.update, donate_argnums=donated).lower(params, jax.eval_shape(x.init, params), params).compile()
            for x in (inner, watch(inner))
        )
        assert bytes_of(within) - bytes_of(alone) <= 3 * 4 * numbers + 0.03 * bytes_of(alone)
    plain, watched = (compiled_step(optimizer, params) for optimizer in (inner, watch(inner)))
    assert bytes_of(watched) - bytes_of(plain) <= (3 + 3) * 4 * numbers * 1.03 + 30_000
    assert watched.memory_analysis().temp_size_in_bytes <= 4 * numbers + 20_000


def bytes_of(compiled):
    return compiled.cost_analysis()["bytes accessed"]


def test_in_16_bits_it_costs_more(monkeypatch):
    """What did not move is compared beside the norms, and counted; parameters are not copied for it."""
    monkeypatch.setattr(of_trees, "_norm", lambda x: jnp.zeros([]))
    params, inner = [jnp.ones((512, 512), jnp.bfloat16)], ewa_optax.adamw(1e-3, weight_decay=0.1)
    plain, watched = (bytes_of(compiled_step(optimizer, params)) for optimizer in (inner, watch(inner)))
    assert watched - plain <= 24.5 * params[0].size
