"""`edgeprune advise`: what to do with a model, before any training; or which file of a run to ship."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.commands.options import PATH, Scoring, Trust, common_options, echo_json, taken, taken_goal
from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError

if TYPE_CHECKING:
    from edgeprune.checker.latency.profiles import Profile
    from edgeprune.checker.ways import Advice
    from edgeprune.maker.keras.types import Model
    from edgeprune.maker.recipe.candidates import Wanted
    from edgeprune.maker.recipe.recipe_toml import RecipeFiles
    from edgeprune.maker.training.data.samples import Samples

__all__ = ["advise"]

DEFAULT_TARGETS = (
    "pixel4-tflite-4t-float32",
    "pixel4-tflite-4t-int8",
    "iphone12-coreml-float16",
    "edgetpu",
    "tensorrt-sparse-ampere",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What to look at, and on what."""

    model: Path
    data: Path | None
    train: Path | None
    validation: Path | None
    targets: tuple[str, ...]
    sparsity: float | None
    ratio: float | None
    goal: str | None
    output: Path | None
    overwrite: bool
    seed: int
    scoring: Scoring
    trust: Trust
    quiet: bool


@click.command(cls=Verb)
@click.argument("model", type=PATH)
@click.option(
    "--data", type=PATH, metavar="DATA", help="Samples with targets that each way is scored on, 1,000 at most."
)
@click.option(
    "--train", type=PATH, metavar="DATA", help="Training samples: int8 ranges now, fine-tuning in the recipe."
)
@click.option("--validation", type=PATH, metavar="DATA", help="Validation samples of the recipe.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help="A profile of 'edgeprune devices' (or a .toml of your own), or an accelerator of 'edgeprune estimate "
    f"--target'. Repeatable.  [default: {', '.join(DEFAULT_TARGETS)}]",
)
@click.option("--sparsity", type=float, help="The share of zeros that you have in mind.  [default: 0.8]")
@click.option("--ratio", type=float, help="The share of the channels to remove that you have in mind.  [default: 0.5]")
@click.option(
    "--goal",
    type=click.Choice(["download", "latency"]),
    help="What to recommend by.  [default: latency with --ratio alone, else download]",
)
@click.option("-o", "--output", type=PATH, metavar="RECIPE", help="Write the recommended recipe (.toml); needs --data.")
@common_options("metric", "scale", "offset", "on_bad_sample", "seed", "overwrite", "json", "quiet", "trust", "custom")
def advise(as_json: bool, **values: Any) -> int:
    """What would make MODEL smaller or faster, on which target, at what risk: before any training.

    Each way (float16, int8, zeros, fewer channels, Core ML palettes and sparse weights) is really made in one shot,
    exported, counted, estimated for each target, and scored on --data where it is given. Says where what was asked does
    not fit: zeros on a target with dense kernels leave its latency as it was. One way is recommended, and written with
    -o as a recipe that 'edgeprune run' takes.

    Of a run (its folder, or its ledger.json): which of the exported files to ship for what.

    \b
    Examples:
      edgeprune advise model.keras
      edgeprune advise model.keras --data test.npz --train train.npz --goal download -o recipe.toml
      edgeprune advise model.keras --sparsity 0.85 --target pixel4-tflite-4t-float32
      edgeprune advise out/ledger.json
    """
    path: Path = values["model"]
    ledger = path / "ledger.json" if path.is_dir() else path
    if ledger.suffix == ".json" and (ledger.is_file() or path.suffix == ".json"):
        return _shipping(ledger, values, as_json=as_json)
    job = taken(_Job, values, scoring=taken(Scoring, values, goal=taken_goal(values)), trust=taken(Trust, values))
    return _advise(job, as_json=as_json)


def _shipping(path: Path, values: dict[str, Any], *, as_json: bool) -> int:
    """Which file of a run to ship, from its ledger."""
    from edgeprune.host.untrusted import read_whole
    from edgeprune.ledger import Ledger
    from edgeprune.report.shipping import shipping_sentences

    given = [name for name in ("data", "train", "validation", "output", "sparsity", "ratio", "goal") if values[name]]
    if given or values["targets"]:
        raise UsageError(
            f"{path} is a run that is done, and --{(given or ['target'])[0]} is about one to come; drop it"
        )
    sentences = shipping_sentences(Ledger.from_json(read_whole(path, "the ledger.json of a run"), str(path)))
    if as_json:
        echo_json({"schema_version": 1, "path": str(path), "ship": sentences})
    else:
        none = "No format has two files to choose among: ship what was exported."
        click.echo("\n".join(sentences) or none)
    return 0


def _advise(job: _Job, *, as_json: bool) -> int:
    from edgeprune.host.outputs import check_output_file
    from edgeprune.report.advice_report import advice_json, advice_text

    if job.output is not None:
        if job.data is None:
            raise UsageError("a recipe scores its files on samples: add --data TEST to write one, or drop -o")
        check_output_file(job.output, overwrite=job.overwrite, suffix=".toml")
    profiles, accelerators = _targets(job.targets or DEFAULT_TARGETS)
    advice, files = _made(job, profiles, accelerators)
    if job.output is not None:
        _write(job, job.output, advice, files)
    written = str(job.output) if job.output is not None else None
    if as_json:
        echo_json(advice_json(advice, written))
    else:
        click.echo(advice_text(advice, written))
    return 0


def _targets(names: tuple[str, ...]) -> tuple[tuple[Profile, ...], tuple[str, ...]]:
    """Profiles, and accelerators. Raises UsageError for an unknown name."""
    from edgeprune.checker.latency.accelerators.rules import target_names
    from edgeprune.checker.latency.accelerators.vela import VELA_TARGETS
    from edgeprune.checker.latency.profiles import find_profile

    vela = next((name for name in names if name in VELA_TARGETS), None)
    if vela is not None:
        raise UsageError(f"{vela} has no published rules, only its compiler: edgeprune estimate FILE --target {vela}")
    accelerators = tuple(name for name in dict.fromkeys(names) if name in target_names())
    return tuple(find_profile(name) for name in dict.fromkeys(names) if name not in accelerators), accelerators


def _made(job: _Job, profiles: tuple[Profile, ...], accelerators: tuple[str, ...]) -> tuple[Advice, RecipeFiles]:
    from edgeprune.checker.ways import Aim
    from edgeprune.host.progress import Progress
    from edgeprune.maker.recipe.advised import advised

    progress = Progress(quiet=job.quiet)
    progress.begin(f"load {job.model.name}")
    model = job.trust.load(job.model)
    wanted, trains = _wanted(job, model, profiles, accelerators)
    progress.end()
    aim = job.goal or (Aim.LATENCY if job.ratio is not None and job.sparsity is None else Aim.DOWNLOAD)
    advice = advised(
        model,
        str(job.model),
        wanted,
        aim=Aim(aim),
        trains=trains,
        asked_sparsity=job.sparsity is not None,
        asked_ratio=job.ratio is not None,
        progress=progress,
    )
    return advice, _files(job, model)


def _wanted(
    job: _Job, model: Model, profiles: tuple[Profile, ...], accelerators: tuple[str, ...]
) -> tuple[Wanted, bool]:
    """What to try, and whether there are samples to train on. Raises UsageError for shares that cannot be."""
    from edgeprune.maker.keras.models import refuse_half_precision
    from edgeprune.maker.pruning.options import ChannelOptions, MagnitudeOptions
    from edgeprune.maker.recipe.candidates import Wanted

    refuse_half_precision(model)
    sparsity = 0.8 if job.sparsity is None else job.sparsity
    ratio = 0.5 if job.ratio is None else job.ratio
    MagnitudeOptions(sparsity=sparsity), ChannelOptions(ratio=ratio)  # raise for what is no share
    task = job.scoring.task(model, job.trust) if job.data is not None else None
    tests = job.scoring.split(job.data, model, task, job.trust)
    train, trains = _train(job, model)
    wanted = Wanted(
        sparsity=sparsity,
        ratio=ratio,
        profiles=profiles,
        accelerators=accelerators,
        tests=tests if tests is not None and tests.told else None,
        looked_at=train if train is not None else tests,
        task=task,
        seed=job.seed,
    )
    return wanted, trains


def _train(job: _Job, model: Model) -> tuple[Samples | None, bool]:
    """The training samples, and whether they can be trained on: there is a loss, and it has its targets."""
    from edgeprune.errors import EdgepruneError
    from edgeprune.maker.keras.models import output_names

    if job.train is None:
        return None, False
    try:
        task = job.scoring.task(model, job.trust, trains=True)
        samples = job.scoring.split(job.train, model, task, job.trust)
    except EdgepruneError:
        return job.scoring.split(job.train, model, None, job.trust, other=output_names(model)), False
    return samples, samples is not None and bool(samples.told)


def _files(job: _Job, model: Model) -> RecipeFiles:
    """What the recipe names; a metric where the model says none."""
    from edgeprune.maker.recipe.recipe_toml import RecipeFiles, goal_words

    splits = {"train": job.train, "validation": job.validation, "test": job.data}
    return RecipeFiles(
        model=job.model,
        splits={key: path for key, path in splits.items() if path is not None},
        goal=goal_words(job.scoring.goal, model),
        scale=job.scoring.scale,
        offset=job.scoring.offset,
        on_bad_sample=job.scoring.on_bad_sample,
        seed=job.seed,
    )


def _write(job: _Job, output: Path, advice: Advice, files: RecipeFiles) -> None:
    """The recipe, once it reads as one."""
    from edgeprune.host.outputs import output_file
    from edgeprune.maker.recipe.advised import recipe_text
    from edgeprune.maker.recipe.recipe import load_recipe

    with output_file(output, overwrite=job.overwrite) as made:
        made.write_text(recipe_text(advice, files, output), encoding="utf-8")
        load_recipe(made)
