"""All that optimizers are made of, to make your own: every word that those of this library are made of is here.

The outermost word: optimizer, with a guard in front: saturate, saturate_norm.
Averages: scale_by_ewa, bias_correct, bias_correct_ahead, scale_by_corrected_ewa (both in one), look_ahead.
Other averages: scale_by_ewa_of_share (a decay that changes with time), scale_by_additive_ewa, running_max.
What else is kept: difference (from the update before), scale_by_past_rms.
What is kept, read: read_average.
Shares and weights that change with time: share_after_the_first, share_of_power, share_of_growing_half_life, growing,
relative_step; shares (of the past and the newest value).
What combines pieces: add, divide; beside, which hands on a Beside, and behind it take or combine. And optax.chain,
optax.scale, optax.masked.
Division by a size: scale_by_rms, root_mean_square, rectify.
By arrays: scale_by_trust_ratio, clip_by_rms, scale_by_parameter_rms, of_arrays, of_rows, of_rows_and_columns.
Rates and weight decay: scale_by_learning_rate, scale_once, add_decayed_weights, cautious_weight_decay, decay_weights
(which the rate has no part in), proximal_weight_decay; for their masks, path_matches, ndim_at_least.
Parameters: average_parameters, round_stochastically (onto the grid of 16 bits).
Pieces of your own: recursion (what keeps an array), elementwise, elementwise_by_step (what keeps none).
Arguments of your own, checked where users write them: checked, rule; Number, and the kinds of numbers that have rules:
Rate, WeightDecay (and its Mask), Decay, OpenDecay, Epsilon, Exponent, Warmup, Threshold, ClipThreshold,
TrustCoefficient, MinScale, Positive, Finite, Whole, Count.

Adam with Lion's numerator, in 8 bits:

    >>> from ewa_optax import pieces, storage
    >>> m = pieces.scale_by_ewa(0.99, "8bit")
    >>> v = pieces.scale_by_corrected_ewa(0.999, storage.second_moment("8bit"))
    >>> lions = pieces.optimizer(pieces.beside(m), pieces.combine(0.1, 0.9), guard=None)
    >>> mine = pieces.optimizer(pieces.scale_by_rms(v, numerator=lions), pieces.scale_by_learning_rate(1e-3))
"""

from ewa_optax._checks import Count, Decay, Epsilon, Finite, OpenDecay, Positive, Rate, Whole, checked, rule
from ewa_optax._numerics import Number, shares
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
from ewa_optax.pieces._combining import Beside, add, beside, combine, divide, take
from ewa_optax.pieces._decay_schedules import (
    Exponent,
    Warmup,
    growing,
    relative_step,
    share_after_the_first,
    share_of_growing_half_life,
    share_of_power,
)
from ewa_optax.pieces._elementwise import elementwise, elementwise_by_step
from ewa_optax.pieces._layerwise import (
    ClipThreshold,
    MinScale,
    TrustCoefficient,
    clip_by_rms,
    of_arrays,
    of_rows,
    of_rows_and_columns,
    scale_by_parameter_rms,
    scale_by_trust_ratio,
)
from ewa_optax.pieces._learning_rate import scale_by_learning_rate, scale_once
from ewa_optax.pieces._optimizer import optimizer, saturate, saturate_norm
from ewa_optax.pieces._parameter_average import average_parameters
from ewa_optax.pieces._parameter_rounding import round_stochastically
from ewa_optax.pieces._recursion import read_average, recursion
from ewa_optax.pieces._rms import Threshold, rectify, root_mean_square, scale_by_rms
from ewa_optax.pieces._weight_decay import (
    Mask,
    WeightDecay,
    add_decayed_weights,
    cautious_weight_decay,
    decay_weights,
    ndim_at_least,
    path_matches,
    proximal_weight_decay,
)

__all__ = [
    "Beside",
    "ClipThreshold",
    "Count",
    "Decay",
    "Epsilon",
    "Exponent",
    "Finite",
    "Mask",
    "MinScale",
    "Number",
    "OpenDecay",
    "Positive",
    "Rate",
    "Threshold",
    "TrustCoefficient",
    "Warmup",
    "WeightDecay",
    "Whole",
    "add",
    "add_decayed_weights",
    "average_parameters",
    "beside",
    "bias_correct",
    "bias_correct_ahead",
    "cautious_weight_decay",
    "checked",
    "clip_by_rms",
    "combine",
    "decay_weights",
    "difference",
    "divide",
    "elementwise",
    "elementwise_by_step",
    "growing",
    "look_ahead",
    "ndim_at_least",
    "of_arrays",
    "of_rows",
    "of_rows_and_columns",
    "optimizer",
    "path_matches",
    "proximal_weight_decay",
    "read_average",
    "rectify",
    "recursion",
    "relative_step",
    "root_mean_square",
    "round_stochastically",
    "rule",
    "running_max",
    "saturate",
    "saturate_norm",
    "scale_by_additive_ewa",
    "scale_by_corrected_ewa",
    "scale_by_ewa",
    "scale_by_ewa_of_share",
    "scale_by_learning_rate",
    "scale_by_parameter_rms",
    "scale_by_past_rms",
    "scale_by_rms",
    "scale_by_trust_ratio",
    "scale_once",
    "share_after_the_first",
    "share_of_growing_half_life",
    "share_of_power",
    "shares",
    "take",
]
