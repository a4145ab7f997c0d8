"""Parts of pictures: SVG elements, linear scales and their ticks. Colours are classes, see `pictures.css`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgeprune.report.html.markup import Markup, element

__all__ = [
    "CHAR",
    "NARROW",
    "WIDE",
    "Scale",
    "axis",
    "dot",
    "line",
    "path",
    "rect",
    "shortened",
    "svg",
    "text",
    "ticks",
]

WIDE = 720.0  # drawn width for a screen or a sheet
NARROW = 350.0  # and for a phone
CHAR = 6.6  # of a letter at the 12 pixels of the text, about
_SVG = "http://www.w3.org/2000/svg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Values from `low` to `high` on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value; one outside stands at the edge."""
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values from `low` to `high`, at most `most` of them, 1, 2 or 5 times a power of ten apart."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    while math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9) + 1 > most:
        step *= 2 if round(step / 10 ** math.floor(math.log10(step) + 1e-9)) in (1, 5) else 2.5
    first = math.ceil(low / step - 1e-9)
    return [(first + n) * step for n in range(math.floor(high / step + 1e-9) - first + 1)]


def svg(width: float, height: float, *parts: str, label: str, class_: str = "") -> Markup:
    """A picture of that many pixels; `label` is what a screen reader says of it."""
    return element(
        "svg",
        *parts,
        xmlns=_SVG,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        class_=f"picture {class_}".strip(),
        role="img",
        aria_label=label,
    )


def text(x: float, y: float, words: str, class_: str = "", *, anchor: str | None = None) -> Markup:
    """Words whose base line begins at (x, y); `anchor` is "middle" or "end"."""
    return element("text", words, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def rect(x: float, y: float, width: float, height: float, class_: str, title: str = "", radius: float = 0) -> Markup:
    """A filled rectangle; `title` is what pointing at it tells."""
    tip = (element("title", title),) if title else ()
    size = {"x": x, "y": y, "width": max(0.0, width), "height": max(0.0, height)}
    return element("rect", *tip, **size, rx=radius or None, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def dot(x: float, y: float, radius: float, class_: str, title: str = "") -> Markup:
    """A filled circle; `title` is what pointing at it tells."""
    tip = (element("title", title),) if title else ()
    return element("circle", *tip, cx=x, cy=y, r=radius, class_=class_)


def ring(x: float, y: float, radius: float, title: str) -> Markup:
    """A circle around what was chosen."""
    return element("circle", element("title", title), cx=x, cy=y, r=radius, class_="ring")


def path(points: Iterable[tuple[float, float]], class_: str) -> Markup:
    """Straight lines from point to point."""
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=class_)


def axis(scale: Scale, top: float, bottom: float, word: Callable[[float], str], most: int = 5) -> list[Markup]:
    """Vertical grid lines of a horizontal scale with their values below, as far as these have room."""
    found, free = [], -math.inf
    for value in ticks(scale.low, scale.high, most):
        x, words = scale(value), word(value)
        half = len(words) * CHAR / 2
        found.append(line(x, top, x, bottom, "grid"))
        if x - half >= free:
            found.append(text(x, bottom + 14, words, "small", anchor="middle"))
            free = x + half + 2
    return found


def shortened(name: str, pixels: float, char: float = CHAR) -> str:
    """A name that fits: one too long loses its middle, as its end tells most."""
    most = max(4, int(pixels / char))
    if len(name) <= most:
        return name
    head = (most - 1) // 3
    return f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"
