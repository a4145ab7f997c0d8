"""A model file read whole, and what is told about one that cannot be."""

from __future__ import annotations

from pathlib import Path

from edgeprune.artifact import GIT_LFS_POINTER
from edgeprune.errors import InputError

__all__ = ["check_file", "read_whole"]


def check_file(path: Path, kind: str) -> int:
    """The size of a file in bytes. Raises InputError when it is missing, no plain file, empty or a git-lfs pointer.

    `kind` is what the file should be, for the message ("an ONNX model").
    """
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; give the path of {kind}")
        if not path.is_file():  # a pipe or a device would be read for ever
            raise InputError(f"{path}: not a file; give the path of {kind}")
        with path.open("rb") as file:
            head = file.read(len(GIT_LFS_POINTER))
        size_bytes = path.stat().st_size
    except (OSError, ValueError) as cause:  # ValueError: a name that no file can have
        raise InputError(f"{path}: cannot be read: {getattr(cause, 'strerror', None) or cause}") from cause
    if not head:
        raise InputError(f"{path}: empty (0 bytes), not {kind}; copy or export it again")
    if head == GIT_LFS_POINTER:
        raise InputError(f"{path}: a git-lfs pointer, not the model itself; run: git lfs pull")
    return size_bytes


def read_whole(path: Path, kind: str) -> bytes:
    """All bytes of a file. Raises InputError as `check_file` does."""
    check_file(path, kind)
    try:
        return path.read_bytes()
    except OSError as cause:
        raise InputError(f"{path}: cannot be read: {cause.strerror}") from cause
