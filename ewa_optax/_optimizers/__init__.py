r"""All optimizers by their names, in the order of their modules: of growing complexity within each family.

What all of them share is said here, and not again in each of them. `momentum`, `adam` and `adamw` tell what the
arguments of most of them mean.

Arguments: a number may be one of Python or NumPy, or a scalar array, traced or not; a learning rate and a weight decay
may also be a schedule, a function of the number of updates so far. `storage` says how averages are kept between steps.
Where an optimizer averages both gradients and squares, it may be a pair, for these in turn.

Errors, when an optimizer is made:

- ValueError: a learning rate, a weight decay or an eps that is negative or not finite; a decay outside [0, 1), or
  (0, 1) where the optimizer says so; a number that breaks the rule told with it; a number that is an array but no
  scalar; a storage of unknown name, or a pair where there are no two moments.
- TypeError: what is no number (or schedule), or no storage; an argument that the optimizer does not have, with the name
  that it has here. Of arrays, which may be traced, only shape and kind are checked.

Errors, by `update`:

- ValueError: no parameters, for an optimizer that needs them (by weight decay, unless that is the Python number 0, or
  by the size of its steps); a mask that does not fit them.
- TypeError: gradients that are neither float nor complex.

Numbers: all arithmetic is in float32 or wider, whatever comes in, and updates leave in the dtype of the gradients,
rounded once. The state consists of arrays that keep their dtypes and structure from `init` on. Without a storage an
average is float32, or of wider parameters their own dtype.

Spikes: no finite gradient, however large, makes an infinity, since gradients saturate. Where squares are averaged they
do so at 9e18 in float32, where the square would overflow (at a half or a third of that where differences are squared),
so that one spike moves a parameter by an ordinary step and does not freeze it for ever. Where norms are formed (`lars`,
`novograd`) they do so where the square of an array's norm would overflow; else where an average, or a sum of steps,
would pass a quarter of the largest number of their dtype, at least float32's. `gradient_descent`, which keeps nothing,
leaves them as they are.
Norms of parameters and of steps are right however large or small these are, up to a quarter of that largest number.

What is kept: the averages that each docstring names, with a hat where their bias is corrected as they are kept, and
without one where they are raw; of a sum, the average. optax keeps raw ones, and sums; `carry_over` converts them.

None leaves: a leaf whose gradient is None gets no step, and its averages stay as they are. But what corrects their bias
counts the steps of the optimizer, not those of the leaf. A leaf whose first gradient comes at the second step begins
with 0.74 of Adam's first step, and one whose first comes after 1000 with 2.5 times of it. Leaves that have gradients at
some steps only need an optimizer and a state of their own, updated at those steps only; what is in `optax.masked` or
`optax.partition` is updated, and counts, at all steps of these.

The learning rate: `get_learning_rate` reads it from the state, and `rescale_learning_rate` changes it.
"""

from collections.abc import Callable

import optax

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
from ewa_optax._optimizers.rmsprop import adadelta, laprop, rmsprop, rmsprop_centered, rmsprop_momentum
from ewa_optax._optimizers.soap import soap

__all__ = [  # noqa: RUF022  # By complexity, as in the table.
    "gradient_descent", "momentum", "heavy_ball", "nesterov", "signum", "lion",
    "rmsprop", "adadelta", "laprop", "rmsprop_momentum", "rmsprop_centered",
    "adam", "adamw", "adamax", "amsgrad", "yogi", "radam", "nadam", "nadamw", "adabelief", "ademamix", "adan",
    "lars", "novograd", "lamb", "adafactor",
    "muon", "normuon", "muon_hyperball", "soap",
]  # fmt: skip

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {name: globals()[name] for name in __all__}
