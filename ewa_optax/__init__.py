r"""Optimizers for JAX as short expressions over exponentially weighted averages.

Every piece is an `optax.GradientTransformation`, so it goes into `optax.chain` and every JAX model:

    adam = optax.chain(
        scale_by_rms(
            optax.chain(scale_by_ewa(0.999), bias_correct(0.999)),
            numerator=optax.chain(scale_by_ewa(0.9), bias_correct(0.9)),
        ),
        scale_by_learning_rate(1e-3),
    )

Optimizers: gradient_descent, momentum, heavy_ball, rmsprop, adam, adamw.
Pieces: scale_by_ewa, bias_correct, scale_by_rms, scale_by_learning_rate, round_stochastically.
Schedules: schedule_inverse_time, schedule_exponential, schedule_inverse_sqrt, schedule_staircase.
Learning rates while training runs: get_learning_rate, rescale_learning_rate.
Averages of parameters: average_parameters, get_average.
Memory: state_bytes.
Training: fit, and what it returns, Fitted, with its History.
Namespaces: series (averages of series), storage (averages in 8 to 24 bits), minibatch (order, epochs, pure training,
batch sizes), plots (pictures).
"""

from ewa_optax import minibatch as minibatch
from ewa_optax import plots as plots
from ewa_optax import series as series
from ewa_optax import storage as storage
from ewa_optax._average import bias_correct as bias_correct
from ewa_optax._average import scale_by_ewa as scale_by_ewa
from ewa_optax._fit import fit as fit
from ewa_optax._history import History as History
from ewa_optax._learning_rate import get_learning_rate as get_learning_rate
from ewa_optax._learning_rate import rescale_learning_rate as rescale_learning_rate
from ewa_optax._learning_rate import scale_by_learning_rate as scale_by_learning_rate
from ewa_optax._optimizers import adam as adam
from ewa_optax._optimizers import adamw as adamw
from ewa_optax._optimizers import gradient_descent as gradient_descent
from ewa_optax._optimizers import heavy_ball as heavy_ball
from ewa_optax._optimizers import momentum as momentum
from ewa_optax._optimizers import rmsprop as rmsprop
from ewa_optax._parameter_average import average_parameters as average_parameters
from ewa_optax._parameter_average import get_average as get_average
from ewa_optax._parameters import round_stochastically as round_stochastically
from ewa_optax._rms import scale_by_rms as scale_by_rms
from ewa_optax._schedules import schedule_exponential as schedule_exponential
from ewa_optax._schedules import schedule_inverse_sqrt as schedule_inverse_sqrt
from ewa_optax._schedules import schedule_inverse_time as schedule_inverse_time
from ewa_optax._schedules import schedule_staircase as schedule_staircase
from ewa_optax._state_bytes import state_bytes as state_bytes
from ewa_optax._training import Fitted as Fitted

__version__ = "0.1.0"
