"""Latency of what ships on devices: estimates with their bands, never beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.report.html.bars import Bar, bars
from edgeprune.report.html.page import Picture
from edgeprune.report.table import Table
from edgeprune.units import format_ms
from edgeprune.verdict import Estimate

__all__ = ["devices"]


def devices(found: Sequence[tuple[str, Estimate]]) -> Picture:
    """(file, estimate) for every file and device."""
    rows = [_bar(file, estimate) for file, estimate in found]
    cells = tuple(
        (
            estimate.device,
            file,
            "none" if estimate.total_ms is None else format_ms(estimate.total_ms),
            _band(estimate) or (estimate.refused or "-"),
            "-" if estimate.relative is None else f"{estimate.relative:.3g}",
            estimate.how,
        )
        for file, estimate in found
    )
    heads = ("device", "file", "estimate", "band", "of MobileNetV2 1.0 224", "how")
    how = "; ".join(dict.fromkeys(estimate.how for _, estimate in found if estimate.given))
    return bars(
        rows,
        name="devices",
        title="Estimated latency on devices",
        caption=f"Estimates from device profiles, not measurements; the line is the band of an estimate. {how}",
        table=Table(heads=heads, rows=cells, left=frozenset({0, 1, 3, 5})),
        word=lambda value: f"{value:g} ms",
        value_pixels=132,
    )


def _bar(file: str, estimate: Estimate) -> Bar:
    name = f"{estimate.device}, {file}"
    if estimate.total_ms is None:
        return Bar(name=name, value=None, words="no estimate")
    words = f"{format_ms(estimate.total_ms)} ({_band(estimate)})"
    return Bar(name=name, value=estimate.total_ms, low=estimate.low_ms, high=estimate.high_ms, words=words, is_dot=True)


def _band(estimate: Estimate) -> str:
    if estimate.low_ms is None or estimate.high_ms is None:
        return ""
    return f"{estimate.low_ms:.3g} to {estimate.high_ms:.3g}"
