"""The benchmarks: what the library costs beside its peers, on the device that JAX sees."""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

# On a GPU JAX would take three quarters of the memory for itself, and torch needs some. Read when JAX is imported.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")

BENCHMARKS = ("step", "epoch", "shuffle", "series", "low_precision", "memory", "exactness", "maps", "muon", "lm")


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, and writes what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmark", nargs="?", choices=(*BENCHMARKS, "all"), default="all", help="(default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the results, a list of them for all")
    parser.add_argument("--quick", action="store_true", help="much smaller: all in under three minutes")
    options = parser.parse_args(arguments)
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"argument --json: there is no folder {str(options.json.parent)!r}; make it first")
    try:
        records = importlib.import_module("benchmarks.records")
        chosen = BENCHMARKS if options.benchmark == "all" else (options.benchmark,)
        for name in chosen:
            importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed; python -m pip install -e '.[bench]' installs all that is needed")
    found = []
    for name in chosen:
        found.append(records.measured(name, options.quick))
        if options.json:  # After each, so that what ends early is not lost.
            options.json.write_text(json.dumps(found if options.benchmark == "all" else found[0], indent=2) + "\n")


if __name__ == "__main__":
    main()
