"""Look into a written .tflite file for what a converter does without a word: floats in an integer file, lost weights.

The file is read back with the checker's own reader; no interpreter runs.
"""

from __future__ import annotations

from edgeprune.artifact import Precision
from edgeprune.errors import ConversionError
from edgeprune.graph import Graph, Op

__all__ = ["FALLBACK_ADVICE", "INTEGER", "constant_elements", "float_ops", "refuse_fallback", "refuse_lost_weights"]

INTEGER = (Precision.INT8, Precision.INT16X8)  # both weights and activations are integers
FALLBACK_ADVICE = "--float-fallback (in a recipe: float_fallback = true)"

# They change what a number is stored as, or read only its shape.
_CONVERSIONS = frozenset({"CAST", "DENSIFY", "DEQUANTIZE", "FAKE_QUANT", "QUANTIZE", "RANK", "SHAPE"})
# They move numbers and compute none; on a float constant they would still keep a float table in the file.
_MOVES = frozenset(
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


def float_ops(graph: Graph) -> tuple[str, ...]:
    """The operations of an integer file that compute in float, as "KIND 'name'" in the file's order."""
    return tuple(f"{op.kind} {_name(graph, op)!r}" for op in graph.ops if _computes_in_float(graph, op))


def _computes_in_float(graph: Graph, op: Op) -> bool:
    if op.kind in _CONVERSIONS:
        return False
    read = [graph.tensors[i] for i in op.inputs if i >= 0]
    made = [graph.tensors[i] for i in op.outputs if i >= 0]
    if op.kind in _MOVES:
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
    """Raise ConversionError when a file holds far fewer numbers than the `expected` weights of its model."""
    found = constant_elements(graph)
    if found < _FEWEST_CONSTANTS * expected:
        raise ConversionError(
            f"{graph.path.name}: weights are missing: the file holds {found:,} constants and its model needs "
            f"{expected:,}; this is a defect of the conversion, please report it"
        )
