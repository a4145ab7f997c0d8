"""Inputs to try a file with when nobody gives samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeprune.formats.graph import Graph
from edgeprune.formats.tflite.metadata import ends_of

__all__ = ["FEWEST", "MOST_MACS", "TRIALS", "made_up_inputs", "trial_count"]

TRIALS = 8
FEWEST = 2  # of a model so large that more would cost as much as its conversion
MOST_MACS = 8_000_000_000  # of all samples together, while there are more than FEWEST


def trial_count(macs: int | None, fewest: int = FEWEST, most: int = TRIALS) -> int:
    """How many samples a model of so many MACs is tried on: `most`, and fewer, to `fewest`, where they take more than
    MOST_MACS."""
    return max(fewest, min(most, MOST_MACS // macs)) if macs else most


def made_up_inputs(graph: Graph, count: int, *, seed: int = 0) -> dict[str, npt.NDArray[np.generic]]:
    """`count` random samples for a .tflite file, by the names of its inputs, each (count, *shape in the file).

    Floats are normal, quantized integers run over their whole type; others are 0, since they may be indexes.
    """
    numbers = np.random.default_rng(seed)
    found: dict[str, npt.NDArray[np.generic]] = {}
    for end, index in zip(ends_of(graph)[0], graph.inputs, strict=True):
        size = (count, *end.shape)
        if end.dtype.startswith("float"):
            found[end.name] = numbers.normal(size=size).astype(end.dtype)
        elif index in graph.options.quantization:
            limits = np.iinfo(end.dtype)
            found[end.name] = numbers.integers(limits.min, limits.max, size, endpoint=True).astype(end.dtype)
        else:
            found[end.name] = np.zeros(size, end.dtype)
    return found
