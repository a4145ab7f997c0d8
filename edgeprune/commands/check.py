"""`edgeprune check`: model files against their budgets. Light imports only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.checker.size.codecs import FULL
from edgeprune.commands.options import PATH, chosen_format, common_options

__all__ = ["check"]


@click.command()
@click.argument("files", nargs=-1, type=PATH)
@click.option("--config", type=PATH, help="Budgets.  [default: edgeprune.toml or pyproject.toml, here or above]")
@click.option(
    "--baseline", type=PATH, help="What to compare with: a model file, a folder, an earlier JSON report, a ledger.json."
)
@click.option("--limit", metavar="SIZE", help='Largest download of each file, for example "350 kB" or "350 KiB".')
@click.option("--growth", metavar="CHANGE", help='Largest growth of each download: "2 %" or "50 kB".')
@click.option(
    "--codec",
    type=click.Choice(FULL),
    default="deflate",
    show_default=True,
    help="What --limit and --growth are about; deflate is what a zip, APK or IPA download costs.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json", "markdown", "junit", "github"]),
    help="Of the report on stdout (or in --output).  [default: text]",
)
@click.option("-o", "--output", type=PATH, help="Write the report there; a text report still goes to stdout.")
@click.option("--why", is_flag=True, help="Say where the bytes are and what would make them fewer.")
@click.option("--fast", is_flag=True, help="Measure deflate and a quick zstd (level 12) only: a tenth of the time.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="NAME",
    help="Also estimate the latency on a device ('edgeprune devices', or a .toml of your own); repeatable.",
)
@click.option("--show", is_flag=True, help="Only show the FILES: no limit is held, exit code 0.")
@common_options("json")
def check(files: tuple[Path, ...], as_json: bool, output_format: str | None, **options: Any) -> int:
    """Show what model FILES cost to install and to download, and hold them against budgets.

    Without FILES, those of the budgets in edgeprune.toml. Reads .tflite, .mlpackage, .mlmodel, .mlmodelc, .keras, .h5,
    .onnx, and the models inside .apk, .aab, .ipa and .zip. Needs neither TensorFlow nor Keras. Exit code 1 when a limit
    is exceeded, 3 when one cannot be checked, 2 when there is no limit at all.

    \b
    A budget in edgeprune.toml ([[tool.edgeprune.budget]] in pyproject.toml):
      [[budget]]
      path = "models/*.tflite"     a glob, from the folder of this file
      download = "350 kB"          the compressed file; codec = "deflate" | "brotli" | "zstd" | "xz"
      install = "1.2 MB"           the file itself
      growth = "2 %"               of the download against --baseline; or "50 kB"
      parameters = 500000
      min_sparsity = "50 %"        of the weights
      max_metric_drop = "1 %"      read from ledger = "out/ledger.json"
      max_latency_ms = 12          estimated for device = "pixel3-tflite-4t-float32"
      max_latency_growth = "5 %"   of that estimate against --baseline

    \b
    Examples:
      edgeprune check model.tflite --limit "350 kB"
      edgeprune check --baseline main.json --format markdown -o comment.md
      edgeprune check app-release.apk --show --why
      edgeprune check model.tflite --show --device pixel3-tflite-4t-float32
    """
    from edgeprune.commands.check_verb import check_verb

    return check_verb(files, output_format=chosen_format(as_json, output_format), **options)
