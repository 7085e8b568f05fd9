"""Pictures, for matplotlib (in the `demo` extra). Each function returns the axes that it drew on; `race` the animation.

Colours differ for colour-blind eyes too; dashes and markers do in print.
"""

from ewa_optax._cost_pictures import batch_sizes as batch_sizes
from ewa_optax._cost_pictures import epoch_costs as epoch_costs
from ewa_optax._cost_pictures import history as history
from ewa_optax._cost_pictures import minibatch_costs as minibatch_costs
from ewa_optax._curve_pictures import averages as averages
from ewa_optax._curve_pictures import schedules as schedules
from ewa_optax._landscape_pictures import contour as contour
from ewa_optax._landscape_pictures import path_values as path_values
from ewa_optax._landscape_pictures import race as race

__all__ = [
    "averages",
    "batch_sizes",
    "contour",
    "epoch_costs",
    "history",
    "minibatch_costs",
    "path_values",
    "race",
    "schedules",
]
