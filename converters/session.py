"""Conversions as the rest of the tool sees them: a model goes in, a verified file on disk comes out.

All converters run in one child process, started at the first conversion and started again after a crash.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import shutil
import subprocess
import time
import weakref
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np

from edgeprune.artifact import Artifact, Format, Precision, files_of, sha256_of
from edgeprune.converters.exports import INTEGER, OPSET, SIGNATURE, calibrated, check_export, check_io_type, check_opset
from edgeprune.converters.file_checks import (
    refuse_fallback,
    refuse_lost_arrays,
    refuse_lost_package_weights,
    refuse_lost_weights,
)
from edgeprune.converters.frozen import FrozenGraph, freeze
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.pictures import pixels_of, scaled_outside
from edgeprune.converters.quantizer import Ranges
from edgeprune.converters.refusals import one_line
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.converters.unrolling import rolled_layers
from edgeprune.errors import ConversionError, OutputError, Unsupported, UsageError
from edgeprune.formats import Contents, read_contents
from edgeprune.formats.input_sizes import InputSizes
from edgeprune.formats.metadata import ImageInput
from edgeprune.host.children import Child, child_process, how_it_ended
from edgeprune.host.copies import can_copy, copied_process
from edgeprune.host.scratch import scratch_folder
from edgeprune.maker.keras.starting import begun_nothing
from edgeprune.maker.keras.types import AnyModel

__all__ = ["Converter", "Exported"]

_SHOWN = 3
_WORKER = "edgeprune.converters.worker"
# The quantizer dies in a loop. tflite-runtime 2.14 computes float16 loops wrongly: XNNPACK takes the unpacking of the
# weights away from under them. float32 and dynamic loops run right on both runtimes, and make the smaller file.
UNROLLED = (Precision.FLOAT16, *INTEGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported(Artifact):
    """A file that was written, and what was read in it: it is opened once for that.

    Of an integer .tflite file `start` is the float file that the quantizer started from, where it is asked for, of
    int8 with the calibrated ranges (`converters.quantizer`);
    `left` says why kernels have float32 scales where slim ones were asked for.
    """

    contents: Contents = field(repr=False, compare=False)
    start: bytes = field(default=b"", repr=False, compare=False)
    left: tuple[str, ...] = ()

    @property
    def note(self) -> str | None:
        """The kernels whose scales stayed float32, in a line; None where none did."""
        if not self.left:
            return None
        more = f" and {len(self.left) - _SHOWN} more" if len(self.left) > _SHOWN else ""
        return f"float32 scales stay in: {'; '.join(self.left[:_SHOWN])}{more}"


class Converter:
    """The child process that converts, and the frozen graphs; both are made when first needed.

    As a context it ends them at the end of the context, otherwise `close` does, or the end of the program.

    >>> with Converter() as converter:                                                      # doctest: +SKIP
    ...     artifact = converter.export(model, Path("m.tflite"), Format.TFLITE, Precision.FLOAT32)
    """

    def __init__(self, *, timeout_s: float = 900) -> None:
        self.timeout_s = timeout_s
        self._child: Child | None = None
        self._copied = False
        self._life = contextlib.ExitStack()  # of the child and its log
        self._place = contextlib.ExitStack()  # of the folder
        self._made: Path | None = None
        self._frozen: dict[tuple[int, bool, object], tuple[AnyModel, FrozenGraph]] = {}
        self._scaled: dict[tuple[int, ImageInput], tuple[AnyModel, AnyModel, ImageInput]] = {}
        self._graphs = 0  # frozen so far, those forgotten included
        self._pending = b""
        weakref.finalize(self, _close_all, self._life, self._place)

    def __enter__(self) -> Converter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child process and remove the graphs; a later export starts afresh."""
        self._end_child()
        self._place.close()
        self._made = None
        self._frozen.clear()
        self._scaled.clear()

    @property
    def _folder(self) -> Path:
        if self._made is None:
            self._made = self._place.enter_context(scratch_folder("convert"))
        return self._made

    def export(
        self,
        model: AnyModel,
        out: Path,
        model_format: Format,
        precision: Precision,
        *,
        io_type: str = "float32",
        calibration: Mapping[str, np.ndarray] | None = None,
        app: AppOptions | None = None,
        sizes: Mapping[str, InputSizes] | None = None,
        signature: str = SIGNATURE,
        float_fallback: bool = False,
        per_tensor: bool = False,
        slim: SlimOptions | None = None,
        start: bytes = b"",
        ranges: Ranges | None = None,
        float_nodes: Collection[str] = (),
        keep_start: bool = False,
        opset: int | None = None,
        tables: Mapping[str, np.ndarray] | None = None,
    ) -> Exported:
        """Write `out` and return what it is.

        `sizes` are those of inputs that `model` leaves open; `signature` is the name of a .tflite file's signature.
        Where `slim` asks for other weights, the file is the one that they are made of: with names, without what it
        tells the app.
        Of a tflite int8 file: `ranges` by tensor name take the place of calibrated ones, the operations that make
        `float_nodes` stay in float; `keep_start` keeps the `start` of what is made, and an export with that one
        quantizes it again, which takes a hundredth of the time.
        `opset` is that of an .onnx file, whose batch is open where the model's is.
        Of a Core ML package with int8 activations `ranges` go by the names of the float16 program's values; `tables`
        are the values that constants of that program may have, by their names: no other constant has a table then.
        Raises ConversionError with the converter's reason, for an integer file that computes in float somewhere
        (unless `float_fallback` allows it) and for one without its weights; nothing is left at `out` then.
        """
        options = app or AppOptions()
        check_export(model_format, precision, options.target)
        check_io_type(model_format, precision, io_type)
        check_opset(model_format, opset)
        stored = slim or SlimOptions()
        if model_format is Format.COREML and options.image is not None:
            name = options.image.name
            if calibration:
                calibration = {**calibration, name: pixels_of(calibration[name], options.image)}
            model, image = self._scaled_outside(model, options.image)
            options = replace(options, image=image)
        what, integer = f"{model_format} {precision}", model_format is Format.TFLITE and precision in INTEGER
        unrolls = model_format is Format.COREML or (model_format is Format.TFLITE and precision in UNROLLED)
        graph = self._freeze(model, unroll=unrolls, sizes=sizes or {}, as_written=model_format is Format.ONNX)
        if graph.loops and (integer or model_format is Format.COREML):
            reader, advice = ("the quantizer", "use --precision dynamic, or ") if integer else ("coremltools", "")
            loops = ", ".join(repr(name) for name in graph.loops)
            raise Unsupported(
                f"{what}: {loops} is a loop that cannot be unrolled, and {reader} cannot read loops: "
                f"{advice}build the layer without a while_loop"
            )
        made, kept = self._place_for(out.name), self._folder / "start.tflite"
        keeps = integer and (keep_start or stored.rewrites)
        job: dict[str, object] = {
            "graph": graph.to_json(),
            "format": str(model_format),
            "precision": str(precision),
            "app": (AppOptions() if integer and stored.rewrites else options).to_json(),
            "signature": signature,
            "io_type": io_type,
            "out": str(made),
            "float_fallback": float_fallback,
            "per_tensor": per_tensor,
            "scales": str(stored.scales),
            "drop_names": stored.drop_names and not stored.rewrites,
            "start": str(kept) if keeps else None,
            "ranges": dict(ranges or {}),
            "float_nodes": list(float_nodes),
            "opset": opset or OPSET,
            "tables": None,
        }
        if tables is not None or (stored.searches and not integer):
            job["tables"] = str(self._folder / "tables.npz")
            np.savez(self._folder / "tables.npz", **dict(tables or {}))
        if integer and start:
            (self._folder / "begin.tflite").write_bytes(start)
            job["begin"] = str(self._folder / "begin.tflite")
        elif calibrated(model_format, precision):
            job["calibration"] = str(self._write_calibration(calibration, precision))
        if self._copied and model_format is Format.ONNX:
            self._end_child()  # a copy has this process's order of sets
        reply = self._ask(job, what)
        if not made.exists():
            raise ConversionError(f"{out.name}: the {model_format} converter reported success but wrote no file")
        _move(made, out)
        contents = _checked(out, graph, precision, float_fallback=float_fallback or bool(float_nodes) or not integer)
        return Exported(
            path=out,
            format=model_format,
            precision=precision,
            sha256=sha256_of(out),
            contents=contents,
            start=kept.read_bytes() if keeps else b"",
            left=tuple(map(str, cast("list[object]", reply.get("left", [])))),
        )

    def start(self) -> None:
        """Start the child early; its imports then run beside other work, or are those of this process where nothing was
        computed yet."""
        if self._child is None:
            # A file, not a pipe: nobody has to read what the converters say while they say it.
            self._log = self._life.enter_context((self._folder / "log.txt").open("w+b"))
            self._copied = begun_nothing() and can_copy()
            self._child = self._life.enter_context(self._copy() if self._copied else self._fresh())
            self._pending = b""

    def _copy(self) -> AbstractContextManager[Child]:
        return copied_process(_WORKER, writable=[self._folder], stderr=self._log, settings={})

    def _fresh(self) -> AbstractContextManager[Child]:
        return child_process(
            ["-m", _WORKER],
            writable=[self._folder],
            stdin=subprocess.PIPE,
            stderr=self._log,
            settings={"PYTHONHASHSEED": "0"},  # tf2onnx goes through sets of names
        )

    def forget(self, model: AnyModel) -> None:
        """Let go of a model that is not exported again, and of its graphs: otherwise both are kept for more exports."""
        scaled = [key for key, (known, _, _) in self._scaled.items() if known is model]
        gone = [model, *(self._scaled.pop(key)[1] for key in scaled)]
        for key in [key for key, (known, _) in self._frozen.items() if any(known is one for one in gone)]:
            self._frozen.pop(key)[1].path.unlink(missing_ok=True)

    def _scaled_outside(self, model: AnyModel, image: ImageInput) -> tuple[AnyModel, ImageInput]:
        known = self._scaled.get((id(model), image))
        if known is None:
            known = self._scaled[id(model), image] = (model, *scaled_outside(model, image))
        return known[1:]

    def _freeze(
        self, model: AnyModel, *, unroll: bool, sizes: Mapping[str, InputSizes], as_written: bool = False
    ) -> FrozenGraph:
        key = (id(model), unroll and bool(rolled_layers(model)), (as_written, *sizes.items()))
        known = self._frozen.get(key)
        if known is None:
            self._graphs += 1
            path = self._folder / f"graph{self._graphs}.pb"
            known = self._frozen[key] = (model, freeze(model, path, unroll=key[1], sizes=sizes, as_written=as_written))
        return known[1]

    def scratch(self, name: str) -> Path:
        """A place for a file that is looked at and not kept: it goes when the converter is closed."""
        return self._folder / name

    def _place_for(self, name: str) -> Path:
        """Where the child, which may write nowhere else, writes a file of that name; nothing is there yet."""
        place = self._folder / "made"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place / name

    def _write_calibration(self, calibration: Mapping[str, np.ndarray] | None, precision: Precision) -> Path:
        if not calibration or not all(len(array) for array in calibration.values()):
            raise UsageError(
                f"{precision} needs a calibration set: samples of the training data (--calibration DATA.npz)"
            )
        path = self._folder / "calibration.npz"
        np.savez(path, **{name: np.asarray(array) for name, array in calibration.items()})
        return path

    def _ask(self, job: Mapping[str, object], what: str) -> dict[str, object]:
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
        reply: dict[str, object] = json.loads(line)
        if not reply.pop("ok"):
            kind, reason = str(reply["kind"]), str(reply["reason"])
            raise ConversionError(f"{what}: {one_line(kind, reason, str(job['precision']))}")
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
        return ConversionError(f"{what}: the converter's process {how_it_ended(code)}{': ' + tail if tail else ''}")

    def _log_tail(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read()[-4000:].decode(errors="replace").splitlines()]
        # TensorFlow's own log lines (I0000 00:00 ...) come last and are never the cause.
        told = (line[:200] for line in reversed(lines) if line and not re.match(r"[IWE]\d{4} |WARNING:", line))
        return next(told, "")

    def _end_child(self) -> None:
        self._child, self._copied = None, False
        self._life.close()  # kills it: it holds no state worth an orderly end


def _close_all(*stacks: contextlib.ExitStack) -> None:
    for stack in stacks:
        stack.close()


def _move(made: Path, out: Path) -> None:
    """Move what was made to `out`, where a file is replaced. Raises OutputError."""
    try:
        try:
            made.replace(out)
        except OSError as cause:
            if cause.errno != errno.EXDEV:
                raise
            for file in files_of(made):  # shutil.copytree gathers what goes wrong in a list and says it in Python
                place = out / file.relative_to(made)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
    except OSError as cause:
        raise OutputError(f"{out}: cannot be written: {cause.strerror or cause}") from cause


def _checked(path: Path, graph: FrozenGraph, precision: Precision, *, float_fallback: bool) -> Contents:
    """What is in the file. Raises for what the converter did without a word; the file is gone then."""
    try:
        contents = read_contents(path)
        if contents.package is not None:
            refuse_lost_package_weights(contents.package, graph.constants)
        elif contents.graph is not None:
            refuse_lost_weights(contents.graph, graph.constants)
            if not float_fallback:
                refuse_fallback(contents.graph, precision)
        else:
            refuse_lost_arrays(contents, graph.constants)
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        raise
    return contents
