"""`edgeprune bench`: latency on this host. Light imports only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.checker.arm.cpus import CPUS
from edgeprune.commands.options import PATH, common_options, echo_json
from edgeprune.errors import UsageError
from edgeprune.runtime.runtimes import ONNX_RUNTIMES, RUNTIMES

if TYPE_CHECKING:
    from edgeprune.host.progress import Progress
    from edgeprune.report.latency_report import Bench

__all__ = ["bench", "bench_warnings"]

_SINGLES = 500  # calls that each process times one by one, at most


def _batches(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int | None, ...]:
    """The sizes of a list with commas; without one that of the file."""
    if text is None:
        return (None,)
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= 4096 for word in words):
        raise click.BadParameter(f"{text!r} is not a list of sizes from 1 to 4096; write 1,2,4")
    return tuple(dict.fromkeys(map(int, words)))


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
@click.option(
    "--batch",
    "batches",
    metavar="N,N",
    callback=_batches,
    help="Time batches of these sizes, each by itself.  [default: the batch in the file]",
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

    Thread CPU time on one thread: several processes load the files in changing order and time them in mirrored
    pairs; the 95 % interval comes from a bootstrap, the tolerance from the file against its own copy. Verdicts:
    unchanged, faster, slower, or inconclusive (exit code 3). It compares files of one precision; it does not tell a
    phone's milliseconds ('edgeprune estimate' does).

    P50, P95 and P99 are of calls timed one by one, by CPU time and by wall time (which other programs on this host
    lengthen), each with its interval. --batch resizes the inputs of the files; a file with a constant shape inside is
    refused, and converted with that batch by 'edgeprune convert --input-shape'.

    --arm counts the Arm64 instructions that LiteRT executes for an inference, by class, in QEMU (Linux). Counts have
    no noise, so "unchanged" means within 0.01 %; they are no time. It needs an emulated Arm system, prepared once by
    'python -m edgeprune.checker.arm.prepare'.

    \b
    Examples:
      edgeprune bench narrow.tflite --against dense.tflite
      edgeprune bench narrow.tflite --against dense.tflite --batch 1,2,4
      edgeprune bench pruned.tflite --against dense.tflite --arm cortex-a76
    """
    files = (file, *([against] if against else []))
    if arm is None:
        return _timed(files, as_json=as_json, quiet=quiet, **timing)
    for name, option in {"runtime": "runtime", "processes": "processes", "pairs": "pairs", "batches": "batch"}.items():
        if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{option} is about timing on this host; leave it out with --arm")
    return _counted(files, arm, timing["timeout_s"], as_json=as_json, quiet=quiet)


def _timed(
    files: tuple[Path, ...], *, batches: tuple[int | None, ...], as_json: bool, quiet: bool, **timing: Any
) -> int:
    """0, or 3 when the host is too busy for a verdict."""
    from edgeprune.host.progress import Progress
    from edgeprune.report.latency_report import bench_json, bench_text

    precisions = _precisions(files)
    for line in bench_warnings(files):
        click.echo(f"edgeprune: warning: {line}", err=True)
    against = files[1] if len(files) > 1 else None
    ranked = against is not None and len(set(precisions)) == 1
    progress = Progress(quiet=quiet)
    found = [_bench(files, batch, progress, ranked=ranked, timing=timing) for batch in batches]
    told = (files[0], against, (precisions[-1], precisions[0]))
    if as_json:
        bodies = [bench_json(*told, one) for one in found]
        echo_json(bodies[0] if batches == (None,) else {"schema_version": 1, "batches": bodies})
    else:
        click.echo("\n\n".join(bench_text(*told, one) for one in found))
    return 3 if any(one.verdict == "inconclusive" for one in found) else 0


def bench_warnings(files: tuple[Path, ...]) -> list[str]:
    """What is to be said before files are timed that this processor runs dense although they are made to run sparse."""
    from edgeprune.checker.latency.sparsity import runs_sparse_kernels
    from edgeprune.formats import read_contents
    from edgeprune.host.processor import has_avx

    if not has_avx():
        return []
    return [
        f"{file}: XNNPACK keeps its sparse kernels off where the CPU has AVX, as this one, so that zeros gain nothing "
        "here; count instructions with --arm cortex-a76, or time it on a phone"
        for file in files
        if file.suffix.lower() == ".tflite" and runs_sparse_kernels(read_contents(file))
    ]


def _bench(
    files: tuple[Path, ...], batch: int | None, progress: Progress, *, ranked: bool, timing: dict[str, Any]
) -> Bench:
    """What timing the files in one batch gave."""
    from edgeprune.checker.latency.measure import timed_files
    from edgeprune.checker.latency.percentiles import percentiles_of
    from edgeprune.report.latency_report import Bench

    progress.begin(
        f"time {files[0].name}"
        + (f" against {files[1].name}" if len(files) > 1 else "")
        + (f" in batches of {batch}" if batch is not None else "")
    )
    compared, times = timed_files(
        files[-1], files[0], batch=batch, singles=_SINGLES, on_progress=progress.advance, **timing
    )
    progress.end()
    return Bench(
        compared=compared,
        batch=times[0].batch,
        verdict=str(compared.verdict) if ranked else None,
        candidate=percentiles_of(times, 2, seed=0),
        baseline=percentiles_of(times, 0, seed=0) if len(files) > 1 else (),
    )


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
