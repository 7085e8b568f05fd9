"""What the README says is what runs. (The doctests of the modules run as tests of their own.)"""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import ewa_optax
from benchmarks import periodic_table
from ewa_optax import pieces, storage
from notebooks import race

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = re.findall(r"^python -m pip install -e .*$", README, re.MULTILINE)


@pytest.mark.parametrize("code", [pytest.param(code, id=f"block {i}") for i, code in enumerate(PYTHON, 1)])
def test_the_readme_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), names := {"__name__": "readme"})
    if "nnx.Dropout" in code:
        dropout_and_batch_norm_do_what_they_are_for(**names)


def dropout_and_batch_norm_do_what_they_are_for(loss, run, data, accuracy, model, **_):
    costs = [loss(run.params, data, jax.random.key(i)) for i in (0, 0, 1)]
    assert costs[0] == costs[1] != costs[2]
    assert accuracy > 0.95
    assert abs(model.norm.mean[...]).max() > 0.1
    np.testing.assert_allclose(model(data["x"][:1]), model(data["x"])[:1], rtol=1e-5)


def test_the_pieces_of_the_table_are_among_the_pieces():
    table = README.split("## The pieces")[1].split("Adam from its pieces")[0]
    names = re.findall(r"^\| `(\w+)\(", table, re.MULTILINE)
    assert len(names) == 7
    assert set(names) <= {*pieces.__all__} & {*ewa_optax.__all__}


def test_the_readme_has_blocks_to_run():
    assert len(PYTHON) >= 3


def test_ci_runs_the_two_commands_of_the_readme_as_printed():
    assert len(COMMANDS) == 2
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    for command in COMMANDS:
        assert f"{command} || exit 1" in script


def test_the_table_of_bytes_is_right():
    params = {"w": jax.ShapeDtypeStruct((4096, 4096), jnp.float32)}
    leaves = {f"{i}": jax.ShapeDtypeStruct((512, 512), jnp.float32) for i in range(8)}
    table = re.findall(r"^\| `(.+)` \| (\d\.\d\d) \| (\d+\.\d) \|", README, re.MULTILINE)
    assert len(table) == 7
    for code, kept, at_the_peak in table:
        optimizer = ewa_optax.adam(1e-3, storage=eval(code, {"storage": storage}))
        assert f"{ewa_optax.state_bytes(optimizer, params) / 4096**2:.2f}" == kept
        assert float(at_the_peak) == pytest.approx(ewa_optax.peak_bytes(optimizer, leaves) / 8 / 512**2, abs=0.051)


def test_the_table_of_the_family_is_made_from_its_sources():
    assert f"\n\n{periodic_table.table()}\n\n" in README


def test_the_changelog_knows_this_version():
    assert f"## {ewa_optax.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def known_names():
    """What the tables of those who come from elsewhere call by short names."""
    x = jnp.ones((8, 3))
    numbers = dict(rate=0.1, lr=0.1, alpha=0.1, alpha0=0.1, decay=0.9, beta=0.9, m=0.5, a=0.9, q=0.5, w=0.01, k=1.0)
    more = dict(b1=0.9, b2=0.99, beta1=0.9, beta2=0.99, eps=1e-8, eps_root=1e-8, epsilon=1e-8, decay_rate=1.0)
    loop = dict(n=3, T=4, B=2, W=jnp.zeros(3), X=x, Y=x[:, 0], carry=0, key=jax.random.key(0), theta=x[:, 0])
    optimizer = ewa_optax.adam(0.1)
    functions = dict(
        optimizer=optimizer,
        state=optimizer.init(x),
        mask=True,
        lambd=0.1,
        loss=lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2),
        step=lambda carry, batch: (carry, None),
    )
    return {"ewa_optax": ewa_optax, "optax": optax, "jnp": jnp, **numbers, **more, **loop, **functions}


def cells_of(column):
    """The expressions in a column of the tables of those who come from elsewhere."""
    sections = re.findall(r"^## Coming from .*?(?=^## )", README, re.MULTILINE | re.DOTALL)
    rows = [row for section in sections for row in section.splitlines() if " | " in row]
    return [code for row in rows for code in re.findall(r"`((?:ewa_)?optax\..+?)`", row.split(" | ")[column])]


@pytest.mark.parametrize("code", sorted({*cells_of(0), *cells_of(1)}))
def test_what_one_knows_from_elsewhere_is_there(code):
    names = {**known_names(), "m": True if "mask=m" in code else 0.5}
    if code.endswith("suggest_batch_size(m)"):
        names["m"] = 1000
    assert eval(code, names) is not None


def test_the_tables_of_those_who_come_from_elsewhere_are_read():
    assert len(cells_of(0)) >= 10
    assert len(cells_of(1)) >= 35


def test_the_notebooks_are_linked():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert len(notebooks) == 8
    assert all(f"](notebooks/{path.name})" in README for path in notebooks)


def test_the_picture_of_the_readme_is_what_the_race_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["race", "--frames", "3", str(tmp_path / "race.gif")])
    race.main()
    with Image.open(tmp_path / "race.gif") as fresh, Image.open(ROOT / "notebooks" / "race.gif") as stored:
        assert fresh.size == stored.size
        assert (fresh.n_frames, stored.n_frames) == (3, 61)
        for movie in (fresh, stored):
            movie.seek(movie.n_frames - 1)
        apart = np.abs(np.subtract(fresh.convert("RGB"), stored.convert("RGB"), dtype=int))
    assert np.mean(apart > 32) < 0.01  # Fonts of another version may lie a little differently.
    assert (ROOT / "notebooks" / "race.gif").stat().st_size < 400_000


def test_links_and_pictures_are_there():
    for target in re.findall(r"\]\((?!https?://|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
