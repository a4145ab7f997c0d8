"""What a search does with a candidate: weigh its widths, and make and judge the file that would ship."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from edgeprune.artifact import Precision
from edgeprune.maker.keras.models import count_parameters
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.pruner import ChannelPruner
from edgeprune.maker.pruning.options import ChannelOptions
from edgeprune.maker.recipe.recipe import recipe_of_text
from edgeprune.maker.recipe.stages import Record
from edgeprune.maker.recipe.steps import QuantizeStep
from edgeprune.maker.search.asked import ShrinkOptions
from edgeprune.maker.search.candidates import HARMLESS, Candidate, channel_target, steps_of
from edgeprune.maker.search.executors import Job
from edgeprune.maker.search.recipe_trials import ModelRun, RecipeTrials, weighed
from edgeprune.maker.training.features import teaches_by_features
from edgeprune.maker.training.loop import steps_per_epoch
from edgeprune.points import Point
from edgeprune.units import format_bytes

__all__ = ["Attempt", "Judged", "Shape", "Trials"]

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
    """A point, the recipe's steps that lead to it, its file, and what an epoch of its training took."""

    candidate: Candidate
    steps: Steps
    point: Point
    file: Path
    epoch_s: float


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
            epochs=self.round_epochs * (bool(candidate.share < 1) + bool(candidate.sparsity) + sum(attempt.tuned))
            + attempt.recovered,
            latency=self.shape(candidate).latency,
            **self.facts(record, since),
        )
        return Judged(
            candidate=candidate,
            steps=steps,
            point=point,
            file=self.store.path(record["key"], ".tflite"),
            epoch_s=self._batches * (record["batch_s"] or 0.0),
        )

    def _cut(self, candidate: Candidate) -> Model:
        """The model with the candidate's widths, untrained."""
        key = (candidate.idle, candidate.importance)
        options = ChannelOptions(**channel_target(candidate), seed=self.asked.seed)  # type: ignore[arg-type]
        if candidate.share >= 1:
            return self.model_of([HARMLESS] if candidate.idle else [])[0]
        if key not in self._pruners:
            base, _ = self.model_of([HARMLESS] if candidate.idle else [])
            self._pruners[key] = ChannelPruner(base, options, samples=self.prepared.train, task=self.prepared.task)
        pruner = self._pruners[key]
        return pruner.cut(pruner.plan(options))

    def narrowest(self, candidate: Candidate) -> Candidate:
        """The candidate with the fewest channels that may stay."""
        return replace(candidate, cost="ratio", share=0.999999, importance="l1")
