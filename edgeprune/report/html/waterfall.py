"""The picture of a run: what each step takes off the download, beside what it does to latency and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeprune.artifact import Format
from edgeprune.ledger import ArtifactEntry, LatencyComparison, Ledger, MetricKind, MetricValue, Outcome
from edgeprune.report.html.drawing import NARROW, WIDE, Scale, axis, dot, line, rect, shortened, svg, text
from edgeprune.report.html.markup import Markup
from edgeprune.report.html.page import Picture
from edgeprune.report.ledger_report import UNKNOWN, metric_text
from edgeprune.report.summary import difference_text
from edgeprune.report.table import Table
from edgeprune.units import format_bytes

__all__ = ["waterfall"]

_ROW = 40.0
_CLASSES = {Outcome.FASTER: "good", Outcome.FEWER: "good", Outcome.SLOWER: "bad", Outcome.MORE: "bad"}
_BASE = "deflate"
_FORMATS: Mapping[str, str] = {Format.TFLITE: "TFLite", Format.COREML: "Core ML", Format.ONNX: "ONNX"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A stage with its file, or one more file that ships. `before` are the bytes of the stage before it."""

    name: str
    entry: ArtifactEntry
    metric: MetricValue | None
    latency: LatencyComparison | None
    before: int | None
    is_base: bool

    @property
    def download(self) -> int:
        return self.entry.download_bytes[_BASE]

    @property
    def file(self) -> str:
        suffix = self.entry.path[self.entry.path.rfind(".") :]
        return suffix if self.name.endswith(self.entry.precision) else f"{self.entry.precision} {suffix}"


def waterfall(ledger: Ledger) -> Picture:
    """Download bytes from the dense model to what ships, latency ratios with their intervals, and the main metric."""
    rows = _rows(ledger)
    kind = ledger.metric
    label = f"Download, latency and {kind.name} of {len(rows)} stages and files; the table below has the numbers"
    caption = (
        "Download: bytes of the file by deflate 9, as a zip, APK or IPA costs; faint is what the step took off. "
        "Latency: time of a stage's file over that of the dense model's file of the same precision (of a file beside "
        "the stages: of the dense float32 file), measured on this host, 95 % interval; in the grey band it counts as "
        f"unchanged. How two precisions compare on this host says little of phones. {kind.name}: measured on the file, "
        "with the 95 % interval of the difference from the dense model, which is the dashed line."
    )
    return Picture(
        name="waterfall",
        title="What each step gains and costs",
        caption=caption,
        table=_table(rows, kind),
        wide=_wide(rows, kind, label),
        narrow=_narrow(rows, kind, label),
    )


def _rows(ledger: Ledger) -> list[_Row]:
    """The stages in their order, then what ships beside them."""
    stages, others, before = [], [], None
    for stage in ledger.stages:
        for entry in stage.artifacts:
            if entry is stage.main:
                latency, is_base = stage.latency, stage.kind == "dense"
                stages.append(_row(stage.name, entry, stage.metric, latency, before, is_base))
                before = entry.download_bytes[_BASE]
            elif entry.exported:
                name = f"{_FORMATS.get(entry.format, entry.format)} {entry.precision}"
                others.append(_row(name, entry, entry.metric, entry.latency, None, False))
    return stages + others


def _row(
    name: str,
    entry: ArtifactEntry,
    metric: MetricValue | None,
    latency: LatencyComparison | None,
    before: int | None,
    is_base: bool,
) -> _Row:
    return _Row(name=name, entry=entry, metric=metric, latency=latency, before=before, is_base=is_base)


def _table(rows: Sequence[_Row], kind: MetricKind) -> Table:
    heads = ("stage or file", "file", "ships", "download", "of dense", "latency ratio", "95 % interval", "verdict")
    base = rows[0].download
    cells = tuple(
        (
            row.name,
            row.entry.path,
            "yes" if row.entry.exported else "no",
            format_bytes(row.download),
            f"{row.download / base:.3f}x" if base else UNKNOWN,
            "1 (base)" if row.is_base else f"{row.latency.ratio:.3f}" if row.latency else UNKNOWN,
            f"{row.latency.low:.3f} to {row.latency.high:.3f}" if row.latency else "-",
            str(row.latency.verdict) if row.latency else "-",
            metric_text(row.metric, kind.is_share),
            _change(row.metric, kind),
            _interval(row.metric, kind),
        )
        for row in rows
    )
    more = (kind.name, "against dense", "95 % interval")
    return Table(heads=(*heads, *more), rows=cells, left=frozenset({0, 1, 2, 7}))


def _change(metric: MetricValue | None, kind: MetricKind) -> str:
    return difference_text(kind, metric.change.difference) if metric and metric.change else "-"


def _interval(metric: MetricValue | None, kind: MetricKind) -> str:
    change = metric.change if metric else None
    if change is None or change.low is None or change.high is None:
        return "-"
    return f"{difference_text(kind, change.low)} to {difference_text(kind, change.high)}"


def _wide(rows: Sequence[_Row], kind: MetricKind, label: str) -> Markup:
    """Three columns that share their rows."""
    top, names = 30.0, 136.0
    parts = [part for n, row in enumerate(rows) for part in _named(row, top + n * _ROW, 0.0, names)]
    parts += _downloads(rows, top, names, 402.0)
    parts += _latencies(rows, top, 420.0, 562.0)
    parts += _metrics(rows, kind, top, 580.0, WIDE)
    return svg(WIDE, top + len(rows) * _ROW + 24, *parts, label=label)


def _narrow(rows: Sequence[_Row], kind: MetricKind, label: str) -> Markup:
    """The three below each other, each with the names."""
    names, block = 126.0, len(rows) * _ROW + 62
    parts: list[Markup] = []
    for place in range(3):
        top = 30.0 + place * block
        parts += [part for n, row in enumerate(rows) for part in _named(row, top + n * _ROW, 0.0, names)]
        if place == 0:
            parts += _downloads(rows, top, names, NARROW)
        elif place == 1:
            parts += _latencies(rows, top, names, NARROW)
        else:
            parts += _metrics(rows, kind, top, names, NARROW)
    return svg(NARROW, 3 * block, *parts, label=label)


def _named(row: _Row, top: float, left: float, width: float) -> list[Markup]:
    ships = " · ships" if row.entry.exported else ""
    return [
        text(left, top + 17, shortened(row.name, width - 10, 7.4), "strong" if row.entry.exported else ""),
        text(left, top + 31, shortened(f"{row.file}{ships}", width - 6, 5.6), "small"),
    ]


def _downloads(rows: Sequence[_Row], top: float, left: float, right: float) -> list[Markup]:
    most = max(max(row.download, row.before or 0) for row in rows)
    scale = Scale(low=0, high=most or 1, start=left, end=right - 84)
    bottom = top + len(rows) * _ROW
    parts = [text(left, top - 12, "download", "head"), *axis(scale, top, bottom, lambda v: format_bytes(round(v)), 3)]
    for n, row in enumerate(rows):
        parts += _bar(row, rows[0].download, scale, top + n * _ROW)
    return parts


def _bar(row: _Row, base: int, scale: Scale, top: float) -> list[Markup]:
    """What is left of the download, pale what the step took off it, red what it added."""
    now, before = scale(row.download), scale(row.before if row.before is not None else row.download)
    tip = f"{row.name}: {format_bytes(row.download)}"
    parts = [rect(scale.start, top + 8, min(now, before) - scale.start, 22, "main", tip, 2)]
    if before > now:
        parts.append(rect(now, top + 8, before - now, 22, "rest", f"{tip}, before {format_bytes(row.before or 0)}", 2))
    elif now > before:
        parts.append(rect(before, top + 8, now - before, 22, "bad-fill", tip, 2))
    end = max(now, before) + 6
    parts.append(text(end, top + 18, format_bytes(row.download), "strong"))
    parts.append(text(end, top + 31, f"{row.download / base:.2f}x" if base else "", "small"))
    return parts


def _latencies(rows: Sequence[_Row], top: float, left: float, right: float) -> list[Markup]:
    known = [row.latency for row in rows if row.latency]
    bottom = top + len(rows) * _ROW
    parts = [text(left, top - 12, "latency ratio", "head")]
    if not known:
        return [*parts, text(left, top + 22, UNKNOWN, "soft")]
    low = min(0.95, *(found.low for found in known)) - 0.02
    high = max(1.05, *(found.high for found in known)) + 0.02
    scale = Scale(low=low, high=high, start=left, end=right - 74)
    parts += axis(scale, top, bottom, lambda v: f"{v:g}", 3)
    parts.append(line(scale(1), top, scale(1), bottom, "base"))
    for n, row in enumerate(rows):
        parts += _ratio(row, scale, top + n * _ROW)
    return parts


def _ratio(row: _Row, scale: Scale, top: float) -> list[Markup]:
    beside, middle, found = scale.end + 8, top + 19, row.latency
    if found is None:
        words = "1 (base)" if row.is_base else UNKNOWN
        return [text(beside if row.is_base else scale.start, top + 23, words, "small")]
    class_ = _CLASSES.get(found.verdict, "mute")
    tip = f"{row.name}: {found.ratio:.3f} (95 % {found.low:.3f} to {found.high:.3f}), {found.verdict}"
    band = scale(1 + found.tolerance) - scale(1 - found.tolerance)
    return [
        rect(scale(1 - found.tolerance), top + 6, band, 26, "band"),
        line(scale(found.low), middle, scale(found.high), middle, f"whisker {class_}"),
        dot(scale(found.ratio), middle, 5, class_, tip),
        text(beside, top + 18, f"{found.ratio:.3f}", "strong"),
        text(beside, top + 31, str(found.verdict), "small"),
    ]


def _metrics(rows: Sequence[_Row], kind: MetricKind, top: float, left: float, right: float) -> list[Markup]:
    known = [row.metric for row in rows if row.metric]
    bottom = top + len(rows) * _ROW
    parts = [text(left, top - 12, shortened(kind.name, right - left), "head")]
    if not known:
        return [*parts, text(left, top + 22, UNKNOWN, "soft")]
    ends = [end for metric in known for end in (metric.value, *_ends(metric))]
    room = 0.06 * (max(ends) - min(ends)) or abs(ends[0]) * 0.02 or 1.0
    scale = Scale(low=min(ends) - room, high=max(ends) + room, start=left, end=right - 84)
    parts += axis(scale, top, bottom, lambda v: f"{100 * v:.4g} %" if kind.is_share else f"{v:.4g}", 2)
    if rows[0].metric:
        parts.append(line(scale(rows[0].metric.value), top, scale(rows[0].metric.value), bottom, "base"))
    for n, row in enumerate(rows):
        parts += _score(row, kind, scale, top + n * _ROW)
    return parts


def _ends(metric: MetricValue) -> tuple[float, ...]:
    """The metric at the ends of the interval of its difference from the dense model."""
    change = metric.change
    if change is None or change.low is None or change.high is None:
        return ()
    return change.before + change.low, change.before + change.high


def _score(row: _Row, kind: MetricKind, scale: Scale, top: float) -> list[Markup]:
    beside, middle, metric = scale.end + 8, top + 19, row.metric
    if metric is None:
        return [text(scale.start, top + 23, UNKNOWN, "small")]
    change = metric.change
    gained = change is not None and (change.difference > 0) is kind.higher_is_better
    class_ = "mute" if change is None or change.is_noise or not change.difference else "good" if gained else "bad"
    tip = f"{row.name}: {metric_text(metric, kind.is_share)} on {metric.samples:,} samples, {metric.runtime}"
    ends = _ends(metric)
    drawn = [line(scale(ends[0]), middle, scale(ends[1]), middle, f"whisker {class_}")] if ends else []
    return [
        *drawn,
        dot(scale(metric.value), middle, 5, class_, tip),
        text(beside, top + 18, metric_text(metric, kind.is_share), "strong"),
        text(beside, top + 31, _change(metric, kind) if change else "", "small"),
    ]
