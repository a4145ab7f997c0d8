"""What pruning did to layers: channels before and after, sparsity asked and got."""

from __future__ import annotations

from edgeprune.ledger import ChannelReport, PruneReport, Stage
from edgeprune.report.html.bars import Bar, bars
from edgeprune.report.html.page import Picture, slug
from edgeprune.report.ledger_report import kernels_table, widths_table
from edgeprune.units import format_percent

__all__ = ["channels", "sparsity"]


def channels(stage: Stage, found: ChannelReport) -> Picture:
    """Channels of each layer that a stage made narrower."""
    rows = [
        Bar(name=width.layer, value=width.after, whole=width.before, words=f"{width.after:,} of {width.before:,}")
        for width in found.removed
    ]
    kept = f" Groups that keep all their channels: {len(found.skipped)}." if found.skipped else ""
    return bars(
        rows,
        name=f"channels-{slug(stage.name)}",
        title=f"Channels of stage {stage.name}",
        caption=f"Full: channels that are left; faint: those that were there before. Counted in the model.{kept}",
        table=widths_table(found),
        word=lambda value: f"{value:,.0f}",
    )


def sparsity(stage: Stage, found: PruneReport) -> Picture:
    """Zeros of each kernel that a stage pruned, beside what was asked for."""
    rows = [
        Bar(
            name=layer.layer,
            value=layer.got,
            asked=layer.asked,
            words=f"{format_percent(layer.got)}{', pattern broken' if layer.violations else ''}",
        )
        for layer in sorted(found.layers, key=lambda layer: -layer.elements)
    ]
    asked = found.pattern or format_percent(found.asked)
    return bars(
        rows,
        name=f"sparsity-{slug(stage.name)}",
        title=f"Sparsity of stage {stage.name}: asked {asked}, got {format_percent(found.got, 2)}",
        caption="Bar: share of the kernel's weights that are zero, counted in the model; mark: what was asked for. The "
        f"kernels with most weights first. Layers with weights that stayed dense: {len(found.skipped)}.",
        table=kernels_table(found),
        word=lambda value: format_percent(value, 0),
        high=1.0,
        value_pixels=136 if any(layer.violations for layer in found.layers) else 70,
    )
