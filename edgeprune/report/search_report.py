"""A search as tables and sentences."""

from __future__ import annotations

from edgeprune.checker.size.codecs import BASE_CODEC
from edgeprune.points import DataFreeReport, Point, SearchReport
from edgeprune.report.table import Table, to_markdown, to_terminal, to_text
from edgeprune.units import format_bytes, format_count, format_percent, format_seconds

__all__ = ["data_free_text", "search_lines", "search_markdown", "search_table", "search_text"]

ENDS = {"done": "", "interrupted": "; interrupted, so this is the best so far"}


def search_table(report: SearchReport, *, every: bool = True) -> Table:
    """A row for each file that was judged; only those that no other beats, and the winner, without `every`."""
    rows = []
    for number, point in enumerate(report.points):
        marks = ("*" if point.pareto else "") + (" winner" if number == report.winner else "")
        if every or marks:
            rows.append((str(number + 1), *_cells(report, point), marks.strip()))
    heads = ("", "candidate", "stage", "epochs", report.metric, "lost", "download", "of dense", "latency", "MACs")
    return Table(heads=(*heads, "CPU s", "pareto"), rows=tuple(rows), left=frozenset({1, 2, 11}))


def _cells(report: SearchReport, point: Point) -> tuple[str, ...]:
    return (
        point.candidate,
        point.stage,
        str(point.epochs),
        _metric(report, point.metric),
        format_percent(point.lost, 2),
        format_bytes(point.download_bytes),
        f"{point.download_ratio:.3f}x",
        "not asked for" if point.latency is None else f"{point.latency:.3f}x",
        "not known" if point.macs is None else format_count(point.macs),
        f"{point.cpu_s:.0f}",
    )


def _metric(report: SearchReport, value: float) -> str:
    return format_percent(value, 2) if report.is_share else f"{value:.4f}"


def search_lines(report: SearchReport) -> list[str]:
    """What came out, a sentence each."""
    point, aims = report.points[report.winner], report.aims
    met = "all targets are reached" if report.met else "not all targets are reached"
    lines = [*report.said, f"{met}{ENDS[report.ended]}: {point.candidate}"]
    if aims.download_bytes is not None:
        lines.append(
            f"download: {format_bytes(point.download_bytes)} ({point.download_ratio:.3f}x of the dense float32 file), "
            f"asked {format_bytes(aims.download_bytes)}: {_reached(report, 'download')}"
        )
    if aims.latency is not None and point.latency is not None:
        how = f"estimated for {report.device}" if report.device else "measured on this host, paired"
        lines.append(
            f"latency: {point.latency:.3f}x of the dense {point.precision} file ({how}), asked {aims.latency:g}x: "
            f"{_reached(report, 'latency')}"
        )
    lines.append(
        f"{report.metric}: {_metric(report, point.metric)} on validation samples, {format_percent(point.lost, 2)} "
        f"lost, at most {format_percent(aims.max_drop, 2)} asked: {_reached(report, 'drop')}"
    )
    if report.test_drop is not None:
        lines.append(
            f"on test samples, looked at once: {format_percent(report.test_drop, 2)} lost: "
            f"{_reached(report, 'drop on test')}"
        )
    lines += _nearest(report)
    lines.append(
        f"{len(report.points)} files judged in {format_seconds(report.seconds)}, {report.cpu_s:,.0f} CPU s "
        "(files of earlier tries not counted)"
    )
    return lines


def _nearest(report: SearchReport) -> list[str]:
    """The nearest file to each target, a line for each file."""
    lines = []
    for number in dict.fromkeys(report.nearest.values()):
        near, names = report.points[number], [name for name, place in report.nearest.items() if place == number]
        lines.append(
            f"nearest to the {' and the '.join(names)}: nearest/{names[0]}.{near.precision}.tflite ({near.candidate}, "
            f"{near.stage}): {near.download_ratio:.3f}x download, {format_percent(near.lost, 2)} lost"
            + (f", {near.latency:.3f}x latency" if near.latency is not None else "")
        )
    return lines


def _reached(report: SearchReport, name: str) -> str:
    return "reached" if report.reached.get(name, False) else "NOT reached"


def search_text(report: SearchReport, *, width: int | None = None) -> str:
    """For a terminal, or without `width` for a log."""
    table = search_table(report, every=False)
    drawn = to_text(table) if width is None else to_terminal(table, width)
    return "\n".join([drawn, "", *search_lines(report)])


def search_markdown(report: SearchReport) -> str:
    """All points as a page."""
    head = f"# Search for a smaller {report.model}\n"
    return (
        "\n".join([head, *(f"- {line}" for line in search_lines(report)), "", to_markdown(search_table(report))]) + "\n"
    )


def data_free_text(report: DataFreeReport) -> str:
    """What was made without data, a row for each file, and what nobody knows of it."""
    rows = []
    for entry in report.files:
        parity = (entry.parity or (None,))[0]
        error = None if parity is None else parity.relative_error
        moved = "not run" if error is None else f"{error:.2g} of the range, on {entry.parity_on}"
        size = entry.download_bytes[BASE_CODEC]
        rows.append((entry.path, str(entry.precision), format_bytes(size), f"{size / report.dense_bytes:.3f}x", moved))
    heads = ("file", "weights", "download", "of dense", "outputs differ by at most")
    lines = [to_text(Table(heads=heads, rows=tuple(rows), left=frozenset({0, 1, 4}))), ""]
    if report.channels is not None:
        gone = report.channels.parameters_before - report.channels.parameters_after
        lines.append(f"* {gone:,} parameters of dead channels are gone; outputs stay what they were.")
    lines += [f"* {line[0].upper()}{line[1:]}." for line in report.said]
    for name in [name for name, reached in report.reached.items() if not reached]:
        lines.append(f"* {name} is larger than the {format_bytes(report.download_bytes or 0)} that were asked for.")
    lines.append(
        "* Accuracy: not measured. Without samples nothing tells what coarser weights cost; look at it before you ship "
        "(edgeprune verify MODEL FILE --data TEST.npz), or give --train."
    )
    return "\n".join(lines)
