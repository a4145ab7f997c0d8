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
from edgeprune.errors import Unsupported, UsageError
from edgeprune.keras_models import clone, leaf_layers
from edgeprune.metrics import Metric
from edgeprune.pruning.groups import Group, Kept, Structure
from edgeprune.pruning.importance import unit_scores
from edgeprune.pruning.observe import channel_means
from edgeprune.pruning.plan import ChannelOptions, chosen_groups, macs_unknown, plan_channels
from edgeprune.pruning.rules import RULES
from edgeprune.pruning.surgery import cut, zeroed
from edgeprune.pruning.trace import Trace
from edgeprune.pruning.verification import checked

__all__ = [
    "ChannelReport",
    "ChannelResult",
    "LayerWidth",
    "SkippedGroup",
    "analyse",
    "prune_channels",
    "report_of",
]

TOLERANCE = 1e-4  # relative error of the surgery against the zeroed model, float32


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
    """What channel pruning did. `macs_*` are those of kernels for one sample, None where a size is open or a layer is
    not followed; `got` is the share of channels removed. `verified` is the largest relative error of the surgery
    (before compensation) against the old model with the removed channels set to zero; None where not checked (`note`).
    """

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
    """The dependency groups of a Functional or Sequential model. Raises Unsupported for others and quantized ones."""
    for leaf in leaf_layers(model):
        quantized, adapted = getattr(leaf.layer, "quantization_mode", None), getattr(leaf.layer, "lora_enabled", False)
        if quantized or adapted:
            what = f"is quantized in Keras ({quantized})" if quantized else "has LoRA weights"
            raise Unsupported(f"layer {leaf.path!r} {what}, and its channels cannot be removed; prune the model before")
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
    return checked(zeroed(structure, kept, clone), pruned, TOLERANCE, "those with the removed channels set to zero")


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
    unknown = macs_unknown(structure)
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
        macs_before=None if unknown else before.macs,
        macs_after=None if unknown else after.macs,
        removed=tuple(removed),
        skipped=tuple(_skipped(group, reason) for group, reason in skipped),
        altered=altered,
        verified=error,
        note=note,
    )


def _skipped(group: Group, reason: str) -> SkippedGroup:
    layers = tuple(member.layer for member in group.members if member.makes)
    return SkippedGroup(layer=group.name, layers=layers, channels=group.channels, reason=reason)
