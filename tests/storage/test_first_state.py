"""The state before the first step: what storages make of zeros, which nobody computes and nobody holds."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import ewa_optax
from ewa_optax import storage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shifted(storage.Storage):
    """Makes of zeros, and of one half of the random bits, what has no two numbers alike in a column."""

    def encode(self, average, bits):
        counts = jnp.cumsum(bits >> 31, -2)
        return {"sums": jnp.cumsum(average + 1, -2), "codes": (average + 3).astype(jnp.int8), "counts": counts}

    def decode(self, kept):
        return kept["codes"].astype(jnp.float32) - 3


class Lifted(storage.BFloat16):
    """A storage of the library, but for what it makes of zeros."""

    def encode(self, average, bits):
        return super().encode(average + 1, bits)


STORAGES = {
    "float32": None,
    "bfloat16": "bfloat16",
    "float16": "float16",
    "24bit": "24bit",
    "8bit": "8bit",
    "factored": (None, storage.Factored()),
    "own": Shifted(),
    "own, of the library's": Lifted(),
}
ALL = pytest.mark.parametrize("name", STORAGES)


def some(*quick):
    """All but float32; all but those that are quick are slow."""
    slow = {x: () if x in quick else pytest.mark.slow for x in STORAGES if STORAGES[x]}
    return pytest.mark.parametrize("name", [pytest.param(x, marks=marks) for x, marks in slow.items()])


def adam(name):
    return ewa_optax.adam(1e-3, storage=STORAGES[name])


def shape(*numbers, dtype=jnp.float32, sharding=None):
    return jax.ShapeDtypeStruct(numbers, dtype, sharding=sharding)


LARGE = {kind: shape(64, 1024, dtype=kind) for kind in ("float32", "bfloat16", "complex64")}
STACKED = jax.eval_shape(ewa_optax.stack_leaves, [LARGE["float32"]] * 2)


def of_leaves_and_stacks(name):
    return lambda *params: [adam(name).init(p) for p in params]


def operations(init, *params, without=""):
    """In its compiled program, what makes an array, and of how many elements; `without` one of the passes of XLA."""
    options = {"xla_disable_hlo_passes": without} if without else {}
    text = jax.jit(init).lower(*params).compile(compiler_options=options).as_text()
    found = re.findall(r"= \w+\[([\d,]*)\]\S* ([a-z][a-z0-9-]*)\(", text)
    return [(name, int(np.prod([int(n) for n in numbers.split(",") if n]))) for numbers, name in found]


def largest_constant(init, *params):
    return max(size for name, size in operations(init, *params) if name == "constant")


@ALL
def test_no_constant_in_its_program_has_the_size_of_a_leaf(name):
    assert largest_constant(of_leaves_and_stacks(name), LARGE, STACKED) <= 64


@pytest.mark.parametrize("name", [x for x in STORAGES if "own" not in x])
def test_of_the_storages_of_the_library_it_is_made_of_nothing(name):
    """What is made of constants XLA computes while it compiles, element by element: a large leaf takes minutes."""
    found = operations(of_leaves_and_stacks(name), LARGE, STACKED, without="constant_folding")
    assert {name for name, size in found if size > 64} <= {"broadcast", "fusion", "copy", "bitcast", "parameter"}


@pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@some("8bit", "own")
def test_nor_has_one_where_parameters_are_in_parts(name, types):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(types,))
    parted = jax.NamedSharding(mesh, jax.P(None, "x"))
    params = {"w": shape(64, 1024, sharding=parted)}
    with jax.set_mesh(mesh):
        assert largest_constant(adam(name).init, params) <= 64
        specs = jax.tree.map(lambda x: jax.P("x") if x.ndim else jax.P(), jax.eval_shape(adam(name).init, params))
        inside = jax.shard_map(adam(name).init, mesh=mesh, in_specs=({"w": jax.P("x")},), out_specs=specs)
        rows = {"w": shape(64, 1024, sharding=jax.NamedSharding(mesh, jax.P("x")))}
        assert largest_constant(inside, rows) <= 64


HALF = np.uint32(2**31)


def encoded(kept, average):
    """By a program that has the zeros for an argument."""
    return jax.tree.leaves(jax.jit(lambda x: kept.encode(x, jnp.full(x.shape, HALF)))(average))


@some("8bit", "own", "own, of the library's")
def test_it_is_what_the_storage_makes_of_zeros(name):
    """Outside of `jax.jit` as well as in it."""
    kept = storage.second_moment(STORAGES[name])
    assert kept
    average, zeros = ewa_optax.scale_by_ewa(0.9, kept), np.zeros((64, 128), np.float32)
    params = {"w": zeros + 1, "half": jnp.ones((64, 128), jnp.bfloat16), "small": jnp.ones(3)}
    first, expected = average.init(params), encoded(kept, zeros)
    chex.assert_trees_all_equal(first, jax.jit(average.init)(params))
    for leaf in ("w", "half"):
        found = [tree[leaf] for tree in first.average.arrays]
        chex.assert_trees_all_equal(found, expected)
        chex.assert_trees_all_equal_dtypes(found, expected)


@pytest.mark.parametrize("spec", [jax.P("x"), jax.P(None, "x")], ids=str)
@some("8bit")
def test_it_lies_where_the_averages_of_such_parameters_lie(name, spec):
    """Of 576 columns on four devices each has one and a half of the blocks: XLA decides what becomes of the scales."""
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    kept = storage.second_moment(STORAGES[name])
    assert kept
    params = jax.device_put(np.ones((192, 576), np.float32), jax.NamedSharding(mesh, spec))
    found = ewa_optax.scale_by_ewa(0.9, kept).init(params).average.arrays
    for x, like in zip(found, encoded(kept, jnp.zeros_like(params)), strict=True):
        assert x.sharding.is_equivalent_to(like.sharding, x.ndim)


@pytest.mark.parametrize("made", ["arrays", "of NumPy", "shapes"])
def test_outside_of_jit_nobody_holds_zeros_of_many_leaves(made):
    held = []

    class Watching(storage.BFloat16):
        """Looks around whenever it is asked."""

        def takes(self, shape):
            held.append(sum(x.shape == (64, 65) and x.dtype == jnp.float32 for x in jax.live_arrays()))
            return super().takes(shape)

    of = {"arrays": jnp.asarray, "of NumPy": np.asarray, "shapes": lambda x: shape(*x.shape, dtype=x.dtype)}[made]
    before = sum(x.shape == (64, 65) for x in jax.live_arrays())
    ewa_optax.scale_by_ewa(0.9, Watching()).init([of(np.ones((64, 65), jnp.bfloat16)) for _ in range(5)])
    assert len(held) >= 5
    assert max(held) <= before + (made != "arrays")


def test_of_leaves_of_one_shape_one_is_traced():
    traced = []

    class Counting(Shifted):
        def encode(self, average, bits):
            traced.append(average.shape)
            return super().encode(average, bits)

    ewa_optax.scale_by_ewa(0.9, Counting()).init([jnp.ones((64, 66)) for _ in range(5)])
    assert traced.count((64, 66)) == 1
