"""Change a written .tflite file where the converter's choice does not run, or runs wrongly.

Runs in the child process of `edgeprune.converters.session`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np

from edgeprune.converters.types import Generated
from edgeprune.formats.tflite.objects import (
    as_objects,
    file_bytes,
    operator_code,
    operator_number,
    schema_classes,
)

__all__ = ["add_signature", "rename_signature", "separate_biases", "unpack_transposed_kernels"]

Change = Callable[[Generated, Generated, Generated], bool]


def add_signature(content: bytes, key: str, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """The file with the signature `key` that names its inputs and outputs, given in the file's order."""

    def change(schema: Generated, model: Generated, subgraph: Generated) -> bool:
        if subgraph is not model.subgraphs[0]:
            return False
        signature = schema.SignatureDefT()
        signature.signatureKey = key
        signature.subgraphIndex = 0
        signature.inputs = [_tensor_map(schema, *pair) for pair in zip(inputs, subgraph.inputs, strict=True)]
        signature.outputs = [_tensor_map(schema, *pair) for pair in zip(outputs, subgraph.outputs, strict=True)]
        model.signatureDefs = [signature]
        return True

    return _rewritten(content, change)


def rename_signature(content: bytes, key: str) -> bytes:
    """The file with its only signature under the name `key`."""

    def change(_: Generated, model: Generated, subgraph: Generated) -> bool:
        if subgraph is model.subgraphs[0]:
            (signature,) = model.signatureDefs
            signature.signatureKey = key
        return True

    return _rewritten(content, change)


def _tensor_map(schema: Generated, name: str, tensor: int) -> Generated:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, int(tensor)
    return entry


def unpack_transposed_kernels(content: bytes) -> bytes:
    """A dynamic-range file in which TRANSPOSE_CONV reads a float kernel, unpacked from the stored int8 one.

    On int8 kernels and float inputs it is a newer operation than runtimes up to 2.14 know.
    """
    return _rewritten(content, _unpack)


def separate_biases(content: bytes) -> bytes:
    """An int16x8 file in which each weighted operation has a bias of its own, in units of its own scales.

    Where several operations share one (a shared layer, the steps of a recurrent one), the quantizer stores it once, in
    the unit of the first, and the others add a wrong number.
    """
    return _rewritten(content, _separate)


def _rewritten(content: bytes, change: Change) -> bytes:
    """The file after `change` (schema, model, subgraph) -> whether it did anything; the same bytes where it did not."""
    model = as_objects(content)
    changed = [change(schema_classes(), model, subgraph) for subgraph in model.subgraphs]
    return file_bytes(model) if any(changed) else content


def _operators(schema: Generated, model: Generated, subgraph: Generated, *kinds: str) -> list[Generated]:
    codes = {getattr(schema.BuiltinOperator, kind) for kind in kinds}
    used = [operator_number(code) for code in model.operatorCodes]
    return [op for op in subgraph.operators if used[op.opcodeIndex] in codes]


def _unpack(schema: Generated, model: Generated, subgraph: Generated) -> bool:
    unpacked: dict[int, int] = {}  # packed kernel -> unpacked one
    for op in _operators(schema, model, subgraph, "TRANSPOSE_CONV"):
        kernel = int(op.inputs[1])
        tensors = subgraph.tensors
        floats = tensors[op.inputs[2]].type == schema.TensorType.FLOAT32
        if not floats or tensors[kernel].type != schema.TensorType.INT8:
            continue
        if kernel not in unpacked:
            unpacked[kernel] = _add_unpacked(schema, model, subgraph, kernel)
        op.inputs = np.array([unpacked[kernel] if i == 1 else n for i, n in enumerate(op.inputs)], np.int32)
        op.opcodeIndex = operator_code(model, "TRANSPOSE_CONV", 3 if len(op.inputs) > 3 else 1)
    return bool(unpacked)


def _add_unpacked(schema: Generated, model: Generated, subgraph: Generated, kernel: int) -> int:
    """Put a DEQUANTIZE of a constant at the start of the subgraph; the tensor that it writes."""
    packed = subgraph.tensors[kernel]
    tensor = schema.TensorT()
    tensor.name, tensor.shape = packed.name + b"/unpacked", packed.shape
    tensor.type, tensor.buffer = schema.TensorType.FLOAT32, 0
    subgraph.tensors.append(tensor)
    made = len(subgraph.tensors) - 1
    op = schema.OperatorT()
    several = packed.quantization.scale is not None and len(packed.quantization.scale) > 1
    op.opcodeIndex = operator_code(model, "DEQUANTIZE", 5 if several else 2)
    op.inputs, op.outputs = np.array([kernel], np.int32), np.array([made], np.int32)
    subgraph.operators.insert(0, op)
    return made


def _separate(schema: Generated, model: Generated, subgraph: Generated) -> bool:
    changed = False
    for op in _operators(schema, model, subgraph, "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        if len(op.inputs) < 3 or op.inputs[2] < 0:
            continue
        before, kernel, bias = (int(n) for n in op.inputs[:3])
        tensors = subgraph.tensors
        unit = _scale(tensors[before]) * _scale(tensors[kernel])
        stored = _scale(tensors[bias])
        if not len(stored) or len(unit) != len(stored) or np.allclose(unit, stored, rtol=1e-6, atol=0.0):
            continue
        values = np.asarray(model.buffers[tensors[bias].buffer].data, np.uint8).view("<i8")
        op.inputs = np.array(
            [*op.inputs[:2], _add_bias(schema, model, subgraph, bias, values, stored / unit)], np.int32
        )
        changed = True
    return changed


def _scale(tensor: Generated) -> np.ndarray:
    """Scales, float64 [1] or [channels]; empty for a tensor that is not quantized."""
    quantization = tensor.quantization
    scales = quantization.scale if quantization is not None else None
    return np.asarray([] if scales is None else scales, np.float64)


def _add_bias(
    schema: Generated, model: Generated, subgraph: Generated, bias: int, values: np.ndarray, factor: np.ndarray
) -> int:
    """A copy of a bias in a unit that is 1 / `factor` of the old one; its tensor."""
    buffer = schema.BufferT()
    buffer.data = np.rint(values * factor).astype("<i8").view(np.uint8)
    model.buffers.append(buffer)
    tensor = copy.deepcopy(subgraph.tensors[bias])
    tensor.buffer = len(model.buffers) - 1
    tensor.quantization.scale = (_scale(tensor) / factor).astype(np.float32)
    subgraph.tensors.append(tensor)
    return len(subgraph.tensors) - 1
