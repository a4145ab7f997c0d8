"""What a .tflite file says of its operations beyond tensors: strides, padding, activations, open sizes, sparse storage.

Layout: tensorflow/lite/schema/schema.fbs, version 3. Read once the graph has been held against the file's own size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeprune.formats.graph import FileOptions, Window
from edgeprune.formats.tflite.attributes import attributes_of, tensor_facts
from edgeprune.formats.tflite.schema import schema

__all__ = ["read_options"]

_MAX_RANK = 32  # as in flatbuffer.py
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_PADDINGS = {schema.Padding.SAME: "SAME", schema.Padding.VALID: "VALID"}


def read_options(model: Any, kinds: Sequence[str]) -> FileOptions:
    """The options in a flatbuffer; `kinds` are the operations of its first subgraph. Raises what the schema does."""
    subgraph, tensors, attributes = model.Subgraphs(0), tensor_facts(model), attributes_of(model, kinds)
    return FileOptions(
        windows={n: w for n, kind in enumerate(kinds) if (w := _window(kind, attributes[n])) is not None},
        open_inputs={n: shape for n in _inputs(subgraph) if min((shape := _signature(subgraph, n))[1:], default=0) < 0},
        sparse=frozenset(n for n in range(subgraph.TensorsLength()) if subgraph.Tensors(n).Sparsity() is not None),
        paddings={
            n: p for n, kind in enumerate(kinds) if kind == "PAD" and (p := _padding(model, subgraph, n)) is not None
        },
        attributes=attributes,
        quantization=tensors.quantization,
        integers=tensors.integers,
        open_axes=tensors.open_axes,
    )


def _inputs(subgraph: Any) -> list[int]:
    return [int(index) for index in subgraph.InputsAsNumpy()] if subgraph.InputsLength() else []


def _signature(subgraph: Any, index: int) -> tuple[int, ...]:
    """The shape as it was declared, -1 for an open size; () when the file only has the fixed one."""
    tensor = subgraph.Tensors(index)
    sized = 0 < tensor.ShapeSignatureLength() <= _MAX_RANK
    return tuple(int(size) for size in tensor.ShapeSignatureAsNumpy()) if sized else ()


def _window(kind: str, attributes: Mapping[str, int]) -> Window | None:
    if kind not in _CONVOLUTIONS or "stride_h" not in attributes:
        return None
    return Window(
        stride=(attributes["stride_h"], attributes["stride_w"]),
        dilation=(attributes["dilation_h"], attributes["dilation_w"]),
        padding=_PADDINGS.get(attributes["padding"], "unknown"),
        multiplier=attributes.get("depth_multiplier", 1),
    )


def _padding(model: Any, subgraph: Any, position: int) -> tuple[tuple[int, int], ...] | None:
    operator = subgraph.Operators(position)
    if operator.InputsLength() < 2:
        return None
    tensor = subgraph.Tensors(operator.Inputs(1))
    buffer = model.Buffers(tensor.Buffer())
    if tensor.Type() != schema.TensorType.INT32 or not 0 < buffer.DataLength() <= 1024 or buffer.DataLength() % 8:
        return None
    values = buffer.DataAsNumpy().view("<i4").reshape(-1, 2)
    return tuple((int(before), int(after)) for before, after in values)
