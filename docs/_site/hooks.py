"""What mkdocs does besides: notebooks as pages, MathJax out of its package, and names in code as links to the API."""

import ast
import importlib.metadata
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebook import as_page, summary

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MATHJAX = "mathjax/static/mathjax/es5/"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The notebooks, however many there are, in their place in the navigation."""
    pages = ["notebooks/index.md", *(f"notebooks/{path.stem}.md" for path in NOTEBOOKS)]
    config.nav = [{name: pages if part == "notebooks/*" else part for name, part in x.items()} for x in config.nav]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages and pictures of the notebooks, and what MathJax is in a browser."""
    for path in NOTEBOOKS:
        page, pictures = as_page(path, config.repo_url)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    for path in (*NOTEBOOKS, *(ROOT / "notebooks").glob("*.gif")):
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
    for path in importlib.metadata.files("django-static-mathjax") or ():
        name = path.as_posix().removeprefix(MATHJAX)
        if name == "tex-chtml.js" or name.startswith("output/chtml/fonts/woff-v2/"):
            files.append(File.generated(config, f"assets/mathjax/{name}", abs_src_path=str(path.locate())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The list of the notebooks, on the page about them."""
    del config, files
    return (
        markdown + "\n" + "\n".join(map(summary, NOTEBOOKS)) if page.file.src_uri == "notebooks/index.md" else markdown
    )


def public_names() -> dict[str, list[str]]:
    """What `ewa_optax`, and each of its public packages, have in `__all__`; packages themselves apart."""
    found = {}
    for path in (ROOT / "ewa_optax" / "__init__.py", *(ROOT / "ewa_optax").glob("[a-z]*/__init__.py")):
        (names,) = (
            ast.literal_eval(x.value)
            for x in ast.parse(path.read_text()).body
            if isinstance(x, ast.Assign) and x.targets[0].id == "__all__"
        )
        found[".".join(path.parent.relative_to(ROOT).parts)] = names
    return {package: [x for x in names if f"{package}.{x}" not in found] for package, names in found.items()}


PUBLIC = public_names()
SKIPPED = "|".join(rf"<{tag}[ >].*?</{tag}>" for tag in ("a", "h1", "h2", "h3", "h4", "pre", "autoref"))
NAME = re.compile(rf"{SKIPPED}|<code>(?P<name>[\w.]+)</code>", re.DOTALL)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A public name in code leads to its place in the API: with its package in front, unless on the page of that."""
    del config, files
    own = f"ewa_optax.{Path(page.file.src_uri).stem}" if page.file.src_uri.startswith("api/") else None
    places = {}
    for package, names in sorted(PUBLIC.items(), key=lambda x: x[0] == own):
        for name in names:
            short = {name} if package in ("ewa_optax", own) else set()
            for words in {f"{package}.{name}", f"{package}.{name}".removeprefix("ewa_optax.")} | short:
                places[words] = f"{package}.{name}"

    def link(found: re.Match[str]) -> str:
        if found["name"] not in places:
            return found[0]
        return f'<autoref identifier="{places[found["name"]]}" optional>{found[0]}</autoref>'

    return NAME.sub(link, html)
