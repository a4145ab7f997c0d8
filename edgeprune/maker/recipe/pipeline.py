"""Run a recipe: step by step, each step leaves a Stage in the ledger, and every number comes from a file on disk."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edgeprune.artifact import Format, Precision
from edgeprune.checker.judge import run_verdicts
from edgeprune.checker.latency.estimate import estimate_latency
from edgeprune.checker.latency.measure import compare_latency
from edgeprune.checker.latency.profiles import find_profile
from edgeprune.checker.size.baseline import Baseline
from edgeprune.checker.size.codecs import BASE_CODEC
from edgeprune.converters.exported import entry_at, measure_export, said_of
from edgeprune.converters.exports import calibrated
from edgeprune.converters.ladder_options import LadderOptions
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.probabilities import classified
from edgeprune.converters.session import Converter, Exported
from edgeprune.converters.sparse_exports import check_eligible, few_inputs, sparse_export
from edgeprune.formats import read_contents
from edgeprune.formats.metadata import ImageInput
from edgeprune.formats.pattern import Pattern
from edgeprune.host.progress import Progress
from edgeprune.host.scratch import scratch_folder
from edgeprune.ledger import (
    ArtifactEntry,
    Blame,
    Estimate,
    Host,
    KeptReport,
    LatencyComparison,
    Ledger,
    RecipeOrigin,
    Stage,
    StudentReport,
)
from edgeprune.maker.keras.models import (
    count_nonzero_parameters,
    count_parameters,
    input_specs,
    keras_module,
    predict,
    save_model,
)
from edgeprune.maker.keras.starting import too_late
from edgeprune.maker.keras.types import AnyModel, Model
from edgeprune.maker.pruning.symmetric_padding import pad_symmetrically
from edgeprune.maker.recipe.blame import blamed
from edgeprune.maker.recipe.entries import (
    asked_of,
    export_name,
    file_part,
    metric_kind,
    metric_note,
    model_origin,
    origin_of,
    ships_as,
    split_origin,
    stage_model,
    with_export,
)
from edgeprune.maker.recipe.kept import Holdings
from edgeprune.maker.recipe.latency_search import check_latency_targets
from edgeprune.maker.recipe.model_steps import ModelSteps, StepResult
from edgeprune.maker.recipe.pattern_check import check_file, pattern_after
from edgeprune.maker.recipe.prepare import Prepared, app_options
from edgeprune.maker.recipe.recipe import (
    ExportSpec,
    ModelStep,
    PruneStep,
    QatStep,
    QuantizeStep,
    Step,
    calibrating,
    devices_of,
    student_step,
)
from edgeprune.maker.recipe.stage_files import StageFiles, calibration_of
from edgeprune.maker.recipe.stages import Store
from edgeprune.maker.recipe.student import student_report
from edgeprune.maker.recipe.trained_int8 import TrainedInt8
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.loop import make_deterministic
from edgeprune.report.summary import summary_sentences
from edgeprune.runtime.session import installed_runtimes

__all__ = ["run_recipe"]


def run_recipe(
    prepared: Prepared,
    folder: Path,
    progress: Progress,
    baseline: Baseline | None = None,
    *,
    store: Store | None = None,
    converter: Converter | None = None,
) -> Ledger:
    """Run all steps and exports, leave every file in `folder`, and return the ledger; growth is against `baseline`.

    What `store` holds of the steps is not carried out again; `converter` is one that runs already.
    """
    if late := too_late(prepared.recipe.threads):
        progress.note(late)
    make_deterministic(keras_module(), prepared.recipe.seed)  # before the first gradient, not only while training
    if converter is not None:
        return _Run(prepared, folder, progress, converter, baseline, store).ledger()
    with Converter() as started:
        started.start()  # its imports run while the first steps do
        return _Run(prepared, folder, progress, started, baseline, store).ledger()


class _Run:
    """The state of one run: the current model, the files so far, the stages so far."""

    def __init__(
        self,
        prepared: Prepared,
        folder: Path,
        progress: Progress,
        converter: Converter,
        baseline: Baseline | None,
        store: Store | None,
    ) -> None:
        self.baseline = baseline
        self.prepared, self.recipe, self.task = prepared, prepared.recipe, prepared.task
        self.folder, self.progress, self.converter = folder, progress, converter
        self.steps = ModelSteps(prepared, progress, converter, store)
        self.files = StageFiles(prepared=prepared, converter=converter, progress=progress, store=store)
        self.stem = self.recipe.model.stem
        self.model = prepared.model
        self.stages: list[Stage] = []
        self._predicted: dict[int, tuple[AnyModel, dict[str, np.ndarray]]] = {}  # by the model's id
        self._shipped: dict[tuple[str, ...], tuple[AnyModel, tuple[str, ...]]] = {}
        self._dense_outputs: dict[str, np.ndarray] = {}
        self._trained: TrainedInt8 | None = None
        self._pattern: Pattern | None = None  # that the model keeps
        self._holdings = Holdings()
        self._student: StudentReport | None = None  # of the step that runs
        # Now, not when the run ends: the files may be others by then.
        self.input = model_origin(self.recipe.model)
        self.data = {name: split_origin(samples) for name, samples in self._splits().items()}
        (folder / "stages").mkdir()

    def ledger(self) -> Ledger:
        self._dense()
        for step in self.recipe.steps:
            if isinstance(step, QuantizeStep):
                self._quantize(step)
            else:
                self._train_step(step)
        self._exports()
        save_model(self.model, self.folder / f"{self.stem}.keras")
        ledger = Ledger(
            tool_version=version("edgeprune"),
            recipe=RecipeOrigin(path=self.recipe.path.name, sha256=self.recipe.sha256, asked=asked_of(self.recipe)),
            input=self.input,
            data=self.data,
            metric=metric_kind(self.task.main),
            metrics=tuple(metric_kind(score) for score in self.task.scores),
            host=Host(machine=platform.machine(), system=platform.system(), runtimes=self._runtimes()),
            seed=self.recipe.seed,
            stages=tuple(self.stages),
            blame=self._blame(),
        )
        ledger = replace(ledger, verdicts=run_verdicts(ledger, self.recipe.budget, self.baseline, self.folder))
        return replace(ledger, summary=tuple(summary_sentences(ledger)))

    def _runtimes(self) -> dict[str, str]:
        """What ran files: the runtimes of .tflite, and those of the formats that are exported."""
        formats = dict.fromkeys((Format.TFLITE, *(export.format for export in self.recipe.exports)))
        return {name: version for each in formats for name, version in installed_runtimes(each).items()}

    def _blame(self) -> Blame | None:
        """What undoing each step brings back, on the samples that chose epochs, if the recipe asks."""
        if not self.recipe.blame:
            return None
        samples = self.prepared.validation or self.prepared.test
        return blamed(self.prepared, self.steps.models, self.converter, self.progress, samples)

    def _splits(self) -> dict[str, Samples]:
        splits = {"train": self.prepared.train, "validation": self.prepared.validation, "test": self.prepared.test}
        return {name: samples for name, samples in splits.items() if samples is not None}

    def _dense(self) -> None:
        begun = time.monotonic()
        main = self._tflite("dense", Precision.FLOAT32)
        self._dense_outputs = self._keras_outputs(self.model)
        check_latency_targets(self.recipe, self.folder / main.path)
        if any(export.sparse_kernels for export in self.recipe.exports):
            self._check_eligible(self.folder / main.path)  # before hours of training
        artifacts = [main]
        quantize = next((s for s in self.recipe.steps if isinstance(s, QuantizeStep)), None)
        if quantize:
            # int8 is compared with int8: latency at equal precision, and what quantization alone would give.
            plain = replace(quantize, slim=quantize.slim.without_search, ladder=LadderOptions())
            artifacts.append(self._tflite("dense", Precision(quantize.precision), plain, may_depart=True))
        self._add("dense", "dense", artifacts, begun)

    def _check_eligible(self, dense: Path) -> None:
        """Raise IneligibleError where no file of this model can run sparse, padded anew if a step does that."""
        if not any(isinstance(step, PruneStep) and step.options.symmetric_padding for step in self.recipe.steps):
            check_eligible(dense)
            return
        with scratch_folder() as folder:
            path = folder / "padded.tflite"
            self.converter.export(pad_symmetrically(self.model)[0], path, Format.TFLITE, Precision.FLOAT32)
            check_eligible(path)

    def _train_step(self, step: ModelStep) -> None:
        begun = time.monotonic()
        if step is student_step(self.recipe):
            self._begin_student(step)
        done = self.steps.run(self.model, step)
        self._pattern = pattern_after(step, self._pattern)
        narrowed = [width.layer for width in done.channels.removed] if done.channels else []
        kept = self._holdings.after(step, done.model, kept=done.kept, narrowed=narrowed)
        self._now(done.model)
        main = self._tflite(step.name, Precision.FLOAT32)
        self._add(step.name, step.kind, [main], begun, done, kept)

    def _begin_student(self, step: Step) -> None:
        """The smaller dense model is the current one from now on."""
        asked, student = self.recipe.student, self.prepared.student
        assert asked is not None
        assert student is not None
        self._student = student_report(asked, self.prepared.model, student)
        self.progress.note(
            f"{step.name}: the student has {self._student.parameters_after:,} parameters, "
            f"the model {self._student.parameters_before:,}"
        )
        self._holdings.drop()
        self._pattern = None
        self._now(student)

    def _quantize(self, step: QuantizeStep) -> None:
        begun = time.monotonic()
        done, kept = None, self._holdings.after(step, self.model)
        if isinstance(step, QatStep):
            calibration = calibration_of(self.prepared, step)
            self._trained = TrainedInt8.of(
                self.model, step, steps=self.steps, converter=self.converter, calibration=calibration
            )
            done = StepResult(model=self._trained.result.model, training=self._trained.result.log)
            kept = self._holdings.after(step, done.model)
            self._now(done.model)
        entry = self._tflite(step.name, Precision(step.precision), step)
        kept += self._holdings.in_file(self.folder / entry.path)
        self._add(step.name, step.kind, [entry], begun, done, kept)

    def _now(self, model: Model) -> None:
        """This is the current model from now on."""
        self.model = model
        self._predicted.clear()
        self._shipped.clear()

    def _tflite(
        self,
        stage: str,
        precision: Precision,
        quantize: QuantizeStep | None = None,
        *,
        may_depart: bool = False,
    ) -> ArtifactEntry:
        """Export the current model, run the file over the test split, and account for it.

        An integer file of a model that was trained for it has the ranges that it learned, and is held against what it
        computed in training."""
        path = self.folder / "stages" / f"{self.stem}.{file_part(stage)}.{precision}.tflite"
        self.progress.begin(f"{stage}: tflite {precision}")
        export = ships_as(self.recipe, stage, precision)
        app = app_options(self.recipe, export) if export else AppOptions()
        model, said = self._classified(app)
        trained, expected = self._trained if quantize else None, None
        if trained and model is self.model:
            expected = trained.result.simulated(self.prepared.test.inputs)
        found = self.files.made(
            model,
            path,
            precision,
            quantize,
            asked=self.steps.asked,
            app=app,
            dense_bytes=self.stages[0].artifacts[0].download_bytes[BASE_CODEC] if self.stages else None,
            adapt=trained.exporting if trained else None,
        )
        entry = self._evaluated(
            found.made, model, every_runtime=export is not None, expected=expected, may_depart=may_depart
        )
        packages = [export for export in self.recipe.exports if export.format is Format.COREML]
        if trained and any(calibrated(export.format, export.precision) for export in packages):
            trained.keep(found.made)
        self.progress.end(metric_note(entry))
        return replace(entry, warnings=(*entry.warnings, *said, *found.said), ladder=found.report)

    def _classified(self, app: AppOptions) -> tuple[AnyModel, tuple[str, ...]]:
        """The current model as a file is made from it, and what is to be said of that; the same for the same labels."""
        if not app.softmax and not app.class_labels:
            return self.model, ()
        key = (str(app.softmax), *app.class_labels)
        if key not in self._shipped:
            self._shipped[key] = classified(self.model, app)
        return self._shipped[key]

    def _evaluated(
        self,
        made: Exported,
        model: AnyModel,
        *,
        every_runtime: bool,
        exported: bool = False,
        image: ImageInput | None = None,
        expected: Mapping[str, np.ndarray] | None = None,
        may_depart: bool = False,
    ) -> ArtifactEntry:
        if self._pattern is not None:
            check_file(made.path, self.model, self._pattern)
        return measure_export(
            made,
            model,
            self.prepared.test,
            self.task,
            name=made.path.relative_to(self.folder).as_posix(),
            samples_are=f"samples of {self.prepared.test.path.name}",
            exported=exported,
            codecs=[self.recipe.budget.codec] if self.recipe.budget else [],
            every_runtime=every_runtime,
            expected=self._keras_outputs(model) if expected is None else expected,
            dense=self._dense_outputs or None,
            image=image,
            may_depart=may_depart,
            on_progress=self.progress.advance,
        )

    def _keras_outputs(self, model: AnyModel) -> dict[str, np.ndarray]:
        """A Keras model of the current stage over the test split, computed once."""
        if id(model) not in self._predicted:
            self._predicted[id(model)] = (model, predict(model, self.prepared.test.inputs))
        return self._predicted[id(model)][1]

    def _add(
        self,
        name: str,
        kind: str,
        artifacts: list[ArtifactEntry],
        begun: float,
        done: StepResult | None = None,
        kept: tuple[KeptReport, ...] = (),
    ) -> None:
        main = artifacts[0]
        latency = None if kind == "dense" else self._latency(name, main)
        self.stages.append(
            Stage(
                name=name,
                kind=kind,
                parameters=count_parameters(self.model),
                nonzero_parameters=count_nonzero_parameters(self.model),
                macs=main.macs,
                metric=main.metric,
                metrics=main.metrics,
                latency=latency,
                artifacts=tuple(artifacts),
                pruning=done.pruning if done else None,
                channels=done.channels if done else None,
                equalized=done.equalized if done else None,
                training=done.training if done else None,
                seconds=round(time.monotonic() - begun, 3),
                kept=kept,
                student=self._student,
            )
        )
        self._student = None
        if self.steps.models.get(self.stages[-2].name if len(self.stages) > 1 else "") is not self.model:
            self._keep(name)
        self.steps.models[name] = self.model

    def _keep(self, name: str) -> None:
        """Leave the model of a stage on disk, if the recipe says so."""
        if self.recipe.keep_stages:
            save_model(self.model, stage_model(self.folder, self.recipe, name))

    def _latency(self, name: str, entry: ArtifactEntry) -> LatencyComparison | None:
        reference = next(e for e in self.stages[0].artifacts if e.precision == entry.precision)
        return self._compared(name, reference, entry)

    def _compared(self, name: str, reference: ArtifactEntry, entry: ArtifactEntry) -> LatencyComparison | None:
        """A file against one of the dense model, where the recipe measures and a runtime runs both."""
        refused = {run.name for e in (entry, reference) for run in e.runtimes if not run.ran}
        usable = [name for name in installed_runtimes() if name not in refused]
        if not self.recipe.latency.measure or not usable:
            return None
        self.progress.begin(f"{name}: latency against dense {reference.precision}")
        found = compare_latency(
            self.folder / reference.path,
            self.folder / entry.path,
            runtime=usable[-1],
            processes=self.recipe.latency.processes,
            pairs=self.recipe.latency.pairs,
            seed=self.recipe.seed,
            on_progress=self.progress.advance,
        )
        self.progress.end(f"{found.ratio:.3f}x, {found.verdict}")
        return found

    def _exports(self) -> None:
        for export in self.recipe.exports:
            path = self.folder / export_name(self.recipe, export)
            self.progress.begin(f"export {path.name}")
            number = next(n for n, stage in enumerate(self.stages) if stage.name == origin_of(self.recipe, export))
            same = self._already_made(self.stages[number], export)
            entry = self._export_new(export, path) if same is None else self._moved(same, path)
            entry = replace(entry, estimates=self._estimates(path))
            self.stages[number] = with_export(self.stages[number], entry, in_place_of=same)
            self.progress.end(metric_note(entry))
        self._rivals()

    def _rivals(self) -> None:
        """Where several .tflite files are exported, the time of each beside that of the dense float32 one."""
        if sum(export.format is Format.TFLITE for export in self.recipe.exports) < 2:
            return
        dense = self.stages[0].artifacts[0]
        for number, stage in enumerate(self.stages):
            entries = []
            for entry in stage.artifacts:
                rival = entry.exported and entry.format == Format.TFLITE
                known = stage.latency if number and entry.precision == dense.precision else None
                found = (known or self._compared(entry.path, dense, entry)) if rival else None
                entries.append(replace(entry, latency=found))
            self.stages[number] = replace(stage, artifacts=tuple(entries))

    def _moved(self, same: ArtifactEntry, path: Path) -> ArtifactEntry:
        """The file of a stage as an export: it was run on every runtime when it was made."""
        (self.folder / same.path).replace(path)
        return entry_at(same, path.name, exported=True)

    def _estimates(self, path: Path) -> tuple[Estimate, ...]:
        """Its latency on each device of the recipe and of its budget."""
        profiles = [find_profile(device) for device in devices_of(self.recipe)]
        if not profiles:
            return ()
        contents = read_contents(path)
        return tuple(estimate_latency(contents, profile) for profile in profiles)

    def _already_made(self, stage: Stage, export: ExportSpec) -> ArtifactEntry | None:
        if export.format is not Format.TFLITE or export.sparse_kernels:
            return None
        return next((e for e in stage.artifacts if e.precision == export.precision and not e.exported), None)

    def _export_new(self, export: ExportSpec, path: Path) -> ArtifactEntry:
        options = app_options(self.recipe, export)
        model, said = self._classified(options)
        learns = (
            calibration_of(self.prepared, calibrating(self.recipe))
            if calibrated(export.format, export.precision)
            else None
        )
        learned = learns is not None and export.format is Format.COREML and model is self.model
        made = self.converter.export(
            model,
            path,
            export.format,
            export.precision,
            calibration=learns,
            app=options,
            opset=export.opset,
            ranges=self._trained.package_ranges(self.converter, options) if self._trained and learned else None,
        )
        sparse, more = None, tuple[str, ...]()
        if export.sparse_kernels:
            inputs = few_inputs(self.prepared.test, input_specs(model))
            made, sparse, more = sparse_export(made, options, inputs)
        entry = self._evaluated(made, model, every_runtime=True, exported=True, image=options.image)
        return replace(entry, warnings=(*said, *more, *said_of(made, model)), sparse_kernels=sparse)
