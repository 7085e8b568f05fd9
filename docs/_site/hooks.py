"""What mkdocs does besides: notebooks as pages with their stored outputs, MathJax from its package, names as links."""

import base64
import importlib
import importlib.metadata
import json
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMESPACES = ("", ".pieces", ".storage", ".series", ".minibatch", ".landscapes", ".plots", ".matrices")
MATHJAX = "mathjax/static/mathjax/es5/"
LINE = "> [Download this notebook]({name}) · [its source]({repo}/blob/main/notebooks/{name}) · outputs as stored in it\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The notebooks, however many there are, in their place in the navigation."""
    pages = ["notebooks/index.md", *(f"notebooks/{path.stem}.md" for path in NOTEBOOKS)]
    config.nav = [{name: pages if part == "notebooks/*" else part for name, part in x.items()} for x in config.nav]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages and pictures of the notebooks, and what MathJax is in a browser."""
    for path in NOTEBOOKS:
        notebook = json.loads(path.read_text())
        pictures: dict[str, bytes] = {}
        text = "\n\n".join(markdown(notebook["cells"], path.stem, pictures))
        title, _, rest = text.partition("\n")
        line = LINE.format(name=path.name, repo=config.repo_url)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=f"{title}\n\n{line}\n{rest}"))
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    for path in (ROOT / "notebooks").glob("*.gif"):
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
    for path in importlib.metadata.files("django-static-mathjax") or ():
        name = path.as_posix().removeprefix(MATHJAX)
        if name == "tex-chtml.js" or name.startswith("output/chtml/fonts/woff-v2/"):
            files.append(File.generated(config, f"assets/mathjax/{name}", abs_src_path=str(path.locate())))
    return files


def markdown(cells: list[dict], stem: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """The cells of a notebook, with what they wrote and drew; pictures by their names beside the page."""
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
                yield f'```{{.text .output}}\n{text}\n```'


def places() -> dict[str, str]:
    """Where each public name is told of, by the words that documents use for it."""
    found: dict[str, str] = {}
    for namespace in NAMESPACES:
        try:
            module = importlib.import_module(f"ewa_optax{namespace}")
        except ModuleNotFoundError:
            continue
        for name in module.__all__:
            path = f"ewa_optax{namespace}.{name}"
            for words in (name, path, path.removeprefix("ewa_optax.")):
                found.setdefault(words, path)
    return found


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A public name in code, outside of links, headings, blocks and signatures, leads to its place in the API."""
    known = config.extra.get("places") or config.extra.setdefault("places", places())

    def link(match: re.Match) -> str:
        path = known.get(match["name"] or "")
        if not path or (path.count(".") == 1 and path in SPACES):
            return match[0]
        return f'<autoref identifier="{path}" optional>{match[0]}</autoref>'

    return re.sub(SKIPPED + r"|<code>(?P<name>[\w.]+)</code>", link, html)


SPACES = {f"ewa_optax{namespace}" for namespace in NAMESPACES}
SKIPPED = r"(?s)" + "|".join(rf"<{tag}[ >].*?</{tag}>" for tag in ("a", "h1", "h2", "h3", "h4", "pre", "autoref"))
