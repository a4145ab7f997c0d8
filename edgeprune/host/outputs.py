"""Outputs appear whole or not at all: written under a temporary name beside the final one, then renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgeprune.errors import OutputError, UsageError
from edgeprune.host.interrupts import held_back, note_output, scratch_folder, undoing

__all__ = ["check_output_file", "output_folder", "put_in_place", "write_file"]

MARK = "ledger.json"  # what every output folder holds
PACKAGE = ".mlpackage"  # the one output that is a folder


def check_output_file(path: Path, *, overwrite: bool, suffix: str) -> None:
    """Raise before any work when `path` cannot become the output."""
    if path.suffix != suffix:
        raise UsageError(f"{path}: the output of this command ends in {suffix}; name it {path.stem or 'model'}{suffix}")
    if path.exists() and not overwrite:
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
    """Write a file beside its name and rename it."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with undoing(lambda: scratch.unlink(missing_ok=True)):
            scratch.write_bytes(content)
            scratch.replace(path)
    except OSError as cause:
        raise OutputError(f"{path}: cannot be written: {cause.strerror or cause}") from cause
    finally:
        scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def output_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A scratch folder that becomes `path` when the context ends well and vanishes when it does not.

    With `overwrite` an earlier output folder stays as it is until the new one is complete; any other folder that is
    not empty is never replaced. Raises UsageError when `path` exists (without `overwrite`) or is a file, OutputError
    when nothing can be written there.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: exists and is a file; choose another folder")
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: exists already; choose another folder or add --overwrite")
    if path.exists() and not (path / MARK).exists() and any(path.iterdir()):
        raise UsageError(f"{path}: not the output of an earlier run (no {MARK} in it), so it is not overwritten")
    _check_parent(path)
    parent = path.absolute().parent
    try:
        with scratch_folder(f".{path.name}.", parent) as scratch:
            new = scratch / "new"
            new.mkdir()
            yield new
            put_in_place(new, path, scratch / "old")
    except OSError as cause:
        raise OutputError(f"{path}: cannot be written: {cause.strerror or cause}") from cause


def put_in_place(made: Path, path: Path, aside: Path) -> None:
    """Rename a finished output to `path`. A folder that stands there becomes `aside`, and comes back if that fails."""
    with held_back():
        old_folder = path.is_dir()
        if old_folder:
            path.replace(aside)
        try:
            made.replace(path)
        except OSError:
            if old_folder:
                aside.replace(path)
            raise
        note_output(path)
