"""`edgeprune bench`: latency on this host. Light imports only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.checker.arm.cpus import CPUS
from edgeprune.commands.options import PATH, common_options, echo_json
from edgeprune.errors import UsageError
from edgeprune.runtime.runtimes import ONNX_RUNTIMES, RUNTIMES

__all__ = ["bench"]


@click.command()
@click.argument("file", type=PATH)
@click.option("--against", type=PATH, metavar="OTHER", help="The file it is compared with, for example the dense one.")
@click.option(
    "--runtime", type=click.Choice([*RUNTIMES, *ONNX_RUNTIMES]), help="[default: the newest installed for the file]"
)
@click.option("--processes", type=click.IntRange(1, 50), default=5, show_default=True, help="Each loads both anew.")
@click.option(
    "--pairs", type=click.IntRange(1, 10000), default=30, show_default=True, help="At least, in each process."
)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(1), default=600, show_default=True, help="Seconds for one process."
)
@click.option("--arm", type=click.Choice(list(CPUS)), help="Count instructions on an emulated cpu instead.")
@common_options("json", "quiet")
@click.pass_context
def bench(
    context: click.Context,
    /,
    file: Path,
    against: Path | None,
    arm: str | None,
    as_json: bool,
    quiet: bool,
    **timing: Any,
) -> int:
    """Time a .tflite or .onnx FILE on this host; with --against, tell whether it is faster than another.

    Thread CPU time on one thread, batch 1: several processes load the files in changing order and time them in mirrored
    pairs; the 95 % interval comes from a bootstrap, the tolerance from the file against its own copy. Verdicts:
    unchanged, faster, slower, or inconclusive (exit code 3). It compares files of one precision; it does not tell a
    phone's milliseconds ('edgeprune estimate' does).

    --arm counts the Arm64 instructions that LiteRT executes for an inference, by class, in QEMU (Linux). Counts have
    no noise, so "unchanged" means within 0.01 %; they are no time. It needs an emulated Arm system, prepared once by
    'python -m edgeprune.checker.arm.prepare'.

    \b
    Examples:
      edgeprune bench narrow.tflite --against dense.tflite
      edgeprune bench pruned.tflite --against dense.tflite --arm cortex-a76
    """
    files = (file, *([against] if against else []))
    if arm is None:
        return _timed(files, as_json=as_json, quiet=quiet, **timing)
    for name in ("runtime", "processes", "pairs"):
        if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} is about timing on this host; leave it out with --arm")
    return _counted(files, arm, timing["timeout_s"], as_json=as_json, quiet=quiet)


def _timed(files: tuple[Path, ...], *, as_json: bool, quiet: bool, **timing: Any) -> int:
    """0, or 3 when the host is too busy for a verdict."""
    from edgeprune.checker.latency.measure import compare_latency
    from edgeprune.host.progress import Progress
    from edgeprune.report.latency_report import bench_json, bench_text

    precisions = _precisions(files)
    against = files[1] if len(files) > 1 else None
    progress = Progress(quiet=quiet)
    progress.begin(f"time {files[0].name}" + (f" against {against.name}" if against else ""))
    found = compare_latency(files[-1], files[0], on_progress=progress.advance, **timing)
    progress.end()
    verdict = str(found.verdict) if against is not None and len(set(precisions)) == 1 else None
    told = (files[0], against, found, (precisions[-1], precisions[0]), verdict)
    if as_json:
        echo_json(bench_json(*told))
    else:
        click.echo(bench_text(*told))
    return 3 if verdict == "inconclusive" else 0


def _counted(files: tuple[Path, ...], cpu: str, timeout_s: float, *, as_json: bool, quiet: bool) -> int:
    """Always 0: a count that cannot be had is an error."""
    from edgeprune.checker.arm.cpus import arm_root, find_cpu
    from edgeprune.checker.arm.emulation import compare_counts, count_instructions
    from edgeprune.host.progress import Progress
    from edgeprune.report.count_report import CountedFiles, counts_json, counts_text

    for file in files:
        if file.suffix.lower() == ".onnx":
            raise UsageError(f"{file}: --arm counts what LiteRT executes, and takes .tflite files; leave out --arm")
    emulated, root, precisions = find_cpu(cpu), arm_root(), _precisions(files)
    progress = Progress(quiet=quiet)
    progress.begin(f"count instructions on an emulated {cpu}")
    counts = []
    for file in files:
        counts.append(count_instructions(file, cpu=emulated, root=root, timeout_s=timeout_s))
        progress.advance(len(counts), len(files))
    progress.end()
    how = f"executed Arm64 instructions in emulation, cpu {cpu}, LiteRT {root.litert_version}: counts, not time"
    alike = len(files) > 1 and len(set(precisions)) == 1
    compared = compare_counts(counts[1], counts[0]) if alike else None
    found = CountedFiles(cpu=cpu, how=how, files=files, precisions=precisions, counts=tuple(counts), compared=compared)
    if as_json:
        echo_json(counts_json(found))
    else:
        click.echo(counts_text(found))
    return 0


def _precisions(files: tuple[Path, ...]) -> tuple[str, ...]:
    """The precision of each file, which is read before a runtime gets it. Raises UsageError for a Core ML model, which
    no runtime here runs, and for files of two formats."""
    from edgeprune.formats import read_contents, read_graph
    from edgeprune.formats.precision import onnx_precision, tflite_precision

    for file in files:
        if file.suffix.lower() in (".mlpackage", ".mlmodel", ".mlmodelc"):
            raise UsageError(
                f"{file}: bench times .tflite and .onnx files; Core ML runs on macOS and iOS only; for an estimate: "
                f"edgeprune estimate {file} --device iphone12-coreml-float16"
            )
    if len({file.suffix.lower() == ".onnx" for file in files}) > 1:
        raise UsageError(f"{files[0]} and {files[1]} run on different runtimes; compare files of one format")
    return tuple(
        onnx_precision(read_contents(file)) if file.suffix.lower() == ".onnx" else tflite_precision(read_graph(file))
        for file in files
    )
