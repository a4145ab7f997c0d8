"""Latencies that a user has measured, read from a CSV or from what LiteRT's benchmark_model prints.

CSV: a header with the columns file and latency_ms, others are ignored (family, when given, groups networks).
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from edgeprune.checker.latency.benchmark_log import RunSettings, is_benchmark_log, timed_runs
from edgeprune.errors import InputError
from edgeprune.host.untrusted import read_whole, status_of, text_of

__all__ = ["Measurement", "read_measurements"]

_MAX_BYTES = 64_000_000
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_UNITS = {"latency_us": "microseconds", "latency_s": "seconds", "latency_ns": "nanoseconds", "latency": "no unit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured file; `row` is its line in the CSV, or which run of benchmark_model it is, both from 1.

    `repeats` are other rows with the same file; `latency_ms` is then the median over all of them. `settings` are what
    a log says of the run.
    """

    row: int
    file: Path
    latency_ms: float
    family: str = ""
    repeats: tuple[int, ...] = ()
    settings: RunSettings = field(default_factory=RunSettings)


def read_measurements(path: Path, models: Path | None = None) -> tuple[Measurement, ...]:
    """The measurements in a CSV or a text of benchmark_model.

    Files are looked up in `models`, by default the folder of the measurements; of a path on the phone only the last
    part counts. Raises InputError, which names the row, for a bad number, a wrong unit, or a file that is not there.
    """
    text = _text(path)
    folder = models or path.parent
    head = text.lstrip("\n\r \ufeff").partition("\n")[0].lower()
    logged = is_benchmark_log(text) and not ("file" in head and "latency_ms" in head)
    found = _benchmarked(path, text, folder) if logged else _tabled(path, text, folder)
    if not found:
        raise InputError(f"{path}: no measurements in it; a CSV needs the columns file and latency_ms and a row")
    return found


def _text(path: Path) -> str:
    content = read_whole(path, "a .csv of measurements, or a log of benchmark_model", most_bytes=_MAX_BYTES)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:1000]:
        raise InputError(f"{path} is UTF-16 or no text; save it as UTF-8 (in Excel: CSV UTF-8, not Unicode text)")
    return text_of(path, content)


def _benchmarked(path: Path, text: str, folder: Path) -> tuple[Measurement, ...]:
    return tuple(
        Measurement(
            row=run.number,
            file=_located(f"{path}, run {run.number}", run.model, folder),
            latency_ms=run.latency_ms,
            settings=run.settings,
        )
        for run in timed_runs(str(path), text)
    )


def _tabled(path: Path, text: str, folder: Path) -> tuple[Measurement, ...]:
    try:
        rows = list(csv.reader(io.StringIO(text)))
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV: {error}") from error
    head = [name.strip().lower() for name in rows[0]] if rows else []
    wrong = next((name for name in head if name in _UNITS), None)
    if wrong and "latency_ms" not in head:
        raise InputError(f"{path}, row 1: column {wrong!r} ({_UNITS[wrong]}); give milliseconds in a column latency_ms")
    for name in ("file", "latency_ms"):
        if name not in head:
            raise InputError(
                f"{path}, row 1: no column {name!r} in the header; it needs file and latency_ms{_header_hint(head)}"
            )
    for name in ("file", "latency_ms", "family"):
        if head.count(name) > 1:
            raise InputError(f"{path}, row 1: {head.count(name)} columns {name!r}; keep one")
    found = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        where = f"{path}, row {number}"
        if len(row) < len(head):
            raise InputError(f"{where}: {len(row)} cells where the header has {len(head)}")
        if any(cell.strip() for cell in row[len(head) :]):
            raise InputError(
                f"{where}: {len(row)} cells where the header has {len(head)}; is there a decimal comma? "
                "Write 3.5, not 3,5"
            )
        cells = dict(zip(head, (cell.strip() for cell in row), strict=False))
        file = _located(where, cells["file"], folder)
        latency_ms = _positive(where, cells["latency_ms"], "latency_ms")
        found.append(Measurement(row=number, file=file, latency_ms=latency_ms, family=cells.get("family", "")))
    return tuple(found)


def _header_hint(head: Sequence[str]) -> str:
    """What else the header may be."""
    first = head[0] if head else ""
    if first.startswith(("#", "//")):
        return "; it begins with a comment: the header is to be the first line"
    separator = next((sign for sign in "\t;|" if sign in "".join(head)), "")
    if not separator:
        return ""
    return f"; it is separated by {'tabs' if separator == chr(9) else repr(separator)}, and a CSV by commas"


def _positive(where: str, text: str, column: str) -> float:
    if not _NUMBER.fullmatch(text):
        unit = " (numbers only, in milliseconds)" if re.search(r"\d\s*[a-zA-Zµ]+$", text) else ""
        unit = " (a decimal comma? write a point)" if re.fullmatch(r"\d+,\d+", text) else unit
        raise InputError(f"{where}: {column} is {text!r:.40}, not a number{unit}")
    value = float(text)
    if not math.isfinite(value) or value <= 0:
        raise InputError(f"{where}: {column} is {text!r:.40}; a latency is above 0")
    return value


def _located(where: str, name: str, folder: Path) -> Path:
    if not name or "\0" in name:
        raise InputError(f"{where}: no file name")
    for place in (folder / name, folder / PurePosixPath(name.replace("\\", "/")).name):
        if not place.exists():
            continue
        try:
            status_of(place)
        except InputError as cause:
            raise InputError(f"{where}: {cause}") from cause
        return place
    raise InputError(f"{where}: {name} is not in {folder}; say where the models are: --models FOLDER")
