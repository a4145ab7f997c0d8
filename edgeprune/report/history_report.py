"""The history of model files as text, JSON and Markdown: nothing is computed here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeprune.checker.history.records import Damaged, History
from edgeprune.checker.history.trends import Point, Series, Step, Trend
from edgeprune.checker.size.layer_pairs import Pair
from edgeprune.report.cells import difference, layer_name, markdown_cell, markdown_text, shown
from edgeprune.report.table import Table, to_markdown, to_text
from edgeprune.report.verdicts import amount
from edgeprune.units import format_bytes
from edgeprune.verdict import Unit

__all__ = [
    "HISTORY_FORMATS",
    "HistoryView",
    "change_text",
    "commit_table",
    "damage_lines",
    "heading",
    "series_table",
    "sparkline",
    "step_text",
]

SCHEMA_VERSION = 1
_BLOCKS, _PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*#%"
_WIDTH = 40  # of a sparkline
_MOST_ROWS = 20
_NAMED = 3  # layers of a step


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryView:
    """A history and the trends in it that are shown; `every` shows every commit, `plain` draws in ASCII."""

    history: History
    trends: tuple[Trend, ...]
    every: bool = False
    plain: bool = False


def sparkline(values: Sequence[float | None], *, plain: bool = False, width: int = _WIDTH) -> str:
    """A line of blocks, the lowest value as the lowest block, a blank where a value is not known. Of more values than
    fit, each block is the last of some."""
    blocks = _PLAIN_BLOCKS if plain else _BLOCKS
    count = min(width, len(values))
    kept = [values[(n + 1) * len(values) // count - 1] for n in range(count)]
    known = [value for value in values if value is not None]
    low, high = min(known, default=0), max(known, default=0)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if value is None else blocks[round((value - low) * scale)] for value in kept).rstrip()


def step_text(step: Step) -> str:
    """What made a step: "dense +1.2 kB; conv -300 B and 2 more"."""
    told = [
        f"{layer_name(known)} {_layer_change((old, new))}" for old, new in step.layers[:_NAMED] if (known := new or old)
    ]
    more = f" and {len(step.layers) - _NAMED} more" if len(step.layers) > _NAMED else ""
    tool = f"edgeprune {shown(step.before.record.tool)} -> {shown(step.after.record.tool)}" if step.new_tool else ""
    return (
        "; ".join(part for part in ("; ".join(told) + more, tool) if part)
        or "no layer: bytes outside of them, such as graph, names, metadata"
    )


def _layer_change(pair: Pair) -> str:
    old, new = pair
    if old is None or new is None:
        known = new or old
        return f"{'new' if old is None else 'removed'}, {format_bytes(known.raw_bytes)}" if known else ""
    if old.raw_bytes != new.raw_bytes:
        return difference(old.raw_bytes, new.raw_bytes)
    if old.deflate_bytes is not None and new.deflate_bytes is not None:
        return f"{difference(old.deflate_bytes, new.deflate_bytes)} deflated"
    return f"{difference(old.bound_bytes or 0, new.bound_bytes or 0)} ideal"


def heading(trend: Trend) -> str:
    """The file, and over which commits."""
    first, last = trend.points[0].record.commit, trend.points[-1].record.commit
    layer = f", layer {shown(trend.layer)}" if trend.layer is not None else ""
    count, steps = len(trend.points), len(trend.steps)
    commits = f"{count} commit{'' if count == 1 else 's'}"
    return f"{shown(trend.path)}{layer}: {commits}, {first.date[:10]} to {last.date[:10]}, {steps} changed it"


def series_table(trend: Trend, view: HistoryView, cell: Callable[[str], str]) -> Table:
    """A row for each measure: what it was, what it is, and how it was obtained."""
    rows = [_series_row(series, view, cell) for series in trend.series if series.known]
    heads = ("measure", "first", "last", "change", "trend", "how")
    return Table(heads=heads, rows=tuple(rows), left=frozenset({0, 4, 5}))


def _series_row(series: Series, view: HistoryView, cell: Callable[[str], str]) -> tuple[str, ...]:
    first, last = series.known[0], series.known[-1]
    if series.unit is Unit.BYTES:
        change = difference(first, last)
    elif series.unit is Unit.FRACTION:
        change = f"{100 * (last - first):+.2f} points"
    elif series.unit is Unit.METRIC:
        change = f"{last - first:+.4f}"
    else:
        change = f"{100 * (last / first - 1):+.1f} %" if first else "-"
    words = [_number(value, series.unit) for value in (first, last)]
    name = series.name if series.name.split(" ")[0] in ("install", "download") else cell(series.name)
    return (name, *words, change, sparkline(series.values, plain=view.plain), str(series.how))


def _number(value: float, unit: Unit) -> str:
    return f"{round(value):,}" if unit is Unit.OPERATIONS else amount(value, unit)


def commit_table(
    trend: Trend, view: HistoryView, cell: Callable[[str], str], *, most: int | None = _MOST_ROWS
) -> tuple[Table, int]:
    """The commits that changed something, with the first, the last and those with a tag, the newest `most` of them; and
    how many are left out."""
    steps = {step.place: step for step in trend.steps}
    last = len(trend.points) - 1
    places = [n for n, p in enumerate(trend.points) if view.every or n in (0, last, *steps) or p.record.commit.tags]
    kept = places if view.every or most is None else places[-most:]
    download = f"download ({trend.codec})" if trend.layer is None else "download share"
    heads = ("commit", "date", "tag", "install", download, "change", "made by")
    rows = tuple(_commit_row(trend.points[n], steps.get(n), first=n == 0, cell=cell) for n in kept)
    return Table(heads=heads, rows=rows, left=frozenset({0, 1, 2, 6})), len(places) - len(kept)


def _commit_row(point: Point, step: Step | None, *, first: bool, cell: Callable[[str], str]) -> tuple[str, ...]:
    commit = point.record.commit
    change = "first" if first else "-"
    if step is not None:
        change = change_text(step)
    return (
        cell(commit.short),
        commit.date[:10],
        cell(", ".join(commit.tags)) if commit.tags else "",
        *("unknown" if size is None else format_bytes(size) for size in (point.install_bytes, point.download_bytes)),
        change,
        cell(step_text(step)) if step is not None else "",
    )


def change_text(step: Step) -> str:
    """How much a step is: of the download where it is known on both sides and differs, else of the file."""
    old, new = step.before.download_bytes, step.after.download_bytes
    if old is not None and new is not None and old != new:
        return difference(old, new)
    return f"{difference(step.before.install_bytes or 0, step.after.install_bytes or 0)} installed"


def damage_lines(damaged: Sequence[Damaged]) -> list[str]:
    """A sentence for each line that was passed over."""
    return [f"line {item.line} is damaged and passed over: {item.reason}" for item in damaged]


def _text(view: HistoryView) -> str:
    parts = []
    for trend in view.trends:
        table, left_out = commit_table(trend, view, shown)
        parts += [heading(trend), "", to_text(series_table(trend, view, shown)), "", to_text(table)]
        parts += [f"({left_out} earlier left out: --all)"] if left_out else []
        parts.append("")
    parts += [f"note: {shown(str(view.history.path))}: {shown(line)}" for line in damage_lines(view.history.damaged)]
    return "\n".join(parts).rstrip() + "\n"


def _markdown(view: HistoryView) -> str:
    parts = []
    for trend in view.trends:
        table, left_out = commit_table(trend, view, markdown_cell)
        series = to_markdown(series_table(trend, view, markdown_cell))
        parts += [f"### {markdown_text(heading(trend))}", "", series, "", to_markdown(table), ""]
        parts += [f"({left_out} earlier left out)", ""] if left_out else []
    parts += [f"- {markdown_text(line)}" for line in damage_lines(view.history.damaged)]
    return "\n".join(parts).rstrip() + "\n"


def _json(view: HistoryView) -> str:
    body = {
        "schema_version": SCHEMA_VERSION,
        "history": str(view.history.path),
        "damaged": [{"line": item.line, "reason": item.reason} for item in view.history.damaged],
        "trends": [_trend_json(trend) for trend in view.trends],
    }
    return json.dumps(body, indent=1, allow_nan=False) + "\n"


def _trend_json(trend: Trend) -> dict[str, object]:
    return {
        "path": trend.path,
        "layer": trend.layer,
        "codec": trend.codec,
        "commits": [
            {"commit": point.record.commit.name, "date": point.record.commit.date, "tags": point.record.commit.tags}
            for point in trend.points
        ],
        "measures": [
            {"name": series.name, "unit": str(series.unit), "how": str(series.how), "values": series.values}
            for series in trend.series
        ],
        "steps": [_step_json(step) for step in trend.steps],
    }


def _step_json(step: Step) -> dict[str, object]:
    layers = [
        {
            "name": known.name,
            "group": known.group,
            "install_bytes": [item.raw_bytes if item else None for item in (old, new)],
            "deflate_bytes": [item.deflate_bytes if item else None for item in (old, new)],
        }
        for old, new in step.layers
        if (known := new or old) is not None
    ]
    return {
        "commit": step.after.record.commit.name,
        "place": step.place,
        "install_bytes": [step.before.install_bytes, step.after.install_bytes],
        "download_bytes": [step.before.download_bytes, step.after.download_bytes],
        "layers": layers,
        "tool": [step.before.record.tool, step.after.record.tool],
    }


HISTORY_FORMATS: Mapping[str, Callable[[HistoryView], str]] = {"text": _text, "json": _json, "markdown": _markdown}
