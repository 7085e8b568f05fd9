"""What README and the pages say is what runs, and what is there. (Doctests of the modules run as tests of their own.)

The tables of those who come from elsewhere are in `test_coming_from`, those of measurements in `test_benchmarks`, the
scripts with options in `test_guide`.
"""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import ewa_optax
from ewa_optax import pieces, storage
from notebooks import race

ROOT = Path(__file__).parents[2]
DOCS, NOTEBOOKS = ROOT / "docs", ROOT / "notebooks"
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *DOCS.rglob("*.md"))}
README = PAGES["README.md"]
COMMANDS = re.findall(r"^python -m pip install -e .*$", README, re.MULTILINE)


def blocks(page):
    """Blocks of Python, but for scripts with options."""
    found = re.findall(r"^```python\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)
    return [code for code in found if "argparse" not in code]


@pytest.mark.parametrize("page", sorted(page for page in PAGES if blocks(page)))
def test_a_page_runs(page, tmp_path, monkeypatch):
    """As one program."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    with jax.numpy_rank_promotion("allow"):  # As it is for users.
        for code in blocks(page):
            exec(compile(code, page, "exec"), names)
            if "nnx.Dropout" in code:
                dropout_and_batch_norm_do_what_they_are_for(**names)


def dropout_and_batch_norm_do_what_they_are_for(loss, run, data, accuracy, model, **_):
    costs = [loss(run.params, data, jax.random.key(i)) for i in (0, 0, 1)]
    assert costs[0] == costs[1] != costs[2]
    assert accuracy > 0.95
    assert abs(model.norm.mean[...]).max() > 0.1
    np.testing.assert_allclose(model(data["x"][:1]), model(data["x"])[:1], rtol=1e-5)


def test_the_pages_have_blocks_to_run():
    assert len(blocks("README.md")) >= 3
    assert sum(len(blocks(page)) for page in PAGES) >= 30
    assert any("nnx.Dropout" in code for page in PAGES for code in blocks(page))


def test_blocks_say_what_they_are():
    """What is Python runs, but for what a contributor puts into files, which says into which."""
    for page, text in PAGES.items():
        fences = re.findall(r"^[ >]*```(.*)$", text, re.MULTILINE)
        opening = {fence for fence in fences[::2] if not ("contributing" in page and ' title="' in fence)}
        assert opening <= {"python", "text", "console", "bash"}, page
        assert {*fences[1::2]} <= {""}, page


def test_readme_is_short():
    assert len(README.splitlines()) <= 180


def test_ci_runs_the_two_commands_of_the_readme_as_printed():
    assert len(COMMANDS) == 2
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    for command in COMMANDS:
        assert f"{command} || exit 1" in script


def test_the_changelog_knows_this_version():
    assert f"## {ewa_optax.__version__}" in (ROOT / "CHANGELOG.md").read_text()


# Links.


def text_of(page):
    """A page without its code."""
    without_blocks = re.sub(r"^[ >]*```.*?^[ >]*```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "code", without_blocks)


def links(page):
    """Those that lead to files and headings of the project: the file, and the heading."""
    found = re.findall(r"\]\(\s*<?([^)>\s]+)>?(?:\s[^)]*)?\)", text_of(page))
    return [target.partition("#")[::2] for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page):
    """What headings are called in addresses."""
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.*?)(?: *\{#[\w-]+\})?$", text, re.MULTILINE)
    slugs = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}
    return slugs | {*re.findall(r"\{#([\w-]+)\}", text)} | {*re.findall(r'\bid="([\w-]+)"', text)}


def broken(page):
    """Links of a page that lead nowhere. The site has a page for each notebook, and its pages know only each other."""
    for target, anchor in links(page):
        path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        if page != "README.md" and path.parent == DOCS / "notebooks" and not path.exists():
            path = NOTEBOOKS / path.name.replace(".md", ".ipynb")
        elif page != "README.md" and not path.is_relative_to(DOCS):
            yield target
        if not path.exists() or (anchor and anchor not in anchors(path.relative_to(ROOT).as_posix())):
            yield f"{target}#{anchor}"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_and_pictures_are_there(page):
    assert [*broken(page)] == []


def test_what_is_broken_is_seen(monkeypatch):
    text = """# One  two, `three`
[a](#one-two-three) [b](choosing.md#the-storage-of-averages) [c](notebooks/01_mini_batches.md) ![d](notebooks/race.gif)
[e](https://example.org) `[f](no.md)`
"""
    wrong = "[a](#two) [b](no.md) [c](choosing.md#no) [d](../LICENSE) ![e](notebooks/no.gif) [f](notebooks/no.md)"
    monkeypatch.setitem(PAGES, "docs/index.md", text)
    assert len(links("docs/index.md")) == 4
    assert [*broken("docs/index.md")] == []
    monkeypatch.setitem(PAGES, "docs/index.md", text + wrong)
    assert len([*broken("docs/index.md")]) == 6


def test_one_finds_all_from_readme():
    """Every page of ours, but those that CONTRIBUTING.md leads to, the front page, and the reference."""
    linked = {((ROOT / target).resolve()) for target, _ in links("README.md")}
    elsewhere = {
        DOCS / "index.md",
        *(path for part in ("api", "contributing", "notebooks") for path in (DOCS / part).rglob("*.md")),
    }
    assert {ROOT / page for page in PAGES} - elsewhere - {ROOT / "README.md"} <= linked


def test_the_notebooks_are_linked():
    notebooks = sorted(NOTEBOOKS.glob("*.ipynb"))
    assert len(notebooks) == 8
    assert all(f"](notebooks/{path.name})" in README for path in notebooks)


def test_the_picture_of_the_readme_is_what_the_race_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["race", "--frames", "3", str(tmp_path / "race.gif")])
    race.main()
    with Image.open(tmp_path / "race.gif") as fresh, Image.open(NOTEBOOKS / "race.gif") as stored:
        assert fresh.size == stored.size
        assert (fresh.n_frames, stored.n_frames) == (3, 61)
        for movie in (fresh, stored):
            movie.seek(movie.n_frames - 1)
        apart = np.abs(np.subtract(fresh.convert("RGB"), stored.convert("RGB"), dtype=int))
    assert np.mean(apart > 32) < 0.01  # Fonts of another version may lie a little differently.
    assert (NOTEBOOKS / "race.gif").stat().st_size < 400_000


# Tables of what there is.


def test_the_pieces_of_the_table_are_among_the_pieces():
    (section,) = re.findall(
        r"^## The pieces\n(.*?)(?=^## |\Z)", PAGES["docs/guide/pieces.md"], re.MULTILINE | re.DOTALL
    )
    names = re.findall(r"^\| `(\w+)\(", section, re.MULTILINE)
    assert len(names) == 7
    assert set(names) <= {*pieces.__all__} & {*ewa_optax.__all__}


def test_the_table_of_bytes_is_right():
    params = {"w": jax.ShapeDtypeStruct((4096, 4096), jnp.float32)}
    leaves = {f"{i}": jax.ShapeDtypeStruct((512, 512), jnp.float32) for i in range(8)}
    rows = r"^\| `(.+)` \| (\d\.\d\d) \| (\d+\.\d) \|"
    table = re.findall(rows, PAGES["docs/guide/low-precision.md"], re.MULTILINE)
    assert len(table) == 7
    for code, kept, at_the_peak in table:
        optimizer = ewa_optax.adam(1e-3, storage=eval(code, {"storage": storage}))
        assert f"{ewa_optax.state_bytes(optimizer, params) / 4096**2:.2f}" == kept
        assert float(at_the_peak) == pytest.approx(ewa_optax.peak_bytes(optimizer, leaves) / 8 / 512**2, abs=0.051)
