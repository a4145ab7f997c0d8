"""What the data that meet the kernels of a file are like: second moments of the inputs of each output.

They are those of the float file on calibration samples, so that they hold for every grid and every range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeprune.converters.float_start import FloatStart
from edgeprune.converters.kernels import KINDS, Kernel
from edgeprune.converters.reconstruction import Moments
from edgeprune.converters.types import Generated
from edgeprune.formats.tflite.objects import as_objects, operator_kinds, schema_classes, tensor_name

__all__ = ["MOST_INPUTS", "moments_of", "patches"]

MOST_INPUTS = 4608  # of an output: 3 x 3 x 512. The moments of more take over 85 MB
_ROWS = 4096  # at least, of data that are looked at, and twice as many as there are inputs
_SEED = 0  # of the places that are looked at


@dataclass(slots=True, kw_only=True)
class _Sums:
    """Sums over rows [groups, rows, inputs] so far, less `origin`, the mean of the first ones: the sums of squares of
    large numbers that hardly change would leave nothing of their changes."""

    centred: bool
    origin: np.ndarray = field(default_factory=lambda: np.zeros(()))
    count: int = 0
    first: np.ndarray = field(default_factory=lambda: np.zeros(()))
    second: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def add(self, rows: np.ndarray) -> None:
        if self.centred:
            self.origin = self.origin if self.count else rows.mean(1)
            rows = rows - self.origin[:, None]
        self.count += rows.shape[1]
        self.first = self.first + rows.sum(1, dtype=np.float64)
        self.second = self.second + np.swapaxes(rows, 1, 2) @ rows

    def moments(self) -> Moments:
        mean = (self.first if self.centred else 0 * self.first) / self.count
        spread = self.second / np.float32(self.count) - (mean[:, :, None] * mean[:, None, :]).astype(np.float32)
        return Moments(spread=spread, mean=mean + self.origin)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Reader:
    """An operation of the float file that reads a kernel, and the name of its data."""

    kind: str
    options: Generated
    data: str
    has_bias: bool


def moments_of(
    start: FloatStart,
    kernels: Sequence[Kernel],
    calibration: Mapping[str, np.ndarray],
    step: Callable[[], None] = lambda: None,
) -> dict[str, Moments]:
    """The moments of the data of each kernel by its name, from the samples in `calibration`; `step` is called after
    each part of them.

    Of long outputs some places are looked at. Kernels whose data no runtime shows are left out, and those of more than
    MOST_INPUTS inputs.
    """
    model = as_objects(start.content)
    readers, given = _readers(model), _given(model, calibration)
    known = {k.name: k for k in kernels if k.name in readers and _inputs(k) <= MOST_INPUTS}
    sums: dict[str, _Sums] = {}
    whole, random = min(map(len, calibration.values())), np.random.default_rng(_SEED)
    seen = 0
    for part in start.traced(start.content, calibration):
        count = _samples(part)
        for name, kernel in known.items():
            for reader in readers[name]:
                data = part.get(reader.data)
                if data is None and reader.data in given:
                    data = given[reader.data][seen : seen + count].astype(np.float32)
                if data is None:
                    continue
                most = -(-max(_ROWS, 2 * _inputs(kernel)) * len(data) // (whole * len(readers[name])))
                kept = sums.setdefault(name, _Sums(centred=all(r.has_bias for r in readers[name])))
                kept.add(_rows(reader, kernel, np.ascontiguousarray(data, np.float32), max(most, 1), random))
        seen += count
        step()
    return {name: found.moments() for name, found in sums.items()}


def patches(
    data: np.ndarray, size: Sequence[int], options: Generated, most: int, random: np.random.Generator
) -> np.ndarray:
    """What a window sees of maps [samples, height, width, channels], at `most` places: [places, *size, channels].

    `options` are strides, dilations and padding of a CONV_2D or DEPTHWISE_CONV_2D.
    """
    step = (options.strideH, options.strideW)
    far = (options.dilationHFactor, options.dilationWFactor)
    reach = [(s - 1) * d + 1 for s, d in zip(size, far, strict=True)]
    if options.padding == schema_classes().Padding.SAME:
        ends = [-(-n // s) for n, s in zip(data.shape[1:3], step, strict=True)]
        more = [max(0, (e - 1) * s + r - n) for e, s, r, n in zip(ends, step, reach, data.shape[1:3], strict=True)]
        data = np.pad(data, [(0, 0), *((m // 2, m - m // 2) for m in more), (0, 0)])
    else:
        ends = [(n - r) // s + 1 for n, r, s in zip(data.shape[1:3], reach, step, strict=True)]
    places = _some(len(data) * ends[0] * ends[1], most, random)
    sample, rest = np.divmod(places, ends[0] * ends[1])
    row, column = np.divmod(rest, ends[1])
    found = np.empty((len(places), *size, data.shape[-1]), np.float32)
    for a in range(size[0]):
        for b in range(size[1]):
            found[:, a, b] = data[sample, row * step[0] + a * far[0], column * step[1] + b * far[1]]
    return found


def _some(count: int, most: int, random: np.random.Generator) -> np.ndarray:
    return np.arange(count) if count <= most else np.sort(random.choice(count, most, replace=False))


def _rows(reader: _Reader, kernel: Kernel, data: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """What meets the kernel's outputs, [groups, rows, inputs]."""
    shape = kernel.stored.shape
    if reader.kind == "FULLY_CONNECTED":
        rows = data.reshape(-1, shape[-1])
        return rows[_some(len(rows), most, random)][None]
    if reader.kind == "TRANSPOSE_CONV":
        return _spread_out(data, shape[1:3], reader.options, most, random)
    seen = patches(data, shape[1:3], reader.options, most, random)
    if reader.kind == "DEPTHWISE_CONV_2D":
        by_channel = seen.reshape(len(seen), -1, seen.shape[-1]).transpose(2, 0, 1)
        return np.repeat(by_channel, shape[-1] // seen.shape[-1], axis=0)
    groups = seen.shape[-1] // shape[-1]
    parts = seen.reshape(len(seen), shape[1] * shape[2], groups, shape[-1])
    return parts.transpose(2, 0, 1, 3).reshape(groups, len(seen), -1)


def _spread_out(
    data: np.ndarray, size: Sequence[int], options: Generated, most: int, random: np.random.Generator
) -> np.ndarray:
    """The same of a transposed convolution: a window over data with zeros between them, turned round."""
    height, width = ((n - 1) * s + 1 for n, s in zip(data.shape[1:3], (options.strideH, options.strideW), strict=True))
    wide = np.zeros((len(data), height, width, data.shape[-1]), np.float32)
    wide[:, :: options.strideH, :: options.strideW] = data
    wide = np.pad(wide, [(0, 0), *((n - 1, n - 1) for n in size), (0, 0)])
    plain = schema_classes().Conv2DOptionsT()
    plain.strideH = plain.strideW = plain.dilationHFactor = plain.dilationWFactor = 1
    plain.padding = schema_classes().Padding.VALID
    seen = patches(wide, size, plain, most, random)[:, ::-1, ::-1]
    return np.ascontiguousarray(seen).reshape(1, len(seen), -1)


def _readers(model: Generated) -> dict[str, list[_Reader]]:
    """Name of a kernel -> the operations that read its constant."""
    graph, kinds = model.subgraphs[0], operator_kinds(model)
    names: dict[int, set[str]] = {}
    for tensor in graph.tensors:
        names.setdefault(int(tensor.buffer), set()).add(tensor_name(tensor))
    found: dict[str, list[_Reader]] = {}
    for op in graph.operators:
        kind = kinds[op.opcodeIndex]
        if kind not in KINDS:
            continue
        kernel, data, bias = KINDS[kind]
        reader = _Reader(
            kind=kind,
            options=op.builtinOptions,
            data=tensor_name(graph.tensors[op.inputs[data]]),
            has_bias=len(op.inputs) > bias and op.inputs[bias] >= 0,
        )
        for name in names[int(graph.tensors[op.inputs[kernel]].buffer)]:
            found.setdefault(name, []).append(reader)
    return found


def _given(model: Generated, calibration: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The samples by the tensors that take them."""
    tensors = model.subgraphs[0].tensors
    entries = [(bytes(i.name).decode(), int(i.tensorIndex)) for s in model.signatureDefs or () for i in s.inputs]
    return {
        tensor_name(tensors[number]): np.asarray(calibration[name]) for name, number in entries if name in calibration
    }


def _inputs(kernel: Kernel) -> int:
    """How many numbers meet one output."""
    shape = kernel.stored.shape
    return int(np.prod(shape[:-1]) if kernel.kind == "DEPTHWISE_CONV_2D" else np.prod(shape[1:]))


def _samples(part: Mapping[str, np.ndarray]) -> int:
    return max((len(values) for values in part.values()), default=0)
