"""Functions whose numbers are data: those that differ in a learning rate, say, are one program, and compiled once.

A function is traced, which takes a hundredth of what compiling does, and the numbers that are written in what was
traced become its first argument. What is left is compared: functions that differ in numbers only are equal.
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax.core
import jax.numpy as jnp
import numpy as np

Numbers = tuple[dict[str, Any], list[Any]]
"""Those written in a program, by dtype, in the order in which they stand there; and the arrays that it encloses."""


class Shared:
    """What functions have in common that differ in their numbers only: equal if they do, and called with numbers."""

    def __init__(self, jaxpr: Any, consts: list[Any], out_tree: Any) -> None:
        self._jaxpr, self._out_tree, written = jaxpr, out_tree, _Written()
        self._key = (written.program(jaxpr), out_tree)
        self._hash, self._places = hash(self._key), written.places
        self.numbers: Numbers = ({kind: np.array(x, kind) for kind, x in written.numbers.items()}, consts)
        """Those of the function that this one was made of."""

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shared) and self._hash == other._hash and self._key == other._key

    def __call__(self, numbers: Numbers, *arguments: Any) -> Any:
        """What the function of these numbers gives."""
        scalars, consts = numbers
        called: dict[int, Any] = {}  # Traced once, as often as they may be called.

        def evaluate(jaxpr, scalars, consts, arguments):
            places = iter(self._places[id(jaxpr)])
            values = dict(zip(map(id, (*jaxpr.constvars, *jaxpr.invars)), (*consts, *arguments), strict=True))

            def read(x):
                if not _is_literal(x):
                    return values[id(x)]
                if not _is_number(x):
                    return x.val
                kind, i = next(places)
                return scalars[kind][i]

            for equation in jaxpr.eqns:
                operands = [read(x) for x in equation.invars]
                if (inner := _called_by(equation)) is not None:
                    if id(inner) not in called:
                        called[id(inner)] = jax.jit(lambda s, *xs, inner=inner: evaluate(inner, s, (), xs))
                    outs = called[id(inner)](scalars, *operands)
                else:
                    with equation.ctx.manager:
                        params = equation.primitive.get_bind_params(equation.params)
                        outs = equation.primitive.bind(*operands, **params)
                outs = outs if equation.primitive.multiple_results else [outs]
                values.update(zip(map(id, equation.outvars), outs, strict=True))
            return [read(x) for x in jaxpr.outvars]

        outs = evaluate(self._jaxpr, scalars, consts, jax.tree.leaves(arguments))
        return jax.tree.unflatten(self._out_tree, outs)


def shared(function: Callable[..., Any], *arguments: Any, unused: int = 0) -> Shared | None:
    """What a function of such arguments, or of such shapes, shares with those of other numbers.

    None where there is no telling: it encloses what is traced, has effects, lies on an explicit mesh, or makes use of
    one of the last `unused` arrays.
    """
    if any(map(_is_explicit, jax.tree.leaves(arguments))):
        return None
    traced, out = jax.make_jaxpr(function, return_shape=True)(*arguments)
    jaxpr, consts = getattr(traced, "jaxpr", traced), list(traced.consts)
    used = {id(x) for equation in jaxpr.eqns for x in equation.invars} | set(map(id, jaxpr.outvars))
    last = jaxpr.invars[len(jaxpr.invars) - unused :]
    if jaxpr.effects or any(isinstance(x, jax.core.Tracer) for x in consts) or any(id(x) in used for x in last):
        return None
    return Shared(jaxpr, consts, jax.tree.structure(out))


def _is_explicit(x):
    mesh = getattr(getattr(x, "sharding", None), "mesh", None)
    return mesh is not None and jax.sharding.AxisType.Explicit in mesh.axis_types


def _is_literal(x):
    return hasattr(x, "val")


def _is_number(literal):
    return literal.aval.shape == () and jnp.issubdtype(literal.aval.dtype, jnp.inexact)


def _called_by(equation):
    """The program that an equation calls, compiled as all of it is; None otherwise."""
    params = equation.params
    if equation.primitive.name not in ("jit", "pjit"):
        return None
    if params["compiler_options_kvs"] or any(params["donated_invars"]):
        return None
    placed = (*params["in_shardings"], *params["out_shardings"], *params["in_layouts"], *params["out_layouts"])
    if params["jaxpr"].consts or any(x is not None and type(x).__name__ != "UnspecifiedValue" for x in placed):
        return None
    return getattr(params["jaxpr"], "jaxpr", params["jaxpr"])


class _Written:
    """Programs as what can be compared: variables by the order in which they come, numbers by their dtypes."""

    def __init__(self) -> None:
        self.numbers: dict[str, list[Any]] = {}
        self.places: dict[int, list[tuple[str, int]]] = {}
        """Of each program that is called: where the numbers in it are, in the order in which they stand there."""
        self._called: list[Any] = []  # Which also keeps them, so that none is taken for another.

    def program(self, jaxpr: Any, lift: bool = True) -> Hashable:
        """All of it; its numbers are parts of it unless they are lifted."""
        names: dict[int, int] = {}
        places = self.places.setdefault(id(jaxpr), [])

        def written(x):
            kind = str(x.aval)
            if not _is_literal(x):
                return names.setdefault(id(x), len(names)), kind
            if not (lift and _is_number(x)):
                return kind, self._value(np.asarray(x.val))
            of_kind = self.numbers.setdefault(str(x.aval.dtype), [])
            places.append((str(x.aval.dtype), len(of_kind)))
            of_kind.append(x.val)
            return kind

        def equation(x):
            operands, inner = [written(y) for y in x.invars], _called_by(x) if lift else None
            what = (x.primitive.name, self._value(x.params)) if inner is None else self._call(inner)
            return what, str(x.ctx), (*operands,), tuple(written(y) for y in x.outvars)

        taken = tuple(written(x) for x in (*jaxpr.constvars, *jaxpr.invars))
        return taken, tuple(map(equation, jaxpr.eqns)), tuple(written(x) for x in jaxpr.outvars)

    def _call(self, jaxpr):
        known = [i for i, x in enumerate(self._called) if x is jaxpr]
        if known:
            return "called", known[0]
        self._called.append(jaxpr)
        return "called", len(self._called), self.program(jaxpr)

    def _value(self, x):
        if isinstance(x, dict):
            return tuple((key, self._value(x[key])) for key in sorted(x))
        if isinstance(x, tuple | list):
            return type(x).__name__, tuple(map(self._value, x))
        if isinstance(x, np.ndarray | np.generic | jax.Array):
            return str(x.dtype), x.shape, np.asarray(x).tobytes()
        if hasattr(x, "eqns") or hasattr(x, "jaxpr"):
            consts = tuple(self._value(const) for const in x.consts)
            return "program", self.program(getattr(x, "jaxpr", x), lift=False), consts
        return type(x), x if isinstance(x, Hashable) and not callable(x) else _Same(x)


class _Same:
    """Equal to what holds the very same object."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __hash__(self) -> int:
        return id(self.x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.x is other.x
