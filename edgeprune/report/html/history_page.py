"""The page of a history: what each commit made of each file, drawn, with the steps marked and what made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from edgeprune.checker.history.trends import Series, Step, Trend
from edgeprune.report.cells import shown
from edgeprune.report.history_report import (
    HistoryView,
    change_text,
    commit_table,
    damage_lines,
    heading,
    series_table,
    step_text,
)
from edgeprune.report.html.drawing import NARROW, WIDE, Scale, dot, line, path, shortened, svg, text, ticks
from edgeprune.report.html.markup import Markup
from edgeprune.report.html.page import Page, Picture, Section, note, sentences, table_html
from edgeprune.report.verdicts import amount
from edgeprune.verdict import Unit

__all__ = ["history_page"]

_HIGH, _GAP = 130.0, 58.0  # of a plot, and what stands above and below it
_LEFT, _RIGHT = 76.0, 16.0
_MOST_NUMBERED, _MOST_DOTS = 8, 60
_LEAD = (
    "Sizes and counts are measured on the files and are the same at each run: every step is a change of the file, by "
    "the commit that is named. Estimates and metrics say so."
)


def history_page(view: HistoryView) -> Page:
    """A section for each trend, and what was damaged in the history."""
    sections = [_section(trend, view, number) for number, trend in enumerate(view.trends, 1)]
    damaged = [*damage_lines(view.history.damaged)]
    sections += [Section(title="Damaged lines", body=(sentences(damaged),))] if damaged else []
    return Page(
        title=f"History of {len(view.trends)} model file{'s'[: len(view.trends) > 1]}",
        lead=_LEAD,
        sections=tuple(sections),
    )


def _section(trend: Trend, view: HistoryView, number: int) -> Section:
    title = shown(trend.path) + (f", layer {shown(trend.layer)}" if trend.layer is not None else "")
    numbered = _largest(trend.steps, _MOST_NUMBERED)
    legend = [
        f"{place}: {_commit(step)}, {change_text(step)}: {step_text(step)}" for place, step in enumerate(numbered, 1)
    ]
    told_steps = sentences(legend) if legend else note("No commit changed it.")
    return Section(
        title=title,
        body=(_picture(trend, view, numbered, number), told_steps, table_html(series_table(trend, view, shown))),
    )


def _picture(trend: Trend, view: HistoryView, numbered: Sequence[Step], number: int) -> Picture:
    left_out = len(trend.steps) - len(numbered)
    more = f" The other {left_out} are in the table." if left_out else ""
    label = f"{heading(trend)}; the table below has the numbers"
    table, _ = commit_table(trend, view, shown, most=None)
    return Picture(
        name=f"trend-{number}",
        title=heading(trend),
        caption="Each commit from left to right, by date. With a number: the largest steps, with the layer that made "
        f"each below.{more} Measured on the files.",
        table=table,
        wide=_drawn(trend, numbered, WIDE, label),
        narrow=_drawn(trend, numbered, NARROW, label),
    )


def _largest(steps: Sequence[Step], most: int) -> list[Step]:
    """The largest steps, in the order of the commits."""
    return sorted(sorted(steps, key=_size, reverse=True)[:most], key=lambda step: step.place)


def _size(step: Step) -> int:
    """Bytes of the download, or else of the file."""
    old, new = step.before.download_bytes, step.after.download_bytes
    if old is not None and new is not None and old != new:
        return abs(new - old)
    return abs((step.after.install_bytes or 0) - (step.before.install_bytes or 0))


def _commit(step: Step) -> str:
    commit = step.after.record.commit
    return f"{shown(commit.short)} of {commit.date[:10]}"


def _drawn(trend: Trend, numbered: Sequence[Step], width: float, label: str) -> Markup:
    """A plot of the download above one of what is installed."""
    download = f"download ({trend.codec})" if trend.layer is None else "download share (deflate)"
    plots = [series for series in trend.series if series.name in (download, "install") and series.known]
    parts: list[Markup] = []
    for n, series in enumerate(sorted(plots, key=lambda series: series.name)):
        parts += _plot(trend, series, numbered, n * (_HIGH + _GAP), width)
    return svg(width, len(plots) * (_HIGH + _GAP), *parts, label=label)


def _plot(trend: Trend, series: Series, numbered: Sequence[Step], top: float, width: float) -> list[Markup]:
    low, high = min(series.known), max(series.known)
    room = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
    down = Scale(low=max(0.0, low - room), high=high + room, start=top + 24 + _HIGH, end=top + 24)
    across = Scale(low=0, high=max(1, len(series.values) - 1), start=_LEFT, end=width - _RIGHT)
    parts = [text(0, top + 14, series.name, "head")]
    values = ticks(down.low, down.high, 4)
    for value, words in zip(values, _words(values), strict=True):
        parts += [
            line(across.start - 4, down(value), across.end + 4, down(value), "grid"),
            text(across.start - 8, down(value) + 4, words, "small", anchor="end"),
        ]
    ends = (trend.points[0].record.commit.date[:10], trend.points[-1].record.commit.date[:10])
    parts.append(text(across.start, down.start + 16, ends[0], "small"))
    if ends[1] != ends[0]:
        parts.append(text(across.end, down.start + 16, ends[1], "small", anchor="end"))
    parts += [path(piece, "line") for piece in _stairs(series.values, across, down)]
    return [*parts, *_marks(trend, series, numbered, across, down)]


def _words(values: Sequence[float]) -> list[str]:
    """Sizes in short, to the byte where two would be called the same."""
    short = [amount(value, Unit.BYTES) for value in values]
    return short if len(set(short)) == len(short) else [f"{value:,.0f} B" for value in values]


def _stairs(
    values: Sequence[float | None], across: Callable[[float], float], down: Callable[[float], float]
) -> Iterator[list[tuple[float, float]]]:
    """Lines that stay until a commit changes the value, each up to where it is not known."""
    piece: list[tuple[float, float]] = []
    for place, value in enumerate(values):
        if value is None:
            yield from [piece] if piece else []
            piece = []
            continue
        x, y = across(place), down(value)
        if piece and piece[-1][1] != y:
            piece.append((x, piece[-1][1]))
        if not piece or piece[-1][1] != y or place == len(values) - 1 or values[place + 1] is None:
            piece.append((x, y))
    yield from [piece] if piece else []


def _marks(
    trend: Trend,
    series: Series,
    numbered: Sequence[Step],
    across: Callable[[float], float],
    down: Callable[[float], float],
) -> Iterator[Markup]:
    """A dot at each of the larger steps, with what made it; those with a number, and commits with a tag, say so."""
    numbers = {step.place: str(number) for number, step in enumerate(numbered, 1)}
    for step in _largest(trend.steps, _MOST_DOTS):
        value = series.values[step.place]
        if value is None:
            continue
        x, y = across(step.place), down(value)
        commit = step.after.record.commit
        yield dot(
            x,
            y,
            4 if step.place in numbers else 2.5,
            "second",
            f"{commit.short}, {commit.date[:10]}: {step_text(step)}",
        )
        if step.place in numbers:
            yield text(x, y - 7, numbers[step.place], "strong", anchor="middle")
    for place, point in enumerate(trend.points):
        if point.record.commit.tags and series.values[place] is not None:
            words = shortened(shown(point.record.commit.tags[0]), 60)
            yield text(across(place), down(float(series.values[place] or 0)) + 16, words, "small", anchor="middle")
