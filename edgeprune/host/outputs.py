"""Outputs appear whole or not at all: written under a temporary name beside the final one, then renamed.

A line that is added to a file is written whole, under a lock, or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edgeprune.errors import EdgepruneError, OutputError, UsageError
from edgeprune.host.interrupts import held_back, note_output
from edgeprune.host.scratch import scratch_folder

__all__ = ["MARK", "append_line", "between_appends", "check_output_file", "output_file", "output_folder", "write_file"]

MARK = "ledger.json"  # what every output folder holds
PACKAGE = ".mlpackage"  # the one output that is a folder


def check_output_file(path: Path, *, overwrite: bool, suffix: str) -> None:
    """Raise before any work when `path` cannot become the output."""
    if path.suffix != suffix:
        raise UsageError(f"{path}: the output of this command ends in {suffix}; name it {path.stem or 'model'}{suffix}")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path}: exists already; choose another name or add --overwrite")
    if path.exists() and path.is_dir() != (suffix == PACKAGE):
        raise UsageError(
            f"{path}: a {'folder' if path.is_dir() else 'file'}, which is not replaced; choose another name"
        )
    if path.is_dir() and any(path.iterdir()) and not (path / "Manifest.json").exists():
        raise UsageError(f"{path}: not a Core ML package (no Manifest.json in it), so it is not overwritten")
    _check_parent(path)


def _check_parent(path: Path) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{parent}: no such folder; create it first (mkdir -p {parent})")
    import tempfile

    try:
        # Asking the file system is surer than reading permission bits (read-only mounts, quotas, root).
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as cause:
        raise OutputError(f"{parent}: nothing can be written there: {cause.strerror or cause}") from cause


def write_file(path: Path, content: bytes) -> None:
    """Write a file beside its name and rename it; a file that stands there is replaced."""
    try:
        with scratch_folder(beside=path) as scratch:
            made = scratch / path.name
            made.write_bytes(content)
            made.replace(path)
    except OSError as cause:
        raise OutputError(f"{path}: cannot be written: {cause.strerror or cause}") from cause


def append_line(path: Path, line: bytes) -> bool:
    """Append a line to a file, which is made where there is none; False where that very line is in it already.

    Others who append meanwhile wait. A line whose writer was killed is left as it is, and this one begins behind it.
    Raises OutputError, with the file as it was.
    """
    try:
        with _locked(path) as file:
            content = file.read()
            if line in content.split(b"\n"):
                return False
            start = b"" if not content or content.endswith(b"\n") else b"\n"
            with held_back():
                _add(file, start + line + b"\n", len(content))
                note_output(path)
            return True
    except OSError as cause:
        raise OutputError(f"{path}: cannot be written: {cause.strerror or cause}") from cause


@contextlib.contextmanager
def between_appends(path: Path) -> Iterator[None]:
    """Inside the context nobody appends a line to the file at `path`, so that none is read in part. A file that is not
    there, or a disk that knows no locks, is no reason to wait."""
    import fcntl

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            fcntl.flock(stack.enter_context(path.open("rb")), fcntl.LOCK_SH)
        yield


def _add(file: IO[bytes], text: bytes, before_bytes: int) -> None:
    """Write at the end of a file of so many bytes, or leave it as it was."""
    try:
        if file.write(text) != len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), before_bytes)
        raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The file at `path`, open to read and to append, which nobody else has in this way."""
    import fcntl

    while True:
        with path.open("a+b", buffering=0) as file:
            with contextlib.suppress(OSError):  # a disk that knows no locks: a line is one call to the system anyway
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):  # else somebody put another file in its place
                file.seek(0)
                yield file
                return


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def output_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Where to write what becomes `path` when the context ends well: a free name of the same ending.

    Raises OutputError when it cannot be written, or when `path` appeared meanwhile and `overwrite` is not set.
    """
    try:
        with scratch_folder(beside=path) as scratch, _named(scratch / path.name, path):
            yield scratch / path.name
            _put_in_place(scratch / path.name, path, scratch / "old", overwrite=overwrite)
    except OSError as cause:
        raise OutputError(f"{path}: cannot be written: {cause.strerror or cause}") from cause


@contextlib.contextmanager
def output_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A scratch folder that becomes `path` when the context ends well and vanishes when it does not.

    With `overwrite` an earlier output folder stays as it is until the new one is complete; any other folder that is
    not empty is never replaced. Raises UsageError when `path` exists (without `overwrite`) or is a file, OutputError
    when nothing can be written there, or when `path` appeared meanwhile (without `overwrite`).
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: exists and is a file; choose another folder")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path}: exists already; choose another folder or add --overwrite")
    if path.exists() and not (path / MARK).exists() and any(path.iterdir()):
        raise UsageError(f"{path}: not the output of an earlier run (no {MARK} in it), so it is not overwritten")
    _check_parent(path)
    try:
        with scratch_folder(beside=path) as scratch, _named(scratch / "new", path):
            new = scratch / "new"
            new.mkdir()
            yield new
            _put_in_place(new, path, scratch / "old", overwrite=overwrite)
    except OSError as cause:
        raise OutputError(f"{path}: cannot be written: {cause.strerror or cause}") from cause


@contextlib.contextmanager
def _named(made: Path, path: Path) -> Iterator[None]:
    """Errors inside the context name the output, not the hidden name that it has until it is complete."""
    try:
        yield
    except EdgepruneError as error:
        error.args = (str(error).replace(str(made), str(path)), *error.args[1:])
        raise


def _put_in_place(made: Path, path: Path, aside: Path, *, overwrite: bool) -> None:
    """Rename a finished output to `path`. With `overwrite` a folder that stands there becomes `aside`, and comes back
    if that fails; without, OutputError is raised for whatever stands there."""
    with held_back():
        if not overwrite:
            _rename_to_free(made, path)
        elif path.is_dir():
            path.replace(aside)
            try:
                made.replace(path)
            except OSError:
                aside.replace(path)
                raise
        else:
            made.replace(path)
        note_output(path)


def _rename_to_free(made: Path, path: Path) -> None:
    """Rename, in one step with the look whether the name is free, where the system and the disk can."""
    try:
        if not _rename_exclusively(made, path):
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            made.rename(path)
    except FileExistsError as cause:
        raise OutputError(
            f"{path}: appeared while this ran, and is not replaced; choose another name or add --overwrite"
        ) from cause


# Of Linux and macOS: stdio.h has renameat2 and renamex_np, with these flags for "not over another file".
_RENAME_NOREPLACE, _RENAME_EXCL, _AT_FDCWD = 1, 4, -100


def _rename_exclusively(made: Path, path: Path) -> bool:
    """Whether it was renamed. Raises OSError; False where the system or the disk has no such call."""
    import ctypes

    libc, old, new = ctypes.CDLL(None, use_errno=True), os.fsencode(made), os.fsencode(path)
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(old, new, ctypes.c_uint(_RENAME_EXCL))
        else:
            failed = libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, ctypes.c_uint(_RENAME_NOREPLACE))
    except AttributeError:
        return False
    code = ctypes.get_errno()
    if failed and code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False
    if failed:
        raise OSError(code, os.strerror(code), str(path))
    return True
