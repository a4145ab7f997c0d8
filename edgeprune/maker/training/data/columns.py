"""Arrays that are not held in memory: rows of a file, scaled rows. What takes rows takes these like NumPy arrays."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError

__all__ = ["LARGE_BYTES", "Column", "FileRows", "ScaledRows", "as_type", "in_parts", "picked", "scaled", "taken"]

PART_BYTES = 16_000_000  # of one part of a column that is gone through
LARGE_BYTES = 64_000_000  # of an array that need not lie in memory


class Column(Protocol):
    """An array [samples, ...] of which rows are taken: by a slice, or by an array of their numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, samples first."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers that are taken."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any:
        """The rows, a NumPy array [rows, ...]; with one number the row itself, [...]."""
        ...


class FileRows:
    """An array stored row by row in a file, from byte `start` on. Raises InputError for a file that is cut short."""

    def __init__(self, path: Path, *, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.start, self.shape, self.dtype = path, start, shape, dtype
        self._row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self._file)
        if os.fstat(self._file).st_size < start + self._row_bytes * len(self):
            raise InputError(f"{path}: cut short; copy or save the file again")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any, /) -> npt.NDArray[Any]:
        if isinstance(rows, slice) and rows.step in (None, 1):
            first, last, _ = rows.indices(len(self))
            return self._read(first, max(0, last - first))
        numbers = np.arange(len(self))[rows]
        if numbers.ndim == 0:
            found: npt.NDArray[Any] = self._read(int(numbers), 1)[0]
            return found
        made = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for place, number in enumerate(numbers):
            made[place] = self._read(int(number), 1)[0]
        return made

    def _read(self, first: int, count: int) -> npt.NDArray[Any]:
        made = np.empty((count, *self.shape[1:]), self.dtype)
        view, offset = (
            memoryview(made.reshape(-1).view(np.uint8).data),
            self.start + first * self._row_bytes,
        )
        while view:
            got = os.preadv(self._file, [view], offset)
            if not got:
                raise InputError(f"{self.path}: cut short while it was read; copy or save the file again")
            view, offset = view[got:], offset + got
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype)


class TypedRows:
    """Rows of another column in another type."""

    def __init__(self, values: Column, dtype: np.dtype[Any]) -> None:
        self._values, self.dtype = values, dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, samples first."""
        return self._values.shape

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: Any, /) -> npt.NDArray[Any]:
        return taken(self._values, rows, self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype)


class ScaledRows(TypedRows):
    """Rows of another column as value * scale + offset, float32; one number each, or one for each channel."""

    def __init__(self, values: Column, scale: npt.NDArray[Any], offset: npt.NDArray[Any]) -> None:
        super().__init__(values, np.dtype(np.float32))
        self._scale, self._offset = scale, offset

    def __getitem__(self, rows: Any, /) -> npt.NDArray[Any]:
        return super().__getitem__(rows) * self._scale + self._offset


class PickedRows:
    """Some rows of another column, by their numbers."""

    def __init__(self, values: Column, numbers: npt.NDArray[np.int64]) -> None:
        self._values, self._numbers, self.dtype = values, numbers, values.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, samples first."""
        return (len(self._numbers), *self._values.shape[1:])

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, rows: Any, /) -> npt.NDArray[Any]:
        numbers = self._numbers[rows]
        whole = numbers.ndim == 1 and len(numbers) and numbers[-1] - numbers[0] == len(numbers) - 1
        if whole and (np.diff(numbers) == 1).all():  # neighbours are read at once
            return taken(self._values, slice(int(numbers[0]), int(numbers[-1]) + 1))
        return taken(self._values, numbers)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype)


def picked(column: Column, numbers: npt.NDArray[np.int64]) -> Column:
    """The rows of these numbers: at once where the column is in memory, else when they are taken."""
    return taken(column, numbers) if isinstance(column, np.ndarray) else PickedRows(column, numbers)


def scaled(column: Column, scale: npt.NDArray[Any], offset: npt.NDArray[Any]) -> Column:
    """The column as value * scale + offset: at once where that is small, else when its rows are taken."""
    rows = ScaledRows(column, scale, offset)
    return rows if 4 * int(np.prod(column.shape, dtype=np.int64)) > LARGE_BYTES else rows[:]


def as_type(column: Column, dtype: Any) -> Column:
    """The column in another type, its rows made when they are taken."""
    wanted = np.dtype(dtype)
    return column if column.dtype == wanted else TypedRows(column, wanted)


def taken(column: Column, rows: Any, dtype: Any = None) -> npt.NDArray[Any]:
    """Rows of a column in memory, as `dtype` where it is given."""
    found = np.asarray(column[rows])
    return found if dtype is None else found.astype(dtype, copy=False)


def in_parts(column: Column) -> Any:
    """Slices of rows, one after the other, of PART_BYTES or so."""
    row_bytes = max(1, column.dtype.itemsize * int(np.prod(column.shape[1:], dtype=np.int64)))
    step = max(1, PART_BYTES // row_bytes)
    return (slice(start, start + step) for start in range(0, len(column), step))
