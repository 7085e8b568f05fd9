"""What every benchmark does with its numbers: where they go is asked, and checked before they are measured."""

import argparse
import json
from pathlib import Path
from typing import Any


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options of a benchmark, with `--json`."""
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    if options.json and not options.json.parent.is_dir():
        parser.error(f"argument --json: there is no folder {str(options.json.parent)!r}; make it first")
    return options


def write(record: Any, path: Path | None) -> None:
    """Writes the numbers, if they are wanted."""
    if path:
        path.write_text(json.dumps(record, indent=2) + "\n")
