"""A function of a state of which little is asked: what is not, is not computed, nor compiled."""

from collections.abc import Callable
from typing import Any

import jax

from ewa_optax.storage._dataflow import Constant, Value, needed_for, operations_of, run


def of_some(function: Callable[..., tuple[Any, Any]], *like: Any) -> tuple[Callable[..., Any], Any]:
    """The first of the two that a function of such arrays returns, as a function; and the shapes of the second."""
    closed, (shapes, rest) = jax.make_jaxpr(function, return_shape=True)(*like)
    inputs = [Value(x.aval) for x in closed.jaxpr.invars]
    operations, results = operations_of(closed, inputs)
    structure = jax.tree.structure(shapes)
    results = results[: structure.num_leaves]
    needed = needed_for(operations, [x for x in results if isinstance(x, Value)], set(inputs))

    def some(*arrays):
        values = run(needed, dict(zip(inputs, arrays, strict=True)))
        return structure.unflatten([x.number if isinstance(x, Constant) else values[x] for x in results])

    return some, rest
