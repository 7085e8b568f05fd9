"""Three small trainings, each one compiled program: a regression, an MLP on digits, a transformer on source code."""

import functools
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits


class Task(NamedTuple):
    """What to train: `loss` of parameters from `init` on `batch`es of `data`, judged at the end by `final_loss`."""

    name: str
    init: Callable[[jax.Array], Any]
    data: Any
    batch: Callable[[jax.Array, Any], Any]
    loss: Callable[[Any, Any], jax.Array]
    final_loss: Callable[[Any, Any], jax.Array]
    learning_rate: float
    steps: int


def compiled(
    task: Task,
    make_optimizer: Callable[[optax.Schedule], optax.GradientTransformation],
    seeds: int = 3,
    dtype: Any = jnp.float32,
) -> Callable[[], np.ndarray]:
    """A training for each of some seeds, ready to run; it gives their final losses.

    The rate falls to 0 by a cosine; parameters and batches are of `dtype`. A seed decides the first parameters and the
    batches, not the chance by which averages are rounded.
    """
    optimizer = make_optimizer(optax.cosine_decay_schedule(task.learning_rate, task.steps))

    def run(data, seed):
        key = jax.random.key(seed)
        params = _cast(task.init(key), dtype)

        def step(carry, t):
            params, state = carry
            gradients = jax.grad(task.loss)(params, _cast(task.batch(jax.random.fold_in(key, t), data), dtype))
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(task.steps))
        return task.final_loss(_cast(params, jnp.float32), data)

    arguments = task.data, jnp.arange(seeds)
    program = jax.jit(jax.vmap(run, (None, 0))).lower(*arguments).compile()
    return lambda: np.asarray(program(*arguments))


def train(task: Task, make_optimizer: Any, seeds: int = 3, dtype: Any = jnp.float32) -> np.ndarray:
    """The final losses of `compiled`."""
    return compiled(task, make_optimizer, seeds, dtype)()


def _cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


class MLP(nn.Module):
    """Layers with tanh between them."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        """The outputs for a batch of inputs."""
        for width in self.widths[:-1]:
            x = nn.tanh(nn.Dense(width, dtype=x.dtype)(x))
        return nn.Dense(self.widths[-1], dtype=x.dtype)(x)


class Transformer(nn.Module):
    """Predicts the next character, from those before it in its context."""

    characters: int
    context: int
    width: int
    layers: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text):
        """The logits of the next character at each place."""
        x = nn.Embed(self.characters, self.width, dtype=self.dtype)(text)
        x += nn.Embed(self.context, self.width, dtype=self.dtype)(jnp.arange(self.context)[None])
        mask = nn.make_causal_mask(text)
        for _ in range(self.layers):
            y = nn.LayerNorm(dtype=self.dtype)(x)
            x += nn.MultiHeadDotProductAttention(self.width // 32, dtype=self.dtype)(y, y, mask=mask)
            y = nn.Dense(4 * self.width, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
            x += nn.Dense(self.width, dtype=self.dtype)(nn.gelu(y))
        return nn.Dense(self.characters, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))


def regression() -> Task:
    """A smooth function of 8 numbers, by mean squared error."""
    keys = jax.random.split(jax.random.key(100))
    x = jax.random.normal(keys[0], (1024, 8))
    y = jnp.sin(x @ (0.7 * jax.random.normal(keys[1], (8, 1)))) + x[:, :1] * x[:, 1:2] / 2
    model = MLP((64, 64, 1))

    def loss(params, data):
        return jnp.mean((model.apply(params, data[0]) - data[1]) ** 2)

    return Task("regression", lambda key: model.init(key, x), (x, y), _rows(64), loss, loss, 3e-3, 8000)


def digits() -> Task:
    """Handwritten digits, by cross-entropy."""
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16 - 0.3, jnp.float32), jnp.asarray(labels)
    model = MLP((128, 64, 10))

    def loss(params, data):
        logits = jnp.asarray(model.apply(params, data[0]), jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, data[1]).mean()

    return Task("digits", lambda key: model.init(key, x), (x, y), _rows(64), loss, loss, 1e-3, 6000)


def source_code(context: int = 64, width: int = 64, layers: int = 2, batch: int = 8, steps: int = 2000) -> Task:
    """The source of Python's own standard library, character by character, by cross-entropy."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = np.frombuffer(b"".join(path.read_bytes() for path in files), np.uint8)
    text = jnp.asarray(np.where(text < 128, text, ord("?")).astype(np.int32))
    pieces = text[: len(text) // (context + 1) * (context + 1)].reshape(-1, context + 1)
    model = functools.partial(Transformer, 128, context, width, layers)

    def loss(params, pieces):
        dtype = jax.tree.leaves(params)[0].dtype
        logits = jnp.asarray(model(dtype=dtype).apply(params, pieces[:, :-1]), jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, pieces[:, 1:]).mean()

    def final_loss(params, data):
        judged = data[:: len(data) // 512][:512].reshape(8, 64, -1)
        return jax.lax.map(lambda pieces: loss(params, pieces), judged).mean()

    def init(key):
        return model().init(key, pieces[:1, :-1])

    return Task("source code", init, pieces, _rows(batch), loss, final_loss, 1e-3, steps)


def _rows(size):
    def batch(key, data):
        rows = jax.random.randint(key, (size,), 0, jax.tree.leaves(data)[0].shape[0])
        return jax.tree.map(lambda x: x[rows], data)

    return batch
