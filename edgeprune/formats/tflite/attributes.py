"""What decides where an operation of a .tflite file can run: its version and options, scales, small constants.

Layout: tensorflow/lite/schema/schema.fbs, version 3. An option is read by its place in its operation's table, so that
one table here serves them all. Only the first subgraph is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers.number_types as numbers
from flatbuffers.table import Table

from edgeprune.formats.graph import Quantization

__all__ = ["TensorFacts", "attributes_of", "tensor_facts"]

_MOST_INTEGERS = 16  # axes, strides, paddings and sizes are shorter
_MAX_RANK = 32  # as in flatbuffer.py
_INT32, _INT64 = 2, 4  # TensorType
_INTS, _BYTES, _BOOLS = numbers.Int32Flags, numbers.Int8Flags, numbers.BoolFlags
_ACTIVATION: Mapping[str, tuple[int, Any]] = {"activation": (0, _BYTES)}
_POOL: Mapping[str, tuple[int, Any]] = {
    "padding": (0, _BYTES),
    "stride_w": (1, _INTS),
    "stride_h": (2, _INTS),
    "filter_w": (3, _INTS),
    "filter_h": (4, _INTS),
    "activation": (5, _BYTES),
}
# Operation -> the number of its options (BuiltinOptions), and the place and type of each.
_OPTIONS: Mapping[str, tuple[int, Mapping[str, tuple[int, Any]]]] = {
    "ADD": (11, _ACTIVATION),
    "AVERAGE_POOL_2D": (5, _POOL),
    "CONCATENATION": (10, {"axis": (0, _INTS), "activation": (1, _BYTES)}),
    "CONV_2D": (
        1,
        {
            "padding": (0, _BYTES),
            "stride_w": (1, _INTS),
            "stride_h": (2, _INTS),
            "activation": (3, _BYTES),
            "dilation_w": (4, _INTS),
            "dilation_h": (5, _INTS),
        },
    ),
    "DEPTHWISE_CONV_2D": (
        2,
        {
            "padding": (0, _BYTES),
            "stride_w": (1, _INTS),
            "stride_h": (2, _INTS),
            "depth_multiplier": (3, _INTS),
            "activation": (4, _BYTES),
            "dilation_w": (5, _INTS),
            "dilation_h": (6, _INTS),
        },
    ),
    "FULLY_CONNECTED": (8, {"activation": (0, _BYTES), "weights_format": (1, _BYTES), "keep_num_dims": (2, _BOOLS)}),
    "L2_NORMALIZATION": (12, _ACTIVATION),
    "MAX_POOL_2D": (5, _POOL),
    "MIRROR_PAD": (77, {"mode": (0, _BYTES)}),
    "MUL": (21, _ACTIVATION),
    "PACK": (59, {"values": (0, _INTS), "axis": (1, _INTS)}),
    "RESIZE_BILINEAR": (15, {"align_corners": (2, _BOOLS), "half_pixel_centers": (3, _BOOLS)}),
    "RESIZE_NEAREST_NEIGHBOR": (74, {"align_corners": (0, _BOOLS), "half_pixel_centers": (1, _BOOLS)}),
    "SPLIT": (35, {"splits": (0, _INTS)}),
    "SPLIT_V": (79, {"splits": (0, _INTS)}),
    "STRIDED_SLICE": (32, {"ellipsis_mask": (2, _INTS), "new_axis_mask": (3, _INTS), "shrink_axis_mask": (4, _INTS)}),
    "SUB": (28, _ACTIVATION),
    "TRANSPOSE_CONV": (
        49,
        {"padding": (0, _BYTES), "stride_w": (1, _INTS), "stride_h": (2, _INTS), "activation": (3, _BYTES)},
    ),
}
_DEFAULTS = {"dilation_w": 1, "dilation_h": 1}  # schema.fbs; all others are 0 where the file leaves them out


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """Of the tensors of the first subgraph, by position: see `FileOptions`."""

    quantization: dict[int, Quantization]
    integers: dict[int, tuple[int, ...]]
    open_axes: dict[int, tuple[int, ...]]


def attributes_of(model: Any, kinds: Sequence[str]) -> dict[int, dict[str, int]]:
    """Version and options by position; an operation of another kind, or without its options, has its version only."""
    subgraph = model.Subgraphs(0)
    found = {}
    for number, kind in enumerate(kinds):
        operator = subgraph.Operators(number)
        facts = {"version": int(model.OperatorCodes(operator.OpcodeIndex()).Version())}
        union, fields = _OPTIONS.get(kind, (0, {}))
        if fields and operator.BuiltinOptionsType() == union:
            facts |= _fields(operator.BuiltinOptions(), fields)
        found[number] = facts
    return found


def _fields(options: Table, fields: Mapping[str, tuple[int, Any]]) -> dict[str, int]:
    table = Table(options.Bytes, options.Pos)
    found = {}
    for name, (slot, kind) in fields.items():
        offset = table.Offset(4 + 2 * slot)
        found[name] = int(table.Get(kind, offset + table.Pos)) if offset else _DEFAULTS.get(name, 0)
    return found


def tensor_facts(model: Any) -> TensorFacts:
    """What the tensors say; one pass, since each access to a flatbuffer costs."""
    subgraph = model.Subgraphs(0)
    facts = TensorFacts(quantization={}, integers={}, open_axes={})
    for number in range(subgraph.TensorsLength()):
        tensor = subgraph.Tensors(number)
        table = tensor.Quantization()
        if table is not None and (scales := table.ScaleLength()):
            point = int(table.ZeroPoint(0)) if table.ZeroPointLength() else 0
            facts.quantization[number] = Quantization(scale=float(table.Scale(0)), zero_point=point, scales=scales)
        width = {_INT32: 4, _INT64: 8}.get(tensor.Type())
        if width is not None:
            facts.integers.update(_integers(model, number, tensor, width))
        if 0 < tensor.ShapeSignatureLength() <= _MAX_RANK:
            sizes = tensor.ShapeSignatureAsNumpy().tolist()
            if min(sizes) < 0:
                facts.open_axes[number] = tuple(axis for axis, size in enumerate(sizes) if size < 0)
    return facts


def _integers(model: Any, number: int, tensor: Any, width: int) -> dict[int, tuple[int, ...]]:
    """The values of a short constant under its number; nothing for a long one or none."""
    if not 0 < tensor.Buffer() < model.BuffersLength() or tensor.IsVariable():
        return {}
    buffer = model.Buffers(tensor.Buffer())
    length = buffer.DataLength()
    if not 0 < length <= _MOST_INTEGERS * width or length % width:
        return {}
    return {number: tuple(int(value) for value in buffer.DataAsNumpy().view(f"<i{width}"))}
