"""What README and the pages of `docs/` show of `results/`, between `<!-- benchmark: epoch -->` and `<!-- end -->`.

`python -m benchmarks.pages` writes it, and says "not measured" of what is not there. Tables that are made from the
sources, of all optimizers and of their rates, are written in the same way.
"""

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine, periodic_table, views

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- benchmark: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
VIEWS: dict[str, Callable[..., list[str]]] = {
    "step": views.step,
    "epoch": views.epoch,
    "series": views.series,
    "low_precision": views.low_precision,
    "memory": views.memory,
    "exactness": views.exactness,
    "muon": views.muon,
    "lm": views.lm,
    "in_short": views.in_short,
}
MADE: dict[str, Callable[[], str]] = {"periodic_table": periodic_table.table, "rates": views.rates}
"""Tables from the sources."""
NEEDED = {"in_short": ("memory", "low_precision", "exactness", "epoch", "step")}
"""Where a view is not of the benchmark of its name: those that it is of."""


def paths() -> list[Path]:
    """README, and all pages."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def written(text: str, results: Path = RESULTS) -> str:
    """A page with what the results are now."""
    return BLOCK.sub(lambda found: f"{found[1]}{block(found[2], results)}\n{found[3]}", text)


def block(name: str, results: Path) -> str:
    """What was measured, machine by machine, CPUs first; or what is made from the sources."""
    if name in MADE:
        return MADE[name]()
    files = [f"{benchmark}.json" for benchmark in NEEDED.get(name, (name,))]
    machines = [
        [json.loads((folder / file).read_text()) for file in files]
        for folder in sorted(results.iterdir())
        if all((folder / file).exists() for file in files)
    ]
    parts = []
    for kind, on_cpu in (("CPU", True), ("GPU", False)):
        of_these = [found for found in machines if (found[0]["machine"]["platform"] == "cpu") == on_cpu]
        for found in of_these:
            parts += [said_of(found[0]), *VIEWS[name](*found)]
        if not of_these:
            parts.append(f"{kind}: not measured.")
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
    """Rewrites the pages."""
    for path in paths():
        text = path.read_text()
        if (new := written(text)) != text:
            path.write_text(new)


if __name__ == "__main__":
    main()
