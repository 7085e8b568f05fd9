"""All optimizers by their names, in the order of their modules: of growing complexity within each family."""

import inspect
from collections.abc import Callable
from types import ModuleType

import optax

from ewa_optax import _adam_family, _layerwise_family, _momentum_family, _rmsprop_family

FAMILIES = (_momentum_family, _rmsprop_family, _adam_family, _layerwise_family)


def _members(module: ModuleType) -> dict[str, Callable[..., optax.GradientTransformation]]:
    return {name: x for name, x in vars(module).items() if inspect.isfunction(x) and x.__module__ == module.__name__}


OPTIMIZERS = {name: optimizer for module in FAMILIES for name, optimizer in _members(module).items()}
