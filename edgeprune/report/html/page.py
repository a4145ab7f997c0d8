"""A page in one file: a title, sections of sentences, tables and pictures, and nothing that is fetched from anywhere.

Styles and code are in the file, and its policy allows these by their hashes and nothing else (Content Security Policy
Level 3). So a name that breaks out of its place could still not run.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from edgeprune.report.html.markup import Markup, element, joined
from edgeprune.report.table import Table

__all__ = [
    "Page",
    "Picture",
    "Section",
    "cards",
    "folded",
    "folded_table",
    "note",
    "page_html",
    "paragraph",
    "picture_svg",
    "sentences",
    "slug",
    "table_html",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture and the table of what it shows.

    `name` is that of its own SVG file; `caption` says how its numbers were obtained. `wide` is `WIDE` pixels wide,
    `narrow` `NARROW` (None: one drawing for both). `controls` stand above it, for those who can click.
    """

    name: str
    title: str
    caption: str
    table: Table
    wide: Markup
    narrow: Markup | None = None
    controls: Markup | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a page under a heading of its own."""

    title: str
    body: tuple[Markup | Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page tells: `lead` stands under its title, `top` before its sections."""

    title: str
    lead: str
    sections: tuple[Section, ...]
    top: tuple[Markup | Picture, ...] = ()

    @property
    def pictures(self) -> list[Picture]:
        """All pictures, from top to bottom."""
        parts = [*self.top, *(part for section in self.sections for part in section.body)]
        return [part for part in parts if isinstance(part, Picture)]


def page_html(page: Page) -> str:
    """The whole file."""
    style, code = _asset("pictures.css") + _asset("page.css"), _asset("page.js") + _asset("treemap.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(code)}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("link", rel="icon", href="data:,"),
        element("title", page.title),
        element("style", Markup(style)),
    )
    body = element("body", _header(page), _main(page), element("script", Markup(code)))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _header(page: Page) -> Markup:
    links = [element("a", s.title, href=f"#{slug(s.title)}") for s in page.sections]
    contents = element("nav", *links, aria_label="Parts of this page") if len(links) > 2 else Markup()
    return element("header", element("h1", page.title), element("p", page.lead, class_="lead"), contents)


def _main(page: Page) -> Markup:
    top = [_shown(part, "h2") for part in page.top]
    return element("main", *top, *map(_section, page.sections))


def _section(section: Section) -> Markup:
    head = element("h2", section.title)
    return element("section", head, *(_shown(part) for part in section.body), id=slug(section.title))


def _shown(part: Markup | Picture, head: str = "h3") -> Markup:
    return _figure(part, head) if isinstance(part, Picture) else part


def _figure(picture: Picture, head: str) -> Markup:
    """A picture with its title above and its table, which says the same, below."""
    drawn = [element("div", picture.wide, class_="wide" if picture.narrow else "both")]
    if picture.narrow is not None:
        drawn.append(element("div", picture.narrow, class_="narrow"))
    return element(
        "figure",
        element(head, picture.title),
        picture.controls or Markup(),
        *drawn,
        element("figcaption", picture.caption),
        folded_table("The numbers as a table", picture.table),
        id=picture.name,
    )


def folded(title: str, *parts: Markup) -> Markup:
    """What opens under its title."""
    return element("details", element("summary", title), *parts)


def folded_table(title: str, table: Table) -> Markup:
    """A table that opens under its title."""
    return folded(title, table_html(table))


def table_html(table: Table) -> Markup:
    """A table whose first column heads its rows."""
    sides = ["left" if n in table.left else "right" for n in range(len(table.heads))]
    heads = [element("th", head, scope="col", class_=side) for head, side in zip(table.heads, sides, strict=True)]
    rows = [
        element(
            "tr",
            element("th", row[0], scope="row", class_=sides[0]),
            *(element("td", cell, class_=side) for cell, side in zip(row[1:], sides[1:], strict=True)),
        )
        for row in table.rows
    ]
    body = element("table", element("thead", element("tr", *heads)), element("tbody", *rows))
    return element("div", body, class_="table", tabindex=0)


def paragraph(words: str) -> Markup:
    """A paragraph of plain text."""
    return element("p", words)


def note(words: str) -> Markup:
    """What is not there and why: said, never drawn as 0."""
    return element("p", words, class_="note")


def sentences(lines: Iterable[str]) -> Markup:
    """A list of plain sentences."""
    return element("ul", *(element("li", line) for line in lines))


def slug(title: str) -> str:
    """A title as the end of an address: "Files that ship" is "files-that-ship"."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def picture_svg(picture: Picture) -> str:
    """A picture as a file of its own, for a README or a slide, with its colours for light and dark."""
    drawn = str(picture.wide)
    end = drawn.index(">") + 1
    inside = joined(element("title", picture.title), element("style", Markup(_asset("pictures.css"))))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{drawn[:end]}{inside}{drawn[end:]}\n'


@functools.cache
def _asset(name: str) -> str:
    """A style sheet or code of the package, without comments and indentation."""
    found = files(__package__).joinpath(name).read_text(encoding="utf-8")
    found = re.sub(r"/\*.*?\*/|^\s*//[^\n]*$", "", found, flags=re.DOTALL | re.MULTILINE)
    return "\n".join(line for line in (line.strip() for line in found.splitlines()) if line) + "\n"


def _hash(text: str) -> str:
    """The source expression of a policy that allows this text and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def cards(items: Sequence[tuple[str, str, str]]) -> Markup:
    """The few numbers that are asked for first: (what, how much, against what)."""
    return element(
        "div",
        *(
            element(
                "div",
                element("span", what, class_="what"),
                element("strong", much),
                element("span", against, class_="against"),
                class_="card",
            )
            for what, much, against in items
        ),
        class_="cards",
    )
