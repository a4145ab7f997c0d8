"""A row for each thing: its name, a bar or a dot with the interval around it, and its value in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeprune.report.html.drawing import NARROW, WIDE, Scale, axis, dot, line, rect, shortened, svg, text
from edgeprune.report.html.markup import Markup
from edgeprune.report.html.page import Picture
from edgeprune.report.table import Table

__all__ = ["MOST_ROWS", "Bar", "bars", "few"]

MOST_ROWS = 40  # of a picture; its table has all
_HIGH = 21.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A row. From 0 a bar of `class_` reaches to `value` (None: nothing is drawn, and `words` say why); `whole` is a
    pale one behind it, `low` and `high` are the ends of an interval, `asked` a mark."""

    name: str
    value: float | None
    words: str
    class_: str = "main"
    whole: float | None = None
    low: float | None = None
    high: float | None = None
    asked: float | None = None
    is_dot: bool = False

    @property
    def ends(self) -> list[float]:
        """All numbers that its row must have room for."""
        numbers = (self.value, self.whole, self.low, self.high, self.asked)
        return [number for number in numbers if number is not None]


def few(rows: Sequence[Bar]) -> tuple[Sequence[Bar], str]:
    """The rows that a picture bears, and a sentence about the others."""
    if len(rows) <= MOST_ROWS:
        return rows, ""
    return rows[:MOST_ROWS], f" The first {MOST_ROWS} of {len(rows)} rows; the table has all."


def bars(
    rows: Sequence[Bar],
    *,
    name: str,
    title: str,
    caption: str,
    table: Table,
    word: Callable[[float], str],
    low: float | None = None,
    high: float | None = None,
    value_pixels: float = 96.0,
) -> Picture:
    """The picture of rows in their order. `word` writes a value at the axis, which reaches from `low` to `high` (None:
    as far as the rows do); `value_pixels` are for their words."""
    drawn, more = few(rows)
    ends = [end for row in drawn for end in row.ends] or [0.0]
    room = 0.0 if all(end >= 0 for end in ends) and not any(row.is_dot for row in drawn) else 0.04
    least, most = min(0.0, *ends), max(0.0, *ends)
    least, most = least if low is None else low, most if high is None else high
    span = (most - least) or 1.0
    limits = (least - (room * span if least < 0 else 0), most + (room * span if most > 0 else 0) or 1.0)
    label = f"{title}: {len(drawn)} rows; the table below has the numbers"
    return Picture(
        name=name,
        title=title,
        caption=caption + more,
        table=table,
        wide=_drawn(drawn, WIDE, limits, word, label, value_pixels),
        narrow=_drawn(drawn, NARROW, limits, word, label, value_pixels),
    )


def _drawn(
    rows: Sequence[Bar],
    width: float,
    limits: tuple[float, float],
    word: Callable[[float], str],
    label: str,
    value_pixels: float,
) -> Markup:
    longest = max((len(row.name) for row in rows), default=0)
    names = min(longest * 6.6 + 12, width * (0.36 if width == WIDE else 0.33))
    scale = Scale(low=limits[0], high=limits[1], start=names, end=width - value_pixels)
    bottom = len(rows) * _HIGH + 4
    parts = axis(scale, 0, bottom, word, 6 if width == WIDE else 3)
    if limits[0] < 0:
        parts.append(line(scale(0), 0, scale(0), bottom, "base"))
    for n, row in enumerate(rows):
        parts += _row(row, scale, 2 + n * _HIGH, names, value_pixels)
    return svg(width, bottom + 22, *parts, label=label)


def _row(row: Bar, scale: Scale, top: float, names: float, value_pixels: float) -> list[Markup]:
    middle, tip = top + _HIGH / 2, f"{row.name}: {row.words}"
    parts = [text(0, middle + 4, shortened(row.name, names - 10))]
    if row.whole is not None:
        parts.append(_bar(scale, 0.0, row.whole, top, "rest", tip))
    if row.value is not None and not row.is_dot:
        parts.append(_bar(scale, 0.0, row.value, top, row.class_, tip))
    if row.low is not None and row.high is not None:
        parts.append(line(scale(row.low), middle, scale(row.high), middle, "whisker"))
    if row.value is not None and row.is_dot:
        parts.append(dot(scale(row.value), middle, 4.5, row.class_, tip))
    if row.asked is not None:
        parts.append(line(scale(row.asked), top + 2, scale(row.asked), top + _HIGH - 2, "mark"))
    return [*parts, text(scale.end + 8, middle + 4, shortened(row.words, value_pixels - 8), "small")]


def _bar(scale: Scale, start: float, end: float, top: float, class_: str, tip: str) -> Markup:
    left, right = sorted((scale(start), scale(end)))
    return rect(left, top + 3, right - left, _HIGH - 6, class_, tip, 1.5)
