"""Latencies estimated for devices, in the report of a check: never beside a measurement, always with a band."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeprune.checker.size.records import FileAccount
from edgeprune.report.table import Table
from edgeprune.units import format_ms
from edgeprune.verdict import Estimate

__all__ = ["earlier_ms", "estimate_notes", "estimate_table"]


def estimate_table(records: Sequence[FileAccount], cell: Callable[[str], str]) -> Table | None:
    """A row for each file and device; None where nothing was asked to be estimated."""
    rows = [(cell(record.path), cell(found.device), *_times(found)) for record in records for found in record.estimates]
    heads = ("file", "latency estimated for", "estimate", "from", "to")
    return Table(heads=heads, rows=tuple(rows), left=frozenset({0, 1})) if rows else None


def _times(found: Estimate) -> tuple[str, str, str]:
    if found.total_ms is None or found.low_ms is None or found.high_ms is None:
        # A profile that only ranks gives the part of a well-known network's time.
        return f"{found.relative:.3g} x MobileNetV2" if found.relative is not None else "not estimated", "-", "-"
    return format_ms(found.total_ms), format_ms(found.low_ms), format_ms(found.high_ms)


def estimate_notes(records: Sequence[FileAccount]) -> list[str]:
    """How each estimate was obtained, once, and why there is none."""
    estimates = [(record.path, found) for record in records for found in record.estimates]
    given = [found for _, found in estimates if found.given]
    made = dict.fromkeys(
        f"{found.device}: {found.how}"
        + (f" ({found.refused}; in times of MobileNetV2 1.0 224)" if found.refused else "")
        for found in given
    )
    refused = [
        f"{path}: not estimated for {found.device}: {found.refused}" for path, found in estimates if not found.given
    ]
    return [*made, *refused]


def earlier_ms(device: str, record: FileAccount, before: FileAccount) -> float | None:
    """The baseline's estimate for a device, None where it cannot be compared with the file's."""
    new = next((found for found in record.estimates if found.device == device), None)
    old = before.estimate(device, new.basis) if new else None
    return old.total_ms if new and old and old.basis == new.basis else None
