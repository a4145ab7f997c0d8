"""A network whose layers lie side by side, so that one of them can grow alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from written_tflite import GraphSpec, TensorSpec, dense_op, write

__all__ = ["branches"]

INPUTS = 16


def branches(path: Path, units: Sequence[int], seed: int = 0) -> Path:
    """Write a .tflite of dense layers of so many units, all of them of one input: branch_0, branch_1 and so on. The
    weights of a layer are the same whatever the others have."""
    tensors, ops, buffers = [TensorSpec(shape=(1, INPUTS), name="x")], [], [b""]
    for number, count in enumerate(units):
        rng = np.random.default_rng((seed, number))
        buffers.append(rng.normal(0, 0.1, (1000, INPUTS)).astype(np.float32)[:count].tobytes())
        place = len(tensors)
        tensors.append(TensorSpec(shape=(count, INPUTS), buffer=len(buffers) - 1, name=f"kernel_{number}"))
        tensors.append(TensorSpec(shape=(1, count), name=f"branch_{number}"))
        ops.append(dense_op((0, place), (place + 1,)))
    outputs = tuple(op.outputs[0] for op in ops)
    return write(path, GraphSpec(tensors=tuple(tensors), ops=tuple(ops), outputs=outputs), buffers=buffers)
