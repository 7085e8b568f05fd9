"""Data over several devices, and several processes: the result of one, up to the order of sums."""

import itertools
import re
import socket
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import flags_but_for_devices
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import ewa_optax
from ewa_optax import minibatch
from ewa_optax.minibatch import _epoch
from ewa_optax.minibatch._batches import plan_batches

RNG = np.random.default_rng(0)
X = RNG.standard_normal((960, 6)).astype(np.float32)
DATA = {"x": X, "y": np.tanh(X @ np.arange(6, dtype=np.float32))}
KEY = jax.random.key(0)
MESHES = [((8,), ("data",)), pytest.param((4, 2), ("data", "model"), marks=pytest.mark.slow)]


def mesh_of(shape, names, types):
    return jax.make_mesh(shape, names, axis_types=(types,) * len(shape))


def on(mesh, tree, spec):
    return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, spec)), tree)


def loss(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["w"])
    return jnp.mean((hidden @ params["v"] - batch["y"]) ** 2)


def masked_loss(params, batch, mask):
    hidden = jnp.tanh(batch["x"] @ params["w"])
    return jnp.sum(mask * (hidden @ params["v"] - batch["y"]) ** 2) / mask.sum()


OPTIMIZER = ewa_optax.adam(0.01)
PARAMS = {"w": RNG.standard_normal((6, 8)).astype(np.float32), "v": RNG.standard_normal(8).astype(np.float32)}


def fit(data, params=PARAMS, **keywords):
    function = masked_loss if keywords.get("remainder") == "mask" else loss
    defaults = dict(batch_size=64, epochs=3, key=KEY, progress=False)
    return ewa_optax.fit(function, OPTIMIZER, params, data, **{**defaults, **keywords})


def close(run, expected):
    chex.assert_trees_all_close(run.params, expected.params, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run.history.costs, expected.history.costs, rtol=1e-4)


FITS = {  # By keywords: the types of axes that run every time.
    "plain": (dict(), "explicit"),
    "shards": (dict(shards=8), None),
    "validation": (dict(validation=True), None),
    "validation and shards": (dict(validation=True, shards=8), None),
    "mask": (dict(remainder="mask", batch_size=104, shards=8), None),
    "validation, shards and mask": (dict(validation=True, remainder="mask", batch_size=104, shards=8), "auto"),
    "remainder": (dict(batch_size=100), None),
    "python": (dict(loop="python", epochs=1), None),
}
TYPES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


@pytest.mark.parametrize(("shape", "names"), MESHES, ids=["data", "data and model"])
@pytest.mark.parametrize(
    ("keywords", "types"),
    [
        pytest.param(keywords, TYPES[types], id=f"{name}-{types}", marks=() if types == quick else pytest.mark.slow)
        for (name, (keywords, quick)), types in itertools.product(FITS.items(), TYPES)
    ],
)
def test_a_sharded_fit_is_one_on_one_device(shape, names, types, keywords):
    mesh = mesh_of(shape, names, types)
    checked = keywords.get("validation")
    with jax.set_mesh(mesh):
        data = on(mesh, DATA, PartitionSpec("data"))
        run = fit(data, **{**keywords, "validation": data if checked else None})
    expected = fit(DATA, **{**keywords, "validation": DATA if checked else None})
    close(run, expected)
    np.testing.assert_allclose(run.history.validation_costs, expected.history.validation_costs, rtol=1e-4)


def test_parameters_may_be_sharded_and_stay_so():
    mesh = mesh_of((4, 2), ("data", "model"), AxisType.Auto)
    specs = {"w": PartitionSpec(None, "model"), "v": PartitionSpec("model")}
    params = {name: jax.device_put(PARAMS[name], NamedSharding(mesh, specs[name])) for name in PARAMS}
    run = fit(on(mesh, DATA, PartitionSpec("data")), params)
    close(run, fit(DATA))
    for name, spec in specs.items():
        assert run.params[name].sharding.is_equivalent_to(NamedSharding(mesh, spec), run.params[name].ndim)


@pytest.mark.slow
@pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_a_batch_size_is_found_for_sharded_data(types):
    mesh = mesh_of((8,), ("data",), types)
    with jax.set_mesh(mesh):
        found = minibatch.find_batch_size(
            loss, OPTIMIZER, PARAMS, on(mesh, DATA, PartitionSpec("data")),
            key=KEY, batch_sizes=[64, 120], seconds=0.05, progress=False,
        )  # fmt: skip
    assert found.best in (64, 120)


@pytest.mark.parametrize(
    "place", ["sharded params", *(pytest.param(place, marks=pytest.mark.slow) for place in ("data", "params"))]
)
def test_a_run_resumes_where_its_arrays_lie(place, tmp_path):
    """Though what the optimizer counts by lies on no device in particular."""
    params, data = PARAMS, DATA
    if place == "data":
        data = jax.device_put(DATA, jax.devices()[3])
    elif place == "params":
        params = jax.device_put(PARAMS, jax.devices()[3])
    else:
        params = on(mesh_of((8,), ("model",), AxisType.Auto), {"w": PARAMS["w"], "v": PARAMS["v"]}, PartitionSpec())
    whole = fit(data, params, epochs=2)
    fit(data, params, epochs=1, checkpoint=tmp_path / "run")
    chex.assert_trees_all_equal(fit(data, params, epochs=2, checkpoint=tmp_path / "run").params, whole.params)


SHARDED, REPLICATED = PartitionSpec("data"), PartitionSpec(None)
QUICK = {(SHARDED, 64, 1), (SHARDED, 64, 8), (SHARDED, 960, 2), (REPLICATED, 64, 8)}


@pytest.mark.parametrize(
    ("spec", "batch_size", "shards"),
    [
        pytest.param(*which, marks=() if which in QUICK else pytest.mark.slow)
        for which in itertools.product([SHARDED, REPLICATED], [8, 64, 960], [1, 2, 8])
    ],
)
def test_the_union_of_shards_is_the_whole(spec, batch_size, shards):
    mesh = mesh_of((8,), ("data",), AxisType.Auto)
    rows = jax.device_put(np.arange(960), NamedSharding(mesh, spec))
    visits, _ = minibatch.epoch(
        lambda visits, rows: (visits.at[rows].add(1), None), np.zeros(960, np.int32), rows,
        batch_size=batch_size, key=KEY, shards=shards,
    )  # fmt: skip
    np.testing.assert_array_equal(visits, 1)


def traffic(shards):
    """The collectives of a step on eight devices, with the elements that each moves."""
    data = on(mesh_of((8,), ("data",), AxisType.Auto), DATA, PartitionSpec("data"))

    def step(w, batch):
        return w - jax.grad(lambda w: jnp.mean((batch["x"] @ w - batch["y"]) ** 2))(w), None

    compiled = _epoch._scanned(step, plan_batches(data, 64, shards=shards)).lower(jnp.zeros(6), data, KEY, 0).compile()
    found = re.findall(r"= \w+\[([\d,]*)\][^=]* (all-\w+|reduce-scatter|collective-permute)\(", compiled.as_text())
    return [(name, int(np.prod([int(n) for n in shape.split(",") if n]))) for shape, name in found]


def test_a_local_shuffle_moves_nothing_but_gradients_and_a_global_one_no_more_than_batches():
    assert traffic(8) == [("all-reduce", 6)]
    together = max(
        k for k in range(1, 16) if 15 % k == 0
    )  # All 15 mini-batches are gathered at once, small as they are.
    assert max(elements for _, elements in traffic(1)) <= 64 * 6 * together


SCRIPT = """
import sys
import jax
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
import jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
sys.path.insert(0, sys.argv[3])
import test_sharding as here
mesh = jax.make_mesh((2,), ("data",))
sharding, process = NamedSharding(mesh, PartitionSpec("data")), jax.process_index()
half = jax.tree.map(lambda x: x[process * 480 : (process + 1) * 480], here.DATA)
data = jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), half)
shards, folder = int(sys.argv[4]), sys.argv[5]
run = here.fit(data, shards=shards, epochs=2, validation=data, checkpoint=f"{folder}/run", progress=True)
np.savez(f"{folder}/{process}.npz", costs=run.history.costs, **jax.device_get(run.params))
"""


@pytest.mark.parametrize("shards", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_two_processes_with_half_the_data_each_are_one_with_all(shards, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    arguments = [str(Path(__file__).parent), str(shards), str(tmp_path)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(port), str(i), *arguments],
            env={"XLA_FLAGS": flags_but_for_devices(), "PATH": "", "JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    assert "epoch 2/2" in errors[0]
    assert "epoch 2/2" not in errors[1]
    expected = fit(DATA, shards=shards, epochs=2)
    for process in range(2):
        with np.load(tmp_path / f"{process}.npz") as kept:
            np.testing.assert_allclose(kept["costs"], expected.history.costs, rtol=1e-4)
            np.testing.assert_allclose(kept["w"], expected.params["w"], rtol=1e-4, atol=1e-5)
