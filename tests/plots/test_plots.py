"""Pictures by what was drawn: the numbers of the lines, the words beside them, and what differs for the eye."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib import colors, pyplot
from PIL import Image

import ewa_optax
from ewa_optax import landscapes, plots
from ewa_optax._fit.result import Fitted

RNG = np.random.default_rng(0)
SERIES = 10 + RNG.standard_normal(50).cumsum()
BOWL = landscapes.ravine()


@functools.cache
def walked():
    """Not when the tests are collected, which every process does."""
    return {
        "momentum": landscapes.path(ewa_optax.momentum(0.1), BOWL, BOWL.start, 40),
        "adam": landscapes.path(ewa_optax.adam(0.3), BOWL, BOWL.start, 20),
    }


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    pyplot.close("all")  # Those of the examples in docstrings, if one process ran them first.
    yield
    pyplot.close("all")


def lines_of(ax):
    """By label, those that have one."""
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


def words_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def covered(ax):
    """The points of lines that the legend covers."""
    ax.figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    return sum(np.sum([box.contains(*p) for p in ax.transData.transform(x.get_xydata())]) for x in ax.get_lines())


WATCHED = {"gradient": np.linspace(2, 1, 9), "update/a": np.linspace(0, 1, 9), "unmoved": np.ones(9)}
DRAWN = {
    "norms": lambda ax=None: plots.norms(WATCHED, ax=ax),
    "averages": lambda ax=None: plots.averages(SERIES, [0.5, 0.9], ax=ax),
    "schedules": lambda ax=None: plots.schedules({"a": 0.1, "b": ewa_optax.schedule_exponential(0.2)}, 9, ax=ax),
    "contour": lambda ax=None: plots.contour(BOWL, walked(), ax=ax),
    "path_values": lambda ax=None: plots.path_values(walked(), ax=ax),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_it_draws_on_the_axes_given_and_makes_no_figure(draw):
    figure, (left, right) = pyplot.subplots(1, 2)
    assert draw(right) is right
    assert right.has_data()
    assert not left.has_data()
    assert pyplot.get_fignums() == [figure.number]


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_without_axes_it_makes_one_figure_of_its_own(draw):
    assert draw().figure.number == pyplot.get_fignums()[-1]
    assert len(pyplot.get_fignums()) == 1


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_axes_have_words_and_lines_differ_for_all_eyes_and_in_print(draw):
    ax = draw()
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    lines = [line for name, line in lines_of(ax).items() if name not in ("each value", "minimum")]
    assert len(lines) == 2
    assert words_of(ax) == list(lines_of(ax))
    assert len({colors.to_hex(line.get_color()) for line in lines}) == 2
    assert len({line.get_linestyle() for line in lines}) == 2


# Averages of a series.


def average(x, decay):
    v, out = 0.0, []
    for value in x:
        v = decay * v + (1 - decay) * value
        out.append(v)
    return np.array(out)


def test_averages_are_those_of_the_series():
    ax = plots.averages(SERIES, [0.5, 0.98])
    points, *curves = ax.get_lines()
    np.testing.assert_array_equal(points.get_xydata(), np.stack([np.arange(1, 51), SERIES], axis=1))
    assert (points.get_linestyle(), points.get_marker()) == ("None", ".")
    for decay, curve in zip((0.5, 0.98), curves, strict=True):
        np.testing.assert_array_equal(curve.get_xdata(), np.arange(1, 51))
        corrected = average(SERIES, decay) / (1 - decay ** np.arange(1, 51))
        np.testing.assert_allclose(curve.get_ydata(), corrected, rtol=1e-5)
    assert words_of(ax) == ["each value", "decay 0.5, about 2 steps", "decay 0.98, about 50 steps"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "value")


def test_averages_without_bias_correction():
    (curve,) = plots.averages(SERIES, [0.9], debias=False).get_lines()[1:]
    np.testing.assert_allclose(curve.get_ydata(), average(SERIES, 0.9), rtol=1e-5)


def test_averages_with_and_without_bias_correction():
    ax = plots.averages(SERIES, [0.9, 0.98], debias="both")
    curves = ax.get_lines()[1:]
    for decay, corrected, low in zip((0.9, 0.98), curves[::2], curves[1::2], strict=True):
        np.testing.assert_allclose(low.get_ydata(), average(SERIES, decay), rtol=1e-5)
        np.testing.assert_allclose(corrected.get_ydata() * (1 - decay ** np.arange(1, 51)), low.get_ydata(), rtol=1e-5)
        assert low.get_color() == corrected.get_color()
        assert low.get_linewidth() < corrected.get_linewidth()
    assert words_of(ax)[1:3] == ["decay 0.9, about 10 steps", "decay 0.9, without bias correction"]


def test_averages_over_dates_and_gaps():
    dates = np.datetime64("2026-01-01") + np.arange(50)
    gaps = np.where(np.arange(50) % 7 == 3, np.nan, SERIES)
    ax = plots.averages(gaps, [0.9], times=dates)
    points, curve = ax.get_lines()
    np.testing.assert_array_equal(points.get_xdata(), dates)
    np.testing.assert_array_equal(points.get_ydata(), gaps)
    assert np.all(np.isfinite(curve.get_ydata()))
    assert ax.get_xlabel() == "time"


@pytest.mark.parametrize("size", [(6.4, 4.8), (3.5, 3)])
def test_the_legend_of_averages_and_schedules_covers_no_data(size):
    for draw in (
        lambda ax: plots.averages(SERIES, [0.5, 0.9, 0.98], debias="both", ax=ax),
        lambda ax: plots.schedules({str(i): 0.1 / (1 + i) for i in range(6)}, 10, ax=ax),
    ):
        ax = draw(pyplot.figure(figsize=size, layout="constrained").subplots())
        assert covered(ax) == 0
        frame, box = ax.get_window_extent(), ax.get_legend().get_window_extent()
        assert frame.y0 < box.y0
        assert box.y1 < frame.y1


# Schedules.


def test_schedules_are_drawn_at_the_mini_batch_that_uses_them():
    decay = ewa_optax.schedule_inverse_time(0.2, 1.0, steps_per_epoch=4)
    ax = plots.schedules({"decay": decay, "optax": optax.cosine_decay_schedule(0.1, 12), "constant": 0.05}, 12)
    curves = lines_of(ax)
    for curve in curves.values():
        np.testing.assert_array_equal(curve.get_xdata(), np.arange(1, 13))
        assert curve.get_drawstyle() == "steps-mid"
    counts = np.arange(12)
    np.testing.assert_allclose(curves["decay"].get_ydata(), 0.2 / (2 + counts // 4), rtol=1e-6)
    np.testing.assert_allclose(curves["optax"].get_ydata(), 0.05 * (1 + np.cos(np.pi * counts / 12)), rtol=1e-5)
    np.testing.assert_allclose(curves["constant"].get_ydata(), 0.05)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("mini-batch", "learning rate")
    assert ax.get_ylim()[0] == 0


def test_schedules_by_epoch():
    ax = plots.schedules({"a": 0.1}, 8, steps_per_epoch=4)
    np.testing.assert_allclose(lines_of(ax)["a"].get_xdata(), np.arange(1, 9) / 4)
    assert ax.get_xlabel() == "epochs"


# Landscapes.


def test_a_contour_shows_the_whole_paths_their_start_and_the_minimum():
    ax = plots.contour(BOWL, walked())
    curves = lines_of(ax)
    for name, path in walked().items():
        np.testing.assert_array_equal(curves[name].get_xydata(), path.points)
    assert curves["momentum"].get_marker() != curves["adam"].get_marker()
    np.testing.assert_array_equal(curves["minimum"].get_xydata(), [[0, 0]])
    rings = [line for line in ax.get_lines() if line.get_label().startswith("_")]
    for ring in rings:
        np.testing.assert_array_equal(ring.get_xydata(), [BOWL.start])
    assert len(rings) == 2
    assert words_of(ax) == ["momentum", "adam", "minimum"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("first parameter", "second parameter")
    assert (ax.get_xlim(), ax.get_ylim()) == BOWL.domain


def test_the_lines_of_a_contour_are_where_the_function_has_their_values():
    surface = landscapes.rosenbrock()
    ax = plots.contour(surface)
    filled, drawn = ax.collections
    value = jax.jit(jax.vmap(surface))
    spread = float(np.ptp(drawn.levels))
    lengths = [len(path.vertices) for path in drawn.get_paths()]
    assert np.count_nonzero(lengths) >= 20
    found = value(np.concatenate([path.vertices for path in drawn.get_paths()]).astype(np.float32))
    np.testing.assert_allclose(found, np.repeat(drawn.levels, lengths), rtol=1e-7, atol=0.003 * spread)
    np.testing.assert_array_equal(filled.levels[3:], drawn.levels)
    # Half of them lie below the median, where the valley is.
    grid = np.stack(np.meshgrid(*(np.linspace(*ends, 50) for ends in surface.domain)), axis=-1).reshape(-1, 2)
    assert np.searchsorted(filled.levels, np.median(value(grid.astype(np.float32)))) == pytest.approx(12, abs=1)
    assert words_of(ax) == ["minimum"]


def test_a_function_of_your_own_has_a_domain_and_maybe_no_minimum():
    def function(point):
        return jnp.sin(point[0]) + point[1] ** 2 / 1e4

    points = np.array([[0.0, 1.0], [2.0, 50.0]])
    ax = plots.contour(function, {"mine": points}, domain=((0, 5), (-100, 100)))
    np.testing.assert_array_equal(lines_of(ax)["mine"].get_xydata(), points)
    assert words_of(ax) == ["mine"]
    assert ax.get_aspect() == "auto"
    assert plots.contour(function, domain=((0, 5), (0, 5))).get_legend() is None


def test_maps_are_to_scale_and_flat_ones_are_drawn_too():
    assert plots.contour(landscapes.plateau()).get_aspect() == 1
    ax = plots.contour(lambda point: 0 * point[0], {"still": np.zeros((3, 2))}, domain=((-1, 1), (-1, 1)))
    ax.figure.canvas.draw()
    assert words_of(ax) == ["still"]


def test_many_paths_have_a_small_legend_and_looks_of_their_own():
    ax = plots.contour(BOWL, {str(i): walked()["adam"] for i in range(9)})
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines_of(ax).values()}
    assert len(looks) == 10
    assert ax.get_legend()._ncols == 2
    assert words_of(ax) == [*map(str, range(9)), "minimum"]


def test_a_path_that_runs_away_is_drawn_as_far_as_the_map_is_in_sight():
    away = landscapes.path(ewa_optax.gradient_descent(0.2), BOWL, BOWL.start, 200)
    assert not np.isfinite(away.values[-1])
    ax = plots.contour(BOWL, {"away": away})
    drawn = lines_of(ax)["away"].get_xydata()
    np.testing.assert_array_equal(drawn, away.points[: len(drawn)])
    assert abs(drawn[-1, 1]) > 2.5
    ax.figure.canvas.draw()


def test_values_along_paths():
    ax = plots.path_values(walked())
    for name, path in walked().items():
        np.testing.assert_array_equal(lines_of(ax)[name].get_ydata(), path.values)
        np.testing.assert_array_equal(lines_of(ax)[name].get_xdata(), np.arange(len(path.values)))
    assert ax.get_yscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "value of the function")
    assert plots.path_values({"a": [1.0, 0.0, -50.0]}).get_yscale() == "linear"


# The race.


def test_a_race_is_a_gif_of_the_frames_asked_for(tmp_path):
    animation = plots.race(BOWL, walked(), frames=5)
    animation.save(tmp_path / "race.gif", writer="pillow")
    with Image.open(tmp_path / "race.gif") as picture:
        assert picture.format == "GIF"
        assert picture.n_frames == 5
        assert picture.info["duration"] == 50
        frames = []
        for i in range(5):
            picture.seek(i)
            frames.append(np.asarray(picture.convert("L"), float))
    assert all(np.abs(a - b).max() > 50 for a, b in itertools.pairwise(frames))


def test_each_runner_is_where_its_path_was_at_that_step():
    figure, ax = pyplot.subplots()
    animation = plots.race(BOWL, walked(), frames=5, ax=ax)
    assert pyplot.get_fignums() == [figure.number]
    for frame, step in enumerate([0, 10, 20, 30, 40]):
        animation._draw_frame(frame)
        for name, path in walked().items():
            np.testing.assert_array_equal(lines_of(ax)[name].get_xydata(), path.points[: step + 1])
        assert ax.get_title() == f"step {step}"
    assert words_of(ax) == ["momentum", "adam", "minimum"]
    animation._draw_was_started = True  # Or it complains that nobody saw it.


# Errors.


BAD_CALLS = [
    (
        lambda: plots.averages(np.ones((2, 2))),
        ValueError,
        r"the values of 'series' must have one axis, got shape",
    ),
    (lambda: plots.averages(SERIES, [1.0]), ValueError, r"decay must be in \[0, 1\), got 1.0"),
    (lambda: plots.averages(SERIES, debias="no"), ValueError, "debias must be one of .*'both'.*, got 'no'; choose"),
    (lambda: plots.schedules({}, 0), ValueError, "steps must be from 1 to .*, got 0; one mini-batch is a step"),
    (lambda: plots.schedules({}, 9, steps_per_epoch=0), ValueError, "steps_per_epoch must be from 1 .*, got 0; leave"),
    (lambda: plots.schedules({"a": "b"}, 9), TypeError, "the schedule 'a' must be a function of the step, or a number"),
    (lambda: plots.contour(lambda p: p[0]), ValueError, "this function tells no domain; pass one, such as domain="),
    (lambda: plots.contour(3), TypeError, "function must be a function, got 3"),
    (
        lambda: plots.contour(landscapes.ravine(dimensions=3)),
        ValueError,
        "must be two pairs of numbers, .* only",
    ),
    (
        lambda: plots.contour(BOWL, {"a": np.ones((3, 3))}),
        ValueError,
        r"'a' must have shape \(steps \+ 1, 2\), got",
    ),
    (
        lambda: plots.history(Fitted({}, (), None, 1, 0, None, None)),
        TypeError,
        "record must be the history .* got Fitted; .* give run.history",
    ),
    (lambda: plots.path_values({"a": np.ones((3, 3))}), ValueError, r"the values of 'a' must have one axis, got shape"),
    (lambda: plots.race(BOWL, {}), ValueError, "paths must hold at least one path, got none; make one by"),
    (
        lambda: plots.race(BOWL, walked(), frames=1),
        ValueError,
        "frames must be from 2 to 10000, got 1; 20 of them take",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_bad_calls_make_no_figure(call, error, message):
    with pytest.raises(error, match=message):
        call()
    assert not pyplot.get_fignums()
