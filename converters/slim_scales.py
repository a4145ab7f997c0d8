"""Scales of few bits for the kernels of an integer .tflite file.

A quarter of a small int8 file is scales: one float32 for each channel, stored with the kernel and again, times the
scale of the data, with the bias. Rounded *up* to a few bits of mantissa they compress to a third, and no weight is
clipped; the weights and biases are then quantized anew from the float ones, so that nothing is rounded twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.converters.kernels import Kernel, Kernels, kernels_of
from edgeprune.converters.types import Generated
from edgeprune.formats.tflite.objects import as_objects, file_bytes, schema_classes
from edgeprune.formats.tflite.scales import CANDIDATES, round_up

__all__ = ["LARGEST", "Rounded", "fitted", "levels", "requantize", "store", "with_slim_scales", "without_names"]

LARGEST = 127  # of a stored weight: symmetric, as runtimes ask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rounded:
    """Numbers of a kernel on a grid, int8, and how far they move the mean of each output, float64 [channels], which its
    biases take back."""

    stored: np.ndarray
    shift: np.ndarray


def with_slim_scales(content: bytes, floats: Mapping[str, np.ndarray]) -> tuple[bytes, Kernels]:
    """(The file with slim scales, its kernels); `floats` are the constants of the float model by name.

    A kernel whose float numbers are not known stays as it is, and so does one that cannot change.
    """
    model = as_objects(content)
    found = kernels_of(model, floats)
    own = [kernel for kernel in found.known if kernel.exact]
    for kernel in own:
        requantize(model, kernel, fitted(kernel))
    unknown = tuple(f"{k.kind} {k.name!r}: its float weights are not known" for k in found.known if not k.exact)
    return file_bytes(model), Kernels(known=tuple(own), left=found.left + unknown)


def fitted(kernel: Kernel) -> np.ndarray:
    """For each channel the one of the next few slim scales that its weights fit best.

    A channel of few weights (a depthwise one has nine) hangs on its largest: on TensorFlow's scale that is stored
    exactly, on another it is up to half a step off.
    """
    axes = tuple(axis for axis in range(kernel.stored.ndim) if len(kernel.scales) == 1 or axis != kernel.axis)
    candidates = [round_up(kernel.scales)]
    for _ in range(CANDIDATES - 1):
        candidates.append(round_up(np.nextafter(candidates[-1], np.float32(np.inf))))
    off = []
    for scales in candidates:
        by_channel = kernel.by_channel(scales)
        off.append(np.square(kernel.values - levels(kernel, scales) * by_channel).sum(axes).reshape(-1))
    best = np.argmin(off, axis=0)
    return np.asarray(np.choose(best, candidates), np.float32)


def requantize(
    model: Generated, kernel: Kernel, scales: np.ndarray, *, dead: float = 0.5, rounded: Rounded | None = None
) -> None:
    """Give a kernel of `model` other scales, and its biases the units that go with them.

    A weight becomes the nearest number of the new grid, and 0 up to `dead` of a step from it, or what is `rounded`
    already; zeros stay zeros.
    """
    stored = levels(kernel, scales, dead=dead) if rounded is None else rounded.stored
    model.buffers[kernel.buffer].data = _bytes(stored)
    for number in kernel.tensors:
        model.subgraphs[0].tensors[number].quantization.scale = np.asarray(scales, np.float32)
    for bias in kernel.biases:
        tensor = model.subgraphs[0].tensors[bias.tensor]
        unit = bias.unit * np.asarray(scales, np.float32)  # in float32, as runtimes multiply
        wide = tensor.type == schema_classes().TensorType.INT64
        limits = np.iinfo(np.int64 if wide else np.int32)
        meant = bias.values if rounded is None else bias.values - rounded.shift.reshape(bias.values.shape)
        values = np.clip(np.rint(meant / unit.astype(np.float64)), limits.min, limits.max)
        store(model, tensor, _bytes(values.astype("<i8" if wide else "<i4")))
        tensor.quantization.scale = unit


def levels(kernel: Kernel, scales: np.ndarray, *, dead: float = 0.5) -> np.ndarray:
    """The int8 numbers of a kernel on a grid."""
    steps = np.abs(kernel.values) / kernel.by_channel(scales)
    found = np.where(steps <= dead, 0.0, np.rint(steps))
    return np.asarray(np.copysign(np.minimum(found, LARGEST), kernel.values), np.int8)


def store(model: Generated, tensor: Generated, data: np.ndarray) -> None:
    """Give a tensor a constant, and a buffer of its own where others show the one that it had: biases of zeros do."""
    buffer = model.buffers[tensor.buffer]
    if sum(other.buffer == tensor.buffer for other in model.subgraphs[0].tensors) > 1:
        if np.array_equal(np.asarray(buffer.data, np.uint8), data):
            return
        buffer = schema_classes().BufferT()
        model.buffers.append(buffer)
        tensor.buffer = len(model.buffers) - 1
    buffer.data = data


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def without_names(content: bytes) -> bytes:
    """The file without the names that no runtime reads: those of its inner tensors of integers.

    Inputs and outputs keep theirs, signatures have their own.
    """
    model = as_objects(content)
    types = schema_classes().TensorType
    for subgraph in model.subgraphs:
        ends = {int(number) for number in (*subgraph.inputs, *subgraph.outputs)}
        for number, tensor in enumerate(subgraph.tensors):
            if number not in ends and tensor.type != types.FLOAT32:
                tensor.name = b""
    return file_bytes(model)
