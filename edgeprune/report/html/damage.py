"""Which step and which layer cost the metric: blame of a run, sensitivity of a model."""

from __future__ import annotations

from edgeprune.ledger import Blame, Undone
from edgeprune.points import Sensitivity
from edgeprune.report.blame_report import layers_table, steps_table
from edgeprune.report.html.bars import Bar, bars
from edgeprune.report.html.page import Picture
from edgeprune.report.sensitivity_report import decibels, sensitivity_table
from edgeprune.report.summary import difference_text
from edgeprune.report.table import Table
from edgeprune.units import format_percent

__all__ = ["blame_pictures", "sensitivity_pictures"]


def blame_pictures(blame: Blame) -> list[Picture]:
    """What comes back of the metric when one step, or one layer of a step, is undone."""
    caption = (
        f"Change of {blame.metric.name} when only this is undone, on {blame.samples:,} samples of {blame.data}, with "
        "the 95 % interval (paired bootstrap); grey where the interval holds 0."
    )
    found = [
        bars(
            [_undone(blame, row, row.step) for row in blame.steps],
            name="blame-steps",
            title="Who did the damage: steps",
            caption=caption,
            table=steps_table(blame),
            word=lambda value: _number(blame, value),
            value_pixels=112,
        )
    ]
    if blame.layers:
        rows = [_undone(blame, row, f"{row.layer} ({row.what})") for row in blame.layers]
        found.append(
            bars(
                rows,
                name="blame-layers",
                title="Who did the damage: layers",
                caption=f"{caption} Layers are made dense, or left in float.",
                table=layers_table(blame),
                word=lambda value: _number(blame, value),
                value_pixels=112,
            )
        )
    return found


def _number(blame: Blame, value: float) -> str:
    if not value:
        return "0"
    return f"{100 * value:+.3g}" if blame.metric.is_share else f"{value:+.3g}"


def _undone(blame: Blame, row: Undone, name: str) -> Bar:
    change = row.change
    if change is None:
        return Bar(name=name, value=None, words="not measured")
    gains = (change.difference > 0) is blame.metric.higher_is_better
    return Bar(
        name=name,
        value=change.difference,
        low=change.low,
        high=change.high,
        words=difference_text(blame.metric, change.difference),
        class_="mute" if change.is_noise or not change.difference else "second" if gains else "main",
    )


def sensitivity_pictures(found: Sensitivity) -> list[Picture]:
    """What each layer costs alone: decibels of the outputs, and the metric where it was scored."""
    table = sensitivity_table(found)
    rows = [Bar(name=cost.layer, value=cost.sqnr_db, words=decibels(cost.sqnr_db)) for cost in found.layers]
    noise = bars(
        rows,
        name="sensitivity",
        title=f"Sensitivity: only this layer as {found.how}",
        caption="Signal to noise ratio of the outputs before a softmax or sigmoid when only this layer is compressed "
        f"({found.how}), measured here; a short bar disturbs much. The worst layer first.",
        table=table,
        word=lambda value: f"{value:g} dB",
        value_pixels=70,
    )
    scored = found.metric is not None and any(cost.lost is not None for cost in found.layers)
    return [noise, _lost(found, table)] if scored else [noise]


def _lost(found: Sensitivity, table: Table) -> Picture:
    rows = [
        Bar(
            name=cost.layer,
            value=cost.lost,
            words="not measured" if cost.lost is None else format_percent(cost.lost, 2),
            class_="second",
        )
        for cost in found.layers
    ]
    return bars(
        rows,
        name="sensitivity-metric",
        title=f"Sensitivity: what {found.metric} loses",
        caption=f"Loss of {found.metric} when only this layer is compressed ({found.how}), on {found.samples:,} "
        "samples.",
        table=table,
        word=lambda value: format_percent(value, 1),
        value_pixels=84,
    )
