"""A small language model in plain JAX, and the text that it learns: the source of Python's own standard library."""

import functools
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

CHARACTERS, HEAD = 128, 32


class Sizes(NamedTuple):
    """Of the model, and how many characters it sees at once."""

    width: int
    layers: int
    context: int


@functools.cache
def text() -> tuple[jax.Array, jax.Array]:
    """3.5 million characters to train on, and 200 thousand of every tenth file. What is not ASCII is "?"."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    held_out = files[::10]

    def codes(paths, size):
        found = np.frombuffer(b"".join(path.read_bytes() for path in paths), np.uint8)[:size]
        return jnp.asarray(np.where(found < CHARACTERS, found, ord("?")))

    return codes((path for path in files if path not in held_out), 3_500_000), codes(held_out, 200_000)


def batch(text: jax.Array, size: int, context: int, key: jax.Array) -> jax.Array:
    """Pieces of text from anywhere in it."""
    starts = jax.random.randint(key, (size,), 0, len(text) - context)
    return text[starts[:, None] + jnp.arange(context + 1)]


def init(sizes: Sizes, key: jax.Array) -> dict[str, Any]:
    """The first parameters: matrices of (in, out), normal with a variance of 1 / in, less for what is added up."""
    keys = iter(jax.random.split(key, 2 + 6 * sizes.layers))
    d = sizes.width

    def normal(rows, columns, scale=1.0):
        return scale * rows**-0.5 * jax.random.normal(next(keys), (rows, columns))

    def layer():
        added = (2 * sizes.layers) ** -0.5
        return {
            "attention": {
                "norm": jnp.ones(d),
                **{name: normal(d, d) for name in ("query", "key", "value")},
                "out": normal(d, d, added),
            },
            "mlp": {"norm": jnp.ones(d), "in": normal(d, 4 * d), "out": normal(4 * d, d, added)},
        }

    return {
        "embedding": 0.02 * jax.random.normal(next(keys), (CHARACTERS, d)),
        "layers": [layer() for _ in range(sizes.layers)],
        "norm": jnp.ones(d),
        "head": normal(d, CHARACTERS),
    }


def loss(params: Mapping[str, Any], pieces: jax.Array) -> jax.Array:
    """Cross-entropy of the next character, in nats, at each place of pieces of text (number, context + 1)."""
    x = params["embedding"][pieces[:, :-1]]
    for layer in params["layers"]:
        x = x + attention(layer["attention"], x)
        x = x + mlp(layer["mlp"], x)
    logits = normed(x, params["norm"]) @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, pieces[:, 1:].astype(jnp.int32)).mean()


def normed(x: jax.Array, gain: jax.Array) -> jax.Array:
    """RMSNorm."""
    return gain * x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


def attention(layer: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """Each place asks those before it."""
    y = normed(x, layer["norm"])
    query, key, value = ((y @ layer[name]).reshape(*x.shape[:2], -1, HEAD) for name in ("query", "key", "value"))
    found = jax.nn.dot_product_attention(rotated(query), rotated(key), value, is_causal=True)
    return found.reshape(x.shape) @ layer["out"]


def rotated(x: jax.Array) -> jax.Array:
    """Rotary positions: pairs of features turned by an angle that grows with the place."""
    first, second = jnp.split(x, 2, axis=-1)
    places, speeds = np.arange(x.shape[1]), 1e4 ** -np.linspace(0, 1, HEAD // 2, endpoint=False)
    angles = np.outer(places, speeds).astype(np.float32)[None, :, None]
    cos, sin = np.cos(angles), np.sin(angles)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def mlp(layer: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """Each place by itself."""
    return jax.nn.gelu(normed(x, layer["norm"]) @ layer["in"]) @ layer["out"]
