"""Plan channel pruning: what is asked for, which groups may lose channels, and which channels those are."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgeprune.errors import OutOfReach, UsageError
from edgeprune.maker.keras.models import leaf_layers
from edgeprune.maker.pruning.channel.criteria import CRITERIA
from edgeprune.maker.pruning.channel.groups import Group, Kept, Structure
from edgeprune.maker.pruning.channel.widths import FLOOR, Widths
from edgeprune.maker.pruning.options import ChannelOptions

__all__ = ["Use", "chosen_groups", "cost_of", "macs_unknown", "plan_channels", "plan_within"]

Use = Callable[[Kept], float]
TURNS = 6  # of the search for what one limit weighs against the other


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


def plan_channels(
    structure: Structure,
    options: ChannelOptions,
    scores: npt.NDArray[np.float64],
    *,
    widths: Mapping[str, int] | None = None,
) -> Kept:
    """Which units stay: bool [units].

    `widths` are the units that groups had before earlier rounds, by name: a ratio is of those (default: of the units
    there are).
    Under a limit of `macs`, `parameters` or `download` absolute scores are set against the cost that each unit saves,
    and what rounded widths leave of the limit is filled. Raises UsageError when nothing can be pruned, and OutOfReach
    when the target cannot be reached (with the best that can be).
    """
    if options.latency is not None:
        raise UsageError("a latency is searched for: prune_to_latency does, with the profile of a device")
    if options.harmless is not None:
        raise UsageError("what is harmless is searched for: prune_harmless does, with samples")
    groups, left = chosen_groups(structure, options)
    if not groups:
        reasons = sorted({reason for _, reason in left}) or ["the model has no layers that make channels"]
        raise UsageError(f"nothing to prune: no group of channels may lose any ({'; '.join(reasons[:3])})")
    planner = Widths(structure, options, groups, scores)
    if options.widths is not None:
        return _of_widths(planner, options.widths)
    if options.ratio is not None and options.scope == "layer":
        share = 1 - options.ratio
        return planner.with_counts(lambda group: share * (widths or {}).get(group.name, len(group.units)))
    if options.ratio is not None:
        counted = [group for group in structure.groups if group.name in widths] if widths else groups
        units = np.concatenate([group.units for group in counted])
        total = sum(widths.values()) if widths else len(units)
        kept = planner.lowest(lambda k: float(k[units].sum()), (1 - options.ratio) * total)
        return planner.above(np.inf) if kept is None else kept
    return _within_cost(planner)


def _of_widths(planner: Widths, widths: Mapping[str, int]) -> Kept:
    """The best units of each group that is named, as many channels as it says."""
    counts: dict[str, int] = {}
    for name, channels in widths.items():
        groups = [group for group in planner.groups if group.name == name]
        if len(groups) != 1:
            known = ", ".join(group.name for group in planner.groups[:6])
            what = "no group of channels that may lose any" if not groups else f"{len(groups)} groups of channels"
            raise UsageError(f"widths: {name!r} names {what}; those that may are {known} (edgeprune groups lists them)")
        group = groups[0]
        fixed = int((~planner.structure.free[group.units]).sum())
        if channels % group.width or not max(1, fixed) <= channels // group.width <= len(group.units):
            least, step = max(1, fixed) * group.width, f", in steps of {group.width}" if group.width > 1 else ""
            raise UsageError(f"widths: {name} keeps {least} to {group.channels} channels{step}; got {channels}")
        counts[name] = channels // group.width
    return planner.exactly(lambda group: counts.get(group.name, len(group.units)))


def plan_within(
    structure: Structure,
    options: ChannelOptions,
    scores: npt.NDArray[np.float64],
    uses: Sequence[Use],
    *,
    most: Mapping[str, int],
) -> Kept:
    """The plan of most worth within one or two limits at once, filled up: each of `uses` is the part of a limit that a
    plan takes. `most` are units that groups may keep, by name; the target of `options` is not looked at.

    What one limit weighs against the other, where absolute scores are set against the cost that each unit saves, is
    looked for so that both are used. Raises OutOfReach.
    """
    groups, _ = chosen_groups(structure, options)
    whole = Widths(structure, options, groups, scores)
    capped = whole.exactly(lambda group: most.get(group.name, len(group.units)))
    free = [group for group in groups if group.name not in most]
    absolute = CRITERIA[options.importance].absolute

    def used(kept: Kept) -> float:
        return max(use(kept & capped) for use in uses)

    plans: list[Kept] = []
    low, high = 0.0, 1.0
    for _ in range(TURNS if absolute and len(uses) > 1 else 1):
        weight = (low + high) / 2

        def mixed(kept: Kept, weight: float = weight) -> float:
            return weight * uses[0](kept & capped) + (1 - weight) * uses[-1](kept & capped)

        planner = Widths(structure, options, free, scores / _unit_costs(structure, free, mixed) if absolute else scores)
        found = planner.lowest(used, 1.0)
        if found is None:
            raise OutOfReach(f"the fewest channels that may stay take {used(planner.above(np.inf)):.3f} of the limits")
        plan = planner.filled(found, scores, used, 1.0) & capped
        plans.append(plan)
        low, high = (weight, high) if uses[0](plan) > uses[-1](plan) else (low, weight)
    return max(plans, key=lambda plan: float(scores[plan].sum()))


def _within_cost(planner: Widths) -> Kept:
    structure, options = planner.structure, planner.options
    what = options.target
    if what == "macs" and macs_unknown(structure):
        raise UsageError(
            "macs cannot be a target: the model leaves sizes open, or has layers that are not followed "
            "(edgeprune groups lists them); ask for ratio or parameters"
        )
    cost = cost_of(structure, what)
    share, base = float(getattr(options, what)), cost(np.ones(len(structure), bool))
    value = planner.scores
    if CRITERIA[options.importance].absolute:
        planner.scores = planner.scores / _unit_costs(structure, planner.groups, cost)
    found = planner.lowest(cost, share * base)
    if found is None:
        best = cost(planner.above(np.inf)) / base
        raise OutOfReach(
            f"{what} = {share:g} cannot be reached: with at least {FLOOR:.0%} of the channels of each group and widths "
            f"in multiples of {options.round_to} the least is {best:.3f}; ask for more, or set round_to = 1"
        )
    return planner.filled(found, value, cost, share * base)


def cost_of(structure: Structure, what: str) -> Use:
    """The cost of what a plan keeps: "macs", "parameters" or "download" (deflated bytes of the float32 weights)."""
    if what == "download":
        return structure.download_bytes
    return lambda kept: float(getattr(structure.cost(kept), what))


def _unit_costs(structure: Structure, groups: Sequence[Group], cost: Use) -> npt.NDArray[np.float64]:
    """Cost of everything that touches a unit, relative to the mean of the groups; float [units]."""
    costs, whole = np.ones(len(structure)), cost(np.ones(len(structure), bool))
    for group in groups:
        without = np.ones(len(structure), bool)
        without[group.units] = False
        costs[group.units] = (whole - cost(without)) / len(group.units)
    mean = np.mean([costs[group.units[0]] for group in groups])
    return np.maximum(costs / (mean or 1.0), 1e-6)


def macs_unknown(structure: Structure) -> bool:
    """Whether MACs are not known: a kernel is applied at an open number of positions, or in a layer not followed."""
    applied = {id(weight.variable) for weight in structure.weights if weight.positions}
    kernels = [v for v in structure.trace.model.weights if v.name.endswith("kernel") and len(v.shape) > 1]
    return any(id(kernel) not in applied for kernel in kernels)
