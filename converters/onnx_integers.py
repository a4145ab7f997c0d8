"""Integers in an ONNX model: a QuantizeLinear and DequantizeLinear pair (Q/DQ) at each activation, int8 weights.

ONNX Runtime's own quantizer writes them. Weights have a scale for each output channel, activations one, all symmetric
(zero points of 0). Runs in the child process of `edgeprune.converters.session`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeprune.converters.frozen import FrozenGraph
from edgeprune.converters.types import Generated
from edgeprune.errors import ConversionError

__all__ = ["QUANTIZED", "with_integers"]

# What multiplies weights, and what stands between such and need not leave the integers for it. Functions and
# normalisations stay in float: a symmetric scale of 8 bits costs them most.
QUANTIZED = (
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Flatten",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "MaxPool",
    "Pad",
    "Relu",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
_BATCH = 16  # samples that calibration runs at once, where the batch is open


def with_integers(
    model: Generated, graph: FrozenGraph, calibration: Mapping[str, np.ndarray], folder: Path
) -> Generated:
    """The model with integer weights and Q/DQ pairs, their ranges the least and largest values over `calibration`
    (arrays [samples, ...] by input name). Files are written in `folder`, and go."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        """What the quantizer draws from."""

        def __init__(self) -> None:
            self.batches = iter(_batches(graph, calibration))

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next batch; None behind the last."""
            return next(self.batches, None)

    plain, made = folder / "plain.onnx", folder / "integers.onnx"
    plain.write_bytes(model.SerializeToString())
    try:
        quantize_static(
            plain,
            made,
            Samples(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )
        found = onnx.load(str(made))
    finally:
        plain.unlink(missing_ok=True)
        made.unlink(missing_ok=True)
    if not any(node.op_type == "DequantizeLinear" for node in found.graph.node):
        raise ConversionError(
            "int8 would leave every operation in float: ONNX Runtime's quantizer knows none of them; use --precision "
            "float16"
        )
    return found


def _batches(graph: FrozenGraph, calibration: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The samples in batches that the model takes; too few for one: some twice."""
    count = min(len(array) for array in calibration.values())
    fixed = [end.shape[0] for end in graph.inputs if end.shape and end.shape[0] is not None]
    batch = max(fixed) if fixed else min(_BATCH, count)
    rows = [np.arange(start, start + batch) for start in range(0, max(1, count - batch + 1), batch)]
    if not fixed and count % batch:
        rows.append(np.arange(count - count % batch, count))
    return [{end.name: calibration[end.name][some % count].astype(end.dtype) for end in graph.inputs} for some in rows]
