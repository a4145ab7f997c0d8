"""Scales of few bits: one rule for what writes them and for what tells how much they would save."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["CANDIDATES", "MANTISSA_BITS", "are_slim", "round_up"]

MANTISSA_BITS = 4  # after the leading one: a scale grows by less than 1/16
CANDIDATES = 4  # slim scales that a channel may choose from: the last one is at most a quarter above its own


def round_up(scales: npt.NDArray[np.float32], bits: int = MANTISSA_BITS) -> npt.NDArray[np.float32]:
    """The smallest float32 numbers of `bits` mantissa bits that are not below `scales`, which are positive."""
    words = np.asarray(scales, np.float32).view(np.uint32).astype(np.uint64)
    rest = np.uint64((1 << (23 - bits)) - 1)
    return ((words + rest) & ~rest).astype(np.uint32).view(np.float32)


def are_slim(scales: npt.NDArray[np.float32]) -> bool:
    """Whether scales have few bits already."""
    return bool(np.array_equal(round_up(scales), scales))
