"""What the verbs do, as calls of `import edgeprune`: plain values go in, records come out, errors are EdgepruneErrors.

Paths may be texts, a metric or device its name. Nothing heavy is imported before a call needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from edgeprune.checker.budget import Budget
    from edgeprune.checker.comparison import Comparison
    from edgeprune.checker.latency.accelerators.placement_records import Placement
    from edgeprune.checker.latency.profiles import Profile
    from edgeprune.checker.size.records import FileAccount
    from edgeprune.formats.metadata import MetadataOptions
    from edgeprune.host.progress import Progress
    from edgeprune.ledger import Blame, Estimate, LatencyComparison, Ledger, TrainLog
    from edgeprune.maker.keras.types import AnyModel, Model
    from edgeprune.maker.pruning.channel.pruner import ChannelResult
    from edgeprune.maker.pruning.options import ChannelOptions
    from edgeprune.maker.recipe.recipe import Recipe
    from edgeprune.maker.training.data.samples import Samples
    from edgeprune.maker.training.features import Kept
    from edgeprune.maker.training.goals import Asked
    from edgeprune.maker.training.options import TrainOptions
    from edgeprune.runtime.session import RunResult
    from edgeprune.verdict import Verdict

__all__ = [
    "account",
    "blame",
    "check",
    "compare",
    "compare_latency",
    "devices",
    "estimate_latency",
    "evaluate",
    "finetune",
    "load_model",
    "load_recipe",
    "load_samples",
    "place_operations",
    "prune_channels",
    "run",
    "run_tflite",
    "save_model",
    "scores",
    "snippet",
    "write_metadata",
]

StrPath = str | Path
OnProgress = Callable[[int, int, str], None]  # done, of how many, what is said beside it


def account(path: StrPath, *, codecs: Sequence[str] = ()) -> FileAccount:
    """The account of a model file: bytes on disk, download by the quick codecs and those named, parameters, MACs and
    zeros, in all and layer by layer. Reads .tflite, .mlpackage, .mlmodel, .onnx, .keras and .h5."""
    from edgeprune.checker.size.account import account as accounted
    from edgeprune.checker.size.codecs import with_quick

    return accounted(Path(path), with_quick(codecs))


def blame(
    folder: StrPath,
    *,
    recipe: StrPath | None = None,
    data: StrPath | None = None,
    metric: Asked | None = None,
    trust_code: bool = False,
    custom: Sequence[StrPath] = (),
    progress: Progress | None = None,
) -> Blame:
    """What comes back when a step or a layer of a finished run is undone, with nothing trained: `folder` is what `run`
    left of a recipe with `keep_stages = true`.

    Scored on the recipe's validation samples (else its test samples), or on `data`. `metric` takes the place of the
    recipe's.
    """
    from edgeprune.converters.session import Converter
    from edgeprune.host.progress import Progress as Shown
    from edgeprune.maker.recipe.blame import blamed
    from edgeprune.maker.recipe.finished import recipe_of, stage_files, stage_models
    from edgeprune.maker.recipe.prepare import prepare
    from edgeprune.maker.training.goals import find_task
    from edgeprune.maker.training.metrics import Metric
    from edgeprune.maker.training.task import Task

    shown, files = progress or Shown(quiet=True), [Path(file) for file in custom]
    wanted = recipe_of(Path(folder), Path(recipe) if recipe else None, data=Path(data) if data else None, metric=metric)
    stage_files(Path(folder), wanted)
    shown.begin("read recipe, models and data")
    prepared = prepare(wanted, trust_code=trust_code, custom=files)
    if isinstance(metric, Metric | Task):
        prepared = replace(prepared, task=find_task(prepared.model, metric, trains=True))
    models = stage_models(Path(folder), prepared, trust_code=trust_code, custom=files)
    shown.end()
    with Converter() as converter:
        return blamed(prepared, models, converter, shown, prepared.validation or prepared.test)


def check(path: StrPath, budget: Budget, *, baseline: StrPath | None = None) -> tuple[Verdict, ...]:
    """Hold a model file against a budget: one verdict for each limit, whose `passed` is None where it could not be
    checked. `baseline`, an earlier file, a report of `edgeprune check --json` or a history, is what growth is counted
    from."""
    from edgeprune.checker.check import CheckOptions, Wanted, check_files

    if not budget.limits:
        raise UsageError("the budget sets no limit, so nothing would be checked; give one, such as download_bytes")
    wanted = [Wanted(path=Path(path), budgets=(budget,))]
    found = check_files(wanted, CheckOptions(baseline=Path(baseline) if baseline else None, codec=budget.codec))
    if found.broken is not None:
        raise found.broken
    return found.verdicts


def compare(
    before: StrPath, after: StrPath, *, codecs: Sequence[str] = (), device: str | None = None, measure: bool = False
) -> Comparison:
    """The accounts of two model files side by side; with `device` the estimates of both, with `measure` their latency
    on this host (.tflite)."""
    from edgeprune.checker.comparison import check_measurable, compare_files, with_measured_latency
    from edgeprune.checker.size.codecs import with_quick

    old, new = Path(before), Path(after)
    if measure:
        check_measurable(old, new)
    found = compare_files(old, new, with_quick(codecs), device=device)
    return with_measured_latency(found, old, new) if measure else found


def compare_latency(
    baseline: StrPath, candidate: StrPath, *, processes: int = 5, pairs: int = 30, seed: int = 0
) -> LatencyComparison:
    """Time two .tflite files on this host, paired and interleaved: one thread, batch 1, made-up inputs."""
    from edgeprune.checker.latency.measure import compare_latency as compared

    return compared(Path(baseline), Path(candidate), processes=processes, pairs=pairs, seed=seed)


def devices() -> tuple[Profile, ...]:
    """The device profiles that come with the package."""
    from edgeprune.checker.latency.profiles import shipped_profiles

    return shipped_profiles()


def estimate_latency(path: StrPath, device: str | Profile) -> Estimate:
    """The latency of one inference of a .tflite file or .mlpackage on a device: the name of a profile, the path of one
    of your own (.toml), or a profile. Without milliseconds where it gives none; `refused` then says why."""
    from edgeprune.checker.latency.estimate import estimate_latency as estimated
    from edgeprune.checker.latency.profiles import find_profile
    from edgeprune.formats import read_contents

    profile = find_profile(device) if isinstance(device, str) else device
    return estimated(read_contents(Path(path)), profile)


def place_operations(path: StrPath, target: str) -> Placement:
    """Which operations of a .tflite file an accelerator takes (edgetpu, ethos-u55, ethos-u65, hexagon), and which
    condition keeps the others on the CPU; of a file of any format, where 2:4 would pay (tensorrt-sparse-ampere). By
    published rules, each with its source; nothing is compiled or measured."""
    from edgeprune.checker.latency.accelerators.placement import place_operations as placed
    from edgeprune.formats import read_contents

    return placed(read_contents(Path(path)), target)


def load_model(path: StrPath, *, trust_code: bool = False, custom: Sequence[StrPath] = ()) -> Model:
    """A Keras model from a .keras or .h5 file of Keras 3 or 2, without optimizer and compile state.

    Code stored in the file (Lambda layers) runs only with `trust_code`; `custom` are Python files with layers of your
    own, which are run.
    """
    from edgeprune.maker.keras.model_files import load_model as loaded

    model: Model = loaded(Path(path), trust_code=trust_code, custom=[Path(file) for file in custom])
    return model


def load_samples(
    path: StrPath,
    model: AnyModel,
    *,
    metric: Asked | None = None,
    scale: float = 1.0,
    offset: float = 0.0,
    trust_code: bool = False,
    on_bad_sample: str = "error",
) -> Samples:
    """Samples for a model: from an .npz file with an array for each input (or "x") and "y" with the targets, a .csv or
    .parquet file, a folder of pictures with a folder for each class, TFRecord files, or "file.py:function", your own
    code (with `trust_code`).

    Float inputs become value * scale + offset. With `metric` (a name, several, or those of each output by its name)
    there must be targets that suit it: "y", or for a model with several outputs an array under the name of each. With
    `on_bad_sample` "skip" samples that are damaged or hold NaN are left out and counted in `skipped`.
    """
    from edgeprune.host.toml_values import check_choice
    from edgeprune.maker.training.data.loading import load_split
    from edgeprune.maker.training.data.words import OnBadSample
    from edgeprune.maker.training.goals import find_task

    check_choice("on_bad_sample", on_bad_sample, OnBadSample)
    wanted = find_task(model, metric) if metric is not None else None
    return load_split(
        Path(path), model, wanted, scale=scale, offset=offset, trust_code=trust_code, on_bad_sample=on_bad_sample
    )


def save_model(model: Model, path: StrPath) -> None:
    """Write a plain .keras file: no optimizer, no compile state. It appears whole or not at all."""
    from edgeprune.maker.keras.models import save_model as saved

    saved(model, Path(path))


def evaluate(model: Model, samples: Samples, metric: Asked | None = None) -> float:
    """The metric of a Keras model over samples with targets; of several the first. See `scores`."""
    return next(iter(scores(model, samples, metric).values()))


def scores(model: Model, samples: Samples, metric: Asked | None = None) -> dict[str, float]:
    """Each metric of a Keras model over samples with targets, by name. `metric` names them (a name, several, or those
    of each output by its name); None: those that the model is compiled with, else accuracy."""
    from edgeprune.maker.keras.models import output_shapes
    from edgeprune.maker.training.data.targets import fitting_targets
    from edgeprune.maker.training.goals import find_task
    from edgeprune.maker.training.loop import evaluate as evaluated

    task = find_task(model, metric)
    values = evaluated(model, fitting_targets(samples, output_shapes(model), task), task)
    return {score.name: value for score, value in zip(task.scores, values, strict=True)}


def finetune(
    model: Model,
    samples: Samples,
    options: TrainOptions,
    *,
    validation: Samples | None = None,
    metric: Asked | None = None,
    loss: str | Mapping[str, str] = "",
    teacher: Model | None = None,
    kept: Kept | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[Model, TrainLog]:
    """A copy trained on, and the log of its training. Zeros of kernels stay zeros; the argument is left alone.

    `metric` and `loss` are names, by output's name where there are several; what is not named is that of the model as
    it is compiled, else accuracy and the loss that goes with it.
    With `options.distill` the `teacher` (a model with the same inputs and outputs) gives that share of the targets.
    With `options.features`, `kept` is that of the ChannelResult where the model was cut out of the teacher.
    """
    from edgeprune.maker.keras.models import output_shapes
    from edgeprune.maker.pruning.masked_training import finetune as tuned
    from edgeprune.maker.training.data.targets import fitting_targets
    from edgeprune.maker.training.goals import find_task

    if options.distill and teacher is None:
        raise UsageError("distill is the share of a teacher's answers: give teacher=MODEL, or leave distill out")
    task, shapes = find_task(model, metric, loss=loss, trains=True), output_shapes(model)
    told = fitting_targets(samples, shapes, task)
    checked = None if validation is None else fitting_targets(validation, shapes, task)
    return tuned(model, told, checked, task, options, teacher=teacher, kept=kept, on_progress=on_progress)


def prune_channels(
    model: Model,
    options: ChannelOptions,
    *,
    samples: Samples | None = None,
    metric: Asked | None = None,
    verify: bool = True,
) -> ChannelResult:
    """A smaller model with fewer channels; the argument is left alone.

    `samples` of the training split and `metric` serve the criteria that look at data, and the compensation.
    """
    from edgeprune.maker.pruning.channel.criteria import CRITERIA
    from edgeprune.maker.pruning.channel.pruner import prune_channels as pruned
    from edgeprune.maker.training.goals import find_task

    learns = CRITERIA[options.importance].needs_targets
    task = find_task(model, metric, trains=True) if metric is not None or learns else None
    return pruned(model, options, samples=samples, task=task, verify=verify)


def load_recipe(path: StrPath) -> Recipe:
    """Read and check a recipe. Raises InputError (cannot be read) and RecipeError (cannot be run as it stands)."""
    from edgeprune.maker.recipe.recipe import load_recipe as loaded

    return loaded(Path(path))


def run_tflite(path: StrPath, inputs: Mapping[str, np.ndarray], *, runtime: str | None = None) -> RunResult:
    """Run a .tflite file over samples, one at a time, in a process of its own: outputs [samples, ...] by name, from the
    newest installed runtime or the one named."""
    from edgeprune.errors import MissingExtra
    from edgeprune.runtime.session import installed_runtimes
    from edgeprune.runtime.session import run_tflite as ran

    installed = list(installed_runtimes())
    if not installed:
        raise MissingExtra("a TFLite runtime", "litert", "running a .tflite file")
    return ran(Path(path), inputs, runtime=runtime or installed[-1])


def run(
    recipe: StrPath | Recipe,
    folder: StrPath,
    *,
    overwrite: bool = False,
    trust_code: bool = False,
    custom: Sequence[StrPath] = (),
    baseline: StrPath | None = None,
    progress: Progress | None = None,
) -> Ledger:
    """Run a recipe (or the file of one) and return its ledger; models, ledger.json, report.md and report.html lie in
    `folder` once all is done. `baseline`, as for `check`, is what limits on growth in the recipe's budget are held
    against."""
    from edgeprune.commands.options import json_text
    from edgeprune.commands.pages import page_of_folder, write_page
    from edgeprune.host.outputs import output_folder, write_file
    from edgeprune.host.progress import Progress as Shown

    wanted = load_recipe(recipe) if isinstance(recipe, str | Path) else recipe
    shown = progress or Shown(quiet=True)
    with output_folder(Path(folder), overwrite=overwrite) as place:
        shown.begin("check recipe, model and data")
        from edgeprune.converters.session import Converter
        from edgeprune.maker.keras.starting import at_start
        from edgeprune.maker.recipe.entries import run_baseline
        from edgeprune.maker.recipe.pipeline import run_recipe
        from edgeprune.maker.recipe.plan_words import plan_lines
        from edgeprune.maker.recipe.prepare import prepare
        from edgeprune.report.ledger_report import ledger_markdown

        earlier = run_baseline(wanted, Path(baseline)) if baseline is not None else None
        with Converter() as converter:
            with at_start(converter.start):
                prepared = prepare(wanted, trust_code=trust_code, custom=[Path(file) for file in custom])
            converter.start()
            shown.end()
            for line in plan_lines(prepared):
                shown.note("  " + line)
            ledger = run_recipe(prepared, place, shown, earlier, converter=converter)
        write_file(place / "ledger.json", json_text(ledger.to_json()).encode() + b"\n")
        write_file(place / "report.md", ledger_markdown(ledger).encode())
    if wanted.html:  # when all else is safe: hours of training do not hang on a picture
        write_page(page_of_folder(ledger, Path(folder), shown), Path(folder) / "report.html")
    return ledger


def snippet(path: StrPath, language: str, *, compute_units: str | None = None) -> str:
    """Code that loads this very model file in an app, with its names, shapes, types and scales: kotlin, swift, python
    or js for .tflite, swift or python for Core ML, there with the processors that it may use (`compute_units`: "all",
    "cpuAndGPU", "cpuAndNeuralEngine", "cpuOnly")."""
    from edgeprune.formats import read_contents
    from edgeprune.report.snippets.languages import snippet as written

    return written(read_contents(Path(path)), language, compute_units)


def write_metadata(
    path: StrPath, out: StrPath, options: MetadataOptions, *, replaced: bool = False, overwrite: bool = False
) -> Path:
    """Write the .tflite file at `path` as `out`, telling the app what `options` say beside what it tells already, or in
    its place where `replaced`; returns the path written. The model in it stays as it is, byte for byte. `out` may be
    `path` with `overwrite`. `read_metadata` reads it back."""
    from edgeprune.formats.tflite.metadata import with_metadata
    from edgeprune.host.outputs import check_output_file, output_file
    from edgeprune.host.untrusted import read_whole

    source, place = Path(path), Path(out)
    check_output_file(place, overwrite=overwrite, suffix=place.suffix if place == source else ".tflite")
    content = with_metadata(source, read_whole(source, "a .tflite file"), options, replaced=replaced)
    with output_file(place, overwrite=overwrite) as made:
        made.write_bytes(content)
    return place
