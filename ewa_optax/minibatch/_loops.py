"""Two ways to run the steps of an epoch: in one compiled loop, or one by one from Python."""

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any

import jax.core
import jax.numpy as jnp

from ewa_optax._checks import check_choice
from ewa_optax.minibatch._batches import Batches

LOOPS = ("auto", "scan", "python")
INSIDE = "loop='python' can't run inside of jax.jit, jax.vmap, jax.grad or jax.lax.scan; use loop='scan' there."
_CONVOLVES: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()  # Walking a jaxpr takes milliseconds.


def scan(step: Callable, batches: Batches, carry: Any, data: Any, key: jax.Array, epoch: Any) -> tuple[Any, Any]:
    """One epoch as `jax.lax.scan` runs it."""
    shuffle = batches.shuffle(key, epoch)

    def visit(carry, batch_and_others):
        batch, others = batch_and_others
        return step(carry, batch, **others)

    def chunk(carry, first):
        return jax.lax.scan(visit, carry, batches.gathered(data, shuffle, first, count, batches.batch_size))

    # A divisor of the number of steps, since a shorter last chunk would be compiled on its own.
    count = next(k for k in range(batches.gather_at_once(data), 0, -1) if batches.full_steps % k == 0)
    carry, out = jax.lax.scan(chunk, carry, jnp.arange(0, batches.full_steps, count, dtype=jnp.int32))
    out = jax.tree.map(lambda x: x.reshape(batches.full_steps, *x.shape[2:]), out)
    if batches.last_size:
        last = batches.gathered(data, shuffle, batches.full_steps, 1, batches.last_size)
        carry, last_out = jax.lax.scan(visit, carry, last)
        out = append(batches.batch_size, out, last_out)
    return carry, out


def append(batch_size: int, out: Any, last: Any) -> Any:
    """The outs of all steps, the smaller last one included, which must look like the others."""
    if jax.tree.structure(out) != jax.tree.structure(last):
        raise ValueError(
            f"step returned an out of structure {jax.tree.structure(out)} for mini-batches of {batch_size} "
            f"examples and {jax.tree.structure(last)} for the smaller last one; return the same for both."
        )

    def join(path, out, last):
        if out.shape[1:] != last.shape[1:]:
            raise ValueError(
                f"step returned an out{jax.tree_util.keystr(path)} of shape {out.shape[1:]} for mini-batches of "
                f"{batch_size} examples and of shape {last.shape[1:]} for the smaller last one, which can't be "
                "stacked; return something of one shape, such as a mean over the batch."
            )
        return jnp.concatenate([out, last])

    return jax.tree_util.tree_map_with_path(join, out, last)


def choose_loop(loop: str, compiled: Any, *arguments: Any) -> str:
    """`loop`, with "auto" decided: "python" for a jitted function with a convolution in it, on a CPU.

    There XLA compiles a convolution inside of a loop to code that is 2 to 50 times slower than the same one outside.
    """
    check_choice("loop", loop, LOOPS)
    traced = is_traced(arguments)
    if loop == "python" and traced:
        raise ValueError(INSIDE)
    if loop != "auto":
        return loop
    if jax.default_backend() != "cpu":
        return "scan"
    if compiled not in _CONVOLVES:
        _CONVOLVES[compiled] = holds_convolution(compiled.trace(*arguments).jaxpr)
    if not _CONVOLVES[compiled]:
        return "scan"
    _tell_once(traced)
    return "scan" if traced else "python"


def in_a_transformation() -> bool:
    """Whether `jax.jit`, `jax.vmap`, `jax.grad` or another one is looking at what calls this."""
    from jax.extend import core  # Here, since it brings all of pallas along.

    here = core.get_opaque_trace_state(convention="flax")
    with jax.core.eval_context():
        return here != core.get_opaque_trace_state(convention="flax")


def is_traced(tree: Any) -> bool:
    """Whether some of it has no values yet."""
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree))


def holds_convolution(jaxpr: Any) -> bool:
    """Whether there is a convolution anywhere in it."""
    return any(
        equation.primitive.name == "conv_general_dilated"
        or any(map(holds_convolution, filter(_is_jaxpr, jax.tree.leaves(equation.params, is_leaf=_is_jaxpr))))
        for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns
    )


def _is_jaxpr(x: Any) -> bool:
    from jax.extend import core  # Here, since it brings all of pallas along.

    return isinstance(x, core.Jaxpr | core.ClosedJaxpr)


@functools.cache
def _tell_once(traced: bool) -> None:
    remedy = "call it outside of jax.jit, where steps can run from Python" if traced else "so its steps run from Python"
    logging.getLogger("ewa_optax").warning(
        "A convolution inside of a compiled loop is slow on a CPU (https://github.com/jax-ml/jax/issues/12868); %s.",
        remedy,
    )


@functools.lru_cache(maxsize=32)
def in_place(step: Callable, carry: int = 0) -> Callable:
    """The step compiled, in the memory of the carry that it is given, which is its argument of that number."""
    return jax.jit(step, donate_argnums=carry)
