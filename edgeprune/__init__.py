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
    "account",
    "compare_files",
    "compare_latency",
    "finetune",
    "keep_largest",
    "load_model",
    "load_recipe",
    "load_samples",
    "prepare",
    "prune_channels",
    "prune_dead",
    "prune_magnitude",
    "prune_while_training",
    "read_contents",
    "read_graph",
    "run_recipe",
    "run_tflite",
    "save_model",
]

# Public name -> the module that holds it.
_HOMES = {
    "Artifact": "edgeprune.artifact",
    "ChannelOptions": "edgeprune.maker.pruning.channel.plan",
    "ConstantSparsity": "edgeprune.maker.pruning.schedule",
    "Converter": "edgeprune.converters.session",
    "EdgepruneError": "edgeprune.errors",
    "Format": "edgeprune.artifact",
    "MagnitudeOptions": "edgeprune.maker.pruning.magnitude",
    "PolynomialDecay": "edgeprune.maker.pruning.schedule",
    "Precision": "edgeprune.artifact",
    "Progress": "edgeprune.host.progress",
    "TrainOptions": "edgeprune.maker.training.loop",
    "account": "edgeprune.checker.size.account",
    "compare_files": "edgeprune.checker.comparison",
    "compare_latency": "edgeprune.checker.latency.measure",
    "finetune": "edgeprune.maker.pruning.masked_training",
    "keep_largest": "edgeprune.maker.pruning.magnitude",
    "load_model": "edgeprune.maker.keras.model_files",
    "load_recipe": "edgeprune.maker.recipe.recipe",
    "load_samples": "edgeprune.maker.training.datasets",
    "prepare": "edgeprune.maker.recipe.prepare",
    "prune_channels": "edgeprune.maker.pruning.channel.pruner",
    "prune_dead": "edgeprune.maker.pruning.channel.lossless",
    "prune_magnitude": "edgeprune.maker.pruning.magnitude",
    "prune_while_training": "edgeprune.maker.pruning.masked_training",
    "read_contents": "edgeprune.formats",
    "read_graph": "edgeprune.formats",
    "run_recipe": "edgeprune.maker.recipe.pipeline",
    "run_tflite": "edgeprune.runtime.session",
    "save_model": "edgeprune.maker.keras.models",
}


_CONVERTERS = "edgeprune.converters"


def __getattr__(name: str) -> Any:
    try:
        if name == "converters":
            return importlib.import_module(_CONVERTERS)
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as cause:
        if cause.name == _CONVERTERS:
            raise ImportError(
                f"{name} needs {_CONVERTERS}, which a plain checkout keeps in converters/ beside edgeprune/: "
                "install the checkout with pip install -e .",
                name=_CONVERTERS,
            ) from cause
        raise
    raise AttributeError(f"module 'edgeprune' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
