"""The command line of the checker: check, inspect, compare, estimate, devices, bench, calibrate. Light imports only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.options import PATH, common_options

__all__ = ["bench", "calibrate", "check", "compare", "devices", "estimate", "inspect"]

CODEC_NAMES = ("deflate", "brotli", "zstd", "xz")


def _chosen_format(as_json: bool, output_format: str | None) -> str:
    if as_json and output_format not in (None, "json"):
        raise click.UsageError(f"--json and --format {output_format} contradict each other; drop one")
    return output_format or ("json" if as_json else "text")


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
    type=click.Choice(CODEC_NAMES),
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
    from edgeprune.check import check_verb

    return check_verb(files, output_format=_chosen_format(as_json, output_format), **options)


@click.command()
@click.argument("file", type=PATH)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json", "markdown", "csv"]),
    help="[default: text]",
)
@click.option("--why", is_flag=True, help="Say where the bytes are and what would make them fewer.")
@common_options("json")
def inspect(file: Path, output_format: str | None, as_json: bool, why: bool) -> int:
    """Show the graph of a model FILE as a table: op, shape, precision, parameters, zeros, MACs, bytes.

    "deflated" is a layer's part of the compressed download, "ideal" what a coder that looks at one number at a time
    would need (order-0 entropy, per channel where that is less). Reads what 'check' reads.
    """
    from edgeprune.inspection import inspect_verb

    return inspect_verb(file, output_format=_chosen_format(as_json, output_format), why=why)


@click.command()
@click.argument("before", type=PATH)
@click.argument("after", type=PATH)
@click.option("--measure", is_flag=True, help="Also time both on this host, paired (.tflite; about 15 seconds).")
@click.option("--device", metavar="NAME", help="Also estimate both on a device ('edgeprune devices').")
@click.option("--all", "every", is_flag=True, help="Show layers that did not change, too.")
@click.option("--fast", is_flag=True, help="Measure deflate and zstd only.")
@click.option("--format", "output_format", type=click.Choice(["text", "json", "markdown"]), help="[default: text]")
@common_options("json", "quiet")
def compare(before: Path, after: Path, output_format: str | None, as_json: bool, **options: Any) -> int:
    """What shrank from one model file to another: install, download, MACs, zeros, layer by layer.

    \b
    Examples:
      edgeprune compare dense.tflite pruned.tflite --measure
      edgeprune compare old/Model.mlpackage new/Model.mlpackage --format markdown
    """
    from edgeprune.compare import compare_verb

    return compare_verb(before, after, output_format=_chosen_format(as_json, output_format), **options)


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
    from edgeprune.latency_verbs import estimate_verb

    return estimate_verb(file, device=device, every=every, as_json=as_json)


@click.command()
@common_options("json")
def devices(as_json: bool) -> int:
    """List the device profiles with their errors on networks that the fit has not seen."""
    from edgeprune.latency_verbs import devices_verb

    return devices_verb(as_json=as_json)


@click.command()
@click.argument("file", type=PATH)
@click.option("--against", type=PATH, metavar="OTHER", help="The file it is compared with, for example the dense one.")
@click.option("--runtime", type=click.Choice(["tflite-runtime", "litert"]), help="[default: the newest installed]")
@click.option("--processes", type=click.IntRange(1, 50), default=5, show_default=True, help="Each loads both anew.")
@click.option(
    "--pairs", type=click.IntRange(1, 10000), default=30, show_default=True, help="At least, in each process."
)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(1), default=600, show_default=True, help="Seconds for one process."
)
@click.option("--arm", metavar="CPU", help="Count instructions on an emulated cpu instead, for example cortex-a76.")
@common_options("json", "quiet")
@click.pass_context
def bench(context: click.Context, /, file: Path, arm: str | None, **options: Any) -> int:
    """Time a .tflite FILE on this host; with --against, tell whether it is faster than another.

    Thread CPU time on one thread, batch 1: several processes load the files in changing order and time them in mirrored
    pairs; the 95 % interval comes from a bootstrap, the tolerance from the file against its own copy. Verdicts:
    unchanged, faster, slower, or inconclusive (exit code 3). It compares files of one precision; it does not tell a
    phone's milliseconds ('edgeprune estimate' does).

    --arm counts the Arm64 instructions that LiteRT executes for an inference, by class, in QEMU (Linux). Counts have
    no noise, so "unchanged" means within 0.01 %; they are no time. It needs an emulated Arm system, prepared once by
    'python -m edgeprune.arm.prepare'.

    \b
    Examples:
      edgeprune bench narrow.tflite --against dense.tflite
      edgeprune bench pruned.tflite --against dense.tflite --arm cortex-a76
    """
    if arm is not None:
        from edgeprune.arm_verbs import arm_verb

        for name in ("runtime", "processes", "pairs"):
            if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{name} is about timing on this host; leave it out with --arm")
            del options[name]
        return arm_verb(file, cpu=arm, **options)
    from edgeprune.latency_verbs import bench_verb

    return bench_verb(file, **options)


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
    from edgeprune.latency_verbs import calibrate_verb

    return calibrate_verb(measured, **options)
