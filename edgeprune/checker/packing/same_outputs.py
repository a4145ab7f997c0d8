"""Does a rewritten file compute the same, bit by bit?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.checker.packing.records import Compared
from edgeprune.errors import ConversionError, MissingExtra, RuntimeFailure
from edgeprune.formats.graph import Graph
from edgeprune.ledger import RuntimeRun
from edgeprune.runtime.runtimes import RUNTIMES
from edgeprune.runtime.session import RunResult, installed_runtimes, run_tflite
from edgeprune.runtime.trials import made_up_inputs, trial_count

__all__ = ["compare_outputs"]

_AS_IS = "to deflate the file as it is, without a comparison: --as-is"


def compare_outputs(before: Path, after: Path, graph: Graph, data: Mapping[str, Any] | None) -> Compared:
    """Run both files on `data` (by input name, samples first), else on random samples, in every installed runtime.

    Raises ConversionError where one bit of an output differs, RuntimeFailure where no runtime takes the file as it
    was, MissingExtra where there is none.
    """
    installed = installed_runtimes()
    if not installed:
        newest = list(RUNTIMES.values())[-1]
        raise MissingExtra(newest.distribution, newest.extra, f"comparing outputs ({_AS_IS})")
    inputs = data or made_up_inputs(graph, trial_count(graph.macs))
    runs = tuple(_run(before, after, inputs, runtime, version) for runtime, version in installed.items())
    if not any(run.ran for run in runs):
        raise RuntimeFailure(f"{runs[-1].reason}; {_AS_IS}")
    samples = max(run.samples for run in runs)
    return Compared(samples=samples, samples_are="those given" if data else "random", runtimes=runs)


def _run(before: Path, after: Path, inputs: Mapping[str, Any], runtime: str, version: str) -> RuntimeRun:
    """Both files in one runtime; a file that it did not take before is no failure."""
    try:
        expected = run_tflite(before, inputs, runtime=runtime)
    except RuntimeFailure as refusal:
        return RuntimeRun(name=runtime, version=version, ran=False, reason=str(refusal))
    found = run_tflite(after, inputs, runtime=runtime)
    wrong = _difference(expected, found)
    if wrong:
        raise ConversionError(f"{before}: the packed file computes something else on {runtime} {version}: {wrong}")
    return RuntimeRun(name=runtime, version=version, ran=True, samples=found.samples)


def _difference(expected: RunResult, found: RunResult) -> str:
    """The first output that is not the same, in words; "" when all are."""
    if list(expected.outputs) != list(found.outputs):
        return f"its outputs are {', '.join(found.outputs)}, and were {', '.join(expected.outputs)}"
    for name, values in expected.outputs.items():
        if not _same_bits(values, found.outputs[name]):
            off = np.abs(np.asarray(values, np.float64) - found.outputs[name]).max()
            return (
                f"output {name!r} is off by up to {off:.3g}" if off else f"zeros of output {name!r} change their sign"
            )
    return ""


def _same_bits(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
