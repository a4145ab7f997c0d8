"""`.csv` files: a column for each number, named after inputs, or all of them the only input."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError
from edgeprune.host.untrusted import check_file
from edgeprune.maker.training.data.columns import Column

__all__ = ["read_table"]

TARGETS = ("y", "target", "label")
WEIGHT = "sample_weight"

Specs = Mapping[str, tuple[tuple[int | None, ...], str]]


def read_table(path: Path, specs: Specs, outputs: Sequence[str] = ()) -> dict[str, Column]:
    """Inputs by name, "y" and "sample_weight" from a file with a header line.

    A column "y" (or target, label) holds the targets, several are y.0, y.1, ... An input of one number has a column of
    its name, one of several numbers NAME.0, NAME.1, ...; a model with one input takes all other columns in their order.
    Raises InputError for missing columns, and for a cell that is no number, with its line.
    """
    check_file(path, "a .csv file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            header = [name.strip() for name in next(lines, [])]
            _check_header(path, header)
            values = _numbers(path, header, lines)
    except (UnicodeDecodeError, csv.Error) as cause:
        raise InputError(f"{path}: not a .csv file in UTF-8: {cause}") from cause
    known = {name: values[:, place] for place, name in enumerate(header)}
    found: dict[str, Column] = {}
    own = [(name, (name,)) for name in outputs if name not in (*specs, *TARGETS)]
    for key, names in (("y", TARGETS), (WEIGHT, (WEIGHT,)), *own):
        column = next((taken for name in names if (taken := _of(known, name)) is not None), None)
        if column is not None:
            found[key] = column[:, 0] if column.shape[1] == 1 else column
    return {**_inputs(path, known, specs), **found}


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not header or len(set(header)) != len(header) or not all(header):
        raise InputError(f"{path}: its first line must name each column once; it has {', '.join(header) or 'nothing'}")


def _numbers(path: Path, header: Sequence[str], lines: Any) -> npt.NDArray[np.float64]:
    rows = []
    for line in lines:
        if not line:
            continue
        if len(line) != len(header):
            raise InputError(f"{path}, line {lines.line_num}: {len(line)} cells, the first line names {len(header)}")
        try:
            rows.append([float(cell) for cell in line])
        except ValueError:
            place = next(number for number, cell in enumerate(line) if not _is_number(cell))
            raise InputError(
                f"{path}, line {lines.line_num}: {line[place][:40]!r} in column {header[place]!r} is no number"
            ) from None
    return np.array(rows, np.float64).reshape(len(rows), len(header))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _of(known: dict[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any] | None:
    """Takes the columns NAME, or NAME.0, NAME.1, ... out of those that are known."""
    if name in known:
        return known.pop(name)[:, None]
    parts: list[npt.NDArray[Any]] = []
    while f"{name}.{len(parts)}" in known:
        parts.append(known.pop(f"{name}.{len(parts)}"))
    return np.stack(parts, -1) if parts else None


def _inputs(path: Path, known: dict[str, npt.NDArray[Any]], specs: Specs) -> dict[str, Column]:
    found: dict[str, Column] = {}
    for name, (shape, dtype) in specs.items():
        column = _of(known, name)
        if column is None and len(specs) == 1:
            column = np.stack(list(known.values()), -1) if known else None
            known.clear()
        if column is None:
            raise InputError(f"{path}: no column {name!r} (nor {name}.0, ...) for the model's input")
        kind = dtype if dtype.startswith("float") else "int64"
        found[name] = (column[:, 0] if len(shape) == 1 else column).astype(kind)
    for name in known:
        raise InputError(f"{path}: unknown column {name!r}: it is none of the inputs {', '.join(specs)}, nor a target")
    return found
