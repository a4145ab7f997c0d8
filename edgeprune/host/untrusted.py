"""The one door for paths that people name: what is missing, empty, no file or a git-lfs pointer is one clear line.

Whoever reads a file that others made opens it here, so that the same fault is the same sentence everywhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgeprune.artifact import GIT_LFS_POINTER
from edgeprune.errors import EdgepruneError, FileFault, InputError, unexpected

__all__ = [
    "check_file",
    "faults_of",
    "is_folder",
    "open_file",
    "read_text",
    "read_whole",
    "real_place",
    "status_of",
    "text_of",
]


def status_of(path: Path) -> os.stat_result:
    """The status of a file or folder. Raises InputError for what is missing, cannot be read, or is neither."""
    try:
        found = path.stat()
    except FileNotFoundError as cause:
        raise InputError(f"{path} does not exist; check the path") from cause
    except (OSError, ValueError) as cause:  # ValueError: a name that no file can have
        raise _unreadable(path, cause) from cause
    if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):  # a pipe would be read for ever
        raise InputError(f"{path} is neither a file nor a folder; copy what it gives to a file")
    return found


@contextlib.contextmanager
def faults_of(name: object) -> Iterator[None]:
    """Whatever goes wrong with the file called `name` is one line about it, and no end of the work on other files.

    Raises FileFault for what no reader foresaw; an EdgepruneError stays what it is. With EDGEPRUNE_DEBUG a defect shows
    itself whole.
    """
    try:
        yield
    except EdgepruneError:
        raise
    except MemoryError as cause:
        raise FileFault(f"{name}: out of memory; look at it by itself, or where there is more") from cause
    except OSError as cause:
        place = f" ({cause.filename})" if cause.filename and str(cause.filename) != str(name) else ""
        raise FileFault(f"{name}: {cause.strerror or cause}{place}") from cause
    except Exception as cause:
        if os.environ.get("EDGEPRUNE_DEBUG"):
            raise
        raise FileFault(f"{name}: {unexpected(cause)}") from cause


def real_place(path: Path) -> Path:
    """Where a path really is; of a ring of links, for which `Path.resolve` raises, some place in it."""
    return Path(os.path.realpath(path))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder and no file. Raises InputError as `status_of` does."""
    return stat.S_ISDIR(status_of(path).st_mode)


def open_file(path: Path, kind: str, *, most_bytes: int | None = None) -> BinaryIO:
    """A file opened at its first byte; `kind` is what it should be, for the message ("an ONNX model").

    Raises InputError as `status_of` does, and for a folder, an empty file, a git-lfs pointer, and more than
    `most_bytes`.
    """
    found = status_of(path)
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path} is a folder; name {kind}")
    if not found.st_size:
        raise InputError(f"{path} is empty (0 bytes); copy or make it again")
    if most_bytes is not None and found.st_size > most_bytes:
        raise InputError(f"{path} is too large ({found.st_size} bytes, at most {most_bytes}); name {kind}")
    try:
        file = path.open("rb")
    except OSError as cause:
        raise _unreadable(path, cause) from cause
    try:
        if file.read(len(GIT_LFS_POINTER)) == GIT_LFS_POINTER:
            raise InputError(f"{path} is a git-lfs pointer, not the file itself; run: git lfs pull")
        file.seek(0)
    except OSError as cause:
        file.close()
        raise _unreadable(path, cause) from cause
    except InputError:
        file.close()
        raise
    return file


def check_file(path: Path, kind: str, *, most_bytes: int | None = None) -> int:
    """The size of a file that others will open. Raises InputError as `open_file` does."""
    with open_file(path, kind, most_bytes=most_bytes) as file:
        return file.seek(0, os.SEEK_END)


def read_whole(path: Path, kind: str, *, most_bytes: int | None = None) -> bytes:
    """All bytes of a file. Raises InputError as `open_file` does."""
    with open_file(path, kind, most_bytes=most_bytes) as file:
        try:
            return file.read()
        except OSError as cause:
            raise _unreadable(path, cause) from cause


def read_text(path: Path, kind: str, *, most_bytes: int | None = None) -> str:
    """A file of text in UTF-8. Raises InputError as `open_file` does, and for other bytes."""
    return text_of(path, read_whole(path, kind, most_bytes=most_bytes))


def text_of(path: Path, content: bytes) -> str:
    """The text that the bytes of a file are in UTF-8. Raises InputError for other bytes."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise InputError(f"{path} is not a text file: byte {cause.start} is not UTF-8; save it as UTF-8") from cause


def _unreadable(path: Path, cause: OSError | ValueError) -> InputError:
    return InputError(f"{path} cannot be read: {getattr(cause, 'strerror', None) or cause}")
