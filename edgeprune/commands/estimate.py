"""`edgeprune estimate`: latency on a device, or the fit of an accelerator, that is not here. Light imports only."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.commands.options import PATH, common_options, device_option, echo_json
from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError

if TYPE_CHECKING:
    from edgeprune.checker.latency.accelerators.sparse_table import SparseTable
    from edgeprune.formats import Contents

__all__ = ["estimate"]


@click.command(cls=Verb)
@click.argument("file", type=PATH)
@device_option("A profile of 'edgeprune devices', or a .toml of your own.")
@click.option(
    "--target",
    metavar="NAME",
    help="Say which operations map to an accelerator: edgetpu, ethos-u55, ethos-u65, hexagon; or whether 2:4 would "
    "pay: tensorrt-sparse-ampere; or what an installed Vela estimates: ethos-u85 (ethos-u85-128 to -2048).",
)
@click.option(
    "--measured",
    type=PATH,
    metavar="TABLE",
    help="With --target tensorrt-sparse-ampere: what benchmarks/two_four_gpu.py measured on your GPU.",
)
@click.option(
    "--verbose", "every", is_flag=True, help="Every operation, in order, not the slowest (or those on the CPU) only."
)
@common_options("json")
def estimate(
    file: Path, device: str | None, target: str | None, measured: Path | None, every: bool, as_json: bool
) -> int:
    """How long FILE (.tflite or .mlpackage) takes on a device that is not here: an estimate with its error band.

    Operation by operation from the file's shapes, with rates fitted on published measurements; zeros cannot change it.
    Also says for which targets sparsity would pay, and which condition fails. Exit code 3 where the profile does not
    cover the file.

    With --target, which operations of an int8 .tflite file an accelerator takes, which stay on the CPU and why, by the
    published rules of the target and not by its compiler. Of tensorrt-sparse-ampere (a file of any format), which share
    of the multiplications 2:4 sparsity could speed up, and by how much at most: an estimate from documents, with the
    commands that measure it. Of ethos-u85 (256 MACs a cycle; or -128, -512, -1024, -2048), what Arm's compiler Vela
    estimates, where it is installed: pip install ethos-u-vela.

    \b
    Examples:
      edgeprune devices
      edgeprune estimate model.tflite --device pixel3-tflite-4t-float32
      edgeprune estimate model.tflite --target edgetpu
      edgeprune estimate model.onnx --target tensorrt-sparse-ampere
    """
    from edgeprune.formats import read_contents

    if device is None and target is None:
        raise UsageError("nothing to estimate for; give --device ('edgeprune devices' lists them) or --target edgetpu")
    table = _table(measured, target) if measured is not None else None
    contents = read_contents(file)
    body: dict[str, object] = {"schema_version": 1, "path": str(file)}
    texts, code = [], 0
    for name, tell in ((device, _latency), (target, partial(_placement, table=table))):
        if name is not None:
            facts, text, given = tell(file, contents, name, every)
            body |= facts
            texts.append(text)
            code = code if given else 3
    if as_json:
        echo_json(body)
    else:
        click.echo("\n\n".join(texts))
    return code


def _latency(file: Path, contents: Contents, device: str, every: bool) -> tuple[dict[str, object], str, bool]:
    """The estimate for programs and for people, and whether there is one."""
    from edgeprune.checker.latency.estimate import latency_breakdown
    from edgeprune.checker.latency.profiles import find_profile
    from edgeprune.checker.latency.sparsity import load_refusals, sparsity_advice
    from edgeprune.report.latency_report import estimate_json, estimate_text

    found = latency_breakdown(contents, find_profile(device))
    told = (file, found, sparsity_advice(contents), load_refusals(contents))
    return estimate_json(*told), estimate_text(*told, every=every), found.estimate.given


def _table(measured: Path, target: str | None) -> SparseTable:
    """What a GPU measured. Raises UsageError for a target that it says nothing of."""
    from edgeprune.checker.latency.accelerators.rules import find_accelerator
    from edgeprune.checker.latency.accelerators.sparse_table import read_table

    if target is None or not find_accelerator(target).pattern:
        raise UsageError("--measured is about 2:4 on a GPU; add --target tensorrt-sparse-ampere")
    return read_table(measured)


def _placement(
    file: Path, contents: Contents, target: str, every: bool, *, table: SparseTable | None
) -> tuple[dict[str, object], str, bool]:
    """Which operations map, for programs and for people."""
    from edgeprune.checker.latency.accelerators.vela import VELA_TARGETS, vela_estimate
    from edgeprune.report.placement_report import vela_json, vela_text

    if target in VELA_TARGETS:
        estimated = vela_estimate(contents, target)
        return {"vela": vela_json(estimated)}, vela_text(file, estimated), True
    from edgeprune.checker.latency.accelerators.placement import place_operations
    from edgeprune.report.placement_report import placement_json, placement_text

    found = place_operations(contents, target, table)
    known = found.gain is None or found.gain.wide_share is not None
    return {"placement": placement_json(found)}, placement_text(file, found, every=every), known
