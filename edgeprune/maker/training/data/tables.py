"""`.csv` and `.parquet` files: columns named after inputs, or all of them the only input. Read block by block."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError
from edgeprune.host.untrusted import check_file
from edgeprune.maker.training.data.bad import BadSamples
from edgeprune.maker.training.data.columns import Column
from edgeprune.maker.training.data.listing import lists_pictures, read_listing
from edgeprune.maker.training.data.parquet import parquet_blocks
from edgeprune.maker.training.data.spool import Spool

__all__ = ["TARGETS", "read_table"]

TARGETS = ("y", "target", "label")
WEIGHT = "sample_weight"
LINES = 4096  # in a block

Specs = Mapping[str, tuple[tuple[int | None, ...], str]]
Block = dict[str, npt.NDArray[Any]]  # rows of some lines, by column: [rows], or [rows, numbers] where a cell is a list


def read_table(path: Path, specs: Specs, bad: BadSamples, *, other: Collection[str] = ()) -> dict[str, Column]:
    """Inputs by name, "y" and "sample_weight" from a file whose columns have names, and those of `other` if they are
    there.

    A column "y" (or target, label) holds the targets, several are y.0, y.1, ... An input of one number has a column of
    its name, one of several numbers NAME.0, NAME.1, ... or a column of lists; a model with one input takes all other
    columns in their order. A .csv with a column of files lists pictures. Raises InputError for missing columns, and for
    a cell that is no number, with its line.
    """
    if path.suffix.lower() == ".parquet":
        check_file(path, "a .parquet file")
        return _spooled(path, parquet_blocks(path, bad), specs, bad, other)
    check_file(path, "a .csv file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            header = [name.strip() for name in next(lines, [])]
            _check_header(path, header)
            if lists_pictures(header, specs):
                return _pictures(path, header, lines, specs, bad)
            return _spooled(path, _blocks(header, lines, bad), specs, bad, other)
    except (UnicodeDecodeError, csv.Error) as cause:
        raise InputError(f"{path}: not a .csv file in UTF-8: {cause}") from cause


def _spooled(
    path: Path, blocks: Iterable[Block], specs: Specs, bad: BadSamples, other: Collection[str]
) -> dict[str, Column]:
    with Spool(str(path)) as spool:
        for block in blocks:
            spool.add(_named(path, block, specs, other))
        bad.refuse_all(len(spool))
        return spool.columns()


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not header or len(set(header)) != len(header) or not all(header):
        raise InputError(f"{path}: its first line must name each column once; it has {', '.join(header) or 'nothing'}")


def _pictures(path: Path, header: Sequence[str], lines: Any, specs: Specs, bad: BadSamples) -> dict[str, Column]:
    rows = list(_whole(header, lines, bad))
    cells = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    names = {key: found for key, known in _SPECIAL if (found := _columns_of(cells, known))}
    return read_listing(path, cells, specs, names, bad)


def _whole(header: Sequence[str], lines: Any, bad: BadSamples) -> Iterator[list[str]]:
    """The lines with as many cells as there are columns."""
    for line in lines:
        if line and len(line) != len(header):
            bad.add(f"line {lines.line_num}", f"{len(line)} cells, the first line names {len(header)}")
        elif line:
            yield line


def _blocks(header: Sequence[str], lines: Any, bad: BadSamples) -> Iterator[Block]:
    """At least one block, for without any line the columns are still held against the model."""
    rows = _numbers(header, lines, bad)
    while True:
        block = list(itertools.islice(rows, LINES))
        values = np.array(block, np.float64).reshape(len(block), len(header))
        yield {name: values[:, place] for place, name in enumerate(header)}
        if len(block) < LINES:
            return


def _numbers(header: Sequence[str], lines: Any, bad: BadSamples) -> Iterator[list[float]]:
    for line in _whole(header, lines, bad):
        try:
            yield [float(cell) for cell in line]
        except ValueError:
            place = next(number for number, cell in enumerate(line) if not _is_number(cell))
            bad.add(f"line {lines.line_num}", f"{line[place][:40]!r} in column {header[place]!r} is no number")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


_SPECIAL = (("y", TARGETS), (WEIGHT, (WEIGHT,)))


def _columns_of(known: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The columns of the first of these names that is there: NAME, or NAME.0, NAME.1, ..."""
    for name in names:
        if name in known:
            return [name]
        parts = list(itertools.takewhile(known.__contains__, (f"{name}.{number}" for number in itertools.count())))
        if parts:
            return parts
    return []


def _taken(known: Block, names: Iterable[str]) -> npt.NDArray[Any] | None:
    """The rows of such columns, [rows, numbers], taken out of those that are known."""
    return _joined([known.pop(column) for column in _columns_of(known, names)])


def _joined(columns: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
    if not columns:
        return None
    return np.concatenate([column[:, None] if column.ndim == 1 else column for column in columns], -1)


def _named(path: Path, block: Block, specs: Specs, other: Collection[str]) -> Block:
    """The columns of a block as samples."""
    known, found = dict(block), {}
    special = {**dict(_SPECIAL), **{name: (name,) for name in other if name not in (*specs, *TARGETS)}}
    for key, names in special.items():
        column = _taken(known, names)
        if column is not None:
            found[key] = column[:, 0] if column.shape[1] == 1 else column
    return {**_inputs(path, known, specs), **found}


def _inputs(path: Path, known: Block, specs: Specs) -> Block:
    found: Block = {}
    for name, (shape, dtype) in specs.items():
        column = _taken(known, [name])
        if column is None and len(specs) == 1:
            column = _joined(list(known.values()))
            known.clear()
        if column is None:
            raise InputError(f"{path}: no column {name!r} (nor {name}.0, ...) for the model's input")
        sized = _sized(column, shape)
        found[name] = sized.astype(dtype, copy=False) if dtype.startswith("float") else sized
    for name in known:
        raise InputError(f"{path}: unknown column {name!r}: it is none of the inputs {', '.join(specs)}, nor a target")
    return found


def _sized(column: npt.NDArray[Any], shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    """Rows of numbers in the shape of an input, where they are as many."""
    if len(shape) == 1:
        return column[:, 0] if column.shape[1] == 1 else column
    sizes = [size for size in shape[1:] if size is not None]
    fits = len(sizes) == len(shape) - 1 and int(np.prod(sizes)) == column.shape[1]
    return column.reshape(len(column), *sizes) if fits else column
