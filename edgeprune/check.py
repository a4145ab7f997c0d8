"""The checker's verb: sizes, zeros and MACs of model files, and a download limit. Light imports only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgeprune.report.table import Table, to_text
from edgeprune.size.accounting import SizeReport, measure_size
from edgeprune.units import format_bytes, format_count, format_percent, parse_bytes

__all__ = ["check_verb"]

HEADS = ("file", "install", "deflate", "brotli", "zstd", "weights", "zeros", "MACs")


def check_verb(files: Sequence[Path], *, limit: str | None, codec: str, as_json: bool) -> int:
    """Print the accounts of `files`; 1 when a download is above the limit, else 0."""
    limit_bytes = parse_bytes(limit) if limit is not None else None
    reports = [measure_size(path) for path in files]
    verdicts = [_verdict(report, codec, limit_bytes) for report in reports] if limit_bytes is not None else []
    if as_json:
        body = {"schema_version": 1, "files": [_facts(r) for r in reports], "verdicts": verdicts}
        click.echo(json.dumps(body, indent=2))
    else:
        click.echo(to_text(Table(heads=HEADS, rows=tuple(_row(r) for r in reports))))
        for verdict in verdicts:
            word = "ok" if verdict["passed"] else f"OVER by {format_bytes(verdict['actual'] - verdict['limit'])}"
            click.echo(
                f"{verdict['path']}: download {format_bytes(verdict['actual'])} ({codec}), "
                f"limit {format_bytes(verdict['limit'])}: {word}"
            )
    return 0 if all(verdict["passed"] for verdict in verdicts) else 1


def _verdict(report: SizeReport, codec: str, limit: int) -> dict[str, Any]:
    actual = report.download_bytes[codec]
    return {
        "check": f"download ({codec})",
        "path": str(report.path),
        "actual": actual,
        "limit": limit,
        "unit": "bytes",
        "passed": actual <= limit,
    }


def _facts(report: SizeReport) -> dict[str, Any]:
    graph = report.graph
    return {
        "path": str(report.path),
        "format": "tflite" if graph else report.path.suffix.lstrip(".") or None,
        "raw_bytes": report.raw_bytes,
        "download_bytes": dict(report.download_bytes),
        "parameters": graph.parameters if graph else None,
        "weights": graph.weight_elements if graph else None,
        "zeros": graph.weight_zeros if graph else None,
        "sparsity": graph.sparsity if graph else None,
        "macs": graph.macs if graph else None,
    }


def _row(report: SizeReport) -> tuple[str, ...]:
    graph = report.graph
    unread = "not read"
    return (
        str(report.path),
        format_bytes(report.raw_bytes),
        *(format_bytes(report.download_bytes[codec]) for codec in ("deflate", "brotli", "zstd")),
        f"{graph.weight_elements:,}" if graph else unread,
        (format_percent(graph.sparsity) if graph.sparsity is not None else "no weights") if graph else unread,
        format_count(graph.macs) if graph else unread,
    )
