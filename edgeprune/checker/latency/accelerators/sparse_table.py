"""How much faster 2:4 makes a product of matrices on one GPU: a table that benchmarks/two_four_gpu.py made there."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.checker.latency.accelerators.placement_records import MatrixShape
from edgeprune.errors import InputError
from edgeprune.host.untrusted import read_text

__all__ = ["SparseTable", "read_table"]

SCHEMA = 1
_MOST_APART = 4.0  # columns of a row that stands for another product


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseTable:
    """The ratios of one card, dense time by sparse time, by (dtype, outputs, inputs) and columns."""

    name: str
    card: str
    ratios: Mapping[tuple[str, int, int], Mapping[int, float]]

    def factor(self, shape: MatrixShape, dtype: str) -> float | None:
        """The measured ratio for a product of these outputs and inputs, at the nearest number of columns.

        None where none was measured with at most four times, and at least a fourth of, its columns.
        """
        rows = self.ratios.get((dtype, shape.outputs, shape.inputs), {})
        nearest = min(rows, key=lambda columns: abs(math.log(columns / shape.columns)), default=None)
        if nearest is None or not 1 / _MOST_APART <= nearest / shape.columns <= _MOST_APART:
            return None
        return rows[nearest]


def read_table(path: Path) -> SparseTable:
    """The table in a .toml file. Raises InputError for what is missing or no such table."""
    try:
        raw = tomllib.loads(read_text(path, "a table of benchmarks/two_four_gpu.py"))
        if raw["schema"] != SCHEMA:
            raise ValueError(f"schema {raw['schema']!r:.20}")
        ratios: dict[tuple[str, int, int], dict[int, float]] = {}
        for row in raw["rows"]:
            key = _text(row["dtype"]), _count(row["outputs"]), _count(row["inputs"])
            ratios.setdefault(key, {})[_count(row["columns"])] = _time(row["dense_us"]) / _time(row["sparse_us"])
        return SparseTable(name=path.name, card=_text(raw["card"]), ratios=ratios)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as cause:
        raise InputError(
            f"{path}: no table of sparse products ({type(cause).__name__}: {cause}); write one on the GPU with "
            "benchmarks/two_four_gpu.py"
        ) from cause


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r:.40} is no name")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 40:
        raise ValueError(f"{value!r:.40} is no count")
    return value


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise ValueError(f"{value!r:.40} is no time in microseconds")
    return float(value)
