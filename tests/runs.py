"""What tests do with an optimizer: some steps, as one program; and how far from what was expected they may end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ROUGHLY


def parametrized(cases):
    """A test for each case; by the scope those of one case run together, and share what is compiled for it."""
    slow = {True: pytest.mark.slow, False: ()}
    params = [pytest.param(case, id=case.name, marks=slow[case.slow]) for case in cases]
    return pytest.mark.parametrize("case", params, scope="module")


def eight_decades(steps, shape, complex_values=False, seed=0):
    """Gradients whose sizes span eight decades, over elements and over time."""
    rng = np.random.default_rng(seed)
    sizes = 10 ** rng.uniform(-6, 2, (steps, *shape))
    values = rng.standard_normal((steps, *shape))
    if complex_values:
        values = values + 1j * rng.standard_normal((steps, *shape))
    return (sizes * values).astype(np.complex64 if complex_values else np.float32)


roughly_compiled = functools.partial(jax.jit, compiler_options=ROUGHLY)
# As users do, where the last bits count: products and sums in one operation, which are rounded once.
well_compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})


def gradients_like(params, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(np.shape(x)).astype(x.dtype)), params)


def run(optimizer, params, steps=3, seed=0):
    """A few plain steps: the parameters and the state afterwards."""
    state = optimizer.init(params)
    for t in range(steps):
        updates, state = optimizer.update(gradients_like(params, seed + t), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def followed(optimizer, params, gradients):
    """The parameters and the state after all steps, and the updates of each, by `lax.scan`."""

    def step(carry, g):
        params, state = carry
        updates, state = optimizer.update(g, state, params)
        return (optax.apply_updates(params, updates), state), updates

    return jax.lax.scan(step, (params, optimizer.init(params)), gradients)


def trained(optimizer, params, gradients):
    """The parameters and the state after all steps, by one program."""
    return roughly_compiled(lambda p, g: followed(optimizer, p, g)[0])(params, gradients)


def run_updates(optimizer, params, gradients, jit=well_compiled):
    """The updates of all steps, by one program."""
    return jit(lambda p, g: followed(optimizer, p, g)[1])(params, gradients)


def assert_close_in_size(actual, expected, tolerance, error=np.max):
    """Errors relative to the update, or to the size of its element's updates over time where it passes through 0."""
    size = np.maximum(np.abs(expected), np.sqrt(np.mean(np.abs(expected) ** 2, axis=0)))
    assert error(np.abs(np.asarray(actual) - expected) / size) <= tolerance


def compiled_step(optimizer, params):
    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimizer.init, params)
    # The cost is that of the graph; how good the machine code is does not matter.
    return jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
