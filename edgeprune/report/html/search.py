"""The files that a search tried: download against metric, what no other beats, and the one that was chosen."""

from __future__ import annotations

from edgeprune.points import Point, SearchReport
from edgeprune.report.html.drawing import NARROW, WIDE, Scale, dot, line, path, ring, svg, text, ticks
from edgeprune.report.html.markup import Markup
from edgeprune.report.html.page import Picture
from edgeprune.report.search_report import search_table
from edgeprune.units import format_bytes, format_percent

__all__ = ["pareto"]

_HEIGHT, _LEFT, _BOTTOM, _TOP = 330.0, 56.0, 40.0, 22.0


def pareto(report: SearchReport) -> Picture:
    """Every file of a search by its download and its loss on validation samples."""
    label = f"{len(report.points)} files by download and loss of {report.metric}; the table below has the numbers"
    at_most = f"at most {format_percent(report.aims.max_drop, 2)} loss"
    if report.aims.download_bytes is not None:
        at_most += f" and {format_bytes(report.aims.download_bytes)} of download"
    caption = (
        f"Download: bytes by deflate, measured on each file. Loss: of {report.metric} on validation samples against "
        "the dense float32 file, measured. Filled: no other file is smaller, faster and loses less; ringed: chosen. "
        f"Dashed: what was asked for, {at_most}."
    )
    return Picture(
        name="pareto",
        title=f"{len(report.points)} files that the search tried",
        caption=caption,
        table=search_table(report),
        wide=_drawn(report, WIDE, label),
        narrow=_drawn(report, NARROW, label),
    )


def _drawn(report: SearchReport, width: float, label: str) -> Markup:
    points, aims = report.points, report.aims
    lost, sizes = [point.lost for point in points], [point.download_bytes for point in points]
    across = Scale(low=0, high=1.06 * max(*sizes, aims.download_bytes or 0, 1), start=_LEFT, end=width - 12)
    high, low = max(*lost, aims.max_drop, 0.001), min(*lost, 0.0)
    room = 0.06 * (high - low)
    down = Scale(low=low - room, high=high + room, start=_HEIGHT - _BOTTOM, end=_TOP)
    parts = _axes(report, across, down, width)
    for key in sorted(range(len(points)), key=lambda n: (points[n].pareto, n == report.winner)):
        parts.append(_dot(points[key], across, down))
    best = sorted((point for point in points if point.pareto), key=lambda point: point.download_bytes)
    front = [(across(point.download_bytes), down(point.lost)) for point in best if point.latency is None]
    if len(front) > 1:
        parts.append(path(front, "line thin"))
    won = points[report.winner]
    parts.append(ring(across(won.download_bytes), down(won.lost), 9, f"chosen: {won.candidate}, {won.stage}"))
    return svg(width, _HEIGHT, *parts, label=label)


def _axes(report: SearchReport, across: Scale, down: Scale, width: float) -> list[Markup]:
    parts = []
    for value in ticks(across.low, across.high, 5 if width == WIDE else 3):
        x = across(value)
        parts += [
            line(x, _TOP, x, down.start, "grid"),
            text(x, down.start + 15, format_bytes(round(value)), "small", anchor="middle"),
        ]
    for value in ticks(down.low, down.high, 6):
        y = down(value)
        word = format_percent(value, 1)
        parts += [line(_LEFT, y, across.end, y, "grid"), text(_LEFT - 6, y + 4, word, "small", anchor="end")]
    parts.append(line(_LEFT, down(report.aims.max_drop), across.end, down(report.aims.max_drop), "base"))
    if report.aims.download_bytes is not None:
        x = across(report.aims.download_bytes)
        parts.append(line(x, _TOP, x, down.start, "base"))
    parts.append(text(0, 11, f"loss of {report.metric}", "small strong"))
    parts.append(text(across.end, _HEIGHT - 6, "download", "small strong", anchor="end"))
    return parts


def _dot(point: Point, across: Scale, down: Scale) -> Markup:
    speed = "" if point.latency is None else f", latency {point.latency:.3f}x ({point.how})"
    tip = (
        f"{point.candidate}, {point.stage}, {point.precision}: {format_bytes(point.download_bytes)}, "
        f"{format_percent(point.lost, 2)} lost{speed}"
    )
    class_ = "main" if point.pareto else "hollow"
    return dot(across(point.download_bytes), down(point.lost), 5 if point.pareto else 4, class_, tip)
