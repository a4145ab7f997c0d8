"""Inputs to try a model with when nobody gives samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.datasets import Samples
from edgeprune.keras_models import input_specs, leaf_layers

__all__ = ["TRIALS", "trial_samples"]

TRIALS = 8


def trial_samples(model: Any, *, scale: float = 1.0, offset: float = 0.0, pictures: str | None = None) -> Samples:
    """TRIALS random samples, the same for the same model: normal floats; indexes below the size of the table that they
    are looked up in (0 where that is not known, which is always valid).

    The input named `pictures` gets random pixels p of 0 to 255 as p * scale + offset.
    """
    rng = np.random.default_rng(0)
    inputs = {}
    for name, (shape, dtype) in input_specs(model).items():
        size = (TRIALS, *(length or 1 for length in shape[1:]))
        if name == pictures:
            inputs[name] = (rng.integers(0, 256, size).astype(np.float32) * scale + offset).astype(dtype)
        elif dtype.startswith("float"):
            inputs[name] = rng.normal(size=size).astype(dtype)
        else:
            inputs[name] = rng.integers(0, _table_size(model, name), size).astype(dtype)
    return Samples(path=Path("random samples"), inputs=inputs, targets=None)


def _table_size(model: Any, name: str) -> int:
    """Rows of the smallest embedding that reads this input directly; 1 when none does."""
    sizes = [1 << 31]
    for leaf in leaf_layers(model) if hasattr(model, "layers") else []:
        if type(leaf.layer).__name__ != "Embedding":
            continue
        for node in leaf.layer._inbound_nodes:
            made = [tensor._keras_history.operation.name for tensor in node.input_tensors]
            if name in made:
                sizes.append(int(leaf.layer.input_dim))
    return min(sizes) if len(sizes) > 1 else 1
