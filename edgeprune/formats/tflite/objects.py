"""A .tflite file as objects that can be changed, and the bytes of a changed one.

The classes are generated from the schema: TensorFlow's where it runs already or is all there is, else LiteRT's, which
load in a tenth of the time.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from edgeprune.errors import MissingExtra

__all__ = [
    "Generated",
    "as_objects",
    "can_edit",
    "constant",
    "file_bytes",
    "operator_code",
    "operator_kinds",
    "operator_number",
    "scales_of",
    "schema_classes",
    "tensor_name",
    "with_outputs",
]

_LITERT, _TENSORFLOW = "ai_edge_litert.schema_py_generated", "tensorflow.lite.python.schema_py_generated"
_ALIGNMENT = 16  # of constants, as the schema asks (schema.fbs, Buffer)
_WRITTEN_LAST = {
    "FLOAT32": 0,
    "INT32": 1,
    "INT64": 1,
    "INT8": 2,
}  # other constants between: what is alike lies together


class Generated(Protocol):
    """An object of generated code (a table of the TFLite schema, a message) or of a library without types."""

    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: Any, /) -> None: ...
    def __getitem__(self, key: Any, /) -> Any: ...


def can_edit() -> bool:
    """Whether the classes are installed, or TensorFlow runs already."""
    return "tensorflow" in sys.modules or find_spec("ai_edge_litert") is not None


@functools.cache
def schema_classes() -> Generated:
    """The module of the schema's classes. Raises MissingExtra where there is none."""
    loaded = "tensorflow" in sys.modules
    name = _TENSORFLOW if loaded or not find_spec("ai_edge_litert") else _LITERT
    if not loaded and name == _TENSORFLOW and not find_spec("tensorflow"):
        raise MissingExtra("ai-edge-litert", "litert", "rewriting a .tflite file")
    found: Generated = import_module(name)
    return found


def as_objects(content: bytes) -> Generated:
    """The model in the bytes of a .tflite file; it can be changed."""
    schema = schema_classes()
    model: Generated = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(content), 0))
    return model


def operator_kinds(model: Generated) -> list[str]:
    """The kind of each operator code, CONV_2D and so on."""
    known = {number: name for name, number in vars(schema_classes().BuiltinOperator).items() if name.isupper()}
    return [known.get(operator_number(code), "") for code in model.operatorCodes]


def operator_number(code: Generated) -> int:
    """The number of an operator code's kind: old files have it in a field of one byte (schema.fbs, OperatorCode)."""
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def operator_code(model: Generated, kind: str, version: int) -> int:
    """The position of an operator code, added where it is missing."""
    schema = schema_classes()
    number = getattr(schema.BuiltinOperator, kind)
    for index, code in enumerate(model.operatorCodes):
        if operator_number(code) == number and code.version == version:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def constant(model: Generated, tensor: Generated, dtype: str) -> np.ndarray | None:
    """The values of a constant as they are stored, in the tensor's shape; None for what is none."""
    data = model.buffers[tensor.buffer].data
    if data is None or not len(data):
        return None
    return np.asarray(data, np.uint8).view(dtype).reshape(tensor.shape if tensor.shape is not None else ())


def tensor_name(tensor: Generated) -> str:
    """The name of a tensor as text, whatever bytes it has."""
    return bytes(tensor.name or b"").decode("utf-8", "backslashreplace")


def with_outputs(model: Generated, before: Mapping[int, int]) -> bytes:
    """The file of a model, which is changed, with other tensors in place of its outputs, both by their numbers."""
    graph = model.subgraphs[0]
    graph.outputs = np.array([before[int(number)] for number in graph.outputs], np.int32)
    for signature in model.signatureDefs or ():
        for item in signature.outputs:
            item.tensorIndex = before[int(item.tensorIndex)]
    return file_bytes(model)


def scales_of(tensor: Generated) -> np.ndarray:
    """Scales, float32 [1] or [channels]; empty for a tensor that is not quantized."""
    scales = tensor.quantization.scale if tensor.quantization is not None else None
    return np.asarray([] if scales is None else scales, np.float32)


def file_bytes(model: Generated) -> bytes:
    """The .tflite file of a model.

    Constants of one type lie together, and so do scales: a codec that looks at a part of the file at a time finds one
    kind of numbers there. Vectors of zero points that are the same are stored once.
    """
    import flatbuffers

    schema = schema_classes()
    builder = flatbuffers.Builder(1 << 16)
    for buffer in _by_type(schema, model):
        buffer.Pack = _placed(schema, buffer, _vector(builder, np.asarray(buffer.data, np.uint8), _ALIGNMENT))
    tensors = [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors]
    shared: dict[tuple[str, bytes], int] = {}
    for tensor in sorted(tensors, key=lambda tensor: int(tensor.type)):
        if tensor.quantization is not None and len(scales_of(tensor)):
            _share(builder, tensor.quantization, shared)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _by_type(schema: Generated, model: Generated) -> Sequence[Generated]:
    """The buffers that hold something, in the order in which they are written: from the end of the file."""
    names = {number: name for name, number in vars(schema.TensorType).items() if name.isupper()}
    kind = {t.buffer: names.get(t.type, "") for subgraph in model.subgraphs for t in subgraph.tensors}
    held = [(n, buffer) for n, buffer in enumerate(model.buffers) if buffer.data is not None and len(buffer.data)]

    def place(item: tuple[int, Generated]) -> tuple[int, str, int]:
        name = kind.get(item[0], "")
        return _WRITTEN_LAST.get(name, 3), name, -len(item[1].data)

    return [buffer for _, buffer in sorted(held, key=place)]


def _vector(builder: Generated, data: np.ndarray, alignment: int) -> int:
    """Write a vector; its place. The generated code would align bytes to one byte, and write numbers one by one."""
    content = data.tobytes()
    builder.StartVector(data.itemsize, len(data), alignment)
    builder.head -= len(content)
    builder.Bytes[builder.head : builder.head + len(content)] = content
    return int(builder.EndVector())


def _placed(schema: Generated, buffer: Generated, place: int) -> Callable[[Generated], int]:
    """What writes a buffer whose constant is written already."""

    def pack(builder: Generated) -> int:
        schema.BufferStart(builder)
        schema.BufferAddData(builder, place)
        if getattr(buffer, "offset", 0):
            schema.BufferAddOffset(builder, buffer.offset)
            schema.BufferAddSize(builder, buffer.size)
        return int(schema.BufferEnd(builder))

    return pack


def _share(builder: Generated, quantization: Generated, shared: dict[tuple[str, bytes], int]) -> None:
    """Write scales and zero points now, unless the same ones are written already, and let the table refer to them."""
    places = {}
    for field, dtype in (("scale", "<f4"), ("zeroPoint", "<i8")):
        numbers = getattr(quantization, field)
        if numbers is not None and len(numbers):
            values = np.asarray(numbers, dtype)
            key = (field, values.tobytes())
            if key not in shared:
                shared[key] = _vector(builder, values, values.itemsize)
            places[field] = shared[key]
    quantization.Pack = _parameters(quantization, places)


def _parameters(quantization: Generated, places: dict[str, int]) -> Callable[[Generated], int]:
    schema = schema_classes()

    def pack(builder: Generated) -> int:
        low, high = (
            None if numbers is None else _vector(builder, np.asarray(numbers, "<f4"), 4)
            for numbers in (quantization.min, quantization.max)
        )
        details = quantization.details.Pack(builder) if quantization.details is not None else None
        schema.QuantizationParametersStart(builder)
        for add, place in (
            (schema.QuantizationParametersAddMin, low),
            (schema.QuantizationParametersAddMax, high),
            (schema.QuantizationParametersAddScale, places.get("scale")),
            (schema.QuantizationParametersAddZeroPoint, places.get("zeroPoint")),
            (schema.QuantizationParametersAddDetails, details),
        ):
            if place is not None:
                add(builder, place)
        schema.QuantizationParametersAddDetailsType(builder, quantization.detailsType)
        schema.QuantizationParametersAddQuantizedDimension(builder, quantization.quantizedDimension)
        return int(schema.QuantizationParametersEnd(builder))

    return pack
