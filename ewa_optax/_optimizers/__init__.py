"""All optimizers by their names, in the order of their modules: of growing complexity within each family."""

import inspect
from collections.abc import Callable
from types import ModuleType

import optax

from ewa_optax._optimizers import adam, layerwise, momentum, rmsprop

FAMILIES = (momentum, rmsprop, adam, layerwise)


def _members(module: ModuleType) -> dict[str, Callable[..., optax.GradientTransformation]]:
    return {name: x for name, x in vars(module).items() if inspect.isfunction(x) and x.__module__ == module.__name__}


OPTIMIZERS = {name: optimizer for module in FAMILIES for name, optimizer in _members(module).items()}
