"""`edgeprune calibrate`: a profile of one's own phone. Light imports only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.commands.options import PATH, common_options

__all__ = ["calibrate"]


@click.command()
@click.argument("measured", type=PATH)
@click.option("--device", required=True, metavar="NAME", help="The profile to start from ('edgeprune devices').")
@click.option("-o", "--output", type=PATH, required=True, help="The new profile, a .toml.")
@click.option("--label", default="", metavar="TEXT", help="What to call the device, for example 'Pixel 9, our own'.")
@click.option("--models", type=PATH, help="The folder that the files in MEASURED are in.")
@common_options("overwrite", "json")
def calibrate(measured: Path, **options: Any) -> int:
    """Make a profile of your own phone from latencies that you MEASURED.

    MEASURED is a CSV with the columns file and latency_ms, or the output of LiteRT's benchmark_model (TFLite or
    LiteRT 2). One network sets the speed of the profile, five or more refit it. Measure with the threads and the
    precision of the profile. The error band comes from files left out and from the errors of the profile; it narrows
    with the number of files, or of families where a column family names them. Repeats of one file count by their
    median.

    \b
    Example:
      edgeprune calibrate pixel9.csv --device pixel4-tflite-4t-float32 --models exports -o pixel9.toml
    """
    from edgeprune.commands.latency_verbs import calibrate_verb

    return calibrate_verb(measured, **options)
