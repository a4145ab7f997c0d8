"""Latencies that a user has measured, read from a CSV or from what LiteRT's benchmark_model prints.

CSV: a header with the columns file and latency_ms, others are ignored (family, when given, groups networks).
benchmark_model: google-ai-edge/LiteRT, tflite/tools/benchmark, README; its times are microseconds.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgeprune.errors import InputError

__all__ = ["Measurement", "read_measurements"]

_MAX_BYTES = 64_000_000
_GRAPH = re.compile(r"Graph: \[(?P<path>[^\]\n]+)\]")
# "Inference timings in us: ... Inference (avg): 14575.2"; in 2019 "Average inference timings in us: ... no stats: 79"
_TIMES = re.compile(
    r"[Ii]nference timings in us:.*?(?:Inference \(avg\)|no stats|Inference): (?P<us>[0-9.eE+]+)", re.DOTALL
)
_UNITS = {"latency_us": "microseconds", "latency_s": "seconds", "latency_ns": "nanoseconds", "latency": "no unit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured file; `row` is its line in the CSV, or which run of benchmark_model it is, both from 1.

    `repeats` are other rows with the same file; `latency_ms` is then the median over all of them.
    """

    row: int
    file: Path
    latency_ms: float
    family: str = ""
    repeats: tuple[int, ...] = ()


def read_measurements(path: Path, models: Path | None = None) -> tuple[Measurement, ...]:
    """The measurements in a CSV or a text of benchmark_model.

    Files are looked up in `models`, by default the folder of the measurements; of a path on the phone only the last
    part counts. Raises InputError, which names the row, for a bad number, a wrong unit, or a file that is not there.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: too large for measurements ({_MAX_BYTES:,} bytes at most)")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text: byte {error.start} is not UTF-8") from error
    folder = models or path.parent
    found = _benchmarked(path, text, folder) if "nference timings in us" in text else _tabled(path, text, folder)
    if not found:
        raise InputError(f"{path}: no measurements in it; a CSV needs the columns file and latency_ms and a row")
    return found


def _benchmarked(path: Path, text: str, folder: Path) -> tuple[Measurement, ...]:
    graphs = list(_GRAPH.finditer(text))
    if not graphs:
        raise InputError(f"{path}: output of benchmark_model without a line 'Graph: [...]'; keep all that it prints")
    found = []
    for number, graph in enumerate(graphs, start=1):
        end = graphs[number].start() if number < len(graphs) else len(text)
        times = list(_TIMES.finditer(text, graph.end(), end))
        if not times:
            continue  # benchmark_model names the graph once more among its parameters
        where = f"{path}, run {number}"
        file = _located(where, PurePosixPath(graph["path"]).name, folder)
        found.append(Measurement(row=number, file=file, latency_ms=_positive(where, times[-1]["us"], "") / 1000))
    return tuple(found)


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
            raise InputError(f"{path}, row 1: no column {name!r} in the header; it needs file and latency_ms")
    found = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        where = f"{path}, row {number}"
        if len(row) < len(head):
            raise InputError(f"{where}: {len(row)} cells where the header has {len(head)}")
        cells = dict(zip(head, (cell.strip() for cell in row), strict=False))
        file = _located(where, cells["file"], folder)
        latency_ms = _positive(where, cells["latency_ms"], "latency_ms")
        found.append(Measurement(row=number, file=file, latency_ms=latency_ms, family=cells.get("family", "")))
    return tuple(found)


def _positive(where: str, text: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        unit = " (numbers only, in milliseconds)" if re.search(r"\d\s*[a-zA-Zµ]+$", text) else ""
        raise InputError(f"{where}: {column} is {text!r:.40}, not a number{unit}") from None
    if not math.isfinite(value) or value <= 0:
        raise InputError(f"{where}: {column or 'the time'} is {text!r:.40}; a latency is above 0")
    return value


def _located(where: str, name: str, folder: Path) -> Path:
    if not name or "\0" in name:
        raise InputError(f"{where}: no file name")
    for place in (folder / name, folder / PurePosixPath(name.replace("\\", "/")).name):
        if place.exists():
            return place
    raise InputError(f"{where}: {name} is not in {folder}; say where the models are: --models FOLDER")
