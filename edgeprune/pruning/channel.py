"""Channel pruning: a smaller model without the channels that matter least.

The ratio is the fraction of channels removed. A plan (plan.py) keeps the channels that score highest (importance.py) in
each dependency group, in widths that phone kernels like (multiples of 8 by default), and the surgery is verified: the
new model must compute what the old one computes with those channels set to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.datasets import Samples
from edgeprune.errors import EdgepruneError, UsageError
from edgeprune.keras_models import clone, input_specs, predict
from edgeprune.metrics import Metric
from edgeprune.pruning.groups import Group, Kept, Structure
from edgeprune.pruning.importance import unit_scores
from edgeprune.pruning.observe import channel_means
from edgeprune.pruning.plan import ChannelOptions, chosen_groups, has_open_sizes, plan_channels
from edgeprune.pruning.rules import RULES
from edgeprune.pruning.surgery import cut, zeroed
from edgeprune.pruning.trace import Trace

__all__ = [
    "ChannelReport",
    "ChannelResult",
    "LayerWidth",
    "SkippedGroup",
    "analyse",
    "largest_error",
    "prune_channels",
    "report_of",
]

TOLERANCE = 1e-4  # relative error of the surgery against the zeroed model, float32
OPEN_SIZE = 32  # stands in for a size that the model leaves open


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWidth:
    """Channels that a layer makes, before and after. `asked` is how many were to stay before rounding, None where all
    groups were ranked together."""

    layer: str
    kind: str
    before: int
    asked: float | None
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedGroup:
    """A group that keeps all its channels, and why."""

    layer: str
    layers: tuple[str, ...]
    channels: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelReport:
    """What channel pruning did. `macs_*` are those of kernels for one sample, None where the model leaves a size
    open; `got` is the share of channels removed. `verified` is the largest relative error of the new model against the
    old one with the removed channels set to zero, None where that was not checked (`note` says why)."""

    asked: str
    got: float
    parameters_before: int
    parameters_after: int
    macs_before: int | None
    macs_after: int | None
    removed: tuple[LayerWidth, ...]
    skipped: tuple[SkippedGroup, ...]
    altered: tuple[str, ...]
    verified: float | None
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelResult:
    """The new model and the report."""

    model: Any
    report: ChannelReport


def analyse(model: Any, *, through_norms: bool = False) -> Structure:
    """The dependency groups of a Functional or Sequential model. Raises Unsupported for a subclassed one."""
    return Structure(Trace(model, RULES, through_norms=through_norms))


def prune_channels(
    model: Any,
    options: ChannelOptions,
    *,
    samples: Samples | None = None,
    metric: Metric | None = None,
    verify: bool = True,
) -> ChannelResult:
    """A new, smaller model; the argument is left alone.

    `samples` (of the training split) and `metric` serve the criteria that look at data and the compensation. Raises
    UsageError (nothing to prune, a target out of reach), Unsupported (a subclassed model) and EdgepruneError when the
    new model does not compute what it must.
    """
    structure = analyse(model, through_norms=options.through_norms)
    scores = unit_scores(structure, options.importance, samples=samples, metric=metric, seed=options.seed)
    kept = plan_channels(structure, options, scores)
    if options.compensate == "mean" and samples is None:
        raise UsageError('compensate = "mean" needs training samples')
    altered = _altered(structure, kept)
    error: float | None = None
    note: str | None = "not asked for"
    pruned = cut(structure, kept)
    if verify:
        error, note = _verify(structure, kept, pruned, altered)
    if options.compensate == "mean":
        assert samples is not None
        rng = np.random.default_rng(options.seed)
        pruned = cut(structure, kept, channel_means(structure, samples.some(512, rng)))
    report = report_of(
        structure,
        kept,
        asked=options.asked,
        ratio=options.ratio if options.scope == "layer" else None,
        skipped=chosen_groups(structure, options)[1],
        altered=altered,
        error=error,
        note=note,
    )
    return ChannelResult(model=pruned, report=report)


def _altered(structure: Structure, kept: Kept) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(name for name, labels in structure.trace.altered if not structure.keep(kept, labels).all())
    )


def _verify(structure: Structure, kept: Kept, pruned: Any, altered: tuple[str, ...]) -> tuple[float | None, str | None]:
    if altered:
        return None, f"not checked: the statistics of {', '.join(altered)} change with the channels, as was asked for"
    error = largest_error(zeroed(structure, kept, clone), pruned)
    if not error <= TOLERANCE:
        raise EdgepruneError(
            f"the surgery of model {structure.trace.model.name!r} failed its check: outputs depart by {error:.2g} of "
            "their range from those with the removed channels set to zero; please report this model"
        )
    return error, None


def largest_error(old: Any, new: Any, *, count: int = 3, seed: int = 0) -> float:
    """Largest difference of any output on random inputs, relative to the largest magnitude of that output for the same
    input.

    Images are random pixels of 0..1, -1..1 and 0..255 in turn, other floats are normal, integers 0.
    """
    rng = np.random.default_rng(seed)
    inputs = {}
    for name, (shape, dtype) in input_specs(old).items():
        sizes = (count, *(size or OPEN_SIZE for size in shape[1:]))
        values = rng.uniform(0, 1, sizes) if len(sizes) == 4 else rng.normal(size=sizes)
        if len(sizes) == 4:
            values[0::3], values[1::3] = 255 * values[0::3], 2 * values[1::3] - 1
        inputs[name] = np.zeros(sizes, dtype) if not dtype.startswith("float") else values.astype(dtype)
    expected, got = predict(old, inputs), predict(new, inputs)
    worst = 0.0
    for a, b in zip(expected.values(), got.values(), strict=True):
        a, b = (np.asarray(array, np.float64).reshape(count, -1) for array in (a, b))
        scale = np.maximum(np.abs(a).max(1), 1e-12)
        worst = max(worst, float((np.abs(a - b).max(1) / scale).max()))
    return worst


def report_of(
    structure: Structure,
    kept: Kept,
    *,
    asked: str,
    ratio: float | None = None,
    skipped: Sequence[tuple[Group, str]] = (),
    altered: tuple[str, ...] = (),
    error: float | None = None,
    note: str | None = None,
) -> ChannelReport:
    """The report of a plan that has been carried out; `ratio` is what was asked of each layer, if anything was."""
    before, after = structure.whole(), structure.cost(kept)
    open_sizes = has_open_sizes(structure)
    removed = []
    channels = gone = 0
    for layer, labels in structure.trace.makers.values():
        stays = structure.keep(kept, labels)
        channels, gone = channels + len(stays), gone + int((~stays).sum())
        if not stays.all():
            removed.append(
                LayerWidth(
                    layer=layer.name,
                    kind=type(layer).__name__,
                    before=len(stays),
                    asked=None if ratio is None else round(len(stays) * (1 - ratio), 2),
                    after=int(stays.sum()),
                )
            )
    return ChannelReport(
        asked=asked,
        got=gone / channels if channels else 0.0,
        parameters_before=before.parameters,
        parameters_after=after.parameters,
        macs_before=None if open_sizes else before.macs,
        macs_after=None if open_sizes else after.macs,
        removed=tuple(removed),
        skipped=tuple(_skipped(group, reason) for group, reason in skipped),
        altered=altered,
        verified=error,
        note=note,
    )


def _skipped(group: Group, reason: str) -> SkippedGroup:
    layers = tuple(member.layer for member in group.members if member.makes)
    return SkippedGroup(layer=group.name, layers=layers, channels=group.channels, reason=reason)
