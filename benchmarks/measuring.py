"""One way to measure: variants take turns in one process, and are compared with a reference turn by turn."""

import functools
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track


class Variant(NamedTuple):
    """What takes turns: `run(i)` is one round, or `share` of one; `figures` is what else there is to say of it."""

    name: str
    run: Callable[[int], Any]
    share: float = 1.0
    figures: Mapping[str, Any] = MappingProxyType({})


def turns(variants: list[Variant], repeats: int, title: str) -> dict[str, list[float]]:
    """Seconds of a round by name, turn by turn, the first turn (which compiles) left out.

    Those that take less than a second run once more before each turn, or the one that comes after a long one would find
    all caches cold, and the threads of the one before still spinning.
    """
    last: dict[str, float] = {}

    def seconds(variant, i):
        if i and last[variant.name] < 1:
            variant.run(i)
        began = time.perf_counter()
        variant.run(i)
        last[variant.name] = (time.perf_counter() - began) / variant.share
        return last[variant.name]

    return in_turns({variant.name: functools.partial(seconds, variant) for variant in variants}, repeats, title)


def in_turns(measures: Mapping[str, Callable[[int], Any]], repeats: int, title: str) -> dict[str, list[Any]]:
    """What each of them says of itself, turn by turn, the first turn left out. Each turn begins with another one."""
    found: dict[str, list[Any]] = {name: [] for name in measures}
    names = list(measures)
    for i in track(range(repeats + 1), title, console=Console(stderr=True)):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(measures[name](i))
    return {name: each[1:] for name, each in found.items()}


def rows(seconds: dict[str, list[float]], reference: str) -> list[dict]:
    """Of each name the median of its seconds, and the median and quartiles of its ratios to the reference's.

    A ratio is one of the same turn: what slows a whole turn does not show in it.
    """
    found = []
    for name, values in seconds.items():
        ratios = np.divide(values, seconds[reference])
        first, middle, third = (float(x) for x in np.quantile(ratios, (0.25, 0.5, 0.75)))
        found.append({"name": name, "seconds": float(np.median(values)), "ratio": middle, "spread": [first, third]})
    return found


def compared(title: str, variants: list[Variant], repeats: int, reference: str | None = None) -> dict:
    """A table: variants in turns, and their ratios to the reference (the first of them, unless named)."""
    reference = reference or variants[0].name
    measured = rows(turns(variants, repeats, title), reference)
    return {
        "title": title,
        "turns": repeats,
        "reference": reference,
        "rows": [row | dict(variant.figures) for row, variant in zip(measured, variants, strict=True)],
    }
