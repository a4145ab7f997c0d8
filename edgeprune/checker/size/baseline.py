"""What a check is compared with: a model file, a folder of them, an earlier JSON report, a history, or a ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from edgeprune.checker.history.since import HISTORY_SUFFIX
from edgeprune.checker.size.account import account
from edgeprune.checker.size.codecs import QUICK
from edgeprune.checker.size.models_behind import Estimator, is_bundle, no_estimates, sources_of
from edgeprune.checker.size.records import FileAccount
from edgeprune.errors import EdgepruneError, UsageError
from edgeprune.formats import read_contents
from edgeprune.formats.bundles import BUNDLES
from edgeprune.host.json_values import decode, record_of
from edgeprune.host.untrusted import faults_of, is_folder, read_whole

if TYPE_CHECKING:  # loaded where there is one
    from edgeprune.checker.history.past import Past
    from edgeprune.host.git import GitCommit
    from edgeprune.ledger import ArtifactEntry, Ledger

__all__ = ["Baseline", "entry_record", "history_baseline", "load_baseline"]


class Baseline:
    """Records of earlier files, to be looked up by path; `faults` are those that cannot be read, by what is checked.
    Of a history, `past` is what growth over commits is held against."""

    def __init__(
        self,
        path: Path,
        records: Sequence[FileAccount],
        *,
        only: bool = False,
        faults: Mapping[str, EdgepruneError] | None = None,
        past: Past | None = None,
    ) -> None:
        self.path, self.records, self.only, self.faults = path, tuple(records), only, faults or {}
        self.past = past

    def find(self, path: str) -> FileAccount | None:
        """The record of `path`: of that very path, else of the one file whose path ends like it, at least by name. Of a
        history, that of the nearest commit before which has one."""
        if self.past is not None:
            return self.past.earlier(path).account
        if self.only and len(self.records) == 1:
            return self.records[0]
        exact = [record for record in self.records if record.path == path]
        if exact:
            return exact[0]
        wanted = _parts(path)
        scored = [(_common_tail(_parts(record.path), wanted), record) for record in self.records]
        best = max((score for score, _ in scored), default=0)
        found = [record for score, record in scored if score == best and score]
        return found[0] if len(found) == 1 else None


def _parts(path: str) -> Sequence[str]:
    """The parts of a path; of a model in an app bundle those of the bundle and of its place in it."""
    outer, inner = next(
        ((path[: n + len(end)], path[n + len(end) + 1 :]) for end in BUNDLES if (n := path.find(f"{end}!")) > 0),
        ("", path),
    )
    return [*_plain_parts(outer), *_plain_parts(inner)]


def _plain_parts(path: str) -> Sequence[str]:
    return PurePosixPath(path.replace("\\", "/")).parts


def _common_tail(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count


def load_baseline(
    path: Path,
    checked: Sequence[str],
    codecs: Sequence[str] = QUICK,
    *,
    estimator: Estimator = no_estimates,
    tags: Iterable[str] = (),
) -> Baseline:
    """The baseline at `path` for the files `checked`; `estimator` as for `sources_of`, a report has its own estimates.

    Of a history (.jsonl) it is the commit before the one that is checked out, and `tags` are those that growth is
    counted from. A model file or package stands for the one file that is checked; of another folder, the files with the
    paths (or names) of those that are checked are taken, and one that cannot be read is among its faults. Else raises
    InputError for what cannot be read, UsageError when one file is given for several.
    """
    if path.suffix.lower() == ".json":
        return Baseline(path, _from_json(path))
    if path.suffix.lower() == HISTORY_SUFFIX:
        from edgeprune.host.git import commit_here

        return history_baseline(path, commit_here(Path.cwd()), tags)
    if is_folder(path) and path.suffix.lower() not in (".mlpackage", ".mlmodelc"):
        return _in_folder(path, checked, codecs, estimator)
    if is_bundle(path):
        records = [source.record for source in sources_of(path, codecs, estimator=estimator).models]
        return Baseline(path, records, only=len(checked) == len(records) == 1)
    if len(checked) > 1:
        raise UsageError(
            f"{path}: one file is no baseline for {len(checked)}; give a folder, or the JSON of an earlier check"
        )
    with faults_of(path):
        contents = read_contents(path)
        return Baseline(path, [account(contents, codecs, estimates=estimator(contents))], only=True)


def _in_folder(folder: Path, checked: Sequence[str], codecs: Sequence[str], estimator: Estimator) -> Baseline:
    """The earlier files by the names of those that are checked; of a bundle ("app.apk!model"), every model in it."""
    records: list[FileAccount] = []
    faults: dict[str, EdgepruneError] = {}
    for name in dict.fromkeys(name.split("!", maxsplit=1)[0] for name in checked):
        place = _place_in(folder, name)
        if place is None:
            continue
        try:
            models = sources_of(place, codecs, estimator=estimator).models
        except EdgepruneError as cause:
            faults[name] = cause
            continue
        for source in models:
            records.append(replace(source.record, path=name + source.record.path.removeprefix(str(place))))
    return Baseline(folder, records, faults=faults)


def _place_in(folder: Path, name: str) -> Path | None:
    parts = [part for part in Path(name).parts if part not in ("..", "/")]
    for start in range(len(parts)):
        place = folder.joinpath(*parts[start:])
        if place.exists():
            return place
    return None


def history_baseline(
    path: Path, commit: GitCommit | None, tags: Iterable[str] = (), *, may_be_new: bool = False
) -> Baseline:
    """What came before a commit in the history at `path`, as `load_past` reads it."""
    from edgeprune.checker.history.past import load_past

    past = load_past(path, commit, tags, may_be_new=may_be_new)
    return Baseline(path, past.commits[0].files if past.commits else (), past=past)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    """What a baseline needs of the JSON of a check."""

    files: tuple[FileAccount, ...]


def _from_json(path: Path) -> Sequence[FileAccount]:
    told = read_whole(path, "a JSON report of an earlier check")
    raw = decode(told, str(path))
    if isinstance(raw, Mapping) and "stages" in raw:
        from edgeprune.ledger import Ledger

        return _from_ledger(Ledger.from_json(raw, str(path)))
    what = f"{path} is neither a ledger.json nor the report of 'edgeprune check --format json', make it again"
    return record_of(_Report, raw, what).files


def _from_ledger(ledger: Ledger) -> list[FileAccount]:
    """The exported files of a run, and the others where none was exported."""
    entries = [entry for stage in ledger.stages for entry in stage.artifacts]
    exported = [entry for entry in entries if entry.exported]
    return [entry_record(entry) for entry in exported or entries]


def entry_record(entry: ArtifactEntry) -> FileAccount:
    """What a ledger knows of a file, which has no layers there."""
    return FileAccount(
        path=entry.path,
        format=entry.format,
        complete=False,
        note="",
        raw_bytes=entry.raw_bytes,
        sections={},
        training_bytes=0,
        download_bytes=entry.download_bytes,
        bound_bytes=None,
        parameters=entry.parameters,
        weights=None,
        zeros=None,
        sparsity=entry.sparsity,
        macs=entry.macs,
        estimates=entry.estimates,
    )
