"""The ends of the spectrum of a symmetric matrix that is known by its products with vectors only."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ewa_optax._random_bits import fold, key_of, random_bits


def extremes(
    product: Callable[[jax.Array], jax.Array], like: jax.Array, count: int, products: int
) -> tuple[jax.Array, jax.Array]:
    """The `count` smallest and the `count` largest eigenvalues found, ascending, and how wrong each may be.

    Args:
        product: of the matrix with a vector.
        like: a vector of its size and dtype.
        count: how many at each end.
        products: how many times to multiply, at least `2 * count` and at most the size.

    Returns:
        Eigenvalues and bounds of their errors, rounding apart, each of shape `(2 * count,)`.
    """
    diagonal, beside = tridiagonal(product, like, products)
    matrix = jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1)
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    errors = jnp.abs(beside[-1] * vectors[-1])
    ends = jnp.r_[:count, products - count : products]
    return eigenvalues[ends], errors[ends]


def tridiagonal(
    product: Callable[[jax.Array], jax.Array], like: jax.Array, products: int
) -> tuple[jax.Array, jax.Array]:
    """Lanczos' matrix: its diagonal and what stands beside it, each of length `products`.

    The last of `beside` would lead out of the matrix: it measures what the matrix leaves out.
    """
    tiny = jnp.finfo(like.dtype).tiny

    def unit(x):
        return x / jnp.maximum(jnp.linalg.norm(x), tiny)

    def apart(x, basis):
        # Twice is enough, says Parlett; once leaves copies of eigenvalues that are not there.
        return jax.lax.fori_loop(0, 2, lambda _, x: x - (basis @ x) @ basis, x)

    def fresh(i):
        # The same every time, so that a point has one answer; and jax.random in a loop takes a second to compile.
        bits = random_bits(fold(key_of("lanczos"), i), like.shape)
        return bits.astype(like.dtype) * 2.0**-31 - 1

    def step(i, carry):
        basis, diagonal, beside, vector = carry
        basis = basis.at[i].set(vector)
        image = product(vector)
        diagonal = diagonal.at[i].set(vector @ image)
        rest = apart(image, basis)
        length = jnp.linalg.norm(rest)
        # All that the start reaches is found: go on from elsewhere, beside nothing.
        scale = jnp.maximum(jnp.max(jnp.abs(diagonal)), jnp.max(beside))
        done = length <= jnp.finfo(like.dtype).eps * scale
        vector = jax.lax.cond(done, lambda: unit(apart(fresh(i + 1), basis)), lambda: unit(rest))
        return basis, diagonal, beside.at[i].set(jnp.where(done, 0, length)), vector

    basis, zeros = jnp.zeros((products, *like.shape), like.dtype), jnp.zeros(products, like.dtype)
    _, diagonal, beside, _ = jax.lax.fori_loop(0, products, step, (basis, zeros, zeros, unit(fresh(0))))
    return diagonal, beside
