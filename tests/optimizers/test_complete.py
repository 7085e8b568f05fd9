"""What every optimizer has besides its expression; a new one is told what it lacks, by name.

In the order of `docs/contributing/adding-an-optimizer.md`, which is compared with it.
"""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import oracles
import pages
import pytest
from cases import CASES
from test_cost import PEERS, WITHOUT_A_PEER

import ewa_optax
from benchmarks import rates
from ewa_optax import _optimizers
from ewa_optax._compare import digits
from ewa_optax._optimizers import OPTIMIZERS

ROOT = Path(__file__).parents[2]
FILES = ("CHANGELOG.md", "docs/api/optimizers.md", "docs/guide/optimizers.md")
CHANGELOG, API, TABLE = ((ROOT / name).read_text() for name in FILES)


COMPOSED = {"muon_with_adamw"}
"""Groups of optimizers, which are no expressions of their own."""


def in_families():
    """The functions that the modules of the families define, whether they are in `__all__` or not."""
    for found in pkgutil.iter_modules(_optimizers.__path__):
        module = importlib.import_module(f"{_optimizers.__name__}.{found.name}")
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and name not in COMPOSED:
                yield name


def missing(name):
    """What an optimizer of that name lacks, in words, each with the file where it goes."""
    words = re.findall(r"\w+", ewa_optax.__doc__)
    has = {
        "an oracle of that name, of NumPy: tests/oracles.py": hasattr(oracles, name),
        "a function in the module of its family: ewa_optax/_optimizers/": name in {*in_families()},
        "an import and a place in __all__: ewa_optax/_optimizers/__init__.py": name in OPTIMIZERS,
        "a place in the docstring: ewa_optax/__init__.py": name in words,
        "an import and a place in __all__: ewa_optax/__init__.py": name in ewa_optax.__all__,
        "a case in FAMILY: tests/cases.py": name in {case.name for case in CASES},
        "a row in either PEERS or WITHOUT_A_PEER: tests/optimizers/test_cost.py": (name in PEERS)
        != (name in WITHOUT_A_PEER),
        f"a rate in LEARNING_RATES, found by python -m benchmarks.rates {name}: ewa_optax/_compare/digits.py": name
        in digits.LEARNING_RATES,
        "a line ::: ewa_optax.NAME in the order of __all__: docs/api/optimizers.md": f"\n::: ewa_optax.{name}\n" in API,
        "a line with its name in backticks, under Unreleased and Added: CHANGELOG.md": f"`{name}`" in CHANGELOG,
        "a row in the table of docs/guide/optimizers.md (python -m benchmarks.pages)": f"\n| `{name}` |" in TABLE,
    }
    return [what for what, there in has.items() if not there]


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS, *in_families()}))
def test_an_optimizer_has_all_that_belongs_to_it(name):
    if lacks := missing(name):
        told = "\n".join([f"{name} lacks", *lacks, "(docs/contributing/adding-an-optimizer.md)"])
        pytest.fail(told, pytrace=False)


def test_what_is_missing_is_named():
    told = missing("adamw2")
    assert len(told) == 11
    assert pages.in_order(told, pages.edits(pages.read("adding-an-optimizer.md")))


def test_nothing_belongs_to_an_optimizer_that_is_not_there():
    assert {*PEERS, *WITHOUT_A_PEER} == OPTIMIZERS.keys() == digits.LEARNING_RATES.keys()


def test_the_best_of_some_rates_is_found(capsys):
    assert rates.best("momentum", [1e-4, 3.0], seeds=(0,), epochs=1) == 3.0
    with pytest.raises(SystemExit):
        rates.main(["sgd"])
    assert "there is no optimizer 'sgd'" in capsys.readouterr().err
