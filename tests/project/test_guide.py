"""What the pages of the guide say is what runs."""

import re
import sys
from pathlib import Path

import jax
import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
BLOCKS = {
    page.stem: re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for page in sorted(GUIDE.glob("*.md"))
}
SHORT = [
    pytest.param(code, id=f"{page} {i}")
    for page, blocks in BLOCKS.items()
    for i, code in enumerate(blocks, 1)
    if "argparse" not in code
]
NNX, LINEN = (code for code in BLOCKS["large-models"] if "argparse" in code)


def run(code, *arguments):
    sys.argv[1:] = [str(x) for x in arguments]
    with jax.numpy_rank_promotion("allow"):  # As it is for users.
        exec(compile(code, "guide", "exec"), names := {"__name__": "guide"})
    return names


@pytest.mark.parametrize("code", SHORT)
def test_the_guide_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(code)


@pytest.mark.parametrize("code", [NNX, pytest.param(LINEN, marks=pytest.mark.slow)], ids=["nnx", "linen"])
def test_a_script_to_copy(code, tmp_path, capfd, monkeypatch):
    """At most 120 lines; on four devices, and on from there on two."""
    assert len(code.splitlines()) <= 120
    monkeypatch.setattr(sys, "argv", ["train.py"])
    small = "--layers", 1, "--width", 128, "--steps", 40
    run(code, *small, "--until", 1, "--folder", tmp_path / "run")
    names = run(code, *small, "--until", 10, "--devices", 2, "--folder", tmp_path / "run")
    assert names["number"] == 19
    assert {x.mesh.size for x in jax.tree.leaves(names["lie"])} == {2}
    printed = capfd.readouterr().out
    assert re.search(r"step 10: loss [23]\.\d+, norm \d\.\d+, rate 9.0e-04", printed)
    assert float(re.findall(r"bytes of state a parameter: (.*)", printed)[-1]) < 6.6
