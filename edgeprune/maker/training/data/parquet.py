"""`.parquet` files: some rows at a time, a number or a list of numbers in each cell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError, MissingExtra, Unsupported
from edgeprune.maker.training.data.bad import BadSamples

__all__ = ["parquet_blocks"]

BLOCK_BYTES, MOST_ROWS = 4_000_000, 65_536  # of what is read at once

Block = dict[str, npt.NDArray[Any]]


def parquet_blocks(path: Path, bad: BadSamples) -> Iterator[Block]:
    """Blocks of rows by column, [rows] or [rows, numbers]. Raises MissingExtra without pyarrow, InputError for a
    damaged file and for columns that hold no numbers; rows without a value are bad samples."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as cause:
        raise MissingExtra("pyarrow", "parquet", f"{path}: a .parquet file") from cause
    except ImportError as cause:  # one that wants another NumPy
        raise Unsupported(f"{path}: pyarrow cannot be loaded: {' '.join(str(cause).split())[:160]}") from cause
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            _check_columns(path, file.schema_arrow, pa.types)
            yield from _blocks(pa, file, bad)
    except (pa.ArrowException, OSError, OverflowError) as cause:
        raise InputError(f"{path}: not a .parquet file, or damaged: {' '.join(str(cause).split())[:160]}") from cause


def _check_columns(path: Path, schema: Any, types: Any) -> None:
    if len(set(schema.names)) != len(schema.names) or not schema.names:
        raise InputError(f"{path}: must name each column once; it has {', '.join(schema.names) or 'none'}")
    for name, kind in zip(schema.names, schema.types, strict=True):
        each = kind.value_type if _is_list(kind, types) else kind
        numbers = types.is_integer(each) or types.is_floating(each) or types.is_boolean(each) or types.is_decimal(kind)
        if not numbers:
            raise InputError(f"{path}: column {name!r} holds {kind}; it must hold numbers, or lists of numbers")


def _is_list(kind: Any, types: Any) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _blocks(pa: Any, file: Any, bad: BadSamples) -> Iterator[Block]:
    """As many rows at once as the first one lets hope for."""
    sizes: dict[str, int] = {}
    one = next(iter(file.iter_batches(batch_size=1)), None)
    if one is None:
        return
    rows, first = max(1, min(MOST_ROWS, BLOCK_BYTES // max(1, one.nbytes))), 0
    for batch in file.iter_batches(batch_size=rows, use_threads=False):
        block = _block(pa, batch, first, sizes, bad)
        first += batch.num_rows
        if len(next(iter(block.values()))):
            yield block


def _block(pa: Any, batch: Any, first: int, sizes: dict[str, int], bad: BadSamples) -> Block:
    """The rows that have a value in every column."""
    columns = {
        name: column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    faults: dict[int, str] = {}
    for name, column in columns.items():
        for row, fault in _faults(pa, name, column, sizes):
            faults.setdefault(row, fault)
    for row in sorted(faults):
        bad.add(f"row {first + row}", faults[row])
    good = np.ones(batch.num_rows, bool)
    good[list(faults)] = False
    mask = pa.array(good)
    return {name: _array(pa, column.filter(mask) if faults else column) for name, column in columns.items()}


def _faults(pa: Any, name: str, column: Any, sizes: dict[str, int]) -> Iterator[tuple[int, str]]:
    """Rows of a column that have no value, or not as many as the first."""
    import pyarrow.compute as pc

    for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)):
        yield int(row), f"no value in column {name!r}"
    if not _is_list(column.type, pa.types):
        return
    lengths = pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)
    if (lengths >= 0).any():
        sizes.setdefault(name, int(lengths[lengths >= 0][0]))
    for row in np.flatnonzero(lengths != sizes.get(name, 0)):
        yield int(row), f"{lengths[row]} numbers in column {name!r}, those before it {sizes.get(name, 0)}"
    inner = pc.list_flatten(column)
    if inner.null_count:
        for row in np.unique(pc.list_parent_indices(column).to_numpy()[inner.is_null().to_numpy(zero_copy_only=False)]):
            yield int(row), f"a list with no value in column {name!r}"


def _array(pa: Any, column: Any) -> npt.NDArray[Any]:
    import pyarrow.compute as pc

    if not _is_list(column.type, pa.types):
        found: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
        return found
    values = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    return np.asarray(values).reshape(len(column), len(values) // max(1, len(column)))
