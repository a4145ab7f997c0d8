"""A recipe: what to do with one model, as TOML. What can be known without reading the model is checked here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgeprune.artifact import Format, Precision
from edgeprune.errors import EdgepruneError, InputError, RecipeError, UsageError
from edgeprune.latency.profiles import find_profile
from edgeprune.metrics import METRICS
from edgeprune.size.codecs import CODECS
from edgeprune.toml_values import known_keys, near, read_toml, typed
from edgeprune.units import parse_bytes

__all__ = [
    "Budget",
    "ChannelStep",
    "DataSpec",
    "ExportSpec",
    "FinetuneStep",
    "LatencySpec",
    "PruneStep",
    "QuantizeStep",
    "Recipe",
    "Step",
    "load_recipe",
]

BACKENDS = ("native", "tfmot")
LOOKS_AT_DATA = ("taylor", "activation")  # importance criteria
INTEGER_IO = {"int8": "int8", "int16x8": "int16"}  # precision that a step quantizes to -> its own type of the ends


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """[data]: one .npz file for each split; float inputs become value * scale + offset."""

    train: Path | None = None
    validation: Path | None = None
    test: Path
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingKeys:
    """The keys that every step with training has."""

    batch_size: int = 64
    learning_rate: float = 1e-3
    decay: str = "cosine"
    optimizer: str = "adam"
    flip: bool = False
    shift: int = 0
    distill: float = 0.0
    temperature: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneStep(TrainingKeys):
    """[[steps]] kind = "prune". Without `epochs` in one shot; with them while training, along `schedule`.

    Under schedule = "polynomial" sparsity grows from `initial_sparsity` until the share `ramp` of the steps is done and
    is held from then on; under "constant" it is there from the first step.
    """

    kind: str = "prune"
    name: str = "pruned"
    style: str = "magnitude"
    sparsity: float
    scope: str = "layer"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    prune_depthwise: bool = False
    prune_first: bool = True
    prune_last: bool = True
    schedule: str = "polynomial"
    initial_sparsity: float = 0.0
    power: float = 3.0
    frequency: int = 10
    ramp: float = 0.7
    epochs: int = 0
    backend: str = "native"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStep(TrainingKeys):
    """[[steps]] kind = "prune", style = "channel": remove channels. One of `ratio` (fraction of channels removed),
    `macs`, `parameters` (share left) or `lossless` (dead channels only).

    With `epochs` the model is trained so long after each of the `rounds`.
    """

    kind: str = "prune"
    name: str = "pruned"
    style: str = "channel"
    ratio: float | None = None
    macs: float | None = None
    parameters: float | None = None
    lossless: bool = False
    scope: str = "layer"
    importance: str = "lamp"
    round_to: int = 8
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    through_norms: bool = False
    compensate: str = "none"
    rounds: int = 1
    epochs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneStep(TrainingKeys):
    """[[steps]] kind = "finetune": train on; zeros of kernels stay zeros."""

    kind: str = "finetune"
    name: str = "fine-tuned"
    epochs: int
    patience: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeStep:
    """[[steps]] kind = "quantize": full-integer post-training quantization of the .tflite file.

    `samples` of the training split calibrate the activation ranges; `io_type` is the type of inputs and outputs;
    `float_fallback` lets operations without an integer kernel compute in float. Its name is its precision.
    """

    kind: str = "quantize"
    name: str = "int8"
    precision: str = "int8"
    samples: int = 200
    io_type: str = "float32"
    float_fallback: bool = False


Step = PruneStep | ChannelStep | FinetuneStep | QuantizeStep
STYLES: dict[str, type[PruneStep] | type[ChannelStep]] = {"magnitude": PruneStep, "channel": ChannelStep}
STEPS: dict[str, type[PruneStep] | type[FinetuneStep] | type[QuantizeStep]] = {
    "prune": PruneStep,
    "finetune": FinetuneStep,
    "quantize": QuantizeStep,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """[[exports]]: a file to ship, made from the model after the last training step.

    The keys after `precision` are for coreml. `image_input` takes pictures, scaled like the data; `color` is the order
    of its channels; `class_labels` is a text file with one label a line.
    """

    format: Format
    precision: Precision
    deployment_target: str = "iOS16"
    image_input: str | None = None
    color: str = "RGB"
    class_labels: Path | None = None
    author: str = ""
    license: str = ""
    description: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySpec:
    """[latency]: the paired measurement on this host (`measure = false` leaves it out), and the device profiles from
    which the latency of every exported file is estimated."""

    measure: bool = True
    processes: int = 5
    pairs: int = 30
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """[budget]: limits that every exported file is held against. Sizes are written like "350 kB" or "350 KiB"."""

    download_bytes: int | None = None
    codec: str = "deflate"
    install_bytes: int | None = None
    max_metric_drop: float | None = None
    min_sparsity: float | None = None
    max_latency_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One run. Paths are resolved against the recipe's folder."""

    path: Path
    sha256: str
    model: Path
    metric: str
    seed: int
    data: DataSpec
    steps: tuple[Step, ...]
    exports: tuple[ExportSpec, ...]
    latency: LatencySpec
    budget: Budget | None


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises InputError (cannot be read) and RecipeError (cannot be run as it stands)."""
    if path.is_dir():
        raise InputError(f"{path}: a folder; name the recipe file in it, such as {path / 'recipe.toml'}")
    content, raw = read_toml(path)
    try:
        return _recipe(path, hashlib.sha256(content).hexdigest(), raw)
    except RecipeError:
        raise
    except UsageError as cause:
        raise RecipeError(f"{path}: {cause}") from cause


def _recipe(path: Path, sha256: str, raw: Mapping[str, Any]) -> Recipe:
    known_keys(path, "", raw, ("model", "metric", "seed", "data", "steps", "exports", "latency", "budget"))
    for key in ("model", "metric", "data"):
        if key not in raw:
            raise RecipeError(f"{path}: the key '{key}' is missing")
    metric = typed(path, "metric", raw["metric"], str)
    if metric not in METRICS:
        raise RecipeError(f"{path}: unknown metric {metric!r}{near(metric, METRICS)}; known: {', '.join(METRICS)}")
    data = _table(path, "data", raw["data"], DataSpec)
    splits = {key: path.parent / value for key in ("train", "validation", "test") if (value := getattr(data, key))}
    recipe = Recipe(
        path=path,
        sha256=sha256,
        model=path.parent / typed(path, "model", raw["model"], str),
        metric=metric,
        seed=typed(path, "seed", raw.get("seed", 0), int),
        data=replace(data, **splits),
        steps=tuple(_step(path, n, item) for n, item in enumerate(_list(path, "steps", raw), start=1)),
        exports=tuple(
            _export(path, f"exports {n}", item) for n, item in enumerate(_list(path, "exports", raw), start=1)
        ),
        latency=_latency(path, raw.get("latency", {})),
        budget=_budget(path, raw["budget"]) if "budget" in raw else None,
    )
    _check(recipe)
    return recipe


def _list(path: Path, key: str, raw: Mapping[str, Any]) -> list[Any]:
    value = raw.get(key, [])
    if not isinstance(value, list):
        raise RecipeError(f"{path}: '{key}' is a list of tables; write [[{key}]] above each one")
    return value


# Type of a field as written in the dataclass -> how its TOML value is read.
def _word(path: Path, key: str, value: Any, kind: type[Format] | type[Precision]) -> Any:
    text = typed(path, key, value, str)
    names = [str(member) for member in kind]
    if text not in names:
        raise RecipeError(f"{path}: unknown {key} {text!r}{near(text, names)}; known: {', '.join(names)}")
    return kind(text)


def _patterns(path: Path, key: str, value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise RecipeError(f'{path}: \'{key}\' is a list of patterns such as ["block*", "Dense"], got {value!r}')
    return tuple(items)


READERS: dict[str, Callable[[Path, str, Any], Any]] = {
    "Path": lambda path, key, value: Path(typed(path, key, value, str)),
    "Path | None": lambda path, key, value: Path(typed(path, key, value, str)),
    "bool": lambda path, key, value: typed(path, key, value, bool),
    "float": lambda path, key, value: typed(path, key, value, float),
    "float | None": lambda path, key, value: typed(path, key, value, float),
    "int": lambda path, key, value: typed(path, key, value, int),
    "int | None": lambda path, key, value: typed(path, key, value, int),
    "str": lambda path, key, value: typed(path, key, value, str),
    "str | None": lambda path, key, value: typed(path, key, value, str),
    "tuple[str, ...]": _patterns,
    "Format": lambda path, key, value: _word(path, key, value, Format),
    "Precision": lambda path, key, value: _word(path, key, value, Precision),
}


def _table(path: Path, where: str, raw: Any, kind: type) -> Any:
    """An instance of the dataclass `kind` from a TOML table."""
    known = {f.name: f for f in fields(kind)}
    known_keys(path, where, raw, list(known))
    values = {key: READERS[str(known[key].type)](path, f"{where}.{key}", value) for key, value in raw.items()}
    try:
        return kind(**values)
    except TypeError as cause:
        missing = str(cause).rsplit(":", maxsplit=1)[-1].strip()
        raise RecipeError(f"{path}: [{where}] lacks {missing}") from cause


def _step(path: Path, number: int, raw: Any) -> Step:
    where = f"steps {number}"
    kind = raw.get("kind") if isinstance(raw, Mapping) else None
    if kind not in STEPS:
        raise RecipeError(
            f"{path}: [{where}] needs kind = one of {', '.join(STEPS)}; got {kind!r}{near(str(kind), STEPS)}"
        )
    style = raw.get("style", "magnitude") if kind == "prune" else None
    if style is not None and style not in STYLES:
        raise RecipeError(
            f"{path}: [{where}] has the unknown style {style!r}{near(str(style), STYLES)}; known: {', '.join(STYLES)}"
        )
    step: Step = _table(path, where, raw, STYLES[style] if style else STEPS[kind])
    return replace(step, name=step.precision) if isinstance(step, QuantizeStep) and "name" not in raw else step


def _export(path: Path, where: str, raw: Any) -> ExportSpec:
    export: ExportSpec = _table(path, where, raw, ExportSpec)
    if export.format is not Format.COREML:
        for key in ("image_input", "class_labels", "author", "license", "description", "version"):
            if getattr(export, key):
                raise RecipeError(f"{path}: [{where}] has the key '{key}', which is for coreml")
    if export.color not in ("RGB", "BGR", "GRAYSCALE"):
        raise RecipeError(f"{path}: [{where}] has the color {export.color!r}; known: RGB, BGR, GRAYSCALE")
    return replace(export, class_labels=path.parent / export.class_labels) if export.class_labels else export


def _latency(path: Path, raw: Any) -> LatencySpec:
    """A profile of the project's own (a .toml) counts from the recipe."""
    found: LatencySpec = _table(path, "latency", raw, LatencySpec)
    own = (str(path.parent / name) if name.endswith(".toml") else name for name in found.devices)
    return replace(found, devices=tuple(own))


def _budget(path: Path, raw: Any) -> Budget:
    limits = ("download", "install", "max_metric_drop", "min_sparsity", "max_latency_ms")
    known_keys(path, "budget", raw, ("codec", *limits))
    if not set(raw) & set(limits):
        raise RecipeError(f"{path}: [budget] sets no limit; give one of {', '.join(limits)}")
    codec = typed(path, "budget.codec", raw.get("codec", "deflate"), str)
    if codec not in CODECS:
        raise RecipeError(f"{path}: unknown codec {codec!r}{near(codec, CODECS)}; known: {', '.join(CODECS)}")

    def size(key: str) -> int | None:
        return parse_bytes(typed(path, f"budget.{key}", raw[key], str)) if key in raw else None

    def number(key: str) -> float | None:
        return typed(path, f"budget.{key}", raw[key], float) if key in raw else None

    sparsity, drop, latency = number("min_sparsity"), number("max_metric_drop"), number("max_latency_ms")
    if latency is not None and not 0 < latency < math.inf:
        raise RecipeError(f"{path}: in [budget] max_latency_ms is a number of milliseconds above 0")
    if (sparsity is not None and not 0 <= sparsity <= 1) or (drop is not None and not drop >= 0):
        raise RecipeError(f"{path}: in [budget] min_sparsity is a fraction, 0 to 1, and max_metric_drop at least 0")
    return Budget(
        download_bytes=size("download"),
        codec=codec,
        install_bytes=size("install"),
        max_metric_drop=drop,
        min_sparsity=sparsity,
        max_latency_ms=latency,
    )


def _check(recipe: Recipe) -> None:
    """What the tables say together."""
    path = recipe.path
    if not recipe.steps and not recipe.exports:
        raise RecipeError(f"{path}: nothing to do; add [[steps]] or [[exports]]")
    if not 0 <= recipe.seed < 2**32:
        raise RecipeError(f"{path}: seed is a whole number from 0 to {2**32 - 1}; got {recipe.seed}")
    if not (math.isfinite(recipe.data.scale) and math.isfinite(recipe.data.offset)):
        raise RecipeError(f"{path}: scale and offset in [data] are finite numbers")
    if not 3 <= recipe.latency.processes <= 50 or not 5 <= recipe.latency.pairs <= 1000:
        raise RecipeError(f"{path}: [latency] takes 3 to 50 processes and 5 to 1000 pairs")
    for device in recipe.latency.devices:
        try:
            find_profile(device)
        except EdgepruneError as cause:
            raise RecipeError(f"{path}: [latency] devices: {cause}") from cause
    if recipe.budget and recipe.budget.max_latency_ms is not None and not recipe.latency.devices:
        raise RecipeError(f"{path}: [budget] max_latency_ms is estimated; name the profiles: devices in [latency]")
    _check_exports(recipe, _check_steps(recipe))


def _check_steps(recipe: Recipe) -> str | None:
    """Each step, their order and their names; the precision that the last one quantizes to."""
    path = recipe.path
    trains = [s.kind for s in recipe.steps if not isinstance(s, QuantizeStep) and needs_training_data(s)]
    quantizes = [n for n, s in enumerate(recipe.steps) if isinstance(s, QuantizeStep)]
    if (trains or quantizes) and recipe.data.train is None:
        raise RecipeError(f"{path}: the step '{(trains or ['quantize'])[0]}' needs training data; set train in [data]")
    if len(quantizes) > 1 or (quantizes and quantizes[0] != len(recipe.steps) - 1):
        raise RecipeError(f"{path}: 'quantize' comes once and last: nothing can be trained after it")
    names = ["dense", *(step.name for step in recipe.steps)]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise RecipeError(f'{path}: two stages are called {twice!r}; give the step a name of its own: name = "..."')
    for step in recipe.steps:
        try:
            check_step(step)
        except EdgepruneError as cause:
            raise RecipeError(f"{path}: step {step.name!r}: {cause}") from cause
    last = recipe.steps[-1] if recipe.steps else None
    return last.precision if isinstance(last, QuantizeStep) else None


def _check_exports(recipe: Recipe, quantized: str | None) -> None:
    path = recipe.path
    for export in recipe.exports:
        if export.format is Format.TFLITE and export.precision in INTEGER_IO and export.precision != quantized:
            also = "" if export.precision is Precision.INT8 else f' and precision = "{export.precision}"'
            raise RecipeError(
                f'{path}: a tflite export of precision {export.precision} needs a step with kind = "quantize"{also}'
            )
    if len({(e.format, e.precision) for e in recipe.exports}) != len(recipe.exports):
        raise RecipeError(f"{path}: the same format and precision is exported twice")
    if recipe.budget and not recipe.exports:
        raise RecipeError(f"{path}: [budget] is held against exported files, and there are no [[exports]]")


def needs_training_data(step: PruneStep | ChannelStep | FinetuneStep) -> bool:
    """Whether the step trains or looks at training samples."""
    looks = isinstance(step, ChannelStep) and (step.importance in LOOKS_AT_DATA or step.compensate != "none")
    return looks or isinstance(step, FinetuneStep) or step.epochs > 0


def check_step(step: Step) -> None:
    """Raise UsageError for values that no model could make right."""
    if any(ch in step.name for ch in "/\\") or not step.name.strip() or step.name.startswith("."):
        raise UsageError(f"the name {step.name!r} cannot be part of a file name")
    if isinstance(step, QuantizeStep):
        if step.precision not in INTEGER_IO:
            raise UsageError(
                f"precision is int8 or int16x8; got {step.precision!r} "
                "(float16 and dynamic are precisions of an export)"
            )
        known = ("float32", INTEGER_IO[step.precision])
        if step.io_type not in known:
            raise UsageError(f"io_type of {step.precision} is {' or '.join(known)}; got {step.io_type!r}")
        if step.samples < 1:
            raise UsageError(f"samples is at least 1; got {step.samples}")
        return
    if isinstance(step, PruneStep):
        _check_prune(step)
    if isinstance(step, ChannelStep):
        _check_channel(step)
    if isinstance(step, FinetuneStep) and step.epochs < 1:
        raise UsageError(f"epochs is at least 1; got {step.epochs}")


def _check_channel(step: ChannelStep) -> None:
    asked = [key for key in ("ratio", "macs", "parameters") if getattr(step, key) is not None]
    if len(asked) + step.lossless != 1:
        raise UsageError("channel pruning takes one of ratio, macs, parameters and lossless = true")
    if step.epochs < 0 or step.rounds < 1:
        raise UsageError("epochs is at least 0 and rounds at least 1")
    if step.rounds > 1 and (step.lossless or not step.epochs):
        raise UsageError("rounds are for training in between: set epochs, and a ratio, macs or parameters")


def _check_prune(step: PruneStep) -> None:
    for key in ("sparsity", "initial_sparsity"):
        value = getattr(step, key)
        if not 0 <= value < 1:
            hint = f"; did you mean {value / 100:g}?" if 2 <= value < 100 else ""
            raise UsageError(f"{key} is the fraction of weights to remove, at least 0 and below 1; got {value:g}{hint}")
    choices = {
        "style": ("magnitude",),
        "scope": ("layer", "global"),
        "schedule": ("polynomial", "constant"),
        "backend": BACKENDS,
    }
    for key, known in choices.items():
        value = getattr(step, key)
        if value not in known:
            raise UsageError(f"unknown {key} {value!r}{near(value, known)}; known: {', '.join(known)}")
    if step.epochs < 0 or step.frequency < 1 or not 0 < step.ramp <= 1 or not 0 < step.power < math.inf:
        raise UsageError("epochs is at least 0, frequency at least 1, ramp above 0 and at most 1, power above 0")
    if step.initial_sparsity > step.sparsity:
        raise UsageError(f"initial_sparsity {step.initial_sparsity:g} is above sparsity {step.sparsity:g}")
    if step.backend == "tfmot" and step.distill:
        raise UsageError('the tfmot backend does not distil: drop distill or use backend = "native"')
    if step.backend == "tfmot" and (not step.epochs or step.scope != "layer"):
        raise UsageError('the tfmot backend prunes while training and layer by layer: set epochs and scope = "layer"')
