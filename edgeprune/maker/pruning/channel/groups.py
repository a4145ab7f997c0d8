"""Dependency groups: layers that must lose the same channels (Fang et al. 2023, arXiv:2301.12900, for PyTorch).

A unit is what is removed at once: a channel with all that is tied to it. A group is the set of units that the same
layers make; its units compete with each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.checker.size.codecs import BASE_CODEC, CODECS
from edgeprune.maker.pruning.channel.channel_ids import Labels
from edgeprune.maker.pruning.channel.trace import Trace, Weight

__all__ = ["Cost", "Group", "Member", "Structure"]

Kept = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A layer of a group: `makes` channels of it (its outputs) or reads them (inputs, scales, depthwise taps)."""

    layer: str
    kind: str
    makes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Units that compete. `units` are indexes into the structure's units; `width` is how many channels of its widest
    layer a unit stands for; `reason` tells why nothing can be removed (None when something can)."""

    name: str
    units: npt.NDArray[np.int64]
    width: int
    members: tuple[Member, ...]
    reason: str | None

    @property
    def channels(self) -> int:
        """Channels of the widest layer of the group."""
        return len(self.units) * self.width


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs: numbers stored and multiply-accumulate operations for one sample."""

    parameters: int
    macs: int


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of a weight: how many of its positions stay whatever happens, and which unit each other one is."""

    weight: int
    axis: int
    fixed: int
    units: npt.NDArray[np.int64]


class Structure:
    """Units and groups of a traced model, and what is left of the model when some units are kept.

    Everything is given and taken by unit: kept, bool [units]; scores, float [units].
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        atoms = trace.atoms
        made = [labels for _, labels in trace.makers.values()]
        all_atoms = np.concatenate([*made, np.zeros(0, np.int64)])
        roots = np.unique(atoms.roots(all_atoms)) if len(all_atoms) else all_atoms
        self._unit_of = np.full(len(atoms) + 1, -1, np.int64)
        numbers = {int(root): number for number, root in enumerate(roots)}
        for atom in range(1, len(atoms) + 1):
            self._unit_of[atom] = numbers.get(atoms.find(atom), -1)
        self.reasons = [atoms.reason(int(root)) for root in roots]
        self.free = np.array([reason is None for reason in self.reasons], bool)
        self.weights: list[Weight] = list(trace.weights.values())
        self._axes = [axis for n, weight in enumerate(self.weights) for axis in self._axes_of(n, weight)]
        bound = {id(weight.variable) for weight in self.weights}
        self._other = sum(int(np.prod(v.shape)) for v in trace.model.weights if id(v) not in bound)
        self._whole = self.cost(np.ones(len(self), bool))
        self.groups = self._make_groups()

    def __len__(self) -> int:
        return len(self.reasons)

    def units(self, labels: Labels) -> npt.NDArray[np.int64]:
        """The unit of each label, -1 for what always stays; the same shape."""
        return self._unit_of[labels]

    def keep(self, kept: Kept, labels: Labels) -> npt.NDArray[np.bool_]:
        """Which of these labels are kept."""
        units = self.units(labels)
        return np.where(units < 0, True, kept[units]) if len(kept) else np.ones(labels.shape, bool)

    def _axes_of(self, number: int, weight: Weight) -> Iterator[_Axis]:
        for axis, labels in weight.axes.items():
            units = self.units(labels)
            yield _Axis(number, axis, int((units < 0).sum()), units[units >= 0])

    def _make_groups(self) -> list[Group]:
        owner = np.full(len(self), -1, np.int64)
        parents: list[int] = []

        def find(n: int) -> int:
            while parents[n] != n:
                n = parents[n]
            return n

        for _, labels in self.trace.makers.values():
            units = np.unique(self.units(labels))
            near = {find(int(g)) for g in owner[units] if g >= 0}
            target = min(near, default=len(parents))
            parents.append(target if near else len(parents))
            for other in near:
                parents[other] = target
            owner[units[owner[units] < 0]] = target
        found: dict[int, list[int]] = {}
        for unit, group in enumerate(owner):
            found.setdefault(find(int(group)), []).append(unit)
        members = self._members(np.array([find(int(group)) for group in owner], np.int64))
        widths = np.ones(len(self), np.int64)
        for _, labels in self.trace.makers.values():
            widths = np.maximum(widths, np.bincount(self.units(labels), minlength=len(self)))
        return [
            self._group(np.array(units, np.int64), int(widths[units].max()), members.get(group, {}))
            for group, units in sorted(found.items(), key=lambda item: min(item[1]))
        ]

    def _members(self, group_of: npt.NDArray[np.int64]) -> dict[int, dict[int, tuple[Any, bool]]]:
        """Group -> layer by id -> (layer, whether it makes the channels)."""
        members: dict[int, dict[int, tuple[Any, bool]]] = {}
        for axis in self._axes:
            weight = self.weights[axis.weight]
            for group in np.unique(group_of[axis.units]).tolist():
                here = members.setdefault(group, {})
                _, makes = here.get(id(weight.layer), (None, False))
                makes = makes or (weight.made_axis == axis.axis and len(weight.variable.shape) > 1)
                here[id(weight.layer)] = (weight.layer, makes)
        return members

    def _group(self, units: npt.NDArray[np.int64], width: int, members: dict[int, tuple[Any, bool]]) -> Group:
        reason = None
        if not self.free[units].any():
            reason = next(r for r in (self.reasons[u] for u in units) if r is not None)
        elif len(units) == 1:
            reason = "a single channel"
        listed = tuple(Member(layer=layer.name, kind=type(layer).__name__, makes=m) for layer, m in members.values())
        makers = [m.layer for m in listed if m.makes]
        name = makers[0] if makers else (listed[0].layer if listed else "?")
        return Group(name=name, units=units, width=width, members=listed, reason=reason)

    def cost(self, kept: Kept) -> Cost:
        """Parameters and MACs of the model with these units kept."""
        counts = self._counts(kept)
        macs = sum(count * weight.positions for weight, count in zip(self.weights, counts, strict=True))
        return Cost(self._other + sum(counts), macs)

    def _counts(self, kept: Kept) -> list[int]:
        """How many numbers are left of each weight."""
        return [math.prod(size) for size in self.shapes(kept)]

    def shapes(self, kept: Kept) -> list[list[int]]:
        """What is left of each weight, in the order of `weights`."""
        sizes = [list(weight.variable.shape) for weight in self.weights]
        for axis in self._axes:
            sizes[axis.weight][axis.axis] = axis.fixed + int(kept[axis.units].sum())
        return sizes

    def download_bytes(self, kept: Kept) -> float:
        """About what deflate makes of the weights, as float32, with these units kept: each number of a weight costs
        what it costs in the whole one."""
        counts = self._counts(kept)
        return sum(count * each for count, each in zip(counts, self._deflated, strict=True)) + 4.0 * self._other

    @cached_property
    def _deflated(self) -> list[float]:
        """Deflated bytes of a number of each weight."""
        found = []
        for weight in self.weights:
            content = np.asarray(weight.variable, np.float32).tobytes()
            found.append(CODECS[BASE_CODEC].compressed_bytes(content) / max(1, len(content) // 4))
        return found

    def whole(self) -> Cost:
        """Parameters and MACs of the model as it is."""
        return self._whole

    def at_stake(self, group: Group) -> Cost:
        """Parameters and MACs of everything that touches a group's channels."""
        without = np.ones(len(self), bool)
        without[group.units] = False
        rest = self.cost(without)
        return Cost(self._whole.parameters - rest.parameters, self._whole.macs - rest.macs)

    def guards(self) -> list[npt.NDArray[np.int64]]:
        """Sets of units of which one must stay, because a weight or tensor would be empty without them."""
        sets = {tuple(np.unique(axis.units).tolist()) for axis in self._axes if not axis.fixed and len(axis.units)}
        return [np.array(units, np.int64) for units in sorted(sets)]
