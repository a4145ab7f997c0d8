"""Entries of a ledger out of what was found: what a recipe asked for, where model and data came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeprune.artifact import SUFFIXES, Format, Precision, files_of, sha256_of
from edgeprune.checker.budget import asked_limits
from edgeprune.checker.check import estimator_for
from edgeprune.checker.size.baseline import Baseline, load_baseline
from edgeprune.checker.size.codecs import with_quick
from edgeprune.converters.exports import INTEGER
from edgeprune.errors import UsageError
from edgeprune.ledger import ArtifactEntry, MetricKind, ModelOrigin, SplitOrigin, Stage
from edgeprune.maker.recipe.recipe import ChannelStep, ExportSpec, QatStep, QuantizeStep, Recipe, Step, StudentSpec
from edgeprune.maker.recipe.steps import teacher_file, teacher_of
from edgeprune.maker.recipe.tables import flat
from edgeprune.maker.training.data.loading import stored_at
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.task import Score

__all__ = [
    "asked_of",
    "export_name",
    "file_part",
    "metric_kind",
    "metric_note",
    "model_origin",
    "origin_of",
    "run_baseline",
    "ships_as",
    "split_origin",
    "stage_model",
    "with_export",
]


def asked_of(recipe: Recipe) -> dict[str, object]:
    """What a recipe asked for, as plain values without paths of this machine."""
    return {
        "steps": [_asked_step(step) for step in recipe.steps],
        "exports": [_asked_export(export) for export in recipe.exports],
        "budget": asked_limits(recipe.budget) if recipe.budget else None,
        **({"student": _asked_student(recipe.student)} if recipe.student else {}),
    }


def _asked_step(step: Step) -> dict[str, object]:
    """The keys of a step as in the recipe, without the seed, which is the recipe's; of a profile of the project's own
    its file's name."""
    asked = {key: value for key, value in flat(step).items() if key != "seed"}
    teacher = teacher_of(step)
    if teacher is not None:
        asked["teacher"] = Path(teacher).name if teacher_file(teacher) else teacher
    if isinstance(step, ChannelStep) and step.device is not None and step.device.endswith(".toml"):
        return {**asked, "device": Path(step.device).name}
    return asked


def _asked_student(student: StudentSpec) -> dict[str, object]:
    return {"width": student.width, "model": student.model.name if student.model else None}


def _asked_export(export: ExportSpec) -> dict[str, object]:
    """Of a .tflite file what follows the precision is left out, but for what changes its numbers."""
    unasked = {"opset": None, "sparse_kernels": False}
    asked = {key: value for key, value in flat(export).items() if key not in unasked or value != unasked[key]}
    if export.format is Format.COREML:
        labels = export.package.class_labels
        return {**asked, "class_labels": labels.name if labels else None}
    told = {"format": asked["format"], "precision": asked["precision"], "deployment_target": None}
    told |= {"sparse_kernels": True} if export.sparse_kernels else {}
    return {**told, "softmax": True} if export.package.softmax else told


def model_origin(path: Path) -> ModelOrigin:
    """The model that went in."""
    return ModelOrigin(
        path=path.name, sha256=sha256_of(path), raw_bytes=sum(file.stat().st_size for file in files_of(path))
    )


def split_origin(samples: Samples) -> SplitOrigin:
    """A split of the data."""
    return SplitOrigin(
        path=samples.path.name,
        sha256=sha256_of(stored_at(samples.path)),
        samples=len(samples),
        skipped=samples.skipped.count,
    )


def metric_kind(score: Score) -> MetricKind:
    """How outputs are scored."""
    metric = score.metric
    return MetricKind(name=score.name, higher_is_better=metric.higher_is_better, is_share=metric.is_share)


def export_name(recipe: Recipe, export: ExportSpec) -> str:
    """What the file of an export is called."""
    return f"{recipe.model.stem}.{export.precision}{SUFFIXES[export.format]}"


def run_baseline(recipe: Recipe, path: Path) -> Baseline:
    """What growth is held against: the files at `path` that are called like the exported ones, as for a check.

    Raises UsageError where the recipe limits no growth, and what `load_baseline` raises.
    """
    if recipe.budget is None or not recipe.budget.limits_growth:
        raise UsageError(f'{recipe.path}: --baseline is what growth is against; add growth = "2 %" to [budget]')
    names = [export_name(recipe, export) for export in recipe.exports]
    estimator = estimator_for(recipe.budget.devices)
    since = recipe.budget.growth_since
    tags = [since.tag] if since is not None and since.tag is not None else []
    return load_baseline(path, names, with_quick([recipe.budget.codec]), estimator=estimator, tags=tags)


def stage_model(folder: Path, recipe: Recipe, stage: str) -> Path:
    """Where a run with `keep_stages` leaves the Keras model of a stage."""
    return folder / "stages" / f"{recipe.model.stem}.{file_part(stage)}.keras"


def file_part(text: str) -> str:
    """A stage's name as part of a file name."""
    return "-".join("".join(ch if ch.isalnum() else " " for ch in text).split()) or "stage"


def origin_of(recipe: Recipe, export: ExportSpec) -> str:
    """The stage of an export: an integer .tflite belongs to the quantize stage, all others to the last one that changed
    the model."""
    steps = recipe.steps
    names = ["dense", *(s.name for s in steps if isinstance(s, QatStep) or not isinstance(s, QuantizeStep))]
    quantized = [step.name for step in steps if isinstance(step, QuantizeStep)]
    integer = export.format is Format.TFLITE and export.precision in INTEGER
    return quantized[-1] if integer and quantized else names[-1]


def ships_as(recipe: Recipe, stage: str, precision: Precision) -> ExportSpec | None:
    """The export that the .tflite file of a stage becomes: it gets its metadata, and every runtime is tried on it, at
    once."""
    exports = [export for export in recipe.exports if export.format is Format.TFLITE and not export.sparse_kernels]
    fit = (export for export in exports if export.precision is precision and origin_of(recipe, export) == stage)
    return next(fit, None)


def with_export(stage: Stage, entry: ArtifactEntry, *, in_place_of: ArtifactEntry | None) -> Stage:
    """The stage with the record of an exported file, which may have been a file of the stage's own."""
    if in_place_of is None:
        return replace(stage, artifacts=(*stage.artifacts, entry))
    artifacts = tuple(entry if known is in_place_of else known for known in stage.artifacts)
    stands = stage.metric is not None and stage.metric.file == in_place_of.path
    if not stands:
        return replace(stage, artifacts=artifacts)
    return replace(stage, artifacts=artifacts, metric=entry.metric, metrics=entry.metrics)


def metric_note(entry: ArtifactEntry) -> str:
    """Its scores, or why it has none, for a line of progress."""
    return ", ".join(f"{found.name} {found.value:.4f}" for found in entry.metrics) or entry.metric_note or ""
