"""The notebooks run from clean, without an error or a warning, in time, and put out what is stored in them."""

import base64
import copy
import itertools
import math
import re
import resource
import struct
import sys
from pathlib import Path

import nbclient.exceptions
import nbformat
import pytest
from helpers import flags_but_for_devices
from nbformat.v4 import new_code_cell, new_notebook, new_output

import ewa_optax
from notebooks import execute

ROOT = Path(__file__).parents[2]
NOTEBOOK_SECONDS = 45
LARGEST_FILE = 300_000
TIMING = "timing"  # Tags cells that put out what only the reader's machine can know.
# Which are compiled a little better than tests are: running them would take longer than compiling does.
OPTIMIZED = {"01_mini_batches", "06_low_precision", "08_language_model"}
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")


def differences(stored, fresh):
    """What two runs of a notebook put out differently, in words."""
    cells = itertools.zip_longest(code_cells(stored), code_cells(fresh))
    return [f"{x.source}\n{found}" for x, y in cells for found in differences_of_cells(x, y)]


def differences_of_cells(stored, fresh):
    if stored is None or fresh is None or stored.source != fresh.source:
        return ["another cell"]
    kinds, fresh_kinds = ([kind(output) for output in cell.outputs] for cell in (stored, fresh))
    if kinds != fresh_kinds:
        return [f"stored: {kinds}; fresh: {fresh_kinds}"]
    if TIMING in stored.metadata.get("tags", ()):
        return []
    pairs = list(zip(stored.outputs, fresh.outputs, strict=True))
    texts = [(text(x), text(y)) for x, y in pairs if not alike(text(x), text(y))]
    sizes = [(size(x), size(y)) for x, y in pairs if not all(map(near, size(x), size(y)))]
    return [f"stored: {x}\nfresh: {y}" for x, y in texts + sizes]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kind(output):
    return output.output_type, output.get("name"), sorted(output.get("data", ()))


def text(output):
    return output.get("text") or output.get("data", {}).get("text/plain", "")


def size(output):
    """Width and height of a picture, as strings; nothing without one."""
    picture = output.get("data", {}).get("image/png")
    return map(str, struct.unpack(">II", base64.b64decode(picture)[16:24])) if picture else ()


def alike(stored, fresh):
    """Whether the words are the same and the numbers nearly so."""
    words, fresh_words = (NUMBER.sub("#", x).split() for x in (stored, fresh))
    return words == fresh_words and all(map(near, NUMBER.findall(stored), NUMBER.findall(fresh)))


def near(stored, fresh):
    """Whether two numbers differ by two percent at most, or by one in the last of the printed decimals."""
    decimals = [len(x.lower().split("e")[0].split(".")[1]) for x in (stored, fresh) if "." in x and "e" not in x]
    return math.isclose(
        float(stored), float(fresh), rel_tol=0.02, abs_tol=1.01 * 10 ** -min(decimals) if decimals else 0
    )


def seconds_of_children():
    """What kernels have computed: the clock on the wall would tell how busy the machine is with other things."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def notebook_of(source):
    return new_notebook(cells=[new_code_cell(source)])


@pytest.mark.parametrize("path", execute.paths(), ids=lambda path: path.stem)
def test_a_notebook_runs_in_time_and_puts_out_what_is_stored(path):
    stored, began = nbformat.read(path, as_version=4), seconds_of_children()
    better = " --xla_backend_optimization_level=1" if path.stem in OPTIMIZED else ""
    fresh = execute.executed(stored, xla_flags=flags_but_for_devices() + better)
    assert seconds_of_children() - began < NOTEBOOK_SECONDS
    assert not differences(stored, fresh)


@pytest.mark.parametrize("path", execute.paths(), ids=lambda path: path.stem)
def test_a_notebook_is_small_was_run_in_order_and_tells_nothing_of_the_machine(path):
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    assert path.stat().st_size < LARGEST_FILE
    assert notebook.metadata == execute.METADATA
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.metadata in ({}, {"tags": [TIMING]}) for cell in notebook.cells)
    assert str(ROOT) not in path.read_text()
    assert str(Path.home()) not in path.read_text()
    assert notebook.cells[0].source.startswith("# ")


def test_a_notebook_runs_in_this_interpreter_and_checkout_on_one_cpu_and_its_seconds_count():
    source = "import sys, jax, ewa_optax\nprint(sys.executable, ewa_optax.__file__, jax.device_count())"
    began = seconds_of_children()
    (cell,) = execute.executed(notebook_of(source)).cells
    assert 0.5 < seconds_of_children() - began < 15
    assert cell.outputs[0].text.split() == [sys.executable, ewa_optax.__file__, "1"]


@pytest.mark.parametrize(
    ("source", "cell_seconds", "error"),
    [
        ("1 / 0", 60, nbclient.exceptions.CellExecutionError),
        ("import warnings\nwarnings.warn('look out')", 60, nbclient.exceptions.CellExecutionError),
        ("import sys\nprint('look out', file=sys.stderr)", 60, RuntimeError),
        ("import time\ntime.sleep(600)", 2, nbclient.exceptions.CellTimeoutError),
    ],
)
def test_a_notebook_that_fails_warns_or_takes_too_long_is_refused(source, cell_seconds, error):
    with pytest.raises(error):
        execute.executed(notebook_of(source), cell_seconds)


def picture(width):
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, 400)).decode()


def a_run(said="decay 0.9: 12.34 and 5e-06", width=800, tags=()):
    cell = new_code_cell("print(decay)", metadata={"tags": list(tags)} if tags else {})
    data = {"image/png": picture(width), "text/plain": "<Figure>"}
    cell.outputs = [new_output("stream", name="stdout", text=said), new_output("display_data", data=data)]
    return new_notebook(cells=[cell])


@pytest.mark.parametrize(
    "fresh",
    [
        a_run(),
        a_run("decay 0.9: 12.35  and 5e-06\n"),
        a_run("decay 0.9: 12.50 and 4.95e-06"),
        a_run(width=810),
    ],
)
def test_runs_that_nearly_agree_do(fresh):
    assert not differences(a_run(), fresh)


def without_its_picture(run):
    run = copy.deepcopy(run)
    run.cells[0].outputs.pop()
    return run


@pytest.mark.parametrize(
    "fresh",
    [
        a_run("decay 0.9: 12.74 and 5e-06"),
        a_run("decay 0.9: 12.34 and 5e-05"),
        a_run("decay 0.9: -12.34 and 5e-06"),
        a_run("decay 0.9: 12.34 and nan"),
        a_run("decay 0.9: 12.34, and 5e-06"),
        a_run("decay 0.9: 12.34"),
        a_run("decay 0.9: 12.34 and 5e-06 and 7"),
        a_run(width=850),
        without_its_picture(a_run()),
        new_notebook(),
    ],
)
def test_runs_that_differ_are_told_apart(fresh):
    assert differences(a_run(), fresh)


def test_whole_numbers_have_no_last_decimal():
    assert differences(a_run("so many programs: 1"), a_run("so many programs: 2"))
    assert not differences(a_run("so many steps: 1000"), a_run("so many steps: 1001"))


def test_what_the_clock_says_may_differ_but_must_be_there():
    ours, others = a_run(tags=[TIMING]), a_run("another machine", tags=[TIMING])
    assert not differences(ours, others)
    assert differences(ours, without_its_picture(others))
