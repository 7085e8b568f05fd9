"""Matrices on several devices: the same steps, whole matrices for each device, and nothing exchanged in between."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from helpers import ROUGHLY
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from runs import well_compiled

import ewa_optax
from ewa_optax import matrices, stack_leaves, state_shardings

jitted = functools.partial(jax.jit, compiler_options=ROUGHLY)

RNG = np.random.default_rng(0)
BATCH = (-2, -1)
AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit
P = PartitionSpec


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def orthogonalized(x, steps=5):
    piece = matrices.orthogonalize(steps=steps, axes=BATCH)
    return piece.update(x, piece.init(x))[0]


@functools.cache
def expected(shape):
    """A leaf of that shape, and the oracle's directions of each of its matrices, none of which is small."""
    u, size, vt = np.linalg.svd(normal(*shape), full_matrices=False)
    x = (u * RNG.uniform(1, 3, size.shape)[..., None, :]).astype(np.float32) @ vt
    each = [oracles.orthogonal(np.float64(matrix)) for matrix in x.reshape(-1, *shape[-2:])]
    return x, np.reshape(each, shape)


def mesh_of(kind, shape=(8,)):
    return jax.make_mesh(shape, ("a", "b")[: len(shape)], axis_types=(kind,) * len(shape))


def exchanges(compiled):
    """How many collectives of each kind."""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    return collections.Counter(re.findall(rf" ({kinds})(?:-start)?\(", compiled.as_text()))


def named(shape, spec):
    return "x".join(map(str, shape)) + " by " + ("".join(name or "-" for name in spec) or "none")


def kinds_of(*cases):
    """Each on both kinds of axes; slow, but for those that it names."""
    return [
        pytest.param(
            *case,
            kind,
            id=f"{named(*case[:2])}-{kind.name}",
            marks=() if quick and kind in quick else pytest.mark.slow,
        )
        for *case, quick in cases
        for kind in (AUTO, EXPLICIT)
    ]


@pytest.mark.parametrize(
    ("shape", "spec", "devices", "kind"),
    kinds_of(
        ((24, 8, 16), P(None, "a"), (8,), (AUTO, EXPLICIT)),
        ((12, 8, 16), P(None, None, "a"), (8,), (AUTO, EXPLICIT)),
        ((12, 8, 16), P(None, "a"), (8,), ()),
        ((3, 8, 16), P(None, "a"), (8,), (EXPLICIT,)),
        ((3, 8, 16), P(), (8,), ()),
        ((24, 8, 16), P("a"), (8,), ()),
        ((3, 8, 8, 16), P(None, None, "a"), (8,), ()),
        ((8, 16), P("a"), (8,), (AUTO, EXPLICIT)),
        ((8, 16), P(None, "a"), (8,), ()),
        ((8, 16), P(), (8,), ()),
        ((12, 8, 16), P(None, "a", "b"), (4, 2), (AUTO,)),
        ((12, 8, 16), P("a", None, "b"), (4, 2), (EXPLICIT,)),
        ((8, 16), P("a", "b"), (4, 2), ()),
    ),
)
def test_devices_have_whole_matrices_and_no_step_exchanges(shape, spec, devices, kind):
    """As many collectives for nine steps as for one; and all lies as it came, at least where JAX knows how."""
    x, made = expected(shape)
    mesh = mesh_of(kind, devices)
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, spec))
        # Of one of these LLVM, told to be quick, makes products of 1e-5.
        five = well_compiled(orthogonalized, static_argnums=1).lower(x, 5).compile()
        nine = jitted(orthogonalized, static_argnums=1).lower(x, 9).compile()
        out = five(x)
    np.testing.assert_allclose(out, made, atol=5e-6)
    assert exchanges(five) == exchanges(nine)
    found = exchanges(five)
    # The norm of parts is two sums of one number for each matrix: of the largest elements, and of squares.
    assert found["all-reduce"] <= (4 if len(devices) > 1 else 3)
    assert found["all-gather"] + found["all-to-all"] <= (3 if len(devices) > 1 else 2)
    if kind == EXPLICIT:
        assert out.sharding.is_equivalent_to(x.sharding, out.ndim)
    if len(shape) > 2:  # Each device forms the products of its share of matrices.
        share = -(-max(shape[:-2]) // 8)
        assert re.search(rf"f32\[[\d,]*\b{share},[\d,]*\d\]\S* (dot|custom-call|fusion)\(", five.as_text())


@pytest.mark.parametrize("kind", [AUTO, pytest.param(EXPLICIT, marks=pytest.mark.slow)], ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    "make",
    [ewa_optax.muon, ewa_optax.normuon, pytest.param(ewa_optax.muon_hyperball, marks=pytest.mark.slow)],
    ids=lambda make: make.__name__,
)
def test_a_step_is_that_of_one_device_and_leaves_parameters_where_they_lie(make, kind):
    """A matrix, a batch and a stack; no more is exchanged if the iteration is longer."""
    mesh = mesh_of(kind)
    specs = {"one": P("a"), "batch": P(None, None, "a")}
    values = {"one": normal(8, 16), "batch": normal(12, 8, 16)}
    gradients = jax.tree.map(lambda x: normal(*x.shape), values)
    stacked = {f"{i}": normal(16, 8) for i in range(3)}

    def step(params, state, gradients, steps):
        optimizer = make(0.1, axes=BATCH, steps=steps)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def run(put):
        params = put(values), stack_leaves(jax.tree.map(lambda x: put({"batch": x})["batch"], stacked))
        state, given = make(0.1, axes=BATCH).init(params), (put(gradients), params[1])
        update = jitted(step, static_argnums=3)
        compiled = [update.lower(params, state, given, steps).compile() for steps in (5, 7)]
        return params, compiled[0](params, state, given), [*map(exchanges, compiled)]

    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, P("a"))
        params, made, (five, seven) = run(
            lambda tree: {
                name: jax.device_put(x, rows if x.ndim == 2 else NamedSharding(mesh, specs[name]))
                for name, x in tree.items()
            }
        )
    _, alone, none = run(lambda tree: jax.tree.map(jnp.asarray, tree))
    assert five == seven
    assert not sum(none, collections.Counter())
    for x, y in zip(jax.tree.leaves(made), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)
    for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(made[0]), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)


def test_outside_of_set_mesh_the_step_is_right_too():
    x, made = expected((12, 8, 16))
    x = jax.device_put(x, NamedSharding(mesh_of(AUTO), P(None, "a")))
    np.testing.assert_allclose(jitted(orthogonalized)(x), made, atol=1e-5)


def test_in_shard_map_each_device_takes_its_own():
    x, made = expected((24, 8, 16))
    mesh = mesh_of(AUTO)
    mapped = jitted(jax.shard_map(orthogonalized, mesh=mesh, in_specs=P("a"), out_specs=P("a")))
    compiled = mapped.lower(x).compile()
    np.testing.assert_allclose(compiled(x), made, atol=1e-5)
    assert not exchanges(compiled)


@pytest.mark.slow
def test_in_shard_map_along_one_of_two_axes_each_takes_its_own_too():
    x, made = expected((24, 8, 16))
    mesh = mesh_of(AUTO, (4, 2))
    with jax.set_mesh(mesh):
        mapped = jax.shard_map(orthogonalized, in_specs=P("a"), out_specs=P("a"), axis_names={"a"})
        np.testing.assert_allclose(jitted(mapped)(x), made, atol=1e-5)


@pytest.mark.parametrize("make", [ewa_optax.muon, ewa_optax.normuon], ids=lambda make: make.__name__)
def test_how_their_state_lies_can_be_asked(make):
    mesh = mesh_of(AUTO)
    sharding = NamedSharding(mesh, P(None, "a"))
    params = {"kernel": jax.device_put(normal(8, 16), sharding)}
    optimizer = make(0.1, storage="bfloat16")
    shardings = state_shardings(optimizer, params)
    state = jitted(optimizer.init, out_shardings=shardings)(params)
    matrix_like = [x for x in jax.tree.leaves(state) if x.shape == (8, 16)]
    assert len(matrix_like) == 1
    assert matrix_like[0].sharding.is_equivalent_to(sharding, 2)
    for x in jax.tree.leaves(state):
        if x.shape == (1, 16):  # One number for each output, which is where its output is, or everywhere.
            assert x.sharding.spec in (P(None, "a"), P(), P(None, None))
    optimizer.update(params, state, params)


@pytest.mark.parametrize("make", [ewa_optax.muon, ewa_optax.normuon, ewa_optax.muon_hyperball])
def test_batches_lower_for_every_platform_in_each_precision(make):
    def step(params, gradients):
        for dtype in (None, "bfloat16", "float16"):
            optimizer = make(0.1, axes=BATCH, dtype=dtype)
            gradients = optimizer.update(gradients, optimizer.init(params), params)[0]
        return gradients

    x = jax.ShapeDtypeStruct((12, 8, 16), jnp.bfloat16)
    exported = jax.export.export(jax.jit(step), platforms=("cpu", "cuda", "rocm", "tpu"))(x, x)
    assert exported.platforms == ("cpu", "cuda", "rocm", "tpu")


@pytest.mark.parametrize("kind", [EXPLICIT, pytest.param(AUTO, marks=pytest.mark.slow)], ids=lambda kind: kind.name)
def test_kernels_of_several_axes_may_be_divided_along_any(kind):
    """Heads, what is in a head, and channels: axes that become one side of a matrix."""
    mesh = mesh_of(kind, (4, 2))
    specs = {
        "query": ((8, 4, 6), P(None, "a", "b")),
        "key": ((8, 4, 6), P("a", None, "b")),
        "out": ((4, 6, 8), P(None, "b", "a")),
        "conv": ((3, 3, 4, 8), P(None, None, "a", "b")),
    }
    values = {name: {"kernel": normal(*shape)} for name, (shape, _) in specs.items()}
    optimizer = ewa_optax.muon(0.1)
    alone, _ = jitted(optimizer.update)(values, optimizer.init(values), values)
    with jax.set_mesh(mesh):
        params = {
            name: {"kernel": jax.device_put(values[name]["kernel"], NamedSharding(mesh, spec))}
            for name, (_, spec) in specs.items()
        }
        made, _ = jitted(optimizer.update)(params, optimizer.init(params), params)
    for name in specs:
        x, y = made[name]["kernel"], params[name]["kernel"]
        np.testing.assert_allclose(x, alone[name]["kernel"], atol=1e-5)
        assert kind == AUTO or x.sharding.is_equivalent_to(y.sharding, y.ndim)
