"""What XLA says of a compiled program: its kernels, memory and traffic, and how long it took to trace and compile."""

import re
import time
from collections.abc import Callable
from typing import Any

import jax

NO_WORK = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}


def compiled(function: Callable[..., Any], *arguments: Any, donate: tuple[int, ...]) -> tuple[Any, dict[str, Any]]:
    """The program for these arguments, made from nothing, and its figures."""
    jax.clear_caches()  # Else those who come later find parts of their trace made.
    began = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=donate).lower(*arguments)
    between = time.perf_counter()
    program: Any = lowered.compile()
    seconds = time.perf_counter() - between
    return program, {
        "kernels": kernels(program.as_text()),
        "temporary bytes": program.memory_analysis().temp_size_in_bytes,
        "bytes accessed": program.cost_analysis()["bytes accessed"],
        "trace seconds": between - began,
        "compile seconds": seconds,
    }


def kernels(text: str) -> int:
    """How many instructions of the entry of a compiled program do work: fusions, calls, products, copies."""
    entry = re.search(r"^ENTRY .*?^}", text, re.MULTILINE | re.DOTALL)
    if not entry:
        raise ValueError(f"text must be a compiled program, got {text[:80]!r}; take that of compiled.as_text().")
    names = re.findall(r"^ +(?:ROOT )?\S+ = .*? ([a-z][a-z0-9-]*)\(", entry[0], re.MULTILINE)
    return sum(name not in NO_WORK and not name.endswith("-done") for name in names)
