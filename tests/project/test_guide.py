"""The scripts of the guide that are to be copied. (What else is in its pages runs in `test_docs`.)"""

import re
import sys
from pathlib import Path

import jax
import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guide"


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (GUIDE / page).read_text(), re.MULTILINE | re.DOTALL)


NNX, LINEN = (code for code in blocks("large-models.md") if "argparse" in code)


def run(code, *arguments):
    sys.argv[1:] = [str(x) for x in arguments]
    with jax.numpy_rank_promotion("allow"):  # As it is for users.
        exec(compile(code, "guide", "exec"), names := {"__name__": "guide"})
    return names


@pytest.mark.parametrize(
    ("code", "until"),
    [pytest.param(NNX, 1, id="nnx"), *(pytest.param(code, 10, marks=pytest.mark.slow) for code in (NNX, LINEN))],
)
def test_a_script_to_copy(code, until, tmp_path, capfd, monkeypatch):
    """At most 120 lines; on four devices, and on from there on two."""
    assert len(code.splitlines()) <= 120
    monkeypatch.setattr(sys, "argv", ["train.py"])
    small = "--layers", 1, "--width", 128, "--steps", 40, "--folder", tmp_path / "run"
    names = run(code, *small, "--until", 1)
    assert {x.sharding.mesh.size for x in jax.tree.leaves(names["state"]) if x.ndim} == {4}
    if until > 1:
        names = run(code, *small, "--until", until, "--devices", 2)
        assert {x.sharding.mesh.size for x in jax.tree.leaves(names["state"]) if x.ndim} == {2}
        assert re.search(r"step 10: loss [234]\.\d+, norm \d\.\d+, rate 9.0e-04", capfd.readouterr().out)
    assert names["number"] == 2 * until - 1
    assert 4 * names["kept"] / names["params"] < 6.2


def test_the_training_script_is_short():
    assert len(blocks("training-script.md")[0].splitlines()) <= 80
