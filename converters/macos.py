"""Run a Core ML package with Core ML itself. macOS only; elsewhere `edgeprune.converters.evaluator` stands in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgeprune.errors import RuntimeFailure

__all__ = ["run_coreml"]


def run_coreml(
    path: Path, inputs: Mapping[str, np.ndarray], on_progress: Callable[[int, int], None] | None = None
) -> dict[str, np.ndarray]:
    """Outputs by name, [samples, ...], for arrays [samples, ...] by input name, one prediction a sample.

    The compute unit is the CPU, whose results do not depend on the machine's GPU or Neural Engine. Raises
    RuntimeFailure with Core ML's reason.
    """
    import coremltools as ct

    count = min(len(array) for array in inputs.values())
    rows: list[dict[str, np.ndarray]] = []
    try:
        model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.CPU_ONLY)
        for index in range(count):
            rows.append(model.predict({name: array[index : index + 1] for name, array in inputs.items()}))
            if on_progress is not None:
                on_progress(index + 1, count)
    except Exception as cause:
        raise RuntimeFailure(f"{path} on Core ML: {' '.join(str(cause).split())[:300]}") from cause
    made = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    return {name: v[:, 0] if v.ndim > 1 and v.shape[1] == 1 else v for name, v in made.items()}
