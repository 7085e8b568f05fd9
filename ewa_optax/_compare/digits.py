"""One small network on handwritten digits, trained by several optimizers from the same start and the same shuffles."""

import inspect
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ewa_optax import minibatch
from ewa_optax._optimizers import OPTIMIZERS
from ewa_optax._wrappers.groups import groups

# Each optimizer's best of 1 and 3 times powers of ten: the lowest training cost after 20 epochs of batches of 64
# (geometric mean over seeds 0, 1, 2).
LEARNING_RATES = {
    "gradient_descent": 1.0,
    "momentum": 3.0,
    "heavy_ball": 0.3,
    "nesterov": 0.3,
    "signum": 0.003,
    "lion": 0.003,
    "rmsprop": 0.01,
    "adadelta": 10.0,
    "laprop": 0.03,
    "rmsprop_momentum": 0.001,
    "rmsprop_centered": 0.003,
    "adam": 0.03,
    "adamw": 0.03,
    "adamax": 0.1,
    "amsgrad": 0.01,
    "yogi": 0.03,
    "radam": 0.03,
    "nadam": 0.03,
    "nadamw": 0.03,
    "adabelief": 0.03,
    "ademamix": 0.03,
    "adan": 0.1,
    "lars": 3.0,
    "novograd": 0.03,
    "lamb": 0.01,
    "adafactor": 0.03,
    "muon": 0.01,
    "normuon": 0.01,
    "muon_hyperball": 0.01,
    "soap": 0.03,
}
HIDDEN_UNITS = 64


class Digits(NamedTuple):
    """8 x 8 pixels in [0, 1] as rows of 64 (float32), and the digit (int32)."""

    pixels: jax.Array
    digit: jax.Array


class Run(NamedTuple):
    """What one optimizer did."""

    optimizer: str
    learning_rate: float
    minibatch_costs: np.ndarray
    epoch_costs: np.ndarray
    """Over the whole training set: before training, then after each epoch."""
    test_accuracy: float
    seconds_per_epoch: float

    @property
    def diverged(self) -> bool:
        """Whether training ended no better than it began."""
        return not self.epoch_costs[-1] < self.epoch_costs[0]


def load_digits(seed: int) -> tuple[Digits, Digits]:
    """The 1797 digits of scikit-learn, four fifths to train on and one fifth to test on."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    pixels, digit = datasets.load_digits(return_X_y=True)
    parts = train_test_split(
        np.asarray(pixels, np.float32) / 16,
        np.asarray(digit, np.int32),
        test_size=0.2,
        stratify=digit,
        random_state=seed,
    )
    train_pixels, test_pixels, train_digit, test_digit = map(jnp.asarray, parts)
    return Digits(train_pixels, train_digit), Digits(test_pixels, test_digit)


def initial_params(key: jax.Array) -> dict[str, jax.Array]:
    """Weights of variance 2 / inputs, and biases of zero."""
    hidden_key, output_key = jax.random.split(key)
    return {
        "hidden_weights": jax.random.normal(hidden_key, (64, HIDDEN_UNITS)) * jnp.sqrt(2 / 64),
        "hidden_bias": jnp.zeros(HIDDEN_UNITS),
        "output_weights": jax.random.normal(output_key, (HIDDEN_UNITS, 10)) * jnp.sqrt(2 / HIDDEN_UNITS),
        "output_bias": jnp.zeros(10),
    }


def logits(params: dict[str, jax.Array], pixels: jax.Array) -> jax.Array:
    """The network: 64 pixels, one hidden layer of ReLUs, 10 digits."""
    hidden = jax.nn.relu(pixels @ params["hidden_weights"] + params["hidden_bias"][None])
    return hidden @ params["output_weights"] + params["output_bias"][None]


def cost(params: dict[str, jax.Array], batch: Digits) -> jax.Array:
    """The mean cross-entropy of a batch."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch.pixels), batch.digit).mean()


def made(name: str, learning_rate: float) -> optax.GradientTransformation:
    """The optimizer of that name; one that takes matrices only has the hidden layer's, and AdamW has the rest."""
    optimizer = OPTIMIZERS[name](learning_rate)
    if "axes" not in inspect.signature(OPTIMIZERS[name]).parameters:
        return optimizer
    rest = OPTIMIZERS["adamw"](LEARNING_RATES["adamw"])
    return groups({name: ("hidden_weights", optimizer), "adamw": (..., rest)})


def train(
    name: str, learning_rate: float, train_set: Digits, test_set: Digits, *, epochs: int, batch_size: int, seed: int
) -> Iterator[Run]:
    """Trains by the optimizer called `name`, and yields the run so far after each epoch."""
    optimizer = made(name, learning_rate)
    initial_key, shuffle_key = jax.random.split(jax.random.key(seed))
    params = initial_params(initial_key)

    def step(carry, batch):
        params, state = carry
        value, gradients = jax.value_and_grad(cost)(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), value

    def run_epoch(carry, number) -> tuple[tuple, jax.Array]:
        key = jax.random.fold_in(shuffle_key, number)
        return jax.block_until_ready(minibatch.epoch(step, carry, train_set, batch_size=batch_size, key=key))

    whole_cost: Callable = jax.jit(cost)
    carry = (params, optimizer.init(params))
    run_epoch(carry, 0)  # Compiles; what it returns is left alone.
    seconds, minibatch_costs, epoch_costs = [], [], [float(whole_cost(params, train_set))]
    for number in range(epochs):
        start = time.perf_counter()
        carry, costs = run_epoch(carry, number)
        seconds.append(time.perf_counter() - start)
        minibatch_costs.append(np.asarray(costs))
        epoch_costs.append(float(whole_cost(carry[0], train_set)))
        right = jnp.argmax(logits(carry[0], test_set.pixels), axis=-1) == test_set.digit
        yield Run(
            name,
            learning_rate,
            np.concatenate(minibatch_costs),
            np.array(epoch_costs),
            float(right.mean()),
            float(np.median(seconds)),
        )
