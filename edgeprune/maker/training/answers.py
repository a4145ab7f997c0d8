"""Which answers a file changed against the dense model: the classes that pay, or the errors of numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeprune.answers import AnswerChange, ClassAnswers, ErrorCounts, Swap
from edgeprune.maker.training.metrics import Targets, class_answers, label_answers
from edgeprune.maker.training.task import Arrays, Score, Task

__all__ = ["answer_changes"]

_MOST_CLASSES, _MOST_SWAPS, _BINS = 50, 30, 24
_TAILS = (1.0, 99.0)  # percent of the errors that lie between the edges
Indexes = npt.NDArray[np.int64]


def answer_changes(task: Task, before: Arrays, after: Arrays, targets: Arrays) -> tuple[AnswerChange, ...]:
    """A change for each output with a score whose targets are understood; arrays as for `Score.of`."""
    found: dict[str, AnswerChange] = {}
    for score in task.scores:
        if score.output is not None and score.output not in found:
            change = _change(score, before, after, targets)
            if change is not None:
                found[score.output] = change
    return tuple(found.values())


def _change(score: Score, before: Arrays, after: Arrays, targets: Arrays) -> AnswerChange | None:
    (old, actual), (new, _) = score.taken(before, targets), score.taken(after, targets)
    assert score.output is not None
    if score.metric.targets is Targets.CLASSES:
        return _of_classes(score.output, class_answers(old, actual), class_answers(new, actual), old.shape[-1])
    if score.metric.targets is Targets.LABELS:
        return _of_labels(score.output, label_answers(old, actual), label_answers(new, actual))
    if score.metric.targets is Targets.NUMBERS:
        flat = actual.reshape(len(actual), -1).astype(np.float64)
        errors = [made.reshape(len(made), -1) - flat for made in (old, new)]
        return _of_numbers(score.output, errors[0], errors[1])
    return None


def _of_labels(
    output: str, old: tuple[np.ndarray, np.ndarray], new: tuple[np.ndarray, np.ndarray]
) -> AnswerChange | None:
    """One label is two classes; of several, each is a class of those samples that have it."""
    (said, actual), (now, _) = old, new
    if actual.shape[1] == 1:
        flat = [part.reshape(-1).astype(np.int64) for part in (said, now, actual)]
        return _of_classes(output, (flat[0], flat[2]), (flat[1], flat[2]), 2)
    classes = [
        ClassAnswers(
            index=n,
            answers=int(actual[:, n].sum()),
            right_before=int((said & actual)[:, n].sum()),
            right_after=int((now & actual)[:, n].sum()),
        )
        for n in range(actual.shape[1])
    ]
    right, still = said == actual, now == actual
    return _with_classes(output, right, still, classes, ())


def _of_classes(
    output: str, old: tuple[Indexes, Indexes], new: tuple[Indexes, Indexes], count: int
) -> AnswerChange | None:
    (said, actual), (now, _) = old, new
    if actual.min(initial=0) < 0 or actual.max(initial=0) >= count:
        return None  # places that are no class: nothing is known of their answers
    right, still = said == actual, now == actual
    counts = [np.bincount(actual[which], minlength=count) for which in (np.ones(len(actual), bool), right, still)]
    classes = [
        ClassAnswers(index=n, answers=int(total), right_before=int(first), right_after=int(last))
        for n, (total, first, last) in enumerate(zip(*counts, strict=True))
    ]
    return _with_classes(output, right, still, classes, _swaps(said, now, actual, count))


def _with_classes(
    output: str, right: np.ndarray, still: np.ndarray, classes: list[ClassAnswers], swaps: tuple[Swap, ...]
) -> AnswerChange:
    there = [one for one in classes if one.answers]
    most = sorted(there, key=lambda one: -abs(one.right_before - one.right_after))[:_MOST_CLASSES]
    return AnswerChange(
        output=output,
        answers=right.size,
        lost=int((right & ~still).sum()),
        won=int((still & ~right).sum()),
        classes=tuple(sorted(most, key=lambda one: (-one.drop, one.index))),
        others=len(there) - len(most),
        swaps=swaps,
    )


def _swaps(said: Indexes, now: Indexes, actual: Indexes, count: int) -> tuple[Swap, ...]:
    """Mistakes that became more or fewer, the largest change first."""
    pairs = [actual[wrong] * count + made[wrong] for made in (said, now) for wrong in (made != actual,)]
    keys = np.unique(np.concatenate(pairs))
    counts = [
        dict(zip(*(part.tolist() for part in np.unique(pair, return_counts=True)), strict=True)) for pair in pairs
    ]
    found = [
        Swap(actual=key // count, taken=key % count, before=counts[0].get(key, 0), after=counts[1].get(key, 0))
        for key in keys.tolist()
    ]
    changed = sorted((one for one in found if one.before != one.after), key=lambda one: -abs(one.after - one.before))
    return tuple(changed[:_MOST_SWAPS])


def _of_numbers(output: str, old: np.ndarray, new: np.ndarray) -> AnswerChange | None:
    both = np.concatenate([old.reshape(-1), new.reshape(-1)])
    if not both.size or not np.isfinite(both).all():
        return None
    low, high = np.percentile(both, _TAILS).tolist()
    edges = np.linspace(low, high if high > low else low + max(abs(low), 1.0) * 1e-6, _BINS + 1)
    before, after = (np.histogram(part.clip(edges[0], edges[-1]), edges)[0].tolist() for part in (old, new))
    errors = ErrorCounts(edges=tuple(edges.tolist()), before=tuple(before), after=tuple(after))
    return AnswerChange(output=output, answers=old.size, lost=0, won=0, errors=errors)
