"""The rooms of the house: who may import whom, and what every public name must say."""

import ast
import graphlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ewa_optax
from ewa_optax import landscapes, matrices, minibatch, pieces, plots, series, storage
from ewa_optax._optimizers import OPTIMIZERS

PACKAGE = Path(ewa_optax.__file__).parent
# What each package may import, besides itself and the modules at the root; those import only each other.
MAY_IMPORT = {
    "storage": set(), "series": set(),
    "pieces": {"storage"}, "plots": {"series"},
    "matrices": {"pieces", "storage"}, "_wrappers": {"pieces", "storage"},
    "_optimizers": {"_wrappers", "matrices", "pieces", "storage"},
    "_states": {"_wrappers", "pieces", "storage"},
    "minibatch": {"pieces", "_wrappers"}, "landscapes": {"pieces"},
    "_fit": {"minibatch", "pieces"},
    "_compare": {"_optimizers", "_wrappers", "minibatch", "plots"},
}  # fmt: skip
FACES = {"__init__", "__main__"}
"""These two name what is in the packages, and nothing imports them."""


def module_of(path):
    """As in an import, behind `ewa_optax.`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


SOURCES = {module_of(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def package_of(module):
    """None for a module at the root."""
    first = module.split(".")[0]
    return first if first in MAY_IMPORT else None


def imported(module, source):
    """The modules that a source imports, anywhere in it: of `from a.b import c`, both `a.b.c` and `a.b`."""
    here = ["ewa_optax", *module.split(".")]
    if module in MAY_IMPORT:
        here.append("__init__")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            base = (".".join(here[: len(here) - node.level]), node.module) if node.level else ("", node.module)
            start = ".".join(filter(None, base))
            names = [f"{start}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("ewa_optax."):
                inner = name.removeprefix("ewa_optax.")
                yield inner if inner in SOURCES else inner.rpartition(".")[0] or inner


def imports_against_the_rule(module, source):
    """What is neither at the root, nor in its own package, nor in one that its package may import."""
    own = package_of(module)
    allowed = MAY_IMPORT[own] | {own, None} if own else {None}
    return [x for x in imported(module, source) if package_of(x) not in allowed or x in FACES]


def test_an_import_brings_nothing_along_that_optax_does_not():
    """So it takes the time of its own modules; matplotlib, rich, orbax and the like come where they are used."""
    code = (
        "import sys, optax; before = set(sys.modules); import ewa_optax; "
        "print(sorted(x for x in set(sys.modules) - before if x.split('.')[0] != 'ewa_optax'))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_table_names_every_package_and_has_no_circle():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(MAY_IMPORT)
    tuple(graphlib.TopologicalSorter(MAY_IMPORT).static_order())


@pytest.mark.parametrize("module", sorted(SOURCES.keys() - FACES))
def test_modules_import_from_the_root_their_own_package_and_those_below(module):
    assert not imports_against_the_rule(module, SOURCES[module])


def circle(sources):
    """Modules that import each other, if any do; a face of a package imports all of it, and none of it the face."""
    graph = {module: set(imported(module, source)) - {module} for module, source in sources.items()}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def test_no_modules_import_each_other():
    assert circle({module: source for module, source in SOURCES.items() if module not in FACES}) is None


@pytest.mark.parametrize(
    "line",
    [
        "from ewa_optax._optimizers.adam import adam",
        "from ewa_optax._optimizers import OPTIMIZERS",
        "import ewa_optax._optimizers.adam",
        "from ewa_optax import minibatch",
        "from .._optimizers.adam import adam",
        "from .. import series",
        "def f():\n    from ewa_optax.series._ewa import ewa",
    ],
)
def test_the_test_of_imports_can_fail(line):
    assert imports_against_the_rule("pieces._rms", line)
    assert not imports_against_the_rule("_compare.digits", "from ewa_optax._optimizers.adam import adam")


def test_a_module_at_the_root_may_not_look_into_a_package():
    assert imports_against_the_rule("_trees", "from ewa_optax.storage._formats import EightBit")
    assert not imports_against_the_rule("_trees", "from ewa_optax._stacks import Stacked")


def test_the_test_of_circles_can_fail():
    around = {"pieces._rms": "from ewa_optax.pieces import _combining", "pieces._combining": "from . import _rms"}
    assert set(circle(around)) == around.keys()
    assert set(circle({"pieces": "from ewa_optax.pieces import _rms", "pieces._rms": "from ewa_optax import pieces"}))


def test_few_modules_in_a_folder():
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert len(list(folder.glob("*.py"))) <= (10 if folder == PACKAGE else 14), folder


@pytest.mark.parametrize("module", ["__init__", *(name for name in MAY_IMPORT if not name.startswith("_"))])
def test_a_face_names_all_that_it_imports(module):
    docstring, *imports, names = [x for x in ast.parse(SOURCES[module]).body if not is_version(x)]
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(x, ast.ImportFrom) for x in imports)
    public = [alias.name for x in imports for alias in x.names if not alias.name.startswith("_")]
    assert sorted(public) == sorted(ast.literal_eval(names.value))


def is_version(node):
    return isinstance(node, ast.Assign) and node.targets[0].id == "__version__"


def test_the_public_names():
    public = set(ewa_optax.__all__)
    assert set(re.findall(r"\w+", ewa_optax.__doc__)) >= public
    assert public == {
        *("landscapes", "minibatch", "pieces", "plots", "series", "storage"),
        *("scale_by_ewa", "bias_correct", "scale_by_rms", "scale_by_learning_rate", "add_decayed_weights"),
        *("average_parameters", "get_average", "round_stochastically", "state_bytes", "peak_bytes", "state_shardings"),
        *("accumulate", "groups", "watch", "get_norms", "clip_by_past_norm", "skip_spikes", "get_skipped"),
        "carry_over",
        *("stack_leaves", "unstack_leaves", "stack_leaves_like", "Stacked"),
        *("fit", "Fitted", "History"),
        *("schedule_inverse_time", "schedule_exponential", "schedule_inverse_sqrt", "schedule_staircase"),
        *("schedule_warmup", "schedule_cooldown", "shape_linear", "shape_cosine", "shape_one_minus_sqrt"),
        *("get_learning_rate", "get_learning_rates", "rescale_learning_rate"),
        *OPTIMIZERS, "muon_with_adamw", "matrices",
    }  # fmt: skip


def test_the_docstring_of_pieces_names_them_all():
    assert set(pieces.__all__) <= set(re.findall(r"\w+", pieces.__doc__))


def test_the_public_storages_say_what_they_are():
    assert set(storage.__all__) == {
        *("Storage", "BFloat16", "Float16", "Float24", "EightBit", "Factored"),
        *("Split", "Blocks", "Factors", "StorageLike", "MomentStorages", "NAMED"),
        *("for_gradients", "for_squares", "first_moment", "second_moment"),
    }
    for kind in filter(inspect.isclass, map(vars(storage).get, storage.__all__)):
        text = inspect.getdoc(kind)
        for option in ("rounding", "min_size", "seed", "block", "squares"):
            if option in vars(kind).get("__annotations__", {}):
                assert re.search(rf"^    {option}: ", text, re.MULTILINE), (kind, option)


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
    assert np.mean(lengths) <= 8


def test_weight_decay_has_one_argument_and_its_mask_another():
    for name, optimizer in OPTIMIZERS.items():
        names = list(inspect.signature(optimizer).parameters)
        assert ("mask" in names) == ("weight_decay" in names), name
        assert names.index("mask") == names.index("weight_decay") + 1 if "mask" in names else True, name


def public_functions():
    for module in (ewa_optax, landscapes, matrices, minibatch, pieces, plots, series):
        for name, value in vars(module).items():
            if inspect.isfunction(value) and not name.startswith("_") and value.__module__.startswith("ewa_optax"):
                yield pytest.param(value, id=name)


@pytest.mark.parametrize("function", list(public_functions()))
def test_public_docstrings_say_what_they_must(function):
    text = inspect.getdoc(function)
    missing = {section for section in ("Args:", "Returns:", "Raises:", "Examples:") if f"\n{section}\n" not in text}
    if not inspect.signature(function).parameters:
        missing.discard("Args:")
    if function.__module__.startswith("ewa_optax._optimizers.") and re.search(r"\braises\b", text):
        missing.discard("Raises:")
    assert not missing
    assert ">>> " in text
    for name in inspect.signature(function).parameters:
        assert re.search(rf"^    (?:[\w*]+, )*{name}(?:, [\w*]+)*: ", text, re.MULTILINE), name


def test_docstrings_of_optimizers_say_things_once():
    """What all share is told by `ewa_optax._optimizers`, and the arguments of many by the first that has them."""
    functions = [
        node
        for family in ("momentum", "rmsprop", "adam", "layerwise", "muon", "muon_with_adamw", "soap")
        for node in ast.parse(SOURCES[f"_optimizers.{family}"]).body
        if isinstance(node, ast.FunctionDef)
    ]
    assert {function.name for function in functions} == {*OPTIMIZERS, "muon_with_adamw"}
    lines = [line for function in functions for line in ast.get_docstring(function).splitlines() if line.strip()]
    assert len(lines) <= 18.1 * len(functions)


@pytest.mark.parametrize("module", SOURCES)
def test_modules_are_small_and_say_what_they_are_for(module):
    tree = ast.parse(SOURCES[module])
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
    lines = enumerate(SOURCES[module].splitlines(), 1)
    code = [x for i, x in lines if x.strip() and not x.strip().startswith("#") and i not in prose]
    assert len(code) <= 200
