"""Executes notebooks from top to bottom, in a fresh kernel each, and stores what comes out in them.

Run as `python -m notebooks.execute [NAME ...]` in a checkout, with the `test` extra installed; without names, all are
executed.
"""

import argparse
import base64
import copy
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parent
CELL_SECONDS = 300
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# In the kernel, whose own modules may warn; tornado asks for an event loop as Python 3.13 does not like.
STRICT = [
    "import warnings",
    "warnings.simplefilter('error')",
    "warnings.filterwarnings('ignore', module='ipykernel')",
    "warnings.filterwarnings('ignore', 'There is no current event loop')",
]
CHANGES_RESULTS = ("JAX_", "XLA_", "MPL", "PYTHONWARNINGS")


def executed(
    notebook: nbformat.NotebookNode, cell_seconds: int = CELL_SECONDS, xla_flags: str = ""
) -> nbformat.NotebookNode:
    """A notebook with what a run from top to bottom puts out, which is where warnings are errors.

    Its programs are compiled as a reader's are, but for `xla_flags`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an error or a warning.
        nbclient.exceptions.CellTimeoutError: a cell ran longer than `cell_seconds`.
        RuntimeError: a cell wrote to stderr.
    """
    fresh = copy.deepcopy(notebook)
    client = NotebookClient(
        fresh,
        # Without folders to look in, what is left is the kernel of the interpreter that runs.
        config=Config(KernelSpecManager={"kernel_dirs": []}),
        kernel_name="python3",
        timeout=cell_seconds,
        startup_timeout=300,
        extra_arguments=[f"--IPKernelApp.exec_lines={json.dumps(STRICT)}", "--IPKernelApp.log_level=ERROR"],
        coalesce_streams=True,
        record_timing=False,
    )
    with tempfile.TemporaryDirectory() as profile:
        client.execute(cwd=str(FOLDER), env=_environment(profile) | {"XLA_FLAGS": xla_flags})
    for cell in fresh.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                raise RuntimeError(f"a cell wrote to stderr, which a reader would take for a fault:\n{cell.source}")
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _smaller(output.data["image/png"])
    fresh["metadata"] = nbformat.from_dict(METADATA)
    return fresh


def paths(names: list[str] | None = None) -> list[Path]:
    """The files of the notebooks of these names; of all without any."""
    return sorted(FOLDER.glob("*.ipynb")) if not names else [FOLDER / f"{Path(name).stem}.ipynb" for name in names]


def _smaller(picture):
    """The same with 256 colours, which are enough for lines on a plain ground, in a third of the bytes."""
    drawn, stored = Image.open(io.BytesIO(base64.b64decode(picture))), io.BytesIO()
    drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(stored, "png", optimize=True)
    return base64.b64encode(stored.getvalue()).decode()


def _environment(profile):
    # A CPU, as everywhere in the stored numbers; and the checkout that the notebooks lie in, not another one.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(CHANGES_RESULTS)}
    folders = os.pathsep.join([str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "IPYTHONDIR": profile, "JAX_PLATFORMS": "cpu", "PYTHONPATH": folders}


def main() -> None:
    """Executes and stores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 03_momentum_rmsprop_adam (default: all)")
    chosen = paths(parser.parse_args().names)
    for missing in (path for path in chosen if not path.exists()):
        parser.error(f"there is no notebook {missing.stem!r}; those that are: {', '.join(x.stem for x in paths())}")
    for path in chosen:
        began = time.perf_counter()
        nbformat.write(executed(nbformat.read(path, as_version=4)), path)
        print(f"{path.stem}: {time.perf_counter() - began:.1f} s, {path.stat().st_size // 1000} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
