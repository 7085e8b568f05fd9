"""Pictures, for matplotlib (in the `demo` extra). Each function returns the axes that it drew on; `race` the animation.

Colours differ for colour-blind eyes too; dashes and markers do in print.
"""

from ewa_optax.plots._costs import batch_sizes as batch_sizes
from ewa_optax.plots._costs import epoch_costs as epoch_costs
from ewa_optax.plots._costs import history as history
from ewa_optax.plots._costs import minibatch_costs as minibatch_costs
from ewa_optax.plots._curves import averages as averages
from ewa_optax.plots._curves import schedules as schedules
from ewa_optax.plots._landscapes import contour as contour
from ewa_optax.plots._landscapes import path_values as path_values
from ewa_optax.plots._landscapes import race as race

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
