"""What 0.1.0 made still loads, and goes on to the same bits."""

import importlib
import io
import pickle
import zipfile

import at_0_1_0
import chex
import jax
import numpy as np
import pytest

from ewa_optax import (
    adafactor,
    average_parameters,
    fit,
    rmsprop,
    scale_by_ewa,
    stack_leaves,
    storage,
    unstack_leaves,
)
from ewa_optax._fit import checkpoint
from ewa_optax._optimizers import OPTIMIZERS
from ewa_optax.minibatch._sources import fingerprint
from ewa_optax.pieces._layerwise import for_checkpoint, for_older_checkpoint, from_checkpoint, of_rows_and_columns


def kept(name):
    with zipfile.ZipFile(at_0_1_0.FIXTURE) as archive:
        return archive.read(name)


def arrays(name):
    with np.load(io.BytesIO(kept(name))) as found:
        return dict(found)


def test_every_public_name_imports():
    names = kept("names.txt").decode().splitlines()
    assert len(names) > 100
    for line in names:
        module, name = line.split()
        assert hasattr(importlib.import_module(module), name), line


def test_storages_load_from_pickles():
    assert pickle.loads(kept("storages.pickle")) == at_0_1_0.STORAGES


@pytest.mark.parametrize("name", at_0_1_0.OPTIMIZERS)
def test_averages_in_16_bits_are_the_same_bits(name):
    expected = arrays("averages.npz")[name]
    actual = at_0_1_0.averages(name)
    assert actual.shape == expected.shape
    # Equal on the machine that made them; another one may contract products and sums otherwise, now and then. Of other
    # random bits, half of the numbers would differ.
    assert np.mean(actual != expected) <= 0.01


def test_no_optimizer_is_left_out():
    assert {*at_0_1_0.OPTIMIZERS, "gradient_descent", "adafactor"} <= OPTIMIZERS.keys()


def test_a_checkpoint_is_resumed(tmp_path):
    with zipfile.ZipFile(at_0_1_0.FIXTURE) as archive:
        archive.extractall(tmp_path)
    run = at_0_1_0.fitted(tmp_path / "run", 4)
    assert run.epoch == 4
    assert run.stopped == "finished"
    expected = arrays("whole.npz")
    np.testing.assert_allclose(run.history.costs, expected.pop("costs"), rtol=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(run.params[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (adafactor(0.1), "183 numbers in 9 arrays of float32 and int32 (51bb90ad)"),
        (
            of_rows_and_columns(
                scale_by_ewa(0.9, storage.EightBit(min_size=90, block=128))
            ),  # Which keeps columns, and no rows.
            "181 numbers in 7 arrays of float32 and int32 and int8 (6e49a3b0)",
        ),
        (
            average_parameters(0.9, storage=storage.EightBit(min_size=90, block=128)),
            "6244 numbers in 7 arrays of float32 and int32 and int8 (c27ae615)",
        ),
        (rmsprop(0.1, storage=storage.Factored()), "196 numbers in 8 arrays of float32 and int32 (3e6256b7)"),
    ],
)
def test_checkpoints_keep_states_as_they_did(optimizer, expected):
    params = {"b": np.zeros(8), "v": np.zeros((3, 8)), "w": np.zeros((64, 96))}
    params = jax.tree.map(np.float32, params | {"none": None})
    state = optimizer.init(params)
    kept, older = for_checkpoint(state), for_older_checkpoint(state)
    assert fingerprint(older) == expected
    for loaded in (kept, older):
        chex.assert_trees_all_equal(from_checkpoint(state, loaded), state)
    of_stacks = for_checkpoint(unstack_leaves(optimizer.init(stack_leaves(params))))
    assert jax.tree.structure(of_stacks) == jax.tree.structure(kept)


def test_checkpoints_from_before_factors_had_a_mean_are_resumed(tmp_path, monkeypatch):
    """It follows from the others, up to rounding."""
    optimizer = rmsprop(0.01, storage=storage.Factored(min_size=100))
    params = {"a": np.eye(8, 16), "b": np.ones((16, 8)), "c": np.zeros(8)}
    params = jax.tree.map(np.float32, params)
    data = {"x": np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)}

    def loss(p, batch):
        return ((batch["x"] @ p["a"] @ p["b"] + p["c"][None] - batch["x"]) ** 2).mean()

    def run(folder, epochs):
        key = jax.random.key(0)
        return fit(
            loss, optimizer, params, data, batch_size=20, epochs=epochs, key=key, checkpoint=folder, progress=False
        ).params

    with monkeypatch.context() as before:
        before.setattr(checkpoint, "for_checkpoint", for_older_checkpoint)
        run(tmp_path / "run", 2)
    chex.assert_trees_all_close(run(tmp_path / "run", 4), run(None, 4), rtol=1e-5)
