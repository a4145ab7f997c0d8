"""Inputs and outputs of an ONNX model, and the set of operators that it is written in.

Format: github.com/onnx/onnx, onnx/onnx.proto3 (ValueInfoProto, OperatorSetIdProto).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.formats.contents import printable
from edgeprune.formats.onnx.tensors import DTYPES
from edgeprune.formats.protobuf import Message

__all__ = ["OnnxEnd", "OnnxEnds", "read_ends"]

_INITIALIZERS, _INPUTS, _OUTPUTS, _OPSETS = 5, 11, 12, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxEnd:
    """An input or output: its name, shape with None for a free size (None where no shape is told), element type."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxEnds:
    """The ends of a model and its opset, 0 where it names none. Inputs with a stored value of their own are none."""

    inputs: tuple[OnnxEnd, ...]
    outputs: tuple[OnnxEnd, ...]
    opset: int


def read_ends(model: Message, graph: Message) -> OnnxEnds:
    """The ends of a ModelProto and its GraphProto."""
    stored = {tensor.text(8) for tensor in graph.children(_INITIALIZERS)}
    inputs = (_end(value) for value in graph.children(_INPUTS) if value.text(1) not in stored)
    opsets = [item.signed(2) for item in model.children(_OPSETS) if item.text(1) in ("", "ai.onnx")]
    return OnnxEnds(
        inputs=tuple(inputs),
        outputs=tuple(_end(value) for value in graph.children(_OUTPUTS)),
        opset=opsets[0] if opsets else 0,
    )


def _end(value: Message) -> OnnxEnd:
    tensor = value.child(2).child(1)
    shape = None
    if tensor.has(2):
        sizes = [0 if item.has(2) else item.signed(1) for item in tensor.child(2).children(1)]
        shape = tuple(size if size > 0 else None for size in sizes)
    return OnnxEnd(name=printable(value.text(1)), shape=shape, dtype=DTYPES.get(tensor.number(1), "unknown"))
