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
Pieces: scale_by_ewa, bias_correct, scale_by_rms, scale_by_learning_rate, add_decayed_weights, round_stochastically.
Schedules: schedule_inverse_time, schedule_exponential, schedule_inverse_sqrt, schedule_staircase.
Learning rates while training runs: get_learning_rate, rescale_learning_rate.
Averages of parameters: average_parameters, get_average.
Memory: state_bytes.
Many leaves: stack_leaves, which makes a Stacked, unstack_leaves, stack_leaves_like.
Training: fit, and what it returns, Fitted, with its History.
Namespaces: pieces (all that optimizers are made of), series (averages of series), storage (averages in 8 to 24 bits),
minibatch (order, epochs, pure training, batch sizes), landscapes (toy surfaces, paths on them, curvature), plots
(pictures).
"""

from ewa_optax import landscapes as landscapes
from ewa_optax import minibatch as minibatch
from ewa_optax import pieces as pieces
from ewa_optax import plots as plots
from ewa_optax import series as series
from ewa_optax import storage as storage
from ewa_optax._fit.fit import fit as fit
from ewa_optax._fit.result import Fitted as Fitted
from ewa_optax._fit.result import History as History
from ewa_optax._optimizers.adam import adabelief as adabelief
from ewa_optax._optimizers.adam import adam as adam
from ewa_optax._optimizers.adam import adamax as adamax
from ewa_optax._optimizers.adam import adamw as adamw
from ewa_optax._optimizers.adam import adan as adan
from ewa_optax._optimizers.adam import ademamix as ademamix
from ewa_optax._optimizers.adam import amsgrad as amsgrad
from ewa_optax._optimizers.adam import nadam as nadam
from ewa_optax._optimizers.adam import nadamw as nadamw
from ewa_optax._optimizers.adam import radam as radam
from ewa_optax._optimizers.adam import yogi as yogi
from ewa_optax._optimizers.layerwise import adafactor as adafactor
from ewa_optax._optimizers.layerwise import lamb as lamb
from ewa_optax._optimizers.layerwise import lars as lars
from ewa_optax._optimizers.layerwise import novograd as novograd
from ewa_optax._optimizers.momentum import gradient_descent as gradient_descent
from ewa_optax._optimizers.momentum import heavy_ball as heavy_ball
from ewa_optax._optimizers.momentum import lion as lion
from ewa_optax._optimizers.momentum import momentum as momentum
from ewa_optax._optimizers.momentum import nesterov as nesterov
from ewa_optax._optimizers.momentum import signum as signum
from ewa_optax._optimizers.rmsprop import adadelta as adadelta
from ewa_optax._optimizers.rmsprop import laprop as laprop
from ewa_optax._optimizers.rmsprop import rmsprop as rmsprop
from ewa_optax._optimizers.rmsprop import rmsprop_centered as rmsprop_centered
from ewa_optax._optimizers.rmsprop import rmsprop_momentum as rmsprop_momentum
from ewa_optax._optimizers.state_bytes import state_bytes as state_bytes
from ewa_optax._schedules import schedule_exponential as schedule_exponential
from ewa_optax._schedules import schedule_inverse_sqrt as schedule_inverse_sqrt
from ewa_optax._schedules import schedule_inverse_time as schedule_inverse_time
from ewa_optax._schedules import schedule_staircase as schedule_staircase
from ewa_optax._stacks import Stacked as Stacked
from ewa_optax._stacks import stack_leaves as stack_leaves
from ewa_optax._stacks import stack_leaves_like as stack_leaves_like
from ewa_optax._stacks import unstack_leaves as unstack_leaves
from ewa_optax.pieces._averages import scale_by_ewa as scale_by_ewa
from ewa_optax.pieces._bias_correction import bias_correct as bias_correct
from ewa_optax.pieces._learning_rate import get_learning_rate as get_learning_rate
from ewa_optax.pieces._learning_rate import rescale_learning_rate as rescale_learning_rate
from ewa_optax.pieces._learning_rate import scale_by_learning_rate as scale_by_learning_rate
from ewa_optax.pieces._parameter_average import average_parameters as average_parameters
from ewa_optax.pieces._parameter_average import get_average as get_average
from ewa_optax.pieces._parameter_rounding import round_stochastically as round_stochastically
from ewa_optax.pieces._rms import scale_by_rms as scale_by_rms
from ewa_optax.pieces._weight_decay import add_decayed_weights as add_decayed_weights

__version__ = "0.1.0"
