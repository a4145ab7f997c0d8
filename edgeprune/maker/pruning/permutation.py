"""The order of channels that keeps most of an N:M pattern.

Pool & Yu 2021, Channel Permutations for N:M Sparsity, NeurIPS.

Greedy: in each round every channel is tried in the place of every other one of another group of M, and the best swaps
that share no group are made, until none gains. What a swap gains is known from sums of maxima, without a sort: a group
without its channel i, but with x, keeps the N - 1 largest others and the larger of x and the N-th of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.formats.pattern import Pattern

__all__ = ["COMPARISONS", "best_order", "kept_sum"]

COMPARISONS = 16_000_000_000  # of all searches in a model: under a minute of one core
ROUNDS = 60
FULL_ROUNDS = 6  # a search costs about as much as so many rounds that compare all pairs
COLUMNS = 64  # at least so many outputs are looked at, however many channels there are
GAIN = 1e-6  # of what is kept: swaps that gain less are rounding
Floats = npt.NDArray[np.float32]
Order = npt.NDArray[np.int64]


def kept_sum(importance: npt.NDArray[Any], pattern: Pattern) -> float:
    """The sum of what a pattern keeps of [.., inputs, outputs], consecutive inputs in groups; nothing is negative."""
    groups = importance.reshape(-1, pattern.m, importance.shape[-1])
    cut = pattern.m - pattern.n
    return float(np.partition(groups, cut, axis=1)[:, cut:].sum(dtype=np.float64))


def best_order(importance: Floats, pattern: Pattern, *, comparisons: float = COMPARISONS, seed: int = 0) -> Order:
    """An order of the rows of [channels, outputs] that keeps more than the given one, or that where none was found.

    `pattern.m` divides the channels; the same numbers give the same order.

    Of many outputs so many are drawn that the search stays within so many `comparisons` of two numbers.
    """
    channels, outputs = importance.shape
    order: Order = np.arange(channels)
    if channels <= pattern.m:
        return order
    seen = int(min(max(comparisons // (FULL_ROUNDS * channels**2), COLUMNS), outputs))
    drawn = np.sort(np.random.default_rng(seed).choice(outputs, seen, replace=False))
    search = _Search(np.ascontiguousarray(importance[:, drawn], np.float32), pattern, comparisons)
    found = search.run(order)
    better = kept_sum(importance[found], pattern) > kept_sum(importance, pattern) * (1 + GAIN)
    return found if better else order


class _Search:
    """The gains of all swaps; those of groups that did not change are kept from round to round."""

    def __init__(self, importance: Floats, pattern: Pattern, comparisons: float) -> None:
        self.importance, self.pattern, self.comparisons = importance, pattern, comparisons
        channels = len(importance)
        self.gains = np.zeros((channels, channels), np.float32)  # of putting channel j into the place of i
        self.spent = 0

    def run(self, order: Order) -> Order:
        m = self.pattern.m
        changed: Iterable[int] = range(len(order) // m)
        for _ in range(ROUNDS):
            self._renew(order, changed)
            swaps = self._swaps(order)
            if not swaps or self.spent > self.comparisons:
                break
            order = order.copy()
            for a, b in swaps:
                order[a], order[b] = order[b], order[a]
            changed = sorted({place // m for swap in swaps for place in swap})
        return order

    def _renew(self, order: Order, changed: Iterable[int]) -> None:
        """The gains of the channels in these groups, row by row."""
        m, n, values = self.pattern.m, self.pattern.n, self.importance
        buffer = np.empty_like(values)
        ones = np.ones(values.shape[1], np.float32)
        for group in changed:
            members = order[group * m : (group + 1) * m]
            ranked = np.sort(values[members], axis=0)  # the smallest first
            nth, next_one = ranked[m - n], ranked[m - n - 1]
            for channel in members:
                own = values[channel]
                other = np.where(own >= nth, next_one, nth)  # the N-th of the group without this channel
                np.maximum(other, values, out=buffer)
                self.gains[channel] = buffer @ ones - np.maximum(own, nth).sum()
                self.spent += buffer.size

    def _swaps(self, order: Order) -> list[tuple[int, int]]:
        """Places to swap, the most gain first, each group in one swap at most."""
        m = self.pattern.m
        gains = self.gains[np.ix_(order, order)]
        gains = gains + gains.T
        group = np.arange(len(order)) // m
        gains[group[:, None] == group[None, :]] = -np.inf
        best = np.argmax(gains, axis=1)
        gained = gains[np.arange(len(order)), best]
        least = GAIN * float(self.importance.sum(dtype=np.float64)) / len(order)
        taken: set[int] = set()
        swaps = []
        for place in np.argsort(-gained, kind="stable"):
            if gained[place] <= least:
                break
            pair = int(place), int(best[place])
            groups = {pair[0] // m, pair[1] // m}
            if not groups & taken:
                taken |= groups
                swaps.append(pair)
        return swaps
