"""Channel pruning: a smaller model without the channels that matter least.

The ratio is the fraction of channels removed. A plan (plan.py) keeps the channels that score highest (importance.py) in
each dependency group, in widths that phone kernels like (multiples of 8 by default), and the surgery is verified: the
new model must compute what the old one computes with those channels set to zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.errors import Unsupported, UsageError
from edgeprune.ledger import ChannelReport, LayerWidth, SkippedGroup
from edgeprune.maker.keras.models import clone, leaf_layers
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.groups import Group, Kept, Structure
from edgeprune.maker.pruning.channel.importance import unit_scores
from edgeprune.maker.pruning.channel.observe import channel_means
from edgeprune.maker.pruning.channel.plan import Use, chosen_groups, macs_unknown, plan_channels, plan_within
from edgeprune.maker.pruning.channel.rules import RULES
from edgeprune.maker.pruning.channel.surgery import Places, Shifts, cut, kept_places, zeroed
from edgeprune.maker.pruning.channel.trace import Trace
from edgeprune.maker.pruning.channel.verification import checked
from edgeprune.maker.pruning.channel.widths import Widths
from edgeprune.maker.pruning.options import ChannelOptions
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.norms import NormStatistics
from edgeprune.maker.training.task import Task

__all__ = ["ChannelPruner", "ChannelResult", "analyse", "kept_of", "prune_channels", "report_of", "surgery_error"]

TOLERANCE = 1e-4  # relative error of the surgery against the zeroed model, float32
MEAN_SAMPLES = 512  # of the training split, for the compensation


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelResult:
    """The new model and the report. `kept` is what was kept of each weight of the old model, in its order."""

    model: Model
    report: ChannelReport
    kept: tuple[Places, ...]


def analyse(model: Model, *, through_norms: bool = False) -> Structure:
    """The dependency groups of a Functional or Sequential model. Raises Unsupported for others and quantized ones."""
    for leaf in leaf_layers(model):
        quantized, adapted = getattr(leaf.layer, "quantization_mode", None), getattr(leaf.layer, "lora_enabled", False)
        if quantized or adapted:
            what = f"is quantized in Keras ({quantized})" if quantized else "has LoRA weights"
            raise Unsupported(f"layer {leaf.path!r} {what}, and its channels cannot be removed; prune the model before")
    return Structure(Trace(model, RULES, through_norms=through_norms))


def prune_channels(
    model: Model,
    options: ChannelOptions,
    *,
    samples: Samples | None = None,
    task: Task | None = None,
    verify: bool = True,
) -> ChannelResult:
    """A new, smaller model; the argument is left alone.

    `samples` (of the training split) and `task` serve the criteria that look at data and the compensation. Raises
    UsageError (nothing to prune, a target out of reach), Unsupported (a subclassed model) and EdgepruneError when the
    new model does not compute what it must.
    """
    pruner = ChannelPruner(model, options, samples=samples, task=task)
    kept = pruner.plan(options)
    return pruner.result(kept, pruner.cut(kept), options, verify=verify)


class ChannelPruner:
    """Prunes one model to one target after another; what looks at its weights or at samples is computed once.

    The targets are options that differ in `ratio`, `macs`, `parameters` and `scope` only. `structure` is what `analyse`
    found of the model, where that was done before. Raises as `prune_channels`.
    """

    def __init__(
        self,
        model: Model,
        options: ChannelOptions,
        *,
        samples: Samples | None = None,
        task: Task | None = None,
        structure: Structure | None = None,
    ) -> None:
        self.structure = analyse(model, through_norms=options.through_norms) if structure is None else structure
        self._scores = unit_scores(self.structure, options.importance, samples=samples, task=task, seed=options.seed)
        self._seen = None
        if options.compensate == "mean":
            if samples is None:
                raise UsageError('compensate = "mean" needs training samples')
            self._seen = samples.some(MEAN_SAMPLES, np.random.default_rng(options.seed))
        self._means: Shifts | None = None
        self._norms = samples if options.compensate == "norms" else None

    def plan(self, options: ChannelOptions, widths: Mapping[str, int] | None = None) -> Kept:
        """Which units stay: bool [units]; `widths` as for `plan_channels`."""
        return plan_channels(self.structure, options, self._scores, widths=widths)

    def within(self, options: ChannelOptions, uses: Sequence[Use], most: Mapping[str, int]) -> Kept:
        """The same within limits of one's own, as `plan_within`."""
        return plan_within(self.structure, options, self._scores, uses, most=most)

    def narrower(self, options: ChannelOptions, kept: Kept) -> Iterator[tuple[Group, Kept]]:
        """(Group, the plan with it a step narrower), for each of the chosen groups that may be."""
        groups, _ = chosen_groups(self.structure, options)
        return Widths(self.structure, options, groups, self._scores).narrower(kept)

    def worth(self, kept: Kept) -> float:
        """The importance of the units that a plan keeps, all together."""
        return float(self._scores[kept].sum())

    def cut(self, kept: Kept) -> Model:
        """The new model of a plan, compensated if the options ask for it."""
        if self._seen is not None and self._means is None:
            self._means = channel_means(self.structure, self._seen)
        return cut(self.structure, kept, self._means)

    def result(self, kept: Kept, pruned: Model, options: ChannelOptions, *, verify: bool = True) -> ChannelResult:
        """The report of the model that `cut` made of a plan, with the check of the surgery."""
        plain = pruned if self._means is None else None
        altered, error, note = surgery_error(self.structure, kept, plain, verify=verify)
        if self._norms is not None:
            NormStatistics(pruned, self._norms, seed=options.seed).renew()
        report = report_of(
            self.structure,
            kept,
            asked=options.asked,
            ratio=options.ratio if options.scope == "layer" else None,
            skipped=chosen_groups(self.structure, options)[1],
            altered=altered,
            error=error,
            note=note,
        )
        return ChannelResult(model=pruned, report=report, kept=kept_of(self.structure, kept))


def kept_of(structure: Structure, kept: Kept) -> tuple[Places, ...]:
    """What a plan keeps of each weight of the model, in its order."""
    return tuple(kept_places(structure, kept, variable) for variable in structure.trace.model.weights)


def _altered(structure: Structure, kept: Kept) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(name for name, labels in structure.trace.altered if not structure.keep(kept, labels).all())
    )


def surgery_error(
    structure: Structure, kept: Kept, plain: Model | None = None, *, verify: bool = True
) -> tuple[tuple[str, ...], float | None, str | None]:
    """(Layers whose statistics change with the channels; the relative error of `plain`, the uncompensated model of a
    plan, which is made where it is not given; why it was not checked)."""
    altered = _altered(structure, kept)
    if not verify:
        return altered, None, "not asked for"
    if altered:
        why = f"not checked: the statistics of {', '.join(altered)} change with the channels, as was asked for"
        return altered, None, why
    plain = cut(structure, kept) if plain is None else plain
    what = "those with the removed channels set to zero"
    return altered, *checked(zeroed(structure, kept, clone), plain, TOLERANCE, what)


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
