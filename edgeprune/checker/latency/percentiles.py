"""How long single calls take, as a service sees them: the median, and the tails that a mean hides.

Calls are timed one by one in several processes. The interval is a bootstrap over processes first and calls second, as
for the ratios; a percentile with few calls beyond it says so by its interval, and by their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeprune.checker.latency.measure import ProcessTimes

__all__ = ["SHARES", "Percentile", "Percentiles", "percentiles_of"]

SHARES = (0.5, 0.95, 0.99)
RESAMPLES = 400
CLOCKS = ("CPU", "wall")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """The milliseconds that the share of the calls stayed within, with a 95 % interval; `beyond` calls took longer."""

    share: float
    ms: float
    low_ms: float
    high_ms: float
    beyond: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """The percentiles of `calls` single calls by one clock: "CPU" (thread CPU time), or "wall", which other programs
    on the host lengthen."""

    clock: str
    calls: int
    processes: int
    values: tuple[Percentile, ...]


def percentiles_of(times: Sequence[ProcessTimes], file: int, *, seed: int) -> tuple[Percentiles, ...]:
    """P50, P95 and P99 by each clock, of file 0 (the baseline) or 2 (the candidate); empty where no call was timed
    alone."""
    if not all(len(process.single_cpu_ms) for process in times):
        return ()
    by_clock = (
        [process.single_cpu_ms[:, file] for process in times],
        [process.single_wall_ms[:, file] for process in times],
    )
    return tuple(_of_clock(clock, calls, seed) for clock, calls in zip(CLOCKS, by_clock, strict=True))


def _of_clock(clock: str, calls_ms: Sequence[Floats], seed: int) -> Percentiles:
    whole = np.concatenate(calls_ms)
    lows, highs = _intervals(calls_ms, seed)
    values = [
        Percentile(
            share=share,
            ms=(value := float(np.quantile(whole, share))),
            low_ms=min(low, value),
            high_ms=max(high, value),
            beyond=int((whole > value).sum()),
        )
        for share, low, high in zip(SHARES, lows, highs, strict=True)
    ]
    return Percentiles(clock=clock, calls=len(whole), processes=len(calls_ms), values=tuple(values))


def _intervals(calls_ms: Sequence[Floats], seed: int) -> tuple[list[float], list[float]]:
    """(low, high) of each share: processes are drawn with replacement, then calls of each drawn process."""
    numbers = np.random.default_rng(seed)
    found = np.empty((RESAMPLES, len(SHARES)))
    for resample in range(RESAMPLES):
        drawn = [calls_ms[process] for process in numbers.integers(len(calls_ms), size=len(calls_ms))]
        picked = np.concatenate([own[numbers.integers(own.size, size=own.size)] for own in drawn])
        found[resample] = np.quantile(picked, SHARES)
    low, high = np.quantile(found, [0.025, 0.975], axis=0)
    return low.tolist(), high.tolist()
