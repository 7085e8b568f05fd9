"""The one form of all results: printed as tables, and kept as JSON that `schema.json` describes."""

import importlib
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine, versions, words
from benchmarks.peers import Peers

FORMAT, WIDTH = 1, 170
COMPARED = ("name", "seconds", "ratio", "spread")


def measured(benchmark: str, quick: bool) -> dict:
    """The record of a benchmark, printed as it is made: a line on the machine, tables, a line on what took part."""
    module, here, peers = importlib.import_module(f"benchmarks.{benchmark}"), machine(), Peers()
    console = Console()
    wide = Console(width=max(console.width, WIDTH))
    console.print(f"{benchmark}, on {words(here)}", highlight=False)
    tables = []
    for table in module.measure(module.sizes(quick, here["platform"]), peers):
        wide.print(printed(table))
        tables.append(table)
    used = versions() | peers.versions
    console.print("with " + ", ".join(f"{name} {version}" for name, version in used.items()), highlight=False)
    console.print(f"not installed: {', '.join(peers.missing) or 'nothing that was asked for'}\n", highlight=False)
    return {
        "format": FORMAT,
        "benchmark": benchmark,
        "machine": here,
        "versions": used,
        "missing": peers.missing,
        "quick": quick,
        "tables": tables,
    }


def printed(table: dict) -> Table:
    """A table for a terminal."""
    rows = table["rows"]
    named = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in COMPARED]
    columns = {"": [row["name"] for row in rows]}
    if any("seconds" in row for row in rows):
        columns["seconds"] = [cell(row.get("seconds")) for row in rows]
    if "reference" in table:
        columns[f"/ {table['reference']} (quartiles)"] = [ratio(row) for row in rows]
    columns |= {name: [cell(row.get(name)) for row in rows] for name in named}
    found = Table(title=table["title"], title_justify="left")
    for name, cells in columns.items():
        found.add_column(name, min_width=max(map(len, cells)))
    for cells in zip(*columns.values(), strict=True):
        found.add_row(*cells)
    return found


def cell(value: Any) -> str:
    """Three digits of a number."""
    if isinstance(value, list):
        return " ".join(map(cell, value))
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def ratio(row: dict) -> str:
    """A ratio and its quartiles, if they are known."""
    if row.get("ratio") is None:
        return ""
    spread = row.get("spread")
    return short(row["ratio"]) + (f" ({short(spread[0])} to {short(spread[1])})" if spread else "")


def short(x: float) -> str:
    """A ratio: two digits behind the point, none where it is large, more where it is small."""
    return f"{x:.0f}" if x >= 10 else f"{x:.2f}" if x >= 0.1 else f"{x:.2g}"
