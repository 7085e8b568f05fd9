"""All optimizers in a table, made from their sources: expression, averages kept, bytes, paper.

    python -m benchmarks.periodic_table

prints it as Markdown; `python -m benchmarks.pages` writes it into its page. It knows by name what hands an update on
(`optimizer`, `chain`, `scale_once`), guards (`saturate`), and what all optimizers have.
"""

import ast
import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import ewa_optax
from ewa_optax._optimizers import OPTIMIZERS

STORAGES = ("bfloat16", "8bit")
LEFT_OUT_CALLS = {"first_moment", "second_moment", "for_gradients", "for_squares", "scale_by_learning_rate"}
LEFT_OUT = {"learning_rate", "storage", "eps", "eps_root", "mask"}


class _Short(ast.NodeTransformer):
    """The expression with its parts in place of their names, and without what all optimizers have."""

    def __init__(self, parts: dict[str, ast.expr]):
        self.parts = parts

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.visit(self.parts[node.id]) if node.id in self.parts else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        name = ast.unparse(node.func).removeprefix("optax.").removeprefix("scale_by_")
        if name == "proximal_weight_decay":
            return ast.Call(ast.Name(name), node.args[:2], [])
        arguments = [self.visit(x) for x in node.args if not _is_left_out(x)]
        if name in ("chain", "optimizer", "scale_once"):
            return ast.Name(" → ".join(x for x in map(ast.unparse, arguments) if not _is_guard(x)))
        keywords = [
            ast.keyword(x.arg, self.visit(x.value))
            for x in node.keywords
            if x.arg not in (*LEFT_OUT, "decay") and not _is_left_out(x.value) and not _is_guard(ast.unparse(x.value))
        ]
        return ast.Call(ast.Name(name), arguments, keywords)


def _is_left_out(node):
    """Whether it is what all have, a storage, or an eps of 0."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) in LEFT_OUT_CALLS
    if isinstance(node, ast.Constant):
        return isinstance(node.value, float) and node.value == 0
    return isinstance(node, ast.Name) and node.id in LEFT_OUT


def _is_guard(text):
    return text.startswith(("saturate", "learning_rate("))


def expression(optimizer: Callable) -> str:
    """What an optimizer is made of, in the order in which an update passes it."""
    (function,) = ast.parse(inspect.getsource(optimizer)).body
    assert isinstance(function, ast.FunctionDef)
    *named, last = function.body[1:]
    parts = {}
    for assignment in named:
        assert isinstance(assignment, ast.Assign)
        target, value = assignment.targets[0], assignment.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = zip(target.elts, value.elts, strict=True)
        else:
            pairs = [(target, value)]
        parts |= {ast.unparse(name): part for name, part in pairs}
    assert isinstance(last, ast.Return)
    assert last.value is not None
    text = ast.unparse(_Short(parts).visit(last.value)) or "identity()"
    return re.sub(r"shares\((\w+)\)\[1\]", r"(1 - \1)", text)


def paper(optimizer: Callable) -> str:
    """Authors and year of the first reference of its docstring."""
    reference = (inspect.getdoc(optimizer) or "").partition("Reference:")[2]
    text = re.sub(r"\s+", " ", reference).strip()
    found = re.match(r"(.*?\d{4})", re.sub(r'"[^"]*",? ?', "", text))
    assert found, optimizer
    return found[1]


def bytes_of(optimizer: Callable, **keywords) -> float:
    """Bytes of state a parameter, of a matrix of a million."""
    params: Any = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    return ewa_optax.state_bytes(optimizer(0.1, **keywords), params) / 1024**2


def rows() -> list[list[str]]:
    """A row for each optimizer."""
    found = []
    for name, optimizer in OPTIMIZERS.items():
        full = bytes_of(optimizer)
        stored = "storage" in inspect.signature(optimizer).parameters
        small = [f"{bytes_of(optimizer, storage=s):.2f}" if stored else "" for s in STORAGES]
        cells = [
            f"`{name}`",
            f"`{expression(optimizer)}`",
            f"{round(full / 4, 3):g}",
            f"{full:.2f}",
            *small,
            paper(optimizer),
        ]
        found.append(cells)
    return found


def table() -> str:
    """The table in Markdown."""
    head = ["optimizer", "expression", "averages", "bytes: float32", *STORAGES, "paper"]
    lines = [head, ["---", "---", "--:", "--:", *["--:" for _ in STORAGES], "---"], *rows()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    print(table())
