"""HTML and SVG as text that is escaped once: a plain string is what people read, `Markup` is what a browser does."""

from __future__ import annotations

import html

from edgeprune.formats.contents import printable

__all__ = ["Markup", "element", "joined", "plain"]

_EMPTY = frozenset({"br", "hr", "link", "meta"})  # of HTML: these have no end


class Markup(str):
    """Text that is markup already and goes into a page as it is. Only `element` and `joined` make it."""

    __slots__ = ()


def plain(text: str) -> Markup:
    """A name or a sentence as text and nothing else, on one line; what cannot be printed is shown as its code."""
    return Markup(html.escape(printable(text), quote=True))


def joined(*parts: str) -> Markup:
    """Parts one after the other; plain strings among them are escaped."""
    return Markup("".join(part if isinstance(part, Markup) else plain(part) for part in parts))


def element(name: str, /, *parts: str, **attributes: str | float | bool | None) -> Markup:
    """An element. Attributes are escaped, those that are None or False are left out, True stands for an empty one;
    `class_` is class and `aria_label` aria-label. Floats are rounded to a hundredth, which no eye sees in a picture.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inside = joined(*parts)
    return Markup(f"<{name}{written}>" if name in _EMPTY else f"<{name}{written}>{inside}</{name}>")


def _value(value: str | float | bool) -> str:
    if value is True:
        return ""
    if isinstance(value, int | float):
        return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return value if isinstance(value, Markup) else plain(value)
