"""From a float .tflite file to an int8 one: the range of each tensor, and which operations stay in float.

TensorFlow's quantizer does it in two steps. The first one runs the float file on calibration samples and writes the
least and the largest value of each tensor into it; the second one makes the int8 file of what is written there. So
ranges that were found otherwise (trained ones, narrower ones) take the place of the calibrated ones in between, and one
calibration serves any number of int8 files. Runs in the child process of `edgeprune.converters.session`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from edgeprune.converters.types import Generated
from edgeprune.errors import ConversionError
from edgeprune.formats.tflite.objects import as_objects, file_bytes, tensor_name

__all__ = ["Ranges", "integer_file", "moved_ranges", "ranges_of", "with_ranges", "without_ranges"]

Ranges = Mapping[str, tuple[float, float]]  # name of a tensor, or of a value of a Core ML program -> least, largest


def ranges_of(calibrated: bytes) -> dict[str, tuple[float, float]]:
    """Tensor name -> (least, largest value) of a float file with the ranges of its tensors."""
    return {
        tensor_name(tensor): (float(tensor.quantization.min[0]), float(tensor.quantization.max[0]))
        for tensor in _tensors(as_objects(calibrated))
        if _has_range(tensor)
    }


def moved_ranges(ranges: Ranges, before: bytes, after: bytes) -> dict[str, tuple[float, float]]:
    """Ranges of tensors of one float file by the names of another one, of the same model with other weights.

    A name says what was folded into an operation, a bias of zeros not. Raises ConversionError for files of other
    tensors.
    """
    pairs = [[t for t in _tensors(as_objects(content)) if _has_range(t)] for content in (before, after)]
    shapes = [[tuple(map(int, tensor.shape)) for tensor in tensors] for tensors in pairs]
    if shapes[0] != shapes[1]:
        raise ConversionError("the trained model became a file of other operations: its ranges fit no more")
    names = {tensor_name(old): tensor_name(new) for old, new in zip(*pairs, strict=True)}
    return {names[name]: found for name, found in ranges.items()}


def with_ranges(calibrated: bytes, ranges: Ranges) -> bytes:
    """The float file with these ranges in place of its own; a tensor that is not named keeps what it has.

    A range of nothing but one side of zero is widened to it: int8 must store zero (tensorflow.org/lite, "8-bit
    quantization specification"). Raises ConversionError for a tensor that is not there.
    """
    if not ranges:
        return calibrated
    model = as_objects(calibrated)
    known = {tensor_name(tensor): tensor for tensor in _tensors(model) if _has_range(tensor)}
    for name, (least, largest) in ranges.items():
        if name not in known:
            raise ConversionError(
                f"no tensor {name!r} that is rounded is in the float file, but a range of it is given"
            )
        quantization = known[name].quantization
        quantization.min = np.array([min(least, 0.0)], np.float32)
        quantization.max = np.array([max(largest, 0.0)], np.float32)
    return file_bytes(model)


def without_ranges(calibrated: bytes) -> bytes:
    """The float file as it was before its ranges were written into it."""
    model = as_objects(calibrated)
    for tensor in filter(_has_range, _tensors(model)):
        tensor.quantization.min = tensor.quantization.max = None
    return file_bytes(model)


def integer_file(
    calibrated: bytes, *, io_type: str = "float32", per_tensor: bool = False, float_nodes: Collection[str] = ()
) -> bytes:
    """The int8 file of a float one with the ranges of its tensors.

    `float_nodes` are operations that stay in float, each by the name of a tensor that it makes; `io_type` is the type
    of inputs and outputs; with `per_tensor` a kernel has one scale.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import deduplicate_readonly_buffers, mlir_quantize

    made = mlir_quantize(
        calibrated,
        per_tensor,
        input_data_type=getattr(tf, io_type),
        output_data_type=getattr(tf, io_type),
        denylisted_nodes=sorted(float_nodes) or None,
    )
    return bytes(deduplicate_readonly_buffers(made))


def _tensors(model: Generated) -> list[Generated]:
    return [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors]


def _has_range(tensor: Generated) -> bool:
    quantization = tensor.quantization
    return quantization is not None and quantization.min is not None and len(quantization.min) == 1
