"""A check as a line of the history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.artifact import sha256_of
from edgeprune.checker.history.records import CommitRecord
from edgeprune.checker.judge import entry_of
from edgeprune.host.git import GitCommit
from edgeprune.host.untrusted import read_whole

if TYPE_CHECKING:
    from edgeprune.checker.check import Check, Wanted
    from edgeprune.ledger import Ledger

__all__ = ["commit_record", "instruction_counter"]

Counter = Callable[[Path], Mapping[str, int]]


def commit_record(
    check: Check,
    commit: GitCommit,
    wanted: Sequence[Wanted],
    *,
    ledger: Path | None = None,
    count: Counter | None = None,
) -> CommitRecord:
    """What a check found at a commit; with the metrics that the ledgers of the budgets, or `ledger`, know of the very
    files, and with what `count` counts of each."""
    from importlib.metadata import version

    read = {account.path for account in check.files}  # the others lie in bundles, or could not be read
    files = [item for item in wanted if str(item.path) in read]
    metrics = {str(item.path): _metrics(item, ledger) for item in files}
    counts = {str(item.path): count(item.path) for item in files} if count else {}
    return CommitRecord(
        commit=commit,
        tool=version("edgeprune"),
        files=check.files,
        metrics={path: values for path, values in metrics.items() if values},
        instructions={path: values for path, values in counts.items() if values},
    )


def _metrics(item: Wanted, ledger: Path | None) -> dict[str, float]:
    places = [ledger, *(budget.ledger for budget in item.budgets)]
    known = dict.fromkeys(place for place in places if place is not None)
    return {name: value for place in known for name, value in _scores(place, item.path).items()}


def _scores(place: Path, file: Path) -> dict[str, float]:
    """The metrics of a file in a ledger, none where it is not the file that the run made."""
    from edgeprune.ledger import Ledger

    ledger: Ledger = Ledger.from_json(read_whole(place, "the ledger.json of a run"), str(place))
    entry = entry_of(ledger, str(file))
    if entry is None or sha256_of(file) != entry.sha256:
        return {}
    scores = {kind.name: entry.scored(kind.name) for kind in ledger.kinds}
    return {name: score.value for name, score in scores.items() if score is not None}


def instruction_counter(cpu: str) -> Counter:
    """Counts the Arm64 instructions of an inference of a .tflite file on the emulated cpu of that name; of others there
    is nothing to count. Raises UsageError for an unknown one, Unsupported where no Arm system is prepared."""
    from edgeprune.checker.arm.cpus import arm_root, find_cpu
    from edgeprune.checker.arm.emulation import count_instructions

    emulated, root = find_cpu(cpu), arm_root()

    def counted(path: Path) -> Mapping[str, int]:
        if path.suffix.lower() not in (".tflite", ".lite"):
            return {}
        return {cpu: count_instructions(path, cpu=emulated, root=root).instructions}

    return counted
