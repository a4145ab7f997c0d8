"""`edgeprune compare`: what one model file became. Light imports only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.commands.options import PATH, chosen_format, common_options

__all__ = ["compare"]


@click.command()
@click.argument("before", type=PATH)
@click.argument("after", type=PATH)
@click.option("--measure", is_flag=True, help="Also time both on this host, paired (.tflite; about 15 seconds).")
@click.option("--device", metavar="NAME", help="Also estimate both on a device ('edgeprune devices').")
@click.option("--all", "every", is_flag=True, help="Show layers that did not change, too.")
@click.option("--format", "output_format", type=click.Choice(["text", "json", "markdown"]), help="[default: text]")
@common_options("codecs", "json", "quiet")
def compare(before: Path, after: Path, output_format: str | None, as_json: bool, **options: Any) -> int:
    """What shrank from one model file to another: install, download, MACs, zeros, layer by layer.

    \b
    Examples:
      edgeprune compare dense.tflite pruned.tflite --measure
      edgeprune compare old/Model.mlpackage new/Model.mlpackage --format markdown
    """
    from edgeprune.commands.compare_verb import compare_verb

    return compare_verb(before, after, output_format=chosen_format(as_json, output_format), **options)
