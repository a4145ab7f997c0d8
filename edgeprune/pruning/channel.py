"""Channel pruning: which channels of a Keras model go, and the smaller model without them.

The ratio is the fraction of channels removed. A plan keeps the channels that score highest (importance.py) in each
dependency group, in widths that phone kernels like (multiples of 8 by default), and the surgery is verified: the new
model must compute what the old one computes with those channels set to zero.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.datasets import Samples
from edgeprune.errors import EdgepruneError, UsageError
from edgeprune.keras_models import clone, input_specs, leaf_layers, predict
from edgeprune.metrics import Metric
from edgeprune.pruning.groups import Cost, Group, Kept, Structure
from edgeprune.pruning.importance import CRITERIA, unit_scores
from edgeprune.pruning.observe import channel_means
from edgeprune.pruning.rules import RULES
from edgeprune.pruning.surgery import cut, zeroed
from edgeprune.pruning.trace import Trace

__all__ = [
    "ChannelOptions",
    "ChannelReport",
    "ChannelResult",
    "LayerWidth",
    "SkippedGroup",
    "analyse",
    "largest_error",
    "plan_channels",
    "prune_channels",
    "report_of",
]

TOLERANCE = 1e-4  # relative error of the surgery against the zeroed model, float32
FLOOR = 0.1  # share of a group's channels that a ranking over all groups leaves at least
OPEN_SIZE = 32  # stands in for a size that the model leaves open
SCOPES = ("layer", "global")
COMPENSATIONS = ("none", "mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """What to remove and how much: one of `ratio` (fraction of channels), `macs` or `parameters` (share left).

    With scope "layer" each group loses `ratio` of its channels, with "global" all groups together, the least important
    channels first and at most 90 % of a group; `macs` and `parameters` rank like that too. Widths become multiples of
    `round_to` where a group has more channels than that. `through_norms` also prunes channels that a
    LayerNormalization reads together, which changes its statistics. `compensate` = "mean" moves the mean of a removed
    channel into the bias of the layers that read it (needs samples).
    """

    ratio: float | None = None
    macs: float | None = None
    parameters: float | None = None
    scope: str = "layer"
    importance: str = "lamp"
    round_to: int = 8
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    through_norms: bool = False
    compensate: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        given = [name for name in ("ratio", "macs", "parameters") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"channel pruning takes one of ratio, macs and parameters; got {', '.join(given) or 'none'}"
            )
        value = float(getattr(self, given[0]))
        lowest = value >= 0 if given[0] == "ratio" else value > 0
        if not (lowest and (value < 1 if given[0] == "ratio" else value <= 1)):
            hint = f"; did you mean {value / 100:g}?" if 1 < value < 100 else ""
            what = "the fraction of channels to remove, at least 0 and below 1"
            share = f"the share of {given[0]} to keep, above 0 and at most 1"
            raise UsageError(f"{given[0]} is {what if given[0] == 'ratio' else share}; got {value:g}{hint}")
        if self.scope not in SCOPES:
            raise UsageError(f"scope is one of {', '.join(SCOPES)}; got {self.scope!r}")
        if self.importance not in CRITERIA:
            raise UsageError(f"unknown importance criterion {self.importance!r}; known: {', '.join(CRITERIA)}")
        if self.round_to < 1:
            raise UsageError(f"round_to is at least 1; got {self.round_to}")
        if self.compensate not in COMPENSATIONS:
            raise UsageError(f"compensate is one of {', '.join(COMPENSATIONS)}; got {self.compensate!r}")

    @property
    def asked(self) -> str:
        """What was asked for, in words: "ratio 0.4"."""
        name = next(n for n in ("ratio", "macs", "parameters") if getattr(self, n) is not None)
        return f"{name} {getattr(self, name):g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWidth:
    """Channels that a layer makes, before and after."""

    layer: str
    kind: str
    before: int
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


def chosen_groups(structure: Structure, options: ChannelOptions) -> tuple[list[Group], list[tuple[Group, str]]]:
    """(Groups to prune, groups that are left alone with the reason)."""
    model = structure.trace.model
    names = [(leaf.path, leaf.layer.name, type(leaf.layer).__name__) for leaf in leaf_layers(model)]
    for option in ("include", "exclude"):
        for pattern in getattr(options, option):
            if not any(fnmatch.fnmatchcase(name, pattern) for triple in names for name in triple):
                shown = ", ".join(path for path, _, _ in names[:6]) + (" ..." if len(names) > 6 else "")
                raise UsageError(f"{option} pattern {pattern!r} matches no layer; layers are: {shown}")

    def matched(group: Group, patterns: tuple[str, ...]) -> bool:
        made = [m for m in group.members if m.makes]
        return any(fnmatch.fnmatchcase(name, p) for m in made for name in (m.layer, m.kind) for p in patterns)

    chosen, left = [], []
    for group in structure.groups:
        reason = group.reason
        if reason is None and not matched(group, options.include):
            reason = "not matched by include"
        if reason is None and matched(group, options.exclude):
            reason = "matched by exclude"
        if reason is None and group.channels <= options.round_to and options.ratio != 0:
            reason = f"has {group.channels} channels, widths are multiples of {options.round_to} (round_to)"
        if reason is None:
            chosen.append(group)
        else:
            left.append((group, reason))
    return chosen, left


def rounded(group: Group, wanted: float, round_to: int, fixed: int) -> int:
    """How many units of a group stay when `wanted` are asked for: the nearest width that is a multiple of `round_to`
    channels, at least one such multiple, at least the `fixed` units, at most all."""
    step = max(1, round_to // math.gcd(round_to, group.width))
    total = len(group.units)
    kept = max(step, round(wanted / step) * step)
    if kept < fixed:
        kept = math.ceil(fixed / step) * step
    return min(kept, total)


def _keep_best(structure: Structure, group: Group, count: int, scores: npt.NDArray[np.float64], kept: Kept) -> None:
    """Keep `count` units of a group: the fixed ones, then the highest scores (the earlier of equal ones)."""
    order = np.lexsort((group.units, -scores[group.units], structure.free[group.units]))
    kept[group.units[order[count:]]] = False


def _repair(structure: Structure, scores: npt.NDArray[np.float64], kept: Kept) -> None:
    """Keep the best unit wherever a tensor would be left without channels."""
    for guard in structure.guards():
        if not kept[guard].any():
            kept[guard[np.argmax(scores[guard])]] = True


def plan_channels(
    structure: Structure,
    options: ChannelOptions,
    scores: npt.NDArray[np.float64],
    *,
    cost_of: Callable[[Cost], float] | None = None,
) -> Kept:
    """Which units stay: bool [units].

    `cost_of` is what `macs` or `parameters` limit; another function (of estimated latency, say) may stand in. Raises
    UsageError when nothing can be pruned or the target cannot be reached (with the best that can be).
    """
    groups, _ = chosen_groups(structure, options)
    if not groups:
        reasons = sorted({reason for _, reason in chosen_groups(structure, options)[1]})
        raise UsageError(f"nothing to prune: no group of channels may lose any ({'; '.join(reasons[:3])})")
    fixed = [int((~structure.free[group.units]).sum()) for group in groups]

    def planned(wanted: Callable[[Group], float]) -> Kept:
        kept = np.ones(len(structure), bool)
        for group, stuck in zip(groups, fixed, strict=True):
            count = rounded(group, wanted(group), options.round_to, stuck)
            _keep_best(structure, group, count, scores, kept)
        _repair(structure, scores, kept)
        return kept

    if options.ratio is not None and options.scope == "layer":
        ratio = options.ratio
        return planned(lambda group: (1 - ratio) * len(group.units))

    def above(threshold: float) -> Kept:
        def wanted(group: Group) -> float:
            return max(float((scores[group.units] >= threshold).sum()), FLOOR * len(group.units))

        return planned(wanted)

    free = np.concatenate([group.units[structure.free[group.units]] for group in groups])
    cuts = np.unique(np.concatenate([scores[free], [np.inf]]))
    if options.ratio is not None:
        total = sum(len(group.units) for group in groups)
        kept = _lowest_cut(
            cuts,
            above,
            lambda k: float(k[np.concatenate([g.units for g in groups])].sum()),
            (1 - options.ratio) * total,
        )
        return kept if kept is not None else above(np.inf)
    cost = cost_of or (lambda c: float(c.macs)) if options.macs is not None else (lambda c: float(c.parameters))
    share = options.macs if options.macs is not None else options.parameters
    assert share is not None
    if options.macs is not None and has_open_sizes(structure):
        raise UsageError("macs cannot be a target: the model leaves sizes open; ask for ratio or parameters")
    base = cost(structure.whole())
    found = _lowest_cut(cuts, above, lambda k: cost(structure.cost(k)), share * base)
    if found is None:
        best = cost(structure.cost(above(np.inf))) / base
        what = "macs" if options.macs is not None else "parameters"
        raise UsageError(
            f"{what} = {share:g} cannot be reached: with at least {FLOOR:.0%} of the channels of each group and widths "
            f"in multiples of {options.round_to} the least is {best:.3f}; ask for more, or set round_to = 1"
        )
    return found


def _lowest_cut(
    cuts: npt.NDArray[np.float64], plan: Callable[[float], Kept], size: Callable[[Kept], float], limit: float
) -> Kept | None:
    """The plan of the lowest threshold whose size is within the limit; None when the highest one is not."""
    low, high = 0, len(cuts) - 1
    if size(plan(float(cuts[high]))) > limit:
        return None
    while low < high:
        middle = (low + high) // 2
        if size(plan(float(cuts[middle]))) <= limit:
            high = middle
        else:
            low = middle + 1
    return plan(float(cuts[low]))


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
    skipped: Sequence[tuple[Group, str]] = (),
    altered: tuple[str, ...] = (),
    error: float | None = None,
    note: str | None = None,
) -> ChannelReport:
    """The report of a plan that has been carried out."""
    before, after = structure.whole(), structure.cost(kept)
    open_sizes = has_open_sizes(structure)
    removed = []
    channels = gone = 0
    for layer, labels in structure.trace.makers.values():
        stays = structure.keep(kept, labels)
        channels, gone = channels + len(stays), gone + int((~stays).sum())
        if not stays.all():
            removed.append(
                LayerWidth(layer=layer.name, kind=type(layer).__name__, before=len(stays), after=int(stays.sum()))
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


def has_open_sizes(structure: Structure) -> bool:
    """Whether a kernel is applied at an unknown number of positions."""
    return any(weight.positions == 0 and weight.name.endswith("kernel") for weight in structure.weights)


def _skipped(group: Group, reason: str) -> SkippedGroup:
    layers = tuple(member.layer for member in group.members if member.makes)
    return SkippedGroup(layer=group.name, layers=layers, channels=group.channels, reason=reason)
