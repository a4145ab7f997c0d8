"""Metrics against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeprune.errors import InputError
from edgeprune.maker.training.metrics import METRICS

SCORES = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40)


def pairs(scores: np.ndarray, positive: np.ndarray) -> float:
    """AUC by its definition: the share of pairs in which the positive scores above the negative, ties half."""
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p in scores[positive] for n in scores[~positive]]
    return sum(wins) / len(wins)


@given(SCORES)
def test_auc_is_the_share_of_ordered_pairs(samples: list[tuple[int, bool]]) -> None:
    """The rank formula equals counting all pairs, ties included."""
    scores = np.array([s for s, _ in samples], np.float32)
    positive = np.array([p for _, p in samples])
    if positive.all() or not positive.any():
        with pytest.raises(InputError, match="both classes"):
            METRICS["auc"].compute(scores[:, None], positive.astype(int))
        return
    assert METRICS["auc"].compute(scores[:, None], positive.astype(int)) == pytest.approx(pairs(scores, positive))


@given(SCORES)
def test_auc_of_turned_scores(samples: list[tuple[int, bool]]) -> None:
    """Turning all scores around turns the AUC around a half."""
    scores = np.array([s for s, _ in samples], np.float64)
    targets = np.array([p for _, p in samples], int)
    if targets.min() == targets.max():
        return
    there, back = METRICS["auc"].compute(scores, targets), METRICS["auc"].compute(-scores, targets)
    assert there + back == pytest.approx(1)


def test_auc_by_hand() -> None:
    """Positives 0.8 and 0.4, negatives 0.4 and 0.1: (1 + 1 + 0.5 + 1) / 4."""
    assert METRICS["auc"].compute(np.array([0.8, 0.4, 0.4, 0.1]), np.array([1, 1, 0, 0])) == 0.875


def test_accuracy_by_hand() -> None:
    """The largest output counts, the first of equals; targets may have a second axis."""
    outputs = np.array([[0.1, 0.9], [0.6, 0.4], [0.5, 0.5], [0.2, 0.8]])
    assert METRICS["accuracy"].compute(outputs, np.array([1, 0, 0, 0])) == 0.75
    assert METRICS["accuracy"].compute(outputs, np.array([[1], [1], [1], [1]])) == 0.5


def test_errors_by_hand() -> None:
    """Differences 0, 1, 2 and 3: mean 1.5, mean square 3.5."""
    outputs, targets = np.array([[0.0, 1.0], [2.0, 3.0]]), np.zeros((2, 2))
    assert METRICS["mae"].compute(outputs, targets) == 1.5
    assert METRICS["mse"].compute(outputs, targets) == 3.5


@given(arrays(np.float64, (4, 3), elements=st.floats(-1e3, 1e3)))
def test_errors_of_the_same_are_zero(values: np.ndarray) -> None:
    """An output is no distance from itself, whatever the shape of the targets."""
    for name in ("mae", "mse"):
        assert METRICS[name].compute(values, values.reshape(4, 3, 1)) == 0


def test_one_sample_of_integers() -> None:
    """Targets of unsigned bytes do not wrap around."""
    assert METRICS["mae"].compute(np.array([[1.0]], np.float32), np.array([[3]], np.uint8)) == 2


def test_the_table() -> None:
    """Each metric is listed under its own name, and those of classes are shares."""
    assert [name for name, metric in METRICS.items() if name != metric.name] == []
    assert [name for name, metric in METRICS.items() if metric.is_share] == [
        "accuracy",
        "top5",
        "iou",
        "binary_accuracy",
        "map",
    ]
    lower = [name for name, metric in METRICS.items() if not metric.higher_is_better]
    assert lower == ["mse", "rmse", "mae"]
