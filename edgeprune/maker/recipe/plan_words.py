"""What a recipe would do, in words: for `run --dry-run`, and before a run begins."""

from __future__ import annotations

from pathlib import Path

from edgeprune.artifact import Format
from edgeprune.checker.budget import asked_limits
from edgeprune.checker.latency.latency_targets import target_profile
from edgeprune.converters.exports import calibrated
from edgeprune.maker.keras.models import count_parameters
from edgeprune.maker.pruning.channel.plan import chosen_groups
from edgeprune.maker.pruning.magnitude import select_targets
from edgeprune.maker.recipe.latency_search import latency_asked
from edgeprune.maker.recipe.prepare import Prepared, through_norms
from edgeprune.maker.recipe.recipe import (
    ChannelStep,
    EqualizeStep,
    FinetuneStep,
    QuantizeStep,
    Step,
    calibrating,
    student_step,
)
from edgeprune.maker.recipe.steps import QatStep, teacher_file, training_of
from edgeprune.maker.training.loop import steps_per_epoch
from edgeprune.maker.training.options import TrainOptions

__all__ = ["plan_lines"]


def plan_lines(prepared: Prepared) -> list[str]:
    """What `run` would do, a line each."""
    recipe = prepared.recipe
    parts = [("train", prepared.train), ("validation", prepared.validation), ("test", prepared.test)]
    lines = [
        f"model   {recipe.model} ({count_parameters(prepared.model):,} parameters)",
        "data    " + ", ".join(f"{name} {len(s):,}" for name, s in parts if s is not None),
        *(f"        {s.note}" for _, s in parts if s is not None and s.note is not None),
        f"metric  {', '.join(score.name for score in prepared.task.scores)}, seed {recipe.seed}",
    ]
    for number, step in enumerate(recipe.steps, start=1):
        lines.append(f"step {number}  {step.name}: {_plan_of(prepared, step)}")
    for export in recipe.exports:
        target = f" for {export.package.deployment_target}" if export.format is Format.COREML else ""
        learns = export.format is not Format.TFLITE and calibrated(export.format, export.precision)
        drawn = f", calibrated on {calibrating(recipe).samples} training samples" if learns else ""
        lines.append(f"export  {export.format} {export.precision}{target}{drawn}")
    if recipe.latency.measure:
        lines.append(
            f"latency {recipe.latency.processes} processes x {recipe.latency.pairs} pairs for each stage, on this host"
        )
    if recipe.budget:
        limits = asked_limits(recipe.budget)
        lines.append("budget  " + ", ".join(f"{k} {v}" for k, v in limits.items()))
    return lines


def _plan_of(prepared: Prepared, step: Step) -> str:
    recipe = prepared.recipe
    if isinstance(step, QuantizeStep):
        ends = f"{step.io_type} inputs and outputs{', floats where no kernel is' if step.float_fallback else ''}"
        ends += ", one scale for each kernel" if step.per_tensor else ""
        ends += f", at most {step.ladder.max_drop} of the metric lost" if step.ladder.max_drop else ""
        ends += f", in float: {', '.join(step.ladder.keep_float)}" if step.ladder.keep_float else ""
        ends += f", coarser weights to {step.slim.download_target}" if step.slim.download_target else ""
        ends += f", coarser weights for {step.slim.spend} of the metric" if step.slim.spend else ""
        trained = isinstance(step, QatStep)
        first = f"quantization-aware training, {_training_plan(prepared, training_of(step))}, " if trained else ""
        return f"{first}{step.precision}, calibrated on {step.samples} training samples, {ends}"
    if isinstance(step, EqualizeStep):
        return f"equalize channels, whose sizes {step.samples} training samples tell"
    training = _training_plan(prepared, step.training)
    if step.teacher is not None:
        taught = Path(step.teacher).name if teacher_file(step.teacher) else step.teacher
        training += f", taught by {taught}"
    if isinstance(step, FinetuneStep):
        if prepared.student is not None and step is student_step(recipe):
            return f"the student ({count_parameters(prepared.student):,} parameters) in the model's place, {training}"
        return f"fine-tune, {training}"
    if isinstance(step, ChannelStep):
        return _channel_plan(prepared, step, training)
    chosen, skipped = select_targets(prepared.model, step.options)
    options = step.options
    asked = f"{options.fraction:.0%}" if options.pattern is None else f"{options.pattern}"
    how = f"{options.scope} scope{', by wanda' if options.needs_data else ''}"
    how += ", channels reordered first" if options.permute else ""
    how += ", layers padded symmetrically first" if options.symmetric_padding else ""
    return (
        f"{step.style} pruning to {asked} of {len(chosen)} kernels ({how}, "
        f"{len(skipped)} layers stay dense), {training}{', ' + step.schedule if step.training else ''}, "
        f"{f'SR-STE {step.sr_ste:g}, ' if step.sr_ste else ''}{step.backend} backend"
    )


def _training_plan(prepared: Prepared, options: TrainOptions | None) -> str:
    if options is None:
        return "one shot, no training"
    assert prepared.train is not None
    steps = options.epochs * steps_per_epoch(len(prepared.train), options.batch_size)
    return f"{options.epochs} epochs = {steps:,} steps of {options.batch_size}"


def _channel_plan(prepared: Prepared, step: ChannelStep, training: str) -> str:
    structure = prepared.structures[through_norms(step)]
    groups, options = len(structure.groups), step.options
    if options is None:
        return f"channel pruning of dead channels (lossless) in {groups} groups, {training}"
    chosen, _ = chosen_groups(structure, options)
    after = f", {training} after each of {step.rounds} rounds" if step.rounds > 1 else f", {training}"
    asked = options.asked
    if options.latency is not None and step.device is not None:
        profile = target_profile(options.latency, step.device)
        asked = f"{latency_asked(options, profile)} (estimated)"
    return f"channel pruning to {asked} in {len(chosen)} of {groups} groups by {options.importance}{after}"
