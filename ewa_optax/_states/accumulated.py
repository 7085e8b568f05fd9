"""Gradients of micro-batches that were summed up by `optax.MultiSteps`, as `accumulate` keeps them, and back."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import optax

from ewa_optax._wrappers.accumulate import AccumulateState


def of_multi_steps(state: Any) -> AccumulateState:
    """Of equal weights: as many as there are in the mean."""
    return AccumulateState(
        step=state.gradient_step,
        mini_step=state.mini_step,
        skipped=jnp.zeros([], jnp.int32),
        weight=jnp.asarray(state.mini_step, float),
        mean=state.acc_grads,
        inner_state=state.inner_opt_state,
    )


def to_multi_steps(path: str, state: AccumulateState, like: Any) -> Any:
    """The inverse. What was weighted, optax can't keep."""
    counts = state.weight, state.mini_step
    if not any(isinstance(x, jax.core.Tracer) for x in counts) and counts[0] != counts[1]:
        raise ValueError(
            f"carry_over: {path}.weight is {state.weight}, for {state.mini_step} micro-batches, but optax.MultiSteps "
            "knows of no weights; carry it over behind the last micro-batch of a step, where there are none."
        )
    mean = state.mean
    if not any(isinstance(x, jax.core.Tracer) for x in counts) and counts[1] == 0:
        # Of the last step: it counts nothing here, but optax may go on to add to it.
        mean = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like.acc_grads)
    return optax.MultiStepsState(state.mini_step, state.step, state.inner_state, mean, like.skip_state)
