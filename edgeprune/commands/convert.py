"""`edgeprune convert`: a TFLite file or a Core ML package, held against its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.commands.options import PATH, TOLERANCE, common_options

__all__ = ["convert"]

PRECISIONS = (
    *("float32", "float16", "dynamic", "int8", "int16x8", "palette2", "palette4", "palette6", "palette8"),
    *("sparse", "sparse-int8", "sparse-palette4", "sparse-palette6", "sparse-palette8"),
)


@click.command()
@click.argument("model", type=PATH)
@click.option("--to", "to", type=click.Choice(["tflite", "coreml"]), required=True, help="Format of the output.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    metavar="NAME",
    help="tflite: float32 (default), float16, dynamic, int8, int16x8. coreml: float32, float16 (default), int8, "
    "palette2, palette4, palette6, palette8, sparse; from iOS18 sparse-int8, sparse-palette4, -palette6, -palette8.",
)
@click.option("-o", "--output", type=PATH, required=True, help="A .tflite file or .mlpackage folder.")
@click.option(
    "--calibration",
    type=PATH,
    metavar="NPZ",
    help="Training samples, for tflite int8 and int16x8: their ranges set the scales.",
)
@click.option("--samples", type=int, default=200, show_default=True, help="How many calibration samples to use.")
@click.option(
    "--io-type",
    type=click.Choice(["float32", "int8", "int16"]),
    default="float32",
    show_default=True,
    help="Inputs and outputs of tflite int8 (float32, int8) and int16x8 (float32, int16).",
)
@click.option(
    "--float-fallback", is_flag=True, help="tflite int8, int16x8: operations without an integer kernel stay in float."
)
@click.option(
    "--deployment-target",
    default="iOS16",
    show_default=True,
    metavar="TARGET",
    help="coreml: oldest iOS that must run the package: iOS15, iOS16, iOS17 or iOS18.",
)
@click.option(
    "--image-input",
    metavar="NAME",
    help="coreml: this input takes pictures; the model gets pixel * SCALE + OFFSET (see --scale).",
)
@click.option("--image-bias", metavar="B,B,B", help="coreml: an offset for each channel, instead of --offset.")
@click.option(
    "--color",
    type=click.Choice(["RGB", "BGR", "GRAYSCALE"]),
    help="coreml: order of the channels that the model was trained with.  [default: RGB]",
)
@click.option(
    "--class-labels",
    type=PATH,
    metavar="TXT",
    help="coreml: one label a line; the package becomes a classifier.",
)
@click.option("--author", help="coreml: shown by Xcode, like --license, --description and --version.")
@click.option("--license", help="coreml: licence of the model.")
@click.option("--description", help="coreml: what the model does.")
@click.option("--version", help="coreml: version of the model.")
@TOLERANCE
@click.option("--bisect", is_flag=True, help="Where the file departs from the model, name the first layer that does.")
@common_options("codecs", "data", "metric", "scale", "offset", "seed", "overwrite", "json", "quiet", "trust", "custom")
def convert(model: Path, output: Path, **options: Any) -> int:
    """Convert MODEL (.keras, .h5 or a SavedModel folder) to TFLite or Core ML and check the file against it.

    Every file is run and compared with the Keras model before it is written: a .tflite by the installed interpreters,
    a Core ML package by Core ML on a Mac and by the evaluator elsewhere. The samples are those of --data, or 8 random
    ones. Only tflite int8 and int16x8 need data (--calibration).

    \b
    Examples:
      edgeprune convert model.keras --to tflite --precision int8 --calibration train.npz --data test.npz -o model.tflite
      edgeprune convert model.keras --to coreml --precision palette4 -o Model.mlpackage
      edgeprune convert model.keras --to coreml --image-input image --scale 0.00784314 --offset -1 \\
          --class-labels labels.txt -o Photo.mlpackage
    """
    from edgeprune.commands.export_verbs import convert_verb

    return convert_verb(model, output, **options)
