"""A notebook as a page of Markdown: its cells, and the outputs that are stored in it. Nothing is executed."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LINE = "[Download this notebook]({name}) · [Source]({repository}/blob/main/notebooks/{name})"


def as_page(path: Path, repository: str) -> tuple[str, dict[str, bytes]]:
    """The text, with links to the notebook under its title; and the pictures, by their names beside it."""
    pictures: dict[str, bytes] = {}
    cells = json.loads(path.read_text())["cells"]
    title, _, rest = "\n\n".join(_parts(cells, path.stem, pictures)).partition("\n")
    return f"{title}\n\n{LINE.format(name=path.name, repository=repository)}\n{rest}\n", pictures


def summary(path: Path) -> str:
    """A line of a list: the title, which leads to its page, and what is said first."""
    title, _, rest = "".join(json.loads(path.read_text())["cells"][0]["source"]).partition("\n")
    return f"- [{title.removeprefix('# ')}]({path.stem}.md). {' '.join(rest.split())}"


def _parts(cells: list[dict[str, Any]], stem: str, pictures: dict[str, bytes]) -> Iterator[str]:
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
        elif source:
            yield f"```python\n{source}\n```"
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                yield f"![What this cell draws]({name})"
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                yield f"```{{ .text .output .no-copy }}\n{text}\n```"
