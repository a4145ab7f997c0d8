"""Widths of groups: which units stay when each group keeps so many, and which widths fill a limit best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edgeprune.maker.pruning.channel.groups import Group, Kept, Structure
from edgeprune.maker.pruning.options import ChannelOptions

__all__ = ["FLOOR", "Widths", "rounded"]

FLOOR = 0.1  # share of a group's channels that a ranking over all groups leaves at least
FULL = 0.98  # of a limit: a plan that uses less of it gets wider where that is worth most
EXCHANGES = 50  # at most
Floats = npt.NDArray[np.float64]


def rounded(group: Group, wanted: float, round_to: int, fixed: int, *, up: bool = False) -> int:
    """How many units of a group stay when `wanted` are asked for: the nearest width that is a multiple of `round_to`
    channels (the next larger one with `up`), at least one such multiple, at least the `fixed` units, at most all."""
    step = max(1, round_to // math.gcd(round_to, group.width))
    total = len(group.units)
    if wanted >= total:
        return total
    kept = max(step, (math.ceil if up else round)(wanted / step) * step)
    if kept < fixed:
        kept = math.ceil(fixed / step) * step
    return min(kept, total)


def _keep_best(structure: Structure, group: Group, count: int, scores: npt.NDArray[np.float64], kept: Kept) -> None:
    """Keep `count` units of a group: the fixed ones, then the highest scores (the earlier of equal ones)."""
    order = np.lexsort((group.units, -scores[group.units], structure.free[group.units]))
    kept[group.units[order[count:]]] = False


class Widths:
    """Plans over the chosen groups: which units stay when each group is asked for a number of them."""

    def __init__(
        self, structure: Structure, options: ChannelOptions, groups: Sequence[Group], scores: npt.NDArray[np.float64]
    ) -> None:
        self.structure, self.options, self.groups, self.scores = structure, options, groups, scores
        self._guards = structure.guards()

    def with_counts(self, wanted: Callable[[Group], float], *, up: bool = False) -> Kept:
        """The best units of each group, as many as are wanted, rounded."""

        def count(group: Group) -> int:
            fixed = int((~self.structure.free[group.units]).sum())
            return rounded(group, wanted(group), self.options.round_to, fixed, up=up)

        return self.exactly(count)

    def exactly(self, count: Callable[[Group], int]) -> Kept:
        """The best units of each group, so many."""
        kept = np.ones(len(self.structure), bool)
        for group in self.groups:
            _keep_best(self.structure, group, count(group), self.scores, kept)
        for guard in self._guards:  # a tensor would be left without channels
            if not kept[guard].any():
                kept[guard[np.argmax(self.scores[guard])]] = True
        return kept

    def above(self, threshold: float) -> Kept:
        """The units that score at least so much, and never less than FLOOR of a group."""
        return self.with_counts(
            lambda group: max(float((self.scores[group.units] >= threshold).sum()), FLOOR * len(group.units))
        )

    def lowest(self, size: Callable[[Kept], float], limit: float) -> Kept | None:
        """The plan of the lowest threshold whose size is within the limit; None when that of the highest is not."""
        free = np.concatenate([group.units[self.structure.free[group.units]] for group in self.groups])
        cuts = np.unique(np.append(self.scores[free], np.inf))
        low, high = 0, len(cuts) - 1
        if size(self.above(np.inf)) > limit:
            return None
        while low < high:
            middle = (low + high) // 2
            if size(self.above(float(cuts[middle]))) <= limit:
                high = middle
            else:
                low = middle + 1
        return self.above(float(cuts[low]))

    def filled(self, kept: Kept, value: Floats, size: Callable[[Kept], float], limit: float) -> Kept:
        """A plan within the limit, filled up: the width that adds most `value`, float [units], for its cost, again and
        again (greedy knapsack), until FULL of it is used. Where no more fits, one group gives a step for others."""
        kept = self._added(kept, value, size, limit)
        for _ in range(EXCHANGES):
            now = size(kept)
            if now >= FULL * limit:
                break
            given = [self._added(less, value, size, limit) for _, less in self.narrower(kept)]
            better = [plan for plan in given if size(plan) > now]
            if not better:
                break
            full = [plan for plan in better if size(plan) >= FULL * limit]
            kept = max(full or better, key=lambda plan: value[plan].sum() if full else size(plan))
        return kept

    def _added(self, kept: Kept, value: Floats, size: Callable[[Kept], float], limit: float) -> Kept:
        while (now := size(kept)) < FULL * limit:
            best, most = None, -np.inf
            for wider in self._wider(kept):
                cost = size(wider) - now
                gain = float(value[wider & ~kept].sum()) / max(cost, 1e-9)
                if now + cost <= limit and gain > most:
                    best, most = wider, gain
            if best is None:
                break
            kept = best
        return kept

    def _wider(self, kept: Kept) -> Iterator[Kept]:
        """The plan with each group a step wider."""
        for group in self.groups:
            step, here = self._step(group), int(kept[group.units].sum())
            if here < len(group.units):
                yield self._with(kept, group, min(len(group.units), (here // step + 1) * step))

    def narrower(self, kept: Kept) -> Iterator[tuple[Group, Kept]]:
        """(Group, the plan with it a step narrower), for each group that may be."""
        for group in self.groups:
            step, here = self._step(group), int(kept[group.units].sum())
            fixed = int((~self.structure.free[group.units]).sum())
            fewer = (math.ceil(here / step) - 1) * step
            if fewer < max(step, fixed, FLOOR * len(group.units)):
                continue
            less = self._with(kept, group, fewer)
            if all(less[guard].any() for guard in self._guards):
                yield group, less

    def _step(self, group: Group) -> int:
        return max(1, self.options.round_to // math.gcd(self.options.round_to, group.width))

    def _with(self, kept: Kept, group: Group, count: int) -> Kept:
        made = kept.copy()
        made[group.units] = True
        _keep_best(self.structure, group, count, self.scores, made)
        return made
