"""The work of `edgeprune check`: model files with their budgets, what they cost, and how each limit fares."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.checker.budget import Budget
from edgeprune.checker.config import Config, matches
from edgeprune.checker.judge import budget_verdicts, unread_verdicts
from edgeprune.checker.size.advice import reasons
from edgeprune.checker.size.baseline import Baseline, history_baseline, load_baseline
from edgeprune.checker.size.codecs import FULL, QUICK
from edgeprune.checker.size.layer_pairs import changed_pairs, layer_pairs
from edgeprune.checker.size.models_behind import Estimator, Refused, Source, Sources, no_estimates, sources_of
from edgeprune.checker.size.records import FileAccount
from edgeprune.errors import EdgepruneError, InputError, RecipeError, UsageError
from edgeprune.formats import Contents
from edgeprune.host.toml_values import near
from edgeprune.host.untrusted import faults_of, real_place, status_of
from edgeprune.verdict import Estimate, Verdict, all_passed

if TYPE_CHECKING:  # loaded where there is a history
    from edgeprune.checker.history.past import Past
    from edgeprune.host.git import GitCommit

__all__ = ["Check", "CheckOptions", "Wanted", "check_files", "estimator_for", "wanted_files"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A file to check and the budgets that it is held against."""

    path: Path
    budgets: tuple[Budget, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What to look at: `baseline` is what growth is against, or else what came before `commit` in `history`, which may
    be a file that is not there yet. `codec` is the download that a comparison tells where no limit is of another;
    `fast` measures the quick codecs only. Latency is estimated for `devices`, and for those of the budgets. `why` says
    where the bytes are."""

    baseline: Path | None = None
    history: Path | None = None
    commit: GitCommit | None = None
    codec: str = "deflate"
    fast: bool = False
    devices: tuple[str, ...] = ()
    why: bool = False

    @property
    def codecs(self) -> tuple[str, ...]:
        """The names of those to measure."""
        return QUICK if self.fast else FULL


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was checked: `before` holds the baseline's record of a file by its path; `notes` are sentences.

    `gone` are files of the baseline that are no longer there. `broken` is why a file could not be read, of several the
    one with the highest exit code.
    """

    files: tuple[FileAccount, ...]
    verdicts: tuple[Verdict, ...]
    before: Mapping[str, FileAccount]
    baseline: str | None
    config: str | None
    codec: str
    notes: tuple[str, ...]
    why: Mapping[str, Sequence[str]]
    gone: tuple[str, ...] = ()
    broken: EdgepruneError | None = None

    @property
    def passed(self) -> bool | None:
        """False when a limit is exceeded, else None when one could not be checked, else True."""
        return all_passed(self.verdicts)

    @property
    def unchanged(self) -> bool:
        """Whether every file is known to be as it was: in size, in each download, and layer by layer."""
        same = all(_same(self.before.get(record.path), record) for record in self.files)
        return same and bool(self.files) and self.broken is None and not self.gone


def _same(before: FileAccount | None, record: FileAccount) -> bool:
    if before is None or before.raw_bytes != record.raw_bytes or before.parameters != record.parameters:
        return False
    codecs = before.download_bytes.keys() & record.download_bytes.keys()
    return all(before.download_bytes[name] == record.download_bytes[name] for name in codecs) and not (
        before.layers and record.layers and changed_pairs(layer_pairs(before.layers, record.layers))
    )


def wanted_files(files: Sequence[Path], settings: Config | None, given: Budget | None) -> list[Wanted]:
    """The files with their budgets: those of the configuration where none is named, `given` for each.

    Raises UsageError or RecipeError when nothing would be checked that should be.
    """
    extra = (given,) if given else ()
    if settings is None:
        return [Wanted(path=path, budgets=extra) for path in files]
    by_path: dict[Path, tuple[Path, list[Budget]]] = {}  # by where it really is: how it was found, its budgets
    for budget in settings.budgets:
        for path in matches(settings, budget) if not files else settings.path.parent.glob(budget.path):
            by_path.setdefault(real_place(path), (path, []))[1].append(budget)
    if not files:
        return [Wanted(path=_from_here(path), budgets=(*budgets, *extra)) for path, budgets in by_path.values()]
    none: tuple[Path, list[Budget]] = (Path(), [])
    items = [Wanted(path=path, budgets=(*by_path.get(real_place(path), none)[1], *extra)) for path in files]
    if not any(item.budgets for item in items):
        for path in files:
            status_of(path)  # a missing file has no budget either
        paths = [budget.path for budget in settings.budgets]
        raise RecipeError(
            f"{settings.path}: no budget is for {files[0]}{' or the others' if len(files) > 1 else ''}"
            f"{near(str(files[0]), paths) or '; its paths are ' + ', '.join(paths)}; add one, or give --download"
        )
    return items


def _from_here(path: Path) -> Path:
    """The path as it is typed here, where it lies below this folder."""
    whole, here = Path(os.path.abspath(path)), Path.cwd()  # noqa: PTH100 - resolve() would follow links
    return whole.relative_to(here) if whole.is_relative_to(here) else path


def check_files(
    wanted: Sequence[Wanted], options: CheckOptions, *, config: Path | None = None, whole: bool = False
) -> Check:
    """Read the files and hold each against its budgets; `config`, where these came from, is told in the report.

    `whole`: these are all files there are, so those of the baseline that are missing are told. What cannot be read is
    raised, but among several told beside the others, and left in `broken`.
    """
    _refuse_slow_codecs(wanted, options)
    limited = [device for item in wanted for budget in item.budgets for device in budget.devices]
    estimator = estimator_for([*options.devices, *limited])
    found = list(_read(wanted, options, estimator))
    sources = [(item, source) for item, behind in found for source in behind.models]
    records = [source.record for _, source in sources]
    broken = {str(item.path): behind.error for item, behind in found if behind.error}
    earlier, past = _earlier(wanted, records, options, estimator)
    before = _before(records, earlier)
    gone = tuple(_gone(earlier, before, broken, whole))
    lost = earlier.faults.values() if earlier else ()
    why, faults = _why([source for _, source in sources]) if options.why else ({}, ())
    return Check(
        files=tuple(records),
        verdicts=tuple(_verdicts(found, before, past)),
        before=before,
        baseline=str(earlier.path) if earlier else None,
        config=str(config) if config else None,
        codec=options.codec,
        notes=(*_notes(found, before, earlier, past), *(_farewell(path, earlier) for path in gone)),
        why=why,
        gone=gone,
        broken=max((*broken.values(), *lost, *faults), key=lambda error: error.exit_code, default=None),
    )


def _earlier(
    wanted: Sequence[Wanted], records: Sequence[FileAccount], options: CheckOptions, estimator: Estimator
) -> tuple[Baseline | None, Past | None]:
    """What the files are compared with, and the commits that growth is counted over."""
    since = [budget.growth_since for item in wanted for budget in item.budgets]
    tags = [item.tag for item in since if item is not None and item.tag is not None]
    history = earlier = None
    if options.history is not None:
        earlier = history = history_baseline(options.history, options.commit, tags, may_be_new=True)
    if options.baseline is not None:
        names = [record.path for record in records]
        earlier = load_baseline(options.baseline, names, options.codecs, estimator=estimator, tags=tags)
    counted = history or earlier
    return earlier, counted.past if counted else None


def _why(sources: Sequence[Source]) -> tuple[dict[str, Sequence[str]], list[EdgepruneError]]:
    """Where the bytes of each file are, and what went wrong with a file in saying so."""
    told: dict[str, Sequence[str]] = {}
    faults: list[EdgepruneError] = []
    for source in sources:
        path = source.record.path
        try:
            with faults_of(path):
                told[path] = reasons(source.contents, source.record)
        except EdgepruneError as cause:
            told[path] = [str(cause).removeprefix(f"{path}: ")]
            faults.append(cause)
    return told, faults


def _refuse_slow_codecs(wanted: Sequence[Wanted], options: CheckOptions) -> None:
    for budget in (budget for item in wanted for budget in item.budgets):
        if budget.codec not in options.codecs:
            raise UsageError(f"[{budget.where}] limits {budget.codec}, which --fast does not measure; drop --fast")


def _read(wanted: Sequence[Wanted], options: CheckOptions, estimator: Estimator) -> Iterator[tuple[Wanted, Sources]]:
    """The models behind each path."""
    for item in wanted:
        try:
            shares = options.why or not options.fast  # a quick look does without
            yield item, sources_of(item.path, options.codecs, shares=shares, estimator=estimator)
        except EdgepruneError as cause:
            if len(wanted) == 1 or isinstance(cause, UsageError):
                raise
            refused = Refused(path=str(item.path), reason=str(cause).removeprefix(f"{item.path}: "))
            yield item, Sources(models=(), refused=(refused,), error=cause)


def estimator_for(devices: Sequence[str]) -> Estimator:
    """Estimates a file for each device once. Raises UsageError for an unknown one, InputError for a broken profile."""
    if not devices:
        return no_estimates
    from edgeprune.checker.latency.estimate import basis_of, estimate_latency, refused_estimate
    from edgeprune.checker.latency.profiles import Profile, find_profile

    found = {(profile.name, basis_of(profile)): profile for profile in map(find_profile, devices)}

    def estimated(contents: Contents, profile: Profile) -> Estimate:
        try:
            return estimate_latency(contents, profile)
        except InputError as cause:  # broken where the sizes do not look
            return refused_estimate(contents.path, profile, cause)

    return lambda contents: tuple(estimated(contents, profile) for profile in found.values())


def _before(records: Sequence[FileAccount], earlier: Baseline | None) -> dict[str, FileAccount]:
    found = {record.path: earlier.find(record.path) for record in records} if earlier else {}
    return {path: record for path, record in found.items() if record is not None}


def _verdicts(
    found: Sequence[tuple[Wanted, Sources]], before: Mapping[str, FileAccount], past: Past | None
) -> Iterator[Verdict]:
    for item, behind in found:
        for source in behind.models:
            record = source.record
            earlier = before.get(record.path)
            yield from budget_verdicts(
                record, item.budgets, earlier, past=past, file=source.file, contents=source.contents
            )
    for item, behind in found:
        for refused in behind.refused:
            yield from unread_verdicts(refused.path, item.budgets, refused.reason)


def _notes(
    found: Sequence[tuple[Wanted, Sources]],
    before: Mapping[str, FileAccount],
    earlier: Baseline | None,
    past: Past | None,
) -> Iterator[str]:
    sources: list[tuple[Wanted, Source]] = [(item, source) for item, behind in found for source in behind.models]
    paths = [source.record.path for _, source in sources]
    if past is not None:
        yield from past.notes()
    elif any(budget.growth_since for item, _ in sources for budget in item.budgets):
        yield "growth over commits was not judged: add --history FILE.jsonl, to which each commit adds a line"
    if earlier is not None and earlier.past is None:
        for path, fault in earlier.faults.items():
            yield f"growth was not judged: {path} of the baseline {earlier.path} was not read ({fault})"
        for path in paths:
            if path not in before and path.split("!", maxsplit=1)[0] not in earlier.faults:
                yield f"{path} is not in the baseline {earlier.path}: new, so its growth is not judged"
    elif earlier is None and any(_needs_baseline(budget) for item, _ in sources for budget in item.budgets):
        yield "growth was not judged: add --baseline, for example the JSON of a check of the main branch"
    without = [source.record.path for item, source in sources if not item.budgets]
    if len(without) < len(sources):
        yield from (f"no budget is for {path}, so it was not checked" for path in without)
    for item, behind in found:
        yield from behind.notes
        if not item.budgets:
            yield from (f"{refused.path}: not read: {refused.reason}" for refused in behind.refused)


def _needs_baseline(budget: Budget) -> bool:
    return any(kind.of_baseline and (kind not in budget.asked) for kind, _, _ in budget.limits)


def _gone(
    earlier: Baseline | None, before: Mapping[str, FileAccount], broken: Mapping[str, EdgepruneError], whole: bool
) -> Iterator[str]:
    """The paths of files of the baseline that are not among the checked ones."""
    if earlier is None or not whole:
        return
    for record in earlier.records:
        if record not in before.values() and record.path not in broken:
            yield record.path


def _farewell(path: str, earlier: Baseline | None) -> str:
    return f"{path} of the baseline {earlier.path if earlier else ''} is no longer there: removed, or renamed"
