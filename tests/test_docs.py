"""What the README says is what runs. (The doctests of the modules run as tests of their own.)"""

import json
import re
import subprocess
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
from ewa_optax import storage
from ewa_optax._running import FEW_LANES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = re.findall(r"^python -m pip install -e .*$", README, re.MULTILINE)


@pytest.mark.parametrize("code", [pytest.param(code, id=f"block {i}") for i, code in enumerate(PYTHON, 1)])
def test_the_readme_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_readme_has_blocks_to_run():
    assert len(PYTHON) >= 3


def test_ci_runs_the_two_commands_of_the_readme_as_printed():
    assert len(COMMANDS) == 2
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    for command in COMMANDS:
        assert f"{command} || exit 1" in script


def test_the_table_of_errors_is_what_the_benchmark_measured():
    rows = json.loads((ROOT / "benchmarks" / "results" / "exactness.json").read_text())["rows"]
    for row in rows:
        assert f"| {row['b2']:g} | {row['ewa_optax']:.1e} | {row['optax']:.1e} |" in README


def test_the_table_of_losses_is_what_the_benchmark_measured():
    rows = json.loads((ROOT / "benchmarks" / "results" / "low_precision.json").read_text())["rows"]
    mean = {(row["task"], row["variant"]): np.mean(row["final losses"]) for row in rows}
    tasks, variants = (list(dict.fromkeys(row[key] for row in rows)) for key in ("task", "variant"))
    assert tasks == ["regression", "digits", "source code"]
    for variant in variants[1:]:
        cells = " | ".join(f"{mean[task, variant] / mean[task, 'float32']:.3f}" for task in tasks)
        assert f"| {variant} | {cells} |" in README


def test_the_table_of_bytes_is_right():
    params = {"w": jax.ShapeDtypeStruct((4096, 4096), jnp.float32)}
    table = re.findall(r"^\| `(.+)` \| (\d\.\d\d) \|", README, re.MULTILINE)
    assert len(table) == 7
    for code, printed in table:
        optimizer = ewa_optax.adam(1e-3, storage=eval(code, {"storage": storage}))
        assert f"{ewa_optax.state_bytes(optimizer, params) / 4096**2:.2f}" == printed


@pytest.mark.parametrize(
    ("chosen", "rows", "steps"),
    [(["--storages", "bfloat16"], 2, 2), pytest.param([], 13, 10, marks=pytest.mark.slow)],
)
def test_the_benchmark_of_storages_runs(chosen, rows, steps, tmp_path):
    short = ["--tasks", "regression", "--steps", "2", "--seeds", "1", "--parameters", "10000", *chosen]
    command = [sys.executable, "-m", "benchmarks.low_precision", *short, "--json", str(tmp_path / "out.json")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    record = json.loads((tmp_path / "out.json").read_text())
    assert len(record["rows"]) == rows
    assert all(np.isfinite(row["final losses"]).all() for row in record["rows"])
    assert len(record["steps"]) == steps


def test_the_table_of_the_family_is_made_from_its_sources():
    assert f"\n\n{periodic_table.table()}\n\n" in README


def test_the_benchmark_runs(tmp_path):
    command = [sys.executable, "-m", "benchmarks.exactness", "--steps", "20", "--json", str(tmp_path / "out.json")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["b2"] for row in rows] == [0.9, 0.99, 0.999, 0.9999, 0.99999]
    assert all(row["ewa_optax"] < 1e-6 for row in rows)


def short(ratio):
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"


def test_the_tables_of_epochs_are_what_the_benchmark_measured():
    record = json.loads((ROOT / "benchmarks" / "results" / "epoch.json").read_text())
    seconds = record["seconds"][record["headline"]]
    for name, value in seconds.items():
        assert f"| {name} | {value:.3g} | {short(value / seconds['minibatch.epoch'])} |" in README
    others = {title: found for title, found in record["seconds"].items() if title != record["headline"]}
    for title, found in others.items():
        if "rates" not in title:
            ours, theirs = found["minibatch.epoch"], found["Python loop over a jitted step"]
            assert f"| {title} | {1000 * ours:.3g} | {1000 * theirs:.3g} | {short(theirs / ours)} |" in README


def test_what_is_said_of_epochs_is_what_the_benchmark_measured():
    record = json.loads((ROOT / "benchmarks" / "results" / "epoch.json").read_text())
    seconds, text = record["seconds"], " ".join(README.split())
    assert 1 / 7 < seconds[record["headline"]]["minibatch.epoch"] < 1 / 5
    assert "in a sixth of a second on two cores" in text
    over = record["memory"]["peak"] - record["memory"]["bytes of data"]
    assert f"{over / 2**20:.0f} MiB above the data" in text
    compiled, each, together, one_by_one = seconds["16 learning rates on 1797 digits, 5 epochs"].values()
    assert f"1/{each / compiled:.0f} of the time" in text
    assert f"{one_by_one / together:.1f} times less" in text


def test_the_bijection_begins_where_a_sort_costs_a_tenth():
    rows = json.loads((ROOT / "benchmarks" / "results" / "shuffle.json").read_text())["shares"]
    assert all(row["share of the sort"] > 0.1 for row in rows if row["n"] >= 512)


def test_the_tables_of_series_are_what_the_benchmark_measured():
    record = json.loads((ROOT / "benchmarks" / "results" / "series.json").read_text())
    *cases, gaps = record["seconds"].values()
    assert f"| milliseconds | {' | '.join(list(record['seconds'])[:-1])} |" in README
    for name in cases[0]:
        assert f"| {name} | {' | '.join(f'{1000 * seconds[name]:.3g}' for seconds in cases)} |" in README
    for name, seconds in gaps.items():
        assert f"| {name} | {1000 * seconds:.3g} |" in README
    assert len(record["shapes"]) == 12
    for row in record["shapes"]:
        lanes = int(np.prod(row["shape"][row["axis"] + 1 :]))
        chosen = "blocks" if lanes <= FEW_LANES else "serial"
        cells = " | ".join(
            f"**{1000 * value:.3g}**" if way == chosen else f"{1000 * value:.3g}"
            for way, value in row["seconds"].items()
        )
        assert f"| {' x '.join(map(str, row['shape']))} | {row['axis']} | {cells} |" in README


def test_the_way_that_suits_a_shape_is_within_a_tenth_of_the_best():
    record = json.loads((ROOT / "benchmarks" / "results" / "series.json").read_text())
    for row in record["shapes"]:
        lanes = int(np.prod(row["shape"][row["axis"] + 1 :]))
        *ways, _copy = row["seconds"].values()
        assert min(ways) >= 0.9 * row["seconds"]["blocks" if lanes <= FEW_LANES else "serial"], row


def test_the_benchmark_of_epochs_runs(tmp_path):
    command = [sys.executable, "-m", "benchmarks.epoch", "--examples", "5000", "--repeats", "1", "--cases", "headline"]
    subprocess.run([*command, "--json", str(tmp_path / "out.json")], cwd=ROOT, check=True, capture_output=True)
    record = json.loads((tmp_path / "out.json").read_text())
    seconds = record["seconds"][record["headline"]]
    assert len(seconds) >= 6
    assert all(value > 0 for value in seconds.values())


def test_the_benchmark_of_shuffles_runs(tmp_path):
    command = [sys.executable, "-m", "benchmarks.shuffle", "--sizes", "100", "--keys", "2", "--repeats", "1"]
    subprocess.run([*command, "--json", str(tmp_path / "out.json")], cwd=ROOT, check=True, capture_output=True)
    record = json.loads((tmp_path / "out.json").read_text())
    assert [row["n"] for row in record["speed"]] == [100]
    assert len(record["quality"]) == 9
    assert all(0 < row["lag 1"] < 3 for row in record["quality"])


def test_the_benchmark_of_series_runs(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.series",
        "--points",
        "2000",
        "--repeats",
        "1",
        "--cases",
        "long",
        "gaps",
    ]
    subprocess.run([*command, "--json", str(tmp_path / "out.json")], cwd=ROOT, check=True, capture_output=True)
    record = json.loads((tmp_path / "out.json").read_text())
    assert all(value > 0 for seconds in record["seconds"].values() for value in seconds.values())


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak of a process")
def test_an_epoch_takes_the_memory_of_the_data_and_little_more():
    from benchmarks.epoch import memory

    found = memory(5_000_000)
    assert found["bytes of data"] == 420_000_000
    assert found["peak"] < found["bytes of data"] + 64 * 2**20


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
    assert len(notebooks) == 7
    assert all(f"](notebooks/{path.name})" in README for path in notebooks)


def test_the_picture_of_the_readme_is_what_the_race_draws(tmp_path):
    command = [sys.executable, "-m", "notebooks.race", "--frames", "3", str(tmp_path / "race.gif")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
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
