"""Each limit of a budget held against a file: the one judge of `edgeprune check` and of `edgeprune run`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from edgeprune.artifact import sha256_of
from edgeprune.checker.budget import Budget
from edgeprune.checker.size.baseline import Baseline, entry_record
from edgeprune.checker.size.layer_pairs import grown_layers
from edgeprune.checker.size.records import FileAccount
from edgeprune.errors import UsageError
from edgeprune.formats import Contents, read_contents
from edgeprune.host.untrusted import read_whole
from edgeprune.verdict import Band, Estimate, Limit, Unit, Unknown, Verdict

if TYPE_CHECKING:  # loaded where there is one
    from edgeprune.checker.history.past import Past
    from edgeprune.ledger import ArtifactEntry, Ledger

__all__ = ["Scored", "band_of", "budget_verdicts", "entry_of", "run_verdicts", "scored_in", "unread_verdicts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a file lost of its metric against the dense model of a ledger; None, with the reason, where not known."""

    metric: str
    drop: float | None = None
    unknown: Unknown | None = None
    detail: str = ""


def budget_verdicts(
    record: FileAccount,
    budgets: Sequence[Budget],
    before: FileAccount | None = None,
    *,
    past: Past | None = None,
    file: Path | None = None,
    ledger: Ledger | None = None,
    contents: Contents | None = None,
) -> list[Verdict]:
    """Each limit of the budgets against one file. What cannot be measured has `passed` None.

    `before` is the file's record in the baseline; without one, growth is not judged (the file is new), but a file that
    has no other limit cannot be checked. `past` is what growth over commits is held against, and without a baseline all
    growth; there a file that is recorded for the first time grew by 0. Limits on latency are held against the estimates
    in the records, and those on the metric against the ledger of the run, or the one that a budget names: there the
    file is the one at `file`, None for a model inside an archive. Limits on its structure are held against `contents`.
    """
    found = [
        verdict
        for budget in budgets
        for verdict in _verdicts(
            _Case(record=record, budget=budget, before=before, past=past, contents=contents), file, ledger
        )
    ]
    return found or [verdict for budget in budgets for verdict in _open(record.path, budget, Unknown.NO_BASELINE)]


def run_verdicts(
    ledger: Ledger, budget: Budget | None, baseline: Baseline | None = None, folder: Path | None = None
) -> tuple[Verdict, ...]:
    """The budget of a run against every file that it exported, which lie in `folder`; growth is against `baseline`."""
    if budget is None:
        return ()
    reads = budget.limits_structure and folder is not None
    exported = [entry for stage in ledger.stages for entry in stage.artifacts if entry.exported]
    return tuple(
        verdict
        for entry in exported
        for verdict in budget_verdicts(
            entry_record(entry),
            [budget],
            baseline.find(entry.path) if baseline else None,
            past=baseline.past if baseline else None,
            ledger=ledger,
            contents=read_contents(folder / entry.path) if reads and folder is not None else None,
        )
    )


def unread_verdicts(path: str, budgets: Sequence[Budget], reason: str) -> list[Verdict]:
    """For a file that could not be read: none of its limits can be checked."""
    return [verdict for budget in budgets for verdict in _open(path, budget, Unknown.UNREAD, reason)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    record: FileAccount
    budget: Budget
    before: FileAccount | None
    past: Past | None = None
    contents: Contents | None = None

    def held(
        self,
        kind: Limit,
        actual: float | None,
        limit: float,
        unit: Unit,
        *,
        unknown: Unknown = Unknown.NOT_MEASURED,
        detail: str = "",
    ) -> Verdict:
        """`unknown` and `detail` tell why `actual` is None."""
        kept = None if actual is None else actual >= limit if kind.is_least else actual <= limit
        return Verdict(
            kind=kind,
            path=self.record.path,
            actual=actual,
            limit=limit,
            unit=unit,
            passed=kept,
            codec=self.budget.codec if kind.of_codec else None,
            unknown=unknown if kept is None else None,
            detail=detail if kept is None else "",
        )


def _verdicts(case: _Case, file: Path | None, ledger: Ledger | None) -> Iterator[Verdict]:
    yield from _sizes(case)
    yield from _growth(case)
    yield from _counts(case)
    yield from _metric_drop(case, file, ledger)
    if case.budget.limits_latency:
        if not case.budget.devices:
            raise UsageError("a limit on latency is of a device: name it among the budget's devices")
        for device in case.budget.devices:
            yield from _latency(case, device)
    if case.budget.limits_structure:
        yield from _structure(case)


def _structure(case: _Case) -> Iterator[Verdict]:
    """What only the file itself tells."""
    from edgeprune.checker.structure import COUNTS, Counted

    budget = case.budget
    if budget.min_eligible is not None and budget.target is None:
        raise UsageError("min_eligible is of an accelerator: name it as the budget's target")
    for kind, limit, unit in budget.limits:
        if not kind.of_structure:
            continue
        found = Counted() if case.contents is None else COUNTS[kind](case.contents, budget)
        verdict = case.held(
            kind, found.actual, limit, unit, unknown=found.unknown or Unknown.NOT_COUNTED, detail=found.detail
        )
        yield replace(
            verdict,
            target=budget.target if kind.of_target else None,
            asked=budget.asked.get(kind),
            layers=found.layers if verdict.passed is False else (),
            detail=found.detail,
        )


def _sizes(case: _Case) -> Iterator[Verdict]:
    record, budget = case.record, case.budget
    if budget.download_bytes is not None:
        download = record.download_bytes.get(budget.codec)
        yield case.held(Limit.DOWNLOAD, download, budget.download_bytes, Unit.BYTES)
    if budget.install_bytes is not None:
        inside = record.in_archive  # an app must make a copy of a model that is deflated in its bundle
        install = inside.install_bytes if inside and inside.install_bytes is not None else record.raw_bytes
        yield case.held(Limit.INSTALL, install, budget.install_bytes, Unit.BYTES)


def _growth(case: _Case) -> Iterator[Verdict]:
    since, before = case.budget.growth_since, case.before
    earlier = case.past.earlier(case.record.path, since) if case.past else None
    if since is None and before is not None and (earlier is None or earlier.account is not before):
        yield from _grown_from(case, before)
    elif earlier is None:
        return
    elif earlier.account is not None and earlier.commit is not None:
        yield from (replace(item, since=earlier.commit.name) for item in _grown_from(case, earlier.account))
    elif earlier.is_here:
        yield from (replace(item, detail=earlier.missing) for item in _grown_from(case, case.record))
    else:
        yield from _grown_from(case, None, earlier.missing)


def _grown_from(case: _Case, before: FileAccount | None, missing: str = "") -> Iterator[Verdict]:
    """The limits on growth held against an earlier account; None, with the reason, where there is none."""
    budget, codec = case.budget, case.budget.codec
    new, old = case.record.download_bytes.get(codec), before.download_bytes.get(codec) if before else None
    grown = None if new is None or old is None else new - old
    unknown = Unknown.NOT_IN_HISTORY if missing else Unknown.NOT_IN_BASELINE if old is None else Unknown.NOT_MEASURED
    share = None if grown is None or not old else grown / old
    limits = (
        (grown, budget.growth_bytes, Unit.BYTES),
        (share, budget.growth_share, Unit.FRACTION),
    )
    for actual, limit, unit in limits:
        if limit is not None:
            verdict = case.held(Limit.GROWTH, actual, limit, unit, unknown=unknown, detail=missing)
            over = before if verdict.passed is False else None
            layers = grown_layers(over.layers, case.record.layers) if over else ()
            yield replace(verdict, asked=budget.asked.get(Limit.GROWTH), layers=layers)


def _counts(case: _Case) -> Iterator[Verdict]:
    record, budget = case.record, case.budget
    unknown, note = Unknown.NOT_COUNTED, record.note
    if budget.parameters is not None:
        kind, unit = Limit.PARAMETERS, Unit.PARAMETERS
        yield case.held(kind, record.parameters, budget.parameters, unit, unknown=unknown, detail=note)
    if budget.min_sparsity is not None:
        kind, unit = Limit.MIN_SPARSITY, Unit.FRACTION
        unknown = Unknown.NO_WEIGHTS if record.weights == 0 else unknown
        yield case.held(kind, record.sparsity, budget.min_sparsity, unit, unknown=unknown, detail=note)


def _metric_drop(case: _Case, file: Path | None, ledger: Ledger | None) -> Iterator[Verdict]:
    budget = case.budget
    for name, limit in budget.metric_drops.items():
        if ledger is None:
            if budget.ledger is None:
                raise UsageError("max_metric_drop is read from a ledger: name it as the budget's ledger")
            found = _scored_by(budget.ledger, case.record.path, file, name)
        else:
            found = scored_in(ledger, case.record.path, name)
        unknown = found.unknown or Unknown.NOT_SCORED
        verdict = case.held(Limit.MAX_METRIC_DROP, found.drop, limit, Unit.METRIC, unknown=unknown, detail=found.detail)
        yield replace(verdict, metric=found.metric)


def _scored_by(place: Path, path: str, file: Path | None, name: str) -> Scored:
    """What the ledger at `place` says of the file, if it is the one that the run made."""
    from edgeprune.ledger import Ledger

    ledger = Ledger.from_json(read_whole(place, "the ledger.json of a run"), str(place))
    entry, metric = entry_of(ledger, path), name or ledger.metric.name
    if entry is None:
        return Scored(metric=metric, unknown=Unknown.NOT_IN_LEDGER, detail=str(place))
    if file is None or sha256_of(file) != entry.sha256:
        return Scored(metric=metric, unknown=Unknown.OTHER_FILE, detail=str(place))
    return replace(scored_in(ledger, entry.path, name), detail=str(place))


def scored_in(ledger: Ledger, path: str, name: str = "") -> Scored:
    """What the file called `path` in the ledger lost of the metric of that name (of the main one) against the dense
    model on the same samples."""
    entry = entry_of(ledger, path)
    kind = next((kind for kind in ledger.kinds if kind.name == (name or ledger.metric.name)), None)
    metric = entry.scored(kind.name) if kind and entry else None
    base = ledger.dense.scored(kind.name) if kind else None
    if kind is None or metric is None or base is None:
        return Scored(metric=name or ledger.metric.name, unknown=Unknown.NOT_SCORED)
    before = base.value if metric.samples == base.samples else None
    if before is None and metric.change is not None:
        before = metric.change.before
    if before is None:
        return Scored(metric=kind.name, unknown=Unknown.NOT_SCORED)  # a score on fewer samples is no drop
    return Scored(metric=kind.name, drop=before - metric.value if kind.higher_is_better else metric.value - before)


def entry_of(ledger: Ledger, path: str) -> ArtifactEntry | None:
    """The one file of the ledger with this name."""
    name = PurePosixPath(path.replace("\\", "/")).name
    found = [e for stage in ledger.stages for e in stage.artifacts if PurePosixPath(e.path).name == name]
    return found[0] if len(found) == 1 else None


def _latency(case: _Case, device: str) -> Iterator[Verdict]:
    """The estimate for one device against its limits; `device` is a profile's name or place."""
    from edgeprune.checker.latency.estimate import EXTRAPOLATION, basis_of
    from edgeprune.checker.latency.profiles import find_profile

    profile = find_profile(device)
    basis, budget = basis_of(profile), case.budget
    found = case.record.estimate(profile.name, basis)
    now, refused = band_of(found), (found.refused if found else None) or ""
    if budget.max_latency_ms is not None:
        verdict = case.held(
            Limit.MAX_LATENCY_MS,
            now.ms if now else None,
            budget.max_latency_ms,
            Unit.MS,
            unknown=Unknown.NOT_ESTIMATED,
            detail=refused,
        )
        if found and now:
            verdict = replace(verdict, detail="; ".join(n for n in found.notes if n.startswith(EXTRAPOLATION)))
        yield replace(verdict, device=profile.name, now=now)
    if budget.max_latency_growth is not None and case.before is not None:
        verdict = _latency_growth(case, found, case.before.estimate(profile.name, basis), budget.max_latency_growth)
        yield replace(verdict, device=profile.name)


def _latency_growth(case: _Case, new: Estimate | None, old: Estimate | None, limit: float) -> Verdict:
    """How much longer the file is estimated to take than the baseline's; both estimates must be of one basis."""
    now, before = band_of(new), band_of(old)
    grown, unknown, detail = None, Unknown.NOT_ESTIMATED, (new.refused if new else None) or ""
    if new is not None and now is not None:
        if old is None:
            unknown = Unknown.NOT_IN_BASELINE
        elif before is None or not before.ms:
            unknown, detail = Unknown.NOT_IN_BASELINE, old.refused or "its estimate is 0"
        elif old.basis != new.basis:
            unknown = Unknown.OTHER_BASIS
        else:
            grown = now.ms / before.ms - 1
    verdict = case.held(Limit.MAX_LATENCY_GROWTH, grown, limit, Unit.FRACTION, unknown=unknown, detail=detail)
    return replace(verdict, now=now, before=before) if grown is not None else verdict


def band_of(found: Estimate | None) -> Band | None:
    """The milliseconds of an estimate, None where it gives none."""
    if found is None or found.total_ms is None or found.low_ms is None or found.high_ms is None:
        return None
    return Band(ms=found.total_ms, low_ms=found.low_ms, high_ms=found.high_ms)


def _open(path: str, budget: Budget, unknown: Unknown, detail: str = "") -> Iterator[Verdict]:
    """Each limit of a budget, not judged."""
    metrics = iter(budget.metric_drops)
    for kind, limit, unit in budget.limits:
        metric = next(metrics) or None if kind is Limit.MAX_METRIC_DROP else None
        for device in _names(budget) if kind.of_latency else (None,):
            yield Verdict(
                kind=kind,
                path=path,
                actual=None,
                limit=limit,
                unit=unit,
                passed=None,
                codec=budget.codec if kind.of_codec else None,
                device=device,
                metric=metric,
                target=budget.target if kind.of_target else None,
                asked=budget.asked.get(kind),
                unknown=unknown,
                detail=detail,
            )


def _names(budget: Budget) -> list[str]:
    """Of the profiles of its devices, which may be files of the project's own."""
    from edgeprune.checker.latency.profiles import find_profile

    return [find_profile(device).name for device in budget.devices]
