"""`edgeprune bench`: latency on this host. Light imports only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.commands.options import PATH, common_options

__all__ = ["bench"]


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
    'python -m edgeprune.checker.arm.prepare'.

    \b
    Examples:
      edgeprune bench narrow.tflite --against dense.tflite
      edgeprune bench pruned.tflite --against dense.tflite --arm cortex-a76
    """
    if arm is not None:
        from edgeprune.commands.arm_verbs import arm_verb

        for name in ("runtime", "processes", "pairs"):
            if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{name} is about timing on this host; leave it out with --arm")
            del options[name]
        return arm_verb(file, cpu=arm, **options)
    from edgeprune.commands.latency_verbs import bench_verb

    return bench_verb(file, **options)
