"""That a rewritten file computes what the file computed that it was made of: both run, on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeprune.errors import ConversionError, MissingExtra
from edgeprune.formats.graph import Graph
from edgeprune.host.scratch import scratch_folder
from edgeprune.runtime.runtimes import RUNTIMES
from edgeprune.runtime.session import installed_runtimes, newest_runtime, run_tflite

__all__ = ["EXACT", "SAMPLES", "random_inputs", "refuse_difference"]

EXACT = 1e-6  # of an output's largest number: what turning a sum round changes in float32
SAMPLES = 64
Arrays = Mapping[str, npt.NDArray[np.generic]]


def random_inputs(graph: Graph, samples: int = SAMPLES) -> dict[str, npt.NDArray[np.generic]]:
    """Inputs of the first signature, [samples, ...] by name, the same for the same file: half of the float ones between
    -1 and 1, half pixels of 0 to 255; integers are pixels. Batches other than 1 repeat what they are made of."""
    rng = np.random.default_rng(0)
    signature = next((found for found in graph.signatures if found.subgraph == 0), None)
    named = dict(zip(signature.input_tensors, signature.inputs, strict=True)) if signature is not None else {}
    inputs: dict[str, npt.NDArray[np.generic]] = {}
    for index in graph.inputs:
        tensor = graph.tensors[index]
        size = (samples, *tensor.shape[1:])
        values: npt.NDArray[np.generic] = rng.integers(0, 256 if tensor.dtype == "uint8" else 2, size)
        if tensor.dtype.startswith("float"):
            values = np.where(
                np.arange(samples).reshape(-1, *[1] * (len(size) - 1)) % 2,
                rng.random(size) * 255,
                rng.random(size) * 2 - 1,
            ).astype(np.float32)
        inputs[named.get(index, tensor.name)] = values
    return inputs


def refuse_difference(
    path: Path, before: bytes, after: bytes, inputs: Arrays, inputs_after: Arrays | None = None
) -> float:
    """The largest difference between the outputs of two files, as a share of the output's largest number; `path` is for
    messages, `inputs_after` are those of the second file where it takes others. Raises ConversionError where it is above EXACT, MissingExtra without a runtime."""
    if not installed_runtimes():
        raise MissingExtra(RUNTIMES["litert"].distribution, "litert", "proving that a rewrite is exact")
    with scratch_folder() as folder:
        outputs = []
        for name, content, given in (("before", before, inputs), ("after", after, inputs_after or inputs)):
            file = folder / f"{name}.tflite"
            file.write_bytes(content)
            outputs.append(run_tflite(file, given, runtime=newest_runtime()).outputs)
    worst = 0.0
    for name, values in outputs[0].items():
        wide = values.astype(np.float64)
        largest = float(np.abs(wide).max(initial=0)) or 1.0
        difference = float(np.abs(wide - outputs[1][name]).max(initial=0)) / largest
        worst = max(worst, difference)
        if not difference <= EXACT:
            raise ConversionError(
                f"{path}: rewritten for sparse kernels, its output {name!r} differs by {difference:.2g} of its largest "
                f"number on {len(values)} samples, and {EXACT:g} is allowed; this is a defect, please report it"
            )
    return worst
