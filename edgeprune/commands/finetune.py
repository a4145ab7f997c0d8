"""`edgeprune finetune`: train a model on, its zeros held."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.commands.options import (
    JOB,
    PATH,
    Scoring,
    Trust,
    common_options,
    echo_json,
    field_option,
    taken,
    taken_goal,
)
from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError
from edgeprune.maker.training.data.words import weight_words
from edgeprune.maker.training.options import DECAYS, OPTIMIZERS, TrainOptions

if TYPE_CHECKING:
    from edgeprune.ledger import TrainLog
    from edgeprune.maker.keras.types import Model

__all__ = ["finetune"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What to train on what, and how."""

    model: Path
    train: Path
    validation: Path | None
    teacher: Path | None
    options: TrainOptions
    scoring: Scoring
    trust: Trust
    quiet: bool


@click.command(cls=Verb)
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The tuned model, a .keras file.")
@click.option("--train", type=PATH, required=True, metavar="DATA", help="Training samples.")
@click.option("--validation", type=PATH, metavar="DATA", help="Samples that choose the best epoch.")
@click.option("--epochs", type=int, required=True, help="Passes over the training samples.")
@field_option(TrainOptions, "batch_size")
@field_option(TrainOptions, "learning_rate")
@field_option(TrainOptions, "decay", type=click.Choice(DECAYS), help="How the learning rate falls.")
@field_option(TrainOptions, "optimizer", type=click.Choice(list(OPTIMIZERS)))
@click.option("--flip", is_flag=True, help="Mirror training images left to right at random.")
@field_option(TrainOptions, "shift", help="Move training images by up to so many pixels.")
@click.option(
    "--renew-norms/--no-renew-norms",
    default=True,
    help="Estimate batch-norm statistics again, over training samples, before scoring.  [default: renew-norms]",
)
@click.option("--thaw", is_flag=True, help="Train frozen layers (trainable=False) too.")
@click.option("--class-weight", metavar="WEIGHTS", help="Weights of classes in the loss: balanced, or as in 0=1,3=4.")
@click.option("--teacher", type=PATH, metavar="MODEL", help="Learn from this model's answers too.")
@click.option(
    "--distill",
    type=float,
    help="Share of the loss that the answers of --teacher have.  [default: 0.9]",
)
@field_option(TrainOptions, "temperature", help="Warmth of the teacher's answers.")
@field_option(TrainOptions, "features", help="Weight of what layers of the same widths make against the teacher's.")
@field_option(TrainOptions, "keep_from", help="Share of the training before which no weights are kept as the best.")
@click.option("--patience", type=int, help="Stop after so many epochs without a better validation value.")
@common_options("metric", "loss", "loss_weight", *JOB)
def finetune(output: Path, overwrite: bool, as_json: bool, **values: Any) -> int:
    """Train MODEL on. Weights that are zero stay zero, so a pruned model stays pruned.

    \b
    Examples:
      edgeprune finetune pruned.keras --train train.npz --epochs 4 -o tuned.keras
      edgeprune finetune pruned.keras --train train.npz --validation validation.npz --epochs 20 --patience 3 \\
          --teacher model.keras -o tuned.keras
    """
    from edgeprune.artifact import sha256_of
    from edgeprune.host.outputs import check_output_file, output_file

    check_output_file(output, overwrite=overwrite, suffix=".keras")
    job = _job(values)
    model, log = _tuned(job)
    from edgeprune.maker.keras.models import save_model

    with output_file(output, overwrite=overwrite) as made:
        save_model(model, made)
    if as_json:
        echo_json({"schema_version": 1, "output": {"path": str(output), "sha256": sha256_of(output)}, **asdict(log)})
    else:
        click.echo(f"{_text(log)}\nWritten: {output}")
    return 0


def _job(values: dict[str, Any]) -> _Job:
    share = values.pop("distill")
    if share is not None and values["teacher"] is None:
        raise UsageError("--distill is the share of a teacher's answers: add --teacher MODEL")
    distill = (0.9 if share is None else share) if values["teacher"] else 0.0
    words = values.pop("class_weight")
    options = taken(TrainOptions, values, distill=distill, class_weight=weight_words(words) if words else None)
    if options.patience is not None and values["validation"] is None:
        raise UsageError("--patience needs --validation: without it no epoch is better than another")
    return taken(
        _Job,
        values,
        options=options,
        scoring=taken(Scoring, values, goal=taken_goal(values)),
        trust=taken(Trust, values),
    )


def _tuned(job: _Job) -> tuple[Model, TrainLog]:
    """The model after the training, and what happened."""
    from edgeprune.host.progress import Progress
    from edgeprune.maker.pruning.masked_training import finetune as train_on
    from edgeprune.maker.training.frozen import frozen_note

    model = job.trust.load(job.model)
    teacher = job.trust.load(job.teacher) if job.teacher else None
    if teacher is not None and _ends(teacher) != _ends(model):
        raise UsageError(f"{job.teacher}: the teacher's inputs and outputs differ from those of {job.model}")
    task = job.scoring.task(model, job.trust, trains=True)
    samples, validation = (job.scoring.split(path, model, task, job.trust) for path in (job.train, job.validation))
    assert samples is not None
    progress = Progress(quiet=job.quiet)
    frozen = None if job.options.thaw else frozen_note(model)
    if frozen is not None:
        progress.note(frozen)
    progress.begin(f"fine-tune {job.model.name}")
    found = train_on(model, samples, validation, task, job.options, teacher=teacher, on_progress=progress.advance)
    progress.end()
    return found


def _ends(model: Model) -> object:
    """What two models must share for one to teach the other."""
    from edgeprune.maker.keras.models import input_specs

    return input_specs(model), [tuple(tensor.shape) for tensor in model.outputs]


def _text(log: TrainLog) -> str:
    lines = []
    for number, epoch in enumerate(log.epochs, start=1):
        told = ", ".join(f"{name} {value:.4f}" for name, value in epoch.scores.items()) or "not measured"
        kept = "  <- kept" if number == log.kept_epoch else ""
        lines.append(f"epoch {number}: loss {epoch.loss:.4f}, validation {told}{kept}")
    return "\n".join(lines)
