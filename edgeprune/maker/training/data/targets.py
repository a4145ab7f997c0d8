"""Targets against the outputs of a model: which are understood, and what to do about the others."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from edgeprune.errors import InputError, UsageError
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.metrics import METRICS, Targets

__all__ = ["fitting_targets"]

Sizes = tuple[int | None, ...]


def fitting_targets(samples: Samples, output_shape: Sizes, metric: str) -> Samples:
    """The samples with targets as the metric takes them: one-hot rows become indexes.

    `output_shape` is that of the output, batch first. Raises InputError where the targets cannot be compared with it by
    this metric, UsageError where no targets could.
    """
    if samples.targets is None:
        raise InputError(f"{samples.path}: no array 'y' with the targets")
    kind = METRICS[metric].targets
    if kind is Targets.CLASSES:
        return replace(samples, targets=_classes(samples, samples.targets, output_shape, metric))
    wanted = int(np.prod([size or 1 for size in output_shape[1:]]))
    if kind is Targets.LABELS and not np.isin(samples.targets, (0, 1)).all():
        raise InputError(f"{samples.path}: {metric} needs targets 0 or 1 in 'y'")
    if None not in output_shape[1:] and samples.targets[0].size != wanted:
        each = "a 0 or 1 for each" if kind is Targets.LABELS else "one for each"
        raise InputError(
            f"{samples.path}: targets of {samples.targets[0].size} values, the model's output has {wanted}: {metric} "
            f"needs {each}"
        )
    return samples


def _classes(samples: Samples, targets: np.ndarray, output_shape: Sizes, metric: str) -> np.ndarray:
    """The index of a class for each place of the output."""
    places, classes = output_shape[1:-1], output_shape[-1]
    if classes == 1:
        raise UsageError(
            f"the model has a single output, and {metric} compares several: score it with the metric auc, f1, mse or "
            "mae"
        )
    if classes is not None and _fits(targets.shape[1:], (*places, classes)):
        return _indexes(samples, targets, metric)
    given = targets.shape[1:-1] if targets.shape[-1:] == (1,) and targets.ndim > len(places) + 1 else targets.shape[1:]
    whole = math.prod(size or 0 for size in places)
    if not _fits(given, places) and (None in places or targets[0].size != whole):
        what = f"one class index for each of the places {_shown(places)} of the output" if places else "one class index"
        raise InputError(
            f"{samples.path}: {metric} needs {what} of each sample in 'y', or rows with a 1 at the class; got shape "
            f"{targets.shape} of {targets.dtype}"
        )
    if targets.dtype.kind == "f" and not np.array_equal(targets, targets.astype(np.int64)):
        raise InputError(f"{samples.path}: {metric} needs whole numbers in 'y', the indexes of the classes")
    if classes is not None and (targets.min() < 0 or targets.max() >= classes):
        raise InputError(
            f"{samples.path}: class indexes run from {int(targets.min())} to {int(targets.max())}, "
            f"the model has {classes} outputs"
        )
    return targets


def _indexes(samples: Samples, rows: np.ndarray, metric: str) -> np.ndarray:
    """Indexes out of one-hot rows."""
    if not np.isin(rows, (0, 1)).all():
        raise InputError(
            f"{samples.path}: {metric} needs class indexes in 'y', or rows of 0 with a 1 at the class; these hold "
            "other numbers (of shares store y.argmax(-1))"
        )
    if (rows.sum(-1) != 1).any():
        raise InputError(
            f"{samples.path}: rows of 'y' have several 1s or none, so a sample may have several labels: score it with "
            f"the metric auc or f1, {metric} is for one class a sample"
        )
    found: np.ndarray = rows.argmax(-1)
    return found


def _fits(given: tuple[int, ...], wanted: Sizes) -> bool:
    return len(given) == len(wanted) and all(want in (None, have) for have, want in zip(given, wanted, strict=True))


def _shown(sizes: Sizes) -> str:
    return "x".join("?" if size is None else str(size) for size in sizes)
