"""What widths come to in a file, told before the file is made: a line through files of random widths.

Milliseconds are no share of the MACs: a first convolution on a large image takes many times what its MACs say, and
each element that a layer writes costs time of its own. So a few files of random widths are made once, weighed and
timed, and their bytes and latencies are explained by what Structure counts: MACs and elements written of each kind of
kernel, parameters, channels. It is a guide for the choice of widths; what it chooses is made and judged as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeprune.checker.latency.kernels import Kind
from edgeprune.maker.pruning.channel.groups import Group, Kept, Structure
from edgeprune.maker.pruning.channel.trace import Weight
from edgeprune.maker.pruning.channel.widths import rounded

__all__ = ["Costs", "fit_costs", "random_widths", "work_of"]

KINDS = (Kind.SPATIAL, Kind.POINTWISE, Kind.DEPTHWISE, Kind.FULLY_CONNECTED)
NARROWEST, WIDEST = 0.2, 0.8  # shares of the channels in random widths
SPREAD = 0.3  # from group to group
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Lines for one precision: the share of the dense latency and the bytes of the download, each a sum over the
    numbers of `work_of`; `error` is the mean relative error of the latencies that they were drawn through."""

    structure: Structure
    latency: Floats
    download: Floats
    error: float

    def latency_of(self, kept: Kept) -> float:
        """The share of the dense model's latency."""
        return float(work_of(self.structure, kept) @ self.latency)

    def download_of(self, kept: Kept) -> float:
        """Bytes of the download."""
        return float(work_of(self.structure, kept) @ self.download)


def work_of(structure: Structure, kept: Kept) -> Floats:
    """1, parameters, channels, then MACs and elements written of each of KINDS, for one sample; float [3 + 2 kinds]."""
    found = np.zeros(3 + 2 * len(KINDS))
    found[:2] = 1, structure.cost(kept).parameters
    for weight, shape in zip(structure.weights, structure.shapes(kept), strict=True):
        if not weight.positions:
            continue
        kind = _kind(weight)
        taken = shape[-2:] if kind is Kind.DEPTHWISE else [shape[-1 if weight.made_axis is None else weight.made_axis]]
        channels, place = float(np.prod(taken)), 3 + 2 * KINDS.index(kind)
        found[2] += channels
        found[place] += weight.positions * float(np.prod(shape))
        found[place + 1] += weight.positions * channels
    return found


def _kind(weight: Weight) -> Kind:
    shape = weight.variable.shape
    if "depthwise" in f"{type(weight.layer).__name__} {weight.name}".lower():
        return Kind.DEPTHWISE
    if len(shape) < 3:
        return Kind.FULLY_CONNECTED
    return Kind.SPATIAL if np.prod(shape[:-2]) > 1 else Kind.POINTWISE


def random_widths(structure: Structure, groups: Sequence[Group], round_to: int, count: int, *, seed: int) -> list[Kept]:
    """So many plans whose groups keep different shares of their units."""
    numbers, plans = np.random.default_rng(seed), []
    for _ in range(count):
        share, kept = numbers.uniform(NARROWEST, WIDEST), np.ones(len(structure), bool)
        for group in groups:
            wanted = np.clip(share + numbers.normal(0, SPREAD), 0, 1) * len(group.units)
            free = group.units[structure.free[group.units]]
            stays = rounded(group, float(wanted), round_to, len(group.units) - len(free))
            kept[numbers.permutation(free)[: len(group.units) - stays]] = False
        for guard in structure.guards():
            kept[guard[0]] |= not kept[guard].any()
        plans.append(kept)
    return plans


def fit_costs(structure: Structure, plans: Sequence[Kept], latency: Floats, download: Floats) -> Costs:
    """The lines through the latencies [plans] and the bytes [plans] of files of these widths."""
    work = np.array([work_of(structure, kept) for kept in plans])
    size, time = np.zeros(work.shape[1], bool), np.ones(work.shape[1], bool)
    size[:3], time[1:3] = True, False
    line = _line(work, latency, time)
    error = float(np.mean(np.abs(work @ line / latency - 1)))
    return Costs(structure=structure, latency=line, download=_line(work, download, size), error=error)


def _line(work: Floats, values: Floats, looked_at: npt.NDArray[np.bool_]) -> Floats:
    """Coefficients, none below zero, of least squares on relative errors; those that would be negative are left out
    one at a time, the worst first."""
    scale = np.maximum(work.mean(axis=0), 1e-30)
    columns = looked_at & (work.max(axis=0) > 0)
    while True:
        found = np.zeros(work.shape[1])
        scaled = work[:, columns] / scale[columns] / values[:, None]
        found[columns] = np.linalg.lstsq(scaled, np.ones(len(values)), rcond=None)[0]
        if found.min() >= 0:
            return found / scale
        columns[np.argmin(found)] = False
