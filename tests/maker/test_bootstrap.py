"""Intervals of a metric's difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.ledger import MetricChange
from edgeprune.maker.training.bootstrap import compared
from edgeprune.maker.training.metrics import METRICS, Metric, Targets
from edgeprune.maker.training.task import Score


def change(metric: Metric, old: Any, new: Any, told: Any, seed: int = 0) -> MetricChange:
    score = Score(name=metric.name, metric=metric, output="out", place=0)
    value, found = compared(score, {"out": old}, {"out": new}, {"out": told}, seed=seed)
    assert value == metric.compute(new, told)
    return found


def made(name: str, rng: np.random.Generator, count: int = 120) -> tuple[Any, Any, Any]:
    """(outputs, outputs a little off, targets) that a metric takes."""
    kind = METRICS[name].targets
    if kind is Targets.CLASSES:
        old = rng.normal(size=(count, 7))
        return old, old + rng.normal(0, 0.3, old.shape), rng.integers(0, 7, count)
    old = rng.random((count, 3))
    new = np.clip(old + rng.normal(0, 0.1, old.shape), 0, 1)
    return old, new, (rng.random(old.shape) < old).astype(float) if kind is Targets.LABELS else rng.random(old.shape)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if not metric.of_all])
def test_difference_and_interval(name: str) -> None:
    """The difference is that of the two values, the interval holds it, and the same seed gives the same interval."""
    old, new, told = made(name, np.random.default_rng(1))
    metric = METRICS[name]
    found = change(metric, old, new, told)
    assert found.difference == pytest.approx(metric.compute(new, told) - metric.compute(old, told))
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.difference <= found.high
    assert change(metric, old, new, told) == found
    assert change(metric, old, old, told) == MetricChange(
        before=metric.compute(old, told), difference=0, low=0, high=0, resamples=found.resamples
    )


def test_it_is_paired() -> None:
    """A shift that every sample shares is sure, however far apart the samples are; McNemar's interval is met."""
    rng = np.random.default_rng(2)
    told, wrong = rng.normal(0, 50, 400), rng.normal(0, 20, 400)
    found = change(METRICS["mae"], (told + abs(wrong))[:, None], (told + abs(wrong) + 1)[:, None], told)
    assert (found.low, found.high) == (pytest.approx(1), pytest.approx(1))
    right, told = rng.random((2, 3000)) < 0.8, np.zeros(3000, int)
    outputs = [np.where(side[:, None], [1.0, 0.0], [0.0, 1.0]) for side in right]
    found = change(METRICS["accuracy"], *outputs, told)
    gains, losses = (right[1] & ~right[0]).mean(), (right[0] & ~right[1]).mean()
    half = 1.96 * ((gains + losses - (gains - losses) ** 2) / 3000) ** 0.5
    assert found.low == pytest.approx(gains - losses - half, abs=0.15 * half)
    assert found.high == pytest.approx(gains - losses + half, abs=0.15 * half)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.parts is not None])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_parts_of_samples_drawn_again(name: str, seed: int) -> None:
    """A metric of sums is that of the drawn samples themselves."""
    rng = np.random.default_rng(seed)
    old, _, told = made(name, rng, count=30)
    rows, metric = rng.integers(0, 30, 30), METRICS[name]
    assert metric.parts is not None
    assert metric.of_sums is not None
    counts = np.bincount(rows, minlength=30).astype(float)
    assert float(metric.of_sums(counts @ metric.parts(old, told))) == pytest.approx(
        metric.compute(old[rows], told[rows]), rel=1e-9
    )


def test_functions_of_the_users_own() -> None:
    """One that gives a value for each sample has an interval; one of all samples together has none."""
    rng = np.random.default_rng(3)
    old, told = rng.random((50, 2)), rng.random((50, 2))

    def metric(whole: Any) -> Metric:
        return Metric(name="own", higher_is_better=True, is_share=False, targets=Targets.ANY, whole=whole)

    each = change(metric(lambda o, t: abs(o - t).max(1)), old, old + 0.1, told)
    assert (each.resamples, each.low is not None) == (500, True)
    together = change(metric(lambda o, t: float(abs(o - t).max())), old, old + 0.1, told)
    assert (together.resamples, together.low, together.is_noise) == (0, None, False)
