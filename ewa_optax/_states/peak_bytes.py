"""The memory of a step of an optimizer, before any is allocated."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ewa_optax._states.state_bytes import state_of


def peak_bytes(optimizer: optax.GradientTransformation, params: optax.Params) -> int:
    """The bytes that a compiled step of `optimizer` takes at its peak for `params`, with nothing allocated.

        bytes = arguments + temporaries + results that take the place of no argument

    Of a step that forms the gradients itself, with parameters and state donated, on the default device. All gradients
    are there before the first of them is used, as it is where they are clipped by their norm. What a loss takes, such
    as data and activations, is not counted: `peak_bytes` is what must fit beside that.

    The step is compiled, which takes as long as for a training.

    Args:
        optimizer: any `optax.GradientTransformation` whose `update` takes gradients, state and parameters alone. Those
            that want more, such as the value of the loss, are not supported.
        params: a pytree of arrays, or of `jax.ShapeDtypeStruct`s for parameters that don't exist yet.

    Returns:
        The sum of the sizes of all that is there at once; divided by the number of parameters, 16 for `optax.adam` in
        float32: 4 for the parameters, 4 for their gradients, 8 for the state.

    Raises:
        TypeError: `optimizer` is no transformation, it can't make a state for `params`, or its `update` wants more.
        RuntimeError: the compiler of the default device does not tell what memory a program takes.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, ewa_optax
        >>> params = {"w": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)}
        >>> for optimizer in (optax.sgd(0.1), optax.adam(1e-3), ewa_optax.adam(1e-3)):
        ...     print(f"{ewa_optax.peak_bytes(optimizer, params) / 1e6:.1f}")
        8.0
        16.0
        16.0

    Reference:
        `memory_analysis` of `jax.stages.Compiled`: what XLA sets aside for a program.
    """
    state = state_of(optimizer, params, "peak_bytes")
    shapes = jax.eval_shape(lambda params: params, params)

    def step(params: Any, state: Any, turns: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(_gradients(params, turns), state, params)
        return optax.apply_updates(params, updates), state

    memory = jax.jit(step, donate_argnums=(0, 1)).lower(shapes, state, 1).compile().memory_analysis()
    if memory is None:
        raise RuntimeError(
            f"peak_bytes: the compiler must tell what memory a program takes, got None on {jax.default_backend()!r}; "
            'call it within jax.default_device(jax.devices("cpu")[0]).'
        )
    kept = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes + kept


def _gradients(params: Any, turns: Any) -> Any:
    """Arrays that a loop leaves behind whose turns XLA can't count: all others it would form within the update."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.fori_loop(0, turns, lambda _, gradients: jax.tree.map(jnp.negative, gradients), zeros)
