"""Rows that come once, one after the other, written to a scratch file so that they can be taken in any order."""

from __future__ import annotations

import atexit
import contextlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError, OutputError
from edgeprune.host.scratch import scratch_folder
from edgeprune.maker.training.data.columns import FileRows

__all__ = ["Spool"]

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
        self._batches = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def __len__(self) -> int:
        return max(self._counts.values(), default=0)

    def add(self, batch: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write the rows of one batch. Raises InputError where they are of another shape or kind than before."""
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

    def _write(self, name: str, values: npt.NDArray[Any]) -> None:
        try:
            if name not in self._files:
                path = _scratch() / f"{next(_numbers)}.rows"
                self._files[name] = path.open("wb")
            self._files[name].write(values.tobytes())
        except OSError as cause:
            raise OutputError(
                f"no room for the samples of {self.what} ({cause.strerror or cause}); set TMPDIR"
            ) from cause
        self._counts[name] = self._counts.get(name, 0) + len(values)

    def columns(self) -> dict[str, FileRows]:
        """All rows by name. Raises InputError where there are none."""
        if not len(self):
            raise InputError(f"{self.what}: gives no samples")
        found = {}
        for name, file in self._files.items():
            file.flush()
            shape, dtype = self._known[name]
            found[name] = FileRows(Path(file.name), start=0, shape=(self._counts[name], *shape), dtype=dtype)
        return found
