"""The parent's side of inference: start a worker process, hand it a job, turn whatever happens there into one line.

The interpreter is never imported here. A crash, a hang or a refusal in the worker is a RuntimeFailure; the worker is
in a session of its own, so that it can be killed whole, and it is dead and reaped when a call here returns or raises.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgeprune.artifact import Format
from edgeprune.errors import MissingExtra, OutputError, RuntimeFailure, UsageError
from edgeprune.host.children import child_process, kill
from edgeprune.host.scratch import scratch_folder
from edgeprune.host.untrusted import check_file
from edgeprune.runtime.runtimes import ONNX_RUNTIMES, RUNTIMES, RuntimeSpec, runtimes_of

__all__ = [
    "RunResult",
    "TraceResult",
    "TracedTensor",
    "ask",
    "ask_worker",
    "installed_runtimes",
    "newest_runtime",
    "run_onnx",
    "run_tflite",
    "trace_tflite",
]

Progress = Callable[[int, int], None]
Lines = queue.SimpleQueue[bytes | None]
Rows = Any  # a NumPy array [samples, ...], or what gives slices of one

ONNX_BATCH = 16  # samples at once, where an .onnx file takes any number
PART_BYTES = 128_000_000  # of the samples that one process gets
# From here on a file is given two threads. Those of a small model wait for each other at each of its operations, and a
# waiting one spins: where others use the machine too, tflite-runtime 2.14 took 33 times the CPU time with two of them
# (a float32 file of 1 MB and 6.5 M MACs: 6.0 instead of 0.18 ms; int8: 23 instead of 1.8), LiteRT 2.3 twice.
LARGE_BYTES = 4_000_000

WORKER = "edgeprune.runtime.worker"
CHATTER = ("INFO:", "WARNING:", "I0000", "W0000")  # how the interpreters begin what is no error
NUMPY_2_SIGNS = ("CreateWrapperFromFile", "_ARRAY_API not found", "numpy.core.multiarray failed to import")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a file computed: outputs by name in the file's order, each (N, ...), float32 or the file's integers.

    `input_dtypes` and `output_dtypes` are the file's own types by name, before and after (de)quantization.
    """

    outputs: dict[str, npt.NDArray[Any]]
    runtime: str
    version: str
    samples: int
    input_dtypes: dict[str, str]
    output_dtypes: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedTensor:
    """What an op wrote: the tensor's name, type and shape in the file (batch first), the kind of the op, and float32
    values (N, ...); `values` is None with the reason in `note`."""

    name: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    values: npt.NDArray[Any] | None
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceResult:
    """Every tensor that an op of the main subgraph wrote and that depends on an input, in execution order."""

    tensors: tuple[TracedTensor, ...]
    runtime: str
    version: str
    samples: int


def installed_runtimes(model_format: Format = Format.TFLITE) -> dict[str, str]:
    """Name -> version of every installed runtime of a format, oldest runtime first; nothing is imported."""
    found = {}
    for name, spec in runtimes_of(model_format).items():
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(spec.distribution)
    return found


def newest_runtime(model_format: Format = Format.TFLITE) -> str:
    """The name of the newest of the installed runtimes of a format; there is one."""
    return list(installed_runtimes(model_format))[-1]


def run_onnx(
    path: Path,
    inputs: Mapping[str, Rows],
    *,
    runtime: str = "onnxruntime",
    threads: int | None = None,
    timeout_s: float = 600,
    on_progress: Progress | None = None,
) -> RunResult:
    """Run an .onnx file over N samples: as `run_tflite` does, but where the batch of all its inputs and outputs is free
    the first sample goes alone and the others ONNX_BATCH at once, so that outputs tell of both."""
    return _run_parts(
        path, inputs, runtime=runtime, threads=threads, timeout_s=timeout_s, on_progress=on_progress, batch=ONNX_BATCH
    )


def run_tflite(
    path: Path,
    inputs: Mapping[str, Rows],
    *,
    runtime: str,
    threads: int | None = None,
    timeout_s: float = 600,
    on_progress: Progress | None = None,
) -> RunResult:
    """Run a .tflite file over N samples, one per invoke, in a process of its own (several, one after the other, where
    the samples take more than PART_BYTES).

    `inputs` maps input names (of the file's signature, else of its tensors) to arrays (N, ...) of float, integer or
    bool; a file with a single input takes any name. Where the file's input is quantized, real numbers are quantized
    with its scale and zero point (round half to even, clipped) and an array of the file's own integer type is fed as
    it is; quantized outputs come back as float32. `on_progress` gets (samples done, N). `threads` is two for a file of
    LARGE_BYTES and one for a smaller one, where it is left out.

    Raises MissingExtra, UsageError (unknown runtime), InputError (no such file), OutputError (no room for the
    samples) and RuntimeFailure (refused file, wrong names or shapes, NaN, crash, or no end within `timeout_s`).
    """
    return _run_parts(
        path, inputs, runtime=runtime, threads=threads, timeout_s=timeout_s, on_progress=on_progress, batch=1
    )


def _run_parts(
    path: Path,
    inputs: Mapping[str, Rows],
    *,
    runtime: str,
    threads: int | None,
    timeout_s: float,
    on_progress: Progress | None,
    batch: int,
) -> RunResult:
    """Samples that are more than one process gets, one process after the other."""
    count = min((len(rows) for rows in inputs.values()), default=0)
    row_bytes = sum(_row_bytes(rows) for rows in inputs.values())
    step = max(1, PART_BYTES // max(1, row_bytes))
    threads = threads or _threads_for(path)
    parts = []
    for start in range(0, max(1, count), step):

        def told(done: int, _: int, start: int = start) -> None:
            if on_progress is not None:
                on_progress(start + done, count)

        some = {name: rows[start : start + step] for name, rows in inputs.items()} if count > step else inputs
        parts.append(
            _run_part(path, some, runtime=runtime, threads=threads, timeout_s=timeout_s, on_progress=told, batch=batch)
        )
    first = parts[0]
    if len(parts) == 1:
        return first
    outputs = {name: np.concatenate([part.outputs[name] for part in parts]) for name in first.outputs}
    return replace(first, outputs=outputs, samples=sum(part.samples for part in parts))


def _threads_for(path: Path) -> int:
    return 2 if path.is_file() and path.stat().st_size >= LARGE_BYTES else 1


def _row_bytes(rows: Rows) -> int:
    return int(rows.dtype.itemsize * np.prod(rows.shape[1:], dtype=np.int64))


def _run_part(
    path: Path,
    inputs: Mapping[str, Rows],
    *,
    runtime: str,
    threads: int,
    timeout_s: float,
    on_progress: Progress,
    batch: int,
) -> RunResult:
    """`run_tflite` of samples that fit into memory, in one process."""
    with scratch_folder() as folder:
        job = {
            "job": "run",
            "path": str(path.absolute()),
            "threads": threads,
            "names": list(inputs),
            "inputs": str(folder),
            "outputs": str(folder / "outputs.npz"),
            "batch": batch,
        }
        _write_samples(folder, path, inputs)
        result = ask_worker(job, [path], runtime=runtime, timeout_s=timeout_s, on_progress=on_progress)
        with np.load(folder / "outputs.npz", allow_pickle=False) as file:
            outputs = {name: file[str(i)] for i, name in enumerate(result["output_names"])}
    return RunResult(
        outputs=outputs,
        runtime=runtime,
        version=_installed(runtime)[1],
        samples=result["samples"],
        input_dtypes=result["input_dtypes"],
        output_dtypes=result["output_dtypes"],
    )


def trace_tflite(
    path: Path,
    inputs: Mapping[str, Rows],
    *,
    runtime: str,
    threads: int = 1,
    timeout_s: float = 600,
    limit_bytes: int = 64_000_000,
) -> TraceResult:
    """Run a .tflite file over a few samples without delegates, and keep what every op computes.

    Takes `inputs` and raises as `run_tflite` does, except that NaN is a value. Tensors whose values over all samples
    take more than `limit_bytes`, hold no numbers or change their shape are named without values.
    """
    with scratch_folder() as folder:
        job = {
            "job": "trace",
            "path": str(path.absolute()),
            "threads": threads,
            "names": list(inputs),
            "inputs": str(folder),
            "outputs": str(folder / "outputs.npz"),
            "limit_bytes": limit_bytes,
        }
        _write_samples(folder, path, inputs)
        result = ask_worker(job, [path], runtime=runtime, timeout_s=timeout_s, on_progress=None)
        with np.load(folder / "outputs.npz", allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
    traced = (
        TracedTensor(**{**told, "shape": tuple(told["shape"])}, values=values.get(str(n)))
        for n, told in enumerate(result["tensors"])
    )
    return TraceResult(
        tensors=tuple(traced), runtime=runtime, version=_installed(runtime)[1], samples=result["samples"]
    )


def _write_samples(folder: Path, path: Path, inputs: Mapping[str, Rows]) -> None:
    for name, array in inputs.items():
        if array.dtype.kind not in "fiub":  # an object array would be pickled
            raise RuntimeFailure(f"{path}: the samples for input {name!r} are {array.dtype}, not numbers")
    try:
        for number, array in enumerate(inputs.values()):
            np.save(folder / f"{number}.npy", np.asarray(array), allow_pickle=False)
    except OSError as error:
        raise OutputError(f"{folder}: no room for the samples of {path} ({error}); set TMPDIR") from error


def ask_worker(
    job: Mapping[str, Any], paths: list[Path], *, runtime: str, timeout_s: float, on_progress: Progress | None
) -> dict[str, Any]:
    """Give a job (worker.py lists them) to a fresh worker and return its result; `paths` are the files it is about.

    Raises as `run_tflite` does.
    """
    spec, version = _installed(runtime)
    for path in paths:
        check_file(path, "an .onnx file" if runtime in ONNX_RUNTIMES else "a .tflite file")
    return ask(
        ["-m", WORKER],
        {**job, "module": spec.module},
        subject=f"{' or '.join(str(path) for path in paths)} on {runtime} {version}",
        writable=_writable(job),
        timeout_s=timeout_s,
        on_progress=on_progress,
        advice=lambda error: _advice(runtime, error),
    )


def ask(
    command: Sequence[str],
    job: Mapping[str, Any],
    *,
    subject: str,
    writable: Sequence[Path],
    timeout_s: float,
    on_progress: Progress | None,
    advice: Callable[[str], str] = lambda _: "",
) -> dict[str, Any]:
    """Give a job to a fresh process that speaks as worker.py does, and return its result; `command` and `writable` are
    those of `child_process`, `subject` is what a failure is about.

    Raises RuntimeFailure where it tells an error, crashes, or does not end within `timeout_s`.
    """
    with tempfile.TemporaryFile() as chatter, _worker(command, writable, chatter) as (child, lines):
        _give(child, job)
        try:
            for message in _replies(lines, timeout_s):
                if "progress" in message and on_progress is not None:
                    on_progress(*message["progress"])
                if "error" in message:
                    raise RuntimeFailure(f"{subject}: {message['error']}{advice(message['error'])}")
                if "result" in message:
                    result: dict[str, Any] = message["result"]
                    return result
        except TimeoutError:
            raise RuntimeFailure(f"{subject}: no end within {timeout_s:g} s; the worker was killed") from None
        raise RuntimeFailure(f"{subject}: {_death(child.wait(), chatter)}")


def _installed(runtime: str) -> tuple[RuntimeSpec, str]:
    model_format = Format.ONNX if runtime in ONNX_RUNTIMES else Format.TFLITE
    known = runtimes_of(model_format)
    if runtime not in known:
        raise UsageError(f"{runtime!r} is not a runtime; choose one of {', '.join(known)}")
    spec = known[runtime]
    version = installed_runtimes(model_format).get(runtime)
    if version is None:
        raise MissingExtra(spec.distribution, spec.extra, f"running a .{model_format} file on {runtime}")
    return spec, version


def _writable(job: Mapping[str, Any]) -> list[Path]:
    """The folder that a worker is to leave its outputs in."""
    return [Path(job["outputs"]).parent] if "outputs" in job else []


@contextmanager
def _worker(
    command: Sequence[str], writable: Sequence[Path], chatter: IO[bytes]
) -> Iterator[tuple[subprocess.Popen[bytes], Lines]]:
    """A worker process and its lines; dead and reaped on the way out, however that is taken (Ctrl-C included)."""
    with child_process(command, writable=writable, stdin=subprocess.PIPE, stderr=chatter) as child:
        lines: Lines = queue.SimpleQueue()
        reader = threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True)
        reader.start()
        try:
            yield child, lines
        finally:
            kill(child)
            reader.join()  # the pipe is at its end now


def _read_lines(stream: IO[bytes], lines: Lines) -> None:
    """Every line of the stream, then None; in a thread, because reading a pipe knows no timeout."""
    for line in stream:
        lines.put(line)
    lines.put(None)


def _give(child: subprocess.Popen[bytes], job: Mapping[str, Any]) -> None:
    """Send the job."""
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # the worker died at once: its exit status will say more
        child.stdin.write(json.dumps(job).encode() + b"\n")
        child.stdin.flush()


def _replies(lines: Lines, timeout_s: float) -> Iterator[dict[str, Any]]:
    """The worker's messages until it ends; raises TimeoutError when it has not ended after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline_s - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None
        if line is None:
            return
        yield json.loads(line)


def _death(status: int, chatter: IO[bytes]) -> str:
    """Why a worker ended without an answer: the signal or exit status, and the last thing it printed."""
    chatter.seek(max(0, chatter.seek(0, os.SEEK_END) - 4096))
    printed = [line.strip() for line in chatter.read().decode(errors="replace").splitlines()]
    last_words = " | ".join([line for line in printed if line and not line.startswith(CHATTER)][-2:])[-400:]
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        reason = f"the interpreter crashed ({name}); the file is broken or this runtime cannot take it"
    else:
        reason = f"the worker ended with status {status} and without an answer"
    return f"{reason}: {last_words}" if last_words else reason


def _advice(runtime: str, error: str) -> str:
    """What to do about the failures that are known."""
    if any(sign in error for sign in NUMPY_2_SIGNS) and runtime == "tflite-runtime":
        return f"; tflite-runtime needs numpy<2 and finds {importlib.metadata.version('numpy')}: pip install 'numpy<2'"
    if "Didn't find op for builtin opcode" in error and runtime != list(RUNTIMES)[-1]:
        return f"; the file needs a newer runtime: use {list(RUNTIMES)[-1]!r}"
    return ""
