"""Which answers a file changed against the dense model, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.answers import ClassAnswers, Swap
from edgeprune.maker.training.answers import answer_changes
from edgeprune.maker.training.metrics import METRICS, Metric, Targets
from edgeprune.maker.training.task import Score, Task


def task(*metrics: Metric | str) -> Task:
    scores = [METRICS[one] if isinstance(one, str) else one for one in metrics]
    return Task(scores=tuple(Score(name=one.name, metric=one, output="out", place=0) for one in scores))


def test_classes() -> None:
    """Five answers: one turned wrong, one right; a class without answers is not there."""
    actual = np.array([0, 0, 1, 1, 2])
    before, after = (np.eye(4)[said] for said in ([0, 0, 1, 0, 1], [0, 2, 1, 1, 1]))
    (found,) = answer_changes(task("accuracy", "top5"), {"o": before}, {"o": after}, {"out": actual})
    assert (found.output, found.answers, found.lost, found.won, found.others) == ("out", 5, 1, 1, 0)
    assert found.classes == (
        ClassAnswers(index=0, answers=2, right_before=2, right_after=1),
        ClassAnswers(index=2, answers=1, right_before=0, right_after=0),
        ClassAnswers(index=1, answers=2, right_before=1, right_after=2),
    )
    assert found.classes[0].drop == 0.5
    assert set(found.swaps) == {
        Swap(actual=0, taken=2, before=0, after=1),
        Swap(actual=1, taken=0, before=1, after=0),
    }


def test_places_of_a_segmentation_are_answers() -> None:
    """Each place of each sample."""
    before = np.zeros((2, 3, 3, 2))
    before[..., 1] = 1
    (found,) = answer_changes(task("iou"), {"o": before}, {"o": -before}, {"out": np.ones((2, 3, 3), np.int64)})
    assert (found.answers, found.lost) == (18, 18)
    void = np.full((2, 3, 3), 255)
    assert answer_changes(task("iou"), {"o": before}, {"o": before}, {"out": void}) == ()


def test_one_label_is_two_classes_and_several_are_classes() -> None:
    """0.4 turns to 0.6 for a sample that is negative."""
    before, after = np.array([[0.4], [0.9]]), np.array([[0.6], [0.9]])
    (found,) = answer_changes(task("binary_accuracy"), {"o": before}, {"o": after}, {"out": np.array([0, 1])})
    assert [(one.index, one.right_before, one.right_after) for one in found.classes] == [(0, 1, 0), (1, 1, 1)]
    wide = {"out": np.array([[1, 0, 1], [1, 0, 0]])}
    (several,) = answer_changes(task("f1"), {"o": np.ones((2, 3))}, {"o": np.zeros((2, 3))}, wide)
    assert [(one.index, one.answers, one.right_before, one.right_after) for one in several.classes] == [
        (0, 2, 2, 0),
        (2, 1, 1, 0),
    ]


def test_errors_of_numbers() -> None:
    """Every answer is counted once, also those beyond the edges; NaN is nothing that can be counted."""
    rng = np.random.default_rng(1)
    actual = rng.normal(size=(400, 1))
    before, after = actual + 0.1 * rng.normal(size=(400, 1)), actual + 0.3 * rng.normal(size=(400, 1))
    (found,) = answer_changes(task("mae"), {"o": before}, {"o": after}, {"out": actual})
    assert found.errors is not None
    assert sum(found.errors.before) == sum(found.errors.after) == found.answers == 400
    assert max(found.errors.before) > max(found.errors.after)
    assert answer_changes(task("mae"), {"o": before}, {"o": after * np.nan}, {"out": actual}) == ()
    same = np.zeros((3, 1))
    (exact,) = answer_changes(task("mae"), {"o": same}, {"o": same}, {"out": same})
    assert exact.errors is not None
    assert sum(exact.errors.after) == 3


@pytest.mark.parametrize("whole", [True, False])
def test_metrics_of_the_users_own_tell_no_answers(whole: bool) -> None:
    """Nothing is known of what their targets are."""
    own = Metric(name="own", higher_is_better=True, is_share=False, targets=Targets.ANY, of_all=whole)
    assert answer_changes(task(own), {"o": np.ones(3)}, {"o": np.ones(3)}, {"out": np.ones(3)}) == ()
