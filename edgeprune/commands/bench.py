"""`edgeprune bench`: latency on this host. Light imports only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.checker.arm.cpus import CPUS
from edgeprune.checker.wasm.root import BUILDS
from edgeprune.commands.options import PATH, common_options, echo_json
from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError
from edgeprune.runtime.runtimes import ONNX_RUNTIMES, RUNTIMES

if TYPE_CHECKING:
    from edgeprune.checker.latency.measure import ProcessTimes
    from edgeprune.checker.wasm.timing import HostCheck
    from edgeprune.host.progress import Progress
    from edgeprune.ledger import LatencyComparison
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


@click.command(cls=Verb)
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
@click.option("--wasm", is_flag=True, help="Time in WebAssembly instead: LiteRT.js under node.")
@click.option(
    "--wasm-build",
    type=click.Choice(list(BUILDS)),
    default="relaxed",
    show_default=True,
    help="With --wasm: for browsers with relaxed SIMD, or for all.",
)
@common_options("json", "quiet")
@click.pass_context
def bench(
    context: click.Context,
    /,
    file: Path,
    against: Path | None,
    arm: str | None,
    wasm: bool,
    wasm_build: str,
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

    --wasm times the files in LiteRT.js, as a web page runs them, under node: CPU time of the process, one thread. The
    outputs for one random input are held against those of this host. It needs LiteRT.js, prepared once by
    'python -m edgeprune.checker.wasm.prepare'.

    \b
    Examples:
      edgeprune bench narrow.tflite --against dense.tflite
      edgeprune bench narrow.tflite --against dense.tflite --batch 1,2,4
      edgeprune bench pruned.tflite --against dense.tflite --arm cortex-a76
      edgeprune bench pruned.tflite --against dense.tflite --wasm
    """
    files = (file, *([against] if against else []))
    given = {name for name in timing if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE}
    if wasm:
        if arm is not None or given & {"runtime", "batches"}:
            raise click.UsageError(
                "--wasm is a runtime of its own, in the batch of the file; drop --runtime, --batch, --arm"
            )
        return _in_wasm(files, wasm_build, timing, as_json=as_json, quiet=quiet)
    if context.get_parameter_source("wasm_build") == click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--wasm-build goes with --wasm")
    if arm is None:
        return _timed(files, as_json=as_json, quiet=quiet, **timing)
    for name, option in {"runtime": "runtime", "processes": "processes", "pairs": "pairs", "batches": "batch"}.items():
        if name in given:
            raise click.UsageError(f"--{option} is about timing on this host; leave it out with --arm")
    return _counted(files, arm, timing["timeout_s"], as_json=as_json, quiet=quiet)


def _timed(
    files: tuple[Path, ...], *, batches: tuple[int | None, ...], as_json: bool, quiet: bool, **timing: Any
) -> int:
    """0, or 3 when the host is too busy for a verdict."""
    from edgeprune.host.progress import Progress

    precisions, progress = _precisions(files), Progress(quiet=quiet)
    for line in bench_warnings(files):
        click.echo(f"edgeprune: warning: {line}", err=True)
    found = [_bench(files, precisions, batch, progress, timing) for batch in batches]
    return _told(files, precisions, found, as_json, batches=batches != (None,))


def _in_wasm(files: tuple[Path, ...], build: str, timing: dict[str, Any], *, as_json: bool, quiet: bool) -> int:
    """0, or 3 when the host is too busy for a verdict."""
    from edgeprune.checker.wasm.root import wasm_root
    from edgeprune.checker.wasm.timing import timed_in_wasm
    from edgeprune.host.progress import Progress

    _check_tflite(files, "--wasm times what LiteRT.js runs")
    root, precisions, progress = wasm_root(), _precisions(files), Progress(quiet=quiet)
    progress.begin(f"time {files[0].name} in WebAssembly")
    options = {name: timing[name] for name in ("processes", "pairs", "timeout_s")}
    found = timed_in_wasm(files[-1], files[0], root, build, singles=_SINGLES, on_progress=progress.advance, **options)
    progress.end()
    return _told(files, precisions, [_judged(files, precisions, found.compared, found.times, found.checks)], as_json)


def _judged(
    files: Sequence[Path],
    precisions: Sequence[str],
    compared: LatencyComparison,
    times: Sequence[ProcessTimes],
    checks: Sequence[HostCheck] = (),
) -> Bench:
    from edgeprune.checker.latency.percentiles import percentiles_of
    from edgeprune.report.latency_report import Bench

    ranked = len(files) > 1 and len(set(precisions)) == 1
    return Bench(
        compared=compared,
        batch=times[0].batch,
        verdict=str(compared.verdict) if ranked else None,
        candidate=percentiles_of(times, 2, seed=0),
        baseline=percentiles_of(times, 0, seed=0) if len(files) > 1 else (),
        checks=tuple(checks),
    )


def _told(
    files: Sequence[Path], precisions: Sequence[str], found: Sequence[Bench], as_json: bool, *, batches: bool = False
) -> int:
    """Print what was timed; the exit code."""
    from edgeprune.report.latency_report import bench_json, bench_text

    named = (files[0], files[1] if len(files) > 1 else None, (precisions[-1], precisions[0]))
    if as_json:
        bodies = [bench_json(*named, one) for one in found]
        echo_json({"schema_version": 1, "batches": bodies} if batches else bodies[0])
    else:
        click.echo("\n\n".join(bench_text(*named, one) for one in found))
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
        "here; count instructions with --arm cortex-a76, or time it with --wasm or on a phone"
        for file in files
        if file.suffix.lower() == ".tflite" and runs_sparse_kernels(read_contents(file))
    ]


def _bench(
    files: tuple[Path, ...], precisions: Sequence[str], batch: int | None, progress: Progress, timing: dict[str, Any]
) -> Bench:
    """What timing the files in one batch gave."""
    from edgeprune.checker.latency.measure import timed_files

    progress.begin(
        f"time {files[0].name}"
        + (f" against {files[1].name}" if len(files) > 1 else "")
        + (f" in batches of {batch}" if batch is not None else "")
    )
    compared, times = timed_files(
        files[-1], files[0], batch=batch, singles=_SINGLES, on_progress=progress.advance, **timing
    )
    progress.end()
    return _judged(files, precisions, compared, times)


def _counted(files: tuple[Path, ...], cpu: str, timeout_s: float, *, as_json: bool, quiet: bool) -> int:
    """Always 0: a count that cannot be had is an error."""
    from edgeprune.checker.arm.cpus import arm_root, find_cpu
    from edgeprune.checker.arm.emulation import compare_counts, count_instructions
    from edgeprune.host.progress import Progress
    from edgeprune.report.count_report import CountedFiles, counts_json, counts_text

    _check_tflite(files, "--arm counts what LiteRT executes")
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


def _check_tflite(files: Sequence[Path], what: str) -> None:
    for file in files:
        if file.suffix.lower() == ".onnx":
            option = what.split()[0]
            raise UsageError(f"{file}: {what}, and takes .tflite files; leave out {option}")


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
