r"""Optimizers for JAX as short expressions over exponentially weighted averages.

Every piece is an `optax.GradientTransformation`, so it goes into `optax.chain` and every JAX model:

    adam = optax.chain(
        scale_by_rms(
            optax.chain(scale_by_ewa(0.999), bias_correct(0.999)),
            numerator=optax.chain(scale_by_ewa(0.9), bias_correct(0.9)),
        ),
        scale_by_learning_rate(1e-3),
    )

Optimizers, by averages of gradients: gradient_descent, momentum, heavy_ball, nesterov, signum, lion.
Divided by the size of gradients: rmsprop, adadelta, laprop, rmsprop_momentum, rmsprop_centered.
An average by an average: adamax, amsgrad, yogi, adam, adamw, radam, nadam, nadamw, adabelief, ademamix, adan.
By layers: lars, novograd, lamb, adafactor.
Of orthogonal steps, for matrices: muon, normuon, muon_hyperball; muon_with_adamw, which gives the rest to AdamW.
Of the eigenvectors of matrices: soap.
Pieces: scale_by_ewa, bias_correct, scale_by_rms, scale_by_learning_rate, add_decayed_weights, round_stochastically.
Schedules: schedule_inverse_time, schedule_exponential, schedule_inverse_sqrt, schedule_staircase; around any of them:
schedule_warmup, schedule_cooldown, the latter as shape_linear, shape_cosine, shape_one_minus_sqrt.
Learning rates while training runs: get_learning_rate, get_learning_rates, rescale_learning_rate.
Averages of parameters: average_parameters, get_average.
Groups of parameters by their paths, each with its own optimizer: groups.
Gradients of several micro-batches: accumulate.
Norms along a training: watch, get_norms. Gradients far above those before: clip_by_past_norm, skip_spikes, get_skipped.
Memory: state_bytes, peak_bytes. Several devices: state_shardings.
Taking over a training from optax, or from another storage, and back: carry_over.
Many leaves: stack_leaves, which makes a Stacked, unstack_leaves, stack_leaves_like.
Training: fit, and what it returns, Fitted, with its History.
Namespaces: pieces (all that optimizers are made of), matrices (those of them that look at matrices), series (averages
of series), storage (averages in 8 to 24 bits), minibatch (order, epochs, pure training, batch sizes), landscapes (toy
surfaces, paths on them, curvature), plots (pictures).
"""

from ewa_optax import _interrupts as _interrupts
from ewa_optax import landscapes, matrices, minibatch, pieces, plots, series, storage
from ewa_optax._fit.fit import fit
from ewa_optax._fit.result import Fitted, History
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
from ewa_optax._optimizers.muon import muon, muon_hyperball, normuon
from ewa_optax._optimizers.muon_with_adamw import muon_with_adamw
from ewa_optax._optimizers.rmsprop import adadelta, laprop, rmsprop, rmsprop_centered, rmsprop_momentum
from ewa_optax._optimizers.soap import soap
from ewa_optax._schedules import (
    schedule_cooldown,
    schedule_exponential,
    schedule_inverse_sqrt,
    schedule_inverse_time,
    schedule_staircase,
    schedule_warmup,
    shape_cosine,
    shape_linear,
    shape_one_minus_sqrt,
)
from ewa_optax._stacks import Stacked, stack_leaves, stack_leaves_like, unstack_leaves
from ewa_optax._states.carry_over import carry_over
from ewa_optax._states.peak_bytes import peak_bytes
from ewa_optax._states.state_bytes import state_bytes
from ewa_optax._states.state_shardings import state_shardings
from ewa_optax._wrappers.accumulate import accumulate
from ewa_optax._wrappers.groups import groups
from ewa_optax._wrappers.spikes import clip_by_past_norm, get_skipped, skip_spikes
from ewa_optax._wrappers.watch import get_norms, watch
from ewa_optax.pieces._averages import scale_by_ewa
from ewa_optax.pieces._bias_correction import bias_correct
from ewa_optax.pieces._learning_rate import (
    get_learning_rate,
    get_learning_rates,
    rescale_learning_rate,
    scale_by_learning_rate,
)
from ewa_optax.pieces._parameter_average import average_parameters, get_average
from ewa_optax.pieces._parameter_rounding import round_stochastically
from ewa_optax.pieces._rms import scale_by_rms
from ewa_optax.pieces._weight_decay import add_decayed_weights

__all__ = [
    "Fitted",
    "History",
    "Stacked",
    "accumulate",
    "adabelief",
    "adadelta",
    "adafactor",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "add_decayed_weights",
    "ademamix",
    "amsgrad",
    "average_parameters",
    "bias_correct",
    "carry_over",
    "clip_by_past_norm",
    "fit",
    "get_average",
    "get_learning_rate",
    "get_learning_rates",
    "get_norms",
    "get_skipped",
    "gradient_descent",
    "groups",
    "heavy_ball",
    "lamb",
    "landscapes",
    "laprop",
    "lars",
    "lion",
    "matrices",
    "minibatch",
    "momentum",
    "muon",
    "muon_hyperball",
    "muon_with_adamw",
    "nadam",
    "nadamw",
    "nesterov",
    "normuon",
    "novograd",
    "peak_bytes",
    "pieces",
    "plots",
    "radam",
    "rescale_learning_rate",
    "rmsprop",
    "rmsprop_centered",
    "rmsprop_momentum",
    "round_stochastically",
    "scale_by_ewa",
    "scale_by_learning_rate",
    "scale_by_rms",
    "schedule_cooldown",
    "schedule_exponential",
    "schedule_inverse_sqrt",
    "schedule_inverse_time",
    "schedule_staircase",
    "schedule_warmup",
    "series",
    "shape_cosine",
    "shape_linear",
    "shape_one_minus_sqrt",
    "signum",
    "skip_spikes",
    "soap",
    "stack_leaves",
    "stack_leaves_like",
    "state_bytes",
    "state_shardings",
    "storage",
    "unstack_leaves",
    "watch",
    "yogi",
]

__version__ = "0.2.0"
