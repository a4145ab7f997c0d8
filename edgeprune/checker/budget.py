"""Budgets of model files: what a project writes in edgeprune.toml, and each limit held against each file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from edgeprune.artifact import sha256_of
from edgeprune.checker.size.codecs import FULL
from edgeprune.checker.size.records import FileRecord
from edgeprune.errors import InputError, RecipeError, UsageError
from edgeprune.host.toml_values import known_keys, near, read_toml, typed
from edgeprune.ledger import Estimate
from edgeprune.units import format_ms, parse_bytes, parse_growth, parse_share

__all__ = ["CONFIG", "Budget", "Config", "Verdict", "budget_verdicts", "find_config", "load_config", "matches"]

CONFIG = "edgeprune.toml"
PYPROJECT = "pyproject.toml"
_LATENCY_LIMITS = ("max_latency_ms", "max_latency_growth")  # of estimates
_LIMITS = ("download", "install", "growth", "parameters", "min_sparsity", "max_metric_drop", *_LATENCY_LIMITS)
_KEYS = ("path", "codec", "ledger", "device", *_LIMITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits for the files that match the glob `path`, which counts from the folder of the configuration.

    `growth_bytes` and `growth_share` limit how much the download may grow against the baseline, `max_metric_drop` what
    the metric may lose against the dense model in the ledger at `ledger`, `max_latency_ms` the latency estimated from
    the profile of `device`, and `max_latency_growth` the fraction by which that estimate may be above the one for the
    baseline. `where` names the table for messages.
    """

    path: str
    where: str
    codec: str = "deflate"
    download_bytes: int | None = None
    install_bytes: int | None = None
    growth_bytes: int | None = None
    growth_share: float | None = None
    parameters: int | None = None
    min_sparsity: float | None = None
    max_metric_drop: float | None = None
    ledger: Path | None = None
    max_latency_ms: float | None = None
    max_latency_growth: float | None = None
    device: str | None = None

    @property
    def limits_download_growth(self) -> bool:
        """Whether it limits the growth of the download."""
        return self.growth_bytes is not None or self.growth_share is not None

    @property
    def needs_baseline(self) -> bool:
        """Whether it limits growth."""
        return self.limits_download_growth or self.max_latency_growth is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One limit held against one file; `passed` is None when it could not be checked.

    `note` says why it could not, and otherwise what else there is to know of `actual`, such as its error band.
    """

    check: str
    path: str
    actual: float | None
    limit: float
    unit: str
    passed: bool | None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The budgets in a file; globs count from the folder that it is in."""

    path: Path
    budgets: tuple[Budget, ...]


def find_config(start: Path) -> Path | None:
    """The nearest edgeprune.toml, or pyproject.toml with [tool.edgeprune], in `start` or above it.

    Not above the folder that holds .git. An empty one is none: a shell makes it before `edgeprune check >
    edgeprune.toml` runs.
    """
    for folder in (start, *start.parents):
        own = folder / CONFIG
        if own.is_file() and own.stat().st_size:
            return own
        project = folder / PYPROJECT
        if project.is_file() and _tool_table(read_toml(project)[1]) is not None:
            return project
        if (folder / ".git").exists():
            return None
    return None


def _tool_table(raw: Mapping[str, Any]) -> Any:
    """What stands under [tool.edgeprune], None when nothing does."""
    tools = raw.get("tool")
    return tools.get("edgeprune") if isinstance(tools, Mapping) else None


def load_config(path: Path) -> Config:
    """The budgets in `path`. Raises InputError (cannot be read) and RecipeError (not right as it stands)."""
    raw: Any = read_toml(path)[1]
    if path.name == PYPROJECT:
        raw = _tool_table(raw)
        if raw is None:
            raise RecipeError(f"{path}: no [tool.edgeprune] in it; budgets are tables [[tool.edgeprune.budget]]")
    known_keys(path, "tool.edgeprune" if path.name == PYPROJECT else "", raw, ("budget",))
    tables = raw.get("budget", [])
    prefix = "tool.edgeprune.budget" if path.name == PYPROJECT else "budget"
    if not isinstance(tables, list) or not tables:
        raise RecipeError(f"{path}: no budget in it; write a table [[{prefix}]] for each, with a path and a limit")
    return Config(path=path, budgets=tuple(_budget(path, f"{prefix} {n}", table) for n, table in enumerate(tables, 1)))


def _budget(path: Path, where: str, raw: Any) -> Budget:
    known_keys(path, where, raw, _KEYS)
    if "path" not in raw:
        raise RecipeError(f'{path}: [{where}] names no file; add path = "models/*.tflite"')
    if not set(raw) & set(_LIMITS):
        raise RecipeError(f"{path}: [{where}] sets no limit; give one of {', '.join(_LIMITS)}")
    pattern = typed(path, "path", raw["path"], str)
    if not pattern or PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
        raise RecipeError(f"{path}: [{where}] path {pattern!r} must lie in the folder of this file")
    try:
        next(iter(path.glob(pattern)), None)  # below a file there is nothing: only the pattern is looked at
    except (ValueError, IndexError, AttributeError, re.error) as cause:  # AttributeError: pathlib's answer to "./"
        raise RecipeError(
            f"{path}: [{where}] path {pattern!r} is no glob; write one such as models/*.tflite"
        ) from cause
    codec = typed(path, "codec", raw.get("codec", "deflate"), str)
    if codec not in FULL:
        raise RecipeError(f"{path}: unknown codec {codec!r}{near(codec, FULL)}; known: {', '.join(FULL)}")
    if "max_metric_drop" in raw and "ledger" not in raw:
        raise RecipeError(f'{path}: [{where}] max_metric_drop is read from a ledger; add ledger = "out/ledger.json"')
    if "ledger" in raw and "max_metric_drop" not in raw:
        raise RecipeError(f"{path}: [{where}] ledger without a limit read from it; add max_metric_drop")
    of_device = [key for key in _LATENCY_LIMITS if key in raw]
    if of_device and "device" not in raw:
        raise RecipeError(
            f'{path}: [{where}] {of_device[0]} is of a device; add device = "pixel3-tflite-4t-float32" or another of '
            "'edgeprune devices'"
        )
    if "device" in raw and not of_device:
        raise RecipeError(f"{path}: [{where}] device without a limit on it; add one of {', '.join(_LATENCY_LIMITS)}")
    try:
        return Budget(path=pattern, where=where, codec=codec, **_limits(path, raw))
    except RecipeError:
        raise
    except UsageError as cause:
        raise RecipeError(f"{path}: [{where}] {cause}") from cause


def _limits(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    def size(key: str) -> int | None:
        return parse_bytes(typed(path, key, raw[key], str)) if key in raw else None

    growth = parse_growth(typed(path, "growth", raw["growth"], str)) if "growth" in raw else (None, None)
    parameters = typed(path, "parameters", raw["parameters"], int) if "parameters" in raw else None
    drop = _share(path, "max_metric_drop", raw)
    sparsity = _share(path, "min_sparsity", raw)
    slower = _share(path, "max_latency_growth", raw)
    if sparsity is not None and not 0 <= sparsity <= 1:
        raise UsageError("min_sparsity is a fraction, 0 to 1, or a percentage such as '50 %'")
    if (parameters is not None and parameters < 0) or (drop is not None and not 0 <= drop < math.inf):
        raise UsageError("parameters and max_metric_drop are at least 0, and finite")
    if slower is not None and not 0 <= slower < math.inf:
        raise UsageError("max_latency_growth is a percentage such as '5 %', of the baseline's estimate")
    return {
        "download_bytes": size("download"),
        "install_bytes": size("install"),
        "growth_bytes": growth[0],
        "growth_share": growth[1],
        "parameters": parameters,
        "min_sparsity": sparsity,
        "max_metric_drop": drop,
        "max_latency_ms": _milliseconds(path, raw),
        "max_latency_growth": slower,
        "device": _device(path, raw),
        "ledger": path.parent / typed(path, "ledger", raw["ledger"], str) if "ledger" in raw else None,
    }


def _milliseconds(path: Path, raw: Mapping[str, Any]) -> float | None:
    if "max_latency_ms" not in raw:
        return None
    limit = float(typed(path, "max_latency_ms", raw["max_latency_ms"], float))
    if not 0 < limit < float("inf"):
        raise UsageError("max_latency_ms is a number of milliseconds above 0")
    return limit


def _device(path: Path, raw: Mapping[str, Any]) -> str | None:
    """A profile's name, or the path of one of the project's own, which counts from the configuration."""
    if "device" not in raw:
        return None
    device = str(typed(path, "device", raw["device"], str))
    return str(path.parent / device) if device.endswith(".toml") else device


def _share(path: Path, key: str, raw: Mapping[str, Any]) -> float | None:
    """A fraction written as a number, or as a percentage."""
    value = raw.get(key)
    if value is None:
        return None
    return parse_share(value) if isinstance(value, str) else float(typed(path, key, value, float))


def matches(config: Config, budget: Budget) -> list[Path]:
    """The files (or packages) that a budget is for, sorted. Raises RecipeError when there are none."""
    found = sorted(config.path.parent.glob(budget.path))
    if not found:
        raise RecipeError(
            f"{config.path}: [{budget.where}] path {budget.path!r} matches no file in "
            f"{config.path.parent.resolve()}; correct it, or build the model first"
        )
    return found


def budget_verdicts(
    record: FileRecord, budget: Budget, before: FileRecord | None, file: Path | None = None
) -> list[Verdict]:
    """Each limit of one budget against one file. What cannot be measured has `passed` None.

    `before` is the file's record in the baseline; without one, growth is not judged (the file is new). `file` is where
    it is, None for a model inside an archive. Limits on latency are held against the estimates in the records.
    """
    return list(_verdicts(record, budget, before, file))


def _verdicts(record: FileRecord, budget: Budget, before: FileRecord | None, file: Path | None) -> Iterator[Verdict]:
    download = record.download_bytes.get(budget.codec)
    unread = record.note or "not known of this file"
    if budget.download_bytes is not None:
        yield _at_most(f"download ({budget.codec})", record, download, budget.download_bytes, "bytes")
    if budget.install_bytes is not None:
        yield _at_most("install", record, _install(record), budget.install_bytes, "bytes")
    if budget.limits_download_growth and before is not None:
        yield _growth(record, budget, download, before.download_bytes.get(budget.codec))
    if budget.parameters is not None:
        yield _at_most("parameters", record, record.parameters, budget.parameters, "parameters", unread)
    if budget.min_sparsity is not None:
        actual = record.sparsity
        passed = None if actual is None else actual >= budget.min_sparsity
        note = "" if passed is not None else unread if not record.complete else "it has no weights"
        yield Verdict(
            check="sparsity at least",
            path=record.path,
            actual=actual,
            limit=budget.min_sparsity,
            unit="fraction",
            passed=passed,
            note=note,
        )
    if budget.max_metric_drop is not None and budget.ledger is not None:
        name, drop, note = _metric_drop(budget.ledger, record.path, file)
        yield _at_most("metric drop", record, drop, budget.max_metric_drop, name, note)
    if budget.device is not None:
        yield from _latency(record, budget, before)


def _latency(record: FileRecord, budget: Budget, before: FileRecord | None) -> Iterator[Verdict]:
    """The estimate against its limits."""
    from edgeprune.checker.latency.estimate import basis_of
    from edgeprune.checker.latency.profiles import find_profile

    assert budget.device is not None
    profile = find_profile(budget.device)
    device, basis = profile.name, basis_of(profile)
    found = record.estimate(device, basis)
    reason = "not estimated" if found is None else found.refused or ""
    ms = found.total_ms if found else None
    if budget.max_latency_ms is not None:
        verdict = _at_most(f"latency estimate, {device}", record, ms, budget.max_latency_ms, "ms", reason)
        yield replace(verdict, note=_told(found, budget.max_latency_ms)) if found and ms is not None else verdict
    if budget.max_latency_growth is not None and before is not None:
        verdict = _at_most(f"growth of latency estimate, {device}", record, None, budget.max_latency_growth, "fraction")
        yield _latency_growth(verdict, before.estimate(device, basis), found)


def _latency_growth(verdict: Verdict, old: Estimate | None, new: Estimate | None) -> Verdict:
    """How much longer the file is estimated to take than the baseline's; both estimates must be of one basis."""
    if new is None or new.total_ms is None:
        reason = (new and new.refused) or "not estimated"
    elif old is None:
        reason = f"the baseline has no estimate for {new.device}; make it again with this configuration"
    elif not old.total_ms:
        reason = f"the baseline was not estimated: {old.refused or 'its estimate is 0'}"
    elif old.basis != new.basis:
        reason = "the baseline was estimated with another state of the profile, or version of edgeprune; make it again"
    else:
        grown = new.total_ms / old.total_ms - 1
        note = f"from {format_ms(old.total_ms)} ({_band(old)}) to {format_ms(new.total_ms)} ({_band(new)})"
        return replace(verdict, actual=grown, passed=grown <= verdict.limit, note=note)
    return replace(verdict, note=reason)


def _told(found: Estimate, limit_ms: float) -> str:
    """The band, and what weakens the verdict."""
    from edgeprune.checker.latency.estimate import EXTRAPOLATION

    assert found.low_ms is not None
    assert found.high_ms is not None
    within = found.low_ms <= limit_ms <= found.high_ms
    notes = [note for note in found.notes if note.startswith(EXTRAPOLATION)]
    return "; ".join([_band(found), *(["the limit is within this band"] if within else []), *notes])


def _band(found: Estimate) -> str:
    assert found.low_ms is not None
    assert found.high_ms is not None
    return f"{format_ms(found.low_ms).removesuffix(' ms')} to {format_ms(found.high_ms)}"


def _install(record: FileRecord) -> int:
    """Bytes on a device: with the copy that an app must make of a model that is deflated in its bundle."""
    inside = record.in_archive
    return inside.install_bytes if inside and inside.install_bytes is not None else record.raw_bytes


def _at_most(
    check: str, record: FileRecord, actual: float | None, limit: float, unit: str, unknown: str = "not measured"
) -> Verdict:
    return Verdict(
        check=check,
        path=record.path,
        actual=actual,
        limit=limit,
        unit=unit,
        passed=None if actual is None else actual <= limit,
        note=unknown if actual is None else "",
    )


def _growth(record: FileRecord, budget: Budget, after: int | None, before: int | None) -> Verdict:
    check, unknown = f"growth of download ({budget.codec})", f"the baseline has no {budget.codec} size"
    grown = None if after is None or before is None else after - before
    if budget.growth_bytes is not None:
        return _at_most(check, record, grown, budget.growth_bytes, "bytes", unknown)
    assert budget.growth_share is not None
    share = None if grown is None or not before else grown / before
    return _at_most(check, record, share, budget.growth_share, "fraction", unknown)


def _metric_drop(ledger: Path, path: str, file: Path | None) -> tuple[str, float | None, str]:
    """(name of the metric, what the file lost against the dense stage, why that is not known)."""
    try:
        raw = json.loads(ledger.read_text(encoding="utf-8"))
        metric, base = raw["metric"], raw["stages"][0]["metric"]
        name, higher = str(metric["name"]), bool(metric["higher_is_better"])
        entry = _entry([entry for stage in raw["stages"] for entry in stage["artifacts"]], path)
        if entry is None:
            return name, None, f"{ledger} has no file of this name"
        if file is None or sha256_of(file) != entry["sha256"]:
            return name, None, f"{ledger} is of another file of this name; run the recipe again"
        found = entry["metric"]
        if not found or not base or found["samples"] != base["samples"]:
            return name, None, "not measured on all samples in that run"  # a score on fewer samples is no drop
        drop = float(base["value"]) - float(found["value"])
        if not math.isfinite(drop):
            return name, None, f"{ledger} holds no finite {name} of it"
        return name, drop if higher else -drop, ""
    except OSError as cause:
        raise InputError(f"{ledger}: the ledger cannot be read: {cause.strerror}; run the recipe first") from cause
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as cause:
        raise InputError(f"{ledger} is not a ledger.json ({type(cause).__name__}); run the recipe again") from cause


def _entry(entries: Sequence[Mapping[str, Any]], path: str) -> Mapping[str, Any] | None:
    """The one file of the ledger with this name."""
    name = PurePosixPath(path.replace("\\", "/")).name
    found = [entry for entry in entries if PurePosixPath(entry["path"]).name == name]
    return found[0] if len(found) == 1 else None
