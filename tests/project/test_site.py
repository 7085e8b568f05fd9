"""The site, without building it: every public name has one place in the API, and every page its place in the menu."""

import importlib.util
import re
from pathlib import Path

import pytest

import ewa_optax
from ewa_optax._optimizers import OPTIMIZERS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path.stem: path.read_text() for path in sorted((DOCS / "api").glob("*.md"))}
PACKAGES = [ewa_optax, *(x for x in map(vars(ewa_optax).get, ewa_optax.__all__) if hasattr(x, "__path__"))]
PUBLIC = [(f"{package.__name__}.{name}", getattr(package, name)) for package in PACKAGES for name in package.__all__]


def told(page):
    """The names that a page of the API shows the docstrings of, in their order."""
    return re.findall(r"^::: (ewa_optax\.[\w.]+)$", page, re.MULTILINE)


def found(path):
    """What has that name."""
    package, _, name = path.rpartition(".")
    return getattr(next(x for x in PACKAGES if x.__name__ == package), name)


def places(path, value, pages):
    """The pages that tell of a name, or of the same thing in another package; of a package, its own page."""
    name = path.rpartition(".")[2]
    if value in PACKAGES:
        return [page for page, text in pages.items() if text.startswith(f"# {path}\n")]
    return [
        page
        for page, text in pages.items()
        for other in told(text)
        if other.rpartition(".")[2] == name and (other == path or (other in dict(PUBLIC) and found(other) is value))
    ]


def test_every_public_name_is_on_one_page_of_the_api():
    assert {path: at for path, value in PUBLIC if len(at := places(path, value, PAGES)) != 1} == {}


@pytest.mark.parametrize(
    "change", [("::: ewa_optax.fit\n", ""), ("::: ewa_optax.fit\n", "::: ewa_optax.fit\n\n::: ewa_optax.fit\n")]
)
def test_the_test_of_names_can_fail(change):
    pages = PAGES | {"fit": PAGES["fit"].replace(*change)}
    assert len(places("ewa_optax.fit", ewa_optax.fit, pages)) != 1
    assert len(places("ewa_optax.Fitted", ewa_optax.Fitted, pages)) == 1


def test_the_api_tells_of_public_names_only():
    """And of what all optimizers share, which their package says."""
    packages = {package.__name__ for package in PACKAGES}
    shown = {path for page in PAGES.values() for path in told(page)}
    assert shown - dict(PUBLIC).keys() - packages == {"ewa_optax._optimizers"}


@pytest.mark.parametrize("page", ["optimizers", "learning-rates", "wrappers", "states", "fit"])
def test_names_are_in_the_order_in_which_the_package_tells_of_them(page):
    words = re.findall(r"\w+", ewa_optax.__doc__.partition("\n\nOptimizers, by")[2])
    shown = [path.removeprefix("ewa_optax.") for path in told(PAGES[page]) if path in dict(PUBLIC)]
    assert shown == sorted(shown, key=words.index)
    assert page != "optimizers" or set(shown) >= set(OPTIMIZERS)


def test_every_page_is_in_the_menu_and_every_place_of_the_menu_a_page():
    menu = re.findall(r"- (?:[\w ]+: )?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"notebooks/index.md"}
    assert sorted(menu) == sorted(pages)


def test_a_notebook_is_shown_with_its_outputs():
    spec = importlib.util.spec_from_file_location("notebook", DOCS / "_site" / "notebook.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    path = ROOT / "notebooks" / "02_exponentially_weighted_averages.ipynb"
    page, pictures = module.as_page(path, "https://example.com/x")
    assert page.startswith("# Exponentially weighted averages\n\n[Download this notebook](02_exponentially_")
    assert "(https://example.com/x/blob/main/notebooks/02_exponentially_weighted_averages.ipynb)\n" in page
    assert "\n```{ .text .output .no-copy }\n1461 days, 01.01.2012 to 31.12.2015\n" in page
    assert re.findall(r"^!\[.+\]\((.+)\)$", page, re.MULTILINE) == list(pictures)
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    assert module.summary(path).startswith(
        "- [Exponentially weighted averages](02_exponentially_weighted_averages.md)."
    )
