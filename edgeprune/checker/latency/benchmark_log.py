"""What LiteRT's benchmark_model prints, run by run: the model, the mean latency, and how it was run.

google-ai-edge/LiteRT, tflite/tools/benchmark (TensorFlow Lite from 2019 on: "Inference timings in us") and
litert/tools/benchmark_litert_model.h (LiteRT 2: "Inference (avg): 0.95 ms (1054 runs)"). A run begins at "STARTING!"
or, where the log was cut, at the next model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from edgeprune.errors import InputError

__all__ = ["RunSettings", "Timed", "is_benchmark_log", "timed_runs"]

_SIGNS = ("STARTING!", "Graph: [", "nference timings in us", "Inference (avg)")
_MODEL = re.compile(r"Graph: \[([^\]]+)\]|Loading model from: (.+)|Loaded model (.+)")
# "Inference timings in us: ... Inference (avg): 14575.2"; in 2019 "Average inference timings in us: ... no stats: 79"
_TIMINGS = "nference timings in us:"
_MICROSECONDS = re.compile(r"(?:Inference \(avg\)|no stats|Inference): ([^\s,]+)")
_MILLISECONDS = re.compile(r"Inference \(avg\): +(\S+) ms")
_MEAN = re.compile(r"\bavg=([0-9]+(?:\.[0-9]+)?(?:e\+[0-9]+)?)")  # microseconds, of the warm-up and then of the run
_ROUNDING_MS = 0.0051  # LiteRT 2 prints two decimals
_THREADS = re.compile(r"(?:Num threads|#threads used for CPU inference): \[(\d{1,4})\]")
_USE = re.compile(r"Use (gpu|nnapi|hexagon|coreml|npu|xnnpack)\s*: \[(\w+)\]", re.IGNORECASE)
_APPLIED = re.compile(r"applied (GPU|NNAPI|Hexagon|CoreML|XNNPACK) delegate", re.IGNORECASE)
_REPLACED = re.compile(r"with delegate \((\w+)\)")  # TfLiteGpuDelegateV2, TfLiteNnapiDelegate, TfLiteXNNPackDelegate
_XNNPACK = "Created TensorFlow Lite XNNPACK delegate"
_WORDS = {"gpu": "GPU", "nnapi": "NNAPI", "hexagon": "Hexagon", "qnn": "Hexagon", "coreml": "Core ML", "npu": "NPU"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How a latency was measured, as far as the log says: `threads` and `xnnpack` are None where it does not.

    `accelerator` is GPU, NNAPI, Hexagon, Core ML, NPU, or empty: the log names none.
    """

    threads: int | None = None
    accelerator: str = ""
    xnnpack: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One run: its number from 1, the name of the model without the folders of the phone, the mean in milliseconds."""

    number: int
    model: str
    latency_ms: float
    settings: RunSettings


@dataclass(slots=True)
class _Run:
    lines: list[str] = field(default_factory=list)
    model: str = ""
    results: list[str] = field(default_factory=list)


def is_benchmark_log(text: str) -> bool:
    """Whether benchmark_model has printed this, and not a table of measurements."""
    return any(sign in text for sign in _SIGNS)


def timed_runs(where: str, text: str) -> tuple[Timed, ...]:
    """The runs in a log; `where` names it in errors.

    Raises InputError, which names the run, for one that names no model or has no result, two different ones, or one
    that is no latency.
    """
    return tuple(_timed(f"{where}, run {number}", number, run) for number, run in enumerate(_runs(text), start=1))


def _runs(text: str) -> Iterator[_Run]:
    run = _Run()
    for line in text.splitlines():
        named = _MODEL.search(line)
        model = PurePosixPath(next(filter(None, named.groups())).strip().replace("\\", "/")).name if named else ""
        other = bool(model and run.model and (run.results or model != run.model))
        if run.lines and ("STARTING!" in line or other):
            yield run
            run = _Run()
        if run.lines or model or any(sign in line for sign in _SIGNS):
            run.lines.append(line)
        run.model = run.model or model
        if _microseconds(line) or _MILLISECONDS.search(line):
            run.results.append(line)
    if run.lines:
        yield run


def _microseconds(line: str) -> re.Match[str] | None:
    return _MICROSECONDS.search(line, line.index(_TIMINGS)) if _TIMINGS in line else None


def _timed(where: str, number: int, run: _Run) -> Timed:
    if not run.model:
        raise InputError(
            f"{where}: no line names the model ('Graph: [...]' or 'Loading model from: ...'); keep all that "
            "benchmark_model prints"
        )
    if not run.results:
        raise InputError(f"{where}: {run.model} has no result; take the run out of the log, or measure it again")
    means = [_latency_ms(where, run, line) for line in run.results]
    if max(means) - min(means) > 2 * _ROUNDING_MS:
        raise InputError(f"{where}: {run.model} has {len(means)} results; keep each run with its own 'STARTING!' line")
    return Timed(number=number, model=run.model, latency_ms=means[0], settings=_settings(run))


def _latency_ms(where: str, run: _Run, line: str) -> float:
    microseconds, milliseconds = _microseconds(line), _MILLISECONDS.search(line)
    text = microseconds[1] if microseconds else milliseconds[1] if milliseconds else ""
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: the time of {run.model} is {text!r:.40}, not a number") from None
    told = value / 1000 if microseconds else value
    if not microseconds:
        exact = [float(mean[1]) / 1000 for mean in map(_MEAN.search, run.lines) if mean]
        told = next((ms for ms in reversed(exact) if abs(ms - value) <= _ROUNDING_MS), told)
    if not math.isfinite(told) or told <= 0:
        raise InputError(f"{where}: the time of {run.model} is {text!r:.40}; a latency is above 0")
    return told


def _settings(run: _Run) -> RunSettings:
    threads, accelerators, xnnpack = None, [], None
    for line in run.lines:
        if found := _THREADS.search(line):
            threads = int(found[1]) or threads
        if _XNNPACK in line:
            xnnpack = True if xnnpack is None else xnnpack
        for name, on in [(use[1], use[2]) for use in _USE.finditer(line)] + [
            (match[1], "1") for pattern in (_APPLIED, _REPLACED) if (match := pattern.search(line))
        ]:
            if "xnnpack" in name.lower():
                xnnpack = on.lower() in ("1", "true")
            elif on.lower() in ("1", "true"):
                accelerators += [word for key, word in _WORDS.items() if key in name.lower()]
    return RunSettings(threads=threads, accelerator=accelerators[0] if accelerators else "", xnnpack=xnnpack)
