"""Tables of few values for a tensor: k-means in one dimension, in which zeros stay zeros."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeprune.converters.types import Generated

__all__ = ["STORED_BITS", "indexes", "stored_bits", "table_of", "with_tables"]

STORED_BITS = (1, 2, 4, 6, 8)  # of an index, from iOS 16 on (coremltools 9, OpPalettizerConfig.nbits)
ROUNDS = 30  # at most, of Lloyd's algorithm


def table_of(values: np.ndarray, count: int) -> np.ndarray:
    """At most `count` values that a float16 array is best replaced by, float16, in order.

    The squared error is that of Lloyd's algorithm (doi:10.1109/TIT.1982.1056489) from quantiles on. Where the array has
    zeros, 0 is one of the values, so that they stay.
    """
    known, often = np.unique(np.asarray(values, np.float16).reshape(-1), return_counts=True)
    if len(known) <= count:
        return known
    has_zeros = bool((known == 0).any())
    points, weights = known[known != 0].astype(np.float64), often[known != 0].astype(np.float64)
    ends = np.concatenate([[0.0], np.cumsum(weights)])
    sums = np.concatenate([[0.0], np.cumsum(weights * points)])
    free = count - has_zeros
    # Many values of k-means lie as dense as the cube root of the density (Panter and Dite 1951).
    spread = np.cumsum(weights ** (1 / 3) * np.gradient(points) ** (2 / 3))
    centres = points[np.searchsorted(spread, (np.arange(free) + 0.5) / free * spread[-1])]
    for _ in range(ROUNDS):
        cuts = np.concatenate([[0], np.searchsorted(points, (centres[1:] + centres[:-1]) / 2), [len(points)]])
        held = ends[cuts[1:]] - ends[cuts[:-1]]
        means = (sums[cuts[1:]] - sums[cuts[:-1]]) / np.maximum(held, 1e-300)
        moved = np.where(held > 0, means, centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    return np.unique(np.concatenate([centres, np.zeros(int(has_zeros))]).astype(np.float16) + np.float16(0))


def indexes(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """For each number the place of the nearest value of a table, uint8 in the shape of `values`."""
    known = table.astype(np.float64)
    found = np.searchsorted((known[1:] + known[:-1]) / 2, np.asarray(values, np.float64))
    if (known == 0).any():
        found = np.where(np.asarray(values) == 0, np.searchsorted(known, 0.0), found)
    return found.astype(np.uint8)


def stored_bits(table: np.ndarray) -> int:
    """Bits of an index into a table."""
    return next(bits for bits in STORED_BITS if len(table) <= 1 << bits)


def with_tables(model: Generated, tables: Mapping[str, np.ndarray]) -> Generated:
    """A float16 program of coremltools whose constants of these names are indexes into tables."""
    import coremltools.optimize.coreml as cto

    def kept(table: np.ndarray) -> Generated:
        """A table of 2^bits values, the last one repeated, and for each number the nearest place."""

        def told(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            whole = np.pad(table, (0, (1 << stored_bits(table)) - len(table)), mode="edge")
            return whole.astype(weight.dtype), indexes(weight, table).reshape(-1)

        return cto.OpPalettizerConfig(mode="custom", lut_function=told, weight_threshold=0)

    if not tables:
        return model
    config = cto.OptimizationConfig(op_name_configs={name: kept(table) for name, table in tables.items()})
    return cto.palettize_weights(model, config)
