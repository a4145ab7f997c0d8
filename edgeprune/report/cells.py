"""Names out of files and amounts as the cells and sentences of reports: whatever is in a name, it breaks no format."""

from __future__ import annotations

import re
from collections.abc import Callable

from edgeprune.checker.size.records import LayerAccount
from edgeprune.formats.contents import printable
from edgeprune.units import format_bytes

__all__ = ["difference", "layer_name", "markdown_cell", "markdown_text", "shown", "word"]

_NAME_CHARS, _WORD_CHARS = 120, 40  # of a layer's name and of an operation's in a table
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,39}", re.ASCII)


def shown(name: str) -> str:
    """A name on one line, whatever is in it."""
    return printable(name)


def layer_name(layer: LayerAccount) -> str:
    """A layer's name with where it stands, not longer than a table bears."""
    return printable(f"{layer.group}: {layer.name}" if layer.group else layer.name, _NAME_CHARS)


def word(text: str | None, cell: Callable[[str], str]) -> str:
    """An operation's kind or a precision: as it is where it is a word, as a name where a file made something of it."""
    if not text:
        return "-"
    return text if _WORD.fullmatch(text) else cell(printable(text, _WORD_CHARS))


def difference(before: float, after: float) -> str:
    """ "+12.3 kB (+4.1 %)"."""
    grown = after - before
    text = f"{'+' if grown >= 0 else '-'}{format_bytes(abs(round(grown)))}"
    return f"{text} ({100 * grown / before:+.1f} %)" if before else f"{text} (new)"


def markdown_cell(name: str) -> str:
    """A name as code that GitHub shows as it is: no link, no mention, no markup, no end of the cell."""
    text = shown(name)
    if text.strip() and not re.search(r"[`|\\]", text) and text == text.strip():
        return f"`{text}`"
    # Nothing ends a code span or a cell, and GitHub links nothing in code.
    return "<code>" + "".join(c if c.isalnum() else f"&#{ord(c)};" for c in text) + "</code>"


def markdown_text(text: str) -> str:
    """A sentence with names in it, as text and nothing else.

    GitHub looks for @mentions, #123 and addresses after Markdown is rendered, so that a backslash does not stop it; an
    empty comment between does.
    """
    text = shown(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]#|~@!])", r"\\\1", text)
    text = re.sub(r"^([-+=]|\d+(?=[.)]))", r"\1<!-- -->", text)  # no list, no heading
    return re.sub(r"(\\[@#]|\bwww|\bhttps?:|\bftp:|\bGH-)", r"\1<!-- -->", text, flags=re.IGNORECASE)
