"""The rooms and floors of the package: who may import whom, and what every public name must say."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ewa_optax
from ewa_optax import landscapes, minibatch, pieces, plots, series, storage
from ewa_optax._family import OPTIMIZERS

PACKAGE = Path(ewa_optax.__file__).parent
FLOORS = {
    "_numerics": 0,
    "_leaves": 0,
    "_stacking": 1,
    "_checks": 0,
    "_rounding": 0,
    "_blocks": 0,
    "_scaling": 1,
    "storage": 1,
    "_keeping": 2,
    "_in_place": 3,
    "_parameters": 2,
    "_parameter_average": 3,
    "_recurrence": 1,
    "_decays": 2,
    "_blockwise": 2,
    "_shares": 2,
    "_in_cache": 3,
    "_row_by_row": 3,
    "_times": 0,
    "_series_arguments": 3,
    "_running": 4,
    "_over_devices": 5,
    "_ewa": 6,
    "_covariance": 6,
    "_moments": 7,
    "series": 8,
    "_state_bytes": 0,
    "_weight_decay": 3,
    "_schedules": 1,
    "_learning_rate": 2,
    "_average": 4,
    "_rms": 5,
    "_wide": 5,
    "_recursion": 3,
    "_averages": 4,
    "_combining": 4,
    "_layerwise": 5,
    "_rectify": 5,
    "_growing": 1,
    "_descent": 7,
    "_momentum_family": 8,
    "_rmsprop_family": 8,
    "_adam_family": 8,
    "_layerwise_family": 8,
    "_family": 9,
    "pieces": 8,
    "_compare": 11,
    "_order": 1,
    "_batches": 2,
    "_loops": 3,
    "_epoch": 4,
    "_train": 4,
    "_engines": 6,
    "_history": 5,
    "_sources": 7,
    "_training": 7,
    "_validation": 8,
    "_fit_arguments": 3,
    "_progress": 8,
    "_form": 8,
    "_checkpoint": 8,
    "_batch_size": 9,
    "_fit": 9,
    "minibatch": 10,
    "_surfaces": 2,
    "_path": 3,
    "_lanczos": 1,
    "_curvature": 4,
    "landscapes": 5,
    "_drawing": 0,
    "_cost_pictures": 7,
    "_curve_pictures": 7,
    "_landscape_pictures": 2,
    "plots": 8,
    "_report": 12,
    "__main__": 13,
}


def siblings_imported(source):
    """The modules of the package that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".")
            if node.level or parts[0] == "ewa_optax":
                tail = parts if node.level else parts[1:]
                yield from [tail[0]] if tail and tail[0] else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("ewa_optax."))


def imports_against_the_floors(name, source):
    return [x for x in siblings_imported(source) if x in FLOORS and FLOORS[x] >= FLOORS[name]]


def test_an_import_brings_nothing_along_that_optax_does_not():
    """So it takes the time of its own modules; matplotlib, rich, orbax and the like come where they are used."""
    code = (
        "import sys, optax; before = set(sys.modules); import ewa_optax; "
        "print(sorted(x for x in set(sys.modules) - before if x.split('.')[0] != 'ewa_optax'))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_every_module_has_a_floor():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == set(FLOORS)


@pytest.mark.parametrize("name", FLOORS)
def test_modules_import_from_lower_floors_only(name):
    assert not imports_against_the_floors(name, (PACKAGE / f"{name}.py").read_text())


@pytest.mark.parametrize(
    "line",
    [
        "from ewa_optax._adam_family import adam",
        "from ewa_optax import _adam_family",
        "import ewa_optax._adam_family",
        "from . import _adam_family",
        "from ._rms import scale_by_rms",
        "def f():\n    from ewa_optax._rms import scale_by_rms",
    ],
)
def test_the_floor_test_can_fail(line):
    assert imports_against_the_floors("_average", line)


def test_init_only_names_what_is_public():
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    docstring, *imports, version = body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(version, ast.Assign)
    assert all(isinstance(x, ast.ImportFrom) and x.names[0].name == x.names[0].asname for x in imports)


def test_the_public_names():
    public = {name for name in vars(ewa_optax) if not name.startswith("_")}
    assert set(re.findall(r"\w+", ewa_optax.__doc__)) >= public
    assert public == {
        *("landscapes", "minibatch", "pieces", "plots", "series", "storage"),
        *("scale_by_ewa", "bias_correct", "scale_by_rms", "scale_by_learning_rate", "add_decayed_weights"),
        *("average_parameters", "get_average", "round_stochastically", "state_bytes"),
        *("stack_leaves", "unstack_leaves", "stack_leaves_like", "Stacked"),
        *("fit", "Fitted", "History"),
        *("schedule_inverse_time", "schedule_exponential", "schedule_inverse_sqrt", "schedule_staircase"),
        *("get_learning_rate", "rescale_learning_rate"),
        *OPTIMIZERS,
    }


def test_the_docstring_of_pieces_names_them_all():
    public = {name for name in vars(pieces) if not name.startswith("_")}
    assert public <= set(re.findall(r"\w+", pieces.__doc__))


def test_the_public_storages_say_what_they_are():
    public = {
        name for name, value in vars(storage).items() if inspect.isclass(value) and value.__module__ == storage.__name__
    }
    assert public == {
        *("Storage", "BFloat16", "Float16", "Float24", "EightBit", "Factored"),
        *("Split", "Blocks", "Factors"),
    }
    for name in public:
        text = inspect.getdoc(getattr(storage, name))
        for option in ("rounding", "min_size", "seed", "block", "squares"):
            if option in vars(getattr(storage, name)).get("__annotations__", {}):
                assert re.search(rf"^    {option}: ", text, re.MULTILINE), (name, option)


def members():
    for name, optimizer in OPTIMIZERS.items():
        (node,) = ast.parse(inspect.getsource(optimizer)).body
        yield name, node


def test_an_optimizer_is_one_expression_whose_parts_may_have_names():
    for name, node in members():
        _docstring, *parts, last = node.body
        assert isinstance(last, ast.Return), name
        assert all(isinstance(part, ast.Assign) for part in parts), name
        kinds = {type(x) for part in (*parts, last) for x in ast.walk(part)}
        assert not kinds & {ast.Lambda, ast.IfExp, ast.ListComp, ast.GeneratorExp, ast.NamedExpr, ast.Compare}, name


def test_an_optimizer_takes_eight_lines_in_the_mean():
    """With its signature, without its docstring."""
    lengths = []
    for _, node in members():
        docstring = node.body[0]
        lengths.append(node.end_lineno - node.lineno + 1 - (docstring.end_lineno - docstring.lineno + 1))
    assert len(lengths) == 26
    assert np.mean(lengths) <= 8


def test_weight_decay_has_one_argument_and_its_mask_another():
    for name, optimizer in OPTIMIZERS.items():
        names = list(inspect.signature(optimizer).parameters)
        assert ("mask" in names) == ("weight_decay" in names), name
        assert names.index("mask") == names.index("weight_decay") + 1 if "mask" in names else True, name


def public_functions():
    for module in (ewa_optax, landscapes, minibatch, pieces, plots, series):
        for name, value in vars(module).items():
            if inspect.isfunction(value) and not name.startswith("_") and value.__module__.startswith("ewa_optax"):
                yield pytest.param(value, id=name)


@pytest.mark.parametrize("function", list(public_functions()))
def test_public_docstrings_say_what_they_must(function):
    text = inspect.getdoc(function)
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert (section == "Args:" and not inspect.signature(function).parameters) or f"\n{section}\n" in text, section
    assert ">>> " in text
    for name in inspect.signature(function).parameters:
        assert re.search(rf"^    {name}: ", text, re.MULTILINE), name


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_modules_are_small_and_say_what_they_are_for(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    prose = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            prose.update(range(body[0].lineno, body[0].end_lineno + 1))
    lines = enumerate(path.read_text().splitlines(), 1)
    code = [x for i, x in lines if x.strip() and not x.strip().startswith("#") and i not in prose]
    assert len(code) <= 150
