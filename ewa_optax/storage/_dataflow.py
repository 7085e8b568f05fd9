"""The program of an update, leaf by leaf: what belongs to one leaf, and what is for all of them."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

_CALLS = {
    **dict.fromkeys(("jit", "pjit", "closed_call"), "jaxpr"),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), "call_jaxpr"),
}
"""What calls a program, and the name of the parameter with it."""


class Value:
    """An array of a program."""

    __slots__ = ("dtype", "shape")

    def __init__(self, aval: Any) -> None:
        self.shape, self.dtype = aval.shape, aval.dtype


class Constant(NamedTuple):
    """An array or a number that is a part of a program."""

    number: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return jax.numpy.shape(self.number)


class Operation(NamedTuple):
    """A primitive of a program, of values and constants."""

    primitive: Any
    params: Mapping[str, Any]
    inputs: tuple[Any, ...]
    outputs: tuple[Value, ...]


def run(operations: Iterable[Operation], known: Mapping[Value, Any]) -> dict[Value, Any]:
    """The values of a program, as a part of what is being traced."""
    values = dict(known)
    for operation in operations:
        arguments = [x.number if isinstance(x, Constant) else values[x] for x in operation.inputs]
        values.update(zip(operation.outputs, applied(operation, arguments), strict=True))
    return values


def applied(operation: Operation, arguments: Sequence[Any]) -> Sequence[Any]:
    """The outputs of one operation."""
    made = operation.primitive.bind(*arguments, **operation.primitive.get_bind_params(operation.params))
    return made if operation.primitive.multiple_results else [made]


def operations_of(closed: Any, inputs: Sequence[Any]) -> tuple[list[Operation], list[Any]]:
    """The operations of a traced program, and its results, for values, or constants, that are its inputs."""
    jaxpr = closed.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*map(Constant, closed.consts), *inputs), strict=True))

    def read(atom):
        return Constant(atom.val) if hasattr(atom, "val") else values[atom]

    operations = []
    for eqn in jaxpr.eqns:
        outputs = tuple(Value(var.aval) for var in eqn.outvars)
        operations.append(Operation(eqn.primitive, eqn.params, tuple(map(read, eqn.invars)), outputs))
        values.update(zip(eqn.outvars, outputs, strict=True))
    return operations, [read(atom) for atom in jaxpr.outvars]


def opened(operations: Iterable[Operation], results: Iterable[Any], named: str) -> tuple[list[Operation], list[Any]]:
    """The same program, in which what is named so stands by itself, and not in a program that is called."""
    found: list[Operation] = []
    made: dict[Any, Any] = {}
    for operation in operations:
        inputs = tuple(made.get(x, x) if isinstance(x, Value) else x for x in operation.inputs)
        called = operation.params.get(_CALLS.get(operation.primitive.name, ""))
        if called is None or not _has(called.jaxpr, named):
            found.append(operation._replace(inputs=inputs))
            continue
        within, outputs = opened(*operations_of(called, inputs), named)
        found.extend(within)
        made.update(zip(operation.outputs, outputs, strict=True))
    return found, [made.get(x, x) if isinstance(x, Value) else x for x in results]


def is_named(operation: Any, named: str) -> bool:
    """Whether it gives this name to a value, by `jax.ad_checkpoint.checkpoint_name`."""
    return operation.primitive.name == "name" and operation.params["name"] == named


def _has(jaxpr: Any, named: str) -> bool:
    called = (eqn.params.get(_CALLS.get(eqn.primitive.name, "")) for eqn in jaxpr.eqns)
    return any(is_named(eqn, named) for eqn in jaxpr.eqns) or any(_has(c.jaxpr, named) for c in called if c)


class Group(NamedTuple):
    """What is computed of one leaf, or of several that meet in an operation: of arrays of theirs, and of others."""

    arrays: tuple[int, ...]
    """The numbers of the arguments that are theirs."""
    others: tuple[Any, ...]
    """What else is needed: values and constants of the whole program."""
    results: tuple[int, ...]
    """The numbers of the results."""
    program: "Program"
    """Of the arrays, and then the others."""


class Program(NamedTuple):
    """Operations in order, with the values that are given, and those that are asked for."""

    given: tuple[Value, ...]
    operations: tuple[Operation, ...]
    results: tuple[Value, ...]
    key: Any
    """Equal for equal programs."""


class Whole(NamedTuple):
    """An update: what is computed for all leaves, and the groups that need it."""

    arguments: tuple[Value, ...]
    first: tuple[Operation, ...]
    groups: tuple[Group, ...]
    rest: dict[int, Any]
    """Results that no group computes, by number: values that are computed first, arguments, or constants."""


def by_leaves(closed: Any) -> Whole:
    """The groups of a traced program whose arguments with axes are leaves, or belong to leaves.

    Arrays that meet in an operation are of one group. Scalars don't join: what is computed of many leaves, such as a
    norm of all, is computed first; what is a scalar of one leaf is of its group.
    """
    arguments = tuple(Value(var.aval) for var in closed.jaxpr.invars)
    operations, results = operations_of(closed, arguments)
    owners = _owners(operations, arguments)
    makers = {x: number for number, operation in enumerate(operations) for x in operation.outputs}

    members: dict[Value, list[int]] = {}
    for number, x in enumerate(results):
        if isinstance(x, Value) and x in makers and owners.get(x, _MANY) is not _MANY:
            members.setdefault(owners[x], []).append(number)
    arrays: dict[Value, list[int]] = {}
    for number, x in enumerate(arguments):
        if x in owners:
            arrays.setdefault(owners[x], []).append(number)
    theirs: dict[Value, set[int]] = {owner: set() for owner in members}
    first = {x for x in results if isinstance(x, Value) and owners.get(x, _MANY) is _MANY}
    for owner, numbers in members.items():
        stack, seen = [results[number] for number in numbers], set()
        while stack:
            x = stack.pop()
            if not isinstance(x, Value) or x in seen:
                continue
            seen.add(x)
            if not x.shape and owners.get(x) is not owner:
                first.add(x)
            elif x in makers:
                theirs[owner].add(makers[x])
                stack.extend(operations[makers[x]].inputs)
    groups = tuple(
        _group(
            [operations[number] for number in sorted(theirs[owner])],
            {number: results[number] for number in numbers},
            {number: arguments[number] for number in arrays[owner]},
        )
        for owner, numbers in members.items()
    )
    taken = {number for group in groups for number in group.results}
    rest = {number: x for number, x in enumerate(results) if number not in taken}
    return Whole(arguments, tuple(needed_for(operations, first)), groups, rest)


_MANY = Value(jax.ShapeDtypeStruct((), bool))
"""The owner of what is computed of several groups."""


def _owners(operations: Sequence[Operation], arguments: Sequence[Value]) -> dict[Value, Value]:
    """Of each value that is computed of arrays, the group: one of the arguments in it."""
    sets = _Sets()
    of = {x: x for x in arguments if x.shape}
    for operation in operations:
        arrays = [of[x] for x in operation.inputs if isinstance(x, Value) and x in of]
        for other in arrays[1:]:
            sets.join(arrays[0], other)
        if arrays:
            of.update((x, arrays[0]) for x in operation.outputs if x.shape)
    owners = {x: sets.leader(argument) for x, argument in of.items()}
    for operation in operations:
        found = {owners[x] for x in operation.inputs if isinstance(x, Value) and x in owners}
        if found:
            owner = found.pop() if len(found) == 1 else _MANY
            owners.update((x, owner) for x in operation.outputs if x not in owners)
    return owners


def _group(operations: Sequence[Operation], results: Mapping[int, Value], arrays: Mapping[int, Value]) -> Group:
    others: list[Any] = []
    given = list(arrays.values())
    places: dict[Value, Any] = {x: ("given", i) for i, x in enumerate(given)}
    lifted, key = [], []
    for operation in operations:
        inputs = []
        for x in operation.inputs:
            value = x
            # Numbers that differ by leaf, such as what tells its random bits apart, are given to one program.
            if isinstance(x, Constant):
                value = Value(jax.typeof(x.number))
            if value not in places:
                places[value] = ("given", len(given))
                given.append(value)
                others.append(x)
            inputs.append(value)
        key.append((operation.primitive, _hashable(operation.params), tuple(places[x] for x in inputs)))
        places.update((x, (len(lifted), i)) for i, x in enumerate(operation.outputs))
        lifted.append(operation._replace(inputs=tuple(inputs)))
    shapes = tuple((x.shape, str(x.dtype)) for x in given)
    whole_key = (shapes, tuple(key), tuple(places[x] for x in results.values()))
    program = Program(tuple(given), tuple(lifted), tuple(results.values()), whole_key)
    return Group(tuple(arrays), tuple(others), tuple(results), program)


def needed_for(
    operations: Iterable[Operation], results: Iterable[Value], known: Container[Value] = ()
) -> list[Operation]:
    """The operations that results need, in order, when some values are known."""
    wanted, kept = {x for x in results if x not in known}, []
    for operation in reversed([*operations]):
        if not wanted.isdisjoint(operation.outputs):
            kept.append(operation)
            wanted.update(x for x in operation.inputs if isinstance(x, Value) and x not in known)
    return kept[::-1]


def _hashable(params):
    """Of what can't be hashed, the identity: functions of one leaf are the same programs for leaves of one shape."""

    def one(value):
        try:
            hash(value)
        except TypeError:
            return id(value)
        return value

    return tuple((name, one(value)) for name, value in sorted(params.items()))


class _Sets:
    """Sets that are joined, by a leader of each."""

    def __init__(self) -> None:
        self._above: dict[Any, Any] = {}

    def leader(self, x: Any) -> Any:
        while (above := self._above.get(x, x)) is not x:
            self._above[x] = self._above.get(above, above)
            x = above
        return x

    def join(self, a: Any, b: Any) -> None:
        a, b = self.leader(a), self.leader(b)
        if a is not b:
            self._above[b] = a
