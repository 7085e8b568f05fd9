"""Exponentially weighted averages of series: along an axis, with gaps, in pieces; and what a decay means."""

from ewa_optax.series._arguments import EwaState as EwaState
from ewa_optax.series._decays import center_of_mass_from_decay as center_of_mass_from_decay
from ewa_optax.series._decays import decay_from_center_of_mass as decay_from_center_of_mass
from ewa_optax.series._decays import decay_from_half_life as decay_from_half_life
from ewa_optax.series._decays import decay_from_span as decay_from_span
from ewa_optax.series._decays import decay_from_window as decay_from_window
from ewa_optax.series._decays import half_life_from_decay as half_life_from_decay
from ewa_optax.series._decays import span_from_decay as span_from_decay
from ewa_optax.series._decays import weights as weights
from ewa_optax.series._decays import window_from_decay as window_from_decay
from ewa_optax.series._ewa import ewa as ewa
from ewa_optax.series._ewa import ewa_with_state as ewa_with_state
from ewa_optax.series._moments import ewa_cov as ewa_cov
from ewa_optax.series._moments import ewa_std as ewa_std
from ewa_optax.series._moments import ewa_var as ewa_var

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
