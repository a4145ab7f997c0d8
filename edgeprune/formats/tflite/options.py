"""What a .tflite file says of its operations beyond tensors: strides, padding, activations, open sizes, sparse storage.

Layout: tensorflow/lite/schema/schema.fbs, version 3. Read after `read_tflite` has held the file against its own size.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tflite

from edgeprune.errors import InputError

__all__ = ["FileOptions", "Window", "read_options"]

_MAX_RANK = 32  # as read_tflite has it
_PADDINGS = {tflite.Padding.SAME: "SAME", tflite.Padding.VALID: "VALID"}
_WINDOWS: Mapping[str, tuple[Any, int]] = {
    "CONV_2D": (tflite.Conv2DOptions, tflite.BuiltinOptions.Conv2DOptions),
    "DEPTHWISE_CONV_2D": (tflite.DepthwiseConv2DOptions, tflite.BuiltinOptions.DepthwiseConv2DOptions),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a convolution moves: (vertical, horizontal) pairs, padding SAME or VALID, and the depth multiplier."""

    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: str
    multiplier: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """Options of the first subgraph, by position of the operation or tensor in it.

    `open_inputs` are the declared shapes of inputs with an open size (-1) behind the batch, `sparse` the tensors stored
    with their sparsity, `paddings` the constant paddings of PAD operations, (before, after) for each axis.
    """

    windows: Mapping[int, Window] = field(default_factory=dict)
    open_inputs: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    sparse: frozenset[int] = frozenset()
    paddings: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)


def read_options(path: Path, kinds: list[str]) -> FileOptions:
    """The options in the file at `path`; `kinds` are the operations of its first subgraph, as `read_tflite` read them.

    Raises InputError for an offset that points outside the file.
    """
    try:
        model = tflite.Model.GetRootAs(path.read_bytes(), 0)
        subgraph = model.Subgraphs(0)
        count = min(subgraph.TensorsLength(), 1 << 22)
        return FileOptions(
            windows={n: w for n, kind in enumerate(kinds) if (w := _window(subgraph.Operators(n), kind)) is not None},
            open_inputs={
                n: shape for n in _inputs(subgraph) if min((shape := _signature(subgraph, n))[1:], default=0) < 0
            },
            sparse=frozenset(n for n in range(count) if subgraph.Tensors(n).Sparsity() is not None),
            paddings={
                n: p
                for n, kind in enumerate(kinds)
                if kind == "PAD" and (p := _padding(model, subgraph, n)) is not None
            },
        )
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise InputError(f"{path} is a broken TFLite file: the options of an operation point outside it") from error


def _inputs(subgraph: Any) -> list[int]:
    return [int(index) for index in subgraph.InputsAsNumpy()] if subgraph.InputsLength() else []


def _signature(subgraph: Any, index: int) -> tuple[int, ...]:
    """The shape as it was declared, -1 for an open size; () when the file only has the fixed one."""
    tensor = subgraph.Tensors(index)
    sized = 0 < tensor.ShapeSignatureLength() <= _MAX_RANK
    return tuple(int(size) for size in tensor.ShapeSignatureAsNumpy()) if sized else ()


def _window(operator: Any, kind: str) -> Window | None:
    if kind not in _WINDOWS:
        return None
    make, number = _WINDOWS[kind]
    if operator.BuiltinOptionsType() != number:
        return None
    options, union = make(), operator.BuiltinOptions()
    options.Init(union.Bytes, union.Pos)
    return Window(
        stride=(options.StrideH(), options.StrideW()),
        dilation=(options.DilationHFactor(), options.DilationWFactor()),
        padding=_PADDINGS.get(options.Padding(), "unknown"),
        multiplier=options.DepthMultiplier() if kind == "DEPTHWISE_CONV_2D" else 1,
    )


def _padding(model: Any, subgraph: Any, position: int) -> tuple[tuple[int, int], ...] | None:
    operator = subgraph.Operators(position)
    if operator.InputsLength() < 2:
        return None
    tensor = subgraph.Tensors(operator.Inputs(1))
    buffer = model.Buffers(tensor.Buffer())
    if tensor.Type() != tflite.TensorType.INT32 or not 0 < buffer.DataLength() <= 1024 or buffer.DataLength() % 8:
        return None
    values = buffer.DataAsNumpy().view("<i4").reshape(-1, 2)
    return tuple((int(before), int(after)) for before, after in values)
