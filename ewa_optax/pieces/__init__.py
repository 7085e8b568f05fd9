"""All that the optimizers are made of, to make your own.

Averages: scale_by_ewa, bias_correct, bias_correct_ahead, scale_by_corrected_ewa (both in one), look_ahead.
Other averages: scale_by_ewa_of_share (a decay that changes with time), scale_by_additive_ewa, running_max.
What else is kept: difference (from the update before), scale_by_past_rms.
Shares and weights that change with time: share_after_the_first, share_of_power, share_of_growing_half_life, growing.
What combines pieces: add, divide; beside, and behind it take or combine. And optax.chain, optax.scale, optax.masked.
Division by a size: scale_by_rms, root_mean_square, rectify.
By arrays: scale_by_trust_ratio, clip_by_rms, scale_by_parameter_rms, of_arrays, of_rows_and_columns.
Rates and weight decay: scale_by_learning_rate, add_decayed_weights, proximal_weight_decay.
Parameters: average_parameters, round_stochastically (onto the grid of 16 bits).

Adam with Lion's numerator, in 8 bits:

    >>> import optax
    >>> from ewa_optax import pieces, storage
    >>> m, v = pieces.scale_by_ewa(0.99, "8bit"), pieces.scale_by_corrected_ewa(0.999, storage.EightBit(squares=True))
    >>> lions = optax.chain(pieces.beside(m), pieces.combine(0.1, 0.9))
    >>> mine = optax.chain(pieces.scale_by_rms(v, numerator=lions), pieces.scale_by_learning_rate(1e-3))
"""

from ewa_optax.pieces._averages import (
    difference,
    running_max,
    scale_by_additive_ewa,
    scale_by_corrected_ewa,
    scale_by_ewa,
    scale_by_ewa_of_share,
    scale_by_past_rms,
)
from ewa_optax.pieces._bias_correction import bias_correct, bias_correct_ahead, look_ahead
from ewa_optax.pieces._combining import add, beside, combine, divide, take
from ewa_optax.pieces._decay_schedules import growing, share_after_the_first, share_of_growing_half_life, share_of_power
from ewa_optax.pieces._layerwise import (
    clip_by_rms,
    of_arrays,
    of_rows_and_columns,
    scale_by_parameter_rms,
    scale_by_trust_ratio,
)
from ewa_optax.pieces._learning_rate import scale_by_learning_rate
from ewa_optax.pieces._parameter_average import average_parameters
from ewa_optax.pieces._parameter_rounding import round_stochastically
from ewa_optax.pieces._rms import rectify, root_mean_square, scale_by_rms
from ewa_optax.pieces._weight_decay import add_decayed_weights, proximal_weight_decay

__all__ = [
    "add",
    "add_decayed_weights",
    "average_parameters",
    "beside",
    "bias_correct",
    "bias_correct_ahead",
    "clip_by_rms",
    "combine",
    "difference",
    "divide",
    "growing",
    "look_ahead",
    "of_arrays",
    "of_rows_and_columns",
    "proximal_weight_decay",
    "rectify",
    "root_mean_square",
    "round_stochastically",
    "running_max",
    "scale_by_additive_ewa",
    "scale_by_corrected_ewa",
    "scale_by_ewa",
    "scale_by_ewa_of_share",
    "scale_by_learning_rate",
    "scale_by_parameter_rms",
    "scale_by_past_rms",
    "scale_by_rms",
    "scale_by_trust_ratio",
    "share_after_the_first",
    "share_of_growing_half_life",
    "share_of_power",
    "take",
]
