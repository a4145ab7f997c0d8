"""Convert a model in one call: a verified file on disk, and its record."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgeprune.artifact import SUFFIXES, Format, IoType, Precision
from edgeprune.converters.end_samples import end_trials, fed, fed_samples
from edgeprune.converters.exported import entry_at, measure_export, refuse_departure, said_of
from edgeprune.converters.exports import (
    INTEGER,
    SIGNATURE,
    USUAL,
    calibrated,
    check_export,
    check_io_type,
    check_opset,
    check_sparse_kernels,
    format_of,
)
from edgeprune.converters.ladder_options import LadderOptions, check_ladder
from edgeprune.converters.packaging import AppOptions, check_words
from edgeprune.converters.parity import check_tolerance
from edgeprune.converters.probabilities import classified
from edgeprune.converters.searched import judge_of, searched
from edgeprune.converters.session import Converter, Exported
from edgeprune.converters.slim_options import SlimOptions, check_slim
from edgeprune.converters.sparse_exports import few_inputs, sparse_export
from edgeprune.converters.spending import Judge
from edgeprune.converters.trial_inputs import trial_samples
from edgeprune.converters.verification import BISECTED, bisect_file, opened
from edgeprune.errors import UsageError
from edgeprune.formats.metadata import ImageInput, check_ends, settled
from edgeprune.host.outputs import check_output_file, output_file
from edgeprune.host.progress import Progress
from edgeprune.host.toml_values import check_choice
from edgeprune.ledger import ArtifactEntry, SparseKernels
from edgeprune.maker.keras.ends import NAME, EndOptions, with_ends
from edgeprune.maker.keras.model_files import load_convertible
from edgeprune.maker.keras.models import input_specs, output_shapes, refuse_half_precision
from edgeprune.maker.keras.types import AnyModel
from edgeprune.maker.training.data.loading import calibration_set, calibration_split
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.data.targets import fitting_targets
from edgeprune.maker.training.goals import Asked, find_task
from edgeprune.maker.training.task import Task
from edgeprune.report.agreement_report import departure_lines
from edgeprune.runtime.trials import TRIALS, trial_count

__all__ = ["ConvertOptions", "check_conversion", "convert"]

Calibration = Samples | Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """How a file is made and judged.

    Of integer .tflite files: `io_type` is what inputs and outputs of int8 (float32, int8, uint8) and int16x8 (float32,
    int16) are; with `float_fallback` operations without an integer kernel stay in float; with `per_tensor` a kernel has
    one scale in place of one per channel; `slim` says how their numbers are stored, `ladder` how much int8 may
    lose. `calibration_samples` of the calibration set, drawn with `seed`, set the scales, also those of a Core ML
    w8a8 package. `ends` are the inputs and outputs that the file should have, `signature` the name of its signature
    (.tflite); `app` is what it tells the app, of either format. `tolerance` is the largest difference allowed, as a
    share of the output range (None: by precision); `opset` is that of an .onnx file (None: OPSET); with `bisect` the
    error of a file that departs names the first layer that does. With `sparse_kernels` a float .tflite file is made one
    that XNNPACK runs with sparse kernels. The file is compressed by the quick codecs and by `codecs`.
    """

    io_type: IoType | str = IoType.FLOAT32
    float_fallback: bool = False
    per_tensor: bool = False
    calibration_samples: int = 200
    seed: int = 0
    ends: EndOptions = field(default_factory=EndOptions)
    signature: str = SIGNATURE
    app: AppOptions = field(default_factory=AppOptions)
    slim: SlimOptions = field(default_factory=SlimOptions)
    ladder: LadderOptions = field(default_factory=LadderOptions)
    tolerance: float | None = None
    bisect: bool = False
    codecs: tuple[str, ...] = ()
    opset: int | None = None
    sparse_kernels: bool = False


def convert(
    model: AnyModel | str | Path,
    path: str | Path,
    *,
    precision: Precision | str | None = None,
    calibration: Calibration | None = None,
    samples: Samples | None = None,
    validation: Samples | None = None,
    metric: Asked | None = None,
    options: ConvertOptions | None = None,
    overwrite: bool = False,
    converter: Converter | None = None,
    progress: Progress | None = None,
) -> ArtifactEntry:
    """Write the .tflite or .onnx file or .mlpackage folder `path` made from a Keras model (or the model file at a
    path), and return its record: size, zeros, parity with the model, what ran it, and the score.

    `precision` is float32 for .tflite and .onnx and float16 for .mlpackage unless given; int8 and int16x8 of .tflite,
    int8 of .onnx, w8a8 and sparse-w8a8 of .mlpackage need `calibration`: training samples, or arrays [samples, ...] by
    input name. The file is held against the model on `samples`, and scored by `metric` where they have targets; else on
    calibration samples that are held back for that, else on a few random ones. What `options.slim` may spend is
    measured by `metric` on `validation`, other samples than those, and so is what `options.ladder` may lose. A
    `converter` serves several calls. Raises UsageError for what cannot be asked, ConversionError for a file that
    departs from its model; nothing is left at `path` then.
    """
    wanted, out, shown = options or ConvertOptions(), Path(path), progress or Progress(quiet=True)
    model_format, chosen = check_conversion(out, precision, wanted, has_calibration=calibration is not None)
    check_output_file(out, overwrite=overwrite, suffix=SUFFIXES[model_format])
    source = load_convertible(Path(model)) if isinstance(model, str | Path) else model
    if model_format is Format.TFLITE:
        refuse_half_precision(source)
    source = with_ends(source, wanted.ends.of_data)
    task = find_task(source, metric) if metric is not None else None
    if task is not None:
        samples, validation = (
            given and fitting_targets(given, output_shapes(source), task) for given in (samples, validation)
        )
    arrays, held = _split(calibration, source, wanted, hold_back=samples is None)
    source = with_ends(source, wanted.ends.of_file)
    arrays = None if arrays is None else fed(arrays, source, wanted.ends)
    samples, held = (given and fed_samples(given, source, wanted.ends) for given in (samples, held))
    specs = input_specs(source)
    wanted = replace(wanted, app=settled(_renamed(wanted.app, wanted.ends), list(specs)))
    check_ends(specs, output_shapes(source), wanted.app)
    source, said = classified(source, wanted.app)
    judge = _judge(source, validation, task, wanted, model_format)
    own = contextlib.nullcontext(converter) if converter else Converter()
    with own as working, output_file(out, overwrite=overwrite) as place:
        shown.begin(f"convert to {model_format} {chosen}")
        export = partial(
            working.export,
            source,
            place,
            model_format,
            chosen,
            io_type=str(wanted.io_type),
            calibration=arrays,
            sizes={name: sizes for name, sizes in wanted.ends.sizes_of(source).items() if not sizes.fixed},
            signature=wanted.signature,
            float_fallback=wanted.float_fallback,
            per_tensor=wanted.per_tensor,
            opset=wanted.opset,
        )
        found = searched(
            export,
            wanted.slim,
            wanted.ladder,
            model=source,
            app=wanted.app,
            io_type=str(wanted.io_type),
            calibration=arrays,
            judge=judge,
            progress=shown,
        )
        made, said = found.made, (*said, *found.said)
        made, sparse, more = _for_sparse_kernels(made, source, samples or held, wanted)
        shown.end()
        shown.begin("run the file")
        entry = _judged(made, source, samples, held, task, wanted, shown)
        shown.end()
    said = (*said, *more, *said_of(found.made, source))
    return entry_at(entry, str(out), warnings=said, ladder=found.report, sparse_kernels=sparse)


def _for_sparse_kernels(
    made: Exported, model: AnyModel, samples: Samples | None, options: ConvertOptions
) -> tuple[Exported, SparseKernels | None, tuple[str, ...]]:
    """(The file, for sparse kernels where that is asked for; what was done; what is to be said of it)."""
    if not options.sparse_kernels:
        return made, None, ()
    return sparse_export(made, options.app, few_inputs(samples, input_specs(model)))


def _judge(
    model: AnyModel, validation: Samples | None, task: Task | None, options: ConvertOptions, model_format: Format
) -> Judge | None:
    """What scores files while something is looked for; None where nothing is. Raises UsageError."""
    if not options.slim.searches and not options.ladder.searches:
        return None
    if validation is None or not validation.told or task is None:
        raise UsageError(
            "--max-drop, --spend and --download-target need validation samples with targets: add --validation DATA.npz"
        )
    samples = fed_samples(validation, model, options.ends)
    return judge_of(model, samples, task, options.slim, options.ladder, model_format)


def _renamed(app: AppOptions, ends: EndOptions) -> AppOptions:
    """The picture's input under the name that it has in the file."""
    if app.image is None or app.image.name not in ends.names:
        return app
    return replace(app, image=replace(app.image, name=ends.names[app.image.name]))


def check_conversion(
    path: Path, precision: Precision | str | None, options: ConvertOptions, *, has_calibration: bool
) -> tuple[Format, Precision]:
    """The format by the ending of `path`, and the precision. Raises UsageError for what cannot be made."""
    model_format = format_of(path)
    chosen = _precision(precision) if precision is not None else USUAL[model_format]
    check_export(model_format, chosen, options.app.target)
    check_words(model_format, options.app)
    check_io_type(model_format, chosen, str(options.io_type))
    check_opset(model_format, options.opset)
    check_tolerance(options.tolerance)
    check_slim(model_format, chosen, options.slim)
    check_sparse_kernels(model_format, chosen, wanted=options.sparse_kernels)
    check_ladder(model_format, chosen, options.ladder)
    if options.signature != SIGNATURE and model_format is not Format.TFLITE:
        raise UsageError(f"--signature is for tflite; other files have none; got {options.signature!r}")
    if not NAME.fullmatch(options.signature):
        raise UsageError(f"--signature {options.signature}: a name has letters, digits and _, and begins with a letter")
    if options.per_tensor and not (model_format is Format.TFLITE and chosen in INTEGER):
        raise UsageError(f"--per-tensor is for tflite int8 and int16x8; got {model_format} {chosen}")
    if calibrated(model_format, chosen) and not has_calibration:
        other = {Format.TFLITE: "dynamic", Format.COREML: "int8"}.get(model_format, "float16")
        raise UsageError(
            f"{chosen} needs samples to learn the ranges of the activations: add --calibration TRAIN.npz, "
            f"or use --precision {other}, which needs no data"
        )
    if options.slim.searches and not has_calibration:
        raise UsageError(
            f"--spend and --download-target of {chosen} need samples that tell what each layer costs: add "
            "--calibration TRAIN.npz"
        )
    if options.calibration_samples < 1:
        raise UsageError(f"--samples is at least 1; got {options.calibration_samples}")
    return model_format, chosen


def _precision(name: Precision | str) -> Precision:
    check_choice("precision", name, Precision)
    return Precision(name)


def _split(
    given: Calibration | None, model: AnyModel, options: ConvertOptions, *, hold_back: bool
) -> tuple[Mapping[str, np.ndarray] | None, Samples | None]:
    """(what sets the ranges, what is held back of it to judge the file)."""
    if given is None:
        return None, None
    known, count = given, options.calibration_samples
    if not isinstance(known, Samples):
        known = Samples(path=Path("the calibration"), inputs=known, targets=None)
        count = len(known)
    if not hold_back:
        return calibration_set(known, input_specs(model), count, options.seed), None
    return calibration_split(known, input_specs(model), count, options.seed)


def _trial(
    made: Exported, model: AnyModel, held: Samples | None, image: ImageInput | None, ends: EndOptions
) -> tuple[Samples, str]:
    """Samples to judge a file on when none are given, and what they are."""
    macs = made.contents.macs
    if held is not None:
        few = held.rows(np.arange(min(len(held), trial_count(macs, fewest=TRIALS, most=len(held)))))
        return few, f"samples of {held.path.name} that did not calibrate it" if len(
            held
        ) > 1 else f"sample of {held.path.name}"
    found = trial_samples(
        model,
        macs=macs,
        shapes={name: sizes.shapes[0] for name, sizes in ends.sizes_of(model).items()},
        scale=image.scale if image else 1.0,
        bias=image.bias if image else (0.0,),
        pictures=image.name if image else None,
    )
    return found, "random samples"


def _judged(
    made: Exported,
    model: AnyModel,
    samples: Samples | None,
    held: Samples | None,
    task: Task | None,
    options: ConvertOptions,
    progress: Progress,
) -> ArtifactEntry:
    image = options.app.image
    if samples is None:
        trial, samples_are = _trial(made, model, held, image, options.ends)
    else:
        trial, samples_are = samples, f"samples of {samples.path.name}"

    def where() -> str:
        """The first layer that departs, in words."""
        if not options.bisect:
            return "add --bisect to learn from which layer on"
        few = {n: trial.inputs[n][:BISECTED].astype(dtype) for n, (_, dtype) in input_specs(model).items()}
        return "; ".join(departure_lines(bisect_file(opened(made), model, few, image=image), agrees=False))

    entry = measure_export(
        made,
        model,
        trial,
        task if samples is not None else None,
        name=made.path.name,
        samples_are=samples_are,
        exported=True,
        codecs=options.codecs,
        image=image,
        tolerance=options.tolerance,
        where=where,
        on_progress=progress.advance,
    )
    also = []
    few = trial_count(made.contents.macs)
    for others, what in end_trials(trial, model, options.ends, few) if entry.parity else ():
        refuse_departure(made, model, others, what, image=image, tolerance=options.tolerance)
        also.append(what)
    return replace(entry, parity_on=f"{entry.parity_on}, and right with {' and '.join(also)}") if also else entry
