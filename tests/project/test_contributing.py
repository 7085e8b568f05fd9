"""What the pages on contributing tell to do is done, in a copy of the checkout; and the habits fit each other."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import oracles
import pages
import pytest
from runs import assert_close_in_size, eight_decades, run_updates

from benchmarks import periodic_table

ROOT = Path(__file__).parents[2]
OPTIMIZER, PIECE = (pages.read(f"adding-{name}.md") for name in ("an-optimizer", "a-piece"))


def of_files(edits):
    """The files of some edits, each once, in their order."""
    return list(dict.fromkeys(edit.file for edit in edits))


def test_the_expression_of_the_page_equals_the_oracle_of_the_page():
    exec(pages.runs(OPTIMIZER), names := {})
    (code,) = (edit.code for edit in pages.edits(OPTIMIZER) if edit.file == "tests/oracles.py")
    exec(code, oracle := {"np": np})
    gradients = eight_decades(50, (8,))
    updates = run_updates(names["qhm"](0.1, 0.95, 0.6), jnp.zeros(8), gradients)
    assert_close_in_size(updates, oracle["qhm"](gradients.astype(np.float64), 0.1, 0.95, 0.6), 1e-6)


@pytest.fixture(scope="module")
def following(tmp_path_factory):
    """A copy of the checkout in which both pages have been followed, and what runs there."""
    copy = pages.copy_of_the_checkout(tmp_path_factory.mktemp("contributing"))
    folders = os.pathsep.join([str(copy), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(command):
        words = shlex.split(command)
        words = [sys.executable, "-m", *words] if words[0] == "ruff" else [sys.executable, *words[1:]]
        more = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider"] if "pytest" in words else []
        done = subprocess.run(
            [*words, *more], cwd=copy, env={**os.environ, "PYTHONPATH": folders}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
        return done.stdout

    for page in (OPTIMIZER, PIECE):
        for edit in pages.edits(page):
            pages.put(copy, edit)
    new = run("python -m benchmarks.periodic_table").strip()
    for path in (copy / "README.md", *(copy / "docs" / "guide").glob("*.md")):
        path.write_text(path.read_text().replace(periodic_table.table(), new))
    run("ruff check -q --fix .")
    run("ruff format -q .")
    return run


def suites_of(page):
    return [line for line in pages.commands(page) if line.startswith("python -m pytest")]


@pytest.mark.slow
@pytest.mark.parametrize("command", list(dict.fromkeys([*suites_of(OPTIMIZER), *suites_of(PIECE)])))
def test_who_follows_the_pages_passes_the_tests(command, following):
    assert re.search(r"\d+ passed", following(command))


def test_every_edit_of_the_pages_fits_its_file(tmp_path):
    every = [edit for page in (OPTIMIZER, PIECE) for edit in pages.edits(page)]
    assert len(every) >= 15
    for file in of_files(every):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text((ROOT / file).read_text())
    for edit in every:
        pages.put(tmp_path, edit)
        if edit.file.endswith(".py"):
            compile((tmp_path / edit.file).read_text(), edit.file, "exec")
    with pytest.raises(ValueError, match="0 times, not once"):
        pages.put(tmp_path, pages.Edit("tests/oracles.py", "diff", "", "-def sgd():\n+def sgd2():\n"))
    assert not hasattr(oracles, "qhm")
