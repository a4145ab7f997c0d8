"""What pruning did to one model, in lines for a reader."""

from __future__ import annotations

from edgeprune.ledger import ChannelOrder, ChannelReport, EqualizeReport, HarmlessReport, LatencyReached, PruneReport
from edgeprune.report.table import Table, reason_lines, to_text
from edgeprune.units import format_count

__all__ = ["channel_lines", "equalized_line", "pattern_kept", "zeros_lines"]


def zeros_lines(report: PruneReport, *, every: bool = False) -> list[str]:
    """Magnitude pruning, a line each; each layer with `every`."""
    asked = f"{report.pattern} ({report.asked:.2%})" if report.pattern else f"{report.asked:.2%}"
    lines = [f"sparsity: asked {asked}, got {report.got:.2%} of the weights of {len(report.layers)} kernels"]
    if report.pattern:
        lines.append(pattern_kept(report))
    if report.reordering:
        lines.append(_reordering(report.reordering))
    if report.padded:
        names = ", ".join(report.padded[:4]) + (", ..." if len(report.padded) > 4 else "")
        lines.append(f"padding: {len(report.padded)} layers padded anew for sparse kernels ({names}): fine-tune")
    if every:
        lines.append(_kernels(report))
    return lines + reason_lines("left dense", ((item.layer, item.reason) for item in report.skipped), every=every)


def pattern_kept(report: PruneReport) -> str:
    """How the kernels keep the pattern that was asked for, counted."""
    broken = [row for row in report.layers if row.violations]
    if not broken:
        return f"pattern: every group of inputs keeps {report.pattern} in all {len(report.layers)} kernels"
    groups = sum(row.violations or 0 for row in broken)
    return f"pattern: {groups:,} groups of inputs break {report.pattern}, in {', '.join(row.key for row in broken[:4])}"


def _reordering(order: ChannelOrder) -> str:
    gain = order.kept_after / order.kept_before - 1 if order.kept_before else 0.0
    checked = order.note if order.verified is None else f"outputs checked on random inputs to {order.verified:.0e}"
    return (
        f"channels: {order.groups} groups reordered, the pattern keeps {order.kept_after:.2%} of the {order.score}, "
        f"{order.kept_before:.2%} before ({gain:+.1%}); {checked}"
    )


def _kernels(report: PruneReport) -> str:
    asked = report.pattern
    rows = tuple(
        (
            i.layer,
            i.kind,
            f"{i.elements:,}",
            asked or ("global" if i.asked is None else f"{i.asked:.2%}"),
            f"{i.got:.2%}",
        )
        for i in report.layers
    )
    heads = ("layer", "type", "weights", "asked", "got")
    return to_text(Table(heads=heads, rows=rows, left=frozenset({0, 1})))


def channel_lines(report: ChannelReport, *, every: bool = False) -> list[str]:
    """Channel pruning, a line each; each layer with `every`."""
    lines = [
        f"asked {report.asked}; {report.got:.1%} of all channels removed",
        f"parameters {_change(report.parameters_before, report.parameters_after)}, "
        f"MACs {_change(report.macs_before, report.macs_after)}",
    ]
    if report.estimated_latency is not None:
        lines.append(_latency(report.estimated_latency))
    if report.harmless is not None:
        lines.append(_harmless(report.harmless))
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


def equalized_line(report: EqualizeReport) -> str:
    """What equalization did."""
    return (
        f"{report.channels:,} channels of {report.layers} layers; the largest kernel {report.spread_after:.1f} times "
        f"the median of its layer, {report.spread_before:.1f} times before; {report.still:,} channels that do not "
        f"vary became constants, {report.flattened:,} that reach the cap of their activation less steep"
    )


def _harmless(found: HarmlessReport) -> str:
    return (
        f"outputs change by at most {found.checked_error:.1e} of their range on {found.checked:,} samples that were "
        f"not looked at ({found.looked_at_error:.1e} on the {found.looked_at:,} that were; allowed {found.tolerance:g})"
    )


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
