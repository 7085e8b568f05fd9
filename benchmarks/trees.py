"""Trees of parameters as models have them, and a loss so cheap that a step of it is a step of the optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

VOCABULARY, POSITIONS, WIDTH, LAYERS = 50_257, 1024, 768, 12
"""Of GPT-2 small."""


def equal_leaves(count: int, size: int) -> dict[str, tuple[int, ...]]:
    """The shapes of many leaves of one size."""
    return {f"leaf {i}": (size,) for i in range(count)}


def gpt2(width: int = WIDTH, layers: int = LAYERS) -> dict[str, tuple[int, ...]]:
    """The shapes of the 148 leaves of GPT-2 small; a smaller width makes the vocabulary smaller in proportion."""
    shapes: dict[str, tuple[int, ...]] = {"wte": (VOCABULARY * width // WIDTH, width), "wpe": (POSITIONS, width)}
    for i in range(layers):
        for name, inputs, outputs in (
            ("attention", width, 3 * width),
            ("attention out", width, width),
            ("hidden", width, 4 * width),
            ("hidden out", 4 * width, width),
        ):
            shapes |= {f"{i} {name} kernel": (inputs, outputs), f"{i} {name} bias": (outputs,)}
        for name in ("norm before attention", "norm before hidden"):
            shapes |= {f"{i} {name} scale": (width,), f"{i} {name} bias": (width,)}
    return shapes | {"norm scale": (width,), "norm bias": (width,)}


def normal(shapes: dict[str, tuple[int, ...]], dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    """Normal numbers in these shapes."""
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for name, shape in shapes.items()}


def half_squared_distance(params: Any) -> jax.Array:
    """From 0.1, summed over all leaves: its gradient costs one subtraction an element."""
    return sum((0.5 * jnp.sum(jnp.square(p - 0.1)) for p in jax.tree.leaves(params)), jnp.zeros(()))
