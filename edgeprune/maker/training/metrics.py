"""How good a model is: one table of metrics, each a pure function of outputs and targets. Light, for the command line
lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.errors import InputError
from edgeprune.host.toml_values import check_choice

if TYPE_CHECKING:
    import numpy as np

__all__ = ["METRICS", "Metric", "find_metric"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric, which way is better, and the loss that training uses for it.

    `compute(outputs, targets)` takes the model's first output [samples, ...] and the targets [samples] or
    [samples, ...] and returns one float. It raises InputError where the metric is not defined.
    """

    name: str
    compute: Callable[[np.ndarray, np.ndarray], float]
    higher_is_better: bool
    loss: str
    is_share: bool  # a value between 0 and 1, shown as a percentage


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of samples whose largest output is at the target's index (top-1)."""
    return float((outputs.reshape(len(outputs), -1).argmax(1) == targets.reshape(-1)).mean())


def auc(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a random positive scores above a random negative, ties half.

    Computed from ranks (Mann and Whitney 1947). Outputs [samples] or [samples, 1], targets 0 or 1.
    """
    import numpy as np

    scores, positive = outputs.reshape(-1).astype(np.float64), targets.reshape(-1) > 0.5
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        raise InputError("AUC needs samples of both classes; the targets are all the same")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[inverse][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def mean_squared_error(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Mean of the squared differences over all elements."""
    return float(((outputs.reshape(len(outputs), -1) - targets.reshape(len(targets), -1)) ** 2).mean())


def mean_absolute_error(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Mean of the absolute differences over all elements."""
    return float(abs(outputs.reshape(len(outputs), -1) - targets.reshape(len(targets), -1)).mean())


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric(
            name="accuracy",
            compute=accuracy,
            higher_is_better=True,
            loss="sparse_categorical_crossentropy",
            is_share=True,
        ),
        Metric(name="auc", compute=auc, higher_is_better=True, loss="binary_crossentropy", is_share=False),
        Metric(
            name="mse", compute=mean_squared_error, higher_is_better=False, loss="mean_squared_error", is_share=False
        ),
        Metric(
            name="mae", compute=mean_absolute_error, higher_is_better=False, loss="mean_absolute_error", is_share=False
        ),
    )
}


def find_metric(metric: Metric | str) -> Metric:
    """The metric of this name; one that is a Metric already stays as it is. Raises UsageError for an unknown name."""
    if isinstance(metric, Metric):
        return metric
    check_choice("metric", metric, METRICS)
    return METRICS[metric]
