"""Arrays cut into blocks of neighbours along their last axis, last axes of length 1 left out."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def into_blocks(x: jax.Array, block: int) -> jax.Array:
    """`(..., n)` as `(..., blocks, width)`, the last block filled up with zeros."""
    *rest, n = _without_ones(x.shape)
    width = _width(n, block)
    x = x.reshape(*rest, n)
    if missing := -n % width:
        x = jnp.pad(x, [(0, 0)] * len(rest) + [(0, missing)])
    return x.reshape(*rest, -1, width)


def from_blocks(blocks: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The array of that shape that was cut into blocks."""
    *rest, n = _without_ones(shape)
    return blocks.reshape(*rest, -1)[..., :n].reshape(shape)


def _width(n, block):
    """At most `block`: the largest width that divides `n`, so that nothing is filled up, but not less than half."""
    most = min(block, n)
    return next((width for width in range(most, most // 2, -1) if n % width == 0), most)


def _without_ones(shape):
    shape = tuple(shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape or (1,)
