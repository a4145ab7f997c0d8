"""`edgeprune estimate`: latency on a device that is not here. Light imports only."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.commands.options import PATH, common_options, echo_json

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
    from edgeprune.checker.latency.estimate import latency_breakdown
    from edgeprune.checker.latency.profiles import find_profile
    from edgeprune.checker.latency.sparsity import load_refusals, sparsity_advice
    from edgeprune.formats import read_contents
    from edgeprune.report.latency_report import estimate_json, estimate_text

    profile = find_profile(device)
    contents = read_contents(file)
    found = latency_breakdown(contents, profile)
    told = (file, found, sparsity_advice(contents), load_refusals(contents))
    if as_json:
        echo_json(estimate_json(*told))
    else:
        click.echo(estimate_text(*told, every=every))
    return 0 if found.estimate.given else 3
