"""Pictures of landscapes: contours, the paths of optimizers on them, and their race."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._checks import check_function, check_integer
from ewa_optax.plots._axes import MARKERS, ONE_BY_ONE, axes_or_new, finish, legend, line_style, styled

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes


ACROSS = 201
LEVELS = 25
FAR = 10
TO_SCALE = 4


def contour(
    function: Callable[[Any], Any],
    paths: Mapping[str, Any] | None = None,
    *,
    domain: Sequence[tuple[float, float]] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws a function of two parameters as a map, the darker the higher, and the paths of optimizers on it.

    The map is to scale, so that gradients are across its lines, unless one side is more than four times the other.

    Args:
        function: `point -> scalar` of points of shape `(2,)`, such as a surface of `ewa_optax.landscapes`.
        paths: for each label, what `landscapes.path` returned, or points of shape `(steps + 1, 2)`. Each begins at a
            black ring, and has a mark now and then. A path that runs away is drawn as far as the map is in sight.
        domain: from where to where, for both parameters; that of the surface by default.
        ax: the axes to draw on; a new figure's by default.

    Returns:
        The axes: the second parameter over the first, a star at the minimum if the function tells one.

    Raises:
        ValueError: a function without a domain and none given, one that is not of two parameters, or points of another
            shape.
        TypeError: no function.

    Examples:
        >>> import ewa_optax
        >>> from ewa_optax import landscapes, plots
        >>> ravine = landscapes.ravine()
        >>> found = landscapes.path(ewa_optax.momentum(0.1), ravine, ravine.start, 50)
        >>> ax = plots.contour(ravine, {"momentum": found})
        >>> print(ax.get_lines()[0].get_xydata()[0])
        [-4.  1.]

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Gradient descent with momentum".
    """
    box, walks = _box(function, domain), _points(paths)
    ax = axes_or_new(ax)
    _map(function, box, ax)
    for i, (label, points) in enumerate(walks.items()):
        points = points[: _in_sight(points, box)]
        ax.plot(*points.T, label=label, **_marked(i), markevery=0.1, markersize=4, linewidth=1.5)
        ax.plot(*points[0], marker="o", markersize=9, markerfacecolor="none", color="black", zorder=3)
    _star(function, ax)
    legend(ax, framealpha=0.9)
    return ax


def path_values(paths: Mapping[str, Any], *, ax: "Axes | None" = None) -> "Axes":
    """Draws the values of a function along paths.

    Args:
        paths: for each label, what `landscapes.path` returned, or values of shape `(steps + 1,)`.
        ax: the axes to draw on; a new figure's by default.

    Returns:
        The axes: values over steps, from 0; logarithmic, but linear if there are some below 0.

    Raises:
        ValueError: values that are not one-dimensional.

    Examples:
        >>> import ewa_optax
        >>> from ewa_optax import landscapes, plots
        >>> ravine = landscapes.ravine()
        >>> found = landscapes.path(ewa_optax.momentum(0.1), ravine, ravine.start, 50)
        >>> ax = plots.path_values({"momentum": found})
        >>> print(ax.get_xlabel(), len(ax.get_lines()[0].get_xdata()))
        step 51
    """
    values_of = {label: getattr(path, "values", path) for label, path in paths.items()}
    lines = list(styled(values_of, "values", ONE_BY_ONE))
    ax = axes_or_new(ax)
    for label, values, style in lines:
        ax.plot(np.arange(len(values)), values, label=label, **style)
    below = any(np.any(values < 0) for _, values, _ in lines)
    return finish(ax, "step", "value of the function", "linear" if below else "log")


def race(
    function: Callable[[Any], Any],
    paths: Mapping[str, Any],
    *,
    frames: int = 100,
    domain: Sequence[tuple[float, float]] | None = None,
    ax: "Axes | None" = None,
) -> "FuncAnimation":
    """Lets optimizers race on a function of two parameters: an animation of `contour`.

    Args:
        function: `point -> scalar` of points of shape `(2,)`.
        paths: for each label, what `landscapes.path` returned, or points of shape `(steps + 1, 2)`. Who has fewer steps
            than others waits at its last point.
        frames: how many pictures, 2 or more, from the start to the last step; 20 of them take a second.
        domain: from where to where, for both parameters; that of the surface by default.
        ax: the axes to draw on; a new figure's by default.

    Returns:
        The animation, to keep until it is saved (`race(...).save("race.gif", writer="pillow")`) or shown
        (`IPython.display.HTML(race(...).to_jshtml())` in a notebook).

    Raises:
        ValueError: what `contour` raises; no paths; fewer than two frames.
        TypeError: no function, or frames that are no integer.

    Examples:
        >>> import ewa_optax, tempfile
        >>> from ewa_optax import landscapes, plots
        >>> ravine = landscapes.ravine()
        >>> paths = {
        ...     "momentum": landscapes.path(ewa_optax.momentum(0.1), ravine, ravine.start, 50),
        ...     "adam": landscapes.path(ewa_optax.adam(0.2), ravine, ravine.start, 50),
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plots.race(ravine, paths, frames=2).save(f"{folder}/race.gif", writer="pillow")
    """
    from matplotlib.animation import FuncAnimation

    frames = check_integer("frames", frames, 2, 10_000, "20 of them take a second")
    box, runners = _box(function, domain), _points(paths)
    if not runners:
        raise ValueError("paths must hold at least one path, got none; make one by landscapes.path.")
    ax = axes_or_new(ax)
    _map(function, box, ax)
    visible = {label: points[: _in_sight(points, box)] for label, points in runners.items()}
    longest = max(len(points) - 1 for points in runners.values())
    trails = [
        ax.plot([], [], label=label, **_marked(i), markevery=[-1], markersize=8, linewidth=1.5)[0]
        for i, label in enumerate(runners)
    ]
    _star(function, ax)
    legend(ax, framealpha=0.9, loc="upper right")

    def show(frame):
        step = round(frame / (frames - 1) * longest)
        for trail, points in zip(trails, visible.values(), strict=True):
            trail.set_data(*points[: step + 1].T)
        ax.set_title(f"step {step}")
        return trails

    show(0)
    return FuncAnimation(ax.figure, show, frames=frames, interval=50)  # pyright: ignore[reportArgumentType]


def _box(function, domain):
    check_function("function", function, "def function(point)")
    domain = getattr(function, "domain", None) if domain is None else domain
    if domain is None:
        raise ValueError("this function tells no domain; pass one, such as domain=((-2, 2), (-1, 3)).")
    box = np.asarray(domain, float)
    if box.shape != (2, 2):
        raise ValueError(f"domain must be two pairs of numbers, got {domain!r}; only two parameters can be drawn.")
    return box


def _map(function, box, ax):
    # NumPy's, since matplotlib steps through them number by number, for which JAX would compile a program.
    across, up = (np.linspace(low, high, ACROSS, dtype=jnp.result_type(float)) for low, high in box)
    rows = jax.vmap(lambda y: jax.vmap(lambda x: function(jnp.stack([x, y])))(across))
    values = np.asarray(jax.jit(rows)(up))
    finite = values[np.isfinite(values)]
    low, middle, high = finite.min(), np.median(finite), finite.max()
    # Half of the levels below the median, or a valley between high walls would be empty.
    power = max(1.0, np.log((middle - low) / (high - low)) / np.log(0.5)) if low < middle < high else 1.0
    levels = low + (high - low) * np.linspace(0, 1, LEVELS) ** power
    if low < high:
        from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap

        greys = LinearSegmentedColormap.from_list("light greys", ["1.0", "0.7"])
        ax.contourf(across, up, values, levels=levels, cmap=greys, norm=BoundaryNorm(levels, greys.N), zorder=0)
        # The lines at the lowest levels may be finer than the grid.
        ax.contour(across, up, values, levels=levels[3:], colors="0.5", linestyles="solid", linewidths=0.5, zorder=1)
    ax.set(xlabel="first parameter", ylabel="second parameter", xlim=box[0], ylim=box[1])
    sides = box[:, 1] - box[:, 0]
    if sides.max() <= TO_SCALE * sides.min():
        ax.set_aspect("equal")


def _star(function, ax):
    if getattr(function, "minimum", None) is not None:
        ax.plot(
            *np.asarray(function.minimum),
            marker="*",
            markersize=13,
            color="black",
            linestyle="",
            label="minimum",
            zorder=3,
        )


def _points(paths):
    found = {label: np.asarray(getattr(path, "points", path)) for label, path in (paths or {}).items()}
    for label, points in found.items():
        if points.ndim != 2 or points.shape[1] != 2 or not len(points):
            raise ValueError(
                f"the points of {label!r} must have shape (steps + 1, 2), got {points.shape}; draw one path a label."
            )
    return found


def _in_sight(points, box):
    """How many points there are up to the first that is far outside, which leads out of the picture."""
    size = box[:, 1] - box[:, 0]
    far = ~(np.abs(points - box.mean(1)) < FAR * size).all(1)
    # Agg can't draw what is not finite, or very far.
    return int(np.argmax(far)) if far.any() else len(points)


def _marked(i):
    return dict(**line_style(i), marker=MARKERS[i % len(MARKERS)])
