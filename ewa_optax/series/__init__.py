"""Exponentially weighted averages of series: along an axis, with gaps, in pieces; and what a decay means."""

from ewa_optax.series._arguments import EwaState
from ewa_optax.series._decays import (
    center_of_mass_from_decay,
    decay_from_center_of_mass,
    decay_from_half_life,
    decay_from_span,
    decay_from_window,
    half_life_from_decay,
    span_from_decay,
    weights,
    window_from_decay,
)
from ewa_optax.series._ewa import ewa, ewa_with_state
from ewa_optax.series._moments import ewa_cov, ewa_std, ewa_var

__all__ = [
    "EwaState",
    "center_of_mass_from_decay",
    "decay_from_center_of_mass",
    "decay_from_half_life",
    "decay_from_span",
    "decay_from_window",
    "ewa",
    "ewa_cov",
    "ewa_std",
    "ewa_var",
    "ewa_with_state",
    "half_life_from_decay",
    "span_from_decay",
    "weights",
    "window_from_decay",
]
