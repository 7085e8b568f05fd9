"""Arrays of billions of elements, by their shapes alone."""

import jax
import jax.numpy as jnp
import pytest
from cases import CASES, PIECES
from runs import parametrized

from ewa_optax.storage._argument import NAMED
from ewa_optax.storage._formats import Factored

LARGE = {
    "w": jax.ShapeDtypeStruct((2**17, 2**16), jnp.float32),
    "b": jax.ShapeDtypeStruct((2**31,), jnp.bfloat16),
    "most": jax.ShapeDtypeStruct((2**32 - 1,), jnp.float32),
    "rows": jax.ShapeDtypeStruct((2**33, 1), jnp.float32),
    "columns": jax.ShapeDtypeStruct((3, 2**33), jnp.float32),
}


def check(optimizer):
    state = jax.eval_shape(optimizer.init, LARGE)
    updates, after = jax.eval_shape(optimizer.update, LARGE, state, LARGE)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, LARGE)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


@parametrized(CASES)
def test_an_optimizer_of_large_arrays(case):
    check(case.optimizer())


@pytest.mark.parametrize("name", PIECES)
def test_a_piece_of_large_arrays(name):
    check(PIECES[name](None))
    if any(x.shape for x in jax.tree.leaves(jax.eval_shape(PIECES[name](None).init, LARGE))):
        for kept in (NAMED["8bit"], Factored()):
            check(PIECES[name](kept))
