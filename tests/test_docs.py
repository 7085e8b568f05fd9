"""What the README says is what runs. (The doctests of the modules run as tests of their own.)"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import ewa_optax
from benchmarks import periodic_table
from ewa_optax import storage

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


def test_the_table_of_bytes_is_right():
    params = {"w": jax.ShapeDtypeStruct((4096, 4096), jnp.float32)}
    table = re.findall(r"^\| `(.+)` \| (\d\.\d\d) \|", README, re.MULTILINE)
    assert len(table) == 7
    for code, printed in table:
        optimizer = ewa_optax.adam(1e-3, storage=eval(code, {"storage": storage}))
        assert f"{ewa_optax.state_bytes(optimizer, params) / 4096**2:.2f}" == printed


def test_the_table_of_the_family_is_made_from_its_sources():
    assert f"\n\n{periodic_table.table()}\n\n" in README


def test_the_changelog_knows_this_version():
    assert f"## {ewa_optax.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_links_and_pictures_are_there():
    for target in re.findall(r"\]\((?!https?://|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
