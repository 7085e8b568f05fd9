"""The tables of those who come from elsewhere, by running both sides."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pandas
import pytest
import torch_paths
from test_docs import PAGES

import ewa_optax
from ewa_optax import series

PATHS = json.loads(torch_paths.STORED.read_text())


def rows(page, section=""):
    """Cells of the tables of a page, or of one of its sections, without their heads."""
    text = PAGES[f"docs/{page}.md"]
    if section:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [
        line.strip("| ").split(" | ")
        for line in re.findall(r"\|---\|\n((?:\|.*\n)+)", text)
        for line in line.splitlines()
    ]


def code_in(cells):
    return re.findall(r"`([^`]+)`", " ".join(cells))


# All that is named is there.


@functools.cache
def known_names():
    """What the tables call by short names."""
    x = jnp.ones((8, 3))
    numbers = dict(rate=0.1, lr=0.1, alpha=0.1, alpha0=0.1, decay=0.9, beta=0.9, a=0.9, q=0.5, w=0.1, mu=0.5, k=2)
    more = dict(
        b1=0.9, b2=0.99, beta1=0.9, beta2=0.99, eps=1e-3, eps_root=1e-3, epsilon=1e-3, decay_rate=1.0, lambd=0.1
    )
    loop = dict(n=3, T=4, B=2, W=jnp.zeros(3), X=x, Y=x[:, 0], carry=0, key=jax.random.key(0), theta=x[:, 0])
    optimizer, params = ewa_optax.adam(0.1), {"w": x}
    functions = dict(
        optimizer=optimizer,
        state=optimizer.init(x),
        params=params,
        shardings=jax.tree.map(lambda leaf: leaf.sharding, params),
        mask=True,
        loss=lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2),
        step=lambda carry, batch: (carry, None),
    )
    return {"ewa_optax": ewa_optax, "optax": optax, "jnp": jnp, **numbers, **more, **loop, **functions}


def names_for(code):
    """`m` is a mask in optax, a momentum in torch, and a number of examples in the course."""
    m = True if "mask=m" in code or "weights(w, m)" in code else 1000 if "size(m)" in code else 0.5
    return {**known_names(), "m": m}


def named(*pages):
    cells = [code for page in pages for row in rows(page) for code in code_in(row)]
    return sorted({code for code in cells if re.match(r"(ewa_)?optax\.", code)})


NAMED = named("choosing", *(f"coming-from/{page}" for page in ("optax", "torch", "course")))


@pytest.mark.parametrize("code", NAMED)
def test_what_is_named_is_there(code):
    assert eval(code, names_for(code)) is not None


def test_the_tables_are_read():
    assert len(NAMED) >= 80
    assert len(rows("coming-from/optax", "The same, by another name")) >= 15
    assert len(torch_paths.rows()) == len(PATHS) >= 12
    assert len(rows("coming-from/pandas")) >= 12


# optax.

START = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(3, 4)
GRADIENTS = (np.sin(np.arange(72.0)).reshape(6, 3, 4) * [1.0, 10.0, 0.1, 1e-3]).astype(np.float32)


def updates(optimizer, start=START, gradients=GRADIENTS):
    """Of each step, from given gradients."""

    def step(carry, gradient):
        params, state = carry
        update, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, update), state), update

    return jax.lax.scan(step, (start, optimizer.init(start)), gradients)[1]


def test_optax_and_this_library_do_the_same():
    sides = [code_in(row) for row in rows("coming-from/optax", "The same, by another name")]
    assert {len(side) for side in sides} == {2}
    made = {tuple(side): [eval(code, names_for(side[0])) for code in side] for side in sides}
    optimizers = {side: both for side, both in made.items() if hasattr(both[0], "update")}
    schedules = {side: both for side, both in made.items() if side not in optimizers}
    assert len(schedules) >= 3
    found = jax.jit(lambda: [[updates(each) for each in both] for both in optimizers.values()])()
    for side, (theirs, ours) in zip(optimizers, found, strict=True):
        assert np.abs(theirs).max() > 0, side
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7, err_msg=str(side))
    counts = jnp.arange(13)
    for side, both in schedules.items():
        theirs, ours = ([float(schedule(count)) for count in counts] for schedule in both)
        assert len({*theirs}) > 3, side
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8, err_msg=str(side))


# torch.


def test_torch_and_this_library_do_the_same():
    """As far as what torch does is stored."""
    names = {"ewa_optax": ewa_optax, "optax": optax, **torch_paths.NUMBERS}
    made = {theirs: eval(ours, names) for theirs, _, ours in torch_paths.rows()}
    assert made.keys() == PATHS.keys(), "python -m tests.torch_paths writes them anew"
    start, gradients = (jnp.float32(x) for x in (torch_paths.START, torch_paths.GRADIENTS))
    optimizers = {theirs: each for theirs, each in made.items() if hasattr(each, "update")}
    found = jax.jit(lambda: {theirs: updates(each, start, gradients) for theirs, each in optimizers.items()})()
    for theirs, each in made.items():
        if theirs in optimizers:
            moved = np.diff(PATHS[theirs], axis=0, prepend=[torch_paths.START])
            np.testing.assert_allclose(found[theirs], moved, rtol=1e-5, atol=2e-8, err_msg=theirs)
        else:
            rates = [float(each(count)) for count in range(len(PATHS[theirs]))]
            assert len({*PATHS[theirs]}) > 1
            np.testing.assert_allclose(rates, PATHS[theirs], rtol=1e-5, atol=1e-8, err_msg=theirs)


@pytest.mark.parametrize(("code", "by_epoch"), [row[:2] for row in torch_paths.rows()])
def test_torch_does_what_is_stored(code, by_epoch):
    pytest.importorskip("torch")
    np.testing.assert_allclose(torch_paths.path(code, by_epoch), PATHS[code], rtol=1e-8, atol=2e-9)


# pandas.


@pytest.fixture(scope="module")
def names_of_pandas():
    random = np.random.default_rng(0)
    x, y = np.cumsum(random.standard_normal((2, 200)), axis=1)
    with_nan = np.where((np.arange(200) % 7 == 3) | (np.abs(np.arange(200) - 100) < 9), np.nan, x)
    index = pandas.Timestamp("2026-01-01") + pandas.to_timedelta(np.cumsum(random.integers(1, 9, 200)), unit="h")
    numbers = dict(x=x, y=y, with_nan=with_nan, index=index)
    frames = dict(
        s=pandas.Series(x),
        other=pandas.Series(y),
        gaps=pandas.Series(with_nan),
        frame=pandas.DataFrame({"x": x, "y": y}),
    )
    names = dict(series=series, pandas=pandas, np=np, jnp=jnp, jax=jax, X=frames["frame"].to_numpy())
    return names | numbers | frames


@pytest.mark.parametrize(
    ("theirs", "ours"), [code_in(row)[:2] for row in rows("coming-from/pandas") if "ewm(" in row[0]]
)
def test_pandas_and_this_library_do_the_same(theirs, ours, names_of_pandas):
    expected, found = (np.asarray(eval(code, names_of_pandas)) for code in (theirs, ours))
    assert np.isfinite(expected).sum() > 150
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6 * np.nanmax(np.abs(expected)))


def test_a_large_level_costs_digits_of_variances_and_can_be_subtracted():
    x = 1000 + 0.003 * np.random.default_rng(0).standard_normal(1000)
    expected, found, without = (
        np.asarray(each)[10:]
        for each in (pandas.Series(x).ewm(alpha=0.1).var(), series.ewa_var(x, 0.9), series.ewa_var(x - 1000, 0.9))
    )
    assert 0.01 < np.max(np.abs(found / expected - 1)) < 0.1
    np.testing.assert_allclose(without, expected, rtol=1e-5)


# The course.


def course():
    """What the formulas of the course give, in double precision, by what is written here."""
    numbers, gradients, epochs = known_names(), GRADIENTS.astype(float), 1 + np.arange(12) // 4
    alpha0, k, rate = numbers["alpha0"], numbers["k"], numbers["alpha"]
    steps = {
        "ewa_optax.momentum(alpha, beta)": oracles.momentum(gradients, rate, 0.9),
        "ewa_optax.heavy_ball(alpha, beta)": oracles.heavy_ball(gradients, rate, 0.9),
        "ewa_optax.rmsprop(alpha, beta, epsilon)": oracles.rmsprop(gradients, rate, 0.9, 1e-3),
        "ewa_optax.adam(alpha, beta1, beta2, epsilon)": oracles.adam(gradients, rate, 0.9, 0.99, 1e-3),
    }
    rates = {
        "ewa_optax.schedule_inverse_time(alpha0, decay_rate, steps_per_epoch=T)": alpha0 / (1 + epochs),
        "ewa_optax.schedule_exponential(alpha0, 0.95, steps_per_epoch=T)": 0.95**epochs * alpha0,
        "ewa_optax.schedule_inverse_sqrt(alpha0, k, steps_per_epoch=T)": k * alpha0 / np.sqrt(epochs),
        "ewa_optax.schedule_inverse_sqrt(alpha0, k)": k * alpha0 / np.sqrt(1 + np.arange(12)),
        "ewa_optax.schedule_staircase(alpha0, every=n, steps_per_epoch=T)": alpha0 / 2.0 ** (epochs // 3),
    }
    return steps, rates


def test_the_course_and_this_library_do_the_same():
    written = {code for row in rows("coming-from/course") for code in code_in(row[1:])}
    steps, rates = course()
    assert {*steps, *rates} <= written
    made = {code: eval(code, known_names()) for code in steps}
    found = jax.jit(lambda: {code: updates(each) for code, each in made.items()})()
    for code, expected in steps.items():
        np.testing.assert_allclose(found[code], np.reshape(expected, (6, 3, 4)), rtol=1e-5, atol=1e-9, err_msg=code)
    for code, expected in rates.items():
        schedule = eval(code, known_names())
        np.testing.assert_allclose([float(schedule(i)) for i in range(12)], expected, rtol=1e-5, err_msg=code)
