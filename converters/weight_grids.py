"""Coarser grids for int8 weights where there are no samples: by the error of the weights alone.

Without samples nothing tells what an error does to the outputs, so each kernel's counts as a share of the kernel's own
energy: layers behind one another add their noise in about that proportion. What accuracy that costs is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeprune.artifact import Precision
from edgeprune.checker.size.codecs import BASE_CODEC, CODECS
from edgeprune.checker.sparse_kernels.sparse_file import float_graph, stored_as
from edgeprune.checker.sparse_kernels.storage import int8_kernels, int8_levels
from edgeprune.converters.coarse_kernels import FLOORS
from edgeprune.converters.grids import Grid, chosen_by, deflated, first_fitting, moves
from edgeprune.units import format_bytes, format_percent

__all__ = ["small_enough"]

Floats = npt.NDArray[np.float32]


def small_enough(
    path: Path,
    start: bytes,
    source: bytes,
    target_bytes: int,
    *,
    on_progress: Callable[[int, int], None],
) -> tuple[bytes, list[str]]:
    """(The float file `start` with int8 weights as coarse as a download of `target_bytes` asks for, what is to be
    said).

    `path` is for messages, `source` the file that `start` was made of. Takes seconds for each million weights.
    """
    kernels = int8_kernels(float_graph(path, start))
    grids: list[list[Grid]] = []
    for values in kernels.values():
        grids.append([_grid(values, floor) for floor in FLOORS])
        on_progress(len(grids), len(kernels) + 1)
    weights = [1 / max(float(np.square(values, dtype=np.float64).sum()), 1e-30) for values in kernels.values()]
    order, indices = moves(grids, weights), list(kernels)

    def made(count: int) -> bytes:
        floors = {indices[layer]: floor for layer, floor in chosen_by(order[:count]).items()}
        return stored_as(float_graph(path, start), source, Precision.INT8_WEIGHTS, floors)

    count = first_fitting(len(order), lambda n: CODECS[BASE_CODEC].compressed_bytes(made(n)) <= target_bytes)
    on_progress(len(kernels) + 1, len(kernels) + 1)
    content, chosen = made(count), chosen_by(order[:count])
    errors = [{grid.choice: grid.error for grid in known}[chosen.get(n, FLOORS[0])] for n, known in enumerate(grids)]
    return content, _said(
        content, target_bytes, [error * weight for error, weight in zip(errors, weights, strict=True)]
    )


def _grid(values: Floats, floor: float) -> Grid:
    stored, scales = int8_levels(values, floor)
    error = float(np.square(values - _floats(stored, scales), dtype=np.float64).sum())
    return Grid(choice=floor, stream_bytes=deflated(stored, scales), error=error)


def _floats(stored: npt.NDArray[np.int8], scales: Floats) -> Floats:
    return stored * scales.reshape(-1, *[1] * (stored.ndim - 1))


def _said(content: bytes, target_bytes: int, shares: Sequence[float]) -> list[str]:
    """`shares` are the errors of kernels, each as a share of its energy."""
    size = CODECS[BASE_CODEC].compressed_bytes(content)
    found = [
        f"coarser weights by their own error, without samples: {format_percent(float(np.mean(shares)), 2)} of the "
        f"energy of a kernel in the mean and {format_percent(max(shares), 2)} at most; what that costs in "
        "accuracy is not measured"
        if shares
        else "no kernel is large enough to be stored as int8"
    ]
    if size > target_bytes:
        found.append(
            f"the download target of {format_bytes(target_bytes)} is not reached: {format_bytes(size)}, as no grid is "
            "coarser"
        )
    return found
