"""What a search does with a candidate: cut it, train it on, make the file that would ship, and judge that file.

Everything goes through the steps of a recipe and is kept in a store, so that nothing is done twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeprune.artifact import Precision
from edgeprune.checker.latency.estimate import estimate_latency
from edgeprune.checker.latency.measure import compare_latency
from edgeprune.checker.size.account import account
from edgeprune.checker.size.codecs import BASE_CODEC
from edgeprune.converters.session import Converter, Exported
from edgeprune.converters.spending import Judge
from edgeprune.errors import Unsupported
from edgeprune.formats import read_contents
from edgeprune.host.progress import Progress
from edgeprune.maker.keras.models import count_parameters
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.pruner import ChannelPruner
from edgeprune.maker.pruning.options import ChannelOptions
from edgeprune.maker.recipe.model_steps import ModelSteps
from edgeprune.maker.recipe.prepare import Prepared
from edgeprune.maker.recipe.recipe import Recipe
from edgeprune.maker.recipe.stage_files import StageFiles
from edgeprune.maker.recipe.stages import Record, Store
from edgeprune.maker.recipe.steps import QuantizeStep
from edgeprune.maker.search.asked import ShrinkOptions
from edgeprune.maker.search.candidates import HARMLESS, Candidate, channel_target, steps_of
from edgeprune.maker.training.loop import steps_per_epoch
from edgeprune.points import Point
from edgeprune.units import format_bytes

__all__ = ["Judged", "Shape", "Trials"]

PROCESSES, PAIRS = 3, 10  # of a paired measurement; the files of the winner are measured anew in its run
MOST_JUDGED = 5000  # validation samples
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


@dataclass(kw_only=True)
class Trials:
    """Carries out trials. `recipe_of` makes a recipe out of steps."""

    prepared: Prepared
    asked: ShrinkOptions
    recipe_of: Callable[[Steps], Recipe]
    store: Store
    converter: Converter
    progress: Progress
    dense: dict[Precision, Record] = field(default_factory=dict)
    _pruners: dict[tuple[bool, str], ChannelPruner] = field(default_factory=dict)

    @property
    def judge(self) -> Judge:
        """What scores files: the main metric on validation samples."""
        assert self.prepared.validation is not None
        few = self.prepared.validation
        if len(few) > MOST_JUDGED:
            import numpy as np

            few = few.some(MOST_JUDGED, np.random.default_rng(self.asked.seed))
        return Judge.of(self.prepared.model, few, self.prepared.task.main)

    @property
    def dense_bytes(self) -> int:
        """The download of the dense float32 file."""
        return int(self.dense_file(Precision.FLOAT32)["download_bytes"])

    def dense_file(self, precision: Precision) -> Record:
        """The file of the dense model; its metric where it is float32, which all others are held against."""
        if precision not in self.dense:

            def make(key: str) -> Record:
                self.progress.begin(f"the dense model as {precision}")
                path = self.store.path(key, ".tflite")
                quantize = QuantizeStep() if precision is Precision.INT8 else None
                made = self._files().made(self.prepared.model, path, precision, quantize).made
                value = self.judge.score(path.read_bytes()) if precision is Precision.FLOAT32 else None
                self.progress.end()
                return {**_weighed(made), "metric": value, "key": key}

            self.dense[precision] = self.store.once("dense", str(precision), make)
        return self.dense[precision]

    def idle(self) -> bool:
        """Whether the model has channels that do nothing."""
        _, steps = self.model_of([HARMLESS])
        return bool(steps.removed)

    def model_of(self, steps: Steps) -> tuple[Model, _Run]:
        """The model behind steps, and what was done."""
        run = _Run(self._prepared(steps), self.progress, self.converter, self.store)
        return run.model(), run

    def shape(self, candidate: Candidate) -> Shape:
        """What the candidate's widths come to: the file, made without training, weighed and timed."""
        told = [candidate.idle, channel_target(candidate), str(candidate.precision)]

        def make(key: str) -> Record:
            self.progress.begin(f"weigh {candidate.name}")
            model = self._cut(candidate)
            path = self.store.path(key, ".tflite")
            quantize = QuantizeStep() if candidate.precision is Precision.INT8 else None
            made = self._files().made(model, path, candidate.precision, quantize).made
            self.converter.forget(model)
            found = {**_weighed(made), "parameters": count_parameters(model), "key": key}
            self.progress.end(format_bytes(found["download_bytes"]))
            return found

        record = self.store.once("shape", told, make)
        return Shape(
            download_bytes=record["download_bytes"],
            parameters=record["parameters"],
            macs=record["macs"],
            latency=self.latency(record["key"], candidate.precision),
        )

    def latency(self, key: str, precision: Precision) -> float | None:
        """The latency of a file in the store against that of the dense model's of the same precision."""
        if self.asked.latency is None:
            return None
        dense = self.store.path(self.dense_file(precision)["key"], ".tflite")
        file = self.store.path(key, ".tflite")

        def make(_: str) -> Record:
            self.progress.begin(f"latency {'estimated' if self.asked.device else 'measured'}")
            ratio = self._estimated(dense, file) if self.asked.device else self._measured(dense, file)
            self.progress.end(f"{ratio:.3f}x")
            return {"ratio": ratio}

        return float(self.store.once("latency", [key, self.asked.device], make)["ratio"])

    def _measured(self, dense: Path, file: Path) -> float:
        found = compare_latency(
            dense, file, processes=PROCESSES, pairs=PAIRS, seed=self.asked.seed, on_progress=self.progress.advance
        )
        return found.ratio

    def _estimated(self, dense: Path, file: Path) -> float:
        profile = self.asked.profile
        assert profile is not None
        before, after = (estimate_latency(read_contents(path), profile) for path in (dense, file))
        if before.total_ms is None or after.total_ms is None:
            raise Unsupported(f"--latency cannot be estimated: {before.refused or after.refused}")
        return after.total_ms / before.total_ms

    def judged(
        self,
        candidate: Candidate,
        tuned: tuple[int, ...],
        *,
        stage: str,
        recovered: int = 0,
        quantize: Mapping[str, object] | None = None,
    ) -> Judged:
        """The file of a candidate after so much training, judged; `quantize` are keys of its quantize step."""
        steps = steps_of(candidate, self.asked, tuned, recovered)
        if candidate.precision is Precision.INT8:
            steps.append({"kind": "quantize", **(quantize or {})})
        before = self.store.spent_s, self.store.spent_cpu_s
        model, run = self.model_of(steps)
        record = self._file_record(model, run, candidate.precision)
        epochs = (candidate.share < 1) + bool(candidate.sparsity) + sum(tuned) + recovered
        dense = float(self.dense_file(Precision.FLOAT32)["metric"])
        lost = self.judge.lost(dense, record["metric"])
        shape = self.shape(candidate)
        point = Point(
            candidate=candidate.name,
            stage=stage,
            precision=str(candidate.precision),
            epochs=epochs,
            parameters=record["parameters"],
            macs=record["macs"],
            download_bytes=record["download_bytes"],
            download_ratio=record["download_bytes"] / self.dense_bytes,
            latency=shape.latency,
            how="not asked for" if shape.latency is None else "estimated" if self.asked.device else "measured",
            metric=record["metric"],
            lost=lost,
            seconds=round(self.store.spent_s - before[0], 1),
            cpu_s=round(self.store.spent_cpu_s - before[1], 1),
        )
        assert self.prepared.train is not None
        batches = steps_per_epoch(len(self.prepared.train), self.asked.batch_size)
        return Judged(
            candidate=candidate,
            steps=steps,
            point=point,
            file=self.store.path(record["key"], ".tflite"),
            epoch_s=batches * (run.steps.batch_s or 0.0),
        )

    def _file_record(self, model: Model, run: _Run, precision: Precision) -> Record:
        step = run.quantize

        def make(key: str) -> Record:
            self.progress.begin(f"make and judge the {precision} file")
            path = self.store.path(key, ".tflite")
            files = self._files(run.prepared)
            found = files.made(model, path, precision, step, asked=run.steps.asked, dense_bytes=self.dense_bytes)
            self.converter.forget(model)
            value = self.judge.score(path.read_bytes())
            self.progress.end(f"{self.prepared.task.main.name} {value:.4f}")
            return {**_weighed(found.made), "parameters": count_parameters(model), "metric": value, "key": key}

        told = json.loads(json.dumps(self.recipe_steps(run), default=str))
        return self.store.once("judged", [told, str(precision), self.dense_bytes], make)

    def recipe_steps(self, run: _Run) -> Any:
        """All that made a file, for its key."""
        return [*run.steps.asked, repr(run.quantize)]

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

    def _prepared(self, steps: Steps) -> Prepared:
        return replace(self.prepared, recipe=self.recipe_of(steps))

    def _files(self, prepared: Prepared | None = None) -> StageFiles:
        return StageFiles(
            prepared=prepared or self.prepared, converter=self.converter, progress=self.progress, store=self.store
        )


class _Run:
    """The steps of a recipe that change the model, one after the other; `removed` is whether the last removed any
    channels."""

    def __init__(self, prepared: Prepared, progress: Progress, converter: Converter, store: Store) -> None:
        self.prepared = prepared
        self.steps = ModelSteps(prepared, progress, converter, store)
        self.quantize: QuantizeStep | None = None
        self.removed = False

    def model(self) -> Model:
        """The model behind the last step."""
        model = self.prepared.model
        for step in self.prepared.recipe.steps:
            if isinstance(step, QuantizeStep):
                self.quantize = step
                continue
            done = self.steps.run(model, step)
            model, self.removed = done.model, bool(done.channels and done.channels.removed)
        return model


def _weighed(made: Exported) -> Record:
    found = account(made.contents, (BASE_CODEC,), shares=False, bounds=False)
    return {"download_bytes": found.download_bytes[BASE_CODEC], "macs": found.macs}
