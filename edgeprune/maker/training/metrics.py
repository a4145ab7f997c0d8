"""How good a model is: one table of metrics, each a pure function of outputs and targets. Light, for the command line
lists them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from edgeprune.errors import InputError
from edgeprune.host.toml_values import check_choice

if TYPE_CHECKING:
    import numpy as np

__all__ = ["METRICS", "Metric", "OfSums", "Targets", "class_answers", "find_metric", "label_answers"]

Outputs = Any  # an array; of a function of the user's own for a whole model, arrays by the output's name
Whole = Callable[[Outputs, Outputs], "float | np.ndarray"]
Parts = Callable[["np.ndarray", "np.ndarray"], "np.ndarray"]
OfSums = Callable[["np.ndarray"], "np.ndarray"]


class Targets(StrEnum):
    """What the targets of a metric are."""

    CLASSES = "classes"  # an index into the last axis of the output, for each of its places
    LABELS = "labels"  # 0 or 1 for each number of the output
    NUMBERS = "numbers"  # a number for each number of the output
    ANY = "any"  # what the user's own function or a metric of Keras takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric of one output, which way is better, and the loss that training uses for it where none is named.

    Most metrics are a function `of_sums` [..., k] of what `parts(outputs, targets)` [samples, k] tells of each sample,
    summed: so they can be told of any choice of samples at once. Others have `whole`, of all samples.
    """

    name: str
    higher_is_better: bool
    is_share: bool  # a value between 0 and 1, shown as a percentage
    loss: str = "mean_squared_error"
    targets: Targets = Targets.NUMBERS
    parts: Parts | None = None
    of_sums: OfSums | None = None
    whole: Whole | None = None
    is_quick: bool = False
    """Whether `whole` may be computed hundreds of times."""
    of_all: bool = False
    """Whether it takes the outputs of the whole model, by name."""
    undefined: str = ""
    """Why it has no value for some targets."""

    def compute(self, outputs: Outputs, targets: Outputs) -> float:
        """Its value for outputs [samples, ...] and targets [samples] or [samples, ...]. Raises InputError where it has
        none."""
        import numpy as np

        if self.parts is not None and self.of_sums is not None:
            value = float(self.of_sums(self.parts(outputs, targets).sum(0)))
        else:
            assert self.whole is not None
            value = float(np.mean(self.whole(outputs, targets)))
        return self.finite(value)

    def finite(self, value: float) -> float:
        """The value itself. Raises InputError for one that is none."""
        if not math.isfinite(value):
            raise InputError(self.undefined or f"{self.name} has no value for these samples: it is {value}")
        return value


def _indexes(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The index of the class for each place of the outputs [samples, ..., classes]; rows with a 1 at the class too."""
    import numpy as np

    if targets.shape == outputs.shape and outputs.shape[-1] > 1:
        return np.asarray(targets.argmax(-1))
    return targets.reshape(outputs.shape[:-1])


def _hits(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return _share_of(outputs.argmax(-1) == _indexes(outputs, targets))


def _hits_of_five(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Among the five largest outputs; of equal ones those before it count."""
    import numpy as np

    wanted = np.expand_dims(_indexes(outputs, targets).astype(np.int64), -1)
    own = np.take_along_axis(outputs, wanted, -1)
    before = np.arange(outputs.shape[-1]) < wanted
    return _share_of(((outputs > own) | ((outputs == own) & before)).sum(-1) < 5)


def _right_sides(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return _share_of(_said(outputs) == _marks(outputs, targets))


def _share_of(right: np.ndarray) -> np.ndarray:
    """[samples, (places that are right, places)]."""
    import numpy as np

    flat = right.reshape(len(right), -1)
    return np.stack([flat.sum(1), np.full(len(flat), flat.shape[1])], 1).astype(np.float64)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return _divided(sums[..., 0], sums[..., 1])


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    import numpy as np

    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=np.asarray(below) > 0)


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is no NaN."""
    import numpy as np

    known = ~np.isnan(values)
    return _divided(np.where(known, values, 0).sum(-1), known.sum(-1))


def _overlaps(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[samples, 3 * classes]: of each class the places that are both, predicted, there."""
    import numpy as np

    count, classes = len(outputs), outputs.shape[-1]
    said = outputs.argmax(-1).reshape(count, -1)
    there = _indexes(outputs, targets).reshape(count, -1).astype(np.int64)

    def counted(which: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        places = (np.arange(count)[:, None] * classes + which).reshape(-1)
        return np.bincount(places, weights, minlength=count * classes).reshape(count, classes)

    both = counted(said, (said == there).reshape(-1).astype(np.float64))
    return np.concatenate([both, counted(said), counted(there)], 1).astype(np.float64)


def _mean_iou(sums: np.ndarray) -> np.ndarray:
    """Mean of the classes that are predicted or there (Everingham et al. 2010, PASCAL VOC)."""
    import numpy as np

    both, said, there = np.split(sums, 3, -1)
    return _mean_known(_divided(both, said + there - both))


def _marks(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return targets.reshape(len(outputs), -1) > 0.5


def _said(outputs: np.ndarray) -> np.ndarray:
    """Above a probability of one half; where outputs are not within 0 and 1 they are logits."""
    scores = outputs.reshape(len(outputs), -1)
    return scores > (0.5 if scores.min() >= 0 and scores.max() <= 1 else 0.0)


def _labels_said(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[samples, 2 * labels]: whether each is said rightly, and how often it is said or there (0, 1, 2)."""
    import numpy as np

    said, marks = _said(outputs), _marks(outputs, targets)
    return np.concatenate([said & marks, said.astype(np.int64) + marks], 1).astype(np.float64)


def _mean_f1(sums: np.ndarray) -> np.ndarray:
    """Of several labels the mean of those that are there or predicted."""
    import numpy as np

    hits, either = np.split(sums, 2, -1)
    return _mean_known(_divided(2 * hits, either))


def auc(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a random positive scores above a random negative, ties half.

    Computed from ranks (Mann and Whitney 1947). Outputs [samples], [samples, 1] or [samples, labels], targets 0 or 1 of
    the same size; of several labels the mean of those that some samples have and others have not.
    """
    import numpy as np

    scores, marks = outputs.reshape(len(outputs), -1), _marks(outputs, targets)
    mixed = [n for n in range(marks.shape[1]) if 0 < marks[:, n].sum() < len(marks)]
    return float(np.mean([_auc_of_one(scores[:, n].astype(np.float64), marks[:, n]) for n in mixed] or [np.nan]))


def _auc_of_one(scores: np.ndarray, positive: np.ndarray) -> float:
    import numpy as np

    positives, negatives = int(positive.sum()), int((~positive).sum())
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[inverse][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def _differences(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    import numpy as np

    return outputs.reshape(len(outputs), -1).astype(np.float64) - targets.reshape(len(targets), -1)


def _squares(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return _numbers_of(_differences(outputs, targets) ** 2)


def _distances(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return _numbers_of(abs(_differences(outputs, targets)))


def _numbers_of(values: np.ndarray) -> np.ndarray:
    """[samples, (their sum, how many)]."""
    import numpy as np

    return np.stack([values.sum(1), np.full(len(values), values.shape[1])], 1).astype(np.float64)


def _root(sums: np.ndarray) -> np.ndarray:
    return _ratio(sums) ** 0.5


def _spreads(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[samples, 3 * columns + 1]: squared errors, targets about their mean, squares of these; 1."""
    import numpy as np

    told = targets.reshape(len(targets), -1).astype(np.float64)
    about = np.where((told == told[0]).all(0), 0.0, told - told.mean(0))
    wrong = _differences(outputs, targets) ** 2
    return np.concatenate([wrong, about, about**2, np.ones((len(told), 1))], 1)


def _r_squared(sums: np.ndarray) -> np.ndarray:
    """Share of the variance of the targets that is explained (coefficient of determination), mean of the columns."""
    import numpy as np

    wrong, about, squares = np.split(sums[..., :-1], 3, -1)
    return _mean_known(1 - _divided(wrong, squares - about**2 / sums[..., -1:]))


def class_answers(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(class answered, class there) for each place of all samples, int64 [places]."""
    import numpy as np

    said, there = outputs.argmax(-1), _indexes(outputs, targets)
    return said.reshape(-1).astype(np.int64), there.reshape(-1).astype(np.int64)


def label_answers(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(whether each label is said, whether it is there), bool [samples, labels]."""
    return _said(outputs), _marks(outputs, targets)


def _of_classes(name: str, parts: Parts, of_sums: OfSums = _ratio) -> Metric:
    return Metric(
        name=name,
        higher_is_better=True,
        is_share=True,
        loss="sparse_categorical_crossentropy",
        targets=Targets.CLASSES,
        parts=parts,
        of_sums=of_sums,
    )


def _of_labels(name: str, **how: Any) -> Metric:
    return Metric(name=name, higher_is_better=True, loss="binary_crossentropy", targets=Targets.LABELS, **how)


def _of_numbers(
    name: str,
    parts: Parts,
    of_sums: OfSums = _ratio,
    *,
    loss: str = "mean_squared_error",
    higher_is_better: bool = False,
    undefined: str = "",
) -> Metric:
    return Metric(
        name=name,
        higher_is_better=higher_is_better,
        loss=loss,
        is_share=False,
        parts=parts,
        of_sums=of_sums,
        undefined=undefined,
    )


def _precision(outputs: Outputs, targets: Outputs) -> float:
    from edgeprune.maker.training.detection import mean_average_precision

    return mean_average_precision(outputs, targets)


_ALL_SAME = "R2 needs targets that differ; they are all the same"
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _of_classes("accuracy", _hits),
        _of_classes("top5", _hits_of_five),
        _of_classes("iou", _overlaps, _mean_iou),
        _of_labels("binary_accuracy", is_share=True, parts=_right_sides, of_sums=_ratio),
        _of_labels(
            "auc",
            is_share=False,
            whole=auc,
            is_quick=True,
            undefined="AUC needs samples of both classes; the targets are all the same",
        ),
        _of_labels(
            "f1",
            is_share=False,
            parts=_labels_said,
            of_sums=_mean_f1,
            undefined="F1 needs a label that is there or predicted; all targets and outputs are negative",
        ),
        _of_numbers("mse", _squares),
        _of_numbers("rmse", _squares, _root),
        _of_numbers("mae", _distances, loss="mean_absolute_error"),
        _of_numbers("r2", _spreads, _r_squared, higher_is_better=True, undefined=_ALL_SAME),
        Metric(
            name="map",
            higher_is_better=True,
            is_share=True,
            targets=Targets.ANY,
            whole=_precision,
            of_all=True,
            undefined="map needs objects; the targets have none",
        ),
    )
}


def find_metric(metric: Metric | str) -> Metric:
    """The metric of this name; one that is a Metric already stays as it is. Raises UsageError for an unknown name."""
    if isinstance(metric, Metric):
        return metric
    check_choice("metric", metric, METRICS)
    return METRICS[metric]
