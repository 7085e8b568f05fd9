"""The table of optimizers: how to make each, its float64 oracle, its optax twin, and how close they must be."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import optax
import oracles

import ewa_optax
from ewa_optax.storage import NAMED, Factored, Storage


class Case(NamedTuple):
    name: str
    make: Callable[..., optax.GradientTransformation]
    """The optimizer; its keyword arguments are the numbers in `hyperparameters`."""
    hyperparameters: dict[str, float]
    oracle: Callable
    """`(gradients, params) -> updates` in float64, at `hyperparameters`."""
    twin: Callable[[], optax.GradientTransformation]
    """The same algorithm from optax."""
    solves: dict[str, float]
    """The hyperparameters at which it solves the toy problems, where they differ."""
    oracle_tolerance: float = 1e-6
    """Of an update, relative to the size of the updates."""
    twin_tolerance: float = 1e-5
    storage: Storage | None = None
    slow: bool = False
    error: Callable = np.max
    """Of the errors of all elements and steps, what must be within the tolerance."""

    def optimizer(self, **changes):
        return self.make(**(self.hyperparameters | changes))


FULL = [
    Case(
        "gradient_descent",
        ewa_optax.gradient_descent,
        dict(learning_rate=0.1),
        lambda g, p: oracles.gradient_descent(g, 0.1),
        lambda: optax.sgd(0.1),
        dict(learning_rate=1.15e-3),
    ),
    Case(
        "momentum",
        ewa_optax.momentum,
        dict(learning_rate=0.1, decay=0.95),
        lambda g, p: oracles.momentum(g, 0.1, 0.95),
        lambda: optax.chain(optax.ema(0.95, debias=False), optax.scale(-0.1)),
        dict(learning_rate=1e-2, decay=0.9),
    ),
    Case(
        "heavy_ball",
        ewa_optax.heavy_ball,
        dict(learning_rate=0.1, decay=0.95),
        lambda g, p: oracles.heavy_ball(g, 0.1, 0.95),
        lambda: optax.sgd(0.1, momentum=0.95),
        dict(learning_rate=1e-3, decay=0.9),
    ),
    Case(
        "rmsprop",
        ewa_optax.rmsprop,
        dict(learning_rate=0.1, decay=0.95, eps=1e-8),
        lambda g, p: oracles.rmsprop(g, 0.1, 0.95, 1e-8),
        lambda: optax.rmsprop(0.1, decay=0.95, eps=1e-8, eps_in_sqrt=False),
        dict(learning_rate=5e-3, decay=0.9),
    ),
    Case(
        "rmsprop_eps_inside",
        ewa_optax.rmsprop,
        dict(learning_rate=0.1, decay=0.95, eps=0.0, eps_root=1e-8),
        lambda g, p: oracles.rmsprop(g, 0.1, 0.95, 0.0, 1e-8),
        lambda: optax.rmsprop(0.1, decay=0.95, eps=1e-8, eps_in_sqrt=True),
        dict(learning_rate=5e-3, decay=0.9),
    ),
    Case(
        "adam",
        ewa_optax.adam,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-8),
        lambda g, p: oracles.adam(g, 0.1, 0.9, 0.99, 1e-8),
        lambda: optax.adam(0.1, 0.9, 0.99, 1e-8),
        dict(learning_rate=1e-1, b2=0.999),
    ),
    Case(
        "adam_eps_root",
        ewa_optax.adam,
        dict(learning_rate=0.1, b1=0.8, b2=0.999, eps=1e-8, eps_root=1e-9),
        lambda g, p: oracles.adam(g, 0.1, 0.8, 0.999, 1e-8, 1e-9),
        lambda: optax.adam(0.1, 0.8, 0.999, 1e-8, 1e-9),
        dict(learning_rate=1e-1, b1=0.9),
    ),
    Case(
        "adamw",
        ewa_optax.adamw,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-8, eps_root=0.0, weight_decay=1e-2),
        lambda g, p: oracles.adamw(g, p, 0.1, 0.9, 0.99, 1e-8, 0.0, 1e-2),
        lambda: optax.adamw(0.1, 0.9, 0.99, 1e-8, 0.0, weight_decay=1e-2),
        dict(learning_rate=1e-1, b2=0.999, weight_decay=1e-4),
    ),
]

# Of updates whose averages were rounded between steps, the root mean square error.
ROUNDED = {"bfloat16": 1e-2, "float16": 3e-3, "24bit": 5e-5, "8bit": 5e-2}


def root_mean_square(errors):
    return np.sqrt(np.mean(errors**2))


# What runs every time, besides each storage with adam; the others are as good as these, and slow.
QUICK = {("momentum", "24bit"), ("heavy_ball", "float16"), ("rmsprop", "8bit"), ("adamw", "bfloat16")}


def stored(case, name):
    storage = dataclasses.replace(NAMED[name], min_size=0)
    return case._replace(
        name=f"{case.name}-{name}",
        make=functools.partial(case.make, storage=storage),
        oracle_tolerance=ROUNDED[name],
        twin_tolerance=ROUNDED[name],
        storage=storage,
        slow=case.name != "adam" and (case.name, name) not in QUICK,
        error=root_mean_square,
    )


STORED = ("momentum", "heavy_ball", "rmsprop", "adam", "adamw")
FACTORED = [
    case._replace(
        name=f"{case.name}-factored",
        make=functools.partial(case.make, storage=(None, Factored(min_size=0))),
        slow=case.name == "adamw",
    )
    for case in FULL
    if case.name in ("adam", "adamw")
]
CASES = FULL + FACTORED + [stored(case, name) for name in ROUNDED for case in FULL if case.name in STORED]
