"""Look into a written .tflite file for what a converter does without a word: floats in an integer file, lost weights.

The file is read back with the checker's own reader; no interpreter runs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeprune.artifact import Artifact, Precision
from edgeprune.checker.size.records import FileAccount
from edgeprune.errors import ConversionError
from edgeprune.formats import Contents, Graph, Op
from edgeprune.formats.coreml.mil import Package
from edgeprune.formats.coreml.storage import constants_of
from edgeprune.formats.weights import Role
from edgeprune.maker.keras.saved_models import SavedModel
from edgeprune.maker.keras.types import AnyModel

__all__ = [
    "FALLBACK_ADVICE",
    "MOVES",
    "constant_elements",
    "float_nodes",
    "float_ops",
    "is_sparse",
    "kernel_zeros",
    "refuse_fallback",
    "refuse_lost_arrays",
    "refuse_lost_package_weights",
    "refuse_lost_sparsity",
    "refuse_lost_weights",
]

FALLBACK_ADVICE = "--float-fallback (in a recipe: float_fallback = true)"

# They change what a number is stored as, or read only its shape.
_CONVERSIONS = frozenset({"CAST", "DENSIFY", "DEQUANTIZE", "FAKE_QUANT", "QUANTIZE", "RANK", "SHAPE"})
# They move numbers and compute none; on a float constant they would still keep a float table in the file.
MOVES = frozenset(
    {
        "BATCH_TO_SPACE_ND",
        "BROADCAST_TO",
        "CONCATENATION",
        "DEPTH_TO_SPACE",
        "EMBEDDING_LOOKUP",
        "EXPAND_DIMS",
        "FILL",
        "GATHER",
        "GATHER_ND",
        "PACK",
        "RESHAPE",
        "REVERSE_V2",
        "SLICE",
        "SPACE_TO_BATCH_ND",
        "SPACE_TO_DEPTH",
        "SPLIT",
        "SPLIT_V",
        "SQUEEZE",
        "STRIDED_SLICE",
        "TILE",
        "TRANSPOSE",
        "UNPACK",
    }
)
_FLOATS = frozenset({"bfloat16", "float16", "float32", "float64"})
# Names that the converter makes up for tensors.
_MADE_UP = ("PartitionedCall", "StatefulPartitionedCall", "arith.constant", "serving_default", "tfl.")
# Folding a batch normalisation merges its four vectors into the kernel and the bias before it.
_FEWEST_CONSTANTS = 0.25
_SHOWN = 4
# A model with fewer zeros than this was not pruned; of a pruned one's zeros, a file must keep this share.
_SPARSE, _LEAST_KEPT = 0.05, 0.8


def float_ops(graph: Graph) -> tuple[str, ...]:
    """The operations of an integer file that compute in float, as "KIND 'name'" in the file's order."""
    return tuple(f"{op.kind} {_name(graph, op)!r}" for op in graph.ops if _computes_in_float(graph, op))


def float_nodes(contents: Contents) -> tuple[str, ...]:
    """The nodes of an .onnx file with float weights in an int8 model, as "KIND 'name'"."""
    return tuple(
        f"{layer.kind} {layer.name!r}"
        for layer in contents.layers
        if any(array.role is Role.WEIGHT and array.precision in _FLOATS for array in layer.arrays)
    )


def _computes_in_float(graph: Graph, op: Op) -> bool:
    if op.kind in _CONVERSIONS:
        return False
    read = [graph.tensors[i] for i in op.inputs if i >= 0]
    made = [graph.tensors[i] for i in op.outputs if i >= 0]
    if op.kind in MOVES:
        return any(t.dtype in _FLOATS and t.constant and t.elements > 1 for t in read)
    return any(t.dtype in _FLOATS for t in (*read, *made))


def _name(graph: Graph, op: Op) -> str:
    """The first name of what the operation makes or reads that comes from the model; a fused one is cut short."""
    names = [graph.tensors[i].name.split(";")[0] for i in (*op.outputs, *op.inputs) if i >= 0]
    return next((name for name in names if name and not name.startswith(_MADE_UP)), names[0] if names else "")


def refuse_fallback(graph: Graph, precision: Precision) -> None:
    """Raise ConversionError when an integer file computes in float somewhere."""
    found = float_ops(graph)
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ConversionError(
            f"{precision} model fell back to float in: {', '.join(found[:_SHOWN])}{more}; TFLite has no {precision} "
            f"kernel for them: accept that with {FALLBACK_ADVICE}, or use --precision dynamic or float16"
        )


def constant_elements(graph: Graph) -> int:
    """Elements of all constants in the file, shared bytes once."""
    stored = {t.buffer or -1 - index: t.elements for index, t in enumerate(graph.tensors) if t.constant}
    return sum(stored.values())


def refuse_lost_weights(graph: Graph, expected: int) -> None:
    """Raise ConversionError when a .tflite file holds far fewer numbers than the `expected` weights of its model."""
    _refuse_few(graph.path, constant_elements(graph), expected)


def refuse_lost_arrays(contents: Contents, expected: int) -> None:
    """The same for an .onnx file."""
    _refuse_few(contents.path, sum(array.elements for layer in contents.layers for array in layer.arrays), expected)


def refuse_lost_package_weights(package: Package, expected: int) -> None:
    """The same for a Core ML package, its compressed constants counted as what they stand for."""
    constants = constants_of(package).values()
    _refuse_few(
        package.path, sum(c.size for c in constants if isinstance(c, np.ndarray) and c.dtype.kind == "f"), expected
    )


def refuse_lost_sparsity(artifact: Artifact, weighed: FileAccount, model: AnyModel) -> None:
    """Raise ConversionError when the file of a pruned model has far fewer zeros in its weights than the model, by
    their share and by their number: a file may hold other weights beside the kernels.

    Palettes are left out: the entry that stands for most zeros need not be 0 itself.
    """
    if "palette" in artifact.precision or weighed.zeros is None or weighed.sparsity is None:
        return
    elements, zeros = kernel_zeros(model)
    had = zeros / elements if elements else 0.0
    if had >= _SPARSE and weighed.sparsity < _LEAST_KEPT * had and weighed.zeros < _LEAST_KEPT * zeros:
        raise ConversionError(
            f"{artifact.path.name}: sparsity was lost in the conversion to {artifact.precision}: {had:.1%} of the "
            f"model's weights are zero, {weighed.sparsity:.1%} of the file's; the download gains nothing from pruning"
        )


def is_sparse(model: AnyModel) -> bool:
    """Whether the kernels of a model have as many zeros as only pruning makes."""
    elements, zeros = kernel_zeros(model)
    return zeros > _SPARSE * elements


def kernel_zeros(model: AnyModel) -> tuple[int, int]:
    """(elements, zeros) of the kernels of a Keras model that magnitude pruning knows; (0, 0) without layers.

    States, statistics and learned slopes of two axes are no kernels, and start as zeros.
    """
    from edgeprune.maker.keras.models import leaf_layers, weight_of
    from edgeprune.maker.pruning.magnitude import kernels_of

    if isinstance(model, SavedModel):
        return 0, 0
    elements = zeros = 0
    for leaf in leaf_layers(model):
        for name in kernels_of(leaf.layer, prune_depthwise=True)[0]:
            kernel = np.asarray(weight_of(leaf.layer, name))
            elements, zeros = elements + kernel.size, zeros + kernel.size - int(np.count_nonzero(kernel))
    return elements, zeros


def _refuse_few(path: Path, found: int, expected: int) -> None:
    if found < _FEWEST_CONSTANTS * expected:
        raise ConversionError(
            f"{path.name}: weights are missing: the file holds {found:,} constants and its model needs "
            f"{expected:,}; this is a defect of the conversion, please report it"
        )
