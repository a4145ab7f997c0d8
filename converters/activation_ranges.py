"""Narrower ranges for the tensors of an int8 file, of what they hold on calibration samples.

The least and the largest value make room for the rarest one. Leaving that out costs its clipping and makes every step
finer: "percentile" leaves a ten-thousandth out, "least error" weighs both (the criterion of OCTAV: Sakr et al. 2022,
arXiv:2206.06501, here for both ends of an asymmetric range).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

__all__ = ["NARROWED", "Sketch", "sketched"]

_MOST = 1 << 17  # values of a tensor that are kept
_TAIL = 0.01  # percent at each end
_STEPS = 255.0
_TRIED = 64  # ends that are tried at each side


class Sketch:
    """Some of the values of a tensor, drawn evenly, and its extremes."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.least, self.largest = 0.0, 0.0

    def add(self, values: np.ndarray, share: float, rng: np.random.Generator) -> None:
        """More values, of which this share is kept."""
        flat = values.reshape(-1)
        self.least = min(self.least, float(flat.min(initial=0.0)))
        self.largest = max(self.largest, float(flat.max(initial=0.0)))
        few = max(1, int(share * flat.size))
        self.parts.append(flat if few >= flat.size else flat[rng.integers(0, flat.size, few)])

    @property
    def values(self) -> np.ndarray:
        """Those that were kept, sorted."""
        return np.sort(np.concatenate(self.parts).astype(np.float64))


def sketched(traces: Iterable[Mapping[str, np.ndarray]], samples: int, *, seed: int = 0) -> dict[str, Sketch]:
    """A sketch of each tensor of a trace over so many samples."""
    rng, found = np.random.default_rng(seed), dict[str, Sketch]()
    for part in traces:
        for name, values in part.items():
            if values.size and np.isfinite(values).all():
                whole = values.size / len(values) * samples
                found.setdefault(name, Sketch()).add(values, min(1.0, _MOST / whole), rng)
    return found


def by_percentile(sketch: Sketch) -> tuple[float, float]:
    """Without the rarest values at each end."""
    low, high = np.percentile(sketch.values, (_TAIL, 100 - _TAIL))
    return min(float(low), 0.0), max(float(high), 0.0)


def by_error(sketch: Sketch) -> tuple[float, float]:
    """The range of the least squared error: of what is clipped and of what is rounded."""
    values = sketch.values
    lows, low_cost = _clipped(-values[::-1], -sketch.least)
    highs, high_cost = _clipped(values, sketch.largest)
    width = lows[:, None] + highs[None, :]
    cost = low_cost[:, None] + high_cost[None, :] + len(values) * np.square(width / _STEPS) / 12
    low, high = np.unravel_index(int(cost.argmin()), cost.shape)
    return -float(lows[low]), float(highs[high])


def _clipped(values: np.ndarray, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """(Ends to try at the upper side of sorted values, the squared error of clipping there)."""
    if largest <= 0:
        return np.zeros(1), np.zeros(1)
    ends = largest * np.geomspace(1 / 256, 1.0, _TRIED)
    first = np.searchsorted(values, ends, side="right")
    total = np.append(np.cumsum(values[::-1])[::-1], 0.0)
    square = np.append(np.cumsum(np.square(values[::-1]))[::-1], 0.0)
    above = len(values) - first
    return ends, np.maximum(square[first] - 2 * ends * total[first] + above * np.square(ends), 0.0)


NARROWED: dict[str, Callable[[Sketch], tuple[float, float]]] = {
    "ranges of 99.99 % of the values": by_percentile,
    "ranges of the least error": by_error,
}
