"""How much each class counts in the loss of a training: weights of samples out of weights of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeprune.errors import UsageError
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.data.words import ClassWeight
from edgeprune.maker.training.metrics import Targets
from edgeprune.maker.training.task import Task

__all__ = ["class_weights", "weighted"]

INSTEAD = "give sample_weight with the data instead"


def weighted(samples: Samples, given: ClassWeight | None, task: Task) -> Samples:
    """Training samples that count as their classes do, and as they did themselves. Raises UsageError, see
    `class_weights`, where several outputs are trained, and for a metric of numbers."""
    if given is None or not samples.told:
        return samples
    if len(task.losses) != 1:
        raise UsageError(f"class_weight is for one output of classes, {len(task.losses)} are trained: {INSTEAD}")
    metric = task.main.metric
    if metric.targets is Targets.NUMBERS:
        raise UsageError(f"class_weight is for classes, the metric {metric.name} is for numbers: {INSTEAD}")
    weights = class_weights(task.losses[0].stored(samples.told), given)
    return replace(samples, weights=weights if samples.weights is None else weights * samples.weights)


def class_weights(targets: npt.NDArray, given: ClassWeight) -> npt.NDArray[np.float32]:
    """The weight of each sample, by its class.

    `targets` are an index for each sample, [samples] or [samples, 1], or one-hot rows. "balanced" weighs a class n / (k
    * count) for n samples of k classes, so that all classes count the same (scikit-learn's compute_class_weight).
    Raises UsageError for targets that are no class of each sample, and for a named class that no sample has.
    """
    classes = _classes(targets)
    present, places, counts = np.unique(classes, return_inverse=True, return_counts=True)
    if isinstance(given, Mapping):
        named = {int(name): float(weight) for name, weight in given.items()}
        for number in sorted(named.keys() - set(present.tolist())):
            raise UsageError(f"class_weight names class {number}, which no training sample has")
        weights = np.array([named.get(number, 1.0) for number in present.tolist()])
    else:
        weights = len(classes) / (len(present) * counts)
    return weights[places].astype(np.float32)


def _classes(targets: npt.NDArray) -> npt.NDArray[np.int64]:
    flat = targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets
    if flat.ndim == 2 and np.isin(flat, (0, 1)).all() and (flat.sum(-1) == 1).all():
        one_hot: npt.NDArray[np.int64] = flat.argmax(-1)
        return one_hot
    if flat.ndim != 1:
        raise UsageError(
            f"class_weight is for one class a sample; these targets have the shape {targets.shape}: {INSTEAD}"
        )
    if flat.dtype.kind not in "iub" and (flat != np.floor(flat)).any():
        raise UsageError(f"class_weight is for classes, these targets are numbers: {INSTEAD}")
    found: npt.NDArray[np.int64] = flat.astype(np.int64)
    return found
