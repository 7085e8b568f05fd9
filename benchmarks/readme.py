"""What README and the guide show of `results/`, between `<!-- benchmark: epoch -->` and `<!-- end -->`.

`python -m benchmarks.readme` writes it, and says "not measured" of what is not there.
"""

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine, views

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md")))
BLOCK = re.compile(r"(<!-- benchmark: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
VIEWS: dict[str, Callable[[dict], list[str]]] = {
    "step": views.step,
    "epoch": views.epoch,
    "series": views.series,
    "low_precision": views.low_precision,
    "memory": views.memory,
    "exactness": views.exactness,
    "lm": views.lm,
}


def written(text: str, results: Path = RESULTS) -> str:
    """A page with what the results are now."""
    return BLOCK.sub(lambda found: f"{found[1]}{block(found[2], results)}\n{found[3]}", text)


def block(benchmark: str, results: Path) -> str:
    """What was measured, machine by machine, CPUs first."""
    records = [json.loads(path.read_text()) for path in sorted(results.glob(f"*/{benchmark}.json"))]
    parts = []
    for name, on_cpu in (("CPU", True), ("GPU", False)):
        of_these = [record for record in records if (record["machine"]["platform"] == "cpu") == on_cpu]
        for record in of_these:
            parts += [said_of(record), *VIEWS[benchmark](record)]
        if not of_these:
            parts.append(f"{name}: not measured.")
    return "\n\n".join(parts)


def said_of(record: dict) -> str:
    """Where it was measured, with what, and what its ratios are."""
    used = " and ".join(f"{name} {record['versions'][name]}" for name in ("jax", "optax") if name in record["versions"])
    text = f"On {machine.words(record['machine'])}, with {used}."
    spreads = [row["spread"] for table in record["tables"] for row in table["rows"] if "spread" in row]
    if spreads and all(spreads):
        text += " Ratios are the medians of those of each turn, with their quartiles."
    if record["missing"]:
        text += f" Not installed: {', '.join(record['missing'])}."
    return textwrap.fill(text, 120)


def main() -> None:
    """Rewrites README and the guide."""
    for page in PAGES:
        page.write_text(written(page.read_text()))


if __name__ == "__main__":
    main()
