"""What the inputs of ONNX operators are (weights, biases, quantization) and what the operators cost.

Source: github.com/onnx/onnx, docs/Operators.md, and for com.microsoft onnxruntime's docs/ContribOperators.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgeprune.formats.elements import Shape
from edgeprune.formats.weights import Role, Uses

__all__ = ["MULTIPLIERS", "QUANTIZED_INPUTS", "TRANSPARENT", "channel_axis", "count_macs", "role_of"]

# Operators whose first input, where it is a constant, comes out as the same constant in another form.
TRANSPARENT = frozenset(
    {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "DeformConv", "QLinearConv"})
_PRODUCTS = frozenset({"MatMul", "MatMulInteger", "QLinearMatMul"})
_GEMMS = frozenset({"Gemm", "QGemm"})
_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_NORMALIZATIONS = frozenset({"GroupNormalization", "InstanceNormalization", "LayerNormalization"})
# Positions of kernels and matrices, and of biases and the like.
_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvInteger": (1,),
    "ConvTranspose": (1,),
    "DeformConv": (1,),
    "GRU": (1, 2),
    "Gather": (0,),
    "Gemm": (0, 1),
    "LSTM": (1, 2),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulNBits": (1,),
    "QGemm": (0, 3),
    "QLinearConv": (3,),
    "QLinearMatMul": (0, 3),
    "RNN": (1, 2),
}
_BIASES: Mapping[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2, 3, 4),
    "Conv": (2,),
    "ConvTranspose": (2,),
    "DeformConv": (3,),
    "GRU": (3,),
    "Gemm": (2,),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (3, 7),
    "LayerNormalization": (1, 2),
    "MatMulNBits": (5,),
    "QGemm": (6,),
    "QLinearConv": (8,),
    "RNN": (3,),
}
# Operators whose constants have the size of their activations.
_ELEMENTWISE = frozenset(
    {"Add", "Clip", "Concat", "Div", "Max", "Mean", "Min", "Mod", "Mul", "PRelu", "Pow", "Sub", "Sum", "Where"}
)
_USES = Uses(weights=_WEIGHTS, biases=_BIASES, elementwise=_ELEMENTWISE)
# Operators that take constants of real numbers only to be steered.
_STEERED = frozenset({"DequantizeLinear", "Pad", "QuantizeLinear", "Resize", "Upsample"})
# (operator, position of a quantized constant) -> positions of its scale (None: it has none) and its zero point.
QUANTIZED_INPUTS: Mapping[tuple[str, int], tuple[int | None, int]] = {
    ("ConvInteger", 1): (None, 3),
    ("DequantizeLinear", 0): (1, 2),
    ("MatMulInteger", 0): (None, 2),
    ("MatMulInteger", 1): (None, 3),
    ("QGemm", 0): (1, 2),
    ("QGemm", 3): (4, 5),
    ("QLinearConv", 3): (4, 5),
    ("QLinearMatMul", 0): (1, 2),
    ("QLinearMatMul", 3): (4, 5),
}
_INPUTS: Mapping[str, tuple[int, int]] = {"QGemm": (0, 3), "QLinearConv": (0, 3), "QLinearMatMul": (0, 3)}
# Operators that multiply, whether their MACs can be counted here or not.
MULTIPLIERS = _CONVOLUTIONS | _PRODUCTS | _GEMMS | _RECURRENT | {"Attention", "ConvTranspose", "Einsum", "MatMulNBits"}
_NUMBERS = ("float", "bfloat", "int4", "int8", "int16", "uint4", "uint8", "int2", "uint2", "uint16")


def role_of(operator: str, position: int, dtype: str, shape: Shape) -> Role:
    """What the constant at `position` is for; `shape` is the dense one."""
    if position not in _BIASES.get(operator, ()):
        known = position in _WEIGHTS[operator] if operator in _WEIGHTS else operator not in _STEERED
        single = math.prod(shape) <= 1 and not _USES.knows(operator, position)
        if not known or single or not dtype.startswith(_NUMBERS):
            return Role.STEERING
    return _USES.role(operator, position, shape)


def channel_axis(operator: str, position: int, shape: Shape, *, transposed: bool) -> int | None:
    """The axis of the output channels of a constant; None where there is none. `transposed` is a Gemm's transB."""
    rank = len(shape)
    if position in _WEIGHTS.get(operator, ()) and rank > 1:
        if operator in _CONVOLUTIONS:
            return 0
        if operator == "ConvTranspose" or operator in _RECURRENT:
            return 1
        if operator in _GEMMS:
            return None if position == 0 else 0 if transposed else 1
        if operator in _PRODUCTS:
            return rank - 2 if position == 0 else rank - 1
        return 0 if operator == "MatMulNBits" else None
    if operator in _RECURRENT and rank > 1:
        return 1
    return 0 if rank == 1 and operator != "Gather" else None


def count_macs(operator: str, inputs: Sequence[Shape | None], output: Shape | None) -> int | None:
    """Dense MACs of one run; 0 for an operator that multiplies no matrices, None where a shape is not known.

    `inputs` by position. A transposed convolution multiplies every input element with its whole kernel.
    """
    if operator not in MULTIPLIERS:
        return 0
    left, right = _INPUTS.get(operator, (0, 1))
    source = inputs[left] if left < len(inputs) else None
    kernel = inputs[right] if right < len(inputs) else None
    if operator in _RECURRENT:
        return _recurrent(inputs)
    if operator == "ConvTranspose":
        return None if source is None or not kernel else math.prod(source) * math.prod(kernel[1:])
    if output is None or kernel is None:
        return None
    if operator in _CONVOLUTIONS and len(kernel) > 1:
        return math.prod(output) * math.prod(kernel[1:])
    if operator in _GEMMS and len(output) == 2 and len(kernel) == 2 and output[1]:
        return output[0] * math.prod(kernel)
    if operator in _PRODUCTS and kernel:
        return math.prod(output) * kernel[-2 if len(kernel) > 1 else 0]
    return None


def _recurrent(inputs: Sequence[Shape | None]) -> int | None:
    """Every step multiplies the input and the state with their matrices, in each direction."""
    if len(inputs) < 3:
        return None
    steps, weights, recurrent = inputs[:3]
    if steps is None or weights is None or recurrent is None or len(steps) < 2:
        return None
    return math.prod(steps[:2]) * (math.prod(weights) + math.prod(recurrent))
