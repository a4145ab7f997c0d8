"""How a float file keeps its weights: as they are, half as wide or as int8 with a scale per channel, dense or sparse.

Whatever is stored, operations compute in float32: DENSIFY and DEQUANTIZE unpack a constant when the file is loaded.
One filter stored sparse is enough for XNNPACK to look at the zeros of all; the others are stored as is smallest.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgeprune.artifact import Precision
from edgeprune.checker.sparse_kernels.encoding import as_sparse, dense_values
from edgeprune.checker.sparse_kernels.options import Prefer
from edgeprune.errors import InputError
from edgeprune.formats.tflite.editing import EditedGraph
from edgeprune.formats.tflite.objects import Generated
from edgeprune.formats.tflite.scales import round_up

__all__ = ["int8_kernels", "int8_levels", "store_weights", "unpack_weights"]

Array = npt.NDArray[np.generic]
_SAMPLED_BYTES = 1 << 14  # of each tensor that two ways of storing are tried on
_LEVEL = 6  # of zlib, for that trial
_FEWEST = 64  # elements from which a constant is worth another type
# What unpacks a constant, and the version of the operation that takes its type (tensorflow/lite/tools/versioning).
_DEQUANTIZE = {"float16": 3, "int8": 5}
_KERNELS = ("CONV_2D", "FULLY_CONNECTED")
_HALVED = (*_KERNELS, "DEPTHWISE_CONV_2D")


def unpack_weights(graph: EditedGraph) -> None:
    """Replace every constant that DENSIFY and DEQUANTIZE unpack by its float32 values. Raises InputError for sparse
    constants whose indices make no sense."""
    for kind in ("DENSIFY", "DEQUANTIZE"):
        for op in [op for op in graph.ops if graph.kind(op) == kind]:
            source, made = graph.reads(op)[0], graph.writes(op)[0]
            values = _unpacked(graph, source)
            if values is None or made in graph.outputs:
                continue
            floats = values if kind == "DENSIFY" else _floats(graph, source, values)
            put = graph.add_constant(graph.name(source), np.ascontiguousarray(floats))
            graph.graph.tensors[put].quantization = (
                graph.graph.tensors[source].quantization if kind == "DENSIFY" else None
            )
            graph.redirect(made, put, graph.users(made))
            graph.remove(op)


def _unpacked(graph: EditedGraph, index: int) -> Array | None:
    tensor = graph.graph.tensors[index]
    if tensor.sparsity is None:
        return graph.values(index)
    stored = graph.stored(index)
    if stored is None:
        return None
    try:
        return dense_values(stored, tensor.sparsity, graph.shape(index))
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(f"{graph.path}: the sparse constant {graph.name(index)!r} is broken: {error}") from error


def _floats(graph: EditedGraph, index: int, values: Array) -> npt.NDArray[np.float32]:
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    parameters = graph.graph.tensors[index].quantization
    scales = np.asarray(parameters.scale if parameters.scale is not None else [1.0], np.float32)
    points = np.asarray(parameters.zeroPoint if parameters.zeroPoint is not None else [0], np.float32)
    shape = [1] * values.ndim
    if len(scales) > 1:
        shape[int(parameters.quantizedDimension)] = -1
    steps = values.astype(np.float32) - points.reshape(shape if len(points) > 1 else -1)
    floats: npt.NDArray[np.float32] = (steps * scales.reshape(shape)).astype(np.float32)
    return floats


def store_weights(
    graph: EditedGraph,
    stored: Precision,
    *,
    sparse: bool,
    prefer: Prefer,
    hint: int | None = None,
    floors: Mapping[int, float] | None = None,
) -> int:
    """Store the weights of a float graph; how many of them sparse.

    With `sparse` each kernel of CONV_2D and FULLY_CONNECTED is stored sparse where that is smaller, by `prefer`; `hint`
    is one that is in any case. int8 is never stored sparse: LiteRT 2.3.0 unpacks that into other numbers. `floors` are
    those of `int8_levels` by constant.
    """
    count = 0
    for index, (op, kind) in _weights(graph).items():
        values = graph.floats(index)
        assert values is not None
        values = values + np.float32(0)  # -0.0 becomes +0.0
        dense = _packed(values, _type_of(stored, kind, values), (floors or {}).get(index, 0.0))
        chosen = dense
        if kind in _KERNELS and (sparse or index == hint):
            thin = replace(_packed(values, _sparse_type(stored, values)), sparse=True)
            chosen = thin if index == hint or _smaller(thin, dense, prefer) else dense
        _put(graph, index, chosen, op)
        count += chosen.sparse
    return count


def _weights(graph: EditedGraph) -> dict[int, tuple[Generated, str]]:
    """Of each float constant that an operation computes with: the first such operation, and its kind where the constant
    is a kernel, "" where it is a bias."""
    found: dict[int, tuple[Generated, str]] = {}
    for op in graph.ops:
        kind = graph.kind(op)
        for place, index in enumerate(graph.reads(op)):
            if place and kind in _HALVED and graph.floats(index) is not None and index not in found:
                found[index] = (op, kind if place == 1 else "")
    return found


def int8_kernels(graph: EditedGraph) -> dict[int, npt.NDArray[np.float32]]:
    """The constants of a float graph that INT8_WEIGHTS stores as int8, and their values."""
    found = {}
    for index, (_, kind) in _weights(graph).items():
        values = graph.floats(index)
        if values is not None and _type_of(Precision.INT8_WEIGHTS, kind, values) == "int8":
            found[index] = values
    return found


def _type_of(stored: Precision, kind: str, values: Array) -> str:
    """The type of a constant of an operation of this kind, "" for a bias; what is not worth another one or too large
    for it stays in float32, and so does a bias beside int8 kernels: LiteRT 2.3.0 gives no such layer to XNNPACK."""
    small = values.size < _FEWEST or np.abs(values).max(initial=0) > np.finfo(np.float16).max
    if stored is Precision.FLOAT32 or small or (stored is Precision.INT8_WEIGHTS and not kind):
        return "float32"
    return "int8" if stored is Precision.INT8_WEIGHTS and kind in _KERNELS else "float16"


def _sparse_type(stored: Precision, values: Array) -> str:
    """The same of a kernel that is stored sparse."""
    return _type_of(Precision.FLOAT16 if stored is Precision.INT8_WEIGHTS else stored, "", values)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packed:
    """A constant as the file keeps it: `values` in the tensor's shape, with `scales` of int8 by output channel."""

    values: Array
    scales: npt.NDArray[np.float32] | None = None
    sparse: bool = False


def _put(graph: EditedGraph, index: int, packed: _Packed, before: Generated) -> None:
    """Put one constant into the file anew, with what unpacks it before the operation that reads it first."""
    name, readers, shape = graph.name(index), graph.users(index), packed.values.shape
    encoded = as_sparse(packed.values) if packed.sparse else None
    last = graph.add_constant(name, packed.values if encoded is None else encoded.values, shape)
    graph.graph.tensors[last].quantization = _parameters(graph, packed.scales)
    if encoded is not None:
        graph.graph.tensors[last].sparsity = encoded.table()
        made = graph.add_tensor(name + "/dense", shape, graph.type_name(last))
        graph.add_op("DENSIFY", [last], made, before=before, options=graph.schema.DensifyOptionsT())
        last = made
    dtype = str(packed.values.dtype)
    if dtype != "float32":
        made = graph.add_tensor(name + "/float", shape, "FLOAT32")
        options, version = graph.schema.DequantizeOptionsT(), _DEQUANTIZE[dtype]
        graph.add_op("DEQUANTIZE", [last], made, before=before, options=options, version=version)
        last = made
    graph.redirect(index, last, readers)


def _packed(values: npt.NDArray[np.float32], dtype: str, floor: float = 0.0) -> _Packed:
    if dtype != "int8":
        return _Packed(values=values.astype(np.dtype(dtype)))
    stored, scales = int8_levels(values, floor)
    return _Packed(values=stored, scales=scales)


def int8_levels(
    values: npt.NDArray[np.float32], floor: float = 0.0
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """(A kernel as int8, -127 to 127, float32 scales of few bits for its first axis, its output channels).

    No scale is below `floor` times the largest that the kernel needs: numbers of a coarser grid compress better.
    """
    rows = np.abs(values).reshape(len(values), -1).max(1)
    scales = round_up(np.where(rows > 0, rows / np.float32(127), np.float32(1)).astype(np.float32))
    if floor > 0 and rows.any():
        scales = np.maximum(scales, round_up(np.array([floor * scales[rows > 0].max()], np.float32)))
    steps = np.rint(values / scales.reshape(-1, *[1] * (values.ndim - 1)))
    return steps.astype(np.int8), scales


def _parameters(graph: EditedGraph, scales: npt.NDArray[np.float32] | None) -> Generated | None:
    if scales is None:
        return None
    parameters: Generated = graph.schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint = scales, np.zeros(len(scales), np.int64)
    parameters.quantizedDimension = 0
    return parameters


def _smaller(thin: _Packed, dense: _Packed, prefer: Prefer) -> bool:
    """Whether sparse storage takes less: raw, or compressed as far as a sample of rows tells."""
    if prefer is Prefer.INSTALL:
        return sum(part.nbytes for part in as_sparse(thin.values).parts) < dense.values.nbytes
    some = slice(max(1, _SAMPLED_BYTES * len(thin.values) // max(1, thin.values.nbytes)))
    parts = as_sparse(thin.values[some]).parts
    return sum(_deflated(part) for part in parts) < _deflated(dense.values[some])


def _deflated(part: Array) -> int:
    return len(zlib.compress(np.ascontiguousarray(part).tobytes(), _LEVEL))
