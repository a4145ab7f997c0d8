"""The steps of a recipe: their keys, how they are read, and values that no model could make right.

A step contains the options of its algorithm; in a recipe the keys of both stand in one table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeprune.artifact import Format, Precision
from edgeprune.checker.latency.latency_targets import target_profile
from edgeprune.checker.latency.profiles import profile_place
from edgeprune.converters.exports import INTEGER, IO_TYPES
from edgeprune.converters.ladder_options import LadderOptions, check_ladder
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.errors import RecipeError, UsageError
from edgeprune.host.toml_values import check_choice, check_word, near
from edgeprune.maker.pruning.options import STYLES, ChannelOptions, MagnitudeOptions, check_sr_ste
from edgeprune.maker.pruning.schedule import SCHEDULES, check_sparsity
from edgeprune.maker.recipe.tables import keys_of, read_table
from edgeprune.maker.training.options import QatOptions, TrainOptions

__all__ = [
    "BACKENDS",
    "ChannelStep",
    "EqualizeStep",
    "FinetuneStep",
    "ModelStep",
    "PruneStep",
    "QatStep",
    "QuantizeStep",
    "Step",
    "TrainingStep",
    "check_step",
    "needs_training_data",
    "read_step",
    "teacher_file",
    "teacher_of",
    "training_of",
]

BACKENDS = ("native", "tfmot")


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneStep:
    """[[steps]] kind = "prune". Without `training` in one shot; with it while training, along `schedule`.

    Under schedule = "polynomial" sparsity grows from `initial_sparsity` until the share `ramp` of the steps is done and
    is held from then on; under "constant" it is there from the first step.
    """

    kind: str = "prune"
    name: str = "pruned"
    """Names the stage in the ledger."""
    style: str = "magnitude"
    options: MagnitudeOptions
    schedule: str = "polynomial"
    """`"polynomial"`: sparsity grows until the share `ramp` of the steps; `"constant"`: at once."""
    initial_sparsity: float = 0.0
    """Where the polynomial begins."""
    power: float = 3.0
    """Exponent of the polynomial."""
    frequency: int = 10
    """Masks are renewed every so many steps."""
    ramp: float = 0.7
    """Share of the steps after which the whole sparsity is reached."""
    backend: str = "native"
    """`"tfmot"` trains with tensorflow-model-optimization's wrappers."""
    sr_ste: float = 0.0
    """Of a pattern: weights that it removes train on behind their zeros until the share `ramp` of the steps, drawn to
    zero by this decay, and may come back (SR-STE, arXiv:2102.04010; 2e-4 there)."""
    teacher: str | None = None
    """For `distill`: the model that teaches, the name of an earlier stage or a .keras file; left out, the dense
    model."""
    training: TrainOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStep:
    """[[steps]] kind = "prune", style = "channel": remove channels, by `options` or with `lossless` dead channels only.

    A latency is that of the float32 .tflite file, estimated for `device` (a profile's name, or the path of a .toml).
    With `training` the model is trained so after each of the `rounds`.
    """

    kind: str = "prune"
    name: str = "pruned"
    """Names the stage in the ledger."""
    style: str = "channel"
    options: ChannelOptions | None = None
    device: str | None = None
    """For `latency`: the profile that it is estimated from, a name of `edgeprune devices` or a .toml file."""
    lossless: bool = False
    """Remove dead channels only; the outputs stay the same."""
    rounds: int = 1
    """Cut in so many rounds, with `epochs` of training after each."""
    teacher: str | None = None
    """For `distill`: the model that teaches, the name of an earlier stage or a .keras file; left out, the dense
    model."""
    training: TrainOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneStep:
    """[[steps]] kind = "finetune": train on; zeros of kernels stay zeros."""

    kind: str = "finetune"
    name: str = "fine-tuned"
    """Names the stage in the ledger."""
    teacher: str | None = None
    """For `distill`: the model that teaches, the name of an earlier stage or a .keras file; left out, the dense
    model."""
    training: TrainOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualizeStep:
    """[[steps]] kind = "equalize": channels of alike size, so that one scale for a whole kernel or tensor suits them.

    `samples` of the training split tell how large each channel gets.
    """

    kind: str = "equalize"
    name: str = "equalized"
    """Names the stage in the ledger."""
    samples: int = 600
    """How many training samples tell how large each channel gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeStep:
    """[[steps]] kind = "quantize": full-integer post-training quantization of the .tflite file.

    `samples` of the training split calibrate the activation ranges; `io_type` is the type of inputs and outputs;
    `float_fallback` lets operations without an integer kernel compute in float; `per_tensor` gives each kernel one
    scale; `ladder` says how much int8 may lose, `slim` how numbers are stored. Its name is its precision.
    """

    kind: str = "quantize"
    name: str = "int8"
    """Names the stage in the ledger; left out, its precision."""
    precision: str = "int8"
    """`"int8"`, or `"int16x8"`: int16 activations and int8 weights."""
    samples: int = 200
    """How many training samples set the scales; also those of a coreml export `w8a8`."""
    io_type: str = "float32"
    """Type of inputs and outputs: `"float32"`, or `"int8"` or `"uint8"` (`"int16"` of int16x8)."""
    float_fallback: bool = False
    """Operations without an integer kernel stay in float instead of being an error."""
    per_tensor: bool = False
    """One scale for each kernel instead of one for each of its channels, for what refuses those (some NPUs)."""
    ladder: LadderOptions = field(default_factory=LadderOptions)
    slim: SlimOptions = field(default_factory=SlimOptions)

    @property
    def searches(self) -> bool:
        """Whether files are scored on validation samples."""
        return self.ladder.searches or self.slim.searches


@dataclass(frozen=True, slots=True, kw_only=True)
class QatStep(QuantizeStep):
    """[[steps]] kind = "qat": quantization-aware training. The model is trained as its int8 file computes, and that
    file takes the ranges that it learned; zeros of kernels stay zeros.

    `samples` of the training split give the ranges that the training begins with.
    """

    kind: str = "qat"
    name: str = "qat"
    """Names the stage in the ledger."""
    teacher: str | None = None
    """For `distill`: the model that teaches, the name of an earlier stage or a .keras file; left out, the dense
    model."""
    training: QatOptions


ModelStep = PruneStep | ChannelStep | FinetuneStep | EqualizeStep  # those that change the model in float
Step = ModelStep | QuantizeStep | QatStep
TrainingStep = PruneStep | ChannelStep | FinetuneStep | QatStep
STEPS: dict[str, type[PruneStep | FinetuneStep | EqualizeStep | QuantizeStep | QatStep]] = {
    "prune": PruneStep,
    "finetune": FinetuneStep,
    "equalize": EqualizeStep,
    "quantize": QuantizeStep,
    "qat": QatStep,
}


def read_step(path: Path, number: int, raw: object, *, seed: int = 0) -> Step:
    """The step that stands at place `number`, from 1. Raises RecipeError for what is no step."""
    where = f"steps {number}"
    kind = raw.get("kind") if isinstance(raw, Mapping) else None
    if not isinstance(raw, Mapping) or kind not in STEPS:
        raise RecipeError(
            f"{path}: [{where}] needs kind = one of {', '.join(STEPS)}; got {kind!r}{near(str(kind), STEPS)}"
        )
    if kind == "prune" and check_word(path, where, "style", raw.get("style", "magnitude"), STYLES) == "channel":
        return _channel_step(path, where, raw, seed)
    step: Step = read_table(path, where, raw, STEPS[kind], seed=seed)
    if isinstance(step, QuantizeStep) and kind == "quantize" and "name" not in raw:
        return replace(step, name=step.precision)
    return step


def _channel_step(path: Path, where: str, raw: Mapping[str, object], seed: int) -> ChannelStep:
    pointless = [key for key in keys_of(ChannelOptions) if key in raw]
    if raw.get("lossless") is True and pointless:
        raise RecipeError(f"{path}: [{where}] lossless removes dead channels only: leave out '{pointless[0]}'")
    step = read_table(path, where, raw, ChannelStep, seed=seed)
    return step if step.device is None else replace(step, device=profile_place(path, step.device))


def training_of(step: Step) -> TrainOptions | None:
    """How the step trains; None for one that does not."""
    return step.training if isinstance(step, TrainingStep) else None


def teacher_of(step: Step) -> str | None:
    """Who teaches in the step's training, as the recipe names it; None for the dense model."""
    return step.teacher if isinstance(step, TrainingStep) else None


def teacher_file(name: str) -> bool:
    """Whether a teacher is a file and no stage."""
    return name.endswith((".keras", ".h5"))


def needs_training_data(step: Step) -> bool:
    """Whether the step trains or looks at training samples, those of a calibration aside."""
    pruning = step.options if isinstance(step, PruneStep | ChannelStep) else None
    looks = isinstance(step, EqualizeStep) or (pruning is not None and pruning.needs_data)
    return looks or training_of(step) is not None


def check_step(step: Step) -> None:
    """Raise UsageError for values that no model could make right."""
    if any(ch in step.name for ch in "/\\") or not step.name.strip() or step.name.startswith("."):
        raise UsageError(f"the name {step.name!r} cannot be part of a file name")
    training = training_of(step)
    if teacher_of(step) is not None and (training is None or not training.distill):
        raise UsageError("teacher is who answers for distill: set epochs and distill = 0.5, or leave teacher out")
    if teacher_of(step) is not None and training is not None and training.features:
        raise UsageError("features are those of the recipe's own model: leave out teacher, or features")
    if isinstance(step, EqualizeStep) and step.samples < 1:
        raise UsageError(f"samples is at least 1; got {step.samples}")
    if isinstance(step, QuantizeStep):
        _check_quantize(step)
    elif isinstance(step, PruneStep):
        _check_prune(step)
    elif isinstance(step, ChannelStep):
        _check_channel(step)


def _check_quantize(step: QuantizeStep) -> None:
    if step.precision not in list(INTEGER):
        raise UsageError(
            f"precision is int8 or int16x8; got {step.precision!r} (float16 and dynamic are precisions of an export)"
        )
    if isinstance(step, QatStep) and step.precision != Precision.INT8:
        raise UsageError(f"quantization-aware training is for int8; got {step.precision!r}")
    known = IO_TYPES[Precision(step.precision)]
    if step.io_type not in list(known):
        raise UsageError(f"io_type of {step.precision} is {' or '.join(known)}; got {step.io_type!r}")
    if step.samples < 1:
        raise UsageError(f"samples is at least 1; got {step.samples}")
    check_ladder(Format.TFLITE, Precision(step.precision), step.ladder)


def _check_channel(step: ChannelStep) -> None:
    latency = step.options.latency if step.options else None
    if step.device is not None and latency is None:
        raise UsageError(
            "device is the profile of a latency to reach: add latency = 0.6 (the share to keep), or leave it out"
        )
    if (step.options is None) != step.lossless:
        raise UsageError(
            "channel pruning takes one of ratio, macs, parameters, download, latency, widths, harmless and "
            "lossless = true"
        )
    if latency is not None:
        if step.device is None:
            raise UsageError(
                "latency is estimated for a device: add device = \"NAME\" ('edgeprune devices' lists them)"
            )
        target_profile(latency, step.device)
    if step.rounds < 1:
        raise UsageError(f"rounds is at least 1; got {step.rounds}")
    once = step.options is None or step.options.target in ("harmless", "widths")
    if step.rounds > 1 and (once or step.training is None):
        raise UsageError("rounds are for training in between: set epochs, and a ratio, macs, parameters or latency")


def _check_prune(step: PruneStep) -> None:
    check_sparsity(step.initial_sparsity, "initial_sparsity")
    check_choice("schedule", step.schedule, SCHEDULES)
    check_choice("backend", step.backend, BACKENDS)
    if step.frequency < 1 or not 0 < step.ramp <= 1 or not 0 < step.power < math.inf:
        raise UsageError("frequency is at least 1, ramp above 0 and at most 1, power above 0")
    if step.initial_sparsity > step.options.fraction:
        raise UsageError(f"initial_sparsity {step.initial_sparsity:g} is above sparsity {step.options.fraction:g}")
    if step.options.needs_data and step.training is not None:
        raise UsageError("wanda scores in one shot: leave out epochs, and let a step of kind finetune follow")
    if step.sr_ste and step.training is None:
        raise UsageError("sr_ste is for training: set epochs, or leave it out")
    check_sr_ste(step.sr_ste, step.options)
    if step.backend == "tfmot" and step.options.symmetric_padding:
        raise UsageError('the tfmot backend pads nothing anew: drop symmetric_padding or use backend = "native"')
    if step.backend == "tfmot" and step.training is not None and step.training.distill:
        raise UsageError('the tfmot backend does not distil: drop distill or use backend = "native"')
    if step.backend == "tfmot" and (step.training is None or step.options.scope != "layer"):
        raise UsageError('the tfmot backend prunes while training and layer by layer: set epochs and scope = "layer"')
    if step.backend == "tfmot" and step.options.pattern is not None:
        raise UsageError(
            f'the tfmot backend prunes to fractions only, not to {step.options.pattern}: backend = "native"'
        )
