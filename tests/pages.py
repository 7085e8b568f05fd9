"""The pages that tell how to extend the library, by doing it: their code goes to where its title says.

A block with a title is not run, but put into a copy of the checkout: `python title="FILE, behind NAME"` behind the
function of that name, `python title="FILE, in NAME"` at the end of the collection of that name, `markdown title="FILE,
under LINE"` under the first such line, and a `diff` where its lines without a sign, and those to go, stand.
"""

import ast
import re
import shutil
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "contributing"
LEFT_OUT = (".git", ".venv", "build", "dist", "site", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", ".nox")


class Edit(NamedTuple):
    """Code of a page, and where it goes: the file, and how and by what the place in it is told."""

    file: str
    how: str
    by: str
    code: str


def read(name: str) -> str:
    return (PAGES / name).read_text()


def edits(page: str) -> list[Edit]:
    """The blocks that have a title."""
    found = re.findall(r'^```(\w+) title="([^",]+)(?:, (\w+) ([^"]+))?"\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    return [Edit(file, how or language, by, code) for language, file, how, by, code in found]


def commands(page: str) -> list[str]:
    """The lines of shell."""
    blocks = re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def runs(page: str) -> str:
    """The blocks without a title, which run one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL))


def copy_of_the_checkout(folder: Path) -> Path:
    copy = folder / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return copy


def put(root: Path, edit: Edit) -> None:
    """ValueError where a page does not fit its file any more."""
    path = root / edit.file
    text = path.read_text()
    if edit.how == "diff":
        old, new = (
            "".join(line[1:] or "\n" for line in edit.code.splitlines(keepends=True) if not line.startswith(sign))
            for sign in "+-"
        )
        if text.count(old) != 1:
            raise ValueError(f"{edit.file} has {text.count(old)} times, not once:\n{old}")
        text = text.replace(old, new)
    elif edit.how == "under":
        before, line, after = text.partition(f"\n{edit.by}\n\n")
        text = before + line + edit.code + after
    else:
        node = _named(ast.parse(text), edit)
        lines = text.splitlines(keepends=True)
        at = node.end_lineno - 1
        if edit.how == "behind":
            lines[at] += "\n\n" + edit.code
        else:
            column = node.value.end_col_offset - 1
            head, tail = lines[at][:column].rstrip(), lines[at][column:]
            lines[at] = head + ("," if head and not head.endswith(",") else "") + "\n" + edit.code + tail
        text = "".join(lines)
    path.write_text(text)


def in_order(told: list[str], page: list[Edit]) -> bool:
    """Whether a page goes through the files in the order of what is told to be missing, "what: file" each."""
    files = list(dict.fromkeys(what.rpartition(": ")[2] for what in told if ": " in what))
    firsts = [next(i for i, edit in enumerate(page) if edit.file.startswith(file)) for file in files]
    return firsts == sorted(firsts)


def _named(tree: ast.Module, edit: Edit) -> ast.FunctionDef | ast.Assign | ast.AnnAssign:
    for node in tree.body:
        names = {getattr(x, "id", None) for x in getattr(node, "targets", [getattr(node, "target", None)])}
        if getattr(node, "name", None) == edit.by or edit.by in names:
            return node
    raise ValueError(f"{edit.file} has no {edit.by}")
