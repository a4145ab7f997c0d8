"""Channels that do nothing on real input: each becomes its mean, while every output stays what it was.

Networks that were trained with a strong weight decay hold channels whose variation never reaches an output. The least
effect goes first; effects add up in ways that no formula tells, so the outputs on samples decide, and others that were
not looked at confirm.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeprune.errors import UsageError
from edgeprune.ledger import HarmlessReport
from edgeprune.maker.keras.models import clone, predict, predictor
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.groups import Kept, Structure
from edgeprune.maker.pruning.channel.observe import channel_moments
from edgeprune.maker.pruning.channel.plan import chosen_groups
from edgeprune.maker.pruning.channel.pruner import ChannelResult, analyse, kept_of, report_of, surgery_error
from edgeprune.maker.pruning.channel.surgery import Shifts, bias_shifts, cut, zeroed
from edgeprune.maker.pruning.channel.verification import relative_difference
from edgeprune.maker.pruning.channel.widths import Widths
from edgeprune.maker.pruning.options import ChannelOptions
from edgeprune.maker.training.data.samples import Samples

__all__ = ["prune_harmless"]

LOOKED_AT, CHECKED = 512, 512  # samples
FAILURES = 6  # channels that change an output too much, until no more are tried
STRICTER = 4  # times: half the tolerance each, where samples that were not looked at depart further
Floats = npt.NDArray[np.float64]


def prune_harmless(
    model: Model,
    options: ChannelOptions,
    *,
    samples: Samples | None,
    structure: Structure | None = None,
    verify: bool = True,
) -> ChannelResult:
    """A new model without the channels that do nothing on samples; `options.harmless` is how far outputs may depart.

    `structure` is what `analyse` found of the model, where that was done before. Raises UsageError without samples, and
    as `prune_channels`.
    """
    if samples is None or len(samples) < 2:
        raise UsageError("harmless looks at training samples: give some")
    structure = analyse(model, through_norms=options.through_norms) if structure is None else structure
    search = _Search(structure, options, samples)
    kept, found = search.kept()
    altered, error, note = surgery_error(structure, kept, verify=verify)
    report = report_of(
        structure,
        kept,
        asked=options.asked,
        skipped=chosen_groups(structure, options)[1],
        altered=altered,
        error=error,
        note=note,
    )
    made = cut(structure, kept, search.means)
    return ChannelResult(model=made, report=replace(report, harmless=found), kept=kept_of(structure, kept))


class _Search:
    """Looks for the channels of one model that can go."""

    def __init__(self, structure: Structure, options: ChannelOptions, samples: Samples) -> None:
        self.structure, self.options = structure, options
        order = np.random.default_rng(options.seed).permutation(len(samples))
        half = min(LOOKED_AT, len(samples) // 2)
        self.seen, self.others = samples.rows(order[:half]), samples.rows(order[half : half + CHECKED])
        moments = channel_moments(structure, self.seen)
        self.means: Shifts = {key: mean for key, (mean, _) in moments.items()}
        self.effects = _effects(structure, moments)
        groups = chosen_groups(structure, options)[0]
        self.widths = Widths(structure, options, groups, self.effects)
        chosen = np.concatenate([np.zeros(0, np.int64), *(group.units for group in groups)])
        able = chosen[structure.free[chosen] & np.isfinite(self.effects[chosen])]
        self.order = able[np.argsort(self.effects[able], kind="stable")]
        self._trials = _Trials(structure, self.means)
        self._expected = [predict(structure.trace.model, each.inputs) for each in (self.seen, self.others)]

    def kept(self) -> tuple[Kept, HarmlessReport]:
        """(Units that stay, bool [units]; how far the outputs depart)."""
        tolerance = self.options.harmless
        assert tolerance is not None
        for number in range(STRICTER):
            kept = self._longest(tolerance / 2**number)
            errors = self._error(kept, 0), self._error(kept, 1)
            if max(errors) <= tolerance:
                break
        else:
            kept, errors = np.ones(len(self.structure), bool), (0.0, 0.0)
        return kept, HarmlessReport(
            tolerance=tolerance,
            looked_at=len(self.seen),
            looked_at_error=errors[0],
            checked=len(self.others),
            checked_error=errors[1],
        )

    def _longest(self, tolerance: float) -> Kept:
        """As many as can go on the samples that are looked at: runs of them are tried, and halved where they fail."""
        gone, start, step, failures = self.order[:0], 0, 8, 0
        kept = self._without(gone)
        while start < len(self.order) and failures < FAILURES:
            more = np.append(gone, self.order[start : start + step])
            tried = self._without(more)
            if np.array_equal(tried, kept) or self._tried_error(tried) <= tolerance:
                gone, kept, start, step = more, tried, start + step, 2 * step
            elif step > 1:
                step //= 2
            else:
                start, failures = start + 1, failures + 1
        return kept

    def _without(self, gone: npt.NDArray[np.int64]) -> Kept:
        """What stays when these go, in widths that are multiples: of what could go, the most effect fills them up."""
        going = np.zeros(len(self.structure), bool)
        going[gone] = True
        ranked = Widths(self.structure, self.options, self.widths.groups, np.where(going, self.effects, np.inf))
        return ranked.with_counts(lambda group: float((~going[group.units]).sum()), up=True)

    def _error(self, kept: Kept, place: int) -> float:
        if kept.all():
            return 0.0
        samples, expected = (self.seen, self.others)[place], self._expected[place]
        made = predict(cut(self.structure, kept, self.means), samples.inputs)
        return relative_difference(expected, made)

    def _tried_error(self, kept: Kept) -> float:
        return relative_difference(self._expected[0], self._trials.outputs(kept, self.seen))


class _Trials:
    """What the model computes without some units, by zeros in one copy of it: no new model is built for a trial."""

    def __init__(self, structure: Structure, means: Shifts) -> None:
        self.structure, model = structure, structure.trace.model
        folds = structure.trace.folds  # what a channel holds once the weights that make it are zero
        self.shifts = {key: mean - folds.get(key, 0.0) for key, mean in means.items()}
        self.weights = [np.asarray(weight) for weight in model.weights]
        self.places = {id(weight): place for place, weight in enumerate(model.weights)}
        self.copy = clone(model)
        self.outputs_of = predictor(self.copy)

    def outputs(self, kept: Kept, samples: Samples) -> dict[str, np.ndarray]:
        """The outputs for samples when only these units stay."""

        def shifted(_: Model) -> Model:
            values = list(self.weights)
            for variable, shift in bias_shifts(self.structure, kept, self.shifts):
                place = self.places[id(variable)]
                values[place] = values[place] + shift
            self.copy.set_weights(values)
            return self.copy

        zeroed(self.structure, kept, shifted)
        return self.outputs_of(samples.inputs)


def _effects(structure: Structure, moments: dict[int, tuple[Floats, Floats]]) -> Floats:
    """About how much of what its readers make varies with each unit, float [units]: the largest share of a reader's
    variance. Infinite for units whose mean cannot move into a bias."""
    effects = np.where(structure.free, 0.0, np.inf)
    for labels in structure.trace.internal:  # a recurrent unit also feeds its layer, a head is read inside it
        units = structure.units(labels)
        effects[units[units >= 0]] = np.inf
    for read in structure.trace.reads:
        units, known = structure.units(read.labels), moments.get(id(read.layer))
        if not read.sums:
            continue
        if read.kernel is None or known is None:
            effects[units[units >= 0]] = np.inf
            continue
        kernel = np.asarray(read.kernel, np.float64)
        power = np.square(kernel).reshape(-1, *kernel.shape[-2:]).sum(axis=(0, 2))
        mean, variance = known
        # Padding is no mean: what a removed channel adds at the borders is another number than inside.
        varies = power * (variance + (0.25 * mean**2 if read.pads else 0.0))
        share = varies / max(float(varies.sum()), 1e-30)
        np.maximum.at(effects, units[units >= 0], share[units >= 0])
    return effects
