"""Repair an int8 .tflite file that some runtimes refuse to load.

Where an activation never left zero on the calibration set (a dead ReLU), the quantizer gives it a scale near zero. The
operation before it then needs a requantization factor (input scale * weight scale / output scale) in the hundreds, and
XNNPACK, the default of LiteRT, refuses factors from 256 on: the file that ran in the converter's own interpreter does
not load on the phone. The values concerned are zero either way, so a wider scale changes nothing but the refusal.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from edgeprune.converters.types import Generated

__all__ = ["widen_degenerate_scales"]

# XNNPACK src/operators/convolution-nhwc.c: "requantization scale is greater or equal to 256.0".
REFUSED_FACTOR = 256.0
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Consumers whose own output scale does not have to equal their input's.
INDEPENDENT = (*WEIGHTED, "ADD", "HARD_SWISH", "LOGISTIC", "MEAN", "MUL", "SOFTMAX", "SUB", "TANH")


def widen_degenerate_scales(content: bytes) -> tuple[bytes, int]:
    """(The file, with such scales widened; how many were). What cannot be widened safely is left as it is.

    The new scale makes the largest factor 1. Biases of the consumers, which are stored in units of input scale * weight
    scale, are expressed in the new unit.
    """
    import tflite

    buffer = bytearray(content)
    model: Generated = tflite.Model.GetRootAs(buffer, 0)
    widened = sum(_widen_subgraph(tflite, model, model.Subgraphs(n)) for n in range(model.SubgraphsLength()))
    return bytes(buffer), widened


def _widen_subgraph(tflite: Generated, model: Generated, subgraph: Generated) -> int:
    kinds = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}
    ops = [subgraph.Operators(n) for n in range(subgraph.OperatorsLength())]
    kind_of = [kinds.get(_builtin_code(model.OperatorCodes(op.OpcodeIndex())), "") for op in ops]
    uses = Counter(int(index) for op in ops for index in op.InputsAsNumpy())
    buffers = Counter(subgraph.Tensors(n).Buffer() for n in range(subgraph.TensorsLength()))
    outputs = {int(index) for index in subgraph.OutputsAsNumpy()}
    widened = 0
    for op, kind in zip(ops, kind_of, strict=True):
        if kind not in WEIGHTED:
            continue
        made = int(op.OutputsAsNumpy()[0])
        scale = _scales(subgraph, made)
        before, weights = (_scales(subgraph, int(op.InputsAsNumpy()[n])) for n in (0, 1))
        if scale is None or before is None or weights is None:
            continue
        needed = float(before[0] * weights.max())
        if needed < REFUSED_FACTOR * scale[0] or made in outputs:
            continue
        readers = [(o, k) for o, k in zip(ops, kind_of, strict=True) if made in o.InputsAsNumpy()]
        if not all(k in INDEPENDENT for _, k in readers):
            continue
        biases = [_bias(subgraph, o) for o, k in readers if k in WEIGHTED and int(o.InputsAsNumpy()[0]) == made]
        if any(b is not None and (uses[b] > 1 or buffers[subgraph.Tensors(b).Buffer()] > 1) for b in biases):
            continue
        for bias in biases:
            if bias is not None:
                _rescale_bias(model, subgraph, bias, needed / float(scale[0]))
        scale[0] = needed
        widened += 1
    return widened


def _builtin_code(code: Generated) -> int:
    return int(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))


def _scales(subgraph: Generated, index: int) -> np.ndarray | None:
    """The scales of a tensor, float32 [1] or [channels], a view that writes through; None when not quantized."""
    if index < 0:
        return None
    quantization = subgraph.Tensors(index).Quantization()
    return quantization.ScaleAsNumpy() if quantization is not None and quantization.ScaleLength() else None


def _bias(subgraph: Generated, op: Generated) -> int | None:
    inputs = op.InputsAsNumpy()
    has = len(inputs) > 2 and inputs[2] >= 0 and _scales(subgraph, int(inputs[2])) is not None
    return int(inputs[2]) if has else None


def _rescale_bias(model: Generated, subgraph: Generated, index: int, factor: float) -> None:
    stored = model.Buffers(subgraph.Tensors(index).Buffer()).DataAsNumpy().view("<i4")
    stored[:] = np.rint(stored / factor).astype(np.int32)
    scales = _scales(subgraph, index)
    assert scales is not None
    scales[:] = scales * factor
