"""Open an app bundle, and the archives inside it, as windows on one file."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgeprune.errors import InputError
from edgeprune.formats.bundles.archive import BrokenArchiveError, Entry, Window, chunks
from edgeprune.host.untrusted import open_file

__all__ = ["inner_archive", "innermost", "told", "whole_file"]


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Window]:
    """The whole of a bundle. Raises InputError as `open_file` does."""
    with open_file(path, "an app bundle such as app.apk") as file:
        yield Window(file, 0, file.seek(0, os.SEEK_END))


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Say of which bundle it is that something is broken. Raises InputError for BrokenArchiveError."""
    try:
        yield
    except BrokenArchiveError as cause:
        raise InputError(f"{path}: a broken app bundle: {cause}") from cause


@contextlib.contextmanager
def inner_archive(window: Window, entry: Entry, scratch: Path) -> Iterator[Window]:
    """The archive that is a member of another: in place, or where it is compressed as a file in `scratch`.

    Raises BrokenArchiveError where the member has a problem, or is not what it claims.
    """
    if entry.problem:
        raise BrokenArchiveError(entry.problem)
    if entry.method == "stored":
        yield window.part(entry.data_offset, entry.raw_bytes)
        return
    with tempfile.TemporaryFile(dir=scratch) as file:
        for piece in chunks(window, entry):
            file.write(piece)
        file.flush()
        yield Window(file, 0, entry.raw_bytes)


@contextlib.contextmanager
def innermost(window: Window, archives: tuple[Entry, ...], scratch: Path) -> Iterator[Window]:
    """The archive behind a chain of archives, the outermost first."""
    with contextlib.ExitStack() as stack:
        for entry in archives:
            window = stack.enter_context(inner_archive(window, entry, scratch))
        yield window
