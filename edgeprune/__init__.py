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
    "Agreement",
    "AppOptions",
    "ArchivePlace",
    "Artifact",
    "ArtifactEntry",
    "Budget",
    "ChannelOptions",
    "Comparison",
    "ConstantSparsity",
    "ConvertOptions",
    "Converter",
    "DistillationLoss",
    "Distiller",
    "EdgepruneError",
    "EndOptions",
    "Estimate",
    "FeatureDistillation",
    "FileAccount",
    "Format",
    "ImageInput",
    "InputSizes",
    "LadderOptions",
    "Ledger",
    "LogitsDistillation",
    "MagnitudeOptions",
    "Metadata",
    "MetadataOptions",
    "Metric",
    "PackOptions",
    "PackResult",
    "Pattern",
    "Placement",
    "PolynomialDecay",
    "Precision",
    "Profile",
    "Progress",
    "Samples",
    "SparseOptions",
    "SparsityLogger",
    "TrainOptions",
    "VariantOptions",
    "Verdict",
    "account",
    "blame",
    "check",
    "compare",
    "compare_latency",
    "convert",
    "cut_preprocessing",
    "devices",
    "estimate_latency",
    "evaluate",
    "finalize",
    "find_profile",
    "finetune",
    "keep_largest",
    "load_model",
    "load_recipe",
    "load_samples",
    "pack",
    "place_operations",
    "prune_channels",
    "prune_dead",
    "prune_harmless",
    "prune_magnitude",
    "prune_while_training",
    "read_metadata",
    "reorder_channels",
    "run",
    "run_tflite",
    "save_model",
    "scores",
    "sensitivity",
    "snippet",
    "sparse",
    "sparsity_report",
    "transfer_optimizer",
    "variant",
    "verify",
    "write_metadata",
]

# Public name -> the module that holds it.
_HOMES = {
    "Agreement": "edgeprune.checker.agreement",
    "AppOptions": "edgeprune.converters.packaging",
    "ArchivePlace": "edgeprune.checker.packing.records",
    "Artifact": "edgeprune.artifact",
    "ArtifactEntry": "edgeprune.ledger",
    "Budget": "edgeprune.checker.budget",
    "ChannelOptions": "edgeprune.maker.pruning.options",
    "Comparison": "edgeprune.checker.comparison",
    "ConstantSparsity": "edgeprune.maker.pruning.schedule",
    "ConvertOptions": "edgeprune.converters.conversion",
    "Converter": "edgeprune.converters.session",
    "DistillationLoss": "edgeprune.maker.training.distillation_losses",
    "Distiller": "edgeprune.maker.training.distiller",
    "EdgepruneError": "edgeprune.errors",
    "EndOptions": "edgeprune.maker.keras.ends",
    "Estimate": "edgeprune.ledger",
    "FeatureDistillation": "edgeprune.maker.training.distillation_losses",
    "FileAccount": "edgeprune.checker.size.records",
    "Format": "edgeprune.artifact",
    "ImageInput": "edgeprune.formats.metadata",
    "InputSizes": "edgeprune.formats.input_sizes",
    "LadderOptions": "edgeprune.converters.ladder_options",
    "Ledger": "edgeprune.ledger",
    "LogitsDistillation": "edgeprune.maker.training.distillation_losses",
    "MagnitudeOptions": "edgeprune.maker.pruning.options",
    "Metadata": "edgeprune.formats.tflite.metadata",
    "MetadataOptions": "edgeprune.formats.metadata",
    "Metric": "edgeprune.maker.training.metrics",
    "PackOptions": "edgeprune.formats.tflite.packed",
    "PackResult": "edgeprune.checker.packing.records",
    "Pattern": "edgeprune.formats.pattern",
    "Placement": "edgeprune.checker.latency.accelerators.placement",
    "PolynomialDecay": "edgeprune.maker.pruning.schedule",
    "Precision": "edgeprune.artifact",
    "Profile": "edgeprune.checker.latency.profiles",
    "Progress": "edgeprune.host.progress",
    "Samples": "edgeprune.maker.training.data.samples",
    "SparseOptions": "edgeprune.checker.sparse_kernels.options",
    "SparsityLogger": "edgeprune.maker.pruning.own_training",
    "TrainOptions": "edgeprune.maker.training.options",
    "VariantOptions": "edgeprune.converters.variants",
    "Verdict": "edgeprune.verdict",
    "account": "edgeprune.commands.calls",
    "blame": "edgeprune.commands.calls",
    "check": "edgeprune.commands.calls",
    "compare": "edgeprune.commands.calls",
    "compare_latency": "edgeprune.commands.calls",
    "convert": "edgeprune.converters.conversion",
    "cut_preprocessing": "edgeprune.maker.keras.preprocessing",
    "devices": "edgeprune.commands.calls",
    "estimate_latency": "edgeprune.commands.calls",
    "evaluate": "edgeprune.commands.calls",
    "finalize": "edgeprune.maker.pruning.own_training",
    "find_profile": "edgeprune.checker.latency.profiles",
    "finetune": "edgeprune.commands.calls",
    "keep_largest": "edgeprune.maker.pruning.magnitude",
    "load_model": "edgeprune.commands.calls",
    "load_recipe": "edgeprune.commands.calls",
    "load_samples": "edgeprune.commands.calls",
    "pack": "edgeprune.checker.packing.pack",
    "place_operations": "edgeprune.commands.calls",
    "prune_channels": "edgeprune.commands.calls",
    "prune_dead": "edgeprune.maker.pruning.channel.lossless",
    "prune_harmless": "edgeprune.maker.pruning.channel.harmless",
    "prune_magnitude": "edgeprune.maker.pruning.magnitude",
    "prune_while_training": "edgeprune.maker.pruning.masked_training",
    "read_metadata": "edgeprune.formats.tflite.metadata",
    "reorder_channels": "edgeprune.maker.pruning.magnitude",
    "run": "edgeprune.commands.calls",
    "run_tflite": "edgeprune.commands.calls",
    "save_model": "edgeprune.commands.calls",
    "scores": "edgeprune.commands.calls",
    "sensitivity": "edgeprune.converters.sensitivity",
    "snippet": "edgeprune.commands.calls",
    "sparse": "edgeprune.maker.pruning.own_training",
    "sparsity_report": "edgeprune.maker.pruning.own_training",
    "transfer_optimizer": "edgeprune.maker.pruning.channel.transfer",
    "variant": "edgeprune.converters.variants",
    "verify": "edgeprune.converters.verification",
    "write_metadata": "edgeprune.commands.calls",
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
