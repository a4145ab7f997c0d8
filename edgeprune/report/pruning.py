"""What pruning did to one model, in lines for a reader."""

from __future__ import annotations

from edgeprune.ledger import ChannelReport, LatencyReached, PruneReport
from edgeprune.report.table import Table, reason_lines, to_text
from edgeprune.units import format_count

__all__ = ["channel_lines", "zeros_lines"]


def zeros_lines(report: PruneReport, *, every: bool = False) -> list[str]:
    """Magnitude pruning, a line each; each layer with `every`."""
    lines = [f"sparsity: asked {report.asked:.2%}, got {report.got:.2%} of the weights of {len(report.layers)} kernels"]
    if every:
        rows = tuple(
            (i.layer, i.kind, f"{i.elements:,}", "global" if i.asked is None else f"{i.asked:.2%}", f"{i.got:.2%}")
            for i in report.layers
        )
        heads = ("layer", "type", "weights", "asked", "got")
        lines.append(to_text(Table(heads=heads, rows=rows, left=frozenset({0, 1}))))
    return lines + reason_lines("left dense", ((item.layer, item.reason) for item in report.skipped), every=every)


def channel_lines(report: ChannelReport, *, every: bool = False) -> list[str]:
    """Channel pruning, a line each; each layer with `every`."""
    lines = [
        f"asked {report.asked}; {report.got:.1%} of all channels removed",
        f"parameters {_change(report.parameters_before, report.parameters_after)}, "
        f"MACs {_change(report.macs_before, report.macs_after)}",
    ]
    if report.estimated_latency is not None:
        lines.append(_latency(report.estimated_latency))
    if every and report.removed:
        lines.append(_widths(report))
    lines += reason_lines("all channels kept", ((g.layer, g.reason) for g in report.skipped), every=every)
    if report.altered:
        lines.append(f"statistics changed with the channels, as asked for: {', '.join(report.altered)}")
    if report.verified is None:
        lines.append(f"surgery: {report.note}")
    else:
        lines.append(f"surgery checked on random inputs: largest relative error {report.verified:.1e}")
    return lines


def _latency(reached: LatencyReached) -> str:
    before, after = reached.before.total_ms, reached.after.total_ms
    return f"latency {before:.3g} -> {after:.3g} ms ({reached.ratio:.3f}x), {reached.after.how}"


def _widths(report: ChannelReport) -> str:
    rows = tuple(
        (i.layer, i.kind, f"{i.before:,}", "ranked" if i.asked is None else f"{i.asked:g}", f"{i.after:,}")
        for i in report.removed
    )
    heads = ("layer", "type", "channels", "asked to stay", "left")
    return to_text(Table(heads=heads, rows=rows, left=frozenset({0, 1})))


def _change(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return "not known (a size is open, or a layer is not followed)"
    return f"{format_count(before)} -> {format_count(after)} ({after / before:.3f}x)" if before else "0"
