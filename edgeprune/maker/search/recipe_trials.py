"""A trial: a recipe becomes the .tflite file that would ship, and that file is judged on validation samples.

Everything is kept in a store, so that nothing is done twice, in this process or in another one that works in the same
folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.artifact import Precision
from edgeprune.checker.latency.estimate import estimate_latency
from edgeprune.checker.latency.measure import compare_latency, latency_shares
from edgeprune.checker.latency.profiles import find_profile
from edgeprune.checker.size.account import account
from edgeprune.checker.size.codecs import BASE_CODEC
from edgeprune.converters.exports import INTEGER
from edgeprune.converters.session import Converter, Exported
from edgeprune.converters.spending import Judge
from edgeprune.errors import Unsupported
from edgeprune.formats import read_contents
from edgeprune.host.progress import Progress
from edgeprune.maker.keras.models import count_parameters
from edgeprune.maker.keras.types import Model
from edgeprune.maker.recipe.model_steps import ModelSteps
from edgeprune.maker.recipe.prepare import Prepared, adapted
from edgeprune.maker.recipe.recipe import ModelStep, Recipe
from edgeprune.maker.recipe.stage_files import Adapt, StageFiles, calibration_of
from edgeprune.maker.recipe.stages import Record, Store
from edgeprune.maker.recipe.steps import QatStep, QuantizeStep
from edgeprune.maker.recipe.tables import flat
from edgeprune.maker.recipe.trained_int8 import TrainedInt8

__all__ = ["PAIRS", "PROCESSES", "ModelRun", "RecipeTrials", "changing", "weighed"]

PROCESSES = 3  # of a paired measurement; the files of the winner are measured anew in its run
PAIRS = 10
MOST_JUDGED = 5000  # validation samples


@dataclass(kw_only=True)
class RecipeTrials:
    """Carries out trials on the model and data of `prepared`. `timed` is whether latencies are asked for: estimated for
    `device`, else measured on this host."""

    prepared: Prepared
    store: Store
    converter: Converter
    progress: Progress
    seed: int = 0
    timed: bool = False
    device: str | None = None
    dense: dict[Precision, Record] = field(default_factory=dict)

    @cached_property
    def judge(self) -> Judge:
        """What scores files: the main metric on validation samples."""
        assert self.prepared.validation is not None
        few = self.prepared.validation
        if len(few) > MOST_JUDGED:
            few = few.some(MOST_JUDGED, np.random.default_rng(self.seed))
        return Judge.of(self.prepared.model, few, self.prepared.task.main)

    @cached_property
    def _against(self) -> Judge:
        """The same that holds files against the dense model."""
        return self.judge.against(self.prepared.model)

    @property
    def dense_bytes(self) -> int:
        """The download of the dense float32 file."""
        return int(self.dense_file(Precision.FLOAT32)["download_bytes"])

    @property
    def dense_metric(self) -> float:
        """The metric of the dense float32 file, which all others are held against."""
        return self._dense_score(Precision.FLOAT32)

    def dense_lost(self, precision: Precision) -> float:
        """What the dense model loses by being stored so."""
        return self.judge.lost(self.dense_metric, self._dense_score(precision))

    def _dense_score(self, precision: Precision) -> float:
        def make(_: str) -> Record:
            file = self.store.path(self.dense_file(precision)["key"], ".tflite")
            self.progress.begin(f"score the dense model as {precision}")
            value = self.judge.score(file.read_bytes())
            self.progress.end(f"{self.prepared.task.main.name} {value:.4f}")
            return {"metric": value}

        return float(self.store.once("dense metric", str(precision), make)["metric"])

    def dense_file(self, precision: Precision) -> Record:
        """The file of the dense model."""
        if precision not in self.dense:

            def make(key: str) -> Record:
                self.progress.begin(f"the dense model as {precision}")
                path = self.store.path(key, ".tflite")
                quantize = QuantizeStep(precision=str(precision)) if precision in INTEGER else None
                made = self.files().made(self.prepared.model, path, precision, quantize).made
                self.progress.end()
                return {**weighed(made), "key": key}

            self.dense[precision] = self.store.once("dense", str(precision), make)
        return self.dense[precision]

    def made(self, recipe: Recipe, precision: Precision) -> Record:
        """The file of this precision that a recipe makes: its `key` in the store, what it weighs, its metric, and what
        a batch of its last training took (`batch_s`). Raises as a run of the recipe."""

        def make(key: str) -> Record:
            run = self.run_of(adapted(self.prepared, recipe))
            model, quantize = run.model(), _quantize(recipe, precision)
            self.progress.begin(f"make and judge the {precision} file")
            path, adapt = self.store.path(key, ".tflite"), None
            if isinstance(quantize, QatStep):
                model, adapt = self._trained(run, model, quantize)
            found = self.files(run.prepared).made(
                model, path, precision, quantize, asked=run.steps.asked, dense_bytes=self.dense_bytes, adapt=adapt
            )
            self.converter.forget(model)
            outputs = self.judge.made(path.read_bytes())
            value, strayed = self.judge.value(outputs), self._against.strayed(outputs)
            self.progress.end(f"{self.prepared.task.main.name} {value:.4f}")
            facts = {
                "parameters": count_parameters(model),
                "metric": value,
                "strayed": strayed,
                "batch_s": run.steps.batch_s,
                "key": key,
            }
            return {**weighed(found.made), **facts}

        return self.store.once("judged", self.told(recipe, precision), make)

    @property
    def spent(self) -> tuple[float, float]:
        """Seconds and CPU seconds of all results so far."""
        return self.store.spent_s, self.store.spent_cpu_s

    def facts(self, record: Record, since: tuple[float, float]) -> dict[str, Any]:
        """What a point tells of a file that `made` made, but for its latency; `since` is what was spent before it."""
        return {
            **{name: record[name] for name in ("parameters", "macs", "download_bytes", "metric")},
            "download_ratio": record["download_bytes"] / self.dense_bytes,
            "lost": self.judge.lost(self.dense_metric, record["metric"]),
            "how": self.how,
            "seconds": round(self.spent[0] - since[0], 1),
            "cpu_s": round(self.spent[1] - since[1], 1),
        }

    def told(self, recipe: Recipe, precision: Precision) -> list[object]:
        """All that makes the file of a recipe what it is."""
        steps = [flat(step) for step in changing(recipe)]
        return [steps, repr(_quantize(recipe, precision)), str(precision), self.dense_bytes]

    def known(self, recipe: Recipe, precision: Precision) -> bool:
        """Whether the file of a recipe was made before."""
        return self.store.known("judged", self.told(recipe, precision)) is not None

    def needs(self, recipe: Recipe, precision: Precision) -> list[str]:
        """The files in the store that a trial of the recipe can begin with, by name."""
        steps = [flat(step) for step in changing(recipe)]
        keys = [self.store.key("stage", steps[: n + 1]) for n in range(len(steps))]
        keys += [self.store.key("dense", str(each)) for each in {Precision.FLOAT32, precision}]
        names = [f"{key}{suffix}" for key in keys for suffix in (".json", ".keras", ".tflite")]
        return [name for name in names if (self.store.folder / name).is_file()]

    def _trained(self, run: ModelRun, model: Model, step: QatStep) -> tuple[Model, Adapt]:
        calibration = calibration_of(run.prepared, step)
        done = TrainedInt8.of(model, step, steps=run.steps, converter=self.converter, calibration=calibration)
        return done.result.model, done.exporting

    def run_of(self, prepared: Prepared) -> ModelRun:
        """The steps of a recipe that change the model, not yet carried out."""
        return ModelRun(prepared, ModelSteps(prepared, self.progress, self.converter, self.store))

    def latency(self, key: str, precision: Precision) -> float | None:
        """The latency of a file in the store against that of the dense model's of the same precision."""
        if not self.timed:
            return None
        dense = self.store.path(self.dense_file(precision)["key"], ".tflite")
        file = self.store.path(key, ".tflite")

        def make(_: str) -> Record:
            self.progress.begin(f"latency {'estimated' if self.device else 'measured'}")
            ratio = self._estimated(dense, file, self.device) if self.device else self._measured(dense, file)
            self.progress.end(f"{ratio:.3f}x")
            return {"ratio": ratio}

        return float(self.store.once("latency", [key, self.device], make)["ratio"])

    @property
    def how(self) -> str:
        """How latencies are obtained, in a word for a table."""
        return ("estimated" if self.device else "measured") if self.timed else "not asked for"

    def trend(self, files: Sequence[Path], precision: Precision) -> npt.NDArray[np.float64]:
        """The latencies of many files against that of the dense model's, float [files]: each less sure than one of
        `latency`."""
        dense = self.store.path(self.dense_file(precision)["key"], ".tflite")
        if self.device:
            return np.array([self._estimated(dense, file, self.device) for file in files])
        return latency_shares(dense, files, processes=PROCESSES, seed=self.seed, on_progress=self.progress.advance)

    def _measured(self, dense: Path, file: Path) -> float:
        found = compare_latency(
            dense, file, processes=PROCESSES, pairs=PAIRS, seed=self.seed, on_progress=self.progress.advance
        )
        return found.ratio

    def _estimated(self, dense: Path, file: Path, device: str) -> float:
        before, after = (estimate_latency(read_contents(path), find_profile(device)) for path in (dense, file))
        if before.total_ms is None or after.total_ms is None:
            raise Unsupported(f"the latency cannot be estimated: {before.refused or after.refused}")
        return after.total_ms / before.total_ms

    def files(self, prepared: Prepared | None = None) -> StageFiles:
        """What makes the files of a recipe's stages."""
        return StageFiles(
            prepared=prepared or self.prepared, converter=self.converter, progress=self.progress, store=self.store
        )


@dataclass
class ModelRun:
    """The steps of a recipe that change the model, one after the other; `removed` is whether the last removed any
    channels."""

    prepared: Prepared
    steps: ModelSteps
    removed: bool = False

    def model(self) -> Model:
        """The model behind the last step."""
        model = self.prepared.model
        for step in changing(self.prepared.recipe):
            done = self.steps.run(model, step)
            model, self.removed = done.model, bool(done.channels and done.channels.removed)
            self.steps.models[step.name] = model
        return model


def changing(recipe: Recipe) -> Sequence[ModelStep]:
    """The steps that change the model in float."""
    return [step for step in recipe.steps if not isinstance(step, QuantizeStep)]


def _quantize(recipe: Recipe, precision: Precision) -> QuantizeStep | None:
    """The step that makes the file of an integer precision."""
    last = recipe.steps[-1] if recipe.steps and precision in INTEGER else None
    return last if isinstance(last, QuantizeStep) else None


def weighed(made: Exported) -> Record:
    """What a file weighs."""
    found = account(made.contents, (BASE_CODEC,), shares=False, bounds=False)
    return {"download_bytes": found.download_bytes[BASE_CODEC], "macs": found.macs}
