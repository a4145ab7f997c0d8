"""A model file as the checker sees it: tensors, operations, their MACs and their zeros.

MACs are dense ones: a multiplication by a stored zero counts, because interpreters carry it out. A zero of a
quantized tensor is an element equal to its zero point; in floating point -0.0 is a zero like +0.0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.formats.elements import Shape
from edgeprune.formats.weights import Role, Uses

__all__ = [
    "FileOptions",
    "Graph",
    "Op",
    "Quantization",
    "Signature",
    "Tensor",
    "Window",
    "count_macs",
    "unpacked_from",
]

_FLOATS = frozenset({"bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"})
_QUANTIZED = frozenset({"int16", "int2", "int4", "int8", "uint4", "uint8"})

# float16 and sparse files put these between a stored constant and the operation that consumes it.
_TRANSPARENT = frozenset({"DENSIFY", "DEQUANTIZE"})

# Inputs 1..8 of an LSTM multiply the input and the recurrent state, 16 is the projection; a bidirectional
# one repeats the layout after input 17.
_LSTM = (*range(1, 9), 16)
_BIDIRECTIONAL_LSTM = (*range(1, 9), 16, *range(18, 26), 33)
_WEIGHT_INPUTS: Mapping[str, tuple[int, ...]] = {
    "BATCH_MATMUL": (0, 1),
    "BIDIRECTIONAL_SEQUENCE_LSTM": _BIDIRECTIONAL_LSTM,
    "CONV_2D": (1,),
    "CONV_3D": (1,),
    "CONV_3D_TRANSPOSE": (1,),
    "DEPTHWISE_CONV_2D": (1,),
    "EMBEDDING_LOOKUP": (1,),
    "FULLY_CONNECTED": (1,),
    "GATHER": (0,),
    "LSTM": _LSTM,
    "RNN": (1, 2),
    "SVDF": (1, 2),
    "TRANSPOSE_CONV": (1,),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _LSTM,
    "UNIDIRECTIONAL_SEQUENCE_RNN": (1, 2),
}
_BIAS_INPUTS: Mapping[str, tuple[int, ...]] = {
    "BIDIRECTIONAL_SEQUENCE_LSTM": (*range(9, 16), 17, *range(26, 33), 34),
    "CONV_2D": (2,),
    "CONV_3D": (2,),
    "CONV_3D_TRANSPOSE": (3,),
    "DEPTHWISE_CONV_2D": (2,),
    "FULLY_CONNECTED": (2,),
    "LSTM": (*range(9, 16), 17, *range(20, 24)),
    "RNN": (3,),
    "SVDF": (3,),
    "TRANSPOSE_CONV": (3,),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (*range(9, 16), 17, *range(20, 24)),
    "UNIDIRECTIONAL_SEQUENCE_RNN": (3,),
}
# A bias split off its layer, a batch normalization left unfolded, a learned slope.
_ELEMENTWISE = frozenset({"ADD", "DIV", "MUL", "PRELU", "SUB"})
_USES = Uses(weights=_WEIGHT_INPUTS, biases=_BIAS_INPUTS, elementwise=_ELEMENTWISE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor of a graph. `shape` is the dense one, as in the file (a free dimension reads 1).

    `raw_bytes` is what its values take in the file (0 when it is not a constant; the indices of a sparse tensor
    are not in it), `zeros` the elements equal to zero (None when it is not a constant). Tensors with the same
    `buffer` share their bytes; buffer 0 is nobody's.
    """

    name: str
    shape: Shape
    dtype: str
    constant: bool
    raw_bytes: int
    elements: int
    zeros: int | None
    buffer: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """An operation: `kind` as the schema spells it (CONV_2D), or the own name of a custom one.

    `inputs` and `outputs` are positions in `Graph.tensors`, -1 for an optional input that is absent. `macs` is for
    one invocation with the batch size of the file, 0 for anything that multiplies no weights with activations.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    macs: int
    subgraph: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A named entry point and the names of its inputs and outputs; `input_tensors` and `output_tensors` are their
    positions in the subgraph."""

    name: str
    subgraph: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_tensors: tuple[int, ...] = ()
    output_tensors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a convolution moves: (vertical, horizontal) pairs, padding SAME or VALID, and the depth multiplier."""

    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: str
    multiplier: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """What the integers of a tensor mean: (integer - `zero_point`) * `scale`; the first of `scales`, one an axis's
    element where there are several."""

    scale: float
    zero_point: int
    scales: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """Options of the first subgraph, by position of the operation or tensor in it.

    `open_inputs` are the declared shapes of inputs with an open size (-1) behind the batch, `sparse` the tensors stored
    with their sparsity, `paddings` the constant paddings of PAD operations, (before, after) for each axis. `attributes`
    are the version and the numeric options of operations; `quantization`, `integers` (short constants) and `open_axes`
    (declared open, the batch included) go by tensor.
    """

    windows: Mapping[int, Window] = field(default_factory=dict)
    open_inputs: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    sparse: frozenset[int] = frozenset()
    paddings: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    attributes: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    quantization: Mapping[int, Quantization] = field(default_factory=dict)
    integers: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    open_axes: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A model file read back.

    `tensors` and `ops` hold every subgraph in order; `inputs`, `outputs` and `options` are the first one's.
    """

    path: Path
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    signatures: tuple[Signature, ...]
    options: FileOptions = field(default_factory=FileOptions)

    @property
    def macs(self) -> int | None:
        """Dense MACs of one invocation of the first subgraph; None where its inputs have open sizes.

        Subgraphs that no signature names (loop bodies, branches) count once each: how often a loop runs is not
        in the file. Subgraphs that another signature names are other entry points and do not count.
        """
        if self.options.open_inputs:
            return None
        elsewhere = {signature.subgraph for signature in self.signatures} - {0}
        return sum(op.macs for op in self.ops if op.subgraph not in elsewhere)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Kernels, matrices and embedding tables that operations consume, shared bytes once, in order of use."""
        return self._constants(Role.WEIGHT)

    @property
    def weight_elements(self) -> int:
        """Elements of `weights`."""
        return sum(tensor.elements for tensor in self.weights)

    @property
    def weight_zeros(self) -> int:
        """Zeros among the elements of `weights`."""
        return sum(tensor.zeros or 0 for tensor in self.weights)

    @property
    def sparsity(self) -> float | None:
        """Fraction of the weights that are zero (biases do not count); None for a graph without weights."""
        elements = self.weight_elements
        return self.weight_zeros / elements if elements else None

    @property
    def parameters(self) -> int:
        """Elements of the weights and biases.

        Biases are the inputs an operation documents as such, and constant operands of ADD, SUB, MUL, DIV and PRELU
        that hold real numbers and more than one of them. Arrays that the converter merged because they are equal
        count once, so this can be a little less than Keras counts.
        """
        return sum(tensor.elements for tensor in self._constants(*_PARAMETERS))

    @property
    def nonzero_parameters(self) -> int:
        """Parameters that are not zero."""
        return sum(tensor.elements - (tensor.zeros or 0) for tensor in self._constants(*_PARAMETERS))

    def roles(self) -> dict[int, Role]:
        """What each stored constant is for, by the tensor through which it is first used, in order of use.

        An array of several uses is a weight where one of them makes it one, and a bias where another one does.
        """
        source = unpacked_from(self.ops)
        found: dict[tuple[str, int], tuple[int, Role]] = {}
        for op in self.ops:
            for position, place in enumerate(op.inputs if op.kind not in _TRANSPARENT else ()):
                index = source.get(place, place)
                if index < 0 or not self.tensors[index].constant:
                    continue
                buffer, role = self.tensors[index].buffer, _role(self.tensors[index], op.kind, position)
                key = ("buffer", buffer) if buffer else ("tensor", index)
                first, known = found.get(key, (index, role))
                found[key] = first, min(known, role, key=_STRONGEST)
        return dict(found.values())

    def _constants(self, *roles: Role) -> tuple[Tensor, ...]:
        """Constants with one of `roles`, each stored array once."""
        return tuple(self.tensors[index] for index, role in self.roles().items() if role in roles)


_PARAMETERS = (Role.WEIGHT, Role.BIAS)
_STRONGEST = (Role.WEIGHT, Role.BIAS, Role.STEERING).index


def _role(tensor: Tensor, kind: str, position: int) -> Role:
    """What the constant at input `position` of an operation is for.

    Shape arithmetic on int32 and int64 constants is steering; an int32 or int64 bias is a bias.
    """
    is_bias = position in _BIAS_INPUTS.get(kind, ())
    if not is_bias and position not in ((0, 1) if kind in _ELEMENTWISE else _WEIGHT_INPUTS.get(kind, ())):
        return Role.STEERING
    real = tensor.dtype in _FLOATS or tensor.dtype in _QUANTIZED
    if not is_bias and (not real or (tensor.elements <= 1 and kind in _ELEMENTWISE)):
        return Role.STEERING
    return _USES.role(kind, position, tensor.shape)


def unpacked_from(ops: Sequence[Op]) -> dict[int, int]:
    """Tensor -> the stored one that it is an unpacked copy of (through DEQUANTIZE and DENSIFY)."""
    source = {output: op.inputs[0] for op in ops if op.kind in _TRANSPARENT for output in op.outputs if op.inputs}
    return {index: _follow(index, source) for index in source}


def _follow(index: int, source: Mapping[int, int]) -> int:
    """Stops at a ring, which only a forged file has."""
    seen: set[int] = set()
    while index in source and index not in seen:
        seen.add(index)
        index = source[index]
    return index


def _recurrent(kind: str, inputs: Sequence[Shape]) -> int:
    steps = math.prod(inputs[0][:-1])
    return steps * sum(math.prod(shape) for shape in _present(inputs, _WEIGHT_INPUTS[kind]))


def _present(inputs: Sequence[Shape], positions: Sequence[int]) -> Iterator[Shape]:
    # An absent optional input has the shape (), which no matrix has.
    return (inputs[position] for position in positions if position < len(inputs) and inputs[position])


def count_macs(kind: str, inputs: Sequence[Shape], outputs: Sequence[Shape], *, adjoint_x: bool = False) -> int:
    """Dense MACs of one operation from the shapes of its inputs and outputs; 0 for kinds that are not multiplications.

    Kernel layouts are TFLite's: CONV_2D and TRANSPOSE_CONV (out, h, w, in), DEPTHWISE_CONV_2D (1, h, w, out), CONV_3D
    (d, h, w, in, out), FULLY_CONNECTED (out, in). `adjoint_x` is BATCH_MATMUL's `adj_x`. A transposed convolution
    multiplies every input element with its whole kernel, cropped outputs included. Raises IndexError when an input
    is missing or has too few dimensions.
    """
    match kind:
        case "CONV_2D":
            return math.prod(outputs[0]) * inputs[1][1] * inputs[1][2] * inputs[1][3]
        case "DEPTHWISE_CONV_2D":
            return math.prod(outputs[0]) * inputs[1][1] * inputs[1][2]
        case "FULLY_CONNECTED":
            return math.prod(outputs[0]) * inputs[1][1]
        case "BATCH_MATMUL":
            return math.prod(outputs[0]) * inputs[0][-2 if adjoint_x else -1]
        case "CONV_3D":
            return math.prod(outputs[0]) * math.prod(inputs[1][:4])
        case "TRANSPOSE_CONV":
            return math.prod(inputs[2]) * math.prod(inputs[1][:3])
        case "CONV_3D_TRANSPOSE":
            return math.prod(inputs[2]) * math.prod(inputs[1][:4])
        case "EMBEDDING_LOOKUP" | "GATHER":
            return 0
    return _recurrent(kind, inputs) if kind in _WEIGHT_INPUTS else 0
