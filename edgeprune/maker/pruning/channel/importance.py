"""How much a channel matters: criteria from the literature in one table, and their sum over a dependency group.

A criterion scores the channels that one layer makes. The scores of a layer are divided by their mean, so that 1 is an
average channel whatever the layer's scale, and a unit's score is the mean over all layers that make it. So units of
different groups can be ranked together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import UsageError
from edgeprune.maker.pruning.channel.groups import Structure
from edgeprune.maker.pruning.channel.observe import channel_magnitudes, weight_gradients
from edgeprune.maker.pruning.channel.trace import Weight
from edgeprune.maker.training.datasets import Samples
from edgeprune.maker.training.metrics import Metric

__all__ = ["CRITERIA", "Criterion", "unit_scores"]

Floats = npt.NDArray[np.float64]
DATA_SAMPLES = 512  # of the training split, for the criteria that look at data


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """A way to score channels. `rows` scores the channels of a weight given as [channels, weights of each]; None for
    criteria that look at something else. `absolute` scores have one unit in all layers (a change of the loss), so that
    they can be set against what a channel costs. `source` is the paper."""

    name: str
    rows: Callable[[Floats], Floats] | None
    needs_data: bool = False
    needs_targets: bool = False
    absolute: bool = False
    source: str


def l1(rows: Floats) -> Floats:
    """Sum of magnitudes."""
    total: Floats = np.abs(rows).sum(1)
    return total


def l2(rows: Floats) -> Floats:
    """Euclidean norm."""
    norms: Floats = np.linalg.norm(rows, axis=1)
    return norms


def geometric_median(rows: Floats) -> Floats:
    """Sum of the distances to all other channels: the one near the geometric median can be replaced by the others."""
    squares = (rows**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0))
    np.fill_diagonal(distances, 0)
    total: Floats = distances.sum(1)
    return total


def lamp(rows: Floats) -> Floats:
    """Squared norm over the sum of the squared norms of all channels that are at least as large."""
    squares = (rows**2).sum(1)
    order = np.argsort(squares, kind="stable")
    rest = np.cumsum(squares[order][::-1])[::-1]
    scores: Floats = np.empty_like(squares)
    scores[order] = squares[order] / np.maximum(rest, np.finfo(np.float64).tiny)
    return scores


CRITERIA: dict[str, Criterion] = {
    c.name: c
    for c in (
        Criterion(
            name="l1", rows=l1, source="Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710"
        ),
        Criterion(name="l2", rows=l2, source="Fang et al. 2023, DepGraph (group norm), arXiv:2301.12900"),
        Criterion(name="bn_scale", rows=None, source="Liu et al. 2017, Network Slimming, arXiv:1708.06519"),
        Criterion(name="fpgm", rows=geometric_median, source="He et al. 2019, geometric median, arXiv:1811.00250"),
        Criterion(name="lamp", rows=lamp, source="Lee et al. 2021, layer-adaptive magnitude, arXiv:2010.07611"),
        Criterion(
            name="taylor",
            rows=None,
            needs_data=True,
            needs_targets=True,
            absolute=True,
            source="Molchanov et al. 2019, first-order Taylor expansion, arXiv:1906.10771",
        ),
        Criterion(
            name="activation",
            rows=None,
            needs_data=True,
            source="Molchanov et al. 2017, mean activation, arXiv:1611.06440",
        ),
        Criterion(
            name="random", rows=None, source="Mittal et al. 2018, random pruning as a baseline, arXiv:1801.10447"
        ),
    )
}


def unit_scores(
    structure: Structure, name: str, *, samples: Samples | None = None, metric: Metric | None = None, seed: int = 0
) -> Floats:
    """A score for each unit, float64 [units]; the higher, the more it matters. Mean 1 in each layer.

    Raises UsageError for an unknown criterion and where one needs samples (for "taylor" with targets and a metric).
    """
    if name not in CRITERIA:
        raise UsageError(f"unknown importance criterion {name!r}; known: {', '.join(CRITERIA)}")
    criterion = CRITERIA[name]
    if criterion.needs_data and samples is None:
        raise UsageError(f"the importance criterion {name!r} looks at training samples: give some, or use l1, l2, lamp")
    if criterion.needs_targets and (metric is None or samples is None or samples.targets is None):
        raise UsageError(f"the importance criterion {name!r} needs samples with targets and a metric")
    rng = np.random.default_rng(seed)
    if name == "random":
        return 1 + rng.uniform(-0.5, 0.5, len(structure))
    some = samples.some(DATA_SAMPLES, rng) if samples is not None and criterion.needs_data else None
    if name == "activation":
        assert some is not None
        return _gathered(structure, channel_magnitudes(structure, some))
    if name == "taylor":
        assert some is not None
        assert metric is not None
        gradients = weight_gradients(structure.trace.model, some, metric)
        return _taylor(structure, gradients)
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


def _gathered(structure: Structure, found: Any, *, missing: float = 1.0) -> Floats:
    """Scores of layers, (labels, scores), each divided by its mean, as the mean for each unit."""
    total, count = np.zeros(len(structure)), np.zeros(len(structure))
    for labels, scores in found:
        units = structure.units(labels)
        mean = float(scores.mean()) or 1.0
        np.add.at(total, units[units >= 0], scores[units >= 0] / mean)
        np.add.at(count, units[units >= 0], 1)
    return np.where(count > 0, total / np.maximum(count, 1), missing)
