"""A recipe: what to do with one model, as TOML. What can be known without reading the model is checked here."""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeprune.artifact import Format, Precision
from edgeprune.checker.budget import Budget, read_budget
from edgeprune.checker.latency.latency_targets import why_never
from edgeprune.checker.latency.profiles import find_profile, profile_place
from edgeprune.converters.exports import INTEGER, calibrated, check_opset, check_sparse_kernels
from edgeprune.converters.packaging import PackageOptions
from edgeprune.errors import EdgepruneError, RecipeError, UsageError
from edgeprune.host.toml_values import known_keys, read_toml, typed
from edgeprune.maker.recipe.steps import (
    ChannelStep,
    EqualizeStep,
    FinetuneStep,
    ModelStep,
    PruneStep,
    QatStep,
    QuantizeStep,
    Step,
    TrainingStep,
    check_step,
    needs_training_data,
    read_step,
    teacher_file,
    teacher_of,
    training_of,
)
from edgeprune.maker.recipe.student import StudentSpec
from edgeprune.maker.recipe.tables import read_table
from edgeprune.maker.training.data.words import OnBadSample
from edgeprune.maker.training.goal import GOAL_KEYS, Goal, read_goal

__all__ = [
    "ChannelStep",
    "DataSpec",
    "EqualizeStep",
    "ExportSpec",
    "FinetuneStep",
    "LatencySpec",
    "ModelStep",
    "PruneStep",
    "QatStep",
    "QuantizeStep",
    "Recipe",
    "Step",
    "StudentSpec",
    "calibrating",
    "devices_of",
    "load_recipe",
    "recipe_of_text",
    "student_step",
]


SWITCHES = {"keep_stages": False, "blame": False, "html": True}  # and what they are where they are left out
TABLES = ("seed", "threads", "data", "steps", "exports", "latency", "budget", "student")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """[data]: for each split an .npz, .csv or .parquet file, a folder of pictures (a folder for each class), TFRecord
    files, or "file.py:function", which runs your own code with `--trust-code`; float inputs become value * scale +
    offset."""

    train: Path | None = None
    """Samples for the steps that train, calibrate or look at data."""
    validation: Path | None = None
    """Samples that choose the best epoch of a training."""
    test: Path | None = None
    """Samples that every file is scored on; **required** without `set_aside`."""
    set_aside: float | None = None
    """Share of the training samples that takes the place of each of `validation` and `test` that is not there, by the
    seed, and that nothing trains on."""
    scale: float = 1.0
    """Float inputs become `value * scale + offset`."""
    offset: float = 0.0
    """See `scale`."""
    on_bad_sample: OnBadSample = OnBadSample.ERROR
    """`"error"`, or `"skip"`: damaged pictures and records, lines that are none and NaN are counted and left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """[[exports]]: a file to ship, made from the model after the last training step.

    Pictures of `package.image_input` are scaled like the data.
    """

    format: Format
    """`"tflite"`, `"coreml"` or `"onnx"`."""
    precision: Precision
    """tflite: `float32`, `float16`, `dynamic`, `int8`, `int16x8`; onnx: `float32`, `float16`, `int8`; coreml: those of
    the page on Core ML."""
    opset: int | None = None
    """onnx: the version of the set of operators, 13 to 18; left out, 17."""
    sparse_kernels: bool = False
    """tflite float32 and float16: a file that XNNPACK runs with sparse kernels, on Arm and in WebAssembly."""
    package: PackageOptions = field(default_factory=PackageOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySpec:
    """[latency]: the paired measurement on this host (`measure = false` leaves it out), and the device profiles from
    which the latency of every exported file is estimated."""

    measure: bool = True
    """Whether stages are timed on this host, paired with the dense model."""
    processes: int = 5
    """How many processes time each pair of files, 3 to 50."""
    pairs: int = 30
    """Pairs of runs in each process, 5 to 1000."""
    devices: tuple[str, ...] = ()
    """Profiles from which the latency of what ships is estimated: names of `edgeprune devices`, or .toml files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One run. Paths are resolved against the recipe's folder."""

    path: Path
    sha256: str
    model: Path
    """The Keras model, `.keras` or `.h5`."""
    goal: Goal
    seed: int = 0
    """Same seed, same result on the same machine."""
    threads: int | None = None
    """Threads of training; left out, a core each. Another number changes the last bits; 1 suits small models."""
    keep_stages: bool = False
    """Keep the Keras model of each stage in `stages/` of the output, so that `edgeprune blame` can undo steps."""
    blame: bool = False
    """At the end of the run measure what undoing each step and each layer brings back; see the page on blame."""
    html: bool = True
    """Draw `report.html` beside the ledger: the run as one page with pictures."""
    data: DataSpec
    steps: tuple[Step, ...]
    exports: tuple[ExportSpec, ...]
    latency: LatencySpec
    budget: Budget | None
    student: StudentSpec | None = None


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises InputError (cannot be read) and RecipeError (cannot be run as it stands)."""
    return _checked(path, *read_toml(path))


def recipe_of_text(path: Path, text: str) -> Recipe:
    """The recipe that `text` is, where it stood at `path`. Raises RecipeError."""
    return _checked(path, text.encode(), tomllib.loads(text))


def _checked(path: Path, content: bytes, raw: Mapping[str, object]) -> Recipe:
    try:
        return _recipe(path, hashlib.sha256(content).hexdigest(), raw)
    except RecipeError:
        raise
    except UsageError as cause:
        raise RecipeError(f"{path}: {cause}") from cause


def _recipe(path: Path, sha256: str, raw: Mapping[str, object]) -> Recipe:
    known_keys(path, "", raw, ("model", *GOAL_KEYS, *SWITCHES, *TABLES))
    for key in ("model", "data"):
        if key not in raw:
            raise RecipeError(f"{path}: the key '{key}' is missing")
    seed = typed(path, "seed", raw.get("seed", 0), int)
    data = read_table(path, "data", raw["data"], DataSpec)
    steps = [read_step(path, n, item, seed=seed) for n, item in enumerate(_list(path, "steps", raw), start=1)]
    splits = {key: path.parent / value for key in ("train", "validation", "test") if (value := getattr(data, key))}
    latency = _latency(path, raw.get("latency", {}))
    recipe = Recipe(
        path=path,
        sha256=sha256,
        model=path.parent / typed(path, "model", raw["model"], str),
        goal=read_goal(path, raw),
        seed=seed,
        threads=None if "threads" not in raw else typed(path, "threads", raw["threads"], int),
        data=replace(data, **splits),
        steps=tuple(_placed(path, step) for step in steps),
        **{key: typed(path, key, raw.get(key, usual), bool) for key, usual in SWITCHES.items()},
        exports=tuple(
            _export(path, f"exports {n}", item) for n, item in enumerate(_list(path, "exports", raw), start=1)
        ),
        latency=latency,
        budget=_budget(path, raw["budget"], latency) if "budget" in raw else None,
        student=_student(path, raw["student"]) if "student" in raw else None,
    )
    _check(recipe)
    return recipe


def _placed(path: Path, step: Step) -> Step:
    """A step whose teacher, if it is a file, lies beside the recipe."""
    teacher = teacher_of(step)
    if not isinstance(step, TrainingStep) or teacher is None or not teacher_file(teacher):
        return step
    return replace(step, teacher=str(path.parent / teacher))


def _student(path: Path, raw: object) -> StudentSpec:
    found = read_table(path, "student", raw, StudentSpec)
    return replace(found, model=path.parent / found.model) if found.model else found


def student_step(recipe: Recipe) -> FinetuneStep | None:
    """The step that trains the student: the first of kind finetune that names a teacher; None without a student."""
    if recipe.student is None:
        return None
    return next((s for s in recipe.steps if isinstance(s, FinetuneStep) and s.teacher is not None), None)


def _list(path: Path, key: str, raw: Mapping[str, object]) -> list[object]:
    value = raw.get(key, [])
    if not isinstance(value, list):
        raise RecipeError(f"{path}: '{key}' is a list of tables; write [[{key}]] above each one")
    return value


def _export(path: Path, where: str, raw: object) -> ExportSpec:
    export = read_table(path, where, raw, ExportSpec)
    return replace(export, package=export.package.below(path.parent))


def _latency(path: Path, raw: object) -> LatencySpec:
    found = read_table(path, "latency", raw, LatencySpec)
    return replace(found, devices=tuple(profile_place(path, name) for name in found.devices))


def _budget(path: Path, raw: object, latency: LatencySpec) -> Budget:
    """Limits on latency without a device of their own are for all devices of [latency]."""
    budget = read_budget(path, "budget", raw, of_run=True)
    if budget.limits_latency and not budget.devices:
        return replace(budget, devices=latency.devices)
    return budget


def calibrating(recipe: Recipe) -> QuantizeStep:
    """The step that says how many training samples set scales; the usual one of a recipe without."""
    return next((step for step in recipe.steps if isinstance(step, QuantizeStep)), QuantizeStep())


def devices_of(recipe: Recipe) -> tuple[str, ...]:
    """The profiles that the exported files are estimated from: those of [latency] and of [budget]."""
    return tuple(dict.fromkeys([*recipe.latency.devices, *(recipe.budget.devices if recipe.budget else ())]))


def _check(recipe: Recipe) -> None:
    """What the tables say together."""
    path = recipe.path
    if not recipe.steps and not recipe.exports:
        raise RecipeError(f"{path}: nothing to do; add [[steps]] or [[exports]]")
    share = recipe.data.set_aside
    if recipe.data.test is None and share is None:
        raise RecipeError(f"{path}: [data] lacks 'test'; name samples, or set_aside = 0.1 of the training samples")
    if share is not None and not (0 < share <= 0.4 and recipe.data.train is not None):
        raise RecipeError(f"{path}: set_aside in [data] is a share of the samples in train, above 0 and at most 0.4")
    if recipe.threads is not None and not 1 <= recipe.threads <= 1024:
        raise RecipeError(f"{path}: threads is a whole number from 1 to 1024; got {recipe.threads}")
    if not 0 <= recipe.seed < 2**32:
        raise RecipeError(f"{path}: seed is a whole number from 0 to {2**32 - 1}; got {recipe.seed}")
    if not (math.isfinite(recipe.data.scale) and math.isfinite(recipe.data.offset)):
        raise RecipeError(f"{path}: scale and offset in [data] are finite numbers")
    if not 3 <= recipe.latency.processes <= 50 or not 5 <= recipe.latency.pairs <= 1000:
        raise RecipeError(f"{path}: [latency] takes 3 to 50 processes and 5 to 1000 pairs")
    for device in devices_of(recipe):
        try:
            find_profile(device)
        except EdgepruneError as cause:
            where = "[latency] devices" if device in recipe.latency.devices else "[budget] device"
            raise RecipeError(f"{path}: {where}: {cause}") from cause
    budget = recipe.budget
    if budget and budget.limits_latency and not budget.devices:
        raise RecipeError(
            f"{path}: [budget] limits a latency, which is estimated; name the profile: device in [budget], or devices "
            "in [latency]"
        )
    _check_exports(recipe, _check_steps(recipe))
    if budget and budget.limits_latency:
        _check_latency_limit(recipe, budget)


def _check_latency_limit(recipe: Recipe, budget: Budget) -> None:
    """Raise RecipeError for a limit that no run could check: the files are made long before it is known otherwise."""
    for export in recipe.exports:
        for device in budget.devices:
            profile = find_profile(device)
            reason = why_never(profile, str(export.format), str(export.precision))
            if reason:
                raise RecipeError(
                    f"{recipe.path}: [budget] the limit on latency cannot be checked for the {export.format} "
                    f"{export.precision} export on {profile.name}: {reason}; leave out one of them, or limit each file "
                    "with edgeprune check"
                )


def _check_steps(recipe: Recipe) -> str | None:
    """Each step, their order and their names; the precision that the last one quantizes to."""
    path = recipe.path
    trains = [s.kind for s in recipe.steps if needs_training_data(s)]
    quantizes = [n for n, s in enumerate(recipe.steps) if isinstance(s, QuantizeStep)]
    if (trains or quantizes) and recipe.data.train is None:
        raise RecipeError(f"{path}: the step '{(trains or ['quantize'])[0]}' needs training data; set train in [data]")
    if len(quantizes) > 1 or (quantizes and quantizes[0] != len(recipe.steps) - 1):
        raise RecipeError(f"{path}: 'quantize' or 'qat' comes once and last: nothing can be trained after it")
    names = ["dense", *(step.name for step in recipe.steps)]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise RecipeError(f'{path}: two stages are called {twice!r}; give the step a name of its own: name = "..."')
    for step in recipe.steps:
        try:
            check_step(step)
        except EdgepruneError as cause:
            raise RecipeError(f"{path}: step {step.name!r}: {cause}") from cause
    _check_teachers(recipe)
    _check_patterns(recipe)
    _check_features(recipe)
    last = recipe.steps[-1] if recipe.steps else None
    if isinstance(last, QuantizeStep) and last.searches and not (recipe.data.validation or recipe.data.set_aside):
        raise RecipeError(
            f"{path}: max_drop, spend and download_target are measured on validation samples; set validation in [data]"
        )
    return last.precision if isinstance(last, QuantizeStep) else None


def _check_patterns(recipe: Recipe) -> None:
    """No channels go behind a step that made a pattern: the groups of inputs would be others."""
    asked = None
    for step in recipe.steps:
        if asked is not None and isinstance(step, ChannelStep):
            raise RecipeError(
                f"{recipe.path}: step {step.name!r} removes channels and so breaks the {asked.options.pattern} of step "
                f"{asked.name!r}: put it before that one"
            )
        asked = step if isinstance(step, PruneStep) and step.options.pattern is not None else asked


def _check_features(recipe: Recipe) -> None:
    """Channels are compared with those of the recipe's model only while they are the same ones."""
    moved = "[student]" if recipe.student is not None else ""
    for step in recipe.steps:
        training = training_of(step)
        moved = moved or (f"step {step.name!r}" if isinstance(step, PruneStep) and step.options.permute else "")
        if moved and training is not None and training.features:
            why = f"features compares channels with the recipe's model, and those of {moved} are others: leave it out"
            raise RecipeError(f"{recipe.path}: step {step.name!r}: {why}")


def _check_teachers(recipe: Recipe) -> None:
    """Each teacher is a file or an earlier stage, and a student has a step that trains it."""
    path, known = recipe.path, ["dense"]
    for step in recipe.steps:
        teacher = teacher_of(step)
        if teacher is not None and not teacher_file(teacher) and teacher not in known:
            raise RecipeError(
                f"{path}: step {step.name!r}: teacher is a .keras file or an earlier stage ({', '.join(known)}); got "
                f"{teacher!r}"
            )
        known.append(step.name)
    if recipe.student is None:
        return
    trained = student_step(recipe)
    if trained is None:
        raise RecipeError(
            f'{path}: [student] needs a step that trains it: kind = "finetune" with teacher = "dense" (or the name '
            "of an earlier stage) and distill = 0.5"
        )
    later = recipe.steps[recipe.steps.index(trained) :]
    if any(isinstance(step, ChannelStep) for step in later):
        raise RecipeError(f"{path}: a channel step behind the student is not built: make it narrower by its width")


def _check_exports(recipe: Recipe, quantized: str | None) -> None:
    path = recipe.path
    for export in recipe.exports:
        if export.format is Format.TFLITE and export.precision in INTEGER and export.precision != quantized:
            also = "" if export.precision is Precision.INT8 else f' and precision = "{export.precision}"'
            raise RecipeError(
                f'{path}: a tflite export of precision {export.precision} needs a step with kind = "quantize"{also}'
            )
        check_opset(export.format, export.opset)
        check_sparse_kernels(export.format, export.precision, wanted=export.sparse_kernels)
        if calibrated(export.format, export.precision) and recipe.data.train is None:
            raise RecipeError(
                f"{path}: the {export.format} {export.precision} export learns its ranges from training data; "
                "set train in [data]"
            )
    if len({(e.format, e.precision) for e in recipe.exports}) != len(recipe.exports):
        raise RecipeError(f"{path}: the same format and precision is exported twice")
    if recipe.budget and not recipe.exports:
        raise RecipeError(f"{path}: [budget] is held against exported files, and there are no [[exports]]")
