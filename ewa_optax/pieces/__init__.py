"""All that the optimizers are made of, to make your own.

Averages: scale_by_ewa, bias_correct, bias_correct_ahead, scale_by_corrected_ewa (both in one), look_ahead.
Other averages: scale_by_ewa_of_share (a decay that changes with time), scale_by_additive_ewa, running_max.
What else is kept: difference (from the update before), scale_by_past_rms.
Shares and weights that change with time: share_after_the_first, share_of_power, share_of_growing_half_life, growing.
What combines pieces: add, divide; beside, and behind it take or combine. And optax.chain, optax.scale, optax.masked.
Division by a size: scale_by_rms, root_mean_square, rectify.
By arrays: scale_by_trust_ratio, clip_by_rms, scale_by_parameter_rms, of_arrays, of_rows_and_columns.
Rates and weight decay: scale_by_learning_rate, add_decayed_weights, proximal_weight_decay.

Adam with Lion's numerator, in 8 bits:

    >>> import optax
    >>> from ewa_optax import pieces, storage
    >>> m, v = pieces.scale_by_ewa(0.99, "8bit"), pieces.scale_by_corrected_ewa(0.999, storage.EightBit(squares=True))
    >>> lions = optax.chain(pieces.beside(m), pieces.combine(0.1, 0.9))
    >>> mine = optax.chain(pieces.scale_by_rms(v, numerator=lions), pieces.scale_by_learning_rate(1e-3))
"""

from ewa_optax.pieces._averages import difference as difference
from ewa_optax.pieces._averages import running_max as running_max
from ewa_optax.pieces._averages import scale_by_additive_ewa as scale_by_additive_ewa
from ewa_optax.pieces._averages import scale_by_corrected_ewa as scale_by_corrected_ewa
from ewa_optax.pieces._averages import scale_by_ewa as scale_by_ewa
from ewa_optax.pieces._averages import scale_by_ewa_of_share as scale_by_ewa_of_share
from ewa_optax.pieces._averages import scale_by_past_rms as scale_by_past_rms
from ewa_optax.pieces._bias_correction import bias_correct as bias_correct
from ewa_optax.pieces._bias_correction import bias_correct_ahead as bias_correct_ahead
from ewa_optax.pieces._bias_correction import look_ahead as look_ahead
from ewa_optax.pieces._combining import add as add
from ewa_optax.pieces._combining import beside as beside
from ewa_optax.pieces._combining import combine as combine
from ewa_optax.pieces._combining import divide as divide
from ewa_optax.pieces._combining import take as take
from ewa_optax.pieces._decay_schedules import growing as growing
from ewa_optax.pieces._decay_schedules import share_after_the_first as share_after_the_first
from ewa_optax.pieces._decay_schedules import share_of_growing_half_life as share_of_growing_half_life
from ewa_optax.pieces._decay_schedules import share_of_power as share_of_power
from ewa_optax.pieces._layerwise import clip_by_rms as clip_by_rms
from ewa_optax.pieces._layerwise import of_arrays as of_arrays
from ewa_optax.pieces._layerwise import of_rows_and_columns as of_rows_and_columns
from ewa_optax.pieces._layerwise import scale_by_parameter_rms as scale_by_parameter_rms
from ewa_optax.pieces._layerwise import scale_by_trust_ratio as scale_by_trust_ratio
from ewa_optax.pieces._learning_rate import scale_by_learning_rate as scale_by_learning_rate
from ewa_optax.pieces._rms import rectify as rectify
from ewa_optax.pieces._rms import root_mean_square as root_mean_square
from ewa_optax.pieces._rms import scale_by_rms as scale_by_rms
from ewa_optax.pieces._weight_decay import add_decayed_weights as add_decayed_weights
from ewa_optax.pieces._weight_decay import proximal_weight_decay as proximal_weight_decay
