"""The decays of optimizers of optax, which neither a state nor a transformation tells: read off an update.

An average of 1 becomes its decay in a step of a gradient of 0, for parameters of one element, in float64.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import optax

from ewa_optax._states.parts import GRADIENTS, SQUARES, STEP, in_parts, is_of_optax
from ewa_optax.storage._pruned import of_some

MOST = 10_000
"""Updates until one is due: of `optax.MultiSteps`, most are none."""


class Decays:
    """Of the averages in a state, by their paths; of an optimizer, and parameters like which it is made."""

    def __init__(self, optimizer: optax.GradientTransformation, params: Any) -> None:
        self._optimizer, self._params, self._known = optimizer, params, {}
        self._after: Any = None
        self.hyperparameters: dict[str, Any] = {}
        """What is injected into states, by their paths, in the digits that it has there."""

    def of(self, path: str) -> Any:
        """The decay of the average at a path; 1 if it does not decay."""
        if path not in self._known:
            self._known[path] = self._once(path, 1.0, 0.0)
        return self._known[path]

    def is_of_squares(self, path: str) -> Any:
        """Whether the average at a path grows as the square of gradients, and not as they do."""
        small, large = (self._once(path, 0.0, g) for g in (2.0**-11, 2.0**-10))
        return large > 3 * small

    def _once(self, path, average, gradient):
        """What a step makes of that average, where the others are 0."""
        with jax.enable_x64(True):
            if self._after is None:
                self._paths = [at for at, _ in _averages(jax.eval_shape(lambda: self._optimizer.init(self._small())))]
                self._after, _ = of_some(lambda *x: (self._step(*x), None), jnp.zeros(len(self._paths)), jnp.zeros([]))
            if path not in self._paths:
                raise ValueError(
                    f"carry_over: the state of the optimizer depends on the sizes of parameters at {path}."
                )
            number = self._paths.index(path)
            given = jnp.zeros(len(self._paths)).at[number].set(average), jnp.asarray(gradient)
            averages, counts = self._after(*given)
            traced = isinstance(averages, jax.core.Tracer)
            if not traced and bool(jnp.all(averages == given[0])) and bool(jnp.all(counts == 1)):
                averages, _ = jax.jit(self._steps)(*given)
            return averages[number].astype(jnp.float32) if traced else float(averages[number])

    def _small(self):
        def one(p):
            kind = jnp.complex128 if jnp.issubdtype(p.dtype, jnp.complexfloating) else jnp.float64
            return jnp.zeros((1,) * len(p.shape), kind if jnp.issubdtype(p.dtype, jnp.inexact) else p.dtype)

        return jax.tree.map(one, self._params)

    def _begun(self, averages):
        """A state with these averages, at a step that is not the first."""
        given = iter(averages)

        def of_optax(at, x):
            apart, parts = in_parts(jax.tree_util.keystr(at), x)
            values: dict[Any, Any] = {part: jnp.ones_like(part.value) for part in parts if part.role == STEP}
            for part in parts:
                if part.role in (GRADIENTS, SQUARES):
                    number = next(given)
                    values[part] = jax.tree.map(lambda a, n=number: jnp.full(a.shape, n.astype(a.dtype)), part.value)
            return jax.tree.map(lambda part: values.get(part, part.value), apart)

        def filled(at, x):
            if _is_injected(x):
                hyperparams = self._injected(at, x.hyperparams)
                inside = (*at, jax.tree_util.GetAttrKey("inner_state"))
                return x._replace(hyperparams=hyperparams, inner_state=each(x.inner_state, inside))
            return of_optax(at, x) if is_of_optax(x) and not _is_factored(x) else x

        def each(state, before=()):
            def one(at, x):
                return filled((*before, *at), x)

            return jax.tree_util.tree_map_with_path(one, state, is_leaf=lambda x: is_of_optax(x) or _is_injected(x))

        return each(self._optimizer.init(self._small()))

    def _injected(self, at, hyperparams):
        given = self.hyperparameters.get(jax.tree_util.keystr(at), {})
        return {name: jnp.asarray(given.get(name, x)).astype(x.dtype) for name, x in hyperparams.items()}

    def _updated(self, state, gradient):
        small = self._small()
        gradients = jax.tree.map(lambda p: jnp.full(p.shape, gradient.astype(p.dtype)), small)
        return self._optimizer.update(gradients, state, small)[1]

    def _step(self, averages, gradient):
        return _firsts(self._updated(self._begun(averages), gradient))

    def _steps(self, averages, gradient):
        """The same, of as many steps as it takes until something changes."""
        first = self._begun(averages)
        before = _firsts(first)

        def unchanged(carry):
            number, state = carry
            same = [jnp.all(a == b) for a, b in zip(before, _firsts(state), strict=True)]
            return (number < MOST) & same[0] & same[1]

        def body(carry):
            number, state = carry
            new = self._updated(state, gradient)
            return number + 1, jax.tree.map(lambda a, b: b.astype(a.dtype), state, new)

        return _firsts(jax.lax.while_loop(unchanged, body, (0, first))[1])


def _averages(state: Any, *roles: str) -> Iterator[tuple[str, Any]]:
    """The paths of averages in the states of optax, and what is there."""
    for at, x in jax.tree_util.tree_leaves_with_path(state, is_leaf=is_of_optax):
        if is_of_optax(x) and not _is_factored(x):
            for part in in_parts(jax.tree_util.keystr(at), x)[1]:
                if part.role in (roles or (GRADIENTS, SQUARES)):
                    yield part.path, part.value


def _firsts(state):
    """The first number of each average, and all counts."""
    averages = [jax.tree.leaves(x)[0].reshape(-1)[0].real.astype(float) for _, x in _averages(state)]
    counts = [x for _, x in _averages(state, STEP)]
    return jnp.stack(averages), jnp.stack([jnp.asarray(x, jnp.int32) for x in counts] or [jnp.int32(1)])


def _is_injected(x):
    return hasattr(x, "hyperparams")


def _is_factored(x):
    return isinstance(x, optax.FactoredState)
