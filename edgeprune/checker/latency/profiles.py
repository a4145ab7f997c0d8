"""Device profiles: a device with a runtime, threads and precision; its coefficients, and where each of them comes from.

A profile is a TOML file. Those of the tool lie in the folder devices beside this file and are written by
benchmarks/fit_profiles.py from published latencies; a user's own is given by its path.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgeprune.checker.latency.kernels import Kind
from edgeprune.checker.latency.roofline import Coefficients
from edgeprune.errors import InputError, UsageError
from edgeprune.host.untrusted import read_text

__all__ = [
    "KINDS",
    "Accuracy",
    "Profile",
    "TruthRow",
    "dump_profile",
    "find_profile",
    "load_profile",
    "profile_paths",
    "profile_place",
    "shipped_profiles",
]

SCHEMA = 1
KINDS = ("fitted", "scaled", "ranking-only")
FORMATS = ("tflite", "coreml")
FOLDER = Path(__file__).parent / "devices"
_MAX_BYTES = 1_000_000  # a profile of 10,000 rows; no reason to read more


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthRow:
    """A measured latency behind a profile; `left_out_ms` is what a fit without its family (or itself) predicts."""

    network: str
    family: str
    latency_ms: float
    left_out_ms: float | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How far off predictions were for rows left out of the fit.

    `left_out` is "family", "network", "file" (a calibration: `band_factor` also holds the errors of the profile it is
    based on), or "none" where one row set the scale. `band_factor` bounds measured over
    predicted both ways, and held for `band_share` of the rows left out. `flops_median` is the same median for latency
    proportional to MACs, `network_median` that of leaving out single networks. Medians and shares are fractions; None
    where nothing was left out.
    """

    left_out: str
    rows: int
    families: int
    median: float | None
    within_10: float | None
    within_20: float | None
    flops_median: float | None
    network_median: float | None
    band_factor: float
    band_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A device profile.

    `precision` is what the runtime computes in, `accepts` the file precisions it covers. `largest_share` is the largest
    part of the estimated time that each kind of operation has in any network of the truth: a file far beyond it is not
    covered. `reference_ms` is the estimate for MobileNetV2 1.0 at 224 pixels, the unit of a ranking-only profile.
    """

    name: str
    device: str
    soc: str
    runtime: str
    threads: int | None
    precision: str
    accepts: tuple[str, ...]
    formats: tuple[str, ...]
    kind: str
    element_bytes: int
    gathers: bool
    coefficients: Coefficients
    accuracy: Accuracy
    largest_share: Mapping[str, float]
    truth: tuple[TruthRow, ...]
    based_on: str = ""
    reference_ms: float | None = None

    @property
    def fastest_truth_ms(self) -> float:
        """The smallest measured latency behind the profile; below it an estimate is an extrapolation."""
        return min(row.latency_ms for row in self.truth)

    @property
    def summary(self) -> str:
        """Device, runtime, threads and precision in one line."""
        threads = f", {self.threads} thread{'s' if self.threads != 1 else ''}" if self.threads else ""
        return f"{self.device}, {self.runtime}{threads}, {self.precision}"


def profile_paths() -> dict[str, Path]:
    """The profiles that come with the tool, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def shipped_profiles() -> tuple[Profile, ...]:
    """All profiles that come with the tool, by name."""
    return tuple(load_profile(path) for path in profile_paths().values())


def find_profile(name: str) -> Profile:
    """The profile with this name, or in the TOML file at this path.

    Raises UsageError for an unknown name (with the nearest ones), InputError for a file that is no profile.
    """
    known = profile_paths()
    if name in known:
        return load_profile(known[name])
    if name.endswith(".toml") or "/" in name:
        return load_profile(Path(name))
    begun = [key for key in known if key.startswith(name.lower())]
    close = [*begun, *difflib.get_close_matches(name, known, n=3, cutoff=0.4)]
    near = list(dict.fromkeys(close or [key for key in known if name.lower()[:6] in key]))[:3]
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise UsageError(f"no device profile {name!r}{hint} 'edgeprune devices' lists them; or give the path of a .toml")


def profile_place(path: Path, name: str) -> str:
    """The name of a device profile; one of the project's own (a .toml) counts from the folder of the file `path`."""
    return str(path.parent / name) if name.endswith(".toml") else name


def load_profile(path: Path) -> Profile:
    """The profile in a TOML file. Raises InputError when it is missing, no TOML, or lacks a part or its source."""
    text = read_text(path, "a device profile (.toml)", most_bytes=_MAX_BYTES)
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a device profile: {error}") from error
    try:
        return _profile(table)
    except _BrokenError as error:
        raise InputError(f"{path}: a broken device profile: {error}") from error


class _BrokenError(ValueError):
    """What is wrong with a profile, to be told together with its path."""


def _profile(table: Mapping[str, Any]) -> Profile:
    if table.get("schema") != SCHEMA:
        raise _BrokenError(f"schema is {table.get('schema')!r}; this version reads {SCHEMA}")
    _only(table, {part.name for part in fields(Profile)} | {"schema"}, "the file")
    truth = tuple(_truth(item, number) for number, item in enumerate(_of(table, "truth", list), start=1))
    if not truth:
        raise _BrokenError("it has no [[truth]] rows: no coefficient without what it was fitted on")
    accepts, formats = _words(table, "accepts"), _words(table, "formats")
    if set(formats) - set(FORMATS):
        raise _BrokenError(f"formats: {', '.join(formats)}; known are {', '.join(FORMATS)}")
    kind = _of(table, "kind", str)
    if kind not in KINDS:
        raise _BrokenError(f"kind: {kind!r}; known are {', '.join(KINDS)}")
    threads = table.get("threads")
    reference = table.get("reference_ms")
    shares = {
        name: _number(value, f"largest_share.{name}") for name, value in _of(table, "largest_share", dict).items()
    }
    _only(shares, set(Kind), "largest_share")
    return Profile(
        **{name: _of(table, name, str) for name in ("name", "device", "runtime", "precision")},
        soc=str(table.get("soc", "")),
        kind=kind,
        threads=_whole(threads, "threads") if threads is not None else None,
        accepts=accepts,
        formats=formats,
        element_bytes=_whole(_of(table, "element_bytes", int), "element_bytes"),
        gathers=_of(table, "gathers", bool),
        coefficients=_coefficients(_of(table, "coefficients", dict)),
        accuracy=_accuracy(_of(table, "accuracy", dict)),
        largest_share=shares,
        truth=truth,
        based_on=str(table.get("based_on", "")),
        reference_ms=_positive(reference, "reference_ms") if reference is not None else None,
    )


def _coefficients(table: Mapping[str, Any]) -> Coefficients:
    _only(table, {part.name for part in fields(Coefficients)}, "coefficients")
    for name in ("dense_gmacs_per_s", "depthwise_gmacs_per_s", "memory_gb_per_s"):
        if name not in table:
            raise _BrokenError(f"coefficients lack {name}")
    costs = {"op_overhead_us", "fixed_ms"}
    return Coefficients(
        **{
            name: _number(value, f"coefficients.{name}") if name in costs else _positive(value, f"coefficients.{name}")
            for name, value in table.items()
        }
    )


def _accuracy(table: Mapping[str, Any]) -> Accuracy:
    names = {part.name for part in fields(Accuracy)}
    _only(table, names, "accuracy")
    needed = {"left_out", "rows", "families", "band_factor", "band_share"}
    if needed - set(table):
        raise _BrokenError(f"accuracy lacks {', '.join(sorted(needed - set(table)))}")
    if table["left_out"] not in ("family", "network", "file", "none"):
        raise _BrokenError(f"accuracy.left_out is {table['left_out']!r}; it is family, network, file or none")
    factor = _positive(table["band_factor"], "accuracy.band_factor")
    if factor < 1:
        raise _BrokenError(f"accuracy.band_factor is {factor}; a factor is at least 1")
    shares = sorted(names - {"left_out", "rows", "families", "band_factor"})
    numbers = {name: _number(table[name], f"accuracy.{name}") if name in table else None for name in shares}
    whole = {name: _whole(table[name], f"accuracy.{name}") for name in ("rows", "families")}
    return Accuracy(left_out=table["left_out"], band_factor=factor, **whole, **numbers)  # type: ignore[arg-type]


def _truth(item: Any, number: int) -> TruthRow:
    if not isinstance(item, dict):
        raise _BrokenError(f"truth row {number} is no table")
    _only(item, {part.name for part in fields(TruthRow)}, f"truth row {number}")
    texts = {name: item.get(name) for name in ("network", "family", "source")}
    for name, text in texts.items():
        if not isinstance(text, str) or not text:
            raise _BrokenError(f"truth row {number} has no {name}")
    left = item.get("left_out_ms")
    return TruthRow(
        **{name: str(text) for name, text in texts.items()},
        latency_ms=_positive(item.get("latency_ms"), f"latency_ms of truth row {number}"),
        left_out_ms=_positive(left, f"left_out_ms of truth row {number}") if left is not None else None,
    )


def _of(table: Mapping[str, Any], name: str, kind: type) -> Any:
    value = table.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _BrokenError(f"{name} is missing" if value is None else f"{name} is {value!r:.60}, not a {kind.__name__}")
    return value


def _words(table: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = _of(table, name, list)
    if not value or not all(isinstance(item, str) for item in value):
        raise _BrokenError(f"{name} is to be a list of words")
    return tuple(value)


def _only(table: Mapping[str, Any], known: set[str] | set[Kind], where: str) -> None:
    strange = sorted(set(table) - {str(name) for name in known})
    if strange:
        near = difflib.get_close_matches(strange[0], [str(name) for name in known], n=1)
        raise _BrokenError(f"{where}: unknown {strange[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise _BrokenError(f"{what} is {value!r:.60}, not a number of at least 0")
    return float(value)


def _positive(value: Any, what: str) -> float:
    number = _number(value, what)
    if not number:
        raise _BrokenError(f"{what} is 0; it must be above 0")
    return number


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _BrokenError(f"{what} is {value!r:.60}, not a whole number")
    return value


def dump_profile(profile: Profile) -> str:
    """The profile as a TOML file; numbers are rounded to four significant digits."""
    texts = ("name", "device", "soc", "runtime", "precision", "kind", "based_on")
    plain: list[tuple[str, Any]] = [("schema", SCHEMA), *((name, getattr(profile, name)) for name in texts)]
    for name in ("threads", "accepts", "formats", "element_bytes", "gathers", "reference_ms"):
        plain.append((name, getattr(profile, name)))
    lines = _lines(plain)
    for name in ("coefficients", "accuracy"):
        part = getattr(profile, name)
        lines += ["", f"[{name}]", *_lines([(item.name, getattr(part, item.name)) for item in fields(part)])]
    lines += ["", "[largest_share]", *_lines(sorted(profile.largest_share.items()))]
    for row in profile.truth:
        lines += ["", "[[truth]]", *_lines([(item.name, getattr(row, item.name)) for item in fields(row)])]
    return "\n".join(lines) + "\n"


def _lines(items: list[tuple[str, Any]]) -> list[str]:
    return [f"{name} = {_toml(value)}" for name, value in items if value is not None and value != ""]


def _toml(value: Any) -> str:
    kinds: dict[type, Callable[[Any], str]] = {
        bool: lambda v: "true" if v else "false",
        int: str,
        float: lambda v: repr(float(f"{v:.4g}")),
        tuple: lambda v: "[" + ", ".join(_toml(item) for item in v) + "]",
    }
    if type(value) in kinds:
        return kinds[type(value)](value)
    escaped = "".join(
        f"\\u{ord(char):04X}" if ord(char) < 32 or char == "\x7f" else f"\\{char}" if char in '\\"' else char
        for char in str(value)
    )
    return f'"{escaped}"'
