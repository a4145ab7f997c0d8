"""Coarser grids for the kernels of an integer .tflite file: what each costs and saves.

A grid of a kernel is a floor under its scales. The channels of an output share one scale, so an error of a weight
weighs the same in each of them: where a channel's own step is finer than the others', its bits buy nothing, and a floor
takes them first. Floors above the largest scale make the whole kernel coarser.

Rate is the length of a deflate stream of the kernel and its scales, distortion the squared error of the weights times
what a unit of it does to the outputs of the model, which a trial of each kernel tells.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.converters.kernels import Kernel
from edgeprune.converters.slim_scales import levels
from edgeprune.formats.tflite.scales import round_up

__all__ = ["PROBED", "Grid", "Move", "floored", "grids_of", "moves"]

FLOORS = (
    0.0,
    0.5,
    0.71,
    1.0,
    1.41,
    2.0,
    2.83,
    4.0,
    5.66,
    8.0,
    11.3,
    16.0,
)  # times the kernel's largest scale; 0 is its own grid
PROBED = 4.0  # the floor of a trial: coarse enough to be seen through the rounding of activations


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A floor of a kernel: bytes of its deflate stream, and the squared error of its weights."""

    floor: float
    stream_bytes: int
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Take a kernel, by its number, to the grid of a floor: the distortion that adds, and for each byte saved."""

    kernel: int
    floor: float
    distortion: float
    price: float


def floored(kernel: Kernel, floor: float) -> np.ndarray:
    """The slim scales of a kernel on a grid, as far as runtimes take them."""
    own = round_up(kernel.scales)
    least = min(floor * float(kernel.scales.max()), kernel.largest / 2)
    return np.maximum(own, round_up(np.array([least], np.float32))) if least > 0 else own


def grids_of(kernel: Kernel) -> list[Grid]:
    """The grids of a kernel, finest first."""
    return [_grid(kernel, floor) for floor in FLOORS]


def _grid(kernel: Kernel, floor: float) -> Grid:
    scales = floored(kernel, floor)
    stored = levels(kernel, scales)
    units = [bias.unit * scales for bias in kernel.biases]
    streams = (stored, scales, *units)
    return Grid(
        floor=floor,
        stream_bytes=sum(len(zlib.compress(np.ascontiguousarray(one).tobytes(), 9)) for one in streams),
        error=float(np.square(kernel.values - stored * kernel.by_channel(scales)).sum()),
    )


def moves(grids: Sequence[Sequence[Grid]], weights: Sequence[float]) -> list[Move]:
    """All moves from the finest grids to the coarsest, cheapest first: a prefix is what minimizes distortion plus a
    price times bytes, for the price of its last move.

    `weights` are what a unit of each kernel's error costs.
    """
    found = []
    for number, (known, weight) in enumerate(zip(grids, weights, strict=True)):
        found += list(_hull(number, known, weight))
    return sorted(found, key=lambda move: (move.price, move.kernel, move.floor))


def _hull(number: int, grids: Sequence[Grid], weight: float) -> list[Move]:
    """The moves along the lower convex hull of distortion over bytes; their prices grow."""
    at, left = grids[0], list(grids[1:])
    steps: list[Move] = []
    while True:
        cheaper = [grid for grid in left if grid.stream_bytes < at.stream_bytes]
        if not cheaper:
            return steps

        def price(grid: Grid, start: Grid = at) -> float:
            return weight * max(0.0, grid.error - start.error) / (start.stream_bytes - grid.stream_bytes)

        best = min(cheaper, key=lambda grid: (price(grid), grid.stream_bytes))
        cost = weight * max(0.0, best.error - at.error)
        steps.append(Move(kernel=number, floor=best.floor, distortion=cost, price=price(best)))
        at, left = best, [grid for grid in cheaper if grid.stream_bytes < best.stream_bytes]
