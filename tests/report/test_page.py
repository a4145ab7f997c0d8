"""The skeleton of a page: one file, nothing fetched, names stay text, each picture has its table."""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from xml.etree import ElementTree

import pytest
from places import ROOT

from edgeprune.report.html.drawing import NARROW, WIDE, Scale, axis, rect, shortened, svg, text, ticks
from edgeprune.report.html.markup import element, joined, plain
from edgeprune.report.html.page import Page, Picture, Section, note, page_html, picture_svg, sentences, slug
from edgeprune.report.table import Table

HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\x00\x1b[31m\u202e\ud800",
    "a&b<c>'",
]


def picture(name: str) -> Picture:
    drawn = [svg(width, 60, rect(0, 0, 9, 9, "main", name), text(0, 20, name), label=name) for width in (WIDE, NARROW)]
    table = Table(heads=("layer", name), rows=((name, "1"),))
    return Picture(name="bars", title=name, caption=name, table=table, wide=drawn[0], narrow=drawn[1])


def page(name: str) -> Page:
    return Page(
        title=name, lead=name, sections=(Section(title=name, body=(picture(name), note(name), sentences([name]))),)
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_text(name: str) -> None:
    written = page_html(page(name))
    assert len(re.findall(r"<script", written)) == 1
    assert "<img" not in written
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\ud800]", written)
    assert str(plain(name)) in written


@pytest.mark.parametrize("name", HOSTILE)
def test_a_picture_alone_is_xml(name: str) -> None:
    root = ElementTree.fromstring(picture_svg(picture(name)).encode())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert [part.tag.rpartition("}")[2] for part in root[:2]] == ["title", "style"]


def test_the_policy_allows_what_is_there_and_nothing_else() -> None:
    written = page_html(page("model"))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', written)
    assert policy is not None
    rules = policy[1].replace("&#x27;", "'")
    assert rules.startswith("default-src 'none';")
    assert "unsafe" not in rules
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", written, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in rules
    assert not re.search(r" (style|on\w+)=", written)


def test_nothing_is_fetched() -> None:
    written = page_html(page("model"))
    assert set(re.findall(r'(?:src|href)="([^"]*)"', written)) <= {"data:,"} | {"#model"}
    assert set(re.findall(r"https?://[^\"\s]*", written)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in written
    assert "@import" not in written


def test_each_picture_has_its_table_and_its_words() -> None:
    written = page_html(page("model"))
    figures = re.findall(r"<figure.*?</figure>", written, re.DOTALL)
    assert len(figures) == len(page("model").pictures) == 1
    for figure in figures:
        assert figure.count("<table>") == 1
        assert figure.count('role="img" aria-label="model"') == 2


def test_styles_and_code_are_in_the_wheel() -> None:
    """Each file beside the modules is package data."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["edgeprune"]
    beside = [path for path in (ROOT / "edgeprune" / "report" / "html").iterdir() if path.suffix in (".css", ".js")]
    assert len(beside) >= 4
    for path in beside:
        assert any(path.relative_to(ROOT / "edgeprune").match(pattern) for pattern in listed), path


def test_elements() -> None:
    assert element("a", "x<y", class_="b", href=None, hidden=True, x=1.0) == '<a class="b" hidden="" x="1">x&lt;y</a>'
    assert joined("<", element("br")) == "&lt;<br>"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 7.3, [0, 2, 4, 6]), (0.9, 1.1, [0.9, 0.95, 1, 1.05, 1.1]), (-3, 0.2, [-3, -2, -1, 0]), (5, 5, [5])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_what_lies_outside_a_scale_stands_at_its_edge() -> None:
    scale = Scale(low=0, high=2, start=10, end=110)
    assert [scale(value) for value in (-1, 0, 1, 5)] == [10, 10, 60, 110]
    assert len(axis(scale, 0, 10, str)) == 2 * len(ticks(0, 2))


def test_long_names_keep_their_end() -> None:
    assert shortened("block1", 100) == "block1"
    assert shortened("functional_1/block12_expand/BatchNorm", 80).endswith("atchNorm")
    assert slug("Files that ship") == "files-that-ship"
