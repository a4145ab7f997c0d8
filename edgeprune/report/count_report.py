"""What bench --arm prints: counts of executed instructions, which are no time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeprune.checker.arm.emulation import CLASSES, CountComparison, InstructionCounts
from edgeprune.report.table import Table, to_text
from edgeprune.units import format_percent

__all__ = ["CountedFiles", "counts_json", "counts_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedFiles:
    """One file, or one and the other that it is compared with; `compared` is None where precisions differ."""

    cpu: str
    how: str
    files: tuple[Path, ...]
    precisions: tuple[str, ...]
    counts: tuple[InstructionCounts, ...]
    compared: CountComparison | None

    @property
    def against(self) -> Path | None:
        """The file that the first one is compared with."""
        return self.files[1] if len(self.files) > 1 else None


def counts_json(found: CountedFiles) -> dict[str, object]:
    """The counts for programs."""
    compared = found.compared
    return {
        "schema_version": 1,
        "path": str(found.files[0]),
        "against": str(found.against) if found.against else None,
        "cpu": found.cpu,
        "how": found.how,
        **(asdict(compared) if compared else dict.fromkeys(("ratio", "low", "high", "tolerance", "verdict"))),
        "files": [
            {"path": str(file), "precision": precision, **asdict(count)}
            for file, precision, count in zip(found.files, found.precisions, found.counts, strict=True)
        ],
    }


def counts_text(found: CountedFiles) -> str:
    """The counts by class, and the verdict."""
    table = _table(found.files, found.precisions, found.counts)
    return "\n".join([*table, *_verdict(found.against, found.precisions, found.compared), found.how])


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
