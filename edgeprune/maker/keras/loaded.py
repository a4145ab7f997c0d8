"""What a model must be once it is loaded: its samples and outputs of possible sizes, its weights numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import InputError
from edgeprune.maker.keras.models import leaf_layers, own_weights
from edgeprune.maker.keras.saved_models import SavedModel
from edgeprune.maker.keras.types import AnyModel, Model

__all__ = ["refuse_nan", "refuse_sizes"]

LARGEST_OUTPUT = 2**31  # numbers: 8 GB of them are no layer's


def refuse_sizes(path: Path, model: Model) -> None:
    """Raise InputError for a layer whose output for one sample fits no memory, and for an input without samples."""
    for tensor in getattr(model, "inputs", None) or ():
        if any(size is not None and size < 1 for size in tensor.shape):
            raise InputError(f"{path}: its input has the shape {tensor.shape}, which no sample has")
    for layer in model._flatten_layers():
        for node in getattr(layer, "_inbound_nodes", ()):
            for tensor in node.output_tensors:
                if math.prod(size or 1 for size in tensor.shape) > LARGEST_OUTPUT:
                    raise InputError(f"{path}: refused, layer {layer.name!r} makes {tensor.shape} numbers for a sample")


def refuse_nan(path: Path, model: AnyModel) -> None:
    """Raise InputError for a weight that is no finite number."""

    def held() -> Iterator[tuple[str, Any]]:
        if isinstance(model, SavedModel):
            yield from (("the signature", weight) for weight in model.weights)
            return
        for leaf in leaf_layers(model):
            yield from ((f"layer {leaf.path!r}", variable) for variable in own_weights(leaf.layer))

    for owner, variable in held():
        values = np.asarray(variable)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            named = getattr(variable, "name", "a constant")
            raise InputError(f"{path}: {owner} holds NaN or infinite weights ({named})")
