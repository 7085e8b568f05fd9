"""Seconds of an epoch: the library, its parts, and its peers, on 5 million examples, an MLP, a CNN and many rates.

Run as `python -m benchmarks.epoch [--examples N] [--repeats N] [--json FILE]` in a checkout, with the `benchmark` extra
installed. Peers that are not installed are left out. All variants take turns in one process; medians are reported.
"""

import argparse
import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits

import ewa_optax
from benchmarks.records import parsed, write
from ewa_optax import minibatch

FEATURES, BATCH_SIZE, RATE = 20, 1000, 0.1
CASES = ("headline", "mlp", "cnn", "rates")
KEY = jax.random.key(0)
OPTIMIZER = ewa_optax.gradient_descent(RATE)


class Variant(NamedTuple):
    """What takes turns: `run(i)` is one epoch, or `share` of one."""

    name: str
    run: Callable[[int], Any]
    share: float = 1.0


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


def torch_variants(x: np.ndarray, y: np.ndarray) -> list[Variant]:
    """A `DataLoader`, and tensors indexed by hand, both with the gradient written out."""
    try:  # By name, since a type checker would not find what need not be installed.
        torch: Any = importlib.import_module("torch")
        loading: Any = importlib.import_module("torch.utils.data")
    except ImportError:
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


def grain_variants(step: Callable, carry: Any, x: np.ndarray, y: np.ndarray) -> list[Variant]:
    """A pipeline that shuffles and batches; a share of its epoch."""
    try:
        import grain
    except ImportError:
        return []
    jitted, share = jax.jit(step), 0.02

    class Source:
        def __len__(self):
            return len(x)

        def __getitem__(self, i):
            return x[i], y[i]

    def run(i):
        source: Any = Source()
        pipeline = grain.MapDataset.source(source).shuffle(seed=i).batch(BATCH_SIZE).to_iter_dataset()
        now = carry
        for number, batch in enumerate(pipeline):
            if number >= share * len(x) / BATCH_SIZE:
                break
            now, _ = jitted(now, batch)
        jax.block_until_ready(now)

    return [Variant("grain, shuffle and batch (a fiftieth of it)", run, share)]


def timed(variants: list[Variant], repeats: int, title: str) -> dict[str, float]:
    """Median seconds of an epoch, all variants in turns, the first turn (which compiles) left out.

    Those that take less than a second run once more before each turn, or the one that comes after a long one would find
    all caches cold. Each turn begins with another variant.
    """
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for i in track(range(repeats + 1), title, console=Console(stderr=True)):
        first = i % len(variants)
        for variant in variants[first:] + variants[:first]:
            if i and seconds[variant.name][-1] < 1:
                variant.run(i)
            began = time.perf_counter()
            variant.run(i)
            seconds[variant.name].append((time.perf_counter() - began) / variant.share)
    return {name: float(np.median(values[1:])) for name, values in seconds.items()}


def headline(examples: int, repeats: int) -> dict[str, float]:
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
        *torch_variants(*arrays),
        *grain_variants(step, carry, *arrays),
    ]
    return timed(variants, repeats, "logistic regression")


def mlps(examples: int, repeats: int) -> dict[str, dict[str, float]]:
    """20 features, a hidden layer, Adam: small, where Python costs most, and large, where arithmetic does."""
    arrays, found = headline_data(examples), {}
    for hidden, batch_size in ((8, 16), (64, 64), (256, 1000)):
        size = min(examples, 2000 * batch_size)
        part = tuple(x[:size] for x in arrays)
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
        name = f"MLP, {hidden} hidden units, mini-batches of {batch_size}"
        found[name] = timed(variants, repeats, name)
    return found


def cnn(repeats: int) -> dict[str, float]:
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
    return timed(variants, repeats, "CNN")


def many_rates(repeats: int) -> dict[str, float]:
    """Sixteen learning rates on the digits: one vmapped training of 5 epochs, or one after the other."""
    data = jax.tree.map(jnp.asarray, digits())
    params = {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)}

    def loss(params, batch):
        logits = batch[0] @ params["w"] + params["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    def train(rate, data, key):
        return minibatch.train(loss, ewa_optax.adam(rate), params, data, batch_size=64, epochs=5, key=key).costs

    rates = jnp.geomspace(1e-3, 1.0, 16)
    together, single = jax.jit(jax.vmap(train, (0, None, None))), jax.jit(train)

    def compiled_anew(i):
        jax.block_until_ready(jax.jit(jax.vmap(lambda rate: train(rate, data, KEY)))(rates + i * 1e-6))

    def each_compiled(i):
        for rate in rates:
            jax.block_until_ready(jax.jit(lambda rate=float(rate) + i * 1e-6: train(rate, data, KEY))())

    variants = [
        Variant("jax.vmap of minibatch.train, compilation included", compiled_anew),
        Variant("one after the other, each compiled for its rate", each_compiled),
        Variant("jax.vmap of minibatch.train", lambda i: jax.block_until_ready(together(rates, data, KEY))),
        Variant(
            "one after the other, the rate an argument",
            lambda i: jax.block_until_ready([single(rate, data, KEY) for rate in rates]),
        ),
    ]
    return timed(variants, repeats, "16 learning rates")


MEMORY = """
import re, sys, jax, jax.numpy as jnp
from pathlib import Path
from benchmarks.epoch import *
def status(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
params = (jnp.zeros(FEATURES), jnp.zeros(()))
step, carry = stepper(logistic_loss, OPTIMIZER), (params, OPTIMIZER.init(params))
def run(examples):
    data = jax.block_until_ready((jax.random.normal(KEY, (examples, FEATURES)), jnp.ones(examples)))
    Path("/proc/self/clear_refs").write_text("5")  # Forgets the peak so far, that of making the data.
    epoch(step, carry, data, BATCH_SIZE)(0)
    return sum(x.nbytes for x in data)
run(2000)
before = status("VmRSS")
size = run(int(sys.argv[1]))
print(size, status("VmHWM") - before)
"""


def memory(examples: int) -> dict[str, int]:
    """Bytes of the data, and the peak of a process that runs an epoch on them over what it took before (Linux)."""
    command = [sys.executable, "-c", MEMORY, str(examples)]
    size, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {"bytes of data": int(size), "peak": int(peak)}


def show(record: dict) -> None:
    """Prints a table for each comparison."""
    for title, seconds in record["seconds"].items():
        reference = next(iter(seconds.values()))
        table = Table(title, "seconds", f"/ {next(iter(seconds))}", title_justify="left")
        for name, value in seconds.items():
            table.add_row(name, f"{value:.4f}", f"{value / reference:.2f}")
        Console().print(table)
    if seconds := record["seconds"].get(record["headline"]):
        own = seconds["minibatch.epoch"] / seconds["compute only"] - 1
        print(f"order, gather and loop: {own:.2f} of the compute-only epoch")
    if record["memory"]:
        over = record["memory"]["peak"] - record["memory"]["bytes of data"]
        print(f"peak memory: the data ({record['memory']['bytes of data'] / 2**20:.0f} MiB) and {over / 2**20:.0f} MiB")


def versions(*peers: str) -> dict[str, str]:
    """Of what is installed, and of these peers."""
    names = ("jax", "optax", "numpy", *peers)
    found = {"python": platform.python_version(), "ewa_optax": ewa_optax.__version__}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    """Prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--examples", type=int, default=5_000_000, help="of the first case (default: 5000000)")
    parser.add_argument("--repeats", type=int, default=5, help="turns, the first one not counted (default: 5)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="which comparisons (default: all)")
    options = parsed(parser)
    if options.repeats < 1 or options.examples < BATCH_SIZE:
        parser.error(f"--repeats must be 1 or more and --examples {BATCH_SIZE} or more")
    title = f"logistic regression, {options.examples} examples, mini-batches of {BATCH_SIZE}"
    cases = {
        "headline": lambda: {title: headline(options.examples, options.repeats)},
        "mlp": lambda: mlps(options.examples, options.repeats),
        "cnn": lambda: {"CNN, 1797 digits, mini-batches of 64": cnn(4 * options.repeats)},
        "rates": lambda: {"16 learning rates on 1797 digits, 5 epochs": many_rates(options.repeats)},
    }
    record = {
        "versions": versions("torch", "grain"),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "headline": title,
        "memory": memory(options.examples) if sys.platform == "linux" else None,
        "seconds": {name: found for case in options.cases for name, found in cases[case]().items()},
    }
    show(record)
    write(record, options.json)


if __name__ == "__main__":
    main()
