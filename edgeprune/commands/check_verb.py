"""The checker's verb: what model files cost to install and to download, held against budgets. Light imports only."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from edgeprune.checker.budget import CONFIG, Budget, Config, Verdict, budget_verdicts, find_config, load_config, matches
from edgeprune.checker.size.accounting import measure_download
from edgeprune.checker.size.advice import reasons
from edgeprune.checker.size.baseline import Baseline, load_baseline
from edgeprune.checker.size.codecs import FULL, QUICK
from edgeprune.checker.size.models_behind import Estimator, Refused, Source, Sources, sources_of
from edgeprune.checker.size.records import FileRecord
from edgeprune.errors import EdgepruneError, InputError, RecipeError, Unsupported, UsageError
from edgeprune.host.outputs import write_file
from edgeprune.host.toml_values import near
from edgeprune.ledger import Estimate
from edgeprune.report.check_report import FORMATS, Check
from edgeprune.units import format_bytes, parse_bytes, parse_growth

__all__ = ["check_verb"]

_UNCHECKED = 3
_MOST_IN_SAMPLE = 5
_FOR_MACHINES = ("junit", "github")  # an empty report there would pass for a good one


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A file to check and the budgets that it is held against."""

    path: Path
    budgets: tuple[Budget, ...]


def check_verb(
    files: Sequence[Path],
    *,
    config: Path | None,
    baseline: Path | None,
    limit: str | None,
    growth: str | None,
    codec: str,
    output_format: str,
    output: Path | None,
    why: bool,
    fast: bool,
    show: bool,
    devices: Sequence[str],
) -> int:
    """Print what `files` (or those of the configuration) cost; 1 over a limit, 3 when one cannot be checked, else 0.

    Latency is estimated for `devices` and for those of the budgets. With `show` nothing is checked. Raises UsageError
    when nothing would be checked without it, with the table printed, and the first InputError or Unsupported of a file
    among several once the others are told.
    """
    codecs = QUICK if fast else FULL
    if codec not in codecs:
        raise UsageError(f"--fast measures {' and '.join(QUICK)} only; drop --fast, or choose one of these for --codec")
    given = _given_budget(limit, growth, codec)
    if show and (given or config or not files):
        raise UsageError("--show only shows the FILES that are named, and checks nothing; drop it, or the limits")
    settings = None if show else _settings(files, config, given is not None)
    wanted = _wanted(files, settings, given)
    if baseline is None and growth is not None:
        raise UsageError("--growth needs something to compare with; add --baseline FILE")
    for budget in (budget for item in wanted for budget in item.budgets):
        if budget.codec not in codecs:
            raise UsageError(f"[{budget.where}] limits {budget.codec}, which --fast does not measure; drop --fast")
    if output_format in _FOR_MACHINES and not any(item.budgets for item in wanted):
        raise UsageError(
            f"--format {output_format} reports limits, and none was given: nothing would be checked; add --limit, or "
            f"budgets in {CONFIG}"
        )
    estimator = _estimator([*devices, *(budget.device for item in wanted for budget in item.budgets if budget.device)])
    found = _check(wanted, settings, baseline, codec, codecs, why, estimator, named=bool(files))
    text = FORMATS[output_format](found)
    if output is not None:
        write_file(output, text.encode())
        text = FORMATS["text"](found)
    click.echo(text, nl=False)
    if found.broken is not None:
        raise found.broken
    if not found.verdicts and not show:
        raise UsageError(
            f"no limit was given, so nothing was checked: add --limit SIZE, or budgets in {CONFIG} (--show only shows)"
        )
    return {True: 0, False: 1, None: _UNCHECKED}[found.passed] if found.verdicts else 0


def _given_budget(limit: str | None, growth: str | None, codec: str) -> Budget | None:
    """The budget of --limit and --growth."""
    if limit is None and growth is None:
        return None
    grown = parse_growth(growth) if growth is not None else (None, None)
    return Budget(
        path="*",
        where="the command line",
        codec=codec,
        download_bytes=parse_bytes(limit) if limit is not None else None,
        growth_bytes=grown[0],
        growth_share=grown[1],
    )


def _settings(files: Sequence[Path], config: Path | None, limited: bool) -> Config | None:
    """The configuration in force: the one named, else the nearest; none with --limit alone."""
    if config is not None:
        return load_config(config)
    if limited and files:
        return None
    nearest = find_config(Path.cwd())
    if nearest is not None:
        return load_config(nearest)
    if not files:
        click.echo(_sample(), nl=False)
        raise UsageError(f"no files and no {CONFIG}; name model files, or save the lines above as {CONFIG}")
    return None


def _sample() -> str:
    """A configuration for the models that lie here, with a tenth to spare."""
    found = [
        path
        for suffix in (".tflite", ".mlpackage", ".onnx")
        for depth in ("", "*/", "*/*/")
        for path in sorted(Path().glob(f"{depth}*{suffix}"))
    ]
    tables = []
    for path in found[:_MOST_IN_SAMPLE]:
        with contextlib.suppress(EdgepruneError):  # a broken file is no reason to show nothing
            size = measure_download(path, ("deflate",))["deflate"] * 11 // 10
            tables.append(_sample_budget(glob.escape(path.as_posix()), format_bytes(size)))
    return "\n".join(tables) or _sample_budget("models/*.tflite", "350 kB")


def _sample_budget(pattern: str, size: str) -> str:
    return (
        f"[[budget]]\npath = {json.dumps(pattern)}\n"  # TOML reads JSON's strings
        f'download = "{size}"  # deflate, as in an APK or IPA\n# growth = "2 %"  # against --baseline\n'
    )


def _wanted(files: Sequence[Path], settings: Config | None, given: Budget | None) -> list[_Wanted]:
    """The files with their budgets. Raises UsageError or RecipeError when nothing would be checked that should be."""
    extra = (given,) if given else ()
    if settings is None:
        return [_Wanted(path=path, budgets=extra) for path in files]
    by_path: dict[Path, tuple[Path, list[Budget]]] = {}  # by where it really is: how it was found, its budgets
    for budget in settings.budgets:
        for path in matches(settings, budget) if not files else settings.path.parent.glob(budget.path):
            by_path.setdefault(path.resolve(), (path, []))[1].append(budget)
    if not files:
        return [_Wanted(path=_from_here(path), budgets=(*budgets, *extra)) for path, budgets in by_path.values()]
    for path in files:
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path")
    none: tuple[Path, list[Budget]] = (Path(), [])
    items = [_Wanted(path=path, budgets=(*by_path.get(path.resolve(), none)[1], *extra)) for path in files]
    if not any(item.budgets for item in items):
        paths = [budget.path for budget in settings.budgets]
        raise RecipeError(
            f"{settings.path}: no budget is for {files[0]}{' or the others' if len(files) > 1 else ''}"
            f"{near(str(files[0]), paths) or '; its paths are ' + ', '.join(paths)}; add one, or give --limit"
        )
    return items


def _from_here(path: Path) -> Path:
    """The path as it is typed here, where it lies below this folder."""
    whole, here = Path(os.path.abspath(path)), Path.cwd()  # noqa: PTH100 - resolve() would follow links
    return whole.relative_to(here) if whole.is_relative_to(here) else path


def _check(
    wanted: Sequence[_Wanted],
    settings: Config | None,
    baseline: Path | None,
    codec: str,
    codecs: Sequence[str],
    why: bool,
    estimator: Estimator,
    *,
    named: bool,
) -> Check:
    shares = why or codecs != QUICK  # a quick look does without
    found = list(_read(wanted, codecs, shares, estimator))
    sources = [(item, source) for item, behind in found for source in behind.models]
    records = [source.record for _, source in sources]
    broken = {str(item.path): behind.error for item, behind in found if behind.error}
    if broken and not sources:
        raise next(iter(broken.values()))
    earlier = None
    if baseline is not None:
        earlier = load_baseline(baseline, [record.path for record in records], codecs, estimator=estimator)
    before = _before(records, earlier)
    verdicts, notes = _judge(sources, before, earlier)
    for item, behind in found:
        notes += behind.notes
        if item.budgets:
            verdicts += [_unread(refused) for refused in behind.refused]
        else:
            notes += [f"{refused.path}: not read: {refused.reason}" for refused in behind.refused]
    if earlier is not None and not named:
        gone = [
            record.path for record in earlier.records if record not in before.values() and record.path not in broken
        ]
        notes += [f"{path} of the baseline {earlier.path} is no longer there: removed, or renamed" for path in gone]
    return Check(
        files=tuple(records),
        verdicts=tuple(verdicts),
        before=before,
        baseline=str(baseline) if baseline else None,
        config=str(settings.path) if settings else None,
        codec=codec,
        notes=tuple(notes),
        why={source.record.path: reasons(source.contents, source.record) for _, source in sources} if why else {},
        broken=next(iter(broken.values()), None),
    )


def _read(
    wanted: Sequence[_Wanted], codecs: Sequence[str], shares: bool, estimator: Estimator
) -> Iterator[tuple[_Wanted, Sources]]:
    """The models behind each path. What cannot be read is raised, but among several told beside the others."""
    for item in wanted:
        try:
            yield item, sources_of(item.path, codecs, shares=shares, estimator=estimator)
        except (InputError, Unsupported) as cause:
            if len(wanted) == 1:
                raise
            refused = Refused(path=str(item.path), reason=str(cause).removeprefix(f"{item.path}: "))
            yield item, Sources(models=(), refused=(refused,), error=cause)


def _estimator(devices: Sequence[str]) -> Estimator:
    """Estimates a file for each device once. Raises UsageError for an unknown one, InputError for a broken profile."""
    from edgeprune.checker.latency.estimate import basis_of, estimate_latency, refused_estimate
    from edgeprune.checker.latency.profiles import Profile, find_profile

    found = {(profile.name, basis_of(profile)): profile for profile in map(find_profile, devices)}

    def estimated(path: Path, profile: Profile) -> Estimate:
        try:
            return estimate_latency(path, profile)
        except InputError as cause:  # broken where the sizes do not look
            return refused_estimate(path, profile, cause)

    return lambda path: tuple(estimated(path, profile) for profile in found.values())


def _unread(refused: Refused) -> Verdict:
    """A member of a bundle that could be a model over its limit."""
    note = f"not read: {refused.reason}"
    return Verdict(check="download", path=refused.path, actual=None, limit=0, unit="", passed=None, note=note)


def _before(records: Sequence[FileRecord], earlier: Baseline | None) -> dict[str, FileRecord]:
    found = {record.path: earlier.find(record.path) for record in records} if earlier else {}
    return {path: record for path, record in found.items() if record is not None}


def _judge(
    sources: Sequence[tuple[_Wanted, Source]], before: dict[str, FileRecord], earlier: Baseline | None
) -> tuple[list[Verdict], list[str]]:
    verdicts: list[Verdict] = []
    notes: list[str] = []
    for item, source in sources:
        record = source.record
        verdicts += [
            verdict
            for budget in item.budgets
            for verdict in budget_verdicts(record, budget, before.get(record.path), source.file)
        ]
        if earlier is not None and record.path not in before:
            notes.append(f"{record.path} is not in the baseline {earlier.path}: new, so its growth is not judged")
    for item, source in sources:  # a file that only growth limits must not pass unseen
        if item.budgets and not any(verdict.path == source.record.path for verdict in verdicts):
            verdicts += [_unjudged(source.record, budget) for budget in item.budgets]
    if earlier is None and any(budget.needs_baseline for item, _ in sources for budget in item.budgets):
        notes.append("growth was not judged: add --baseline, for example the JSON of a check of the main branch")
    without = [source.record.path for item, source in sources if not item.budgets]
    if len(without) < len(sources):
        notes += [f"no budget is for {path}, so it was not checked" for path in without]
    return verdicts, notes


def _unjudged(record: FileRecord, budget: Budget) -> Verdict:
    """For a file that only has a limit on growth, and nothing to compare it with."""
    in_bytes = budget.growth_bytes is not None
    limits = (budget.growth_bytes, budget.growth_share, budget.max_latency_growth)
    limit = next((limit for limit in limits if limit is not None), None)
    of_download = f"growth of download ({budget.codec})"
    return Verdict(
        check=of_download if budget.limits_download_growth else f"growth of latency estimate, {budget.device}",
        path=record.path,
        actual=None,
        limit=limit or 0,
        unit="bytes" if in_bytes else "fraction",
        passed=None,
        note="it is in no baseline, and growth is its only limit; give it a limit of its own as well",
    )
