"""States in the hands of what saves and restores them."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, PIECES
from flax import serialization
from flax.training.train_state import TrainState

import ewa_optax
from ewa_optax import storage
from ewa_optax.storage._argument import NAMED

SMALL = {name: dataclasses.replace(kept, min_size=4) for name, kept in NAMED.items()}
SAVED = {
    **{case.name: case.optimizer() for case in CASES if not case.slow},
    **{f"pieces.{name}": piece(None) for name, piece in PIECES.items()},
    **{f"pieces.{name} in {kept}": PIECES[name](SMALL[kept]) for name, kept in itertools.product(PIECES, SMALL)},
}
PARAMS = {"w": np.ones((2, 3), np.float32), "layers": [{"b": jnp.ones(2, jnp.bfloat16)}, None]}


def numbered(state, start):
    """A state of that structure, whose numbers are all different."""
    numbers = itertools.count(start)
    return jax.tree.map(lambda x: np.full(x.shape, next(numbers)).astype(x.dtype), state)


@pytest.mark.parametrize("name", SAVED)
def test_a_state_goes_through_the_serialization_of_flax(name):
    state = jax.eval_shape(SAVED[name].init, PARAMS)
    state, other = numbered(state, 1), numbered(state, 50)
    restored = serialization.from_bytes(other, serialization.to_bytes(state))
    chex.assert_trees_all_equal(restored, state, strict=True)
    again = serialization.from_state_dict(other, serialization.to_state_dict(state))
    chex.assert_trees_all_equal(again, state, strict=True)
    assert jax.tree.structure(restored) == jax.tree.structure(again) == jax.tree.structure(state)


@pytest.mark.parametrize("kept", [None, *SMALL.values(), storage.EightBit(min_size=4, block=3)])
def test_the_average_of_restored_parameters(kept):
    params = {"w": jnp.arange(10.0), "b": jnp.ones(2)}
    optimizer = optax.chain(ewa_optax.adam(0.1), ewa_optax.average_parameters(0.9, storage=kept))
    state = jax.eval_shape(lambda: TrainState.create(apply_fn=None, params=params, tx=optimizer))
    saved = TrainState.create(apply_fn=None, params=params, tx=optimizer)
    restored = serialization.from_bytes(numbered(state, 1), serialization.to_bytes(saved))
    chex.assert_trees_all_equal(ewa_optax.get_average(restored.opt_state), ewa_optax.get_average(saved.opt_state))
    np.testing.assert_allclose(ewa_optax.get_average(restored.opt_state)["w"], params["w"], rtol=0.2)
