"""The pieces that optimizers are made of, to make your own: averages, what combines them, what looks at a layer."""

from ewa_optax._average import bias_correct as bias_correct
from ewa_optax._average import bias_correct_ahead as bias_correct_ahead
from ewa_optax._average import scale_by_ewa as scale_by_ewa
from ewa_optax._averages import difference as difference
from ewa_optax._averages import running_max as running_max
from ewa_optax._averages import scale_by_additive_ewa as scale_by_additive_ewa
from ewa_optax._averages import scale_by_corrected_ewa as scale_by_corrected_ewa
from ewa_optax._averages import scale_by_ewa_of_share as scale_by_ewa_of_share
from ewa_optax._averages import scale_by_past_rms as scale_by_past_rms
from ewa_optax._combining import add as add
from ewa_optax._combining import beside as beside
from ewa_optax._combining import combine as combine
from ewa_optax._combining import divide as divide
from ewa_optax._combining import take as take
from ewa_optax._descent import look_ahead as look_ahead
from ewa_optax._layerwise import clip_by_rms as clip_by_rms
from ewa_optax._layerwise import of_arrays as of_arrays
from ewa_optax._layerwise import of_rows_and_columns as of_rows_and_columns
from ewa_optax._layerwise import scale_by_parameter_rms as scale_by_parameter_rms
from ewa_optax._layerwise import scale_by_trust_ratio as scale_by_trust_ratio
from ewa_optax._learning_rate import scale_by_learning_rate as scale_by_learning_rate
from ewa_optax._rectify import rectify as rectify
from ewa_optax._rms import root_mean_square as root_mean_square
from ewa_optax._rms import scale_by_rms as scale_by_rms
from ewa_optax._weight_decay import add_decayed_weights as add_decayed_weights
from ewa_optax._weight_decay import proximal_weight_decay as proximal_weight_decay
