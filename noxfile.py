"""What is run by hand or by the clock, each in an environment of its own: `nox --list`."""

import nox

nox.options.sessions = ["tests", "lint"]


@nox.session
def tests(session: nox.Session) -> None:
    """The quick tests, as the README prints them; `nox -s tests -- tests/test_laws.py` runs some of them."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """All combinations, and longer trainings; compiled as for users, which the quick tests are not to the end."""
    session.install("-e", ".[test]")
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    session.run("python", "-m", "pytest", "-m", "slow or not slow", *session.posargs, env=flags)


@nox.session
def mutations(session: nox.Session) -> None:
    """Faults made on purpose, each of which the quick tests must notice."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.mutations", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Lint, format and types."""
    session.install("-e", ".[test]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
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
