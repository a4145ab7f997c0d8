"""`edgeprune bench --arm`: executed Arm64 instructions, counted in emulation. Light imports only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from edgeprune.checker.arm.cpus import arm_root, find_cpu
from edgeprune.checker.arm.emulation import (
    CLASSES,
    CountComparison,
    InstructionCounts,
    compare_counts,
    count_instructions,
)
from edgeprune.formats import read_graph
from edgeprune.formats.precision import tflite_precision
from edgeprune.host.progress import Progress
from edgeprune.report.table import Table, to_text
from edgeprune.units import format_percent

__all__ = ["arm_verb"]


def arm_verb(path: Path, *, cpu: str, against: Path | None, timeout_s: float, as_json: bool, quiet: bool) -> int:
    """Always 0: a count that cannot be had is an error."""
    emulated = find_cpu(cpu)
    root = arm_root()
    files = [path] if against is None else [path, against]
    precisions = [tflite_precision(read_graph(file)) for file in files]
    progress = Progress(quiet=quiet)
    progress.begin(f"count instructions on an emulated {cpu}")
    counts = []
    for file in files:
        counts.append(count_instructions(file, cpu=emulated, root=root, timeout_s=timeout_s))
        progress.advance(len(counts), len(files))
    progress.end()
    how = f"executed Arm64 instructions in emulation, cpu {cpu}, LiteRT {root.litert_version}: counts, not time"
    ranked = len(set(precisions)) == 1
    compared = compare_counts(counts[1], counts[0]) if len(counts) == 2 and ranked else None
    if as_json:
        body = {
            "schema_version": 1,
            "path": str(path),
            "against": str(against) if against else None,
            "cpu": cpu,
            "how": how,
            **(asdict(compared) if compared else dict.fromkeys(("ratio", "low", "high", "tolerance", "verdict"))),
            "files": [
                {"path": str(file), "precision": precision, **asdict(count)}
                for file, precision, count in zip(files, precisions, counts, strict=True)
            ],
        }
        click.echo(json.dumps(body, indent=2, allow_nan=False))
    else:
        click.echo("\n".join([*_table(files, precisions, counts), *_verdict(against, precisions, compared), how]))
    return 0


def _table(files: Sequence[Path], precisions: Sequence[str], counts: Sequence[InstructionCounts]) -> list[str]:
    shown = [name for name in CLASSES if any(count.by_class[name] for count in counts)]
    heads = ("millions per inference", *(str(file) for file in files))
    rows = [("precision", *precisions), ("instructions", *(_millions(count.instructions) for count in counts))]
    rows += [(f"  {name}", *(_millions(count.by_class[name]) for count in counts)) for name in shown]
    rows.append(("spread", *(format_percent(count.spread, 4) for count in counts)))
    return [to_text(Table(heads=heads, rows=tuple(rows), left=frozenset({0})))]


def _millions(count: int) -> str:
    return f"{count / 1e6:.4f}"


def _verdict(against: Path | None, precisions: Sequence[str], compared: CountComparison | None) -> list[str]:
    if against is None:
        return []
    if compared is None:
        return [f"no verdict: instructions of {precisions[0]} and {precisions[1]} differ in cost and are not compared"]
    return [f"{compared.verdict}: {compared.ratio:.5f} of {against} (unchanged means within {compared.tolerance:.5f})"]
