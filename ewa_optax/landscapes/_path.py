"""The whole trajectory of an optimizer, as one compiled loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from ewa_optax._checks import check_function, check_functions, check_integer
from ewa_optax.landscapes._arguments import check_value, float_tree
from ewa_optax.pieces._learning_rate import rates_or_none


class Path(NamedTuple):
    """What `landscapes.path` returns.

    Attributes:
        points: the start and the point after each step, in the structure of the start, with an axis of `steps + 1` in
            front.
        values: of the function at those points, of shape `(steps + 1,)`.
        learning_rates: of each step, of shape `(steps,)`; of several a dict of them, by their names in
            `get_learning_rates`; None where the state of the optimizer tells none.
    """

    points: Any
    values: jax.Array
    learning_rates: jax.Array | dict[str, jax.Array] | None


def path(optimizer: optax.GradientTransformation, function: Callable[[Any], Any], start: Any, steps: int) -> Path:
    r"""Where an optimizer goes on a function: $x_{t} = x_{t-1} + u(\nabla f(x_{t-1}))$ from $x_0$ to $x_T$.

    Pure, so it works under `jax.jit` and `jax.grad`, and under `jax.vmap` over starts, over parameters of the function
    and over hyperparameters of an optimizer made inside. Called without `jax.jit`, it compiles at each call.

    Args:
        optimizer: any `optax.GradientTransformation`.
        function: `point -> scalar`, such as a surface of `ewa_optax.landscapes`, or the cost of a model's parameters.
        start: $x_0$, a pytree of float arrays.
        steps: $T$, 1 or more.

    Returns:
        A `Path`: `points`, `values` and `learning_rates`. All points are kept: `steps + 1` times the size of the start.

    Raises:
        ValueError: a function whose value is no scalar, a start without numbers, or no step.
        TypeError: an optimizer, a function or a start that is none, or a value that is not real.

    Examples:
        >>> import jax, ewa_optax
        >>> from ewa_optax import landscapes
        >>> ravine = landscapes.ravine(20.0)
        >>> found = landscapes.path(ewa_optax.adam(0.5), ravine, ravine.start, 200)
        >>> print(found.points.shape, bool(found.values[-1] < 1e-3))
        (201, 2) True
        >>> def last(rate):
        ...     return landscapes.path(ewa_optax.gradient_descent(rate), ravine, ravine.start, 50).values[-1]
        >>> values = jax.jit(jax.vmap(last))(jax.numpy.array([0.001, 0.05, 0.11]))
        >>> print(values.argmin(), bool(values[2] > 1e3))  # Above 2 / 20 it diverges.
        1 True

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Gradient descent with momentum".
    """
    check_function("function", function, "def function(point)")
    check_functions(function, optimizer)
    steps = check_integer("steps", steps, 1, remedy="a path of one step has two points")
    update = optax.with_extra_args_support(optimizer).update

    def run(point):
        def visit(carry, _):
            point, state = carry
            value, gradients = jax.value_and_grad(function)(point)
            # What line searches and plateau schedules of optax ask for; others do not see it.
            told = dict(value=value, grad=gradients, value_fn=function)
            updates, state = update(gradients, state, point, **told)
            return (optax.apply_updates(point, updates), state), Path(point, value, rates_or_none(state))

        # One step more than asked for, which nobody sees, gives the value at the last point without another program.
        return jax.lax.scan(visit, (point, optimizer.init(point)), length=steps + 1)[1]

    point = float_tree("start", start)
    check_value(function, point)
    found = jax.jit(run)(point)
    return found._replace(learning_rates=jax.tree.map(lambda rates: rates[:-1], found.learning_rates))
