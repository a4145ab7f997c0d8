"""Folders for what is half done: gone when their context ends, and cleared by a later run when a run was killed.

Each holds a file that is locked for as long as its run lives (the system lets go of the lock of a dead process), so a
folder whose lock is free belongs to nobody. A folder of that name without the file is no folder of ours.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from edgeprune.host.interrupts import held_back, undoing

__all__ = ["scratch_folder"]

_LOCK = ".edgeprune-lock"
_NAME = re.compile(r"(\..*\.|\.)?edgeprune-([a-z]+-)*[a-z0-9_]{8}")  # mkdtemp ends a name with eight of these
_DAY_S = 86_400
_cleared: set[Path] = set()


@contextlib.contextmanager
def scratch_folder(purpose: str = "", *, beside: Path | None = None) -> Iterator[Path]:
    """A new folder that is gone when the context ends, however it ends.

    It lies in the system's folder for temporary files, or under a hidden name beside the output `beside`, so that what
    is made in it can be renamed. What dead runs of this user left there is removed first, once in a run. `purpose` is
    part of the name: lower-case letters. Raises OSError when none can be made.
    """
    import tempfile

    place = Path(tempfile.gettempdir()) if beside is None else beside.absolute().parent
    hidden = "" if beside is None else f".{beside.name[:40]}."
    prefix = f"{hidden}edgeprune-{purpose}{'-' if purpose else ''}"
    if place not in _cleared:
        _cleared.add(place)
        _clear(place)
    with contextlib.ExitStack() as stack:
        with held_back():
            folder, lock = _make(prefix, place)
            stack.callback(os.close, lock)
            stack.callback(_remove, folder)
            stack.enter_context(undoing(lambda: _remove(folder)))
        yield folder


def _make(prefix: str, place: Path) -> tuple[Path, int]:
    """A folder with its locked file; another one where a run that clears was quicker than the lock."""
    import tempfile

    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            folder.rmdir()
            raise
        if _locked(lock, wait=True) is None or os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)


def _locked(lock: int, *, wait: bool) -> bool | None:
    """Whether the file is locked by us now; None on a disk that knows no locks."""
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove(folder: Path) -> None:
    """Remove a folder, its lock last: what is left when that is cut short is still known for ours."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != _LOCK:
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _clear(place: Path) -> None:
    """Remove what dead runs left in a folder."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _clear_one(Path(entry.path))


def _clear_one(folder: Path) -> None:
    found = folder.lstat()
    if found.st_uid != os.geteuid():
        return
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if time.time() - found.st_mtime > _DAY_S:
            folder.rmdir()  # only an empty one: its run was killed before it had a lock
        return
    try:
        if _locked(lock, wait=False):
            _remove(folder)
    finally:
        os.close(lock)
