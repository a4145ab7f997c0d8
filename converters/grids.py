"""Coarser grids for the weights of a file: what each costs and saves, and in which order they are taken.

Rate is the length of a deflate stream of a layer's weights, distortion the error that they make times what a unit of it
does to the outputs of the model, which a trial of each layer tells.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Grid", "Move", "chosen_by", "deflated", "first_fitting", "moves", "on_hull"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A choice that a layer has: a number that tells which, bytes of its deflate stream, and the error of its
    weights."""

    choice: float
    stream_bytes: int
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Take a layer, by its number, to a choice: the distortion that adds, and for each byte saved."""

    layer: int
    choice: float
    distortion: float
    price: float


def deflated(*parts: np.ndarray) -> int:
    """Bytes of arrays, each as a deflate stream of its own."""
    return sum(len(zlib.compress(np.ascontiguousarray(part).tobytes(), 9)) for part in parts)


def on_hull(grids: Sequence[Grid]) -> set[float]:
    """The choices that moves may take, and the finest one."""
    return {grids[0].choice, *(move.choice for move in _hull(0, grids, 1.0))}


def moves(grids: Sequence[Sequence[Grid]], weights: Sequence[float]) -> list[Move]:
    """All moves from the finest grids to the coarsest, cheapest first: a prefix is what minimizes distortion plus a
    price times bytes, for the price of its last move.

    `weights` are what a unit of each layer's error costs.
    """
    found = []
    for number, (known, weight) in enumerate(zip(grids, weights, strict=True)):
        found += list(_hull(number, known, weight))
    return sorted(found, key=lambda move: (move.price, move.layer, move.choice))


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
        steps.append(Move(layer=number, choice=best.choice, distortion=cost, price=price(best)))
        at, left = best, [grid for grid in cheaper if grid.stream_bytes < best.stream_bytes]


def chosen_by(path: Sequence[Move]) -> dict[int, float]:
    """What some moves come to: the choice of each layer that they move."""
    return {move.layer: move.choice for move in path}


def first_fitting(most: int, fits: Callable[[int], bool]) -> int:
    """The smallest number up to `most` that fits, where all above it do; `most` where none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low
