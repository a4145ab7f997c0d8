"""Pages in Chromium: drawn, switched, zoomed, read on a phone, in the dark, by keyboard; nothing fetched, nothing run.

pip install playwright; apt-get install chromium; pytest -m browser
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from made_pages import full_files, full_ledger, many_layers
from made_records import NASTY

from edgeprune.report.html.file_pages import inspect_page
from edgeprune.report.html.page import Page, page_html, picture_svg
from edgeprune.report.html.run_page import run_page

pytestmark = pytest.mark.browser
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BOMB = (
    "</text></svg></script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>\"' onload=window.pwned=1 "
)


@dataclass
class Opened:
    """A page in the browser, and what happened there that should not."""

    page: Any
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium as the system has it, else the one that playwright brought."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with api.sync_playwright() as started:
        if found is None and not Path(started.chromium.executable_path).exists():
            pytest.skip("no Chromium is installed")
        opened = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def look(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Open a page as a file; options are those of a browser context."""
    contexts = []

    def opened(written: str, name: str = "page.html", **options: Any) -> Opened:
        path = tmp_path / name
        path.write_text(written)
        contexts.append(browser.new_context(**{"viewport": {"width": 1000, "height": 900}, **options}))
        found = Opened(page=contexts[-1].new_page())
        found.page.on("console", lambda message: found.faults.append(message.text))
        found.page.on("pageerror", lambda error: found.faults.append(str(error)))
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.goto(path.as_uri())
        return found

    yield opened
    for context in contexts:
        context.close()


def run(name: str = "block", count: int = 60) -> Page:
    return run_page(full_ledger(name), full_files(name, count))


def test_every_picture_is_drawn(look: Any) -> None:
    """Each has a size, in light and in the dark, and nothing is fetched or complained of."""
    written = page_html(run())
    for scheme, colour in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 29)")):
        found = look(written, color_scheme=scheme)
        assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == colour
        sizes = found.page.evaluate(
            "[...document.querySelectorAll('figure')].map((f) => [...f.querySelectorAll('svg')]"
            ".map((s) => s.getBoundingClientRect()).filter((b) => b.width > 300 && b.height > 40).length)"
        )
        assert sizes == [1] * len(run().pictures)
        assert found.faults == []
        assert len(found.requests) == 1


@pytest.mark.parametrize("name", [NASTY, BOMB])
def test_hostile_names_are_inert(look: Any, name: str) -> None:
    """They stand there as text: nothing runs, and no element of theirs comes to be."""
    found = look(page_html(run(name, 12)))
    assert found.page.evaluate("window.pwned") is None
    assert found.page.locator("img, b, iframe").count() == 0
    assert found.page.locator("script").count() == 1
    assert found.faults == []
    assert len(found.requests) == 1
    if name == BOMB:
        assert "<script>window.pwned=1</script>" in found.page.locator("body").inner_text()


def test_the_policy_stops_what_should_break_in(look: Any) -> None:
    """A script that somebody wrote into the file does not run."""
    written = page_html(run(count=4)).replace(
        "<main>", "<main><script>window.pwned=1</script><img src='http://x.invalid/'>"
    )
    found = look(written)
    assert found.page.evaluate("window.pwned") is None
    assert len([fault for fault in found.faults if "Content Security Policy" in fault]) == 2


def widths(found: Opened) -> list[float]:
    """Of the first tiles of the treemap, those that are not there as 0."""
    return found.page.evaluate(
        "[...document.querySelectorAll('svg.treemap g:not(.block) rect')].slice(0, 12)"
        ".map((r) => r.getBoundingClientRect().width)"
    )


def test_switch_and_zoom(look: Any) -> None:
    """Another way to count moves the tiles, colours change, a block fills the picture, and Escape leads back."""
    found = look(page_html(run()))
    first = widths(found)
    found.page.get_by_role("button", name="raw", exact=True).click()
    assert widths(found) != first
    found.page.get_by_role("button", name="deflate", exact=True).click()
    assert widths(found) == first
    tile = found.page.locator("svg.treemap g:not(.block):not(.other) rect").first
    shrank = tile.evaluate("(r) => getComputedStyle(r).fill")
    found.page.get_by_role("button", name="zeros", exact=True).click()
    assert tile.evaluate("(r) => getComputedStyle(r).fill") != shrank
    block = found.page.get_by_role("button", name="Go into block5")
    block.focus()
    found.page.keyboard.press("Enter")
    assert found.page.locator(".where").inner_text() == "block5"
    inside = found.page.evaluate(
        "[...document.querySelectorAll('svg.treemap g:not(.block):not(.gone) rect')]"
        ".map((r) => r.getBoundingClientRect()).map((b) => b.width * b.height).reduce((a, b) => a + b, 0)"
    )
    whole = found.page.locator("svg.treemap").bounding_box()
    assert inside == pytest.approx(whole["width"] * whole["height"], rel=0.03)
    assert found.page.locator("svg.treemap g:not(.block):not(.gone)").count() == 10
    found.page.keyboard.press("Escape")
    assert widths(found) == first
    found.page.locator("svg.treemap g.block").first.click(position={"x": 20, "y": 6})
    assert found.page.locator(".where").inner_text().startswith("block")
    found.page.get_by_role("button", name="Back").click()
    assert widths(found) == first
    assert found.faults == []


def test_on_a_phone(look: Any) -> None:
    """No side scrolling of the page, and letters keep their size."""
    found = look(page_html(run()), viewport={"width": 390, "height": 800})
    assert found.page.evaluate("document.documentElement.scrollWidth") <= 390
    heights = found.page.evaluate(
        "[...document.querySelectorAll('svg text')].map((t) => [t.textContent, t.getBoundingClientRect().height])"
        ".filter(([words, high]) => words && high > 0).map(([, high]) => high)"
    )
    assert min(heights) > 10


def test_printed_tables_are_open(look: Any) -> None:
    """And closed again afterwards."""
    found = look(page_html(run(count=4)))
    count = "document.querySelectorAll('details[open]').length"
    for event, opened in (("beforeprint", True), ("afterprint", False)):
        found.page.evaluate(f"dispatchEvent(new Event('{event}'))")
        assert (found.page.evaluate(count) > 0) is opened


def test_a_picture_by_itself(look: Any) -> None:
    """An SVG file has its colours with it, also in the dark."""
    picture = run(count=12).pictures[1]
    found = look(picture_svg(picture), "picture.svg", color_scheme="dark")
    fills = found.page.evaluate("[...document.querySelectorAll('g rect')].map((r) => getComputedStyle(r).fill)")
    assert len(set(fills)) > 1
    assert "rgb(0, 0, 0)" not in fills
    assert found.faults == []


@pytest.mark.alone
def test_five_hundred_layers_open_within_a_second(look: Any) -> None:
    """By the browser's own clock, from the start of the navigation to the end of the load event; best of five."""
    written = page_html(inspect_page([many_layers(500)]))
    took = []
    for number in range(5):
        found = look(written, f"page{number}.html")
        took.append(found.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        assert found.page.locator("svg.treemap g").count() > 500
    assert min(took) < 1000
