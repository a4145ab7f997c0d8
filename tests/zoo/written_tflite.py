"""A .tflite file written by hand, tensor by tensor, so that it may say anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import tflite


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A tensor to write."""

    shape: tuple[int, ...]
    buffer: int = 0
    dtype: int = tflite.TensorType.FLOAT32
    name: str | bytes = "t"
    zero_points: tuple[int, ...] = ()
    axis: int = 0


@dataclass(frozen=True, kw_only=True)
class OpSpec:
    """An operator to write."""

    kind: int | str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """A subgraph to write."""

    tensors: tuple[TensorSpec, ...]
    ops: tuple[OpSpec, ...] = ()
    inputs: tuple[int, ...] = (0,)
    outputs: tuple[int, ...] = ()


def _vector(b: flatbuffers.Builder, items: Sequence[int], prepend: Callable[[int], None], size: int = 4) -> int:
    b.StartVector(size, len(items), size)
    for item in reversed(items):
        prepend(item)
    return int(b.EndVector())


def _tables(b: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    return _vector(b, offsets, b.PrependUOffsetTRelative)


def _tensor(b: flatbuffers.Builder, t: TensorSpec) -> int:
    name, shape = b.CreateString(t.name), _vector(b, t.shape, b.PrependInt32)
    points = _vector(b, t.zero_points, b.PrependInt64, 8)
    tflite.QuantizationParametersStart(b)
    tflite.QuantizationParametersAddZeroPoint(b, points)
    tflite.QuantizationParametersAddQuantizedDimension(b, t.axis)
    quantization = tflite.QuantizationParametersEnd(b)
    tflite.TensorStart(b)
    tflite.TensorAddName(b, name)
    tflite.TensorAddShape(b, shape)
    tflite.TensorAddType(b, t.dtype)
    tflite.TensorAddBuffer(b, t.buffer)
    tflite.TensorAddQuantization(b, quantization)
    return int(tflite.TensorEnd(b))


def _op(b: flatbuffers.Builder, op: OpSpec, code: int) -> int:
    inputs, outputs = _vector(b, op.inputs, b.PrependInt32), _vector(b, op.outputs, b.PrependInt32)
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, code)
    tflite.OperatorAddInputs(b, inputs)
    tflite.OperatorAddOutputs(b, outputs)
    return int(tflite.OperatorEnd(b))


def _code(b: flatbuffers.Builder, kind: int | str) -> int:
    custom = b.CreateString(kind) if isinstance(kind, str) else 0
    number = tflite.BuiltinOperator.CUSTOM if isinstance(kind, str) else kind
    tflite.OperatorCodeStart(b)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(number, 127))
    tflite.OperatorCodeAddBuiltinCode(b, number)
    if custom:
        tflite.OperatorCodeAddCustomCode(b, custom)
    return int(tflite.OperatorCodeEnd(b))


def _subgraph(b: flatbuffers.Builder, s: GraphSpec, kinds: list[int | str]) -> int:
    tensors = _tables(b, [_tensor(b, t) for t in s.tensors])
    ops = _tables(b, [_op(b, op, kinds.index(op.kind)) for op in s.ops])
    inputs, outputs = _vector(b, s.inputs, b.PrependInt32), _vector(b, s.outputs, b.PrependInt32)
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, tensors)
    tflite.SubGraphAddOperators(b, ops)
    tflite.SubGraphAddInputs(b, inputs)
    tflite.SubGraphAddOutputs(b, outputs)
    return int(tflite.SubGraphEnd(b))


def _buffer(b: flatbuffers.Builder, content: bytes | tuple[int, int]) -> int:
    """A buffer of bytes, or one that lies at (offset, size) of the file."""
    inside = b.CreateByteVector(content) if isinstance(content, bytes) else 0
    tflite.BufferStart(b)
    if isinstance(content, bytes):
        tflite.BufferAddData(b, inside)
    else:
        tflite.BufferAddOffset(b, content[0])
        tflite.BufferAddSize(b, content[1])
    return int(tflite.BufferEnd(b))


def _signature(b: flatbuffers.Builder, name: str, subgraph: int) -> int:
    key, ends = b.CreateString(name), _tables(b, [])
    tflite.SignatureDefStart(b)
    tflite.SignatureDefAddSignatureKey(b, key)
    tflite.SignatureDefAddSubgraphIndex(b, subgraph)
    tflite.SignatureDefAddInputs(b, ends)
    tflite.SignatureDefAddOutputs(b, ends)
    return int(tflite.SignatureDefEnd(b))


def write(
    path: Path,
    *subgraphs: GraphSpec,
    buffers: Sequence[bytes | tuple[int, int]] = (b"",),
    signatures: Sequence[tuple[str, int]] = (),
    repeat: int = 1,
    version: int = 3,
) -> Path:
    """Write a .tflite; `repeat` lists the same subgraph table several times over."""
    b: Any = flatbuffers.Builder(1024)
    kinds = list(dict.fromkeys(op.kind for s in subgraphs for op in s.ops))
    codes = _tables(b, [_code(b, kind) for kind in kinds])
    graphs = _tables(b, [_subgraph(b, s, kinds) for s in subgraphs] * repeat)
    contents = _tables(b, [_buffer(b, content) for content in buffers])
    keys = _tables(b, [_signature(b, name, number) for name, number in signatures])
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, version)
    tflite.ModelAddOperatorCodes(b, codes)
    tflite.ModelAddSubgraphs(b, graphs)
    tflite.ModelAddBuffers(b, contents)
    tflite.ModelAddSignatureDefs(b, keys)
    b.Finish(tflite.ModelEnd(b), b"TFL3")
    path.write_bytes(bytes(b.Output()))
    return path


def dense_op(inputs: tuple[int, ...] = (0, 1), outputs: tuple[int, ...] = (2,)) -> OpSpec:
    """FULLY_CONNECTED."""
    return OpSpec(kind=tflite.BuiltinOperator.FULLY_CONNECTED, inputs=inputs, outputs=outputs)


def dense_graph(kernel: TensorSpec, *, ops: tuple[OpSpec, ...] | None = None) -> GraphSpec:
    """4 inputs, 3 units and the kernel given, as tensors 0, 2 and 1."""
    return GraphSpec(
        tensors=(TensorSpec(shape=(1, 4)), kernel, TensorSpec(shape=(1, 3))), ops=ops or (dense_op(),), outputs=(2,)
    )


# --- what a sound file says -----------------------------------------------------------------------------------------
