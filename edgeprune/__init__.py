"""edgeprune: prune, quantize and convert Keras models, with an honest account of download and latency.

Public names are resolved on first use (PEP 562), so that `import edgeprune` is instant and needs no extra.

>>> import numpy as np, edgeprune
>>> edgeprune.keep_largest(np.array([[0.1, -3.0], [2.0, 0.5]]), 0.5)
array([[False,  True],
       [ True, False]])
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = [
    "Artifact",
    "ChannelOptions",
    "ConstantSparsity",
    "Converter",
    "EdgepruneError",
    "Format",
    "MagnitudeOptions",
    "PolynomialDecay",
    "Precision",
    "Progress",
    "TrainOptions",
    "compare_latency",
    "finetune",
    "keep_largest",
    "load_model",
    "load_recipe",
    "load_samples",
    "measure_size",
    "prepare",
    "prune_channels",
    "prune_dead",
    "prune_magnitude",
    "prune_while_training",
    "read_graph",
    "run_recipe",
    "run_tflite",
    "save_model",
]

# Public name -> the module that holds it.
_HOMES = {
    "Artifact": "edgeprune.artifact",
    "ChannelOptions": "edgeprune.pruning.plan",
    "ConstantSparsity": "edgeprune.pruning.schedule",
    "Converter": "edgeprune.converters.session",
    "EdgepruneError": "edgeprune.errors",
    "Format": "edgeprune.artifact",
    "MagnitudeOptions": "edgeprune.pruning.magnitude",
    "PolynomialDecay": "edgeprune.pruning.schedule",
    "Precision": "edgeprune.artifact",
    "Progress": "edgeprune.progress",
    "TrainOptions": "edgeprune.training",
    "compare_latency": "edgeprune.latency.measure",
    "finetune": "edgeprune.pruning.held",
    "keep_largest": "edgeprune.pruning.magnitude",
    "load_model": "edgeprune.model_files",
    "load_recipe": "edgeprune.recipe",
    "load_samples": "edgeprune.datasets",
    "measure_size": "edgeprune.size.accounting",
    "prepare": "edgeprune.preparation",
    "prune_channels": "edgeprune.pruning.channel",
    "prune_dead": "edgeprune.pruning.lossless",
    "prune_magnitude": "edgeprune.pruning.magnitude",
    "prune_while_training": "edgeprune.pruning.held",
    "read_graph": "edgeprune.graph",
    "run_recipe": "edgeprune.pipeline",
    "run_tflite": "edgeprune.runtime.session",
    "save_model": "edgeprune.keras_models",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edgeprune' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
