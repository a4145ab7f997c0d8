"""`edgeprune estimate`: latency on a device that is not here. Light imports only."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.commands.options import PATH, common_options

__all__ = ["estimate"]


@click.command()
@click.argument("file", type=PATH)
@click.option(
    "--device", required=True, metavar="NAME", help="A profile of 'edgeprune devices', or a .toml of your own."
)
@click.option("--verbose", "every", is_flag=True, help="Every operation, in order, not the slowest only.")
@common_options("json")
def estimate(file: Path, device: str, every: bool, as_json: bool) -> int:
    """How long FILE (.tflite or .mlpackage) takes on a device that is not here: an estimate with its error band.

    Operation by operation from the file's shapes, with rates fitted on published measurements; zeros cannot change it.
    Also says for which targets sparsity would pay, and which condition fails. Exit code 3 where the profile does not
    cover the file.

    \b
    Examples:
      edgeprune devices
      edgeprune estimate model.tflite --device pixel3-tflite-4t-float32
    """
    from edgeprune.commands.latency_verbs import estimate_verb

    return estimate_verb(file, device=device, every=every, as_json=as_json)
