"""`edgeprune convert`: a TFLite file, a Core ML package or an ONNX model, held against its model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.artifact import SUFFIXES, Color, DeploymentTarget, Format, IoType, Precision, Rounding, Scales, sha256_of
from edgeprune.commands.ends import EndWords, end_options
from edgeprune.commands.options import (
    EXIT_CODES,
    JOB,
    PATH,
    TOLERANCE,
    asked_task,
    common_options,
    echo_json,
    taken,
    taken_goal,
    with_note,
)
from edgeprune.commands.screens import Verb
from edgeprune.converters.exports import OPSET, OPSETS
from edgeprune.errors import UsageError
from edgeprune.maker.training.goal import Goal

if TYPE_CHECKING:
    from edgeprune.converters.packaging import AppOptions
    from edgeprune.ledger import ArtifactEntry

__all__ = ["convert"]

WRITTEN = [word.value for word in Format if word is not Format.KERAS]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The options as they were typed."""

    to: str
    precision: str | None
    calibration: Path | None
    samples: int
    io_type: str
    per_tensor: bool
    float_fallback: bool
    scales: str
    rounding: str
    drop_names: bool
    max_drop: str | None
    keep_float: tuple[str, ...]
    max_float_macs: str | None
    spend: str | None
    download_target: str | None
    validation: Path | None
    deployment_target: str
    image_input: str | None
    image_bias: str | None
    color: str | None
    mean: str | None
    std: str | None
    class_labels: Path | None
    softmax: bool
    author: str | None
    license: str | None
    description: str | None
    version: str | None
    data: Path | None
    goal: Goal
    scale: float
    offset: float
    on_bad_sample: str
    tolerance: float | None
    bisect: bool
    opset: int | None
    sparse_kernels: bool
    cut_preprocessing: bool
    signature: str
    ends: EndWords
    codecs: tuple[str, ...]
    seed: int
    overwrite: bool
    as_json: bool
    quiet: bool
    trust_code: bool
    custom: tuple[Path, ...]


@click.command(cls=Verb)
@click.argument("model", type=PATH)
@click.option("--to", "to", type=click.Choice(WRITTEN), required=True, help="Format of the output.")
@click.option(
    "--precision",
    type=click.Choice([word.value for word in Precision]),
    metavar="NAME",
    help="Of the numbers in the file, from float32 to 2 bits. For tflite: float32 (default), float16, dynamic, int8, "
    "int16x8. For coreml: float32, float16 (default), int8, palette2, palette4, palette6, palette8, sparse; from iOS17 "
    "w8a8; from iOS18 int4, sparse-int8, sparse-w8a8, sparse-palette4, "
    "-palette6, -palette8. For onnx: float32 (default), float16, int8 (Q/DQ).",
)
@click.option("-o", "--output", type=PATH, required=True, help="A .tflite or .onnx file or .mlpackage folder.")
@click.option(
    "--calibration",
    type=PATH,
    metavar="DATA",
    help="Training samples, for tflite int8 and int16x8, onnx int8 and coreml w8a8: their ranges set the scales.",
)
@click.option("--samples", type=int, default=200, show_default=True, help="How many calibration samples to use.")
@click.option(
    "--io-type",
    type=click.Choice([word.value for word in IoType]),
    default=IoType.FLOAT32.value,
    show_default=True,
    help="Inputs and outputs of tflite int8 (float32, int8, uint8) and int16x8 (float32, int16).",
)
@click.option(
    "--per-tensor",
    is_flag=True,
    help="tflite int8, int16x8: one scale for each kernel, for what refuses one per channel (some NPUs).",
)
@click.option(
    "--float-fallback", is_flag=True, help="tflite int8, int16x8: operations without an integer kernel stay in float."
)
@click.option(
    "--scales",
    type=click.Choice([word.value for word in Scales]),
    default=Scales.SLIM.value,
    show_default=True,
    help="tflite int8, int16x8: scales of few bits, which compress well, or those that TensorFlow gives.",
)
@click.option(
    "--rounding",
    type=click.Choice([word.value for word in Rounding]),
    default=Rounding.AUTO.value,
    show_default=True,
    help="tflite int8, int16x8: each weight to the nearest step, or reconstructed: to steps that keep the outputs of "
    "its layer on --calibration. auto: reconstructed with --spend and --download-target, tried with --max-drop.",
)
@click.option("--drop-names", is_flag=True, help="tflite int8, int16x8: leave out names that no runtime reads.")
@click.option(
    "--max-drop",
    metavar="SHARE",
    help="tflite int8: what it may lose of the metric on --validation, such as '0.5 %'; biases, rounding, ranges and, "
    "with --keep-float auto, float operations are tried until it loses no more. Exit code 1 where that is not reached.",
)
@click.option(
    "--keep-float",
    multiple=True,
    metavar="LAYER",
    help="tflite int8: layers that stay in float, by names such as 'block1*', or auto: the fewest that --max-drop "
    "needs. Repeatable.",
)
@click.option(
    "--max-float-macs",
    metavar="SHARE",
    help="tflite int8: the largest share of the MACs that --keep-float auto may keep in float.  [default: 5 %]",
)
@click.option(
    "--spend",
    metavar="SHARE",
    help="tflite int8, int16x8; coreml palette2 to palette8: coarser weights (smaller tables), as far as they cost no "
    "more of the metric than this on --validation, such as '0.2 %'.",
)
@click.option(
    "--download-target",
    metavar="SIZE",
    help="Download to reach, '80 kB' or '0.1x' of the float32 file; coarser weights may cost --spend for it, or 1 % "
    "(coreml: of the float16 package).",
)
@click.option(
    "--validation",
    type=PATH,
    metavar="DATA",
    help="Samples for --max-drop, --spend and --download-target; neither those of --calibration nor those of --data.",
)
@click.option(
    "--deployment-target",
    type=click.Choice([word.value for word in DeploymentTarget]),
    default=DeploymentTarget.IOS16.value,
    show_default=True,
    help="coreml: oldest iOS that must run the package.",
)
@click.option(
    "--image-input",
    metavar="NAME",
    help="This input takes pictures; the model gets pixel * SCALE + OFFSET (see --scale).",
)
@click.option("--image-bias", metavar="B,B,B", help="An offset for each channel, instead of --offset.")
@click.option(
    "--mean",
    metavar="M[,M,M]",
    help="Mean of the training pictures, with --std; the model gets (pixel - M) / S, another way to say --scale and "
    "--offset. Without --image-input the only input takes pictures.",
)
@click.option("--std", metavar="S[,S,S]", help="See --mean; one number for coreml.")
@click.option(
    "--color",
    type=click.Choice([word.value for word in Color]),
    help="Order of the channels that the model was trained with; BGR for coreml only.  [default: RGB]",
)
@click.option(
    "--class-labels",
    "--labels",
    type=PATH,
    metavar="TXT",
    help="A text with one label a line: a Core ML package becomes a classifier, a .tflite file carries the labels.",
)
@click.option(
    "--softmax",
    is_flag=True,
    help="The file ends in a softmax behind the output that the labels name (without labels its only output), for "
    "models that give logits.",
)
@click.option("--author", help="Goes into the file, like --license, --description and --version.")
@click.option("--license", help="Licence of the model.")
@click.option("--description", help="What the model does.")
@click.option("--version", help="Version of the model.")
@end_options
@click.option(
    "--signature", default="serving_default", show_default=True, help="tflite: the name of the file's signature."
)
@TOLERANCE
@click.option(
    "--opset",
    type=int,
    metavar="N",
    help=f"onnx: the version of the set of operators, {OPSETS[0]} to {OPSETS[1]}.  [default: {OPSET}]",
)
@click.option(
    "--sparse-kernels",
    is_flag=True,
    help="tflite float32 and float16: rewrite the graph and store the weights so that XNNPACK's zeros are fast.",
)
@click.option("--bisect", is_flag=True, help="Where the file departs from the model, name the first layer that does.")
@click.option(
    "--cut-preprocessing",
    is_flag=True,
    help="Leave out layers that look words up or hash them; NAME.preprocessing.json beside the output says what they "
    "were, and data holds what they made.",
)
@common_options("codecs", "data", "metric", *JOB)
def convert(model: Path, output: Path, **options: object) -> int:
    """Convert MODEL (.keras, .h5 or a SavedModel folder) to TFLite, Core ML or ONNX and check the file against it.

    Every file is run and compared with the Keras model before it is written: a .tflite by the installed interpreters,
    an .onnx file by ONNX Runtime, a Core ML package by Core ML on a Mac and by the evaluator elsewhere. The samples are
    those of --data, else some of --calibration that are held back for it, else 8 random ones (2 of a large model). Only
    tflite int8 and int16x8, onnx int8 and coreml w8a8 and sparse-w8a8 need data (--calibration).

    \b
    Examples:
      edgeprune convert model.keras --to tflite --precision int8 --calibration train.npz -o model.tflite
      edgeprune convert model.keras --to coreml --precision palette4 -o Model.mlpackage
      edgeprune convert model.keras --to onnx --opset 17 -o model.onnx
      edgeprune convert model.keras --to coreml --precision w8a8 --deployment-target iOS17 \\
          --calibration train.npz -o Integer.mlpackage
      edgeprune convert model.keras --to coreml --image-input image --scale 0.00784314 --offset -1 \\
          --class-labels labels.txt -o Photo.mlpackage
      edgeprune convert detector.keras --to coreml --outputs boxes,scores \\
          --input-shape 1,320..640,320..640,3 -o D.mlpackage
      edgeprune convert model.keras --to tflite --mean 127.5 --std 127.5 --labels labels.txt -o photo.tflite
    """
    wanted = taken(_Wanted, options, goal=taken_goal(options), ends=taken(EndWords, options))
    entry = _converted(model, output, wanted)
    from edgeprune.report.agreement_report import channel_lines, export_text

    for line in entry.warnings:
        click.echo(f"edgeprune: warning: {line}", err=True)

    if wanted.as_json:
        for line in channel_lines(entry.parity or ()):
            click.echo(f"edgeprune: warning: {line}", err=True)
        body = {
            "schema_version": 1,
            "input": {"path": str(model), "sha256": sha256_of(model)},
            "output": asdict(entry),
        }
        echo_json(body)
    else:
        click.echo(export_text(entry))
    return EXIT_CODES[entry.ladder is None or entry.ladder.reached]


def _converted(path: Path, output: Path, wanted: _Wanted) -> ArtifactEntry:
    """What can be known first is checked before TensorFlow starts."""
    from edgeprune.converters.conversion import ConvertOptions, check_conversion, convert
    from edgeprune.converters.ladder_options import LadderOptions
    from edgeprune.converters.session import Converter
    from edgeprune.converters.slim_options import SlimOptions
    from edgeprune.host.outputs import check_output_file
    from edgeprune.host.progress import Progress
    from edgeprune.maker.keras.ends import with_ends
    from edgeprune.maker.keras.model_files import load_convertible
    from edgeprune.maker.keras.models import output_names
    from edgeprune.maker.keras.preprocessing import cut_preprocessing, refuse_preprocessing
    from edgeprune.maker.keras.starting import at_start
    from edgeprune.maker.training.data.loading import load_split

    app, scaling = _told(wanted)
    options = ConvertOptions(
        io_type=wanted.io_type,
        float_fallback=wanted.float_fallback,
        per_tensor=wanted.per_tensor,
        calibration_samples=wanted.samples,
        seed=wanted.seed,
        ends=wanted.ends.options(),
        signature=wanted.signature,
        ladder=LadderOptions(
            max_drop=wanted.max_drop, keep_float=wanted.keep_float, max_float_macs=wanted.max_float_macs
        ),
        slim=SlimOptions(
            scales=Scales(wanted.scales),
            rounding=Rounding(wanted.rounding),
            drop_names=wanted.drop_names,
            spend=wanted.spend,
            download_target=wanted.download_target,
        ),
        app=app,
        tolerance=wanted.tolerance,
        bisect=wanted.bisect,
        opset=wanted.opset,
        sparse_kernels=wanted.sparse_kernels,
        codecs=wanted.codecs,
    )
    check_output_file(output, overwrite=wanted.overwrite, suffix=SUFFIXES[Format(wanted.to)])
    check_conversion(output, wanted.precision, options, has_calibration=wanted.calibration is not None)
    searches = options.slim.searches or options.ladder.searches
    if searches != (wanted.validation is not None):
        raise UsageError(
            "--validation DATA goes with --max-drop, --spend or --download-target, which are measured on it; add "
            f"{'--validation' if searches else 'one of them'}"
        )
    beside = output.with_suffix(".preprocessing.json")
    if wanted.cut_preprocessing:
        check_output_file(beside, overwrite=wanted.overwrite, suffix=".json")
    progress = Progress(quiet=wanted.quiet)
    progress.begin(f"load {path.name}")
    converter = Converter()
    with at_start(converter.start):
        model = load_convertible(path, trust_code=wanted.trust_code, custom=wanted.custom, on_note=progress.note)
    cut = None
    if wanted.cut_preprocessing:
        model, cut = cut_preprocessing(model)
    refuse_preprocessing(model)
    more: dict[str, Any] = {"other": output_names(model), "on_bad_sample": wanted.on_bad_sample, **scaling}
    more["trust_code"] = wanted.trust_code
    whole = model
    model = with_ends(model, options.ends.of_data)
    scores = wanted.data or wanted.validation
    task = asked_task(wanted.goal, model, trust_code=wanted.trust_code, whole=whole) if scores else None
    calibration = with_note(load_split(wanted.calibration, model, None, **more)) if wanted.calibration else None
    samples = with_note(load_split(wanted.data, model, task, **more)) if wanted.data else None
    validation = with_note(load_split(wanted.validation, model, task, **more)) if wanted.validation else None
    progress.end()
    with converter, _described(cut, beside, overwrite=wanted.overwrite):
        entry = convert(
            model,
            output,
            precision=wanted.precision,
            calibration=calibration,
            samples=samples,
            validation=validation,
            metric=task,
            options=options,
            overwrite=wanted.overwrite,
            converter=converter,
            progress=progress,
        )
    if cut is not None:
        progress.note(f"wrote {beside}: what was cut off")
    return entry


@contextlib.contextmanager
def _described(cut: Mapping[str, Any] | None, beside: Path, *, overwrite: bool) -> Iterator[None]:
    """What was cut off is written first and gets its name when the model has its own."""
    from edgeprune.host.outputs import output_file

    if cut is None:
        yield
        return
    with output_file(beside, overwrite=overwrite) as place:
        told = json.dumps({"schema_version": 1, "inputs": cut}, indent=1, ensure_ascii=False)
        place.write_text(told + "\n", encoding="utf-8")
        yield


def _told(wanted: _Wanted) -> tuple[AppOptions, dict[str, Any]]:
    """What the file tells the app, and how the data are scaled: as the pictures are."""
    from edgeprune.converters.packaging import PackageOptions, numbers_of
    from edgeprune.formats.metadata import ImageInput

    package = PackageOptions(
        deployment_target=DeploymentTarget(wanted.deployment_target),
        image_input=wanted.image_input,
        color=Color(wanted.color) if wanted.color else None,
        class_labels=wanted.class_labels,
        softmax=wanted.softmax,
        author=wanted.author or "",
        license=wanted.license or "",
        description=wanted.description or "",
        version=wanted.version or "",
    )
    if wanted.mean is None and wanted.std is None:
        if wanted.image_bias is not None and wanted.image_input is None:
            raise UsageError("--image-bias belongs to --image-input NAME; add it")
        bias = (wanted.offset,) if wanted.image_bias is None else numbers_of("--image-bias", wanted.image_bias)
        return package.resolved(scale=wanted.scale, bias=bias), {"scale": wanted.scale, "offset": wanted.offset}
    if wanted.mean is None or wanted.std is None:
        raise UsageError("--mean and --std go together; add the other one (a mean of 0 or a std of 1 changes nothing)")
    if (wanted.scale, wanted.offset, wanted.image_bias) != (1.0, 0.0, None):
        raise UsageError("--mean and --std say what --scale, --offset and --image-bias say; give one pair of them")
    image = ImageInput.normalized("", numbers_of("--mean", wanted.mean), numbers_of("--std", wanted.std))
    told = package.resolved(scale=image.scale, bias=image.bias, pictures=True)
    return told, {"scale": image.scale, "offset": image.bias}
