"""All optimizers by their names, in the order of their modules: of growing complexity within each family."""

from collections.abc import Callable

import optax

from ewa_optax._optimizers.adam import (
    adabelief,
    adam,
    adamax,
    adamw,
    adan,
    ademamix,
    amsgrad,
    nadam,
    nadamw,
    radam,
    yogi,
)
from ewa_optax._optimizers.layerwise import adafactor, lamb, lars, novograd
from ewa_optax._optimizers.momentum import gradient_descent, heavy_ball, lion, momentum, nesterov, signum
from ewa_optax._optimizers.rmsprop import adadelta, laprop, rmsprop, rmsprop_centered, rmsprop_momentum

__all__ = [
    "adabelief",
    "adadelta",
    "adafactor",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "ademamix",
    "amsgrad",
    "gradient_descent",
    "heavy_ball",
    "lamb",
    "laprop",
    "lars",
    "lion",
    "momentum",
    "nadam",
    "nadamw",
    "nesterov",
    "novograd",
    "radam",
    "rmsprop",
    "rmsprop_centered",
    "rmsprop_momentum",
    "signum",
    "yogi",
]  # fmt: skip  # By complexity.

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {name: globals()[name] for name in __all__}
