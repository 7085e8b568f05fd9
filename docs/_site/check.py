"""Opens every page of the built site in a browser: wide and as narrow as a telephone, light and dark.

    mkdocs build --strict && python docs/_site/check.py site

It fails on errors in the console, requests to other hosts, formulas that are not set, raw `$`, dead links and anchors,
pictures that do not load, and pages wider than the screen. `--self-test` plants each of these in a copy of a page, and
fails unless all are found; `--screenshots FOLDER` keeps what was seen. The browser is Chromium: from the `PATH`
(Debian's is `apt-get install chromium`), or the one at `CHROMIUM`.
"""

import argparse
import asyncio
import functools
import http.server
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urldefrag

from playwright.async_api import Page, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = {"wide": (1280, 900), "narrow": (390, 844)}
AT_ONCE = 3
LOADED = """async () => {
    for (const image of document.images) image.loading = "eager"
    await Promise.all([...document.images].map(image => image.decode().catch(() => {})))
    if (!document.querySelector(".arithmatex")) return
    for (let i = 0; i < 400 && !window.MathJax?.startup?.promise; i++) await new Promise(next => setTimeout(next, 25))
    await window.MathJax?.startup?.promise
}"""
CONTENT = r"""() => {
    const faults = []
    for (const formula of document.querySelectorAll(".arithmatex")) {
        const error = formula.querySelector("mjx-merror")
        if (error) faults.push(`broken formula: ${error.dataset.mjxError ?? error.textContent}`)
        else if (!formula.querySelector("mjx-container")) faults.push(`broken formula: ${formula.textContent}`)
    }
    for (const { math } of window.MathJax?.startup?.document?.math ?? [])
        if (math.includes("$$")) faults.push(`broken formula: two in one: ${math}`)
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    for (let node; (node = walker.nextNode()); ) {
        if (node.parentElement.closest("code, pre, script, style, noscript, .arithmatex")) continue
        if (/\$|\\[(\[a-zA-Z]/.test(node.data)) faults.push(`raw formula: ${node.data.trim()}`)
    }
    for (const image of document.images) if (!image.naturalWidth) faults.push(`picture does not load: ${image.src}`)
    const links = [...document.querySelectorAll("a[href]")].map(link => link.href)
    return { faults, links, anchors: [...document.querySelectorAll("[id]")].map(place => place.id) }
}"""
LAYOUT = r"""() => {
    const faults = [], width = document.documentElement.clientWidth
    const whole = document.scrollingElement.scrollWidth
    if (whole > width + 1) faults.push(`the page is ${whole} pixels wide`)
    for (const box of document.querySelectorAll(".md-content :is(table, img, video, svg, pre, mjx-container)")) {
        const { left, right } = box.getBoundingClientRect()
        if (left >= -1 && right <= width + 1) continue
        let around = box.parentElement
        while (around && !/auto|scroll/.test(getComputedStyle(around).overflowX)) around = around.parentElement
        if (!around) faults.push(`runs out of the page: ${box.localName} ${(box.src ?? box.textContent).slice(0, 60)}`)
    }
    return faults
}"""


def browser_path() -> str | None:
    """Where Chromium is; None where it is not."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and tells nobody."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""


async def visit(page: Page, host: str, name: str, screenshots: Path | None) -> dict:
    """What is wrong on a page, and what it links to."""
    faults: list[str] = []
    listeners = {
        "console": lambda x: faults.append(f"console: {x.text}") if x.type in ("error", "warning") else None,
        "pageerror": lambda x: faults.append(f"exception: {x}"),
        "request": lambda x: None if x.url.startswith((host, "data:", "blob:")) else faults.append(f"asks for {x.url}"),
        "response": lambda x: faults.append(f"{x.status}: {x.url}") if x.status >= 400 else None,
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    await page.emulate_media(color_scheme="light", reduced_motion="reduce")
    await page.set_viewport_size(size("wide"))
    await page.goto(host + name, wait_until="load")
    await page.evaluate(LOADED)
    told = await page.evaluate(CONTENT)
    for width, scheme in (("wide", "light"), ("wide", "dark"), ("narrow", "dark"), ("narrow", "light")):
        await page.emulate_media(color_scheme=scheme)
        await page.set_viewport_size(size(width))
        faults += [f"{x} ({width}, {scheme})" for x in await page.evaluate(LAYOUT)]
        if screenshots:
            await shoot(page, screenshots / f"{name.strip('/').replace('/', '-') or 'index'}-{width}-{scheme}.png")
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    return {"faults": told["faults"] + faults, "links": told["links"], "anchors": set(told["anchors"])}


async def shoot(page: Page, path: Path) -> None:
    """The page from its top, as far as some screens."""
    height = min(4000, await page.evaluate("document.documentElement.scrollHeight"))
    clip = {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": height}
    await page.screenshot(path=path, full_page=True, clip=clip)


def size(width: str) -> dict[str, int]:
    """Of a window."""
    return dict(zip(("width", "height"), WIDTHS[width], strict=True))


def dead_links(site: Path, host: str, pages: dict[str, dict]) -> dict[str, list[str]]:
    """By page, links within the site to what is not there; an anchor is looked for on pages that were opened."""
    found: dict[str, list[str]] = {name: [] for name in pages}
    for name, page in pages.items():
        for link in dict.fromkeys(page["links"]):
            address, anchor = urldefrag(link)
            if not address.startswith(host):
                continue
            place = unquote(address.removeprefix(host).partition("?")[0])
            file = site / place / "index.html" if place.endswith("/") or not place else site / place
            to = place.removesuffix("index.html")
            if not file.is_file():
                found[name].append(f"dead link: {place}")
            elif anchor and to in pages and unquote(anchor) not in pages[to]["anchors"]:
                found[name].append(f"dead link: {place}#{anchor}")
    return found


async def faults_of(site: Path, names: list[str], screenshots: Path | None = None) -> dict[str, list[str]]:
    """What is wrong, by page."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host, left, pages = f"http://127.0.0.1:{server.server_port}/", list(reversed(names)), {}
    # No other host has an address. No sandbox, since the pages are ours, and containers often allow none.
    options = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-sandbox"]

    async def work(page: Page) -> None:
        while left:
            name = left.pop()
            pages[name] = await visit(page, host, name, screenshots)

    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=browser_path(), args=options)
        context = await browser.new_context()
        await asyncio.gather(*[work(await context.new_page()) for _ in range(AT_ONCE)])
        await browser.close()
    server.shutdown()
    dead = dead_links(site, host, pages)
    return {name: faults for name in names if (faults := pages[name]["faults"] + dead[name])}


def pages_of(site: Path) -> list[str]:
    """As in an address; the page for what is not found, whose links are those of the published site, apart."""
    return sorted(path.relative_to(site).as_posix().removesuffix("index.html") for path in site.rglob("index.html"))


PLANTED = {
    "a broken formula": (r'<span class="arithmatex">\(\frac{1}{\)</span>', "broken formula: "),
    "an unknown word in a formula": (r'<span class="arithmatex">\(\alpah\)</span>', "broken formula: "),
    "two formulas in one": (r'<span class="arithmatex">\(x$$ $$y\)</span>', "broken formula: two in one"),
    "a raw formula": ("<p>of size $x_t$</p>", "raw formula: "),
    "a dead link": ('<a href="../no-such-page/">x</a>', "dead link: "),
    "a dead anchor": ('<a href="#no-such-place">x</a>', "dead link: "),
    "a picture that is not there": ('<img src="no-such.png">', "picture does not load: "),
    "a request to another host": ('<img src="https://example.com/x.png">', "asks for https://example.com/"),
    "an error in the console": ("<script>console.error('planted')</script>", "console: planted"),
    "an exception": ("<script>throw Error('planted')</script>", "exception: "),
    "a page too wide": ('<div style="width: 1300px">x</div>', "the page is "),
    "a table too wide for a telephone": (
        '<table class="x" style="display: table; width: 600px"><tr><td>x</td></tr></table>',
        "runs out of the page: table",
    ),
}
"""What goes under the title of a page, and how what is said of it begins."""


def self_test(site: Path) -> bool:
    """False if each of the planted faults is found, and none where none is planted."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "site"
        shutil.copytree(site, copy)
        source = (copy / "api/fit/index.html").read_text()
        for i, (planted, _) in enumerate([("", ""), *PLANTED.values()]):
            place = copy / "api" / f"planted-{i}"
            place.mkdir()
            (place / "index.html").write_text(source.replace("</h1>", f"</h1>{planted}", 1))
        names = [f"api/planted-{i}/" for i in range(len(PLANTED) + 1)]
        found = asyncio.run(faults_of(copy, names))
    missed = [
        what
        for name, (what, (_, begins)) in zip(names[1:], PLANTED.items(), strict=True)
        if not any(fault.startswith(begins) for fault in found.get(name, ()))
    ]
    if names[0] in found:
        missed.append(f"that nothing is wrong, but {found[names[0]]}")
    print(f"planted: {', '.join(PLANTED)}; not found: {', '.join(missed) or 'none'}")
    return bool(missed)


def main() -> int:
    """0 where nothing is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("pages", nargs="*", help="only these, as in an address: api/optimizers/")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER")
    parser.add_argument("--self-test", action="store_true", help="and then whether it finds what is planted")
    parser.add_argument("--optional", action="store_true", help="without a browser, say so and succeed")
    told = parser.parse_args()
    if not browser_path():
        print("The site is not opened: no Chromium here (apt-get install chromium, or say by CHROMIUM where it is).")
        return not told.optional
    if told.screenshots:
        told.screenshots.mkdir(parents=True, exist_ok=True)
    began, names = time.monotonic(), told.pages or pages_of(told.site)
    found = asyncio.run(faults_of(told.site, names, told.screenshots))
    for name, faults in found.items():
        for fault in dict.fromkeys(faults):
            print(f"{name or 'the first page'}: {fault}")
    print(f"{len(names)} pages, {sum(map(len, found.values()))} faults, {time.monotonic() - began:.0f} seconds")
    return bool(found) or (told.self_test and self_test(told.site))


if __name__ == "__main__":
    sys.exit(main())
