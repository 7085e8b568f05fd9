"""Toy surfaces that show what optimizers meet: a ravine, a saddle, a plateau, a curved valley.

Each is a function of a point, an array of shape `(dimensions,)`, that knows where to draw it, where to start, and where
its minimum is.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ewa_optax._checks import Positive, check_integer, checked, rule
from ewa_optax._numerics import Number, is_just

Condition = Annotated[Number, rule("finite and 1 or more", lambda x: x >= 1, "1 is a round bowl, 20 a ravine")]
Quartic = Annotated[Number, rule("finite and 0 or more", lambda x: x >= 0, "0 has no lower bound, 0.25 minima of -1")]


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """A function `point -> scalar` of points of shape `(dimensions,)`.

    Attributes:
        function: what is called.
        domain: for each dimension, from where to where a picture shows it.
        start: a point from which the surface shows what it is for.
        minimum: the lowest point; None where there is none.
    """

    function: Callable[[jax.Array], jax.Array]
    domain: tuple[tuple[float, float], ...]
    start: jax.Array
    minimum: jax.Array | None

    def __call__(self, point: Any) -> jax.Array:
        point = jnp.asarray(point)
        if point.shape != self.start.shape:
            raise ValueError(
                f"a point of this surface must have shape {self.start.shape}, got {point.shape}; "
                "for many points use jax.vmap, and for another dimension dimensions=."
            )
        return self.function(point)


@checked
def ravine(condition: Condition = 20.0, *, dimensions: int = 2) -> Surface:
    r"""An elongated bowl, across which gradient descent swings while it creeps along.

    $$f(x, y) = \frac12 (x^2 + \kappa y^2), \qquad f(x) = \frac12 \sum_{i=1}^n \kappa^{(i-1)/(n-1)} x_i^2$$

    Gradient descent diverges at rates above $2/\kappa$, so that at best its distance along the ravine shrinks by a
    factor of $(\kappa-1)/(\kappa+1)$ a step.

    Args:
        condition: $\kappa$, 1 or more: the largest curvature over the smallest, which is 1.
        dimensions: $n$, 2 or more.

    Returns:
        A `Surface`, whose minimum is 0 at the origin.

    Raises:
        ValueError: a number outside its range.
        TypeError: `condition` is no number, or `dimensions` no integer.

    Examples:
        >>> import jax
        >>> from ewa_optax import landscapes
        >>> surface = landscapes.ravine(20.0)
        >>> print(*jax.jit(jax.value_and_grad(surface))(surface.start))
        18.0 [-4. 20.]

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Gradient descent with momentum".
    """
    _check_dimensions(dimensions)

    def function(point):
        curvatures = condition ** jnp.linspace(0, 1, dimensions, dtype=point.dtype)
        return jnp.sum(curvatures.astype(point.dtype) * point**2) / 2

    start = _point([-4.0] + [1.0] * (dimensions - 1))
    return Surface(function, ((-5.0, 5.0),) + ((-2.5, 2.5),) * (dimensions - 1), start, jnp.zeros_like(start))


@checked
def saddle(quartic: Quartic = 0.0, *, dimensions: int = 2) -> Surface:
    r"""A saddle point at the origin, which curves up in all directions but the last.

    $$f(x, y) = \frac12 (x^2 - y^2) + \frac q4 y^4, \qquad
      f(x) = \frac12 (x_1^2 + \dots + x_{n-1}^2 - x_n^2) + \frac q4 x_n^4$$

    With $q = 0$ there is no lower bound, and what has left the saddle goes on to infinity; with $q > 0$ it arrives at
    $y = \pm 1/\sqrt q$, where $f = -1/(4q)$. Near the saddle $q$ makes no difference.

    Args:
        quartic: $q$, 0 or more. 0.25 puts the minima at $y = \pm 2$, with a value of -1.
        dimensions: $n$, 2 or more.

    Returns:
        A `Surface` that starts beside the ridge, a thousandth off. Its minimum is the one on that side, of two; None
        for $q = 0$.

    Raises:
        ValueError: a number outside its range.
        TypeError: `quartic` is no number, or `dimensions` no integer.

    Examples:
        >>> from ewa_optax import landscapes
        >>> surface = landscapes.saddle(quartic=0.25)
        >>> print(surface.minimum, surface(surface.minimum))
        [0. 2.] -1.0

    Reference:
        Dauphin et al., "Identifying and attacking the saddle point problem", 2014.
    """
    _check_dimensions(dimensions)

    def function(point):
        across, along = jnp.sum(point[:-1] ** 2), point[-1] ** 2
        return (across - along) / 2 + jnp.asarray(quartic, point.dtype) * along**2 / 4

    start = _point([1.0] * (dimensions - 1) + [1e-3])
    minimum = None if is_just(quartic, 0) else jnp.zeros_like(start).at[-1].set(1 / jnp.sqrt(quartic))
    return Surface(function, ((-2.5, 2.5),) * dimensions, start, minimum)


@checked
def plateau(width: Positive = 1.0, *, dimensions: int = 2) -> Surface:
    r"""A well in a plateau, whose gradients fade like those of a sigmoid: far away they are next to nothing.

    $$f(x) = 2 \sigma\left(\frac{\lVert x \rVert^2}{2 w^2}\right) - 1, \qquad \sigma(z) = \frac1{1 + e^{-z}}$$

    Args:
        width: $w$, more than 0, of the well: gradients are largest at a distance of about $1.5 w$, and at
            $4 w$ a two-hundredth of that.
        dimensions: $n$, 2 or more.

    Returns:
        A `Surface` of values from 0 to 1 that starts on the plateau, at a distance of 4; its minimum is 0 at the
        origin.

    Raises:
        ValueError: a number outside its range.
        TypeError: `width` is no number, or `dimensions` no integer.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ewa_optax import landscapes
        >>> surface = landscapes.plateau()
        >>> value, gradient = jax.jit(jax.value_and_grad(surface))(surface.start)
        >>> print(f"{value:.4f}", f"{jnp.linalg.norm(gradient):.4f}")
        0.9993 0.0027

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "The problem of local optima".
    """
    _check_dimensions(dimensions)

    def function(point):
        # The value of the one is lost near the origin, the derivative of the other far away.
        z = jnp.sum(jnp.square(point / jnp.asarray(width, point.dtype))) / 2
        return jnp.where(z < 1, jnp.tanh(z / 2), 1 - 2 * jax.nn.sigmoid(-z))

    start = _point([-3.2, 2.4] + [0.0] * (dimensions - 2))
    return Surface(function, ((-5.0, 5.0),) * dimensions, start, jnp.zeros_like(start))


@checked
def rosenbrock(steepness: Positive = 100.0, *, dimensions: int = 2) -> Surface:
    r"""A curved valley with steep walls, in which all progress is along a narrow, nearly flat floor.

    $$f(x, y) = (1 - x)^2 + b (y - x^2)^2, \qquad f(x) = \sum_{i=1}^{n-1} (1 - x_i)^2 + b (x_{i+1} - x_i^2)^2$$

    Args:
        steepness: $b$, more than 0, of the walls.
        dimensions: $n$, 2 or more.

    Returns:
        A `Surface`, whose minimum is 0 where all coordinates are 1.

    Raises:
        ValueError: a number outside its range.
        TypeError: `steepness` is no number, or `dimensions` no integer.

    Examples:
        >>> from ewa_optax import landscapes
        >>> surface = landscapes.rosenbrock()
        >>> print(surface.minimum, f"{surface(surface.start):.1f}")
        [1. 1.] 24.2

    Reference:
        Rosenbrock, "An automatic method for finding the greatest or least value of a function", 1960.
    """
    _check_dimensions(dimensions)

    def function(point):
        walls = jnp.asarray(steepness, point.dtype) * jnp.square(point[1:] - point[:-1] ** 2)
        return jnp.sum(jnp.square(1 - point[:-1]) + walls)

    start = _point(([-1.2, 1.0] * dimensions)[:dimensions])
    return Surface(
        function, ((-2.0, 2.0), (-1.0, 3.0)) + ((-2.0, 3.0),) * (dimensions - 2), start, jnp.ones_like(start)
    )


def _point(coordinates: Sequence[float]) -> jax.Array:
    return jnp.asarray(coordinates, float)


def _check_dimensions(dimensions):
    check_integer("dimensions", dimensions, 2, remedy="2 can be drawn")
