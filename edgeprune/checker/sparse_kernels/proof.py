"""That a rewritten file computes what the file computed that it was made of: both run, on the same samples.

Turned round, a sum adds up in another order, so that the last bits differ. How much that may be is measured on the
unchanged file, where it matters: by running it with the plain kernels of the runtime, which add up in yet another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeprune.errors import ConversionError, MissingExtra
from edgeprune.formats.graph import Graph
from edgeprune.formats.tflite.flatbuffer import parse_tflite
from edgeprune.host.scratch import scratch_folder
from edgeprune.runtime.runtimes import RUNTIMES
from edgeprune.runtime.session import installed_runtimes, newest_runtime, run_tflite, trace_tflite

__all__ = ["EXACT", "SAMPLES", "Arrays", "Proof", "prove_exact", "random_inputs"]

EXACT = 1e-6  # of an output's largest number
ROUNDINGS = 4  # so many times what two sets of kernels differ by on the unchanged file, where that is more
SAMPLES = 64
Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The largest `difference` of an output, as a share of its largest number, and, where it is above EXACT, what two
    sets of kernels of the runtime differ by on the unchanged file (`rounding`); `known` are that file's outputs."""

    difference: float
    rounding: float | None = None
    known: Arrays = field(default_factory=dict, repr=False, compare=False)


def random_inputs(graph: Graph, samples: int = SAMPLES) -> dict[str, npt.NDArray[np.generic]]:
    """Inputs of the first signature, [samples, ...] by name, the same for the same file, and fewer are the first of
    more: floats between -1 and 1, bytes over their whole range, other integers 0 or 1."""
    signature = next((found for found in graph.signatures if found.subgraph == 0), None)
    named = dict(zip(signature.input_tensors, signature.inputs, strict=True)) if signature is not None else {}
    inputs: dict[str, npt.NDArray[np.generic]] = {}
    for place, index in enumerate(graph.inputs):
        tensor, rng = graph.tensors[index], np.random.default_rng((0, place))
        size = (samples, *tensor.shape[1:])
        if tensor.dtype.startswith("float"):
            inputs[named.get(index, tensor.name)] = rng.random(size, np.float32) * np.float32(2) - np.float32(1)
        else:
            inputs[named.get(index, tensor.name)] = rng.integers(0, 256 if tensor.dtype == "uint8" else 2, size)
    return inputs


def prove_exact(path: Path, before: bytes, after: bytes, inputs: Arrays, inputs_after: Arrays | None = None) -> Proof:
    """How far the outputs of two files differ; `path` is for messages, `inputs_after` are those of the second file
    where it takes others.

    Raises ConversionError where that is above EXACT and more than rounding, MissingExtra without a runtime.
    """
    if not installed_runtimes():
        raise MissingExtra(RUNTIMES["litert"].distribution, "litert", "proving that a rewrite is exact")
    runtime = newest_runtime()
    with scratch_folder() as folder:
        first, second = folder / "before.tflite", folder / "after.tflite"
        first.write_bytes(before)
        second.write_bytes(after)
        known = run_tflite(first, inputs, runtime=runtime).outputs
        found = run_tflite(second, inputs_after or inputs, runtime=runtime).outputs
        difference = _largest(known, found)
        if difference <= EXACT:
            return Proof(difference=difference, known=known)
        rounding = _largest(known, _plain(first, before, inputs, known, runtime))
    if not difference <= max(EXACT, ROUNDINGS * rounding):
        samples = min(len(rows) for rows in inputs.values())
        raise ConversionError(
            f"{path}: rewritten for sparse kernels, an output differs by {difference:.2g} of its largest number on "
            f"{samples} samples; {EXACT:g} is allowed, and rounding explains {rounding:.2g}; this is a defect, please "
            "report it"
        )
    return Proof(difference=difference, rounding=rounding, known=known)


def _largest(known: Arrays, found: Arrays) -> float:
    """The largest difference of any output, as a share of its largest number; infinite for one that is not finite."""
    worst = 0.0
    for name, values in known.items():
        wide = values.astype(np.float64)
        difference = np.abs(wide - found[name].astype(np.float64).reshape(values.shape)).max(initial=0)
        share = float(difference) / (float(np.abs(wide).max(initial=0)) or 1.0)
        worst = max(worst, share if np.isfinite(share) else np.inf)
    return worst


def _plain(
    path: Path, content: bytes, inputs: Arrays, known: Arrays, runtime: str
) -> dict[str, npt.NDArray[np.generic]]:
    """The outputs of a file without a delegate, under the names of `known`, which stand in the file's order."""
    graph, _ = parse_tflite(path, content)
    limit_bytes = max(values.nbytes for values in known.values())
    traced = {
        item.name: item.values for item in trace_tflite(path, inputs, runtime=runtime, limit_bytes=limit_bytes).tensors
    }
    outputs = {}
    for index, name in zip(graph.outputs, known, strict=True):
        values = traced.get(graph.tensors[index].name)
        if values is not None:
            outputs[name] = values
    return {name: outputs.get(name, values) for name, values in known.items()}
