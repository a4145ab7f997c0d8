"""Remove dead channels with the outputs unchanged: channels that hold the same number whatever the input.

Where a layer reads a dead channel, its share is a constant: 0, or a number that moves exactly into the layer's bias or
into the mean of the batch normalisation behind it. Published models carry such channels: weight decay drives a scale
to zero, or a rectifier never opens.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeprune.ledger import ChannelReport
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.groups import Kept, Structure
from edgeprune.maker.pruning.channel.pruner import ChannelResult, analyse, kept_of, report_of
from edgeprune.maker.pruning.channel.ranges import ranges_of
from edgeprune.maker.pruning.channel.surgery import Shifts, can_fold, cut
from edgeprune.maker.pruning.channel.verification import checked

__all__ = ["dead_units", "prune_dead"]

TOLERANCE = 1e-4  # relative error of the outputs: float32 rounding through a deep network
WIDTH = 1e-9  # a channel that varies by less, relative to 1 or its value, is a constant in float32


def dead_units(structure: Structure) -> tuple[Kept, Shifts]:
    """(Units that stay, bool [units]; what the channels hold where each layer reads them, by id of the layer)."""
    kept = ~structure.free
    dead = structure.free.copy()
    for labels in structure.trace.internal:  # a recurrent unit also feeds its layer, a head is read inside it
        units = structure.units(labels)
        dead[units[units >= 0]] = False
    ranges = ranges_of(structure.trace.model)
    held: dict[int, npt.NDArray[np.float64]] = {}
    for read in structure.trace.reads:
        if not read.sums:
            continue
        units = structure.units(read.labels)
        found = ranges.get(id(read.tensor))  # None inside TimeDistributed
        low, high = found.line(read.axis, len(units)) if found else (np.full(len(units), -np.inf),) * 2
        constant = np.isfinite(low)
        constant[constant] = high[constant] - low[constant] <= WIDTH * np.maximum(1.0, np.abs(low[constant]))
        value = np.where(constant, low, 0.0)
        free_of_cost = constant & (value == 0)
        if read.kernel is not None:
            kernel = np.asarray(read.kernel)
            unread = ~kernel.reshape(-1, *kernel.shape[-2:]).any(axis=(0, 2))
            free_of_cost |= unread
            if can_fold(structure.trace, read) and structure.trace.calls.get(id(read.layer)) == 1:
                free_of_cost |= constant
                held[id(read.layer)] = value
        stuck = units[~free_of_cost & (units >= 0)]
        dead[stuck] = False
    kept = kept | ~dead
    for guard in structure.guards():
        if not kept[guard].any():
            kept[guard[0]] = True
    return kept, held


def prune_dead(model: Model, *, structure: Structure | None = None) -> ChannelResult:
    """A new model without its dead channels; the outputs stay what they are, up to float32 rounding.

    `structure` is what `analyse` found of the model, where that was done before. Raises Unsupported for a subclassed
    model and EdgepruneError when the outputs change on random inputs.
    """
    structure = analyse(model) if structure is None else structure
    kept, held = dead_units(structure)
    pruned = cut(structure, kept, held)
    error, note = checked(model, pruned, TOLERANCE, "those of the model itself")
    report: ChannelReport = report_of(structure, kept, asked="dead channels", error=error, note=note)
    return ChannelResult(model=pruned, report=report, kept=kept_of(structure, kept))
