"""What a search does with a candidate: weigh its widths, and make and judge the file that would ship."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from edgeprune.artifact import Precision
from edgeprune.host.progress import Progress
from edgeprune.host.scratch import scratch_folder
from edgeprune.maker.keras.models import count_parameters
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.groups import Group
from edgeprune.maker.pruning.channel.plan import Use, chosen_groups
from edgeprune.maker.pruning.channel.pruner import ChannelPruner
from edgeprune.maker.pruning.options import ChannelOptions
from edgeprune.maker.recipe.recipe import recipe_of_text
from edgeprune.maker.recipe.stages import Record
from edgeprune.maker.recipe.steps import QuantizeStep
from edgeprune.maker.search.asked import ShrinkOptions
from edgeprune.maker.search.candidates import HARMLESS, ROUND_TO, Candidate, channel_target, steps_of
from edgeprune.maker.search.costs import Costs, fit_costs, random_widths
from edgeprune.maker.search.executors import Job
from edgeprune.maker.search.recipe_trials import ModelRun, RecipeTrials, weighed
from edgeprune.maker.training.features import teaches_by_features
from edgeprune.maker.training.loop import steps_per_epoch
from edgeprune.points import Aims, Point
from edgeprune.units import format_bytes

__all__ = ["Attempt", "Judged", "Shape", "Trials"]

SAMPLED = 18  # files of random widths, whose latencies are explained
FEW = 16  # samples for the ranges of an int8 file that nobody looks at
SAMPLED_SHARE = 0.1  # of the time, at most
TRUSTED = 0.1  # mean relative error of a line that is gone by
COARSE = 0.08  # of the latency that is asked for
ROUND_STEPS = 150  # of training, about, behind which candidates can be told apart
Steps = list[dict[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the widths of a candidate come to, before any training. `latency` is None where none is asked for."""

    download_bytes: int
    parameters: int
    macs: int | None
    latency: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A point, the recipe's steps that lead to it, its file, what an epoch of its training took, and how far the file's
    answers are from the dense model's."""

    candidate: Candidate
    steps: Steps
    point: Point
    file: Path
    epoch_s: float
    strayed: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A candidate and how it is trained; `quantize` are keys of its quantize step."""

    candidate: Candidate
    tuned: tuple[int, ...]
    recovered: int = 0
    quantize: Mapping[str, object] = field(default_factory=dict)


@dataclass(kw_only=True)
class Trials(RecipeTrials):
    """Carries out the trials of a search for `asked`. `text_of` makes a recipe, as it stands at `place`, out of
    steps."""

    asked: ShrinkOptions
    text_of: Callable[[Steps], str]
    place: Path
    _pruners: dict[tuple[bool, str], ChannelPruner] = field(default_factory=dict)
    _costs: dict[tuple[bool, Precision], Costs | None] = field(default_factory=dict)

    @cached_property
    def _teaches(self) -> bool:
        return teaches_by_features(self.prepared.model)

    @property
    def _batches(self) -> int:
        assert self.prepared.train is not None
        return steps_per_epoch(len(self.prepared.train), self.asked.batch_size)

    @property
    def round_epochs(self) -> int:
        """Epochs of a round of training: several where samples are so few that one tells nothing."""
        return max(1, round(ROUND_STEPS / self._batches))

    def idle(self) -> bool:
        """Whether the model has channels that do nothing."""
        _, run = self.model_of([HARMLESS])
        return bool(run.removed)

    def model_of(self, steps: Steps) -> tuple[Model, ModelRun]:
        """The model behind steps, and what was done."""
        recipe = recipe_of_text(self.place, self.text_of(steps))
        run = self.run_of(replace(self.prepared, recipe=recipe))
        return run.model(), run

    def shape(self, candidate: Candidate) -> Shape:
        """What the candidate's widths come to: the file, made without training, weighed and timed."""
        told = [candidate.idle, channel_target(candidate), str(candidate.precision)]

        def make(key: str) -> Record:
            self.progress.begin(f"weigh {candidate.name}")
            model = self._cut(candidate)
            path = self.store.path(key, ".tflite")
            quantize = QuantizeStep() if candidate.precision is Precision.INT8 else None
            made = self.files().made(model, path, candidate.precision, quantize).made
            self.converter.forget(model)
            found = {**weighed(made), "parameters": count_parameters(model), "key": key}
            self.progress.end(format_bytes(found["download_bytes"]))
            return found

        record = self.store.once("shape", told, make)
        return Shape(
            download_bytes=record["download_bytes"],
            parameters=record["parameters"],
            macs=record["macs"],
            latency=self.latency(record["key"], candidate.precision),
        )

    def steps(self, attempt: Attempt) -> Steps:
        """The steps of a candidate's recipe."""
        tuned = tuple(self.round_epochs * count for count in attempt.tuned)
        how = (self.asked, self.round_epochs, tuned, attempt.recovered)
        steps = steps_of(attempt.candidate, *how, features=self._teaches)
        if attempt.candidate.precision is Precision.INT8:
            steps.append({"kind": "quantize", **attempt.quantize})
        return steps

    def job(self, attempt: Attempt, number: int) -> Job:
        """The same for whoever carries it out."""
        return Job(number=number, recipe=self.text_of(self.steps(attempt)), precision=str(attempt.candidate.precision))

    def judged(self, attempt: Attempt, *, stage: str, since: tuple[float, float]) -> Judged:
        """The file of a candidate after so much training, judged; `since` is what was spent before it."""
        candidate, steps = attempt.candidate, self.steps(attempt)
        record = self.made(recipe_of_text(self.place, self.text_of(steps)), candidate.precision)
        point = Point(
            candidate=candidate.name,
            stage=stage,
            precision=str(candidate.precision),
            epochs=self.round_epochs * (candidate.narrows + bool(candidate.sparsity) + sum(attempt.tuned))
            + attempt.recovered,
            latency=self.shape(candidate).latency,
            **self.facts(record, since),
        )
        return Judged(
            candidate=candidate,
            steps=steps,
            point=point,
            file=self.store.path(record["key"], ".tflite"),
            strayed=record["strayed"],
            epoch_s=self._batches * (record["batch_s"] or 0.0),
        )

    def _cut(self, candidate: Candidate) -> Model:
        """The model with the candidate's widths, untrained."""
        if not candidate.narrows:
            return self.model_of([HARMLESS] if candidate.idle else [])[0]
        pruner = self._pruner(candidate)
        return pruner.cut(pruner.plan(self._target(candidate)))

    def _pruner(self, candidate: Candidate) -> ChannelPruner:
        key = (candidate.idle, candidate.importance)
        if key not in self._pruners:
            base, _ = self.model_of([HARMLESS] if candidate.idle else [])
            options = self._options(candidate)
            self._pruners[key] = ChannelPruner(base, options, samples=self.prepared.train, task=self.prepared.task)
        return self._pruners[key]

    def _target(self, candidate: Candidate) -> ChannelOptions:
        """Those that say which channels of a candidate stay."""
        return ChannelOptions(**channel_target(candidate), seed=self.asked.seed)  # type: ignore[arg-type]

    def _options(self, candidate: Candidate) -> ChannelOptions:
        """Those of a plan that has targets of its own."""
        return ChannelOptions(ratio=0.5, importance=candidate.importance, round_to=ROUND_TO, seed=self.asked.seed)

    def costs(self, candidate: Candidate) -> Costs | None:
        """What widths come to in files of the candidate's precision; None where that cannot be told: no latency is
        asked for, a file takes too long to make, names of groups are not unique, or the line is too far off."""
        key = (candidate.idle, candidate.precision)
        if key not in self._costs:
            self._costs[key] = self._find_costs(candidate) if self.timed else None
        return self._costs[key]

    def _find_costs(self, candidate: Candidate) -> Costs | None:
        pruner = self._pruner(candidate)
        structure = pruner.structure
        groups, _ = chosen_groups(structure, self._options(candidate))
        if len({group.name for group in groups}) < len(groups):
            return None
        plans = random_widths(structure, groups, ROUND_TO, SAMPLED, seed=0)

        def make(_: str) -> Record:
            cut = map(pruner.cut, plans)
            with scratch_folder() as folder:
                sizes, files = self._sampled(cut, candidate.precision, folder)
                latency = self.trend(files, candidate.precision) if files else np.zeros(0)
            self.progress.end()
            return {"latency": [round(float(each), 5) for each in latency], "download_bytes": sizes}

        groups_told = [(group.name, len(group.units)) for group in groups]  # idle channels differ from seed to seed
        told = [groups_told, ROUND_TO, SAMPLED, str(candidate.precision), self.device]
        record = self.store.once("costs", told, make)
        if not record["latency"]:
            return None
        dense = self.dense_file(candidate.precision)["download_bytes"]
        every = [*plans, np.ones(len(structure), bool)]
        found = fit_costs(
            structure, every, np.array([*record["latency"], 1.0]), np.array([*record["download_bytes"], dense])
        )
        return found if found.error <= TRUSTED else None

    def _sampled(self, models: Iterable[Model], precision: Precision, folder: Path) -> tuple[list[int], list[Path]]:
        """(Bytes of the download, file) of each of SAMPLED models; nothing where that would take too long."""
        self.progress.begin(f"what widths cost as {precision}: {SAMPLED} files of random ones")
        quiet = replace(self.files(), progress=Progress(quiet=True))
        quantize = QuantizeStep(samples=FEW) if precision is Precision.INT8 else None
        sizes, files, begun = list[int](), list[Path](), time.monotonic()
        for number, model in enumerate(models, start=1):
            files.append(folder / f"{number}.tflite")
            sizes.append(weighed(quiet.made(model, files[-1], precision, quantize).made)["download_bytes"])
            self.converter.forget(model)
            self.progress.advance(number, SAMPLED)
            if number == 1 and (time.monotonic() - begun) * SAMPLED > SAMPLED_SHARE * self.asked.time_s:
                return [], []
        return sizes, files

    def planned(self, candidate: Candidate, aims: Aims, able: float = 1.0) -> Candidate:
        """A candidate of the cost "targets" with its widths; its download may be `able` times what is asked for.
        Raises OutOfReach."""
        pruner, costs = self._pruner(candidate), self.costs(candidate)
        assert costs is not None
        uses: list[Use] = []
        if aims.latency is not None:
            latency = candidate.share * aims.latency
            uses.append(lambda kept: costs.latency_of(kept) / latency)
        if aims.download_bytes is not None:
            room = candidate.share * able * aims.download_bytes
            uses.append(lambda kept: costs.download_of(kept) / room)
        options = self._options(candidate)
        kept = pruner.within(options, uses, dict(candidate.most))
        widths = [(group.name, int(kept[group.units].sum()) * group.width) for group in self._groups(candidate)]
        return replace(candidate, widths=tuple(widths))

    def worth(self, candidate: Candidate) -> float:
        """The importance of the channels that stay, to be held against that of another candidate that goes by it."""
        pruner = self._pruner(candidate)
        return pruner.worth(pruner.plan(self._target(candidate)))

    def _groups(self, candidate: Candidate) -> list[Group]:
        return chosen_groups(self._pruner(candidate).structure, self._options(candidate))[0]

    def coarse(self, candidate: Candidate, aims: Aims) -> list[tuple[str, int]]:
        """(Group, the next smaller number of its units) where one step of the group's width takes a large part of the
        latency that is asked for, the largest first: which importance and greed do not see well."""
        costs, pruner = self.costs(candidate), self._pruner(candidate)
        if costs is None or aims.latency is None:
            return []
        now = pruner.plan(self._target(candidate))
        takes, found = costs.latency_of(now), list[tuple[float, str, int]]()
        for group, less in pruner.narrower(self._options(candidate), now):
            saved = takes - costs.latency_of(less)
            if saved >= COARSE * aims.latency:
                found.append((saved, group.name, int(less[group.units].sum())))
        return [(name, fewer) for _, name, fewer in sorted(found, reverse=True)]

    def narrowest(self, candidate: Candidate) -> Candidate:
        """The candidate with the fewest channels that may stay."""
        return replace(candidate, cost="ratio", share=0.999999, importance="l1")
