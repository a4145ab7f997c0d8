"""`edgeprune verify`: does a file compute what a model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.commands.options import PATH, TOLERANCE, common_options

__all__ = ["verify"]


@click.command()
@click.argument("exported", type=PATH)
@click.option("--against", type=PATH, required=True, metavar="MODEL", help="The Keras model it came from.")
@click.option("--data", type=PATH, metavar="NPZ", help="Samples to compare on.  [default: 8 random ones]")
@click.option(
    "--metric", type=click.Choice(["accuracy", "auc", "mse", "mae"]), help="Score both, with the targets y of --data."
)
@click.option("--image-bias", metavar="B,B,B", help="Image input: an offset for each channel, instead of --offset.")
@TOLERANCE
@click.option("--bisect", is_flag=True, help="Name the first layer that departs from the model.")
@common_options("scale", "offset", "json", "quiet", "trust", "custom")
def verify(exported: Path, **options: Any) -> int:
    """Does EXPORTED (.tflite or .mlpackage, made by anyone) compute what a Keras model computes?

    A .tflite file runs in the installed interpreters. A Core ML package runs in Core ML on a Mac; elsewhere the
    evaluator carries out its program operation by operation: graph and weights, not Apple's kernels. A comparison is as
    good as its samples: random ones do not reach everything, give real ones with --data. Inputs are matched by name,
    else by size and position; outputs by name, else by value. Exit code 3 when it departs or cannot be verified.

    \b
    Examples:
      edgeprune verify app/model.tflite --against model.keras --data test.npz --metric accuracy
      edgeprune verify Model.mlpackage --against model.keras --bisect
      edgeprune verify Photo.mlpackage --against model.keras --scale 0.00784314 --offset -1   (image input)
    """
    from edgeprune.commands.verify_verbs import verify_verb

    return verify_verb(exported, **options)
