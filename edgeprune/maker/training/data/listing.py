"""A table of pictures: a `.csv` with a column for the file of each picture, and one for its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError
from edgeprune.maker.training.data.bad import BadSamples
from edgeprune.maker.training.data.columns import Column
from edgeprune.maker.training.data.pictures import Picture, decoded, picture_size

__all__ = ["lists_pictures", "read_listing"]

FILE_COLUMNS = ("file", "filename", "path", "image")

Specs = Mapping[str, tuple[tuple[int | None, ...], str]]


def lists_pictures(header: Sequence[str], specs: Specs) -> bool:
    """Whether a table with this header is for a model of pictures, and tells their files."""
    shapes = [shape for shape, _ in specs.values()]
    return len(shapes) == 1 and len(shapes[0]) == 4 and any(name in header for name in FILE_COLUMNS)


def read_listing(
    path: Path, cells: Mapping[str, Sequence[str]], specs: Specs, names: Mapping[str, Sequence[str]], bad: BadSamples
) -> dict[str, Column]:
    """The columns "x", decoded as those of a folder, and what `names` calls: columns of the table by sample column.

    Files are looked for beside the table. A label may be a number, or the name of a class: these are counted in the
    order of their names. Raises InputError for unknown columns, and for pictures that cannot be read.
    """
    size = picture_size(path, specs)
    file = next(name for name in FILE_COLUMNS if name in cells)
    known = {file, *(column for columns in names.values() for column in columns)}
    for name in cells:
        if name not in known:
            raise InputError(f"{path}: unknown column {name!r} beside {file!r}, the pictures: it is no target")
    columns = {key: _values(path, [cells[column] for column in own]) for key, own in names.items()}
    pictures = [
        Picture(file=path.parent / text, name=text[-80:], columns={key: values[row] for key, values in columns.items()})
        for row, text in enumerate(cells[file])
    ]
    if not pictures:
        raise InputError(f"{path}: the data set is empty (0 samples)")
    return decoded(path, pictures, size, bad)


def _values(path: Path, columns: Sequence[Sequence[str]]) -> npt.NDArray[Any]:
    """Numbers, or of one column of other words their places in their order."""
    try:
        values = np.array([[float(cell) for cell in column] for column in columns], np.float64).T
    except ValueError:
        if len(columns) != 1 or not all(columns[0]):
            raise InputError(f"{path}: labels are numbers, or in one column the name of each picture's class") from None
        return np.unique(np.array(columns[0]), return_inverse=True)[1].astype(np.int32)
    whole = np.isfinite(values).all() and (np.abs(values) < 2**31).all() and (values == np.floor(values)).all()
    typed = values.astype(np.int32 if whole else np.float32)
    return typed[:, 0] if len(columns) == 1 else typed
