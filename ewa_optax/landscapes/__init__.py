"""Landscapes: toy surfaces, the path of an optimizer on a function, and how the function curves at a point."""

from ewa_optax.landscapes._curvature import Curvature as Curvature
from ewa_optax.landscapes._curvature import curvature as curvature
from ewa_optax.landscapes._path import Path as Path
from ewa_optax.landscapes._path import path as path
from ewa_optax.landscapes._surfaces import Surface as Surface
from ewa_optax.landscapes._surfaces import plateau as plateau
from ewa_optax.landscapes._surfaces import ravine as ravine
from ewa_optax.landscapes._surfaces import rosenbrock as rosenbrock
from ewa_optax.landscapes._surfaces import saddle as saddle

__all__ = ["Curvature", "Path", "Surface", "curvature", "path", "plateau", "ravine", "rosenbrock", "saddle"]
