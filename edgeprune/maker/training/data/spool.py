"""Rows that come once, one after the other, written to a scratch file so that they can be taken in any order."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError, OutputError
from edgeprune.host.scratch import scratch_folder
from edgeprune.maker.training.data.columns import LARGE_BYTES, Column, FileRows

__all__ = ["Spool"]

SPARE_BYTES = 500_000_000  # of the disk, left to others
LOOK_BYTES = 100_000_000  # written between two looks at it

_life = contextlib.ExitStack()
_numbers = itertools.count()
_place: list[Path] = []


def _scratch() -> Path:
    """One folder for all spools of this process; it goes when the process ends."""
    if not _place:
        _place.append(_life.enter_context(scratch_folder("samples")))
        atexit.register(_life.close)
    return _place[0]


class Spool:
    """Named columns that grow by batches, in a context. `what` is told in errors: where the rows come from."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._files: dict[str, Any] = {}
        self._known: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._counts: dict[str, int] = {}
        self._batches = self._bytes = 0
        self._next_look = LOOK_BYTES

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def __len__(self) -> int:
        return max(self._counts.values(), default=0)

    def add(self, batch: Mapping[str, npt.NDArray[Any]], *, full: bool = False) -> None:
        """Write the rows of one batch. Raises InputError where they are of another shape or kind than before, and where
        there are none of them in a batch that should be `full`; OutputError where they fill the disk."""
        self._batches += 1
        if self._known and set(batch) != set(self._known):
            raise InputError(
                f"{self.what}: batch {self._batches} holds {', '.join(batch)}, those before it {', '.join(self._known)}"
            )
        for name, values in batch.items():
            if values.dtype.kind not in "fiub" or not values.ndim:
                raise InputError(
                    f"{self.what}: batch {self._batches}: {name!r} holds {values.dtype}, not rows of numbers"
                )
            shape, dtype = self._known.setdefault(name, (values.shape[1:], values.dtype))
            if values.shape[1:] != shape:
                raise InputError(
                    f"{self.what}: batch {self._batches} changes the shape of {name!r} from {shape} to "
                    f"{values.shape[1:]}"
                )
            self._write(name, np.ascontiguousarray(values, dtype))
        rows = {name: len(values) for name, values in batch.items()}
        if len(set(rows.values())) > 1:
            told = ", ".join(f"{count} of {name!r}" for name, count in rows.items())
            raise InputError(f"{self.what}: batch {self._batches} holds {told}: not the same number of samples")
        if full and not any(rows.values()):
            raise InputError(f"{self.what}: batch {self._batches} is empty, after {len(self)} samples")

    def _write(self, name: str, values: npt.NDArray[Any]) -> None:
        self._bytes += values.nbytes
        try:
            if self._bytes > self._next_look:
                self._look_for_room()
            if name not in self._files:
                path = _scratch() / f"{next(_numbers)}.rows"
                self._files[name] = path.open("wb")
            self._files[name].write(values.tobytes())
        except OSError as cause:
            raise OutputError(
                f"no room for the samples of {self.what} ({cause.strerror or cause}); set TMPDIR"
            ) from cause
        self._counts[name] = self._counts.get(name, 0) + len(values)

    def _look_for_room(self) -> None:
        """Raise OutputError before samples fill what others need too."""
        self._next_look = self._bytes + LOOK_BYTES
        if shutil.disk_usage(_scratch()).free < SPARE_BYTES:
            raise OutputError(
                f"{self.what}: no room for its samples after {len(self):,} of them ({self._bytes / 1e9:.1f} GB); if it "
                "gives batches without end, end it; else set TMPDIR to a folder with more room"
            )

    def columns(self) -> dict[str, Column]:
        """All rows by name, in memory where they are few. Raises InputError where there are none."""
        if not len(self):
            raise InputError(f"{self.what}: gives no samples")
        found: dict[str, Column] = {}
        for name, file in self._files.items():
            file.flush()
            shape, dtype = self._known[name]
            rows = FileRows(Path(file.name), start=0, shape=(self._counts[name], *shape), dtype=dtype)
            found[name] = rows if Path(file.name).stat().st_size > LARGE_BYTES else rows[:]
        return found
