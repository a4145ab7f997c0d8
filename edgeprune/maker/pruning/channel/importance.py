"""How much each unit of a dependency group matters, by one of the criteria (criteria.py).

A criterion scores the channels that one layer makes. The scores of a layer are divided by their mean, so that 1 is an
average channel whatever the layer's scale, and a unit's score is the mean over all layers that make it. So units of
different groups can be ranked together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import UsageError
from edgeprune.host.toml_values import check_choice
from edgeprune.maker.pruning.channel.channel_ids import Labels
from edgeprune.maker.pruning.channel.criteria import CRITERIA, l2
from edgeprune.maker.pruning.channel.groups import Structure
from edgeprune.maker.pruning.channel.observe import channel_magnitudes, output_changes, weight_gradients
from edgeprune.maker.pruning.channel.trace import Weight
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.task import Task

__all__ = ["unit_scores"]

Floats = npt.NDArray[np.float64]
DATA_SAMPLES = 512  # of the training split, for the criteria that look at data


def unit_scores(
    structure: Structure, name: str, *, samples: Samples | None = None, task: Task | None = None, seed: int = 0
) -> Floats:
    """A score for each unit, float64 [units]; the higher, the more it matters. Mean 1 in each layer.

    Raises UsageError for an unknown criterion and where one needs samples (for "taylor" with targets and a loss).
    """
    check_choice("importance criterion", name, CRITERIA)
    criterion = CRITERIA[name]
    if criterion.needs_data and samples is None:
        raise UsageError(f"the importance criterion {name!r} looks at training samples: give some, or use l1, l2, lamp")
    if criterion.needs_targets and (task is None or not task.losses or samples is None or samples.targets is None):
        raise UsageError(f"the importance criterion {name!r} needs samples with targets and a loss")
    rng = np.random.default_rng(seed)
    if name == "random":
        return 1 + rng.uniform(-0.5, 0.5, len(structure))
    some = samples.some(DATA_SAMPLES, rng) if samples is not None and criterion.needs_data else None
    if name == "activation":
        assert some is not None
        return _gathered(structure, channel_magnitudes(structure, some))
    if name == "taylor":
        assert some is not None
        assert task is not None
        gradients = weight_gradients(structure.trace.model, some, task)
        return _taylor(structure, gradients)
    if name == "fisher":
        assert some is not None
        return _fisher(structure, some, seed)
    if name == "bn_scale":
        return _scale_scores(structure)
    assert criterion.rows is not None
    return _weight_scores(structure, criterion.rows)


def kernels(structure: Structure) -> list[tuple[Weight, int]]:
    """Weights that make channels and have more than one axis, with that axis."""
    return [
        (weight, weight.made_axis)
        for weight in structure.weights
        if weight.made_axis is not None and len(weight.variable.shape) > 1
    ]


def rows_of(values: npt.NDArray[Any], axis: int) -> Floats:
    """A weight as [channels, the rest]."""
    rows: Floats = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(np.float64)
    return rows


def _weight_scores(structure: Structure, score: Callable[[Floats], Floats]) -> Floats:
    found = [
        (weight.axes[axis], score(rows_of(np.asarray(weight.variable), axis))) for weight, axis in kernels(structure)
    ]
    return _gathered(structure, found)


def _scale_scores(structure: Structure) -> Floats:
    """Magnitude of the scale of the normalisation behind the channels; the norm of the weights where there is none."""
    scales = [
        (weight.axes[0], np.abs(np.asarray(weight.variable, np.float64)))
        for weight in structure.weights
        if weight.name == "gamma" and weight.made_axis == 0
    ]
    scored, rest = _gathered(structure, scales, missing=np.nan), _weight_scores(structure, l2)
    return np.where(np.isnan(scored), rest, scored)


def _taylor(structure: Structure, gradients: Mapping[int, npt.NDArray[Any]]) -> Floats:
    """(Sum of weight times gradient)^2 over all that a unit's channel is made by."""
    total = np.zeros(len(structure))
    for weight in structure.weights:
        if weight.made_axis is None or id(weight.variable) not in gradients:
            continue
        axis = weight.made_axis
        change = np.asarray(weight.variable) * gradients[id(weight.variable)]
        per_channel = rows_of(change, axis).sum(1)
        units = structure.units(weight.axes[axis])
        np.add.at(total, units[units >= 0], per_channel[units >= 0])
    scores = total**2
    return scores / (scores.mean() or 1.0)


def _fisher(structure: Structure, samples: Samples, seed: int) -> Floats:
    """Mean of (sum of weight times gradient)^2 over all that reads a unit's channel: how far outputs move without it.
    What no kernel reads counts by the weights that make it."""
    mixing = {id(weight.variable): weight for weight, _ in kernels(structure)}  # a depthwise one passes channels on
    read, reading, making = (np.zeros(len(structure)) for _ in range(3))
    axes = {key: tuple(weight.axes) for key, weight in mixing.items()}
    for changes in output_changes(structure.trace.model, samples, axes, seed):
        totals = np.zeros((2, len(structure)))
        for (key, axis), sums in changes.items():
            units, made = structure.units(mixing[key].axes[axis]), axis == mixing[key].made_axis
            np.add.at(totals[int(made)], units[units >= 0], sums[units >= 0])
            read[units[units >= 0]] += not made
        reading, making = reading + totals[0] ** 2, making + totals[1] ** 2
    scores = np.where(read > 0, reading, making)
    return scores / (scores.mean() or 1.0)


def _gathered(structure: Structure, found: Iterable[tuple[Labels, Floats]], *, missing: float = 1.0) -> Floats:
    """Scores of layers, (labels, scores), each divided by its mean, as the mean for each unit."""
    total, count = np.zeros(len(structure)), np.zeros(len(structure))
    for labels, scores in found:
        units = structure.units(labels)
        mean = float(scores.mean()) or 1.0
        np.add.at(total, units[units >= 0], scores[units >= 0] / mean)
        np.add.at(count, units[units >= 0], 1)
    return np.where(count > 0, total / np.maximum(count, 1), missing)
