"""The decays of optimizers of optax, which neither a state nor a transformation tells: read off an update.

An average of 1 becomes its decay in a step of a gradient of 0, for parameters of one element, in float64.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ewa_optax._states.parts import GRADIENTS, SQUARES, STEP, in_parts, is_of_optax

MOST = 10_000
"""Updates until one is due: of `optax.MultiSteps`, most are none."""


class Decays:
    """Of the averages in a state, by their paths; of an optimizer, and parameters like which it is made."""

    def __init__(self, optimizer: optax.GradientTransformation, params: Any) -> None:
        self._optimizer, self._params, self._known = optimizer, params, {}
        self._update: Any = None

    def of(self, path: str) -> Any:
        """The decay of the average at a path; 1 if it does not decay."""
        if path not in self._known:
            self._known[path] = self._after(path, 1.0, 0.0)
        return self._known[path]

    def is_of_squares(self, path: str) -> bool:
        """Whether the average at a path grows as the square of gradients, and not as they do."""
        small, large = (self._after(path, 0.0, g) for g in (2.0**-11, 2.0**-10))
        return bool(large > 3 * small)

    def _after(self, path, average, gradient):
        with jax.enable_x64(True):
            if self._update is None:
                self._begin()
            before = self._with(path, average)
            state = before
            for _ in range(MOST):
                state = self._update(jnp.asarray(gradient), state)
                if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(state)) or self._moved(before, state):
                    break
            return self._read(path, state)

    def _begin(self):
        def one(p):
            kind = jnp.complex128 if jnp.issubdtype(p.dtype, jnp.complexfloating) else jnp.float64
            return jnp.zeros((1,) * len(p.shape), kind if jnp.issubdtype(p.dtype, jnp.inexact) else p.dtype)

        small = jax.tree.map(one, self._params)

        def update(gradient, state):
            gradients = jax.tree.map(lambda p: jnp.full_like(p, gradient.astype(p.dtype)), small)
            return self._optimizer.update(gradients, state, small)[1]

        self._first, self._update = self._optimizer.init(small), jax.jit(update)

    def _with(self, path, average):
        """The first state with that average, the others 0, at a step that is not the first."""

        def node(at, x):
            if not is_of_optax(x):
                return x
            apart, _ = in_parts(jax.tree_util.keystr(at), x)

            def value(part):
                if part.role == STEP:
                    return jnp.ones_like(part.value)
                if part.role in (GRADIENTS, SQUARES):
                    number = average if part.path == path else 0.0
                    return jax.tree.map(lambda a: jnp.full_like(a, number), part.value)
                return part.value

            return x if isinstance(x, optax.FactoredState) else jax.tree.map(value, apart)

        return jax.tree_util.tree_map_with_path(node, self._first, is_leaf=is_of_optax)

    def _moved(self, before, after):
        nodes = (jax.tree.leaves([x for x in jax.tree.leaves(s, is_leaf=is_of_optax) if is_of_optax(x)])
                 for s in (before, after))  # fmt: skip
        return any(not np.array_equal(a, b) for a, b in zip(*nodes, strict=True))

    def _read(self, path, state):
        for at, x in jax.tree_util.tree_leaves_with_path(state, is_leaf=is_of_optax):
            for part in in_parts(jax.tree_util.keystr(at), x)[1] if is_of_optax(x) else ():
                if part.path == path:
                    number = jax.tree.leaves(part.value)[0].reshape(-1)[0].real
                    return number if isinstance(number, jax.core.Tracer) else float(number)
        raise ValueError(f"carry_over: the state of the optimizer depends on the shapes of parameters at {path}.")
