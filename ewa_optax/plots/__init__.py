"""Pictures, for matplotlib (in the `demo` extra). Each function returns the axes that it drew on; `race` the animation.

Colours differ for colour-blind eyes too; dashes and markers do in print.
"""

from ewa_optax.plots._costs import batch_sizes, epoch_costs, history, minibatch_costs
from ewa_optax.plots._curves import averages, norms, schedules
from ewa_optax.plots._landscapes import contour, path_values, race

__all__ = [
    "averages",
    "batch_sizes",
    "contour",
    "epoch_costs",
    "history",
    "minibatch_costs",
    "norms",
    "path_values",
    "race",
    "schedules",
]
