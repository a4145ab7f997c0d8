"""`edgeprune prune`: zeros, or fewer channels, in one shot."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.commands.options import (
    JOB,
    PATH,
    Scoring,
    Trust,
    common_options,
    device_option,
    echo_json,
    field_option,
    taken,
    taken_goal,
    typed_flag,
)
from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError
from edgeprune.maker.pruning.channel.criteria import CRITERIA
from edgeprune.maker.pruning.options import (
    COMPENSATIONS,
    SCOPES,
    SCORES,
    STYLES,
    ChannelOptions,
    MagnitudeOptions,
    sparsity_of,
)

if TYPE_CHECKING:
    from edgeprune.checker.latency.profiles import Profile
    from edgeprune.host.progress import Progress
    from edgeprune.ledger import ChannelReport, PruneReport
    from edgeprune.maker.keras.types import Model
    from edgeprune.maker.pruning.channel.pruner import ChannelResult
    from edgeprune.maker.pruning.magnitude import PruneResult
    from edgeprune.maker.training.data.samples import Samples
    from edgeprune.maker.training.task import Task

__all__ = ["prune"]

_OF_ZEROS, _OF_CHANNELS = ([field.name for field in fields(kind)] for kind in (MagnitudeOptions, ChannelOptions))
MAGNITUDE_ONLY = tuple(name for name in _OF_ZEROS if name not in _OF_CHANNELS)
CHANNEL_ONLY = (
    *(name for name in _OF_CHANNELS if name not in _OF_ZEROS),
    *("device", "lossless", "train", "verify"),
)
NOT_HARMLESS = ("scope", "importance", "compensate")
NOT_LOSSLESS = (*(name for name in _OF_CHANNELS if name != "seed"), "device", "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What to prune and how: `options` are those of the style, None for dead channels only; `profile` is that of a
    latency to reach."""

    model: Path
    output: Path
    options: MagnitudeOptions | ChannelOptions | None
    profile: Profile | None
    verify: bool
    train: Path | None
    data: Path | None
    scoring: Scoring
    trust: Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class _Score:
    """A metric of the model before and after, on so many samples."""

    name: str
    before: float
    after: float
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What came out of a job; there are `scores` where samples were given."""

    job: _Job
    report: PruneReport | ChannelReport
    parameters: int
    nonzero_parameters: int
    scores: tuple[_Score, ...]


def _widths(texts: tuple[str, ...]) -> dict[str, int] | None:
    """Channels by group, from texts such as "stem=8"; None without any."""
    found: dict[str, int] = {}
    for text in texts:
        name, _, count = text.rpartition("=")
        if not name or not count.strip().isdecimal():
            raise UsageError(f"--width is a layer and the channels to keep of its group, stem=8; got {text[:60]!r}")
        if name in found:
            raise UsageError(f"--width names {name} twice: {found[name]} and {int(count)} channels")
        found[name] = int(count)
    return found or None


@click.command(cls=Verb)
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The pruned model, a .keras file.")
@click.option(
    "--style",
    type=click.Choice(list(STYLES)),
    default="magnitude",
    show_default=True,
    help="Zeros in the kernels (a smaller download), or fewer channels (smaller and faster).",
)
@click.option(
    "--sparsity",
    metavar="FRACTION|N:M",
    callback=lambda _, __, text: None if text is None else sparsity_of(text),
    help="magnitude: fraction of weights to remove, for example 0.8; or a pattern, for example 2:4: at most 2 "
    "non-zeros of 4 consecutive inputs of an output.",
)
@click.option("--ratio", type=float, help="channel: fraction of channels to remove, for example 0.4.")
@click.option("--macs", type=float, help="channel: share of the MACs to keep, for example 0.5.")
@click.option("--parameters", type=float, help="channel: share of the parameters to keep.")
@click.option("--download", type=float, help="channel: share of the deflated bytes of the weights to keep.")
@click.option(
    "--harmless",
    type=float,
    metavar="PART",
    help="channel: remove channels that do nothing on --train; outputs change by at most this part of their range, for "
    "example 1e-4.",
)
@click.option(
    "--width",
    "widths",
    metavar="LAYER=CHANNELS",
    multiple=True,
    callback=lambda _, __, texts: _widths(texts),
    help="channel: channels to keep of a layer's group ('edgeprune groups'), for example stem=8; again for others.",
)
@click.option("--latency", type=float, help="channel: share of the latency to keep, estimated for --device.")
@device_option("channel: the profile for --latency ('edgeprune devices'), or a .toml.")
@click.option("--lossless", is_flag=True, help="channel: remove dead channels only; outputs stay the same.")
@field_option(
    MagnitudeOptions,
    "scope",
    type=click.Choice(SCOPES),
    help="The same fraction in each layer, or one threshold through all of them.",
)
@field_option(
    MagnitudeOptions,
    "score",
    type=click.Choice(SCORES),
    help="magnitude: how weights are ranked; wanda: by magnitude times the norm of the input, within each output "
    "(needs --train).",
)
@click.option(
    "--permute", is_flag=True, help="magnitude: reorder channels first so that N:M keeps more (the outputs stay)."
)
@click.option(
    "--symmetric-padding",
    is_flag=True,
    help="magnitude: pad layers first so that sparse kernels can run them (convert --sparse-kernels); outputs change "
    "until the model is fine-tuned.",
)
@field_option(
    ChannelOptions,
    "importance",
    type=click.Choice(list(CRITERIA)),
    help=f"channel: how channels are ranked. {', '.join(c.name for c in CRITERIA.values() if c.needs_data)} need "
    "--train.",
)
@field_option(
    ChannelOptions,
    "round_to",
    type=click.IntRange(1),
    help="channel: widths become multiples of this; 8 suits int8 kernels, 16 float ones.",
)
@click.option(
    "--include", multiple=True, metavar="PATTERN", help="Prune only layers whose name or type matches. Repeatable."
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave matching layers as they are. Repeatable.")
@click.option("--prune-depthwise", is_flag=True, help="magnitude: prune depthwise kernels too.")
@click.option("--keep-first", is_flag=True, help="magnitude: leave the first prunable layer dense.")
@click.option("--keep-last", is_flag=True, help="magnitude: leave the last prunable layer dense.")
@click.option(
    "--through-norms", is_flag=True, help="channel: also where a LayerNormalization reads them (its statistics change)."
)
@field_option(
    ChannelOptions,
    "compensate",
    type=click.Choice(COMPENSATIONS),
    help="channel: estimate batch-norm statistics again where there is --train (norms), or move the mean of removed "
    "channels into the next bias (mean, needs --train).",
)
@click.option("--train", type=PATH, metavar="DATA", help="channel, and --score wanda: training samples to look at.")
@click.option(
    "--verify/--no-verify", default=True, help="channel: check the new model on random inputs.  [default: verify]"
)
@click.option("-v", "--verbose", is_flag=True, help="Show asked and got for each layer.")
@common_options("data", "metric", "loss", "loss_weight", *JOB)
@click.pass_context
def prune(
    context: click.Context, /, style: str, verbose: bool, overwrite: bool, as_json: bool, quiet: bool, **values: Any
) -> int:
    """Prune MODEL (.keras or .h5) in one shot; most ways need no data.

    --style magnitude sets the smallest weights to zero: the file keeps its size on disk and its speed, the download
    shrinks. With --sparsity 2:4 they lie in the pattern that sparse tensor cores want. --style channel removes whole
    channels with everything that is tied to them: a smaller and faster model of the same layers. With --data the model
    is scored before and after. To recover accuracy: edgeprune finetune.

    \b
    Examples:
      edgeprune prune model.keras --sparsity 0.8 -o sparse.keras
      edgeprune prune model.keras --sparsity 2:4 --permute -o pattern.keras
      edgeprune prune model.keras --sparsity 0.8 --symmetric-padding -o eligible.keras
      edgeprune prune model.keras --style channel --ratio 0.4 -o narrow.keras
      edgeprune prune model.keras --style channel --macs 0.5 --importance fisher --train train.npz -o half.keras
      edgeprune prune model.keras --style channel --latency 0.6 --device pixel3-tflite-4t-float32 -o fast.keras
      edgeprune prune model.keras --style channel --lossless -o same.keras
      edgeprune prune model.keras --style channel --harmless 1e-4 --train train.npz -o idle.keras
    """
    from edgeprune.host.outputs import check_output_file

    _refuse_strangers(context, style)
    if style == "channel":
        _refuse_pointless(context, values)
    job = _job(style, values)
    check_output_file(job.output, overwrite=overwrite, suffix=".keras")
    slow = not isinstance(job.options, MagnitudeOptions) or job.options.permute or job.options.needs_data
    done = _pruned(job, overwrite=overwrite, quiet=quiet or as_json or not slow)
    if as_json:
        _echo_facts(done)
    else:
        click.echo(_text(done, verbose=verbose))
    return 0


def _refuse_strangers(context: click.Context, style: str) -> None:
    strange = MAGNITUDE_ONLY if style == "channel" else CHANNEL_ONLY
    if style == "magnitude" and context.params["score"] == "wanda":
        strange = tuple(name for name in strange if name != "train")
    flag = typed_flag(context, strange)
    if flag is not None:
        hint = "; add --style channel" if style == "magnitude" else ""
        raise UsageError(f"{flag} does not belong to --style {style}{hint}")
    if style == "magnitude" and context.params["sparsity"] is None:
        raise UsageError("Missing option '--sparsity': the fraction of weights to remove, 0.8, or a pattern, 2:4")


def _refuse_pointless(context: click.Context, values: dict[str, Any]) -> None:
    if values["lossless"]:
        flag, reason = typed_flag(context, NOT_LOSSLESS), "--lossless removes dead channels only"
    elif values["harmless"] is not None:
        flag, reason = typed_flag(context, NOT_HARMLESS), "--harmless goes by what channels do on samples"
    else:
        flag = typed_flag(context, ("scope",)) if values["ratio"] is None else None
        reason = "--scope is for --ratio"
    if flag is not None:
        raise UsageError(f"{flag} has no effect: {reason}")


def _job(style: str, values: dict[str, Any]) -> _Job:
    """What the options ask for. Raises UsageError for what cannot be asked for."""
    values["include"] = values["include"] or ("*",)
    lossless, device = values.pop("lossless"), values.pop("device")
    options: MagnitudeOptions | ChannelOptions | None = None
    profile = None
    if style == "magnitude":
        options = taken(MagnitudeOptions, values)
        _refuse_blind(options, values["train"])
    elif not lossless:
        options = taken(ChannelOptions, values)
        _refuse_without_samples(options, values["train"])
        profile = _profile(options, device)
    names = ("model", "output", "train", "data", "verify")
    mine = {name: values[name] for name in names}
    return _Job(
        options=options,
        profile=profile,
        scoring=taken(Scoring, values, goal=taken_goal(values)),
        trust=taken(Trust, values),
        **mine,
    )


def _refuse_blind(options: MagnitudeOptions, train: Path | None) -> None:
    if options.needs_data and train is None:
        raise UsageError("--score wanda looks at training samples: add --train TRAIN.npz")


def _refuse_without_samples(options: ChannelOptions, train: Path | None) -> None:
    if options.needs_data and train is None:
        looks = CRITERIA[options.importance].needs_data
        flag = f"--importance {options.importance}" if looks else f"--compensate {options.compensate}"
        flag = flag if options.harmless is None else "--harmless"
        raise UsageError(f"{flag} looks at training samples: add --train TRAIN.npz")


def _profile(options: ChannelOptions, device: str | None) -> Profile | None:
    """The profile of a target of latency, None without one."""
    if (options.latency is None) != (device is None):
        raise UsageError("--latency and --device go together: the share to keep, and the profile it is estimated from")
    if options.latency is None or device is None:
        return None
    from edgeprune.checker.latency.latency_targets import target_profile

    return target_profile(options.latency, device)


def _pruned(job: _Job, *, overwrite: bool, quiet: bool) -> _Done:
    """Do the job: the new model is written, and scored if there are samples for that."""
    from edgeprune.host.outputs import output_file
    from edgeprune.host.progress import Progress
    from edgeprune.maker.keras.models import count_nonzero_parameters, count_parameters, save_model
    from edgeprune.maker.training.data.loading import check_split

    for file in (job.train, job.data):
        if file is not None:
            check_split(file)
    progress = Progress(quiet=quiet)
    progress.begin(f"load {job.model.name}")
    model = job.trust.load(job.model)
    learns = isinstance(job.options, ChannelOptions) and CRITERIA[job.options.importance].needs_targets
    learns = learns and job.train is not None
    task = job.scoring.task(model, job.trust, trains=learns) if learns or job.data else None
    samples = job.scoring.split(job.train, model, task if learns else None, job.trust)  # others read no targets
    tests = job.scoring.split(job.data, model, task, job.trust)
    progress.end()
    progress.begin("prune")
    result = _result(job, model, samples, task, progress)
    progress.end()
    scores = () if tests is None or task is None else _scores(task, tests, (model, result.model))
    with output_file(job.output, overwrite=overwrite) as made:
        save_model(result.model, made)
    counts = count_parameters(result.model), count_nonzero_parameters(result.model)
    return _Done(job=job, report=result.report, parameters=counts[0], nonzero_parameters=counts[1], scores=scores)


def _result(
    job: _Job, model: Model, samples: Samples | None, task: Task | None, progress: Progress
) -> PruneResult | ChannelResult:
    """The new model, by the style that the options are of."""
    from edgeprune.maker.pruning.channel.harmless import prune_harmless
    from edgeprune.maker.pruning.channel.lossless import prune_dead
    from edgeprune.maker.pruning.channel.pruner import prune_channels
    from edgeprune.maker.pruning.magnitude import prune_magnitude

    if job.options is None:
        return prune_dead(model)
    if isinstance(job.options, MagnitudeOptions):
        return prune_magnitude(model, job.options, samples=samples)
    if job.options.harmless is not None:
        return prune_harmless(model, job.options, samples=samples, verify=job.verify)
    if job.profile is None:
        return prune_channels(model, job.options, samples=samples, task=task, verify=job.verify)
    from edgeprune.converters.session import Converter
    from edgeprune.maker.recipe.latency_search import prune_to_latency

    with Converter() as converter:
        return prune_to_latency(
            model,
            job.options,
            job.profile,
            converter=converter,
            samples=samples,
            task=task,
            verify=job.verify,
            on_trial=progress.advance,
        )


def _scores(task: Task, tests: Samples, models: tuple[Model, Model]) -> tuple[_Score, ...]:
    from edgeprune.maker.training.loop import evaluate

    before, after = (evaluate(model, tests, task) for model in models)
    return tuple(
        _Score(name=score.name, before=old, after=new, samples=len(tests))
        for score, old, new in zip(task.scores, before, after, strict=True)
    )


def _echo_facts(done: _Done) -> None:
    from edgeprune.artifact import sha256_of

    paths = {"input": done.job.model, "output": done.job.output}
    scores = [asdict(score) for score in done.scores]
    echo_json(
        {
            "schema_version": 1,
            **{name: {"path": str(path), "sha256": sha256_of(path)} for name, path in paths.items()},
            **asdict(done.report),
            "parameters": done.parameters,
            "nonzero_parameters": done.nonzero_parameters,
            "metric": scores[0] if scores else None,
            "metrics": scores,
        }
    )


def _text(done: _Done, *, verbose: bool) -> str:
    from edgeprune.ledger import PruneReport
    from edgeprune.report.pruning import channel_lines, zeros_lines

    report = done.report
    lines = (
        zeros_lines(report, every=verbose) if isinstance(report, PruneReport) else channel_lines(report, every=verbose)
    )
    lines += [
        f"{one.name}: {one.before:.4f} -> {one.after:.4f} on {one.samples:,} samples (the Keras model)"
        for one in done.scores
    ]
    if not done.scores:
        lines.append("quality: not measured (add --data TEST.npz); to recover accuracy: edgeprune finetune")
    return "\n".join([*lines, f"Written: {done.job.output}"])
