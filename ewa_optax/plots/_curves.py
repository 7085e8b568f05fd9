"""Pictures of what goes on over time: averages of a series, learning rates, norms."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._checks import check_choice, check_integer
from ewa_optax.plots._axes import ONE_BY_ONE, axes_or_new, finish, legend, line_style, make_room_for_legend, styled
from ewa_optax.series._ewa import ewa

if TYPE_CHECKING:
    from matplotlib.axes import Axes


DEBIAS = {True: (True,), False: (False,), "both": (True, False)}


def averages(
    series: Any,
    decays: Sequence[float] = (0.9,),
    *,
    debias: bool | str = True,
    times: Any = None,
    ax: "Axes | None" = None,
) -> "Axes":
    r"""Draws a series and its exponentially weighted averages.

    Args:
        series: the values in order, of shape `(steps,)`. NaN is a missing value.
        decays: of the averages, each in [0, 1): over about $1/(1-\beta)$ steps.
        debias: whether averages are bias-corrected. `"both"` draws both, the uncorrected ones thin, so that one sees
            how they start too low and meet the others.
        times: where each value stands, numbers or dates, as matplotlib takes them; steps from 1 by default. It is the
            scale of the picture only: averages count steps.
        ax: the axes to draw on; a new figure's by default.

    Returns:
        The axes: values over steps, as points, and a line for each average.

    Raises:
        ValueError: a decay outside [0, 1), a series that is not one-dimensional, another `debias`.

    Examples:
        >>> from ewa_optax import plots
        >>> ax = plots.averages([40.0, 49.0, 45.0, 44.0], [0.5, 0.9])
        >>> print([text.get_text() for text in ax.get_legend().get_texts()])
        ['each value', 'decay 0.5, about 2 steps', 'decay 0.9, about 10 steps']

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Exponentially weighted averages".
    """
    check_choice("debias", debias, tuple(DEBIAS))
    ((_, values, _),) = styled({"series": series}, "values", ONE_BY_ONE)
    at = np.arange(1, len(values) + 1) if times is None else times
    curves = [
        (i, decay, corrected, ewa(jnp.asarray(values, float), decay, debias=corrected))
        for i, decay in enumerate(decays)
        for corrected in DEBIAS[debias]
    ]
    ax = axes_or_new(ax)
    ax.plot(at, values, color="0.6", linestyle="", marker=".", markersize=4, label="each value")
    for i, decay, corrected, curve in curves:
        beside = debias == "both" and not corrected
        about = "without bias correction" if beside else f"about {1 / (1 - decay):.3g} steps"
        ax.plot(at, curve, label=f"decay {decay:g}, {about}", **line_style(i), linewidth=0.8 if beside else 1.8)
    finish(ax, "step" if times is None else "time", "value", "linear")
    make_room_for_legend(ax)
    return ax


def schedules(
    schedules: Mapping[str, Any], steps: int, *, steps_per_epoch: int | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draws learning rates.

    Args:
        schedules: for each label, a schedule, called with the number of steps before, or a number.
        steps: how many steps to draw, 1 or more.
        steps_per_epoch: mini-batches in an epoch, to count epochs; None counts mini-batches.
        ax: the axes to draw on; a new figure's by default.

    Returns:
        The axes: the learning rate of each step, from 0 up, over mini-batches from 1, or over epochs, where the step
        ends.

    Raises:
        ValueError: `steps` or `steps_per_epoch` below 1.
        TypeError: one that is no integer.

    Examples:
        >>> import ewa_optax
        >>> from ewa_optax import plots
        >>> ax = plots.schedules({"inverse time": ewa_optax.schedule_inverse_time(0.2, 1.0)}, 100)
        >>> print(ax.get_xlabel(), ax.get_lines()[0].get_ydata()[:2])
        mini-batch [0.1        0.06666667]

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Learning rate decay".
    """
    steps = check_integer("steps", steps, 1, remedy="one mini-batch is a step")
    numbers = np.arange(1, steps + 1)
    if steps_per_epoch is not None:
        numbers = numbers / check_integer("steps_per_epoch", steps_per_epoch, 1, remedy="leave it out for steps")
    rates = {label: _rates(label, schedule, steps) for label, schedule in schedules.items()}
    ax = axes_or_new(ax)
    for label, line, style in styled(rates, "rates", ONE_BY_ONE):
        ax.plot(numbers, line, label=label, drawstyle="steps-mid", **style)
    ax.set_ylim(bottom=0)
    finish(ax, "mini-batch" if steps_per_epoch is None else "epochs", "learning rate", "linear")
    make_room_for_legend(ax)
    return ax


NORMS = {
    "gradient": "gradient",
    "update": "update",
    "parameters": "parameters",
    "update_to_parameters": "update / parameters",
}


def norms(norms: Any, *, ax: "Axes | None" = None) -> "Axes":
    """Draws the norms that `ewa_optax.watch` keeps.

    Args:
        norms: the `history` of what `ewa_optax.fit` returned, or for each name of `ewa_optax.get_norms` its values in
            order, of shape `(steps,)`. Counts and the share of what did not move, which are no norms, are not drawn.
        ax: the axes to draw on; a new figure's by default.

    Returns:
        The axes: logarithmic norms, and their ratio, over steps, from 1. What is 0, or no number, is left out.

    Raises:
        ValueError: a history without norms, names of which none is that of a norm, or values that are not
            one-dimensional.

    Examples:
        >>> from ewa_optax import plots
        >>> ax = plots.norms({"gradient": [2.0, 1.5, 1.2], "update_to_parameters": [1e-2, 1e-3, 1e-3]})
        >>> print([line.get_label() for line in ax.get_lines()])
        ['gradient', 'update / parameters']

    Reference:
        Andrej Karpathy, "A recipe for training neural networks", 2019.
    """
    found = norms if isinstance(norms, Mapping) else getattr(norms, "norms", None)
    lines = {_said(name): line for name, line in (found or {}).items() if name.partition("/")[0] in NORMS}
    if not lines:
        raise ValueError(
            f"norms must be a history with norms, or a dict with {' or '.join(map(repr, NORMS))} in it, got "
            f"{type(norms).__name__}; put ewa_optax.watch around the optimizer."
        )
    ax = axes_or_new(ax)
    for label, line, style in styled(lines, "norms", "pass a dict of those of one training"):
        ax.plot(np.arange(1, len(line) + 1), np.where(line > 0, line, np.nan), label=label, **style)
    finish(ax, "step", "norm, and ratio of norms")
    legend(ax, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1)  # Lines cross all of a logarithmic picture.
    return ax


def _said(name):
    kind, _, group = name.partition("/")
    return f"{NORMS[kind]}, {group}" if group else NORMS[kind]


def _rates(label, schedule, steps):
    if callable(schedule):
        return jax.vmap(lambda count: jnp.asarray(schedule(count), float))(jnp.arange(steps))
    if not isinstance(schedule, int | float | np.generic | jax.Array):
        raise TypeError(f"the schedule {label!r} must be a function of the step, or a number, got {schedule!r}.")
    return np.full(steps, float(schedule))
