"""What is run by hand or by the clock, each in an environment of its own: `nox --list`."""

import tarfile
import tomllib
from pathlib import Path

import nox

nox.options.sessions = ["tests", "lint", "types"]
VIRTUAL_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


@nox.session
def tests(session: nox.Session) -> None:
    """The quick tests, as the README prints them; `nox -s tests -- tests/pieces/test_laws.py` runs some of them."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def oldest(session: nox.Session) -> None:
    """The quick tests with the oldest versions that `dependencies` allows."""
    needed = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    session.install("-e", ".[test]", *(x.replace(">=", "==") for x in needed))
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """All combinations, and longer trainings; compiled as for users, which the quick tests are not to the end."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-m", "slow or not slow", *session.posargs, env=VIRTUAL_DEVICES)


@nox.session
def notebooks(session: nox.Session) -> None:
    """The notebooks, executed anew."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "tests/project/test_notebooks.py", *session.posargs)


@nox.session
def mutations(session: nox.Session) -> None:
    """Faults made on purpose, each of which the quick tests must notice."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.mutations", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Lint and format."""
    session.install("-e", ".[test]", "check-jsonschema")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)


WORKFLOWS = sorted(map(str, Path(".github", "workflows").glob("*.yml")))


@nox.session
def types(session: nox.Session) -> None:
    """Types."""
    session.install("-e", ".[test]")
    session.run("pyright")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, into `site`; `nox -s docs -- serve` shows it, and what changes while one writes."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", *(session.posargs or ["build", "--strict"]))


@nox.session
def site(session: nox.Session) -> None:
    """The site, opened in Chromium page by page; where there is none it says how to get it."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", "build", "--strict")
    session.run("python", "docs/_site/check.py", "site", "--self-test", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """All benchmarks, in small; `nox -s benchmarks -- step --json step.json` measures one of them in full."""
    session.install("-e", ".[bench]")
    session.run("python", "-m", "benchmarks", *(session.posargs or ["all", "--quick"]))


SMOKE = """
import jax, jax.numpy as jnp, ewa_optax
run = ewa_optax.fit(lambda w, b: jnp.mean((b - w) ** 2), ewa_optax.adam(0.1, storage="8bit"), jnp.zeros(64),
                    jnp.ones((256, 64)), batch_size=32, epochs=20, key=jax.random.key(0))
assert "site-packages" in ewa_optax.__file__, ewa_optax.__file__
assert abs(float(run.params.mean()) - 1) < 0.1, run.params
print(ewa_optax.__version__, float(run.params.mean()))
"""


@nox.session
def package(session: nox.Session) -> None:
    """A wheel and a source archive, installed one after the other and tried; some tests run out of the archive.

    `nox -s package -- tests` runs all quick tests of the archive.
    """
    made = Path(session.create_tmp()).resolve()
    session.install("build")
    session.run("python", "-m", "build", "--outdir", str(made), silent=True)
    wheel, archive = (max(made.glob(f"*{end}"), key=lambda path: path.stat().st_mtime) for end in (".whl", ".tar.gz"))
    with session.chdir(made):  # Where no checkout is that could be imported.
        for what in (wheel, archive):
            session.install("--force-reinstall", "--no-deps", str(what))
            session.install(str(what))
            session.run("python", "-c", SMOKE)
    with tarfile.open(archive) as files:
        files.extractall(made, filter="data")
    with session.chdir(made / archive.name.removesuffix(".tar.gz")):
        session.install("-e", ".[test]")
        session.run("python", "-m", "pytest", *(session.posargs or ["tests/project/test_layout.py", "tests/series"]))
