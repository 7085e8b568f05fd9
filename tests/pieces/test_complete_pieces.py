"""What every piece has besides its arithmetic; a new one is told what it lacks, by name.

In the order of `docs/contributing/adding-a-piece.md`, which is compared with it.
"""

import importlib
import inspect
import pkgutil
import re
import zipfile
from pathlib import Path

import optax
import pages
import pytest
from at_0_1_0 import FIXTURE
from cases import PIECES

from ewa_optax import pieces

ROOT = Path(__file__).parents[2]
API = "".join(path.read_text() for path in ROOT.glob("docs/api/*.md"))
USERS = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("ewa_optax/_optimizers/*.py"), ROOT / "tests" / "own.py"]
TESTS = "".join(path.read_text() for path in USERS)
with zipfile.ZipFile(FIXTURE) as archive:
    OF_0_1_0 = re.findall(r"^ewa_optax\.pieces (\w+)$", archive.read("names.txt").decode(), re.MULTILINE)


def defined():
    """The public functions of the modules of `pieces` that make a transformation, named by its face or not."""
    for found in pkgutil.iter_modules(pieces.__path__):
        module = importlib.import_module(f"{pieces.__name__}.{found.name}")
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                returns = inspect.signature(value, eval_str=True).return_annotation
                if returns in (optax.GradientTransformation, optax.GradientTransformationExtraArgs):
                    yield name


# What pieces are made by, which is not public.
MAKERS = {"averaging", "by_step", "in_float32", "of_summaries", "quotient"}
NAMES = sorted({*defined()} - MAKERS)


def missing(name):
    """What a piece of that name lacks, in words, each with the file where it goes."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    has = {
        "a test of its law, or an optimizer that has an oracle: tests/pieces/": re.search(rf"\b{name}\b", TESTS),
        "a function in the module next to its idea: ewa_optax/pieces/_": name in NAMES,
        "a place in the docstring: ewa_optax/pieces/__init__.py": name in re.findall(r"\w+", pieces.__doc__),
        "an import and a place in __all__: ewa_optax/pieces/__init__.py": name in pieces.__all__,
        "an entry in PIECES: tests/cases.py": name in PIECES,
        "a line ::: ewa_optax.pieces.NAME: docs/api/pieces.md": f"::: ewa_optax.pieces.{name}\n" in API
        or f"::: ewa_optax.{name}\n" in API,
        "a line with its name in backticks, under Unreleased and Added: CHANGELOG.md": name in OF_0_1_0
        or re.search(rf"`(pieces\.)?{name}`", changelog),
    }
    return [what for what, there in has.items() if not there]


@pytest.mark.parametrize("name", NAMES)
def test_a_piece_has_all_that_belongs_to_it(name):
    if lacks := missing(name):
        pytest.fail("\n".join([f"{name} lacks", *lacks, "(docs/contributing/adding-a-piece.md)"]), pytrace=False)


def test_what_is_missing_is_named():
    told = missing("running_" + "median")
    assert len(told) == 7
    assert pages.in_order(told, pages.edits(pages.read("adding-a-piece.md")))


def test_the_table_of_pieces_has_no_other():
    assert set(PIECES) == set(NAMES)
