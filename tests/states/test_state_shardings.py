"""How states lie on devices: as `state_shardings` says, with no collective of their own, and through checkpoints."""

import itertools
import math
import re
from collections import Counter

import chex
import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from orbax import checkpoint

import ewa_optax
from ewa_optax import state_shardings, storage

TYPES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
FACTORED = ("bfloat16", storage.Factored())
STORAGES = {**{str(name): name for name in (None, "bfloat16", "float16", "24bit", "8bit")}, "factored": FACTORED}


def mesh_of(count, types=AxisType.Auto, names=("fsdp",)):
    return jax.make_mesh((count,), names, axis_types=(types,), devices=jax.devices()[:count])


def along(mesh, axis, ndim=2):
    return NamedSharding(mesh, PartitionSpec(*("fsdp" if i == axis else None for i in range(ndim))))


def on(mesh, tree):
    """The first axis of each leaf divided among all devices."""
    return jax.tree.map(lambda x: jax.device_put(x, along(mesh, 0, np.ndim(x))), tree)


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def alike(state, shardings):
    return all(
        x.sharding.is_equivalent_to(said, x.ndim)
        for x, said in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True)
    )


def traffic(update, *arguments):
    """The collectives, and the bytes that each moves."""
    text = jax.jit(update).lower(*arguments).compile().as_text()
    found = re.findall(r"= (\S+|\(.*?\)) (all-\w+|reduce-scatter|collective-permute)(?:-start)?\(", text)
    return [(kind, sum(map(nbytes, re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", moved)))) for moved, kind in found]


def nbytes(array):
    bits, shape = array
    return int(bits) // 8 * math.prod(int(n) for n in shape.split(",") if n)


def collectives(update, *arguments):
    return Counter(kind for kind, _ in traffic(update, *arguments))


QUICK = {((192, 576), 1, 4, "auto"), ((768, 3072), 1, 8, "explicit"), ((256, 768), 0, 8, "auto")}
PLACES = [*itertools.product([(192, 576), (256, 768), (768, 3072)], [0, 1], [2, 4, 8], TYPES)]


@pytest.mark.parametrize(
    ("name", "shape", "axis", "count", "types"),
    [
        pytest.param(name, *place, marks=() if place in QUICK else pytest.mark.slow)
        for name, place in itertools.product(STORAGES, PLACES)
        if name == "8bit" or place in PLACES[:12] or place[2] == 4  # What keeps no blocks is the same for all shapes.
    ],
)
def test_no_collective_that_optax_lacks(name, shape, axis, count, types):
    """Adam's twin has none. Means over an axis that devices share need one; optax's factored average has one, too."""
    mesh = mesh_of(count, TYPES[types])
    optimizer = ewa_optax.adam(1e-3, storage=STORAGES[name])
    with jax.set_mesh(mesh):
        params = jax.device_put(jnp.ones(shape), along(mesh, axis))
        said = state_shardings(optimizer, params)
        state = jax.jit(optimizer.init, out_shardings=said)(params)
        assert alike(state, said)
        assert alike(eager := optimizer.init(params), said)
        assert shapes(eager) == shapes(state)
        found = traffic(optimizer.update, params, state, params)
    if name != "factored":
        assert not found
        return
    # Where the shorter means are divided, their mean is summed in the same step of devices as the longer means are.
    assert found == [("all-reduce", 4 * (shape[1] + 1 if axis == 0 else shape[0]))]


TWINS = {
    "factored": (ewa_optax.adam(1e-3, storage=FACTORED), optax.scale_by_factored_rms(min_dim_size_to_factor=2)),
    "adafactor": (ewa_optax.adafactor(1e-3), optax.adafactor(1e-3, min_dim_size_to_factor=2)),
}
SPECS = {(2,): [("x",), (None, "x")], (4,): [("x",), (None, "x")], (8,): [("x",), (None, "x")], (2, 2): [("x", "y")]}
PLACES_OF_FACTORS = [
    (shape, sizes, spec, types)
    for shape in [(192, 576), (256, 768), (768, 3072), (576, 192)]
    for sizes, specs in SPECS.items()
    for spec in specs
    for types in TYPES
]
QUICK = {((192, 576), (4,), (None, "x"), "auto"), ((192, 576), (2, 2), ("x", "y"), "explicit")}


@pytest.mark.parametrize(
    ("name", "shape", "sizes", "spec", "types"),
    [
        pytest.param(name, *place, marks=() if place in QUICK else pytest.mark.slow)
        for name, place in itertools.product(TWINS, PLACES_OF_FACTORS)
    ],
)
def test_factors_move_what_those_of_optax_do(name, shape, sizes, spec, types):
    """Adafactor one scalar more: the largest number, without which the mean of squares might overflow."""
    devices = jax.devices()[: math.prod(sizes)]
    mesh = jax.make_mesh(sizes, ("x", "y")[: len(sizes)], axis_types=(TYPES[types],) * len(sizes), devices=devices)

    def moved(optimizer):
        said = state_shardings(optimizer, params)
        state = jax.tree.map(placed, jax.eval_shape(optimizer.init, params), said)
        return traffic(optimizer.update, params, state, params)

    with jax.set_mesh(mesh):
        params = placed(jax.ShapeDtypeStruct(shape, jnp.float32), NamedSharding(mesh, PartitionSpec(*spec)))
        ours, others = map(moved, TWINS[name])
    more = 4 * len(sizes) if name == "adafactor" else 0
    assert len(ours) <= len(others)
    assert {kind for kind, _ in ours} == {"all-reduce"}
    assert sum(size for _, size in ours) <= sum(size for _, size in others) + more


def placed(x, sharding):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


@pytest.mark.parametrize("name", STORAGES)
def test_a_device_holds_its_part_of_the_state(name):
    mesh = mesh_of(4)
    params = on(mesh, {"w": np.ones((192, 576), np.float32), "layers": np.ones((4, 64, 256), np.float32)})
    state = ewa_optax.adam(1e-3, storage=STORAGES[name]).init(params)
    arrays = [x for x in jax.tree.leaves(state) if x.ndim]
    here = sum(x.addressable_shards[0].data.nbytes for x in arrays)
    columns = 2 * 576 if name == "factored" else 0  # Means over an axis that is divided lie on all.
    assert here <= sum(x.nbytes for x in arrays) / 4 + 4 * columns


WRAPPERS = {
    "chain": lambda inner: optax.chain(optax.clip_by_global_norm(1.0), inner, ewa_optax.average_parameters(0.9)),
    "masked": lambda inner: optax.masked(inner, {"w": True, "b": False}),
    "MultiSteps": lambda inner: optax.MultiSteps(inner, 3),
    "partition": lambda inner: optax.partition({"a": inner, "b": optax.sgd(0.1)}, {"w": "a", "b": "b"}),
    "inject_hyperparams": lambda inner: optax.chain(optax.inject_hyperparams(optax.scale)(0.5), inner),
    "apply_if_finite": lambda inner: optax.apply_if_finite(inner, 3),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_through_the_wrappers_of_optax(wrapper):
    """What `jax.jit` gives for what it was told lies so, and says so again."""
    mesh, spec = mesh_of(4), PartitionSpec("fsdp", None)
    params = {"w": jnp.ones((64, 192)), "b": jnp.ones(8)}
    specs = {"w": NamedSharding(mesh, spec), "b": NamedSharding(mesh, PartitionSpec())}
    optimizer = WRAPPERS[wrapper](ewa_optax.adam(0.1, storage="8bit"))
    said = state_shardings(optimizer, jax.eval_shape(lambda: params), specs)
    state = jax.eval_shape(optimizer.init, params)
    assert jax.tree.structure(said) == jax.tree.structure(state)
    of_w = [s.spec for x, s in zip(jax.tree.leaves(state), jax.tree.leaves(said), strict=True) if x.ndim == 2]
    assert len(of_w) >= 4
    assert {*of_w} == {spec}


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.storage in (None, storage.EightBit(min_size=0))], ids=lambda case: case.name
)
def test_every_optimizer_says_how_its_state_lies(case):
    """Averages as their parameters, and what has fewer axes along those that it has."""
    mesh, params = mesh_of(4), {"w": jax.ShapeDtypeStruct((64, 576), jnp.float32)}
    said = state_shardings(optimizer := case.optimizer(), params, along(mesh, 1))
    state = jax.eval_shape(optimizer.init, params)
    for x, s in zip(jax.tree.leaves(state), jax.tree.leaves(said), strict=True):
        expected = {(64,): (None,), (64, 1): (None, None), (1,): (None,), (576,): ("fsdp",), (): ()}
        expected |= {(64, 64): (None, None), (576, 576): (None, None)}  # Of bases, which all devices need.
        expected = expected.get(x.shape, (None, "fsdp"))
        assert tuple(s.spec) == expected, x.shape


def test_of_stacks_and_of_plain_devices():
    optimizer, mesh = ewa_optax.adam(0.1, storage="8bit"), mesh_of(4)
    stacked = ewa_optax.stack_leaves({i: jnp.ones((64, 192)) for i in range(3)})
    said = jax.tree.leaves(state_shardings(optimizer, stacked, NamedSharding(mesh, PartitionSpec(None, "fsdp"))))
    assert {x.spec for x in said} == {PartitionSpec(), PartitionSpec(None, "fsdp", None)}
    one = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    assert {*jax.tree.leaves(state_shardings(optimizer, jnp.ones((64, 192)), one))} == {one}
    with jax.set_mesh(mesh):
        said = state_shardings(optimizer, jnp.ones((64, 192)), PartitionSpec("fsdp"))
    assert said[1].numerator.average.arrays[0].spec == PartitionSpec("fsdp", None)


def test_a_block_that_a_shard_would_cut_is_told():
    """Or, where it is seen in time, is shorter."""
    optimizer, shape = ewa_optax.adam(0.1, storage="8bit"), (64, 200)
    params = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ValueError, match=r"params\['w'\].* blocks of 100 along axis 1.*shards of 25 .*block=25"):
        state_shardings(optimizer, {"w": params}, along(mesh_of(8), 1))
    fitting = ewa_optax.adam(0.1, storage=storage.EightBit(block=25))
    said = state_shardings(fitting, params, along(mesh_of(8), 1))
    assert said[1].numerator.average.arrays[1].spec == PartitionSpec(None, "fsdp")

    rng = np.random.default_rng(0)
    value = rng.standard_normal(shape).astype(np.float32)
    alone = fitting.init(value)
    of_one, _ = jax.jit(fitting.update)(value, alone)
    for types in TYPES.values():
        mesh = mesh_of(8, types)
        with jax.set_mesh(mesh):
            p = jax.device_put(value, along(mesh, 1))
            state = optimizer.init(p)
            assert shapes(state) == shapes(alone)
            assert not collectives(optimizer.update, p, state, p)
            updates, state = jax.jit(optimizer.update)(p, state, p)
        chex.assert_trees_all_equal(jax.device_get(updates), jax.device_get(of_one))


BOTH = r"params\['a'\].* blocks of 100 along axis 1.*shards of 25 .*that of params\['b'\].* blocks of {} .*{}"


@pytest.mark.parametrize(
    ("b", "match"),
    [
        (180, BOTH.format(90, r"write storage.EightBit\(block=45\), or shard them")),
        (212, BOTH.format(106, r"no block of 16 or more fits all.*\(block=25 for params\['a'\], block=53 for params")),
    ],
)
def test_blocks_of_several_lengths_are_told_together(b, match):
    """With one that fits all, which the others are asked, too; or that there is none."""
    params = {"a": (64, 100), "a, too": (64, 100), "b": (64, b), "c": (64, 720), "small": (4, 8)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in params.items()}
    with pytest.raises(ValueError, match=match):
        state_shardings(ewa_optax.adam(0.1, storage="8bit"), params, along(mesh_of(4), 1))
    if b == 180:
        state_shardings(ewa_optax.adam(0.1, storage=storage.EightBit(block=45)), params, along(mesh_of(4), 1))


def test_a_shard_of_no_length_for_blocks_is_told():
    mesh = mesh_of(4)
    params = {"w": jax.device_put(jnp.ones((64, 4 * 131)), along(mesh, 1))}
    with pytest.raises(ValueError, match=r"\['w'\].*shards of 131 .*EightBit\(block=131\)"):
        ewa_optax.adam(0.1, storage="8bit").init(params)
    ewa_optax.adam(0.1, storage=storage.EightBit(block=131)).init(params)


@pytest.mark.parametrize(
    ("shardings", "error", "match"),
    [
        (None, ValueError, "0 meshes and 1 of 1 parameters on none"),
        ("fsdp", TypeError, r"must be a NamedSharding.*got 'fsdp'"),
        (PartitionSpec("fsdp"), ValueError, r"within jax.set_mesh"),
        ({"v": PartitionSpec()}, ValueError, "a tree like params"),
    ],
)
def test_what_is_no_sharding_is_told(shardings, error, match):
    with pytest.raises(error, match=match):
        state_shardings(ewa_optax.adam(0.1), {"w": jax.ShapeDtypeStruct((8, 8), jnp.float32)}, shardings)


@pytest.mark.parametrize(("shape", "spec"), [((6, 8), ("fsdp",)), ((8,), (None, "fsdp"))])
def test_what_does_not_divide_a_parameter_is_told(shape, spec):
    params = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
    with pytest.raises(ValueError, match=r"params\['w'\] of shape .* divides evenly"):
        state_shardings(ewa_optax.adam(0.1), params, NamedSharding(mesh_of(4), PartitionSpec(*spec)))


def test_memory_of_the_kind_of_the_parameters():
    lie = NamedSharding(mesh_of(4), PartitionSpec("fsdp"), memory_kind="unpinned_host")
    said = state_shardings(ewa_optax.adam(0.1), {"w": jax.ShapeDtypeStruct((8, 8), jnp.float32)}, lie)
    assert said[1].numerator.average["w"].memory_kind == "unpinned_host"


def test_several_meshes_are_told():
    params = {"a": jnp.ones(8), "b": jnp.ones(8)}
    several = {"a": along(mesh_of(4), 0, 1), "b": along(mesh_of(2), 0, 1)}
    with pytest.raises(ValueError, match="2 meshes"):
        state_shardings(ewa_optax.adam(0.1), params, several)


@pytest.mark.parametrize(
    "name", ["8bit", *(pytest.param(name, marks=pytest.mark.slow) for name in ["24bit", "factored"])]
)
def test_saved_on_four_devices_restored_on_others(name, tmp_path):
    optimizer = ewa_optax.adam(0.1, storage=STORAGES[name])
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((64, 576)).astype(np.float32), "b": np.ones(8, np.float32)}
    params = on(mesh_of(4), params)
    _, state = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", state)
        saver.wait_until_finished()
        for count in (1, 2, 8):
            mesh = mesh_of(count)
            said = state_shardings(optimizer, jax.eval_shape(lambda: params), along(mesh, 0, 1))
            empty = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                jax.eval_shape(optimizer.init, params),
                said,
            )
            back = saver.restore(tmp_path / "state", empty)
            assert alike(back, said)
            chex.assert_trees_all_equal(jax.device_get(back), jax.device_get(state))


@pytest.mark.parametrize("name", STORAGES)
def test_tools_of_optax_walk_states_beside_trees_of_parameters(name):
    """Small leaves, too, of which a storage keeps less than of others."""
    optimizer = ewa_optax.adam(0.1, storage=STORAGES[name])
    params = {"w": jnp.ones((64, 64)), "b": jnp.ones(3)}
    state = optimizer.init(params)
    marked = optax.tree.map_params(optimizer, lambda x, mark: (x, mark), state, {"w": "large", "b": "small"})
    arrays = len(jax.tree.leaves(state)) - sum(x.ndim == 0 for x in jax.tree.leaves(state))
    scalars = name == "factored"  # The mean of all.
    assert jax.tree.leaves(marked).count("large") == jax.tree.leaves(marked).count("small") == arrays / 2 + scalars / 2


class Model(nnx.Module):
    """A layer divided along its last axis, one along its first, and one that lies everywhere."""

    def __init__(self, rngs):
        def divided(*names):
            return nnx.with_partitioning(nnx.initializers.lecun_normal(), names)

        self.up = nnx.Linear(64, 576, kernel_init=divided(None, "fsdp"), rngs=rngs)
        self.down = nnx.Linear(576, 64, kernel_init=divided("fsdp", None), rngs=rngs)
        self.norm = nnx.LayerNorm(64, rngs=rngs)

    def __call__(self, x):
        return self.norm(x + self.down(jax.nn.gelu(self.up(x))))


BOXED = {
    "8bit": ewa_optax.adamw(1e-3, storage="8bit"),
    "factored": ewa_optax.adamw(1e-3, storage=FACTORED),
    "adafactor": ewa_optax.adafactor(1e-3),
    "novograd": ewa_optax.novograd(1e-3),
}


@pytest.mark.parametrize("name", BOXED)
def test_nnx_models_that_say_how_they_are_divided(name):
    """Made inside and outside of jit, stepped, and restored by nnx's own shapes and shardings."""
    mesh = mesh_of(4)

    def make():
        model = Model(nnx.Rngs(0))
        return model, nnx.Optimizer(model, BOXED[name], wrt=nnx.Param)

    with jax.set_mesh(mesh):
        model, optimizer = nnx.jit(make)()
        eager = make()[1]
        params = nnx.as_pure(nnx.state(model, nnx.Param))
        plain = BOXED[name].init(params)
        updates, _ = jax.jit(BOXED[name].update)(params, plain, params)
        chex.assert_trees_all_equal(nnx.as_pure(eager.opt_state), plain)
        assert alike(nnx.state(optimizer.opt_state), nnx.get_named_sharding(nnx.state(eager.opt_state), mesh))

        nnx.jit(lambda model, optimizer: optimizer.update(model, nnx.state(model, nnx.Param)))(model, optimizer)
        stepped = nnx.as_pure(nnx.state(model, nnx.Param))
        chex.assert_trees_all_close(stepped, optax.apply_updates(params, updates), rtol=1e-6, atol=1e-9)

        state = nnx.state(optimizer)
        shardings = nnx.get_named_sharding(nnx.state(nnx.eval_shape(make)[1]), mesh)
        back = jax.tree.map(jax.device_put, state, shardings)
    assert alike(back, shardings)
    divided = [x for x in jax.tree.leaves(back) if any(x.sharding.spec)]
    assert len(divided) >= 2 * {"novograd": 1, "adafactor": 1}.get(name, 2)


def test_boxes_on_devices_that_would_cut_a_block():
    """Which nothing but the boxes tells in jit: eight devices share 256 numbers, of which four keep blocks of 64."""
    names = None, "fsdp"

    def make():
        kernel = nnx.with_partitioning(nnx.initializers.lecun_normal(), names)
        model = nnx.Linear(64, 256, use_bias=False, kernel_init=kernel, rngs=nnx.Rngs(0))
        return model, nnx.Optimizer(model, BOXED["8bit"], wrt=nnx.Param)

    with jax.set_mesh(mesh_of(8)):
        model, optimizer = nnx.jit(make)()
        params, state = nnx.as_pure(nnx.state(model, nnx.Param)), nnx.as_pure(optimizer.opt_state)
        assert shapes(nnx.as_pure(make()[1].opt_state)) == shapes(state)
        assert state[1].numerator.average.arrays[1]["kernel"].shape == (64, 8)
        assert not collectives(BOXED["8bit"].update, params, state, params)


@pytest.mark.parametrize("name", BOXED)
def test_linen_models_in_boxes(name):
    """The boxes stay, name the axes of what is in them, and steps are those of what is in them."""
    kernel = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "fsdp"))
    params = nn.Dense(576, kernel_init=kernel).init(jax.random.key(0), jnp.ones((1, 64)))
    pure, optimizer = nn.meta.unbox(params), BOXED[name]
    state, plain = optimizer.init(params), optimizer.init(pure)
    specs = nn.get_partition_spec(state)
    for x, spec in zip(jax.tree.leaves(state), jax.tree.leaves(specs), strict=True):
        assert len(spec) <= x.ndim
        if x.shape in {(64, 576), (64, 8)}:
            assert tuple(spec) == (None, "fsdp")
    update = jax.jit(optimizer.update)
    updates, stepped = update(params, state, params)
    assert jax.tree.structure(stepped) == jax.tree.structure(state)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    expected = update(pure, plain, pure)
    chex.assert_trees_all_equal(jax.tree.leaves((updates, stepped)), jax.tree.leaves(expected))


def test_equinox_models_in_shards():
    mesh = mesh_of(4)
    model = equinox.filter_shard(equinox.nn.MLP(64, 64, 128, 1, key=jax.random.key(0)), along(mesh, 0, 1))
    params, static = equinox.partition(model, equinox.is_array)
    optimizer = ewa_optax.adamw(1e-3, storage="8bit")
    state, said = optimizer.init(params), state_shardings(optimizer, params)
    assert alike(state[1].numerator.average, said[1].numerator.average)

    @equinox.filter_jit
    def step(model, state):
        gradients = equinox.filter_grad(lambda m: jnp.mean(jax.vmap(m)(jnp.ones((8, 64))) ** 2))(model)
        updates, state = optimizer.update(gradients, state, equinox.filter(model, equinox.is_array))
        return equinox.apply_updates(model, updates), state

    model, state = step(equinox.combine(params, static), state)
    kept = state[1].numerator.average.arrays
    assert kept[0].layers[0].weight.dtype == jnp.int8
    assert all(len(x.sharding.device_set) == 4 for x in jax.tree.leaves(kept))
    assert alike(kept, jax.tree.map(lambda x: along(mesh, 0, x.ndim), kept))
