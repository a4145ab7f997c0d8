"""The layers of model files as tables, JSON, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence

from edgeprune.checker.size.records import FileAccount, LayerAccount
from edgeprune.report.cells import layer_name, markdown_cell, markdown_text, shown, word
from edgeprune.report.check_report import SCHEMA_VERSION
from edgeprune.report.table import Table, to_markdown, to_text
from edgeprune.units import format_bytes, format_count, format_percent

__all__ = ["INSPECT_FORMATS", "layers_table"]

HEADS = (
    "layer",
    "op",
    "output",
    "precision",
    "parameters",
    "zeros",
    "MACs",
    "bytes",
    "deflated",
    "ideal",
    "bits/weight",
)


def _layer_row(layer: LayerAccount, cell: Callable[[str], str]) -> tuple[str, ...]:
    bits = layer.bits_per_weight
    return (
        cell(layer_name(layer)),
        word(layer.kind, cell),
        "x".join(map(str, layer.shape)) if layer.shape is not None else "-",
        word(layer.precision, cell),
        f"{layer.parameters:,}" if layer.parameters else "-",
        format_percent(layer.sparsity) if layer.sparsity is not None else "-",
        ("-" if layer.macs == 0 else format_count(layer.macs)) if layer.macs is not None else "unknown",
        format_bytes(layer.raw_bytes) if layer.raw_bytes else "-",
        format_bytes(layer.deflate_bytes) if layer.deflate_bytes else "-",
        format_bytes(layer.bound_bytes) if layer.bound_bytes else "-",
        f"{bits:.2f}" if bits is not None else "-",
    )


def _rest_row(record: FileAccount) -> tuple[str, ...]:
    """What is in the file beside the arrays of layers."""
    others = {name: count for name, count in record.sections.items() if name != "weights" and count}
    told = ", ".join(f"{name} {format_bytes(count)}" for name, count in others.items())
    return (f"(not weights: {told})", *["-"] * 6, format_bytes(sum(others.values())), *["-"] * 3)


def _total_row(record: FileAccount) -> tuple[str, ...]:
    return (
        "total",
        word(record.format, shown),
        "-",
        "-",
        f"{record.parameters:,}" if record.parameters is not None else "not read",
        format_percent(record.sparsity) if record.sparsity is not None else "-",
        format_count(record.macs) if record.macs is not None else "unknown",
        format_bytes(record.raw_bytes),
        format_bytes(record.download_bytes["deflate"]),
        format_bytes(record.bound_bytes) if record.bound_bytes is not None else "-",
        "-",
    )


def layers_table(record: FileAccount, cell: Callable[[str], str] = shown) -> Table:
    """A row for each layer, what is beside them, and the whole; `cell` writes a name."""
    rest, total = _rest_row(record), _total_row(record)
    cells = (*(_layer_row(layer, cell) for layer in record.layers), (cell(rest[0]), *rest[1:]), total)
    return Table(heads=HEADS, rows=cells, left=frozenset({0, 1, 2, 3}))


def _text(records: Sequence[FileAccount]) -> str:
    parts = []
    for record in records:
        note = f"note: {shown(record.note)}\n" if record.note else ""
        parts.append(f"{shown(record.path)}\n{to_text(layers_table(record, shown))}\n{note}")
    return "\n".join(parts)


def _markdown(records: Sequence[FileAccount]) -> str:
    parts = []
    for record in records:
        note = f"\n{markdown_text(record.note)}\n" if record.note else ""
        parts.append(f"### {markdown_cell(record.path)}\n\n{to_markdown(layers_table(record, markdown_cell))}\n{note}")
    return "\n".join(parts)


def _json(records: Sequence[FileAccount]) -> str:
    body = {"schema_version": SCHEMA_VERSION, "files": [record.to_json() for record in records]}
    return json.dumps(body, indent=1, allow_nan=False) + "\n"


def _csv(records: Sequence[FileAccount]) -> str:
    """Plain numbers, one line for each layer; unknown is empty."""
    text = io.StringIO()
    names = ["name", "kind", "group", "shape", "precision", "parameters", "weights", "zeros", "macs"]
    names += ["raw_bytes", "deflate_bytes", "bound_bytes", "bits_per_weight"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *names])
    for record in records:
        for layer in record.layers:
            writer.writerow([_plain(record.path), *(_plain(getattr(layer, name)) for name in names)])
    return text.getvalue()


def _plain(value: object) -> object:
    if isinstance(value, str):
        text = shown(value)
        return f"'{text}" if text[:1] in ("=", "+", "@", "-") else text  # a spreadsheet would run it as a formula
    return "x".join(map(str, value)) if isinstance(value, tuple) else value


INSPECT_FORMATS: Mapping[str, Callable[[Sequence[FileAccount]], str]] = {
    "text": _text,
    "json": _json,
    "markdown": _markdown,
    "csv": _csv,
}
