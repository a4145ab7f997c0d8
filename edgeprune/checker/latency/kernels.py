"""Operations as a latency model sees them: multiplications, elements read and written, and what kind of work it is."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgeprune.formats.graph import Graph, Op

__all__ = ["KINDS_BY_OP", "Kernel", "Kind", "kernels_of", "kind_of"]

Shape = tuple[int, ...]


class Kind(enum.StrEnum):
    """What an operation spends its time on. Operations of one kind share a rate in a device profile."""

    POINTWISE = "pointwise"  # dense convolutions of 1x1
    SPATIAL = "spatial"  # dense convolutions of k x k
    GROUPED = "grouped"
    DEPTHWISE = "depthwise"
    FULLY_CONNECTED = "fully_connected"
    MATMUL = "matmul"  # of two activations
    ELEMENTWISE = "elementwise"
    POOL = "pool"  # windows and reductions
    MOVEMENT = "movement"  # copies
    FREE = "free"  # done once at load, or a change of shape only


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One operation. `read` and `written` are elements of activations, `weights` of constants.

    `gathered` is `read` as a runtime that unrolls patches (im2col) reads it: one copy of the input for each place
    of the kernel. None of these depends on how many weights are zero.
    """

    op: str
    kind: Kind
    macs: int
    read: int
    written: int
    weights: int
    gathered: int
    name: str = ""


_NAMES: Mapping[Kind, str] = {
    Kind.FULLY_CONNECTED: "FULLY_CONNECTED",
    Kind.MATMUL: "BATCH_MATMUL",
    Kind.DEPTHWISE: "DEPTHWISE_CONV_2D",
    Kind.GROUPED: "GROUPED_CONV_2D",
    Kind.ELEMENTWISE: "ABS ADD ADD_N CAST CEIL DEQUANTIZE DIV ELU EQUAL EXP FLOOR GELU GREATER GREATER_EQUAL HARD_SWISH"
    " LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC MAXIMUM MINIMUM MUL NEG NOT_EQUAL POW"
    " PRELU QUANTIZE RELU RELU6 RELU_N1_TO_1 RSQRT SELECT SELECT_V2 SOFTMAX LOG_SOFTMAX SQRT SQUARE SQUARED_DIFFERENCE"
    " SUB TANH L2_NORMALIZATION COS SIN SIGN ROUND FLOOR_DIV FLOOR_MOD CLAMP",
    Kind.POOL: "AVERAGE_POOL_2D MAX_POOL_2D L2_POOL_2D MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD ARG_MAX ARG_MIN",
    Kind.MOVEMENT: "BATCH_TO_SPACE_ND BROADCAST_TO CONCATENATION DEPTH_TO_SPACE FILL GATHER GATHER_ND MIRROR_PAD PACK"
    " PAD PADV2 RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SLICE SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V"
    " STRIDED_SLICE TILE TRANSPOSE UNPACK EMBEDDING_LOOKUP",
    Kind.FREE: "DENSIFY EXPAND_DIMS RESHAPE SHAPE SQUEEZE IDENTITY",
}
KINDS_BY_OP: Mapping[str, Kind] = {op: kind for kind, ops in _NAMES.items() for op in ops.split()}
_CONVOLUTIONS = {"CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "CONV_3D_TRANSPOSE"}


def kind_of(op: str, taps: int = 1, groups: int = 1) -> Kind | None:
    """The kind of an operation of `taps` kernel places (3x3 has 9); None when no rule tells what it costs."""
    if op in _CONVOLUTIONS:
        return Kind.GROUPED if groups > 1 else Kind.SPATIAL if taps > 1 else Kind.POINTWISE
    return KINDS_BY_OP.get(op)


def kernels_of(graph: Graph) -> list[Kernel | Op]:
    """The operations of the first subgraph in order; an operation that no rule covers stays an `Op`."""
    loaded = _constants(graph)
    return [_kernel(graph, op, loaded) for op in graph.ops if op.subgraph == 0]


def _constants(graph: Graph) -> set[int]:
    """Tensors that are known at load: stored ones, and what DENSIFY and DEQUANTIZE make of them."""
    known = {index for index, tensor in enumerate(graph.tensors) if tensor.constant}
    for op in graph.ops:
        if op.kind in ("DENSIFY", "DEQUANTIZE") and op.inputs and op.inputs[0] in known:
            known.update(index for index in op.outputs if index >= 0)
    return known


def _kernel(graph: Graph, op: Op, loaded: set[int]) -> Kernel | Op:
    tensors = graph.tensors
    weights = [index for index in op.inputs if index in loaded]
    read = sum(tensors[index].elements for index in op.inputs if index >= 0 and index not in loaded)
    written = sum(tensors[index].elements for index in op.outputs if index >= 0)
    kernel_shape: Shape = tensors[op.inputs[1]].shape if len(op.inputs) > 1 and op.inputs[1] >= 0 else ()
    convolution = op.kind in _CONVOLUTIONS and len(kernel_shape) >= 4
    taps = math.prod(kernel_shape[1:3]) if convolution else 1
    kind = kind_of(op.kind, taps, _groups(graph, op, kernel_shape) if convolution else 1)
    if kind is None or (op.kind in _CONVOLUTIONS and not convolution):
        return op
    if op.outputs and all(index in loaded for index in op.outputs if index >= 0):
        kind = Kind.FREE
    unrolled = op.macs // max(kernel_shape[0], 1) if kind is Kind.SPATIAL else read
    return Kernel(
        op=op.kind,
        kind=kind,
        macs=op.macs,
        read=read,
        written=written,
        weights=sum(tensors[index].elements for index in weights) if op.macs else 0,
        gathered=unrolled,
        name=tensors[op.outputs[0]].name if op.outputs and op.outputs[0] >= 0 else "",
    )


def _groups(graph: Graph, op: Op, kernel_shape: Shape) -> int:
    """Groups of a CONV_2D: channels of the input over channels of the kernel."""
    shape = graph.tensors[op.inputs[0]].shape if op.inputs and op.inputs[0] >= 0 else ()
    if op.kind != "CONV_2D" or not shape or not kernel_shape[3]:
        return 1
    return max(1, shape[-1] // kernel_shape[3])
