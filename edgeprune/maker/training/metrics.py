"""How good a model is: one table of metrics, each a pure function of outputs and targets. Light, for the command line
lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from edgeprune.errors import InputError
from edgeprune.host.toml_values import check_choice

if TYPE_CHECKING:
    import numpy as np

__all__ = ["METRICS", "Metric", "Targets", "find_metric"]

Compute = Callable[["np.ndarray", "np.ndarray"], float]


class Targets(StrEnum):
    """What the targets of a metric are."""

    CLASSES = "classes"  # an index into the last axis of the output, for each of its places
    LABELS = "labels"  # 0 or 1 for each number of the output
    NUMBERS = "numbers"  # a number for each number of the output


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric, which way is better, and the loss that training uses for it.

    `compute(outputs, targets)` takes the model's first output [samples, ...] and the targets [samples] or
    [samples, ...] and returns one float. It raises InputError where the metric is not defined.
    """

    name: str
    compute: Compute
    higher_is_better: bool
    loss: str
    is_share: bool  # a value between 0 and 1, shown as a percentage
    targets: Targets = Targets.NUMBERS


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of places whose largest output is at the target's index (top-1): of samples, or of the pixels of all maps.

    Outputs [samples, ..., classes], targets [samples, ...].
    """
    return float((outputs.argmax(-1) == targets.reshape(outputs.shape[:-1])).mean())


def top5(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of places whose target is among the five largest outputs; of equal ones those before it count."""
    import numpy as np

    wanted = np.expand_dims(targets.reshape(outputs.shape[:-1]).astype(np.int64), -1)
    own = np.take_along_axis(outputs, wanted, -1)
    before = np.arange(outputs.shape[-1]) < wanted
    return float((((outputs > own) | ((outputs == own) & before)).sum(-1) < 5).mean())


def mean_iou(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Intersection over union of each class, over all places, mean of the classes that are predicted or there
    (Everingham et al. 2010, PASCAL VOC)."""
    import numpy as np

    classes = outputs.shape[-1]
    pairs = targets.reshape(-1).astype(np.int64) * classes + outputs.argmax(-1).reshape(-1)
    counts = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    both, either = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    return float((both[either > 0] / either[either > 0]).mean())


def auc(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a random positive scores above a random negative, ties half.

    Computed from ranks (Mann and Whitney 1947). Outputs [samples], [samples, 1] or [samples, labels], targets 0 or 1 of
    the same size; of several labels the mean of those that some samples have and others have not.
    """
    import numpy as np

    scores, marks = outputs.reshape(len(outputs), -1), targets.reshape(len(targets), -1) > 0.5
    mixed = [n for n in range(marks.shape[1]) if 0 < marks[:, n].sum() < len(marks)]
    if not mixed:
        raise InputError("AUC needs samples of both classes; the targets are all the same")
    return float(np.mean([_auc_of_one(scores[:, n].astype(np.float64), marks[:, n]) for n in mixed]))


def _auc_of_one(scores: np.ndarray, positive: np.ndarray) -> float:
    import numpy as np

    positives, negatives = int(positive.sum()), int((~positive).sum())
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[inverse][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def f1(outputs: np.ndarray, targets: np.ndarray) -> float:
    """F1 at a probability of one half (where outputs are not within 0 and 1 they are logits), of several labels the
    mean of those that are there or predicted."""
    scores, marks = outputs.reshape(len(outputs), -1), targets.reshape(len(targets), -1) > 0.5
    said = scores > (0.5 if scores.min() >= 0 and scores.max() <= 1 else 0.0)
    hits, either = (said & marks).sum(0), said.sum(0) + marks.sum(0)
    if not either.any():
        raise InputError("F1 needs a label that is there or predicted; all targets and outputs are negative")
    return float((2 * hits[either > 0] / either[either > 0]).mean())


def mean_squared_error(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Mean of the squared differences over all elements."""
    return float(((outputs.reshape(len(outputs), -1) - targets.reshape(len(targets), -1)) ** 2).mean())


def root_mean_squared_error(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Root of the mean of the squared differences, in the unit of the targets."""
    return float(mean_squared_error(outputs, targets) ** 0.5)


def mean_absolute_error(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Mean of the absolute differences over all elements."""
    return float(abs(outputs.reshape(len(outputs), -1) - targets.reshape(len(targets), -1)).mean())


def r_squared(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of the variance of the targets that is explained (coefficient of determination), mean of the columns."""
    import numpy as np

    made, told = outputs.reshape(len(outputs), -1), targets.reshape(len(targets), -1).astype(np.float64)
    spread = ((told - told.mean(0)) ** 2).sum(0)
    if not spread.any():
        raise InputError("R2 needs targets that differ; they are all the same")
    left = ((made - told) ** 2).sum(0)
    return float((1 - left[spread > 0] / spread[spread > 0]).mean())


def _of_classes(name: str, compute: Compute) -> Metric:
    loss = "sparse_categorical_crossentropy"
    return Metric(name=name, compute=compute, higher_is_better=True, loss=loss, is_share=True, targets=Targets.CLASSES)


def _of_labels(name: str, compute: Compute) -> Metric:
    loss = "binary_crossentropy"
    return Metric(name=name, compute=compute, higher_is_better=True, loss=loss, is_share=False, targets=Targets.LABELS)


def _of_numbers(
    name: str, compute: Compute, *, loss: str = "mean_squared_error", higher_is_better: bool = False
) -> Metric:
    return Metric(name=name, compute=compute, higher_is_better=higher_is_better, loss=loss, is_share=False)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _of_classes("accuracy", accuracy),
        _of_classes("top5", top5),
        _of_classes("iou", mean_iou),
        _of_labels("auc", auc),
        _of_labels("f1", f1),
        _of_numbers("mse", mean_squared_error),
        _of_numbers("rmse", root_mean_squared_error),
        _of_numbers("mae", mean_absolute_error, loss="mean_absolute_error"),
        _of_numbers("r2", r_squared, higher_is_better=True),
    )
}


def find_metric(metric: Metric | str) -> Metric:
    """The metric of this name; one that is a Metric already stays as it is. Raises UsageError for an unknown name."""
    if isinstance(metric, Metric):
        return metric
    check_choice("metric", metric, METRICS)
    return METRICS[metric]
