"""Conversions as the rest of the tool sees them: a model goes in, a verified file on disk comes out.

All converters run in one child process, started at the first conversion and started again after a crash.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgeprune.artifact import Artifact, Format, Precision
from edgeprune.converters.coreml import TARGETS, CoreMlOptions
from edgeprune.converters.frozen import FrozenGraph, freeze
from edgeprune.errors import ConversionError, MissingExtra, UsageError
from edgeprune.interrupts import child_process, scratch_folder

__all__ = ["Converter", "check_export"]

EXPORTS: dict[Format, tuple[Precision, ...]] = {
    Format.TFLITE: (Precision.FLOAT32, Precision.FLOAT16, Precision.DYNAMIC, Precision.INT8),
    Format.COREML: (
        Precision.FLOAT32,
        Precision.FLOAT16,
        Precision.INT8,
        Precision.PALETTE2,
        Precision.PALETTE4,
        Precision.PALETTE6,
        Precision.PALETTE8,
        Precision.SPARSE,
        Precision.SPARSE_INT8,
        Precision.SPARSE_PALETTE4,
        Precision.SPARSE_PALETTE6,
        Precision.SPARSE_PALETTE8,
    ),
}
SUFFIXES = {Format.TFLITE: ".tflite", Format.COREML: ".mlpackage"}


def check_export(model_format: Format, precision: Precision, target: str = "iOS16") -> None:
    """Raise UsageError for a combination that cannot be exported. Nothing heavy is imported."""
    known = EXPORTS.get(model_format)
    if known is None or precision not in known:
        names = ", ".join(known or ())
        raise UsageError(f"{model_format} has no precision {str(precision)!r}; it has: {names}")
    if model_format is Format.COREML:
        if importlib.util.find_spec("coremltools") is None:
            raise MissingExtra("coremltools", "convert", "a Core ML export")
        _check_target(precision, target)


def _check_target(precision: Precision, target: str) -> None:
    if target not in TARGETS:
        raise UsageError(f"unknown deployment target {target!r}; known: {', '.join(TARGETS)}")
    joint, compressed = precision.startswith("sparse-"), precision not in (Precision.FLOAT32, Precision.FLOAT16)
    if joint and TARGETS[target] != "joint":
        raise UsageError(
            f"Core ML {precision} weights need iOS 18 and the deployment target is {target}; "
            f"choose the deployment target iOS18, or export {precision.removeprefix('sparse-')} or sparse"
        )
    if compressed and TARGETS[target] == "plain":
        raise UsageError(
            f"Core ML {precision} weights need iOS 16 or newer and the deployment target is {target}; "
            "choose the deployment target iOS16 or newer, or export float16"
        )
    if precision.endswith(("palette2", "palette4", "palette6", "palette8")) and not importlib.util.find_spec("sklearn"):
        raise MissingExtra("scikit-learn", "convert", "a palette of weights")


class Converter:
    """A context that owns the child process and the frozen graphs.

    >>> with Converter() as converter:                                                      # doctest: +SKIP
    ...     artifact = converter.export(model, Path("m.tflite"), Format.TFLITE, Precision.FLOAT32)
    """

    def __init__(self, *, timeout_s: float = 900) -> None:
        self.timeout_s = timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._life = contextlib.ExitStack()  # of the child and its log
        self._frozen: dict[int, tuple[Any, FrozenGraph]] = {}
        self._pending = b""

    def __enter__(self) -> Converter:
        self._stack = contextlib.ExitStack()
        self._folder = self._stack.enter_context(scratch_folder("edgeprune-convert-"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_child()
        self._stack.close()

    def export(
        self,
        model: Any,
        out: Path,
        model_format: Format,
        precision: Precision,
        *,
        io_type: str = "float32",
        calibration: Mapping[str, np.ndarray] | None = None,
        coreml: CoreMlOptions | None = None,
    ) -> Artifact:
        """Write `out` and return its artifact.

        Raises ConversionError with the converter's reason; nothing is left at `out` then.
        """
        options = coreml or CoreMlOptions()
        check_export(model_format, precision, options.target)
        job: dict[str, Any] = {
            "graph": self._freeze(model).to_json(),
            "format": str(model_format),
            "precision": str(precision),
            "coreml": options.to_json(),
            "io_type": io_type,
            "out": str(out.resolve()),
        }
        if precision is Precision.INT8 and model_format is Format.TFLITE:
            job["calibration"] = str(self._write_calibration(calibration))
        self._ask(job, f"{model_format} {precision}")
        if not out.exists():
            raise ConversionError(f"{out.name}: the {model_format} converter reported success but wrote no file")
        return Artifact.of(out, model_format, precision)

    def start(self) -> None:
        """Start the child early; its imports then run beside other work."""
        if self._child is None:
            # A file, not a pipe: nobody has to read what the converters say while they say it.
            self._log = self._life.enter_context((self._folder / "log.txt").open("w+b"))
            self._child = self._life.enter_context(child_process(self._popen))
            self._pending = b""

    def _popen(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "edgeprune.converters.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "TMPDIR": str(self._folder)},  # it is killed, and leaves its files there
            start_new_session=True,
        )

    def _freeze(self, model: Any) -> FrozenGraph:
        known = self._frozen.get(id(model))
        if known is None:
            path = self._folder / f"graph{len(self._frozen)}.pb"
            known = self._frozen[id(model)] = (model, freeze(model, path))
        return known[1]

    def _write_calibration(self, calibration: Mapping[str, np.ndarray] | None) -> Path:
        if not calibration or not all(len(array) for array in calibration.values()):
            raise UsageError("int8 needs a calibration set: samples of the training data (--calibration DATA.npz)")
        path = self._folder / "calibration.npz"
        np.savez(path, **{name: np.asarray(array) for name, array in calibration.items()})
        return path

    def _ask(self, job: Mapping[str, Any], what: str) -> dict[str, Any]:
        self.start()
        assert self._child is not None
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(job).encode() + b"\n")
            self._child.stdin.flush()
            line = self._read_line(what)
        except BrokenPipeError:
            line = b""
        if not line:
            raise self._crash(what)
        reply: dict[str, Any] = json.loads(line)
        if not reply.pop("ok"):
            raise ConversionError(f"{what}: {one_line(reply['kind'], reply['reason'])}")
        return reply

    def _read_line(self, what: str) -> bytes:
        """The next reply, or b"" when the child is gone. Raises ConversionError after `timeout_s`."""
        assert self._child is not None
        assert self._child.stdout is not None
        until = time.monotonic() + self.timeout_s
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._child.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                self._end_child()
                raise ConversionError(f"{what}: the converter did not finish within {self.timeout_s:g} s and was ended")
            block = os.read(self._child.stdout.fileno(), 1 << 16)
            if not block:
                return b""
            self._pending += block
        line, self._pending = self._pending.split(b"\n", 1)
        return line

    def _crash(self, what: str) -> ConversionError:
        assert self._child is not None
        code = self._child.wait()
        tail = self._log_tail()
        self._end_child()
        died = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        advice = "; recurrent layers convert as float32, float16 or dynamic only" if "int8" in what else ""
        return ConversionError(f"{what}: the converter's process {died}{': ' + tail if tail else ''}{advice}")

    def _log_tail(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read()[-4000:].decode(errors="replace").splitlines()]
        # TensorFlow's own log lines (I0000 00:00 ...) come last and are never the cause.
        told = (line[:200] for line in reversed(lines) if line and not re.match(r"[IWE]\d{4} |WARNING:", line))
        return next(told, "")

    def _end_child(self) -> None:
        self._child = None
        self._life.close()  # kills it: it holds no state worth an orderly end


def one_line(kind: str, reason: str) -> str:
    """The telling line of a converter's long complaint."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    telling = next((line for line in lines if "error:" in line or "not " in line), lines[0] if lines else kind)
    return telling[:300] if telling.startswith(kind) else f"{kind}: {telling[:300]}"
