"""Channels in the order that keeps most of an N:M pattern, through a whole model: the outputs stay what they are.

Channels that the same weights hold in the same number can take each other's places (as a group of channel pruning can
lose them together): every weight that holds them is put in the new order, and the model computes the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import Unsupported
from edgeprune.formats.pattern import Pattern
from edgeprune.ledger import ChannelOrder
from edgeprune.maker.keras.models import clone, refresh
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.groups import Structure
from edgeprune.maker.pruning.channel.pruner import TOLERANCE, analyse
from edgeprune.maker.pruning.channel.verification import checked
from edgeprune.maker.pruning.layouts import Layout
from edgeprune.maker.pruning.permutation import COMPARISONS, best_order, kept_sum

__all__ = ["reorder"]

Floats = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Axis = tuple[int, int]  # id of a variable, an axis of it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    """Channels that can take each other's places: int64 [channels, how often each is there] by axis."""

    places: Mapping[Axis, Ints]

    @property
    def channels(self) -> int:
        return len(next(iter(self.places.values())))


def reorder(
    model: Model,
    layouts: Mapping[int, Layout],
    importance: Mapping[int, Floats],
    pattern: Pattern,
    *,
    score: str = "magnitude",
) -> tuple[Model, ChannelOrder]:
    """A copy of a model with its channels in another order, and what that gains. The argument is left alone.

    `layouts` and `importance` are of the kernels that will keep the pattern, by id of the variable; `score` names what
    the importance is. Raises Unsupported
    for a model that is neither Functional nor Sequential, EdgepruneError where the copy computes other outputs.
    """
    try:
        structure = analyse(model, through_norms=True)
    except Unsupported as cause:
        raise Unsupported(f"the channels cannot be reordered: {cause}; leave out permute") from cause
    search = _Reordering(structure, layouts, importance, pattern)
    kept = search.kept()
    groups = search.run()
    total = sum(float(np.abs(values).sum(dtype=np.float64)) for values in importance.values()) or 1.0
    made = clone(model)
    for variable, target in zip(model.weights, made.weights, strict=True):
        values = np.asarray(variable)
        for axis in range(values.ndim):
            moved = search.moves.get((id(variable), axis))
            values = values if moved is None else np.take(values, moved, axis)
        target.assign(values)
    refresh(made)
    error, note = checked(model, made, TOLERANCE, "those of the model before its channels were reordered")
    order = ChannelOrder(
        groups=groups,
        score=score,
        kept_before=kept / total,
        kept_after=search.kept() / total,
        verified=error,
        note=note,
    )
    return made, order


class _Reordering:
    """The search, set by set. `moves` says for each axis which of the old places each new one takes."""

    def __init__(
        self, structure: Structure, layouts: Mapping[int, Layout], importance: Mapping[int, Floats], pattern: Pattern
    ) -> None:
        self.pattern, self.layouts = pattern, layouts
        self.rows = {key: np.abs(layouts[key].rows(np, importance[key])) for key in layouts}
        self.weights = {id(weight.variable): weight for weight in structure.weights}
        self.sets = _sets(structure)
        self.moves: dict[Axis, Ints] = {}

    def kept(self) -> float:
        """The sum of what the pattern keeps of all kernels in the order so far."""
        return sum(kept_sum(self._ordered(key), self.pattern) for key in self.rows)

    def run(self) -> int:
        """Order each set; how many came out in another order."""
        work = [(some, views) for some in self.sets if (views := self._views(some))]
        costs = [some.channels**2 * sum(view.shape[1] for view in views) for some, views in work]
        changed = 0
        for (some, views), cost in zip(work, costs, strict=True):
            share = COMPARISONS * cost / sum(costs)
            order = best_order(np.concatenate(views, axis=1), self.pattern, comparisons=share)
            if not np.array_equal(order, np.arange(len(order))):
                changed += self._take(some, order)
        return changed

    def _take(self, some: _Set, order: Ints) -> bool:
        """The new order, unless kernels that the search could not see lose more by it."""
        touched = [key for key in self.rows if any(key == variable for variable, _ in some.places)]
        before, old = sum(kept_sum(self._ordered(key), self.pattern) for key in touched), dict(self.moves)
        for axis, places in some.places.items():
            move = self.moves.get(axis, np.arange(self.weights[axis[0]].variable.shape[axis[1]]))
            moved = move.copy()
            moved[places] = move[places[order]]
            self.moves[axis] = moved
        if sum(kept_sum(self._ordered(key), self.pattern) for key in touched) > before:
            return True
        self.moves = old
        return False

    def _views(self, some: _Set) -> list[npt.NDArray[np.float32]]:
        """[channels, outputs] of each kernel whose groups of M inputs are made of these channels alone."""
        found = []
        for (key, axis), places in some.places.items():
            if key not in self.rows or some.channels % self.pattern.m or axis != _input_axis(self.layouts[key]):
                continue
            first = places[0]
            if (places != first + np.arange(some.channels)[:, None]).any() or (first % self.pattern.m).any():
                continue
            rows = self.rows[key][:, places, :]  # [apart, channels, times, outputs]
            found.append(np.moveaxis(rows, 1, 0).reshape(some.channels, -1).astype(np.float32))
        return found

    def _ordered(self, key: int) -> Floats:
        axis = _input_axis(self.layouts[key])
        moved = None if axis is None else self.moves.get((key, axis))
        return self.rows[key] if moved is None else self.rows[key][:, moved, :]


def _input_axis(layout: Layout) -> int | None:
    """The axis of a kernel that is all of its inputs, None where several are."""
    for place, axis in enumerate(layout.order):
        apart = math.prod(layout.shape[other] for other in layout.order[:place])
        if apart == layout.sizes[0] and layout.shape[axis] == layout.inputs:
            return axis
    return None


def _sets(structure: Structure) -> list[_Set]:
    """The free channels of a model by the axes that hold them."""
    axes = [
        ((id(weight.variable), axis), structure.units(labels))
        for weight in structure.weights
        for axis, labels in weight.axes.items()
    ]
    if not axes or not len(structure):
        return []
    counts = np.array([np.bincount(units[units >= 0], minlength=len(structure)) for _, units in axes])
    alike = np.unique(counts, axis=1, return_inverse=True)[1].reshape(-1)
    found = []
    for number in range(alike.max() + 1):
        members = np.flatnonzero((alike == number) & structure.free)
        if len(members) > 1:
            found.append(_Set(places={axis: _places(units, members) for axis, units in axes if _holds(units, members)}))
    return [some for some in found if some.places]


def _holds(units: Ints, members: Ints) -> bool:
    return bool(np.isin(members[0], units))


def _places(units: Ints, members: Ints) -> Ints:
    """Where each member is, first to last: int64 [members, times]."""
    order = np.argsort(units, kind="stable")
    starts = np.searchsorted(units[order], members)
    times = int((units == members[0]).sum())
    return order[starts[:, None] + np.arange(times)]
