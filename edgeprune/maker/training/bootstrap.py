"""Whether a difference of metrics says anything: paired bootstrap over the samples.

Both models are scored on the same samples drawn again with replacement, so that what makes a sample hard for both
cancels out (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13: percentile intervals).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.ledger import MetricChange
from edgeprune.maker.training.metrics import Metric, OfSums
from edgeprune.maker.training.task import Arrays, Score

__all__ = ["compared"]

Floats = npt.NDArray[np.float64]

RESAMPLES, RESAMPLES_WHOLE = 500, 200  # of metrics that are sums; of those that are computed again (AUC)
_MOST_WHOLE = 20_000  # targets of these
_BLOCK = 4_000_000  # counts at once
_TAILS = (2.5, 97.5)  # percent


def compared(
    score: Score, before: Arrays, after: Arrays, targets: Arrays, *, seed: int = 0
) -> tuple[float, MetricChange]:
    """(What a score is for the outputs `after`, what it changed from the outputs `before`), on the same samples and by
    output in order. Raises InputError where it has no value."""
    metric, rng = score.metric, np.random.default_rng(seed)
    old, told = score.taken(before, targets)
    new, _ = score.taken(after, targets)
    if metric.parts is not None and metric.of_sums is not None:
        parts = metric.parts(old, told), metric.parts(new, told)
        first, last = (float(metric.of_sums(part.sum(0))) for part in parts)
        drawn = _of_sums(metric.of_sums, parts, rng)
    else:
        assert metric.whole is not None
        values = [np.asarray(metric.whole(made, told), np.float64) for made in (old, new)]
        first, last = (float(value.mean()) for value in values)
        drawn = _of_whole(metric, old, new, told, values, rng)
    first, last = metric.finite(first), metric.finite(last)
    known = drawn[np.isfinite(drawn)]
    low, high = np.percentile(known, _TAILS).tolist() if len(known) else (None, None)
    return last, MetricChange(before=first, difference=last - first, low=low, high=high, resamples=len(known))


def _of_sums(of_sums: OfSums, parts: tuple[Floats, Floats], rng: np.random.Generator) -> Floats:
    """Differences of a function of sums, for samples drawn again."""
    found = []
    for counts in _counts(len(parts[0]), rng):
        earlier, later = (of_sums(counts @ part) for part in parts)
        found.append(later - earlier)
    return np.concatenate(found)


def _of_whole(
    metric: Metric, old: Any, new: Any, told: Any, values: Sequence[Floats], rng: np.random.Generator
) -> Floats:
    """The same of a metric that is computed from all samples; none where that is not known to be quick."""
    earlier, later = values
    if earlier.ndim == 1 and earlier.shape == later.shape:  # a value for each sample
        return np.concatenate([counts @ (later - earlier) / len(later) for counts in _counts(len(later), rng)])
    if not metric.is_quick or told.size > _MOST_WHOLE:
        return np.array([])
    assert metric.whole is not None
    rows = [rng.integers(0, len(told), len(told)) for _ in range(RESAMPLES_WHOLE)]
    return np.array([np.mean(metric.whole(new[r], told[r])) - np.mean(metric.whole(old[r], told[r])) for r in rows])


def _counts(samples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each sample is drawn, [resamples, samples], in blocks."""
    block = max(1, _BLOCK // samples)
    shares = np.full(samples, 1 / samples)
    for start in range(0, RESAMPLES, block):
        yield rng.multinomial(samples, shares, size=min(block, RESAMPLES - start)).astype(np.float64)
