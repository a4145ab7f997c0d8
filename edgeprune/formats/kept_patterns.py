"""How the weights of a file keep N:M: groups of M consecutive inputs of one output that have more than N non-zeros.

Counted as the file computes: an integer is zero where it equals its zero point, -0.0 is a zero. Layouts:
tensorflow/lite/schema/schema.fbs with the kernels' own conventions, github.com/onnx/onnx docs/Operators.md,
coremltools' MIL operations, Keras' layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeprune.formats.contents import Contents, Layer, Piece, StoredArray
from edgeprune.formats.elements import PACKED_BITS, Shape, dense_values, element_bits
from edgeprune.formats.pattern import Pattern
from edgeprune.formats.weights import Role

if TYPE_CHECKING:
    from edgeprune.formats.coreml.mil import Operation

__all__ = ["KeptPattern", "kept_patterns"]

Mask = npt.NDArray[np.bool_]

_DEPTHWISE = "depthwise: each output has one input channel"
_SINGLE = "each output has one input channel: depthwise, or the model has one"
_NO_AXIS = "which axis its inputs are on is not known"
_TABLE = "an embedding table, no kernel"
_TABLES = frozenset({"EMBEDDING_LOOKUP", "GATHER", "Gather", "gather", "Embedding", "embedding", "embeddingND"})
_ONNX_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "DeformConv", "QLinearConv"})
_ONNX_PRODUCTS = frozenset({"Gemm", "MatMul", "MatMulInteger", "QGemm", "QLinearMatMul"})
_ONNX_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_TFLITE_LAST = frozenset({"CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "LSTM", "RNN"})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPattern:
    """A weight array, and how a pattern is kept along the inputs of one output.

    `inputs` and `outputs` are the sizes of these axes (of a grouped convolution, the inputs of one group), 0 where they
    are not known. `groups` of M inputs were counted, `violations` of them have more than N non-zeros. Where nothing was
    counted, `skipped` says why and `groups` is 0. `layer` and `kind` are those of the layer that is the first to use
    the array.
    """

    layer: str
    kind: str
    array: str
    shape: Shape
    inputs: int = 0
    outputs: int = 0
    groups: int = 0
    violations: int = 0
    skipped: str = ""

    @property
    def kept(self) -> bool | None:
        """Whether every group keeps the pattern; None where nothing was counted."""
        return self.violations == 0 if self.groups else None


def kept_patterns(contents: Contents, pattern: Pattern) -> tuple[KeptPattern, ...]:
    """Each weight array of a file, in order of use, each once. Raises InputError for a constant that is broken."""
    decoder = _DECODERS.get(contents.format, _Plain)(contents)
    found = []
    for layer in contents.layers:
        found += [_kept(decoder, layer, array, pattern) for array in layer.arrays if array.role is Role.WEIGHT]
    return tuple(found)


def _kept(decoder: _Plain, layer: Layer, array: StoredArray, pattern: Pattern) -> KeptPattern:
    told: dict[str, Any] = {"layer": layer.name, "kind": layer.kind, "array": array.name, "shape": array.shape}
    if layer.kind in _TABLES:
        return KeptPattern(**told, skipped=_TABLE)
    if "depthwise" in layer.kind.lower() or array.name.endswith("depthwise_kernel"):
        return KeptPattern(**told, skipped=_DEPTHWISE)
    axes = decoder.axes(layer, array)
    if axes is None:
        return KeptPattern(**told, skipped=_NO_AXIS)
    told |= {"inputs": array.shape[axes[0]], "outputs": array.shape[axes[1]]}
    if told["inputs"] == 1 and len(array.shape) > 2:
        return KeptPattern(**told, skipped=_SINGLE)
    if not math.prod(array.shape) or told["inputs"] % pattern.m:
        return KeptPattern(**told, skipped=f"{told['inputs']} inputs are no multiple of {pattern.m}")
    nonzero = decoder.nonzero(array)
    if isinstance(nonzero, str):
        return KeptPattern(**told, skipped=nonzero)
    violations = pattern.violations(np.moveaxis(nonzero, axes, (-2, -1)))
    return KeptPattern(**told, groups=nonzero.size // pattern.m, violations=violations)


class _Plain:
    """Arrays that are stored as they are; the axes of compiled Core ML models and neural networks."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents

    def axes(self, layer: Layer, array: StoredArray) -> tuple[int, int] | None:
        """The places of inputs and outputs in the array's shape, None where they are not known."""
        rank = len(array.shape)
        place = {"conv": 1, "conv_transpose": 0, "linear": 1, "innerProduct": 1}.get(layer.kind)
        return None if place is None or rank < 2 else (place, 1 - place)

    def nonzero(self, array: StoredArray) -> Mask | str:
        """bool, the shape of the array: what is not zero; or why that is not known."""
        whole = next((piece for piece in array.pieces if piece.shape == array.shape), None)
        if whole is None or array.precision.startswith(("sparse", "palette")):
            return f"stored {array.precision}, which is not decoded here"
        if array.zeros is None:
            return "its zeros are not known"
        for points in (*self.zero_points(array), np.zeros(1, np.int8)):
            mask = _nonzero(whole, points)
            # The reader counted with the zero points of the file: only the same count is the same zero.
            if mask is not None and mask.size - np.count_nonzero(mask) == array.zeros:
                return mask
        return "its zero points are not stored with it"

    def zero_points(self, array: StoredArray) -> Iterator[npt.NDArray[Any]]:
        """What may be its zero points: one integer, or one for each output."""
        first = array.pieces[0]
        for piece in array.pieces[1:]:
            if piece.dtype == first.dtype and len(piece.shape) < 2:
                yield dense_values(piece.raw, piece.dtype, max(1, math.prod(piece.shape)))


def _nonzero(piece: Piece, points: npt.NDArray[Any]) -> Mask | None:
    """bool, the shape of a piece: floats that have any bit but the sign, integers other than their zero point."""
    elements, axis = math.prod(piece.shape), piece.axis or 0
    if piece.dtype.startswith(("float", "bfloat")) and piece.dtype not in PACKED_BITS:
        bits = element_bits(piece.dtype)
        words = piece.raw.view(f"<u{bits // 8}")[:elements]
        mask: Mask = (words & words.dtype.type((1 << (bits - 1)) - 1)) != 0
        return mask.reshape(piece.shape)
    if not piece.dtype.startswith(("int", "uint")) or len(points) not in (1, piece.shape[axis]):
        return None
    column = points.reshape([len(points) if place == axis else 1 for place in range(len(piece.shape))])
    other: Mask = dense_values(piece.raw, piece.dtype, elements).reshape(piece.shape) != column
    return other


class _TFLite(_Plain):
    """Kernels have their inputs last: CONV_2D and TRANSPOSE_CONV (out, h, w, in), FULLY_CONNECTED (out, in)."""

    def __init__(self, contents: Contents) -> None:
        super().__init__(contents)
        graph = contents.graph
        known = graph.options.quantization.items() if graph is not None else ()
        tensors = graph.tensors if graph is not None else ()
        self.points = {(tensors[at].name, tensors[at].shape): told.zero_point for at, told in known}

    def axes(self, layer: Layer, array: StoredArray) -> tuple[int, int] | None:
        rank = len(array.shape)
        if layer.kind == "CONV_3D" and rank == 5:
            return 3, 4
        known = layer.kind in _TFLITE_LAST or layer.kind.startswith(("UNIDIRECTIONAL_", "BIDIRECTIONAL_"))
        return (rank - 1, 0) if known and rank > 1 else None

    def zero_points(self, array: StoredArray) -> Iterator[npt.NDArray[Any]]:
        if (array.name, array.shape) in self.points:
            yield np.array([self.points[array.name, array.shape]])


class _Onnx(_Plain):
    """Conv (out, in, ..), ConvTranspose (in, out, ..), products (.., in, out) or where transposed (.., out, in)."""

    def axes(self, layer: Layer, array: StoredArray) -> tuple[int, int] | None:
        rank = len(array.shape)
        out = next((piece.axis for piece in array.pieces if piece.shape == array.shape), None)
        if out is None or rank < 2:
            return None
        if layer.kind in _ONNX_CONVOLUTIONS:
            return 1, 0
        if layer.kind == "ConvTranspose":
            return 0, 1
        if layer.kind in _ONNX_RECURRENT and rank == 3:
            return 2, 1
        return (2 * rank - 3 - out, out) if layer.kind in _ONNX_PRODUCTS and out >= rank - 2 else None


class _Keras(_Plain):
    """Kernels (.., in, out), those of transposed convolutions (.., out, in)."""

    def axes(self, layer: Layer, array: StoredArray) -> tuple[int, int] | None:
        rank, kind = len(array.shape), layer.kind.lower().replace("_", "")
        out = array.pieces[0].axis if array.pieces else None
        plain = kind.startswith(("conv", "separableconv", "bidirectional")) or kind in ("dense", "lstm", "gru", "")
        if out is None or rank < 2 or not (plain or kind == "simplernn"):
            return None
        return 2 * rank - 3 - out, out


class _Program(_Plain):
    """A Core ML program: its constants are decoded, compressed ones too."""

    def __init__(self, contents: Contents) -> None:
        super().__init__(contents)
        self.package = contents.package
        self.made: Mapping[str, Any] | None = None
        self.makers: dict[str, Operation] = {}
        pending = [self.package.program] if self.package and self.package.program else []
        while pending:
            for operation in pending.pop().operations:
                pending += operation.blocks
                self.makers.update((port.name, operation) for port in operation.outputs)

    def axes(self, layer: Layer, array: StoredArray) -> tuple[int, int] | None:
        rank = len(array.shape)
        if layer.kind in ("lstm", "gru", "rnn") and rank == 2:
            return 1, 0
        return self.product_axes(layer, array) if layer.kind == "matmul" else super().axes(layer, array)

    def product_axes(self, layer: Layer, array: StoredArray) -> tuple[int, int] | None:
        """Of matmul: x is (.., out, in), y is (.., in, out), each the other way round where transposed."""
        rank, operation = len(array.shape), self.makers.get(layer.name)
        if operation is None or rank < 2:
            return None
        names = {name: (*operation.inputs.get(name, ()), f"{layer.name}.{name}") for name in ("x", "y")}
        parameter = next((name for name, known in names.items() if array.name in known), None)
        if parameter is None:
            return None
        last = (parameter == "x") is not bool(self.value(operation, f"transpose_{parameter}"))
        return (rank - 1, rank - 2) if last else (rank - 2, rank - 1)

    def value(self, operation: Operation, parameter: str) -> Any:
        """A parameter that is a constant; None where it is absent."""
        for binding in operation.inputs.get(parameter, ())[:1]:
            return self.constants().get(binding) if isinstance(binding, str) else binding.array()
        return None

    def constants(self) -> Mapping[str, Any]:
        """The constants of the main function, decoded once."""
        from edgeprune.formats.coreml.storage import constants_of

        if self.made is None:
            self.made = constants_of(self.package) if self.package else {}
        return self.made

    def nonzero(self, array: StoredArray) -> Mask | str:
        found = self.constants().get(array.name)
        if not isinstance(found, np.ndarray) or found.shape != array.shape:
            return super().nonzero(array)
        mask: Mask = found != 0
        return mask


_DECODERS: Mapping[str, Callable[[Contents], _Plain]] = {
    "h5": _Keras,
    "keras": _Keras,
    "mlmodel": _Program,
    "mlpackage": _Program,
    "onnx": _Onnx,
    "tflite": _TFLite,
}
