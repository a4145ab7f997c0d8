"""What each layer of a model costs, as a table."""

from __future__ import annotations

from edgeprune.points import Sensitivity
from edgeprune.report.table import Table, to_text
from edgeprune.units import format_percent

__all__ = ["decibels", "sensitivity_table", "sensitivity_text"]


def sensitivity_table(found: Sensitivity) -> Table:
    """A row for each layer, the one that disturbs the outputs most first."""
    metric = found.metric or "metric"
    heads = ("layer", "MACs", "only it: SQNR", metric, "loses", "all but it: SQNR", metric, "gains")
    rows = tuple(
        (
            cost.layer,
            _percent(cost.macs),
            decibels(cost.sqnr_db),
            _number(cost.metric),
            _percent(cost.lost),
            decibels(cost.without_db),
            _number(cost.without_metric),
            _percent(cost.gained),
        )
        for cost in found.layers
    )
    return Table(heads=heads, rows=rows, left=frozenset({0}))


def sensitivity_text(found: Sensitivity) -> str:
    """The table, and a line about all layers together."""
    scored = f", {found.metric} {_number(found.before)} -> {_number(found.after)}" if found.metric else ""
    on = f" on {found.samples:,} samples (one is {100 / found.samples:.2g} %)" if found.samples else ""
    lines = [to_text(sensitivity_table(found))]
    lines.append(f"\n{found.how} of all of them: SQNR {decibels(found.after_db)}{scored}{on}.")
    return "\n".join(lines)


def decibels(value: float | None) -> str:
    """ "12.5 dB"; a noise that is none has no number."""
    return "equal" if value is None else f"{value:.1f} dB"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else format_percent(value, 2)
