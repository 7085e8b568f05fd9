"""Seconds of an epoch: the library, its parts, and its peers, on 5 million examples, an MLP, a CNN and many rates."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import ewa_optax
from benchmarks.measuring import Variant, compared
from benchmarks.peers import Peers
from ewa_optax import minibatch

FEATURES, BATCH_SIZE, RATE = 20, 1000, 0.1
KEY = jax.random.key(0)
OPTIMIZER = ewa_optax.gradient_descent(RATE)


class Sizes(NamedTuple):
    """Examples of the first comparison; MLPs (hidden units, mini-batches) and their steps; epochs of two moons; rates.

    And turns, 0 for none.
    """

    examples: int
    turns: int
    mlps: tuple[tuple[int, int], ...]
    steps: int
    moons: int
    cnn_turns: int
    rates: int
    rate_turns: int


def sizes(quick: bool, platform: str) -> Sizes:
    """A hundredth of the examples, if quick, and nothing that takes long to compile."""
    if quick:
        return Sizes(50_000, 2, ((8, 16),), 200, 50, 0, 0, 0)
    return Sizes(5_000_000, 5, ((8, 16), (64, 64), (256, 1000)), 2000, 1500, 20, 16, 5)


def measure(sizes: Sizes, peers: Peers) -> Iterator[dict]:
    """A table for each comparison."""
    yield headline(sizes.examples, sizes.turns, peers)
    yield from mlps(sizes)
    yield two_moons(sizes.moons, sizes.turns)
    if sizes.cnn_turns:
        yield cnn(sizes.cnn_turns)
    if sizes.rate_turns:
        yield from many_rates(sizes.rates, sizes.rate_turns)
    if sys.platform == "linux":
        yield memory(sizes.examples)


def headline_data(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and labels of 0 or 1 that a line separates but for noise."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((examples, FEATURES), np.float32)
    return x, (x[:, 0] + rng.standard_normal(examples, np.float32) > 0).astype(np.float32)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1797 digits of scikit-learn: 64 pixels in [0, 1], and which digit it is."""
    pixels, digit = load_digits(return_X_y=True)
    return np.asarray(pixels, np.float32) / 16, np.asarray(digit, np.int32)


def logistic_loss(params: Any, batch: Any) -> jax.Array:
    """The mean cross-entropy of logistic regression."""
    z = batch[0] @ params[0] + params[1]
    return jnp.mean(jnp.logaddexp(0.0, z) - batch[1] * z)


def mlp_loss(params: Any, batch: Any) -> jax.Array:
    """The same with a hidden layer."""
    hidden = jax.nn.relu(batch[0] @ params["w"] + params["b"])
    z = hidden @ params["v"]
    return jnp.mean(jnp.logaddexp(0.0, z) - batch[1] * z)


def stepper(loss: Callable, optimizer: optax.GradientTransformation) -> Callable:
    """The step that users write."""

    def step(carry, batch):
        params, state = carry
        cost, gradients = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), cost

    return step


def compute_only(step: Callable, carry: Any, data: Any, batch_size: int) -> Callable[[int], Any]:
    """As many steps, always on the first mini-batch: no order and no gather."""

    @jax.jit
    def run(carry, data):
        batch = jax.tree.map(lambda x: x[:batch_size], data)
        steps = jax.tree.leaves(data)[0].shape[0] // batch_size
        return jax.lax.scan(lambda carry, _: step(carry, batch), carry, None, length=steps)

    return lambda i: jax.block_until_ready(run(carry, data))


def epoch(step: Callable, carry: Any, data: Any, batch_size: int, **keywords: Any) -> Callable[[int], Any]:
    """`minibatch.epoch`."""
    return lambda i: jax.block_until_ready(
        minibatch.epoch(step, carry, data, batch_size=batch_size, key=KEY, epoch=i, **keywords)
    )


def python_loop(step: Callable, carry: Any, arrays: Any, batch_size: int) -> Callable[[int], Any]:
    """A loop in Python over the jitted step, which NumPy gathers mini-batches for."""
    jitted = jax.jit(step)

    def run(i):
        order = np.random.default_rng(i).permutation(len(arrays[0]))
        now = carry
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            now, _ = jitted(now, tuple(x[rows] for x in arrays))
        return jax.block_until_ready(now)

    return run


def numpy_by_hand(x: np.ndarray, y: np.ndarray) -> Callable[[int], Any]:
    """Logistic regression, its gradient written out."""

    def run(i):
        order = np.random.default_rng(i).permutation(len(x))
        w, b = np.zeros(FEATURES, np.float32), np.float32(0)
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            batch = x[rows]
            error = 1 / (1 + np.exp(-(batch @ w + b))) - y[rows]
            w -= RATE / len(rows) * (error @ batch)
            b -= RATE * error.mean()
        return w, b

    return run


def torch_variants(x: np.ndarray, y: np.ndarray, peers: Peers) -> list[Variant]:
    """A `DataLoader`, and tensors indexed by hand, both with the gradient written out."""
    torch, loading = peers("torch"), peers("torch.utils.data")
    if torch is None:
        return []
    features, labels = torch.from_numpy(x), torch.from_numpy(y)

    def train(batches):
        w, b = torch.zeros(FEATURES), torch.zeros(())
        for batch, label in batches:
            error = torch.sigmoid(batch @ w + b) - label
            w -= RATE / len(label) * (error @ batch)
            b -= RATE * error.mean()

    def loader(i):
        torch.manual_seed(i)
        train(loading.DataLoader(loading.TensorDataset(features, labels), batch_size=BATCH_SIZE, shuffle=True))

    def by_hand(i):
        torch.manual_seed(i)
        order = torch.randperm(len(labels))
        train((features[rows], labels[rows]) for rows in order.split(BATCH_SIZE))

    return [Variant("torch, DataLoader", loader), Variant("torch, tensors indexed by hand", by_hand)]


def grain_variants(step: Callable, carry: Any, x: np.ndarray, y: np.ndarray, peers: Peers) -> list[Variant]:
    """A pipeline that shuffles and batches; a share of its epoch."""
    grain = peers("grain")
    if grain is None:
        return []
    jitted, share = jax.jit(step), 0.02

    class Source:
        def __len__(self):
            return len(x)

        def __getitem__(self, i):
            return x[i], y[i]

    def run(i):
        pipeline = grain.MapDataset.source(Source()).shuffle(seed=i).batch(BATCH_SIZE).to_iter_dataset()
        now = carry
        for number, batch in enumerate(pipeline):
            if number >= share * len(x) / BATCH_SIZE:
                break
            now, _ = jitted(now, batch)
        jax.block_until_ready(now)

    return [Variant("grain, shuffle and batch (a fiftieth of it)", run, share)]


def headline(examples: int, turns: int, peers: Peers) -> dict:
    """Logistic regression, mini-batches of 1000."""
    arrays = headline_data(examples)
    data = jax.tree.map(jnp.asarray, arrays)
    params = (jnp.zeros(FEATURES), jnp.zeros(()))
    step, carry = stepper(logistic_loss, OPTIMIZER), (params, OPTIMIZER.init(params))

    def fit(i):
        ewa_optax.fit(
            logistic_loss, OPTIMIZER, params, data,
            batch_size=BATCH_SIZE, epochs=1, key=jax.random.fold_in(KEY, i), progress=False,
        )  # fmt: skip

    variants = [
        Variant("minibatch.epoch", epoch(step, carry, data, BATCH_SIZE)),
        Variant("fit", fit),
        Variant("compute only", compute_only(step, carry, data, BATCH_SIZE)),
        Variant("minibatch.epoch, jax.random.permutation", epoch(step, carry, data, BATCH_SIZE, order="permutation")),
        Variant("Python loop over a jitted step", python_loop(step, carry, arrays, BATCH_SIZE)),
        Variant("NumPy by hand", numpy_by_hand(*arrays)),
        *torch_variants(*arrays, peers),
        *grain_variants(step, carry, *arrays, peers),
    ]
    title = f"logistic regression, {examples} examples, mini-batches of {BATCH_SIZE}"
    return compared(title, variants, turns)


def mlps(sizes: Sizes) -> Iterator[dict]:
    """20 features, a hidden layer, Adam: small, where Python costs most, and large, where arithmetic does."""
    arrays = headline_data(min(sizes.examples, 1000 * sizes.steps))
    for hidden, batch_size in sizes.mlps:
        part = tuple(x[: sizes.steps * batch_size] for x in arrays)
        keys = jax.random.split(KEY)
        params = {
            "w": jax.random.normal(keys[0], (FEATURES, hidden)) * (2 / FEATURES) ** 0.5,
            "b": jnp.zeros(hidden),
            "v": jax.random.normal(keys[1], (hidden,)) / hidden**0.5,
        }
        optimizer = ewa_optax.adam(1e-3)
        data, step = jax.tree.map(jnp.asarray, part), stepper(mlp_loss, optimizer)
        carry = (params, optimizer.init(params))
        variants = [
            Variant("minibatch.epoch", epoch(step, carry, data, batch_size)),
            Variant("compute only", compute_only(step, carry, data, batch_size)),
            Variant("Python loop over a jitted step", python_loop(step, carry, part, batch_size)),
        ]
        yield compared(f"MLP, {hidden} hidden units, mini-batches of {batch_size}", variants, sizes.turns)


def moons() -> tuple[np.ndarray, np.ndarray]:
    """Two of 150 points each, one within the other's arc, and which of them each point is on."""
    rng = np.random.default_rng(0)
    angle = np.pi * rng.random(150)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.concatenate([arc, np.array([1.0, 0.5]) - arc]) + 0.2 * rng.standard_normal((300, 2))
    return points.astype(np.float32), np.repeat(np.array([0, 1], np.float32), 150)


def layers() -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of a network of 2, 5, 2 and 1 units."""
    rng, units = np.random.default_rng(3), (2, 5, 2, 1)
    return [
        (np.float32((2 / n) ** 0.5) * rng.standard_normal((n, k), np.float32), np.zeros(k, np.float32))
        for n, k in itertools.pairwise(units)
    ]


def moons_loss(params: Any, batch: Any) -> jax.Array:
    """The mean cross-entropy of that network."""
    x, y = batch
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    z = (x @ params[-1][0] + params[-1][1])[:, 0]
    return jnp.mean(jnp.logaddexp(0.0, z) - y * z)


def moons_in_numpy(x: np.ndarray, y: np.ndarray, epochs: int) -> Callable[[int], Any]:
    """That network by Adam, all of it written out."""

    def run(i):
        rng, t = np.random.default_rng(i), 0
        params = [array for layer in layers() for array in layer]
        m, v = ([np.zeros_like(p) for p in params] for _ in range(2))
        for _ in range(epochs):
            order = rng.permutation(len(x))
            for start in range(0, len(order), 64):
                rows = order[start : start + 64]
                inputs = [x[rows]]
                for w, b in zip(params[:-2:2], params[1:-2:2], strict=True):
                    inputs.append(np.maximum(inputs[-1] @ w + b, 0))
                z = (inputs[-1] @ params[-2] + params[-1])[:, 0]
                slope, gradients = ((1 / (1 + np.exp(-z)) - y[rows]) / len(rows))[:, None], []
                for layer in (2, 1, 0):
                    gradients = [inputs[layer].T @ slope, slope.sum(axis=0), *gradients]
                    slope = slope @ params[2 * layer].T * (inputs[layer] > 0)
                t += 1
                for k, g in enumerate(gradients):
                    m[k] = 0.9 * m[k] + 0.1 * g
                    v[k] = 0.999 * v[k] + 0.001 * g * g
                    params[k] = params[k] - 1e-3 * (m[k] / (1 - 0.9**t)) / (np.sqrt(v[k] / (1 - 0.999**t)) + 1e-8)
        return params

    return run


def two_moons(epochs: int, turns: int) -> dict:
    """37 parameters, five steps an epoch: what is left is what each epoch and each call cost."""
    arrays, params = moons(), jax.tree.map(jnp.asarray, layers())

    def fit(i):
        ewa_optax.fit(
            moons_loss, ewa_optax.adam(1e-3 * (1 + i / 100)), params, arrays,
            batch_size=64, epochs=epochs, key=jax.random.fold_in(KEY, i), progress=False,
        )  # fmt: skip

    variants = [Variant("NumPy by hand", moons_in_numpy(*arrays, epochs)), Variant("fit, another rate each time", fit)]
    return compared(f"two moons, 300 points, mini-batches of 64, {epochs} epochs", variants, turns)


def cnn(turns: int) -> dict:
    """Two convolutions on the 1797 digits of scikit-learn, at 8 x 8 pixels."""
    pixels, digit = digits()
    arrays = (pixels.reshape(-1, 8, 8, 1), digit)
    keys = jax.random.split(KEY, 3)
    params = [
        jax.random.normal(keys[0], (3, 3, 1, 16)) / 3,
        jax.random.normal(keys[1], (3, 3, 16, 32)) / 12,
        jax.random.normal(keys[2], (2048, 10)) / 45,
    ]

    def loss(params, batch):
        images = batch[0]
        for kernel in params[:2]:
            images = jax.nn.relu(
                jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            )
        logits = images.reshape(len(images), -1) @ params[2]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    optimizer = ewa_optax.adam(1e-3)
    step, carry, data = stepper(loss, optimizer), (params, optimizer.init(params)), jax.tree.map(jnp.asarray, arrays)
    variants = [
        Variant("minibatch.epoch", epoch(step, carry, data, 64)),
        Variant("minibatch.epoch, loop='scan'", epoch(step, carry, data, 64, loop="scan")),
        Variant("Python loop over a jitted step", python_loop(step, carry, arrays, 64)),
    ]
    return compared("CNN, 1797 digits, mini-batches of 64", variants, turns)


def many_rates(count: int, turns: int) -> Iterator[dict]:
    """Learning rates on the digits: one vmapped training of 5 epochs, or one after the other."""
    data = jax.tree.map(jnp.asarray, digits())
    params = {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)}

    def loss(params, batch):
        logits = batch[0] @ params["w"] + params["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    def train(rate, data, key):
        return minibatch.train(loss, ewa_optax.adam(rate), params, data, batch_size=64, epochs=5, key=key).costs

    rates = jnp.geomspace(1e-3, 1.0, count)
    together, single = jax.jit(jax.vmap(train, (0, None, None))), jax.jit(train)

    def compiled_anew(i):
        jax.block_until_ready(jax.jit(jax.vmap(lambda rate: train(rate, data, KEY)))(rates + i * 1e-6))

    def each_compiled(i):
        for rate in rates:
            jax.block_until_ready(jax.jit(lambda rate=float(rate) + i * 1e-6: train(rate, data, KEY))())

    title = f"{count} learning rates on 1797 digits, 5 epochs"
    variants = [
        Variant("jax.vmap of minibatch.train", compiled_anew),
        Variant("one after the other, each compiled for its rate", each_compiled),
    ]
    yield compared(f"{title}, compilation included", variants, turns)
    variants = [
        Variant("jax.vmap of minibatch.train", lambda i: jax.block_until_ready(together(rates, data, KEY))),
        Variant(
            "one after the other, the rate an argument",
            lambda i: jax.block_until_ready([single(rate, data, KEY) for rate in rates]),
        ),
    ]
    yield compared(title, variants, turns)


MEMORY = """
import sys, jax, jax.numpy as jnp
from benchmarks import resident
from benchmarks.epoch import *
params = (jnp.zeros(FEATURES), jnp.zeros(()))
step, carry = stepper(logistic_loss, OPTIMIZER), (params, OPTIMIZER.init(params))
def run(examples):
    data = jax.block_until_ready((jax.random.normal(KEY, (examples, FEATURES)), jnp.ones(examples)))
    resident.forget_peak()  # That of making the data.
    epoch(step, carry, data, BATCH_SIZE)(0)
    return sum(x.nbytes for x in data)
run(2000)
before = resident.now()
size = run(int(sys.argv[1]))
print(size, resident.peak() - before)
"""


def memory(examples: int) -> dict:
    """Bytes of the data, and the peak of a process that runs an epoch on them over what it took before (Linux)."""
    command = [sys.executable, "-c", MEMORY, str(examples)]
    size, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    row = {"name": "minibatch.epoch", "bytes of data": int(size), "peak bytes": int(peak)}
    return {"title": f"memory of an epoch of {examples} examples", "rows": [row]}
