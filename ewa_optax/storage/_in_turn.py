"""An update that takes one leaf after the other, and keeps no more decoded averages at a time than one.

As pieces write it, an update goes from piece to piece, each time over all leaves. A CPU has a loop for each result of a
step, and each loop computes anew what it needs; where that is much, XLA writes it down before. So a step whose averages
take 1 byte needed more memory than one whose averages take 4. Here the program is traced, taken apart by leaves, and
put together again, in this order:

- the update of a leaf, which reads the averages as they were kept, and with it the new parameter;
- one average after the other, each in place of itself. One that is kept as several arrays is written down decoded,
  once for all of them;
- the next leaf.

What says in which order XLA must take them is a zero, computed from what must come first.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from ewa_optax.storage._dataflow import (
    Constant,
    Operation,
    Program,
    Value,
    by_leaves,
    is_named,
    needed_for,
    opened,
    run,
)
from ewa_optax.storage._encoding import Encoded
from ewa_optax.storage._storage import SHARED

Update = Callable[..., tuple[Any, Any]]

Known = Mapping[Value, Any]
Made = tuple[jax.Array, Known]

_NARROW = [jnp.dtype(name) for name in ("bfloat16", "float16", "int8", "uint8", "int16", "uint16")]


def in_turn(update: Update, updates: Any, state: Any, params: Any, extra_args: dict[str, Any]) -> tuple[Any, Any]:
    """`update(updates, state, params, **extra_args)`; of encoded averages, in a compiled program, by leaves."""
    if not _is_for(updates, state):
        return update(updates, state, params, **extra_args)
    leaves, structure = jax.tree.flatten((updates, state, params, extra_args))
    is_array = [isinstance(x, jax.Array | np.ndarray) for x in leaves]

    def of_arrays(*arrays):
        given = iter(arrays)
        filled = (next(given) if is_one else x for x, is_one in zip(leaves, is_array, strict=True))
        updates, state, params, extra_args = structure.unflatten(filled)
        return update(updates, state, params, **extra_args)

    arrays = [x for x, is_one in zip(leaves, is_array, strict=True) if is_one]
    with _within():
        closed, shapes = jax.make_jaxpr(of_arrays, return_shape=True)(*arrays)
    if closed.effects:  # Such as what is printed: that has an order of its own.
        return update(updates, state, params, **extra_args)
    made = _by_leaves(closed, arrays, _parameters(shapes[0], params))
    return jax.tree.unflatten(jax.tree.structure(shapes), made)


_WITHIN = contextvars.ContextVar("within another update", default=False)


@contextlib.contextmanager
def _within() -> Iterator[None]:
    """Optimizers in an optimizer are pieces of it: it takes their leaves in turn, and they don't do it before."""
    token = _WITHIN.set(True)
    try:
        yield
    finally:
        _WITHIN.reset(token)


def _is_for(updates, state):
    """Whether it is of a compiled program, with encoded averages, and not known to be in parts on several devices."""
    if _WITHIN.get():
        return False
    leaves = jax.tree.leaves(updates)
    local = all(isinstance(u, jax.core.Tracer) and jax.typeof(u).sharding.mesh.empty for u in leaves)
    return bool(leaves) and local and any(map(_is_encoded, jax.tree.leaves(state, is_leaf=_is_encoded)))


def _is_encoded(x):
    return isinstance(x, Encoded)


def _parameters(updates, params):
    """Of each update, the parameter that it is for, or None."""
    found = dict(jax.tree_util.tree_leaves_with_path(params))
    parameters = [(u, found.get(path)) for path, u in jax.tree_util.tree_leaves_with_path(updates)]
    return [p if isinstance(p, jax.Array) and (p.shape, p.dtype) == (u.shape, u.dtype) else None for u, p in parameters]


def _by_leaves(closed, arrays, parameters):
    """The results of an update, of which the first are the updates of these parameters."""
    program = by_leaves(closed)
    known = run(program.first, dict(zip(program.arguments, arrays, strict=True)))

    def value(x):
        return x.number if isinstance(x, Constant) else known[x]

    made: dict[int, Any] = {number: value(x) for number, x in program.rest.items()}
    # Leaves of one shape have one program.
    programs: dict[Any, Any] = {}
    token = jnp.uint32(0)
    for group in program.groups:
        are_updates = tuple(number < len(parameters) for number in group.results)
        key = (group.program.key, are_updates)
        if key not in programs:
            programs[key] = jax.jit(_Leaf(group.program, are_updates))
        theirs = [parameters[number] for number in group.results if number < len(parameters)]
        given = (*(arrays[number] for number in group.arrays), *map(value, group.others))
        token, results = programs[key](token, theirs, *given)
        made.update(zip(group.results, results, strict=True))
    return [made[number] for number in range(len(made))]


class _Leaf:
    """The program of one leaf, as a function of a zero that comes first, of the parameter, and of what is given."""

    __name__ = "leaf"

    def __init__(self, program: Program, are_updates: Sequence[bool]) -> None:
        self._program, self._are_updates = program, are_updates

    def __call__(self, token: jax.Array, parameters: list[Any], *given: Any) -> tuple[jax.Array, list[Any]]:
        return jax.lax.platform_dependent(token, parameters, *given, cpu=self._in_turn, default=self._as_it_is)

    def _as_it_is(self, token, parameters, *given):
        del parameters
        values = run(self._program.operations, dict(zip(self._program.given, given, strict=True)))
        return token, [values[x] for x in self._program.results]

    def _in_turn(self, token, parameters, *given):
        known = dict(zip(self._program.given, given, strict=True))
        operations, results = opened(self._program.operations, self._program.results, SHARED)
        updates = [x for x, is_update in zip(results, self._are_updates, strict=True) if is_update]
        values = dict(_computed(operations, {x: _after(token, a) for x, a in known.items()}, updates))
        first = token
        for p, x in zip(parameters, updates, strict=True):
            # As optax writes it, so that XLA computes it once.
            first = first ^ _zero(values[x] if p is None else p + values[x])
        shared = _shared(operations)
        kept = dict.fromkeys(x for x in results if x not in values)
        for marks in dict.fromkeys(shared.get(x, ()) for x in kept):
            together = [x for x in kept if shared.get(x, ()) == marks]
            for mark in marks:
                first, known = _apart(first, operations, known, [mark])
            if marks:
                first, known = _apart(first, operations, known, together)
                token = first
                values.update((x, known[x]) for x in together)
            else:
                made = _computed(operations, known, together)
                values.update((x, _after(first, a) if a.dtype in _NARROW else a) for x, a in made.items())
        return token, [values[x] for x in results]


def _computed(operations: Iterable[Operation], known: Known, results: Iterable[Value]) -> Known:
    results = list(results)
    values = run(needed_for(operations, results, known), known)
    return {x: values[x] for x in results}


def _apart(token: jax.Array, operations: Iterable[Operation], known: Known, results: list[Value]) -> Made:
    """What is known, and results that are written down: XLA fuses nothing into a branch of which it can't know more."""

    def no():
        return [jnp.zeros(x.shape, x.dtype) for x in results]

    def yes():
        return [*_computed(operations, known, results).values()]

    made = jax.lax.cond(token == 0, yes, no)
    return token ^ _zero(made[0]), {**known, **dict(zip(results, made, strict=True))}


def _shared(operations: Iterable[Operation]) -> dict[Value, tuple[Value, ...]]:
    """Of each value, what it is computed of that is to be written down for all who need it."""
    found: dict[Value, tuple[Value, ...]] = {}
    for operation in operations:
        inputs = (found.get(x, ()) for x in operation.inputs if isinstance(x, Value))
        marks = tuple(dict.fromkeys(mark for of_input in inputs for mark in of_input))
        if is_named(operation, SHARED):
            marks = (*marks, *operation.outputs)
        if marks:
            found.update((x, marks) for x in operation.outputs)
    return found


def _zero(x):
    """A zero, uint32, that depends on the first element, which no compiler finds out."""
    if not x.size:
        return jnp.uint32(0)
    first = jax.lax.slice(x, (0,) * x.ndim, (1,) * x.ndim).reshape(())
    return (_as_integer(first.real if jnp.iscomplexobj(first) else first).astype(jnp.uint32) >> 16) >> 16


def _after(zero, x):
    """`x`, after what the zero was computed from."""
    if not x.ndim or not jnp.issubdtype(x.dtype, jnp.number):
        return x
    if jnp.issubdtype(x.dtype, jnp.integer):
        return x ^ zero.astype(x.dtype)
    # Less 0, which keeps the sign of -0, and derivatives.
    return x - jax.lax.bitcast_convert_type(zero, jnp.float32).astype(x.dtype)


def _as_integer(x):
    return jax.lax.bitcast_convert_type(x, np.dtype(f"uint{8 * x.dtype.itemsize}"))
