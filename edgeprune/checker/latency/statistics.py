"""Paired timings to a ratio, an interval and a verdict: pure functions of numbers, no clock.

The design follows the usual one for paired benchmarks: a ratio per pair cancels what disturbs both halves, a median per
process forgets outliers, and a bootstrap over processes first and pairs second carries the differences between
processes (memory layout) into the interval. See Kalibera and Jones, "Rigorous benchmarking in reasonable time" (2013).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeprune.step_reports import Outcome

__all__ = [
    "Interval",
    "bootstrap_interval",
    "geometric_mean",
    "log_median",
    "outcome_of",
    "paired_ratios",
    "process_medians",
    "ratio_interval",
    "widened_tolerance",
]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A ratio of times (no unit) and the interval it lies in."""

    ratio: float
    low: float
    high: float


def paired_ratios(baseline: npt.ArrayLike, candidate: npt.ArrayLike) -> Floats:
    """Candidate over baseline, pair by pair, of one process; both (pairs,) of times in one unit, all above 0.

    Raises ValueError for other shapes, or for a time that is not finite and positive.
    """
    below, above = np.asarray(baseline, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if below.shape != above.shape or below.ndim != 1 or not below.size:
        raise ValueError(f"times must be two equally long lists, not of shapes {below.shape} and {above.shape}")
    if not (np.isfinite(below).all() and np.isfinite(above).all() and (below > 0).all() and (above > 0).all()):
        raise ValueError("times must be finite and above 0")
    return above / below


def log_median(ratios: Floats) -> Floats:
    """The median of the logarithms over the last axis.

    Of logarithms, so that swapping baseline and candidate gives the inverse for an even number of pairs too.
    """
    return np.asarray(np.median(np.log(ratios), axis=-1), dtype=np.float64)


def geometric_mean(ratios: npt.ArrayLike) -> float:
    """exp of the mean logarithm: the mean for ratios (0.5 and 2 give 1)."""
    return float(np.exp(np.mean(np.log(np.asarray(ratios, dtype=np.float64)))))


def process_medians(ratios: Sequence[Floats]) -> Floats:
    """One typical ratio per process: (processes,)."""
    medians: Floats = np.exp(np.array([float(log_median(own)) for own in ratios]))
    return medians


def bootstrap_interval(
    ratios: Sequence[Floats], *, seed: int, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the geometric mean of process medians; one array of paired ratios per process.

    Each resample draws as many processes with replacement, then in each drawn process its pairs with replacement.
    """
    numbers = np.random.default_rng(seed)
    drawn = numbers.integers(len(ratios), size=(len(ratios), resamples))
    medians = np.empty(drawn.shape)
    for slot, process in itertools.product(range(len(ratios)), range(len(ratios))):
        own, here = ratios[process], drawn[slot] == process
        picked = numbers.integers(own.size, size=(int(here.sum()), own.size))
        medians[slot, here] = log_median(own[picked])
    low, high = np.exp(np.quantile(medians.mean(axis=0), [(1 - confidence) / 2, (1 + confidence) / 2]))
    return float(low), float(high)


def ratio_interval(ratios: Sequence[Floats], *, seed: int) -> Interval:
    """The ratio candidate / baseline with its 95 % interval, from one array of paired ratios per process."""
    low, high = bootstrap_interval(ratios, seed=seed)
    return Interval(ratio=geometric_mean(process_medians(ratios)), low=low, high=high)


def widened_tolerance(tolerance: float, null: Interval, *, limit: float) -> float:
    """The tolerance plus how far the null run's interval strays from 1, at most `limit`.

    The null run compares a file with its own copy: what strays there is this host, not the candidate. The limit keeps
    a noisy host from calling everything unchanged: beyond it the verdict becomes inconclusive instead.
    """
    stray = max(abs(null.low - 1), abs(null.high - 1))
    return max(tolerance, min(tolerance + stray, limit))


def outcome_of(low: float, high: float, tolerance: float) -> Outcome:
    """Unchanged when the whole interval lies in [1 - t, 1 + t]; faster or slower when it lies wholly outside."""
    if 1 - tolerance <= low and high <= 1 + tolerance:
        return Outcome.UNCHANGED
    if high < 1 - tolerance:
        return Outcome.FASTER
    if low > 1 + tolerance:
        return Outcome.SLOWER
    return Outcome.INCONCLUSIVE
