"""Channel pruning in rounds, with training between them: small cuts are recovered from better than one large one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgeprune.errors import UsageError
from edgeprune.ledger import ChannelReport, LayerWidth
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.groups import Cost, Structure
from edgeprune.maker.pruning.channel.harmless import prune_harmless
from edgeprune.maker.pruning.channel.lossless import prune_dead
from edgeprune.maker.pruning.channel.plan import chosen_groups
from edgeprune.maker.pruning.channel.pruner import ChannelPruner, ChannelResult
from edgeprune.maker.pruning.channel.surgery import Places
from edgeprune.maker.pruning.options import ChannelOptions
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.task import Task

__all__ = ["composed", "in_rounds", "merged_reports", "prune_in_rounds", "round_options"]

Cut = Callable[[Model, int], ChannelResult]  # of a model, in a round (from 1)
Train = Callable[[Model, int, tuple[Places, ...]], Model]  # with what all cuts so far kept of each weight


def round_options(options: ChannelOptions, number: int, rounds: int, base: Cost, now: Cost) -> ChannelOptions:
    """The options of round `number` (from 1) of `rounds`: each round keeps the same share of what is left.

    `base` is the cost before the first round and `now` that before this one: widths are rounded, so a round may have
    removed more or less than its part. A ratio is that of all rounds so far, of the widths before the first.
    """
    if options.ratio is not None:
        return replace(options, ratio=1 - (1 - options.ratio) ** (number / rounds))
    if options.macs is not None:
        return replace(options, macs=min(1.0, options.macs ** (number / rounds) * base.macs / max(now.macs, 1)))
    what = options.target
    if what not in ("parameters", "download"):
        return options  # a latency, which no plan can aim at by itself
    # Deflate makes about as much of each parameter that stays.
    share = getattr(options, what) ** (number / rounds) * base.parameters / max(now.parameters, 1)
    return replace(options, **{what: min(1.0, share)})


def prune_in_rounds(
    model: Model,
    options: ChannelOptions | None,
    *,
    rounds: int = 1,
    samples: Samples | None = None,
    task: Task | None = None,
    train: Train | None = None,
    structure: Structure | None = None,
) -> ChannelResult:
    """Remove channels in `rounds` rounds; `train(model, round, kept)` returns the model trained on after each of them,
    `kept` being what is left of each weight of `model`.

    Without `options` dead channels are removed, and with `harmless` those that do nothing, in one round. `structure` is
    what `analyse` found of the model, where that was done before. The report is that of all rounds together.
    """
    if options is None:
        result = prune_dead(model, structure=structure)
        return replace(result, model=train(result.model, 1, result.kept)) if train else result
    if options.harmless is not None:
        result = prune_harmless(model, options, samples=samples, structure=structure)
        return replace(result, model=train(result.model, 1, result.kept)) if train else result
    reports: list[ChannelReport] = []
    widths: dict[str, int] = {}

    def cut(current: Model, number: int) -> ChannelResult:
        base = now = Cost(1, 1)  # only their ratio counts; the first report tells the real ones
        if reports:
            base = Cost(reports[0].parameters_before, reports[0].macs_before or 0)
            now = Cost(reports[-1].parameters_after, reports[-1].macs_after or 0)
        asked = round_options(options, number, rounds, base, now)
        known = structure if number == 1 else None
        pruner = ChannelPruner(current, options, samples=samples, task=task, structure=known)
        groups = chosen_groups(pruner.structure, options)[0]
        if number == 1:
            widths.update({group.name: len(group.units) for group in groups})
        if number > 1 and (
            1.0 in (asked.macs, asked.parameters, asked.download) or (asked.ratio is not None and not groups)
        ):
            kept = np.ones(len(pruner.structure), bool)  # rounded widths went further than this round has to go
        else:
            kept = pruner.plan(asked, widths)
        result = pruner.result(kept, pruner.cut(kept), asked)
        reports.append(result.report)
        return result

    return in_rounds(model, cut, options, rounds=rounds, train=train)


def in_rounds(
    model: Model, cut: Cut, options: ChannelOptions, *, rounds: int = 1, train: Train | None = None
) -> ChannelResult:
    """`cut(model, round)`, then `train(model, round, kept)`, `rounds` times; `options` are what all rounds aim at.

    The report is that of all rounds together.
    """
    if rounds < 1:
        raise UsageError(f"rounds is at least 1; got {rounds}")
    reports: list[ChannelReport] = []
    kept: tuple[Places, ...] = ()
    for number in range(1, rounds + 1):
        result = cut(model, number)
        reports.append(result.report)
        kept = composed(kept, result.kept)
        model = train(result.model, number, kept) if train else result.model
    return ChannelResult(model=model, report=merged_reports(reports, options), kept=kept)


def composed(first: tuple[Places, ...], second: tuple[Places, ...]) -> tuple[Places, ...]:
    """What two cuts, one after the other, keep of each weight; nothing was cut before the first of all."""
    if not first:
        return second
    return tuple(
        {axis: (a[axis][b[axis]] if axis in a and axis in b else {**b, **a}[axis]) for axis in {**a, **b}}
        for a, b in zip(first, second, strict=True)
    )


def merged_reports(reports: list[ChannelReport], options: ChannelOptions) -> ChannelReport:
    """The first round's widths against the last one's."""
    first, last = reports[0], reports[-1]
    before: dict[str, LayerWidth] = {}
    after: dict[str, LayerWidth] = {}
    for report in reports:
        for item in report.removed:
            before.setdefault(item.layer, item)
            after[item.layer] = item
    ratio = options.ratio if options.scope == "layer" else None
    removed = tuple(
        replace(
            before[name],
            asked=None if ratio is None else round(before[name].before * (1 - ratio), 2),
            after=after[name].after,
        )
        for name in before
    )
    errors = [report.verified for report in reports if report.verified is not None]
    return replace(
        last,
        asked=options.asked,
        got=1 - _kept_share(reports),
        parameters_before=first.parameters_before,
        macs_before=first.macs_before,
        removed=removed,
        skipped=first.skipped,
        verified=max(errors) if len(errors) == len(reports) else None,
    )


def _kept_share(reports: list[ChannelReport]) -> float:
    share = 1.0
    for report in reports:
        share *= 1 - report.got
    return share
