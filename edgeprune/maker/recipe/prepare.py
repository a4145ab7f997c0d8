"""What can be known before a run: recipe, model and data read and found to fit together."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgeprune.artifact import Format
from edgeprune.converters.exports import check_export
from edgeprune.converters.packaging import AppOptions, check_words
from edgeprune.converters.probabilities import classified
from edgeprune.errors import MissingExtra, RecipeError, Unsupported, UsageError
from edgeprune.formats.metadata import check_ends
from edgeprune.host.toml_values import check_choice
from edgeprune.maker.keras.compiled import compiled_of
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.keras.models import input_specs, output_shapes, refuse_half_precision
from edgeprune.maker.keras.starting import take_threads
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.groups import Structure
from edgeprune.maker.pruning.channel.plan import chosen_groups
from edgeprune.maker.pruning.channel.pruner import analyse
from edgeprune.maker.pruning.magnitude import nothing_to_prune, select_targets
from edgeprune.maker.recipe.entries import file_part
from edgeprune.maker.recipe.latency_search import refuse_unknown_macs
from edgeprune.maker.recipe.recipe import (
    ChannelStep,
    ExportSpec,
    PruneStep,
    Recipe,
    Step,
    student_step,
)
from edgeprune.maker.recipe.steps import needs_training_data, teacher_file, teacher_of, training_of
from edgeprune.maker.recipe.student import check_alike, narrower
from edgeprune.maker.training.augmentation import Augmenter
from edgeprune.maker.training.data.class_weights import weighted
from edgeprune.maker.training.data.loading import load_split
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.goals import task_of
from edgeprune.maker.training.metrics import METRICS
from edgeprune.maker.training.options import TrainOptions
from edgeprune.maker.training.task import Task
from edgeprune.runtime.session import installed_runtimes

__all__ = [
    "Prepared",
    "adapted",
    "app_options",
    "check_extras",
    "prepare",
    "through_norms",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A recipe whose model and data have been read and found to fit together.

    `structures` are the dependency groups of `model` as far as its steps ask for them, by `through_norms`; `student`
    is the smaller model as it begins, `teachers` those that are files, by their path.
    """

    recipe: Recipe
    model: Model
    structures: Mapping[bool, Structure] = field(default_factory=dict)
    task: Task
    train: Samples | None
    validation: Samples | None
    test: Samples
    student: Model | None = None
    teachers: Mapping[str, Model] = field(default_factory=dict)


def check_extras(recipe: Recipe) -> None:
    """Raise MissingExtra for a package that the recipe will need. Nothing heavy is imported."""

    def missing(module: str) -> bool:
        return importlib.util.find_spec(module) is None

    for module in ("tensorflow", "keras"):
        if missing(module):
            raise MissingExtra(module, "convert", "running a recipe")
    if any(e.format is Format.COREML for e in recipe.exports) and missing("coremltools"):
        raise MissingExtra("coremltools", "convert", "a Core ML export")
    wants_tfmot = any(isinstance(s, PruneStep) and s.backend == "tfmot" for s in recipe.steps)
    if wants_tfmot and (missing("tensorflow_model_optimization") or missing("tf_keras")):
        raise MissingExtra("tensorflow-model-optimization and tf-keras", "tfmot", "the tfmot backend")
    if not installed_runtimes():
        raise MissingExtra("a TFLite runtime", "litert", "measuring the accuracy of a .tflite file")


def prepare(recipe: Recipe, *, trust_code: bool = False, custom: Sequence[Path] = ()) -> Prepared:
    """Read model and data and check everything that can be known before any training.

    `trust_code` and `custom` are those of `load_model`.
    """
    check_extras(recipe)
    packages = _packages(recipe)
    take_threads(recipe.threads)
    model = load_model(recipe.model, trust_code=trust_code, custom=custom)
    refuse_half_precision(model)
    _check_ends(recipe, model, packages)
    task = _task(recipe, model, trust_code=trust_code)

    def split(path: Path | None) -> Samples | None:
        if path is None:
            return None
        return load_split(
            path,
            model,
            task,
            scale=recipe.data.scale,
            offset=recipe.data.offset,
            trust_code=trust_code,
            on_bad_sample=recipe.data.on_bad_sample,
        )

    splits = split(recipe.data.train), split(recipe.data.validation), split(recipe.data.test)
    train, validation, test = _with_set_aside(recipe, *splits)

    def loaded(path: Path, what: str) -> Model:
        other = load_model(path, trust_code=trust_code, custom=custom)
        try:
            check_alike(model, other, what)
        except UsageError as cause:
            raise RecipeError(f"{recipe.path}: {cause}") from cause
        return other

    student = _student(recipe, model, loaded)
    return Prepared(
        recipe=recipe,
        model=model,
        student=student,
        teachers={
            name: loaded(Path(name), f"the teacher {Path(name).name}")
            for name in dict.fromkeys(map(teacher_of, recipe.steps))
            if name and teacher_file(name)
        },
        structures=_checked_steps(recipe, model, student, task, train, {}),
        task=task,
        train=train,
        validation=validation,
        test=test,
    )


def adapted(prepared: Prepared, recipe: Recipe) -> Prepared:
    """The same model and data under a recipe that differs in its steps and exports only. Raises RecipeError."""
    _check_ends(recipe, prepared.model, _packages(recipe))
    structures = _checked_steps(
        recipe, prepared.model, prepared.student, prepared.task, prepared.train, prepared.structures
    )
    return replace(prepared, recipe=recipe, structures=structures)


def _with_set_aside(
    recipe: Recipe, train: Samples | None, validation: Samples | None, test: Samples | None
) -> tuple[Samples | None, Samples | None, Samples]:
    """The splits, those that are missing taken from the training samples. Raises RecipeError where those are few."""
    share, missing = recipe.data.set_aside, (validation is None) + (test is None)
    if share is not None and train is not None and missing:
        count = round(share * len(train))
        if count < 1:
            raise RecipeError(f"{recipe.path}: set_aside = {share:g} of {len(train)} training samples is none")
        train, *aside = train.set_aside(count, missing, np.random.default_rng(recipe.seed))
        test = aside.pop() if test is None else test
        validation = aside.pop() if validation is None else validation
    assert test is not None
    return train, validation, test


def _student(recipe: Recipe, model: Model, loaded: Callable[[Path, str], Model]) -> Model | None:
    """The smaller model of [student] as it begins. Raises RecipeError for a model that none can be made of."""
    asked = recipe.student
    if asked is None:
        return None
    if asked.model is not None:
        return loaded(asked.model, f"the student {asked.model.name}")
    assert asked.width is not None
    try:
        return narrower(model, asked.width, seed=recipe.seed)
    except (UsageError, Unsupported) as cause:
        raise RecipeError(f'{recipe.path}: [student] width: {cause}; or give one: model = "small.keras"') from cause


def _task(recipe: Recipe, model: Model, *, trust_code: bool) -> Task:
    """What the recipe, or else the model, says of loss and metric. Raises RecipeError for what does not fit."""
    trains = any(needs_training_data(step) for step in recipe.steps)
    if not recipe.goal.metric and compiled_of(model) is None:
        raise RecipeError(
            f"{recipe.path}: the key 'metric' is missing, and the model is not compiled; add one of "
            f'{", ".join(METRICS)}, or "file.py:function"'
        )
    try:
        task = task_of(model, recipe.goal, trains=trains, trust_code=trust_code)
        for name in recipe.budget.metric_drops if recipe.budget else ():
            check_choice("metric in max_metric_drop", name, [score.name for score in task.scores]) if name else None
    except UsageError as cause:
        raise RecipeError(f"{recipe.path}: {cause}") from cause
    return task


def _packages(recipe: Recipe) -> list[AppOptions]:
    """The options of each export's package. Raises RecipeError for an export that cannot be made."""
    packages = []
    for export in recipe.exports:
        try:
            check_export(export.format, export.precision, export.package.deployment_target)
            packages.append(app_options(recipe, export))
            check_words(export.format, packages[-1])
        except UsageError as cause:
            raise RecipeError(f"{recipe.path}: {cause}") from cause
    return packages


def _check_ends(recipe: Recipe, model: Model, packages: Sequence[AppOptions]) -> None:
    """Raise RecipeError for a package that does not suit the model's inputs and outputs."""
    for options in packages:
        try:
            check_ends(input_specs(model), output_shapes(model), options)
            if options.softmax:
                classified(model, options)
        except UsageError as cause:
            raise RecipeError(f"{recipe.path}: {cause}") from cause


def _checked_steps(
    recipe: Recipe,
    model: Model,
    student: Model | None,
    task: Task,
    train: Samples | None,
    known: Mapping[bool, Structure],
) -> dict[bool, Structure]:
    """What the steps ask of the model's dependency groups, by `through_norms`; `known` are those of before. Raises
    RecipeError for a step that the model cannot take."""
    slugs = ["dense", *(file_part(step.name) for step in recipe.steps)]
    if len(set(slugs)) != len(slugs):
        raise RecipeError(f"{recipe.path}: two stages have names that make the same file name: {', '.join(slugs)}")
    structures = dict(known)
    current, begins = model, student_step(recipe)
    for step in recipe.steps:
        current = student if step is begins and student is not None else current
        try:
            _check_step(step, current, structures)
            if isinstance(step, PruneStep) and step.backend == "tfmot":
                _check_tfmot(current, task)
            training = training_of(step)
            if train is not None and training is not None:
                weighted(train, training.class_weight, task)
        except RecipeError:
            raise
        except UsageError as cause:
            raise RecipeError(f"{recipe.path}: step {step.name!r}: {cause}") from cause
    return structures


def app_options(recipe: Recipe, export: ExportSpec) -> AppOptions:
    """What a file of this recipe tells the app. Raises UsageError, and InputError for bad class labels."""
    return export.package.resolved(scale=recipe.data.scale, bias=(recipe.data.offset,))


def _check_step(step: Step, model: Model, structures: dict[bool, Structure]) -> None:
    """Raise now what the step would raise after the first exports; note what was found of the model."""
    training = training_of(step)
    if training is not None:
        _check_training(training, model)
    if isinstance(step, PruneStep):
        _check_kernels(step, model)
    if isinstance(step, ChannelStep):
        through = through_norms(step)
        if through not in structures:
            structures[through] = analyse(model, through_norms=through)
        _check_channels(step, structures[through])


def _check_training(options: TrainOptions, model: Model) -> None:
    shapes = [shape for shape, _ in input_specs(model).values()]
    Augmenter(shapes, flip=options.flip, shift=options.shift, seed=options.seed)


def _check_kernels(step: PruneStep, model: Model) -> None:
    chosen, skipped = select_targets(model, step.options)
    if not chosen:
        raise UsageError(nothing_to_prune(skipped, step.options))
    if step.options.permute:
        analyse(model, through_norms=True)  # raises for a model whose channels cannot be followed


def _check_tfmot(model: Model, task: Task) -> None:
    from edgeprune.maker.pruning.tfmot_backend import check_task
    from edgeprune.maker.pruning.tfmot_description import describe

    check_task(model, task)
    describe(model)  # raises for a layer that cannot be rebuilt in tf_keras


def _check_channels(step: ChannelStep, structure: Structure) -> None:
    if step.options is None:
        return
    if not chosen_groups(structure, step.options)[0]:
        raise UsageError("nothing to prune: no group of channels may lose any; see edgeprune groups MODEL")
    if step.options.latency is not None:
        refuse_unknown_macs(structure)


def through_norms(step: ChannelStep) -> bool:
    """Whether the step follows channels through a LayerNormalization; for dead channels it never does."""
    return step.options is not None and step.options.through_norms
