"""The table of optimizers: how to make each, its float64 oracle, its optax twin, and how close they must be."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax
import optax.contrib
import oracles
import own

import ewa_optax
from ewa_optax import pieces
from ewa_optax._optimizers import OPTIMIZERS
from ewa_optax.storage._argument import NAMED, MomentStorages, StorageLike, for_squares
from ewa_optax.storage._formats import Factored
from ewa_optax.storage._storage import Storage

# XLA of jax 0.12 forms products of matrices in another order, and writes what it then sums.
IS_LATER = jax.__version_info__ >= (0, 12)
ROUNDS_MORE = 2 if IS_LATER else 1


class Case(NamedTuple):
    name: str
    make: Callable[..., optax.GradientTransformation]
    """The optimizer; its keyword arguments are the numbers in `hyperparameters`."""
    hyperparameters: dict[str, float]
    oracle: Callable
    """`(gradients, params) -> updates` in float64, at `hyperparameters`."""
    twin: Callable[[], optax.GradientTransformation] | None
    """The same algorithm from optax, if it has it and has it right."""
    solves: dict[str, float] | None
    """The hyperparameters at which it solves the toy problems, where they differ; None for what stays on a sphere."""
    oracle_tolerance: float = 1e-6
    """Of an update, relative to the size of the updates."""
    complex_tolerance: float = 1e-6
    twin_tolerance: float = 1e-5
    storage: Storage | None = None
    noise: float = 1.0
    """How much larger the errors of rounded averages may be than `ROUNDED` says."""
    slow: bool = False
    """Whether it is a storage that is as good as another one that runs every time."""
    shape: tuple[int, ...] = (64,)
    """Of the parameters for oracle and twin."""
    gradients: Callable | None = None
    """`(steps, shape, complex_values) -> gradients` for the oracle, if not those of eight decades."""
    of_parameters: float = 0.0
    """How far an update may be off relative to the parameters, for a step that is a difference of these."""
    error: Callable = np.max
    """Of the errors of all elements and steps, what must be within the tolerance."""

    def optimizer(self, **changes):
        return self.make(**(self.hyperparameters | changes))


def as_matrices(path, leaf):
    """A vector is a matrix of one row, and a number one of one number: what no rule of names says."""
    return (tuple(range(leaf.ndim - 1)), leaf.ndim - 1) if leaf.ndim else ((), ())


def of_all(make):
    """An optimizer of matrices for parameters of all shapes."""

    @functools.wraps(make)
    def made(*numbers, axes=None, **keywords):
        return make(*numbers, axes=axes or as_matrices, **keywords)

    return made


def with_eigenvectors(steps, shape, complex_values=False, seed=0):
    """Gradients whose averaged products have eigenvalues that are well apart, and other ones in their second half."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex_values else 0)

    rows, columns = (np.linalg.qr(normal(n, n))[0] for n in shape)
    sizes = np.geomspace(1, 6, min(shape))
    mean = np.zeros(shape)
    np.fill_diagonal(mean, sizes)
    noise = 0.1 * np.sqrt(np.abs(mean).max(1)[:, None]) * normal(steps, *shape)
    first, last = mean + noise[: steps // 2], mean[::-1, ::-1] + noise[steps // 2 :]
    gradients = rows @ np.concatenate([first, last]) @ columns
    return gradients.astype(np.complex64 if complex_values else np.float32)


EVERY = {
    name: of_all(make) if "axes" in inspect.signature(make).parameters else make for name, make in OPTIMIZERS.items()
}
"""All optimizers of the library, for parameters of all shapes."""


def SHRINKING(count):  # noqa: N802
    """For steps whose length does not shrink with the gradient."""
    return 0.03 * 0.999**count


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

MUON = Case(
    "muon",
    of_all(ewa_optax.muon),
    dict(learning_rate=0.1, decay=0.9, weight_decay=1e-2),
    lambda g, p: oracles.muon(g, p, 0.1, 0.9, 1e-2),
    None,
    dict(learning_rate=lambda count: 0.1 * 0.999**count, weight_decay=0.0),
    oracle_tolerance=1e-5,  # What is small beside the largest singular value grows 480-fold, and so does its error.
    complex_tolerance=1e-5,
)

FAMILY = [
    Case(
        "nesterov",
        ewa_optax.nesterov,
        dict(learning_rate=0.1, decay=0.95),
        lambda g, p: oracles.nesterov(g, 0.1, 0.95),
        lambda: optax.sgd(0.1, momentum=0.95, nesterov=True),
        dict(learning_rate=5e-4, decay=0.97),
    ),
    Case(
        "signum",
        ewa_optax.signum,
        dict(learning_rate=0.1, decay=0.95),
        lambda g, p: oracles.signum(g, 0.1, 0.95),
        lambda: optax.signum(0.1, 0.95),
        dict(learning_rate=SHRINKING, decay=0.9),
        complex_tolerance=3e-6,  # The direction of a sum, where its terms cancel.
        noise=6.0,  # Rounding may turn a sign.
    ),
    Case(
        "lion",
        ewa_optax.lion,
        dict(learning_rate=0.1, b1=0.9, b2=0.95, weight_decay=1e-2),
        lambda g, p: oracles.lion(g, p, 0.1, 0.9, 0.95, 1e-2),
        lambda: optax.lion(0.1, 0.9, 0.95, weight_decay=1e-2),
        dict(learning_rate=SHRINKING, b2=0.99, weight_decay=0.0),
        complex_tolerance=3e-6,  # The direction of a sum, where its terms cancel.
        noise=6.0,  # Rounding may turn a sign.
    ),
    Case(
        "adadelta",
        ewa_optax.adadelta,
        dict(learning_rate=0.5, decay=0.9, eps=1e-6),
        lambda g, p: oracles.adadelta(g, 0.5, 0.9, 1e-6),
        lambda: optax.adadelta(0.5, 0.9, 1e-6),
        dict(learning_rate=0.06, decay=0.5),
    ),
    Case(
        "laprop",
        ewa_optax.laprop,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-8),
        lambda g, p: oracles.laprop(g, 0.1, 0.9, 0.99, 1e-8),
        None,
        dict(learning_rate=1e-2, b2=0.999),
    ),
    Case(
        "rmsprop_momentum",
        ewa_optax.rmsprop_momentum,
        dict(learning_rate=0.1, decay=0.95, momentum=0.8, eps=1e-8, eps_root=1e-9),
        lambda g, p: oracles.rmsprop_momentum(g, 0.1, 0.95, 0.8, 1e-8, 1e-9),
        None,
        dict(learning_rate=1e-3),
    ),
    Case(
        "rmsprop_centered",
        ewa_optax.rmsprop_centered,
        dict(learning_rate=0.1, decay=0.95, momentum=0.9, eps=1e-8, eps_root=1e-4),
        lambda g, p: oracles.rmsprop_centered(g, 0.1, 0.95, 0.9, 1e-8, 1e-4),
        lambda: optax.rmsprop(0.1, 0.95, 1e-4, centered=True, momentum=0.9),
        dict(learning_rate=1e-3),
    ),
    Case(
        "adamax",
        ewa_optax.adamax,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-16),
        lambda g, p: oracles.adamax(g, 0.1, 0.9, 0.99, 1e-16),
        lambda: optax.adamax(0.1, 0.9, 0.99, 1e-16),
        dict(learning_rate=1e-1, b2=0.999),
    ),
    Case(
        "amsgrad",
        ewa_optax.amsgrad,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-8, eps_root=1e-3),
        lambda g, p: oracles.amsgrad(g, 0.1, 0.9, 0.99, 1e-8, 1e-3),
        lambda: optax.amsgrad(0.1, 0.9, 0.99, 1e-8, 1e-3, bias_correction_mu=False, bias_correction_nu=False),
        dict(learning_rate=1e-1, b2=0.999),
    ),
    Case(
        "yogi",
        ewa_optax.yogi,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-3, eps_root=1e-3),
        lambda g, p: oracles.yogi(g, 0.1, 0.9, 0.99, 1e-3, 1e-3),
        None,
        dict(learning_rate=1e-1, b2=0.999),
    ),
    Case(
        "radam",
        ewa_optax.radam,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-3, eps_root=1e-3, threshold=8.0),
        lambda g, p: oracles.radam(g, 0.1, 0.9, 0.99, 1e-3, 1e-3, 8.0),
        lambda: optax.radam(0.1, 0.9, 0.99, 1e-3, 1e-3, threshold=8.0),
        dict(learning_rate=5e-3, b2=0.999),
        twin_tolerance=1e-4,  # Early on, optax forms rho_t from two numbers of float32 near 1/(1 - b2).
    ),
    Case(
        "nadam",
        ewa_optax.nadam,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-8, eps_root=1e-3),
        lambda g, p: oracles.nadam(g, 0.1, 0.9, 0.99, 1e-8, 1e-3),
        lambda: optax.nadam(0.1, 0.9, 0.99, 1e-8, 1e-3),
        dict(learning_rate=1e-2, b2=0.999),
    ),
    Case(
        "nadamw",
        ewa_optax.nadamw,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-8, eps_root=1e-9, weight_decay=1e-2),
        lambda g, p: oracles.nadamw(g, p, 0.1, 0.9, 0.99, 1e-8, 1e-9, 1e-2),
        lambda: optax.nadamw(0.1, 0.9, 0.99, 1e-8, 1e-9, weight_decay=1e-2),
        dict(learning_rate=1e-2, b2=0.999, weight_decay=1e-4),
    ),
    Case(
        "adabelief",
        ewa_optax.adabelief,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-16, eps_root=1e-16),
        lambda g, p: oracles.adabelief(g, 0.1, 0.9, 0.99, 1e-16, 1e-16),
        lambda: optax.adabelief(0.1, 0.9, 0.99, 1e-16, 1e-16),
        dict(learning_rate=1e-2, b2=0.999),
        noise=1.5,  # The squares are of differences from a rounded average.
    ),
    Case(
        "ademamix",
        ewa_optax.ademamix,
        dict(
            learning_rate=0.01,
            b1=0.9,
            b2=0.99,
            b3=0.99,
            alpha=5.0,
            eps=1e-8,
            eps_root=1e-3,
            weight_decay=1e-2,
            warmup=100,
        ),
        lambda g, p: oracles.ademamix(g, p, 0.01, 0.9, 0.99, 0.99, 5.0, 1e-8, 1e-3, 1e-2, 100),
        None,
        dict(learning_rate=1e-2, b2=0.999, b3=0.99, weight_decay=0.0),
        noise=1.5,  # The slow average counts five times.
    ),
    Case(
        "ademamix_at_once",
        ewa_optax.ademamix,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, b3=0.999, alpha=5.0, eps=1e-8, weight_decay=1e-2),
        lambda g, p: oracles.ademamix(g, p, 0.1, 0.9, 0.99, 0.999, 5.0, 1e-8, 0.0, 1e-2),
        lambda: optax.contrib.ademamix(0.1, 0.9, 0.99, 0.999, 5.0, 1e-8, weight_decay=1e-2),
        dict(learning_rate=1e-2, b2=0.999, b3=0.99, weight_decay=0.0),
    ),
    Case(
        "adan",
        ewa_optax.adan,
        dict(learning_rate=0.1, b1=0.98, b2=0.92, b3=0.99, eps=1e-8, eps_root=1e-3, weight_decay=1e-2),
        lambda g, p: oracles.adan(g, p, 0.1, 0.98, 0.92, 0.99, 1e-8, 1e-3, 1e-2),
        None,
        dict(learning_rate=1e-2, weight_decay=0.0),
    ),
    Case(
        "soap",
        EVERY["soap"],
        dict(learning_rate=0.1, b1=0.9, b2=0.95, shampoo_decay=0.9, eps=1e-8, weight_decay=1e-2),
        lambda g, p: oracles.soap(g, p, 0.1, 0.9, 0.95, 0.9, 1e-8, 1e-2),
        None,
        dict(learning_rate=1e-2, b2=0.999, weight_decay=0.0),
        oracle_tolerance=3e-4,  # Of eigenvectors, by the gaps between eigenvalues.
        complex_tolerance=3e-4,
        shape=(8, 8),
        gradients=with_eigenvectors,
    ),
    Case(
        "lars",
        ewa_optax.lars,
        dict(learning_rate=0.1, weight_decay=1e-2, trust_coefficient=0.1, momentum=0.9),
        lambda g, p: oracles.lars(g, p, 0.1, 1e-2, 0.1, 0.9),
        None,
        dict(learning_rate=SHRINKING, weight_decay=0.0, trust_coefficient=0.1),
    ),
    Case(
        "novograd",
        ewa_optax.novograd,
        dict(learning_rate=0.1, b1=0.95, b2=0.98, eps=1e-8, eps_root=100.0, weight_decay=1e-2),
        lambda g, p: oracles.novograd(g, p, 0.1, 0.95, 0.98, 1e-8, 100.0, 1e-2),
        None,
        dict(learning_rate=1e-3, weight_decay=0.0),
    ),
    Case(
        "lamb",
        ewa_optax.lamb,
        dict(learning_rate=0.01, b1=0.9, b2=0.99, eps=1e-3, eps_root=1e-3, weight_decay=1e-2),
        lambda g, p: oracles.lamb(g, p, 0.01, 0.9, 0.99, 1e-3, 1e-3, 1e-2),
        lambda: optax.lamb(0.01, 0.9, 0.99, 1e-3, 1e-3, weight_decay=1e-2),
        dict(learning_rate=SHRINKING, b2=0.999, weight_decay=0.0),
    ),
    Case(
        "adafactor",
        ewa_optax.adafactor,
        dict(learning_rate=0.1, decay_rate=0.8, clipping_threshold=1.0, eps_root=1e-2, min_scale=1e-3),
        lambda g, p: oracles.adafactor(g, p, 0.1, 0.8, 1.0, 1e-2, 1e-3),
        lambda: optax.adafactor(0.1, min_dim_size_to_factor=2, eps=1e-2),
        dict(learning_rate=SHRINKING),
        shape=(8, 10),
    ),
    Case(
        "adafactor_of_vectors",
        ewa_optax.adafactor,
        dict(learning_rate=0.1, decay_rate=0.8, clipping_threshold=1.0, eps_root=1e-6, min_scale=50.0),
        lambda g, p: oracles.adafactor(g, p, 0.1, 0.8, 1.0, 1e-6, 50.0),
        None,
        dict(learning_rate=SHRINKING, min_scale=1e-3),
    ),
    MUON,
    MUON._replace(name="muon_of_matrices", shape=(8, 10)),
    Case(
        "normuon",
        of_all(ewa_optax.normuon),
        dict(learning_rate=0.1, decay=0.9, b2=0.99, eps=1e-10, weight_decay=1e-2),
        lambda g, p: oracles.normuon(g, p, 0.1, 0.9, 0.99, 1e-10, 1e-2),
        None,
        dict(learning_rate=lambda count: 0.1 * 0.999**count, weight_decay=0.0),
        oracle_tolerance=1e-5,
        complex_tolerance=1e-5,
        shape=(8, 10),
    ),
    Case(
        "muon_hyperball",
        of_all(ewa_optax.muon_hyperball),
        dict(learning_rate=0.1, decay=0.9),
        lambda g, p: oracles.muon_hyperball(g, p, 0.1, 0.9),
        None,
        None,
        oracle_tolerance=2e-5 * ROUNDS_MORE,
        complex_tolerance=2e-5 * ROUNDS_MORE,
        of_parameters=3e-7,
        shape=(8, 10),
    ),
]

OWN = [
    Case(
        "adopt",
        own.adopt,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-6),
        lambda g, p: oracles.adopt(g, 0.1, 0.9, 0.99, 1e-6),
        lambda: optax.chain(optax.contrib.scale_by_adopt(0.9, 0.99, 1e-6), optax.scale(-0.1)),
        dict(learning_rate=SHRINKING),
    ),
    Case(
        "cautious_adamw",
        own.cautious_adamw,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-8, weight_decay=1e-2),
        lambda g, p: oracles.cautious_adamw(g, p, 0.1, 0.9, 0.99, 1e-8, 1e-2),
        None,
        dict(learning_rate=SHRINKING, weight_decay=0.0),
        noise=6.0,  # Rounding may turn a sign.
    ),
    Case(
        "adam_of_rows",
        own.adam_of_rows,
        dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-8),
        lambda g, p: oracles.adam_of_rows(g, 0.1, 0.9, 0.99, 1e-8),
        None,
        dict(learning_rate=SHRINKING),
        shape=(8, 8),
    ),
    Case(
        "grokfast",
        own.grokfast,
        dict(learning_rate=0.1, decay=0.95, weight=2.0, b1=0.9, b2=0.99, eps=1e-8),
        lambda g, p: oracles.grokfast(g, 0.1, 0.95, 2.0, 0.9, 0.99, 1e-8),
        None,
        dict(learning_rate=SHRINKING),
    ),
    Case(
        "momentum_of_clipped",
        own.momentum_of_clipped,
        dict(learning_rate=0.1, decay=0.9),
        lambda g, p: oracles.momentum_of_clipped(g, 0.1, 0.9),
        None,
        dict(learning_rate=3e-3),
    ),
]

# Of updates whose averages were rounded between steps, the root mean square error.
ROUNDED = {"bfloat16": 1e-2, "float16": 3e-3, "24bit": 5e-5, "8bit": 5e-2}


def root_mean_square(errors):
    return np.sqrt(np.mean(errors**2))


# What runs every time, besides each storage with adam; the others are as good as these, and slow.
QUICK = {("momentum", "24bit"), ("rmsprop", "8bit")}


def stored(case, name):
    storage = dataclasses.replace(NAMED[name], min_size=0)
    return case._replace(
        name=f"{case.name}-{name}",
        make=functools.partial(case.make, storage=storage),
        oracle_tolerance=ROUNDED[name] * case.noise,
        twin_tolerance=ROUNDED[name] * case.noise,
        storage=storage,
        slow=case.name != "adam" and (case.name, name) not in QUICK,
        error=root_mean_square,
    )


def takes(case, kind):
    storage = inspect.signature(case.make).parameters.get("storage")
    return storage is not None and storage.annotation in kind and case.name == case.make.__name__


STORED = [
    stored(case, name) for name in ROUNDED for case in FULL + FAMILY + OWN if takes(case, (StorageLike, MomentStorages))
]
FACTORED = [
    case._replace(
        name=f"{case.name}-factored",
        make=functools.partial(case.make, storage=(None, Factored(min_size=0))),
        slow=case.name != "adam",
    )
    for case in FULL + FAMILY + OWN
    if takes(case, (MomentStorages,))
    and case.name not in ("adam_of_rows", "soap")  # Of rows without a second axis; of a matrix.
]
CASES = FULL + FAMILY + OWN + FACTORED + STORED
# Those of the family that differ most: with them, what is no arithmetic runs every time.
DIFFERENT = {"lion", "rmsprop_centered", "ademamix", "adan", "novograd", "adafactor", "adopt"}


# All pieces, of a storage; those that need another one in front or behind, with it.
PIECES: dict[str, Callable[[StorageLike], optax.GradientTransformation]] = {
    "add": lambda kept: pieces.add(pieces.scale_by_ewa(0.9, kept), pieces.bias_correct(0.9)),
    "add_decayed_weights": lambda kept: pieces.add_decayed_weights(0.1),
    "average_parameters": lambda kept: pieces.average_parameters(0.9, storage=kept),
    "beside": lambda kept: optax.chain(pieces.beside(pieces.scale_by_ewa(0.9, kept)), pieces.take(1)),
    "bias_correct": lambda kept: pieces.bias_correct(0.9),
    "bias_correct_ahead": lambda kept: pieces.bias_correct_ahead(0.9),
    "cautious_weight_decay": lambda kept: pieces.cautious_weight_decay(0.1),
    "clip_by_rms": lambda kept: pieces.clip_by_rms(0.5),
    "combine": lambda kept: optax.chain(pieces.beside(optax.scale(2.0)), pieces.combine(1, -1)),
    "decay_weights": lambda kept: pieces.decay_weights(0.1),
    "difference": lambda kept: pieces.difference(kept),
    "divide": lambda kept: pieces.divide(pieces.scale_by_ewa(0.9, kept), pieces.root_mean_square(optax.identity())),
    "elementwise": lambda kept: pieces.elementwise(jax.numpy.tanh),
    "elementwise_by_step": lambda kept: pieces.elementwise_by_step(lambda u, step: u * step),
    "look_ahead": lambda kept: pieces.look_ahead(0.9, kept),
    "of_arrays": lambda kept: pieces.scale_by_rms(pieces.of_arrays(pieces.scale_by_ewa(0.9, for_squares(kept)))),
    "of_rows": lambda kept: pieces.scale_by_rms(pieces.of_rows(pieces.scale_by_ewa(0.9, for_squares(kept)))),
    "of_rows_and_columns": lambda kept: pieces.scale_by_rms(
        pieces.of_rows_and_columns(pieces.scale_by_ewa(0.9, for_squares(kept)))
    ),
    "optimizer": lambda kept: pieces.optimizer(pieces.scale_by_ewa(0.9, kept)),
    "proximal_weight_decay": lambda kept: pieces.proximal_weight_decay(0.1, 0.1),
    "rectify": lambda kept: pieces.rectify(0.9),
    "recursion": lambda kept: pieces.recursion(lambda k, u, step: (k + u, u - k / step), kept),
    "root_mean_square": lambda kept: pieces.root_mean_square(pieces.scale_by_ewa(0.9, for_squares(kept))),
    "round_stochastically": lambda kept: pieces.round_stochastically(),
    "running_max": lambda kept: pieces.running_max(0.9, kept),
    "saturate": lambda kept: pieces.saturate(),
    "saturate_norm": lambda kept: pieces.saturate_norm(),
    "scale_by_additive_ewa": lambda kept: pieces.scale_by_additive_ewa(0.9, kept),
    "scale_by_corrected_ewa": lambda kept: pieces.scale_by_corrected_ewa(0.9, kept),
    "scale_by_ewa": lambda kept: pieces.scale_by_ewa(0.9, kept),
    "scale_by_ewa_of_share": lambda kept: pieces.scale_by_ewa_of_share(lambda t: 1 / t, kept),
    "scale_by_learning_rate": lambda kept: pieces.scale_by_learning_rate(0.1),
    "scale_by_parameter_rms": lambda kept: pieces.scale_by_parameter_rms(),
    "scale_by_past_rms": lambda kept: pieces.scale_by_past_rms(0.9, storage=for_squares(kept)),
    "scale_by_rms": lambda kept: pieces.scale_by_rms(pieces.scale_by_ewa(0.9, for_squares(kept))),
    "scale_by_trust_ratio": lambda kept: pieces.scale_by_trust_ratio(weight_decay=0.1),
    "scale_once": lambda kept: pieces.scale_once(pieces.scale_by_learning_rate(0.1), pieces.bias_correct(0.9)),
    "take": lambda kept: optax.chain(pieces.beside(optax.scale(2.0)), pieces.take(0)),
}
