"""A history as it lies in a file: a line of JSON for each check of a commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.checker.size.baseline import Baseline
from edgeprune.checker.size.records import FileAccount
from edgeprune.host.git import GitCommit
from edgeprune.host.json_values import check_counts

__all__ = ["CommitRecord", "Damaged", "History"]

_MOST_METRIC = 1e15


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRecord:
    """What checks found at one commit, by edgeprune of the version `tool`.

    By path: `metrics` are the values of the file's metrics that a ledger tells, `instructions` the Arm64 instructions
    of an inference by emulated cpu. Which state of a profile made an estimate is its `basis`.
    """

    commit: GitCommit
    tool: str
    files: tuple[FileAccount, ...]
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    instructions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that nothing has."""
        for counts in self.instructions.values():
            check_counts(instructions=counts)
        for name, values in self.metrics.items():
            if not all(abs(value) < _MOST_METRIC for value in values.values()):
                raise ValueError(f"a metric of {name[:40]!r} is out of all bounds")

    def find(self, path: str) -> FileAccount | None:
        """The account of the file of that path, as `Baseline` finds it."""
        return Baseline(Path(self.commit.short), self.files).find(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged:
    """A line that is passed over, by its number from 1."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The commits in the file at `path`, each once, by date; what was damaged in it."""

    path: Path
    commits: tuple[CommitRecord, ...]
    damaged: tuple[Damaged, ...] = ()
