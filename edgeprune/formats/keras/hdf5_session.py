"""The parent's side of reading an HDF5 file: ask a child process, and make one line of whatever happens there."""

from __future__ import annotations

import json
import math
import signal
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgeprune.errors import InputError, RuntimeFailure
from edgeprune.formats.elements import Bytes, Shape, element_bits
from edgeprune.formats.keras.hdf5_limits import largest_plausible
from edgeprune.host.children import child_process

__all__ = ["Hdf5Array", "Hdf5File", "read_hdf5"]

_WORKER = "edgeprune.formats.keras.hdf5_worker"
# No lock: the file may be on a disk that knows none. No plug-ins: they would run code from a folder of the system.
_SETTINGS = {"HDF5_USE_FILE_LOCKING": "FALSE", "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
# Processor time that reading may take: a large file of many layers needs about a second for 100 MB.
_FIRST_CPU_S, _BYTES_A_SECOND = 10, 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hdf5Array:
    """An array of numbers in an HDF5 file, `path` without a leading slash.

    `raw` is decoded (uint8, little-endian), `stored_bytes` what it takes in the file; `places` are (byte, length) of
    its parts there, where they were asked for.
    """

    path: str
    dtype: str
    shape: Shape
    raw: Bytes
    stored_bytes: int
    places: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hdf5File:
    """What a Keras weight file holds: arrays, texts at its root, and what it tells about names by group."""

    arrays: tuple[Hdf5Array, ...]
    attributes: Mapping[str, str] = field(default_factory=dict)
    orders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


def read_hdf5(path: Path, subject: str, *, places: bool = False, allowed_bytes: int | None = None) -> Hdf5File:
    """All arrays of a file, read in a child process; `subject` names the file in messages.

    `allowed_bytes` is how much the arrays may expand to, by default what is plausible for the size of the file. Raises
    InputError when the file is damaged, refused, or does not let itself be read in a sensible time; RuntimeFailure when
    the child cannot work here.
    """
    size_bytes = path.stat().st_size
    job = {
        "path": str(path.absolute()),
        "largest_bytes": largest_plausible(size_bytes) if allowed_bytes is None else allowed_bytes,
        "cpu_s": _FIRST_CPU_S + size_bytes / _BYTES_A_SECOND,
        "places": places,
    }
    command = ["-m", _WORKER, json.dumps(job)]
    with (
        tempfile.TemporaryFile() as chatter,
        child_process(command, writable=[], stderr=chatter, settings=_SETTINGS) as child,
    ):
        assert child.stdout is not None
        line = child.stdout.readline(64_000_000 + 2 * size_bytes)
        head = json.loads(line) if line.endswith(b"\n") else _death(child.wait(), chatter, subject)
        if "refused" in head:
            raise InputError(f"{subject}: {head['refused']}")
        if "error" in head:
            raise _damaged(subject, head["error"])
        _check(head["arrays"], size_bytes, subject)
        arrays = tuple(_receive(child.stdout, told, subject) for told in head["arrays"])
    return Hdf5File(arrays=arrays, attributes=head["attributes"], orders=head["orders"], names=head["names"])


def _check(told: Sequence[Mapping[str, Any]], size_bytes: int, subject: str) -> None:
    """Hold what the file claims against what it can hold."""
    for item in told:
        if item["raw_bytes"] * 8 != math.prod(item["shape"]) * element_bits(item["dtype"]):
            raise _damaged(subject, f"{item['path']!r} has {item['raw_bytes']} bytes for {item['shape']}")
        if any(start < 0 or start + length > size_bytes for start, length in item["places"]):
            raise _damaged(subject, f"{item['path']!r} is beyond the end of the file")
    if sum(item["stored_bytes"] for item in told) > size_bytes:
        raise _damaged(subject, "its arrays claim more bytes than the file has")


def _receive(stream: IO[bytes], told: Mapping[str, Any], subject: str) -> Hdf5Array:
    raw = np.empty(told["raw_bytes"], np.uint8)
    view, filled = raw.data, 0
    while filled < len(raw):
        piece = stream.read(min(len(raw) - filled, 1 << 20))
        if not piece:
            raise _damaged(subject, f"the numbers of {told['path']!r} cannot be read")
        view[filled : filled + len(piece)] = piece
        filled += len(piece)
    return Hdf5Array(
        path=told["path"],
        dtype=told["dtype"],
        shape=tuple(told["shape"]),
        raw=raw,
        stored_bytes=told["stored_bytes"],
        places=tuple((start, length) for start, length in told["places"]),
    )


def _damaged(subject: str, reason: str) -> InputError:
    return InputError(f"{subject}: damaged or cut short HDF5 file ({reason}); copy or save it again")


def _death(status: int, chatter: IO[bytes], subject: str) -> dict[str, Any]:
    """What it means that the child ended without an answer. Raises InputError or RuntimeFailure."""
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        raise _damaged(subject, "reading it does not end")
    if status < 0:
        raise _damaged(subject, f"libhdf5 crashes on it, {signal.Signals(-status).name}")
    chatter.seek(0)
    printed = [text.strip() for text in chatter.read().decode(errors="replace").splitlines() if text.strip()]
    raise RuntimeFailure(f"{subject}: the process that reads HDF5 ended with status {status}: {printed[-1:] or ''}")
