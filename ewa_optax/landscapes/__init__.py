"""Landscapes: toy surfaces, the path of an optimizer on a function, and how the function curves at a point."""

from ewa_optax.landscapes._curvature import Curvature, curvature
from ewa_optax.landscapes._path import Path, path
from ewa_optax.landscapes._surfaces import Surface, plateau, ravine, rosenbrock, saddle

__all__ = [
    "Curvature",
    "Path",
    "Surface",
    "curvature",
    "path",
    "plateau",
    "ravine",
    "rosenbrock",
    "saddle",
]
