"""What pictures have in common: axes, colours that differ for all eyes, dashes and markers that differ in print."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Okabe and Ito's colours, which differ for colour-blind eyes too; in print the dashes do.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), ":", (0, (10, 2, 2, 2)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
ONE_BY_ONE = "draw one line a label"


def axes_or_new(ax: "Axes | None") -> "Axes":
    """The axes themselves, or those of a new figure."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]


def line_style(i: int) -> dict[str, Any]:
    """The colour and the dash of the line number `i`, of which 49 differ."""
    return dict(color=COLOURS[i % len(COLOURS)], linestyle=DASHES[(i + i // len(COLOURS)) % len(DASHES)])


def styled(
    lines: Mapping[str, Any], what: str = "costs", remedy: str = "put epochs end to end"
) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
    """Label, numbers and style of each line; ValueError for numbers that are not one-dimensional."""
    for i, (label, numbers) in enumerate(lines.items()):
        numbers = np.asarray(numbers)
        if numbers.ndim != 1:
            raise ValueError(f"the {what} of {label!r} must have one axis, got shape {numbers.shape}; {remedy}.")
        # A line of one point would not show.
        yield label, numbers, dict(**line_style(i), marker="o" if len(numbers) == 1 else "")


def finish(ax: "Axes", xlabel: str, ylabel: str, yscale: str = "log") -> "Axes":
    """The axes, labelled, with a grid, and with a legend where a line has a label."""
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_yscale(yscale)
    ax.grid(alpha=0.3)
    legend(ax)
    return ax


def legend(ax: "Axes", **options: Any) -> None:
    """A legend, small where there are many lines, and none where no line has a label."""
    lines = len(ax.get_legend_handles_labels()[0])
    if lines > len(COLOURS):
        ax.legend(**{"fontsize": "x-small", "ncols": 2, "framealpha": 0.6, **options})
    elif lines:
        ax.legend(**options)


def make_room_for_legend(ax: "Axes") -> None:
    """Puts the legend of a linear picture at the top, and raises its upper limit until no data is behind it."""
    if ax.get_legend() is None:
        return
    frame = ax.get_window_extent()
    for fontsize, columns in (("medium", 2), ("small", 2), ("x-small", 2), ("x-small", 1)):
        legend = ax.legend(loc="upper left", fontsize=fontsize, ncols=columns)
        if legend.get_window_extent().width < frame.width:
            break
    low, high = ax.get_ylim()[0], ax.dataLim.y1
    share = min(legend.get_window_extent().height / frame.height + 0.05, 0.7)
    ax.set_ylim(low, low + (high - low) / (1 - share))
