"""The steps of a recipe: their keys, how they are read, and values that no model could make right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.checker.latency.latency_targets import target_profile
from edgeprune.errors import RecipeError, UsageError
from edgeprune.host.toml_values import near
from edgeprune.maker.recipe.tables import profile_place, read_table

__all__ = [
    "INTEGER_IO",
    "ChannelStep",
    "FinetuneStep",
    "PruneStep",
    "QuantizeStep",
    "Step",
    "TrainingKeys",
    "check_step",
    "needs_training_data",
    "read_step",
]

BACKENDS = ("native", "tfmot")
LOOKS_AT_DATA = ("taylor", "activation")  # importance criteria
INTEGER_IO = {"int8": "int8", "int16x8": "int16"}  # precision that a step quantizes to -> its own type of the ends


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
    `macs`, `parameters`, `latency` (share left) or `lossless` (dead channels only).

    The latency is that of the float32 .tflite file, estimated for `device` (a profile's name, or the path of a .toml).
    With `epochs` the model is trained so long after each of the `rounds`.
    """

    kind: str = "prune"
    name: str = "pruned"
    style: str = "channel"
    ratio: float | None = None
    macs: float | None = None
    parameters: float | None = None
    latency: float | None = None
    device: str | None = None
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


def read_step(path: Path, number: int, raw: Any) -> Step:
    """The step that stands at place `number`, from 1. Raises RecipeError for what is no step."""
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
    step: Step = read_table(path, where, raw, STYLES[style] if style else STEPS[kind])
    if isinstance(step, ChannelStep) and step.device is not None:
        return replace(step, device=profile_place(path, step.device))
    return replace(step, name=step.precision) if isinstance(step, QuantizeStep) and "name" not in raw else step


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
    if step.device is not None and step.latency is None:
        raise UsageError(
            "device is the profile of a latency to reach: add latency = 0.6 (the share to keep), or leave it out"
        )
    asked = [key for key in ("ratio", "macs", "parameters", "latency") if getattr(step, key) is not None]
    if len(asked) + step.lossless != 1:
        raise UsageError("channel pruning takes one of ratio, macs, parameters, latency and lossless = true")
    if step.latency is not None:
        if step.device is None:
            raise UsageError(
                "latency is estimated for a device: add device = \"NAME\" ('edgeprune devices' lists them)"
            )
        target_profile(step.latency, step.device)
    if step.epochs < 0 or step.rounds < 1:
        raise UsageError("epochs is at least 0 and rounds at least 1")
    if step.rounds > 1 and (step.lossless or not step.epochs):
        raise UsageError("rounds are for training in between: set epochs, and a ratio, macs, parameters or latency")


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
