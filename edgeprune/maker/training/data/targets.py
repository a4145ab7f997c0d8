"""Targets against the outputs of a model: which are understood, and what to do about the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgeprune.errors import InputError, UsageError
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.goal import FIRST
from edgeprune.maker.training.losses import takes_classes, takes_rows
from edgeprune.maker.training.metrics import Targets
from edgeprune.maker.training.task import OutputLoss, Score, Task

__all__ = ["fitting_targets"]

Sizes = tuple[int | None, ...]


def fitting_targets(samples: Samples, outputs: Mapping[str, Sizes], task: Task) -> Samples:
    """The samples with their targets under the names of the outputs, as the task takes them.

    `outputs` are the shapes of the model's outputs by name, batch first. Raises InputError where the targets cannot be
    compared with an output by its metric, or be learnt by its loss; UsageError where no targets could.
    """
    first = next(iter(outputs))
    told = {first if name == FIRST else name: values for name, values in samples.told.items()}
    for name in sorted(task.outputs - set(told), key=list(outputs).index):
        raise InputError(_missing(samples, name, list(outputs), task))
    if not told:
        raise InputError(f"{samples.path}: no targets; it needs an array for each output that is scored")
    if uneven := {name: len(values) for name, values in told.items() if len(values) != len(samples)}:
        lengths = ", ".join(f"{name} {count}" for name, count in uneven.items())
        raise InputError(f"{samples.path}: {len(samples)} samples, but targets of different length: {lengths}")
    for score in task.scores:
        if score.output is not None:
            _check(samples, told[score.output], outputs[score.output], score, _array(score.output, outputs))
    for loss in task.losses:
        _check_loss(samples, told[loss.output], loss, _array(loss.output, outputs))
    return replace(samples, targets=told)


def _array(output: str, outputs: Mapping[str, Sizes]) -> str:
    """What the array of an output is called in a file."""
    return "y" if len(outputs) == 1 else output


def _missing(samples: Samples, output: str, outputs: list[str], task: Task) -> str:
    if len(outputs) == 1:
        return f"{samples.path}: no array 'y' with the targets"
    trained = any(loss.output == output for loss in task.losses)
    why = "is trained" if trained else "is scored"
    others = [name for name in outputs if name in samples.told]
    has = f"; it has those of {', '.join(others)}" if others else ""
    return (
        f"{samples.path}: no array {output!r} with the targets of that output, which {why}{has}; add it, or say what "
        f"is to be scored and trained: --metric {outputs[0]}=... --loss {outputs[0]}=... (in a recipe metric = {{ "
        f"{outputs[0]} = ... }}, loss likewise)"
    )


def _check(samples: Samples, targets: np.ndarray, shape: Sizes, score: Score, array: str) -> None:
    """Raise where the metric cannot compare the targets with its output."""
    kind, metric = score.metric.targets, score.metric.name
    if kind is Targets.CLASSES:
        _check_classes(samples, targets, shape, metric, array)
        return
    if kind is Targets.ANY:
        return
    wanted = int(np.prod([size or 1 for size in shape[1:]]))
    if kind is Targets.LABELS and not np.isin(targets, (0, 1)).all():
        raise InputError(f"{samples.path}: {metric} needs targets 0 or 1 in {array!r}")
    if None not in shape[1:] and targets[0].size != wanted:
        each = "a 0 or 1 for each" if kind is Targets.LABELS else "one for each"
        raise InputError(
            f"{samples.path}: targets of {targets[0].size} values, the model's output has {wanted}: {metric} "
            f"needs {each} in {array!r}"
        )


def _check_loss(samples: Samples, targets: np.ndarray, loss: OutputLoss, array: str) -> None:
    """Raise where a loss of Keras cannot learn the targets."""
    if loss.as_stored:
        return
    name = getattr(loss.function, "name", "the loss")
    shape = (None, *loss.shape)
    if takes_classes(loss.function):
        _check_classes(samples, targets, shape, name, array)
        return
    sizes, places = loss.shape, loss.shape[:-1]
    whole = None in sizes or targets[0].size == math.prod(size or 1 for size in sizes)
    indexes = _fits(targets.shape[1:], places) or _fits(targets.shape[1:], (*places, 1))
    if not whole and not (indexes and takes_rows(loss.function)):
        raise InputError(
            f"{samples.path}: the loss {name} needs a target for each of the {_shown(sizes)} numbers of the output in "
            f"{array!r}; got shape {targets.shape}"
        )


def _check_classes(samples: Samples, targets: np.ndarray, shape: Sizes, metric: str, array: str) -> None:
    """Raise where the targets are no class for each place of the output."""
    places, classes = shape[1:-1], shape[-1]
    if classes == 1:
        raise UsageError(
            f"the model has a single output, and {metric} compares several: score it with the metric auc, f1, mse or "
            "mae"
        )
    if classes is not None and _fits(targets.shape[1:], (*places, classes)):
        _check_rows(samples, targets, metric, array)
        return
    given = targets.shape[1:-1] if targets.shape[-1:] == (1,) and targets.ndim > len(places) + 1 else targets.shape[1:]
    whole = math.prod(size or 0 for size in places)
    if not _fits(given, places) and (None in places or targets[0].size != whole):
        what = f"one class index for each of the places {_shown(places)} of the output" if places else "one class index"
        raise InputError(
            f"{samples.path}: {metric} needs {what} of each sample in {array!r}, or rows with a 1 at the class; got "
            f"shape {targets.shape} of {targets.dtype}"
        )
    if targets.dtype.kind == "f" and not np.array_equal(targets, targets.astype(np.int64)):
        raise InputError(f"{samples.path}: {metric} needs whole numbers in {array!r}, the indexes of the classes")
    if classes is not None and (targets.min() < 0 or targets.max() >= classes):
        raise InputError(
            f"{samples.path}: class indexes in {array!r} run from {int(targets.min())} to {int(targets.max())}, "
            f"the model tells {classes} classes apart there: 0 to {classes - 1}"
        )


def _check_rows(samples: Samples, rows: np.ndarray, metric: str, array: str) -> None:
    """Raise for rows that are not one-hot."""
    if not np.isin(rows, (0, 1)).all():
        raise InputError(
            f"{samples.path}: {metric} needs class indexes in {array!r}, or rows of 0 with a 1 at the class; these "
            f"hold other numbers (of shares store {array}.argmax(-1))"
        )
    if (rows.sum(-1) != 1).any():
        raise InputError(
            f"{samples.path}: rows of {array!r} have several 1s or none, so a sample may have several labels: score it "
            f"with the metric auc or f1, {metric} is for one class a sample"
        )


def _fits(given: tuple[int, ...], wanted: Sizes) -> bool:
    return len(given) == len(wanted) and all(want in (None, have) for have, want in zip(given, wanted, strict=True))


def _shown(sizes: Sizes) -> str:
    return "x".join("?" if size is None else str(size) for size in sizes)
