"""How a function curves at a point: the eigenvalues of its Hessian, and what kind of point that makes."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ewa_optax._checks import check, check_function, check_integer, rule
from ewa_optax._numerics import Number, wide_dtype
from ewa_optax.landscapes._arguments import check_value, float_tree
from ewa_optax.landscapes._lanczos import extremes

Tolerance = Annotated[
    Number, rule("in [0, 1)", lambda x: 0 <= x < 1, "it is a share of the largest eigenvalue; 1e-5 suits float32")
]


WHOLE_UP_TO = 2000


class Curvature(NamedTuple):
    """What `landscapes.curvature` returns.

    Attributes:
        eigenvalues: of the Hessian, ascending.
        errors: how wrong each may be, rounding apart: 0 where the whole Hessian was formed.
        signs: of each eigenvalue: -1, 1, or 0 where it may be zero for all that tolerance and error tell.
        gradient_norm: the length of the gradient. Only where it is next to zero does the curvature decide alone.
    """

    eigenvalues: jax.Array
    errors: jax.Array
    signs: jax.Array
    gradient_norm: jax.Array

    @property
    def kind(self) -> Any:
        """What the curvature makes of a point without a gradient.

        "minimum", if it curves up in all directions; "maximum", if down in all; "saddle", if up in some and down in
        others; "flat", if there are directions in which it may not curve, and none that make it a saddle. Of many
        points (after `jax.vmap`) an array of these words.

        Raises:
            ValueError: an eigenvalue that is not finite.
        """
        if not np.isfinite(self.eigenvalues).all():
            raise ValueError(
                "the Hessian is not finite, so the point is of no kind; go to where the function is finite and smooth."
            )
        up, down = (np.asarray(self.signs) == sign for sign in (1, -1))
        kinds = np.select(
            [up.all(-1), down.all(-1), up.any(-1) & down.any(-1)], ["minimum", "maximum", "saddle"], "flat"
        )
        return kinds if kinds.shape else str(kinds)


def curvature(
    function: Callable[[Any], Any],
    point: Any,
    *,
    eigenvalues: int | None = None,
    products: int = 100,
    tolerance: float = 1e-5,
) -> Curvature:
    r"""The eigenvalues of the Hessian $\nabla^2 f$ at a point, and the kind of that point.

    With $d$ independent signs of curvature, all of them are positive with probability $2^{-d}$: where the gradient of a
    function of many parameters is zero, there nearly always is a saddle.

    Pure but for `kind`, so it works under `jax.jit` and `jax.vmap`. Called without `jax.jit`, it compiles at each call.

    Args:
        function: `point -> scalar`, such as a surface of `ewa_optax.landscapes`, or the cost of a model's parameters.
        point: a pytree of float arrays. 16-bit floats are widened to float32.
        eigenvalues: None forms the whole Hessian, of up to 2000 parameters, and finds all. A number $k$ finds the $k$
            smallest and the $k$ largest by Lanczos' method, which only needs the Hessian's products with vectors, and
            so does for millions of parameters. Eigenvalues that are equal may then appear once.
        products: how many such products to spend, at least $2 k$: the more, the more exact. As many vectors of the
            size of the point are kept. The number of parameters is always enough.
        tolerance: an eigenvalue counts as zero up to this share of the largest magnitude among them, in [0, 1).

    Returns:
        A `Curvature`: `eigenvalues`, `errors`, `signs`, `gradient_norm` and `kind`.

    Raises:
        ValueError: more than 2000 parameters without `eigenvalues`, more eigenvalues than there are, fewer products
            than those need, a number outside its range, a function whose value is no scalar, a point without numbers.
        TypeError: a function or a point that is none, a value that is not real, a count that is no integer.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import landscapes
        >>> found = landscapes.curvature(landscapes.saddle(), jnp.zeros(2))
        >>> print(found.eigenvalues, found.kind)
        [-1.  1.] saddle
        >>> large = landscapes.curvature(landscapes.ravine(50.0, dimensions=5000), jnp.zeros(5000), eigenvalues=1)
        >>> print(f"{large.eigenvalues[1]:.1f}", large.kind)
        50.0 minimum

    Reference:
        Dauphin et al., "Identifying and attacking the saddle point problem", 2014; Lanczos, "An iteration method for
        the solution of the eigenvalue problem", 1950.
    """
    check_function("function", function, "def function(point)")
    check("curvature", "tolerance", tolerance, Tolerance)
    point = jax.tree.map(lambda x: x.astype(wide_dtype(x.dtype)), float_tree("point", point))
    check_value(function, point)
    flat, unravel = ravel_pytree(point)
    size = flat.size
    gradient = jax.grad(lambda x: function(unravel(x)))
    if eigenvalues is None:
        if size > WHOLE_UP_TO:
            raise ValueError(
                f"the point has {size} parameters, and the whole Hessian is formed of {WHOLE_UP_TO} at most; "
                "pass eigenvalues=10 for the 10 smallest and the 10 largest."
            )
    else:
        remedy = f"there are {size} in all, and without eigenvalues= up to {WHOLE_UP_TO} are found"
        eigenvalues = check_integer("eigenvalues", eigenvalues, 1, size // 2, remedy)
        least = f"{eigenvalues} at each end need at least one each"
        products = check_integer("products", products, min(2 * eigenvalues, size), remedy=least)

    def run(x):
        def product(vector):
            return jax.jvp(gradient, (x,), (vector,))[1]

        if eigenvalues is None:
            # Row by row: all at once would need the memory of as many backward passes as there are parameters.
            rows = jax.lax.map(product, jnp.eye(size, dtype=x.dtype))
            found = jnp.linalg.eigvalsh((rows + rows.T) / 2)
            errors = jnp.zeros_like(found)
        else:
            found, errors = extremes(product, x, eigenvalues, min(products, size))
        nothing = jnp.maximum(tolerance * jnp.max(jnp.abs(found)), errors)
        signs = jnp.where(jnp.abs(found) > nothing, jnp.sign(found), 0).astype(jnp.int8)
        return Curvature(found, errors, signs, jnp.linalg.norm(gradient(x)))

    return jax.jit(run)(flat)
