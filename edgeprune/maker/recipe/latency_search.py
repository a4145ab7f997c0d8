"""Channel pruning down to a latency that is estimated for a device: the file that would ship decides, not a formula.

A share of the MACs is searched by bisection; each candidate is cut, exported and estimated like any other file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeprune.artifact import Format, Precision
from edgeprune.checker.latency.estimate import estimate_latency
from edgeprune.checker.latency.latency_targets import target_profile
from edgeprune.checker.latency.profiles import Profile
from edgeprune.converters.session import Converter
from edgeprune.errors import OutOfReach, Unsupported, UsageError
from edgeprune.formats import read_contents
from edgeprune.host.scratch import scratch_folder
from edgeprune.ledger import Estimate, LatencyReached
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.groups import Kept, Structure
from edgeprune.maker.pruning.channel.plan import macs_unknown
from edgeprune.maker.pruning.channel.pruner import ChannelPruner, ChannelResult
from edgeprune.maker.pruning.channel.rounds import Train, in_rounds
from edgeprune.maker.pruning.options import ChannelOptions
from edgeprune.maker.recipe.recipe import ChannelStep, Recipe
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.task import Task

__all__ = ["check_latency_targets", "covered_estimate", "latency_asked", "prune_to_latency", "refuse_unknown_macs"]

TRIALS = 9  # in each round
CLOSE = 0.02  # a latency this much (of itself) below the one asked for is near enough
FINEST = 0.005  # shares of the MACs nearer than this give the same widths
NARROWEST = 1 - 1e-9  # ratio that leaves each group one multiple of round_to

OnTrial = Callable[[int, int, str], None]  # trials done, at most to do, what they are


def latency_asked(options: ChannelOptions, profile: Profile) -> str:
    """The target in words: "latency 0.6 on pixel3-tflite-4t-float32"."""
    return f"{options.asked} on {profile.name}"


def check_latency_targets(recipe: Recipe, path: Path) -> None:
    """Raise Unsupported, before any training, where a profile of a step does not cover the model's file at `path`."""
    for step in recipe.steps:
        latency = step.options.latency if isinstance(step, ChannelStep) and step.options else None
        if isinstance(step, ChannelStep) and latency is not None and step.device is not None:
            try:
                covered_estimate(path, target_profile(latency, step.device))
            except Unsupported as cause:
                raise Unsupported(f"step {step.name!r}: {cause}") from cause


def refuse_unknown_macs(structure: Structure) -> None:
    """Raise UsageError for a model whose MACs are not known: the search goes by them."""
    if macs_unknown(structure):
        raise UsageError(
            "latency cannot be a target: its search goes by MACs, and the model leaves sizes open, or has layers that "
            "are not followed (edgeprune groups lists them); ask for ratio or parameters"
        )


def covered_estimate(path: Path, profile: Profile) -> Estimate:
    """The estimate of a file. Raises Unsupported when it has no milliseconds, InputError as `estimate_latency` does."""
    found = estimate_latency(read_contents(path), profile)
    if found.total_ms is None:
        raise Unsupported(f"latency cannot be a target: {found.refused}")
    return found


def _ms(found: Estimate) -> float:
    assert found.total_ms is not None  # covered_estimate
    return found.total_ms


def prune_to_latency(
    model: Model,
    options: ChannelOptions,
    profile: Profile,
    *,
    converter: Converter,
    rounds: int = 1,
    samples: Samples | None = None,
    task: Task | None = None,
    verify: bool = True,
    train: Train | None = None,
    structure: Structure | None = None,
    on_trial: OnTrial | None = None,
) -> ChannelResult:
    """The widest model found whose float32 .tflite takes at most `options.latency` of the model's estimated latency.

    `profile` is that of `target_profile`. With `rounds` each one keeps the same share of the latency, the last one ends
    at the target, and `train` is as for `prune_in_rounds`. `structure` is what
    `analyse` found of the model, where that was done before. The report holds the estimates before and after. Raises
    OutOfReach for a share that cannot be reached, UsageError as `prune_channels` does, and Unsupported when the profile
    does not cover the model.
    """
    share = options.latency
    if share is None:
        raise UsageError(f"the target is {options.asked}, and no latency: prune_channels goes by that")
    with scratch_folder() as folder:
        estimates = _Estimates(converter, folder, profile)
        before = now = estimates.of(model)

        def cut(current: Model, number: int) -> ChannelResult:
            nonlocal now
            known = structure if number == 1 else None
            pruner = ChannelPruner(current, options, samples=samples, task=task, structure=known)
            refuse_unknown_macs(pruner.structure)
            search = _Search(pruner, options, estimates, share=share, base_ms=_ms(before), number=number, rounds=rounds)
            found = search.widest(now, on_trial)
            now = found.estimate
            return pruner.result(found.kept, pruner.cut(found.kept), options, verify=verify)

        result = in_rounds(model, cut, options, rounds=rounds, train=train)
    reached = LatencyReached(asked=share, before=before, after=now, ratio=_ms(now) / _ms(before))
    report = replace(result.report, asked=latency_asked(options, profile), estimated_latency=reached)
    return replace(result, report=report)


class _Estimates:
    """Exports models and estimates them."""

    def __init__(self, converter: Converter, folder: Path, profile: Profile) -> None:
        self.converter, self.profile = converter, profile
        self._path = folder / "model.tflite"

    def of(self, model: Model) -> Estimate:
        """The estimate of the model's float32 file. Raises Unsupported when there is none."""
        self.converter.export(model, self._path, Format.TFLITE, Precision.FLOAT32)
        self.converter.forget(model)
        try:
            return covered_estimate(self._path, self.profile)
        finally:
            self._path.unlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """A plan, and the estimate of the file of its model."""

    kept: Kept
    estimate: Estimate

    @property
    def total_ms(self) -> float:
        return _ms(self.estimate)


class _Search:
    """Looks among the cuts of one model in one round; shares are of `base_ms`, the latency before all rounds."""

    def __init__(
        self,
        pruner: ChannelPruner,
        options: ChannelOptions,
        estimates: _Estimates,
        *,
        share: float,
        base_ms: float,
        number: int,
        rounds: int,
    ) -> None:
        self.pruner, self.options, self.estimates = pruner, options, estimates
        self.share, self.base_ms, self.number, self.rounds = share, base_ms, number, rounds
        self._known: dict[bytes, Estimate] = {}  # widths are rounded: shares that are near give the same plan

    def widest(self, now: Estimate, on_trial: OnTrial | None) -> _Trial:
        """The widest cut within this round's part; `now` is the estimate of the model to cut. Raises OutOfReach."""
        if self.rounds > 1 and self.number == 1:
            self._refuse_out_of_reach()  # before the first training, not after the last
        part = self.share ** (self.number / self.rounds)
        limit_ms = part * self.base_ms
        if _ms(now) <= limit_ms:  # rounded widths went further than the last round had to go
            return _Trial(kept=np.ones(len(self.pruner.structure), bool), estimate=now)
        best, least_ms = self._bisected(limit_ms, _ms(now), on_trial)
        if best is None:
            asks = f"round {self.number} of {self.rounds} asks for {part:.3f}, and " if self.rounds > 1 else ""
            raise self._out_of_reach(f"{asks}the least that was found is {least_ms / self.base_ms:.3f}")
        return best

    def _bisected(self, limit_ms: float, now_ms: float, on_trial: OnTrial | None) -> tuple[_Trial | None, float]:
        """(The widest cut within the limit, if one was found; the least latency that was)."""
        text = "exports tried" + (f" in round {self.number} of {self.rounds}" if self.rounds > 1 else "")
        low, high, macs = 0.0, 1.0, limit_ms / now_ms
        best: _Trial | None = None
        least_ms = now_ms
        for number in range(TRIALS):
            if on_trial is not None:
                on_trial(number, TRIALS, text)
            found = self._attempt(macs)
            if found is not None:
                least_ms = min(least_ms, found.total_ms)
            if found is None or found.total_ms <= limit_ms:
                low = macs
                best = found if found and (best is None or found.total_ms > best.total_ms) else best
            else:
                high = macs
            if high - low < FINEST or (best is not None and best.total_ms >= (1 - CLOSE) * limit_ms):
                break
            macs = (low + high) / 2
        return best, least_ms

    def _refuse_out_of_reach(self) -> None:
        """Raise OutOfReach for a share that no cut reaches, in however many rounds."""
        narrowest = self._tried(replace(self.options, latency=None, ratio=NARROWEST, scope="layer"))
        if narrowest.total_ms > self.share * self.base_ms:
            least = narrowest.total_ms / self.base_ms
            raise self._out_of_reach(f"with the fewest channels that may stay it is {least:.3f}")

    def _attempt(self, macs: float) -> _Trial | None:
        """The cut to this share of the MACs; None when so few cannot be reached."""
        try:
            return self._tried(replace(self.options, latency=None, macs=macs))
        except OutOfReach:
            return None

    def _tried(self, options: ChannelOptions) -> _Trial:
        kept = self.pruner.plan(options)
        key = kept.tobytes()
        if key not in self._known:
            self._known[key] = self.estimates.of(self.pruner.cut(kept))
        return _Trial(kept=kept, estimate=self._known[key])

    def _out_of_reach(self, nearest: str) -> OutOfReach:
        return OutOfReach(
            f"latency = {self.share:g} cannot be reached on {self.estimates.profile.name}: {nearest}; ask for more, or "
            "set round_to = 1"
        )
