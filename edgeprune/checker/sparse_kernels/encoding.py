"""Sparse storage of a .tflite constant: which values are there, and where (schema.fbs, SparsityParameters).

Written row by row: the outer dimensions dense, the last one compressed, as TensorFlow's converter does without blocks.
Any layout of the schema is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeprune.formats.tflite.objects import Generated, schema_classes

__all__ = ["SparseValues", "as_sparse", "dense_values"]

_WIDTHS = (("Uint8Vector", np.uint8), ("Uint16Vector", np.uint16), ("Int32Vector", np.int32))


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseValues:
    """The values that are not zero in row order, how many there are before each row's end (`segments`, with a 0 first),
    and the column of each (`columns`); the two in the smallest integers that hold them."""

    shape: tuple[int, ...]
    values: npt.NDArray[np.generic]
    segments: npt.NDArray[np.integer]
    columns: npt.NDArray[np.integer]

    @property
    def parts(self) -> tuple[npt.NDArray[np.generic], ...]:
        """The arrays that the file holds."""
        return self.values, self.segments, self.columns

    def table(self) -> Generated:
        """The table SparsityParameters, which goes to the tensor of these values."""
        schema, rank = schema_classes(), len(self.shape)
        table: Generated = schema.SparsityParametersT()
        table.traversalOrder = np.arange(rank, dtype=np.int32)
        table.blockMap = None
        table.dimMetadata = []
        for axis, size in enumerate(self.shape):
            dimension = schema.DimensionMetadataT()
            dimension.format, dimension.denseSize = schema.DimensionType.DENSE, size
            if axis == rank - 1:
                dimension.format, dimension.denseSize = schema.DimensionType.SPARSE_CSR, 0
                dimension.arraySegmentsType, dimension.arraySegments = _vector(schema, self.segments)
                dimension.arrayIndicesType, dimension.arrayIndices = _vector(schema, self.columns)
            table.dimMetadata.append(dimension)
        return table


def as_sparse(values: npt.NDArray[np.generic]) -> SparseValues:
    """The non-zeros of an array of at least one dimension, [..., columns]."""
    rows = values.reshape(-1, values.shape[-1])
    row, column = np.nonzero(rows)
    segments = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(rows)))])
    return SparseValues(
        shape=tuple(values.shape), values=rows[row, column], segments=_smallest(segments), columns=_smallest(column)
    )


def dense_values(values: npt.NDArray[np.generic], table: Generated, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    """The dense array, `shape`, of stored values and their SparsityParameters. Raises ValueError where they do not fit
    together: each level of the traversal gives every position before it the coordinates that follow."""
    order = [int(axis) for axis in table.traversalOrder]
    blocks = [int(axis) for axis in table.blockMap] if table.blockMap is not None else []
    if sorted(order) != list(range(len(shape) + len(blocks))) or len(order) != len(table.dimMetadata):
        raise ValueError("its traversal order is not one of its dimensions")
    coordinates: dict[int, npt.NDArray[np.int64]] = {}
    count, sizes = 1, {}
    for axis, dimension in zip(order, table.dimMetadata, strict=True):
        repeats, new = _level(dimension, count, most=math.prod(shape))
        coordinates = {known: np.repeat(places, repeats) for known, places in coordinates.items()}
        coordinates[axis], sizes[axis] = new, int(dimension.denseSize)
        count = len(new)
    for number, axis in enumerate(blocks):
        coordinates[axis] = coordinates[axis] * sizes[len(shape) + number] + coordinates[len(shape) + number]
    index = tuple(coordinates[axis] for axis in range(len(shape)))
    if count > len(values) or any((places >= size).any() for places, size in zip(index, shape, strict=True)):
        raise ValueError("its indices lead out of the tensor")
    dense = np.zeros(shape, values.dtype)
    dense[index] = values[:count]
    return dense


def _level(dimension: Generated, count: int, *, most: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(How often each of `count` positions is repeated, the coordinates of one dimension behind them)."""
    if dimension.arrayIndices is None:
        size = int(dimension.denseSize)
        if size < 0 or size * count > most:
            raise ValueError("its dimensions are larger than its tensor")
        return np.full(count, size, np.int64), np.tile(np.arange(size, dtype=np.int64), count)
    segments = np.asarray(dimension.arraySegments.values, np.int64)
    indices = np.asarray(dimension.arrayIndices.values, np.int64)
    repeats = np.diff(segments)
    if len(repeats) != count or (repeats < 0).any() or repeats.sum() != len(indices) or (indices < 0).any():
        raise ValueError("its segments do not fit its indices")
    return repeats, indices


def _smallest(numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    most = int(numbers.max(initial=0))
    dtype = next(dtype for _, dtype in _WIDTHS if most <= np.iinfo(dtype).max)
    return numbers.astype(dtype)


def _vector(schema: Generated, numbers: npt.NDArray[np.integer]) -> tuple[int, Generated]:
    name = next(name for name, dtype in _WIDTHS if numbers.dtype == dtype)
    vector = getattr(schema, name + "T")()
    vector.values = numbers
    return getattr(schema.SparseIndexVector, name), vector
