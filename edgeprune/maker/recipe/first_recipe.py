"""A first recipe for what lies in a folder: model, samples and exports that were seen, proved before it is written."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeprune.checker.config import download_of
from edgeprune.checker.folder import Seen
from edgeprune.errors import EdgepruneError, MissingExtra, UsageError
from edgeprune.host.progress import Progress
from edgeprune.maker.keras.compiled import compiled_of
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.keras.models import input_specs, output_names, output_shapes
from edgeprune.maker.keras.types import Model
from edgeprune.maker.recipe.advised import TRAIN, TUNE
from edgeprune.maker.recipe.plan_words import plan_lines
from edgeprune.maker.recipe.prepare import Prepared, prepare
from edgeprune.maker.recipe.recipe import recipe_of_text
from edgeprune.maker.recipe.recipe_toml import RecipeFiles, recipe_toml
from edgeprune.maker.training.data.loading import load_samples
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.goal import FIRST
from edgeprune.units import format_bytes

__all__ = ["FirstRecipe", "first_recipe", "metric_for", "splits_of"]

SPLITS = ("train", "validation", "test")
SPARSITY = 0.8
SET_ASIDE = 0.1
MOST_DROP = "2 %"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRecipe:
    """A recipe that `run --dry-run` takes: its text, the plan, and what somebody should still decide."""

    text: str
    plan: tuple[str, ...]
    open: tuple[str, ...]


def splits_of(seen: Seen) -> dict[str, Path]:
    """The splits of a recipe; a single file of samples without a name that tells is there to train on."""
    named = {name: seen.splits[name] for name in SPLITS if name in seen.splits}
    return named or ({"train": seen.samples[0]} if len(seen.samples) == 1 else {})


def first_recipe(
    seen: Seen, place: Path, progress: Progress, *, trust_code: bool = False, custom: Sequence[Path] = ()
) -> FirstRecipe:
    """The recipe that will stand at `place`. Raises UsageError without samples, and what `prepare` raises of them."""
    splits = splits_of(seen)
    if not {"train", "test"} & set(splits):
        raise UsageError(
            "no samples were seen, so nothing could be measured: put train.npz and test.npz (arrays x and y) beside "
            "the model, and run edgeprune init again"
        )
    progress.begin(f"load {seen.models[0].name}")
    model = load_model(seen.models[0], trust_code=trust_code, custom=custom, on_note=progress.note)
    progress.end()
    progress.begin("read samples, check the recipe")
    goal = {} if compiled_of(model) is not None else _goal(model, splits.get("train", splits.get("test")))
    prepared, text = _proved(seen, place, splits, goal, trust_code=trust_code, custom=custom)
    progress.end()
    return FirstRecipe(
        text=text, plan=tuple(plan_lines(prepared)), open=tuple(_open(prepared, splits, goal, seen.models[1:]))
    )


def _proved(
    seen: Seen,
    place: Path,
    splits: Mapping[str, Path],
    goal: Mapping[str, object],
    *,
    trust_code: bool,
    custom: Sequence[Path],
) -> tuple[Prepared, str]:
    """The fullest recipe that model and samples take: with zeros where there are kernels to prune."""
    first: EdgepruneError | None = None
    for zeros in (True, False):
        text = _text(seen, place, splits, goal, {}, zeros=zeros)
        try:
            prepared = prepare(recipe_of_text(place, text), trust_code=trust_code, custom=custom)
        except MissingExtra:
            raise
        except EdgepruneError as error:
            first = first or error
            continue
        text = _text(seen, place, splits, goal, _budget(prepared, seen.models[0]), zeros=zeros)
        return replace(prepared, recipe=recipe_of_text(place, text)), text
    assert first is not None
    raise first


def _text(
    seen: Seen,
    place: Path,
    splits: Mapping[str, Path],
    goal: Mapping[str, object],
    budget: Mapping[str, object],
    *,
    zeros: bool,
) -> str:
    trains = "train" in splits
    files = RecipeFiles(
        model=seen.models[0],
        splits=splits,
        goal=goal,
        set_aside=SET_ASIDE if trains and len(splits) < 3 else None,
    )
    steps: list[dict[str, object]] = []
    if trains and zeros:
        steps += [{"kind": "prune", "sparsity": SPARSITY, **TRAIN}, {"kind": "finetune", **TUNE}]
    steps += [{"kind": "quantize"}] if trains else []
    return recipe_toml(
        files,
        place,
        head="Written by edgeprune init from what it saw; every key: docs/recipe-keys.md",
        steps=steps,
        exports=_exports(seen, integer=trains),
        latency={},
        budget=budget,
    )


def _exports(seen: Seen, *, integer: bool) -> list[tuple[str, str]]:
    """The formats that are in use in the folder; where none is, TFLite and Core ML."""
    suffixes = {path.suffix.lower() for path in seen.ships}
    apple, onnx = suffixes & {".mlpackage", ".ipa"}, suffixes & {".onnx"}
    android = suffixes & {".tflite", ".apk", ".aab", ".apks", ".xapk"} or not apple | onnx
    exports = [("tflite", "int8" if integer else "float16")] if android else []
    if (apple or not suffixes) and importlib.util.find_spec("coremltools") is not None:
        exports.append(("coreml", "int8"))
    if onnx and importlib.util.find_spec("tf2onnx") is not None:
        exports.append(("onnx", "int8" if integer else "float16"))
    return exports or [("tflite", "int8" if integer else "float16")]


def _budget(prepared: Prepared, model: Path) -> dict[str, object]:
    """What int8 reaches at the least, and a drop that somebody would notice."""
    scores = prepared.task.scores
    drops = {score.name: MOST_DROP for score in scores if score.metric.higher_is_better}  # an error has a unit
    budget: dict[str, object] = {}
    dense = download_of(model)
    if prepared.recipe.steps and dense is not None:
        budget["download"] = format_bytes(dense // 2)
    if drops:
        budget["max_metric_drop"] = MOST_DROP if len(scores) == 1 else drops
    return budget


def _goal(model: Model, path: Path | None) -> dict[str, object]:
    """A metric for each output that has targets, as a recipe writes it."""
    assert path is not None
    names = output_names(model)
    samples = load_samples(path, input_specs(model), need_targets=False, outputs=names, other=names)
    metrics = _metrics(output_shapes(model), samples)
    return {"metric": metrics[FIRST] if set(metrics) == {FIRST} else metrics} if metrics else {"metric": "accuracy"}


def _metrics(shapes: Mapping[str, tuple[int | None, ...]], samples: Samples) -> dict[str, str]:
    first = next(iter(shapes))
    arrays = {(first if name == FIRST else name): values for name, values in samples.told.items()}
    metrics = {name: metric_for(shape, arrays[name]) for name, shape in shapes.items() if name in arrays}
    return {FIRST: metrics[first]} if len(shapes) == 1 and metrics else metrics


def metric_for(shape: tuple[int | None, ...], targets: np.ndarray) -> str:
    """The metric that suits an output of `shape` (the batch first) with these targets [samples, ...]."""
    places, classes = len(shape) - 1, shape[-1] or 0
    whole = bool(np.all(targets == np.round(targets)))
    if whole and classes > 1 and targets.ndim == places and targets.max(initial=0) < classes:
        return "iou" if places > 2 else "accuracy"
    if whole and set(np.unique(targets).tolist()) <= {0, 1}:
        return "auc" if targets.size == len(targets) else "binary_accuracy"
    return "mae"


def _open(
    prepared: Prepared, splits: Mapping[str, Path], goal: Mapping[str, object], others: Sequence[Path]
) -> list[str]:
    """What was taken for want of a better word."""
    lines = []
    missing = [name for name in SPLITS if name not in splits]
    if "train" in missing:
        lines.append("no training samples were seen, so nothing is pruned or calibrated: set train in [data]")
    elif missing:
        lines.append(f"{' and '.join(missing)}: a tenth of {splits['train'].name} is set aside; better name files")
    if goal:
        names = ", ".join(score.name for score in prepared.task.scores)
        lines.append(f"metric {names}: by the outputs and targets, for the model is not compiled")
    if any(step.kind == "prune" for step in prepared.recipe.steps):
        lines.append(f"sparsity {SPARSITY:g} and the epochs are a start; edgeprune advise and shrink find better ones")
    if prepared.recipe.budget is not None:
        lines.append("the limits in [budget] are a start: half of the model's download as it is, 2 % of the metric")
    lines.append("scale and offset in [data]: inputs are read as they are stored")
    if others:
        lines.append(f"model: {prepared.recipe.model.name} is the nearest; also there: {_names(others)}")
    return lines


def _names(paths: Sequence[Path]) -> str:
    names = [path.name for path in paths[:3]]
    return ", ".join(names) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
