"""What the pages on contributing tell to do is done, in a copy of the checkout; and the habits fit each other."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import oracles
import pages
import pytest
import yaml
from runs import assert_close_in_size, eight_decades, run_updates

import ewa_optax

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
    run("python -m benchmarks.pages")
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
    for file, name in (("ewa_optax/__init__.py", "qhm"), ("ewa_optax/pieces/__init__.py", "running_sum")):
        assert f'\n    "{name}",\n' in (tmp_path / file).read_text().partition("__all__ = ")[2]
    with pytest.raises(ValueError, match="0 times, not once"):
        pages.put(tmp_path, pages.Edit("tests/oracles.py", "diff", "", "-def sgd():\n+def sgd2():\n"))
    assert not hasattr(oracles, "qhm")


# The habits.

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}


def sessions():
    """The functions of the noxfile that are sessions."""
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    return {x.name for x in tree.body if isinstance(x, ast.FunctionDef) and x.decorator_list}


def steps(workflow):
    """Its lines of shell, with each value of its matrix."""
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        values = matrix.get("session") or [row["session"] for row in matrix.get("include", ())] or [""]
        for step in job["steps"]:
            for value in values:
                yield step.get("run", "").replace("${{ matrix.session }}", value)


def called(text):
    """The sessions that a text calls by `nox -s`."""
    return {name for names in re.findall(r"\bnox -s ((?:[a-z]+ ?)+)", text) for name in names.split()}


def test_workflows_call_sessions_that_there_are():
    assert WORKFLOWS.keys() == {"tests.yml", "docs.yml", "release.yml"}
    found = {name: called("\n".join(steps(workflow))) for name, workflow in WORKFLOWS.items()}
    assert found["tests.yml"] == {"tests", "oldest", "lint", "types", "slow", "benchmarks", "package"}
    assert found["docs.yml"] == {"docs"}
    assert found["release.yml"] == {"package"}
    assert set().union(*found.values()) <= sessions()
    for workflow in WORKFLOWS.values():
        assert workflow[True]  # What YAML makes of "on".
        assert all({"runs-on", "steps"} <= job.keys() for job in workflow["jobs"].values())


def test_workflows_run_on_the_oldest_and_the_newest_python():
    rows = WORKFLOWS["tests.yml"]["jobs"]["tests"]["strategy"]["matrix"]["include"]
    known = [x.rpartition(" ")[2] for x in PYPROJECT["project"]["classifiers"] if ":: 3." in x]
    assert {row["python"] for row in rows} == {known[0], known[-1]}
    assert PYPROJECT["project"]["requires-python"] == f">={known[0]}"


def test_only_the_job_that_publishes_may_sign():
    jobs = WORKFLOWS["release.yml"]["jobs"]
    assert {name for name, job in jobs.items() if "id-token" in job.get("permissions", ())} == {"publish"}
    assert jobs["publish"]["needs"] == "build"


def test_documents_name_sessions_that_there_are():
    text = "".join((ROOT / name).read_text() for name in ("CONTRIBUTING.md", *map(str, pages.PAGES.glob("*.md"))))
    assert {"tests", "slow", "package"} <= called(text) <= sessions()


def test_hooks_are_local_and_their_programs_are_in_dev():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    extras = PYPROJECT["project"]["optional-dependencies"]
    needed = " ".join(extras["dev"] + extras["test"])
    assert all(hook["language"] == "system" and hook["entry"].split()[0] in needed for hook in hooks)


def test_the_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == ewa_optax.__version__
    assert citation["license"] == PYPROJECT["project"]["license"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"\n## {ewa_optax.__version__} - {citation['date-released']}\n" in changelog
    assert citation["repository-code"] == PYPROJECT["project"]["urls"]["Source"]


def test_the_changelog_is_by_kinds_and_has_its_links():
    parts = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    for part in parts:
        version = part.split()[0]
        kinds = re.findall(r"^### (\w+)", part, re.MULTILINE)
        assert kinds == [kind for kind in ("Added", "Changed", "Fixed") if kind in kinds], version
        assert re.search(rf"\n\[.*\]\(https://.*((/|\.\.\.)v{re.escape(version)}|\.\.\.main)\)", part), version


def test_contributing_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 60
