"""The kernels of an integer .tflite file that can be quantized anew, with the numbers behind them.

The proof that a kernel may change is in the file: nothing but operations of KINDS reads it, they read it in the same
place, their data have one scale, and each of their biases is in units of that scale times the kernel's and read by
nothing else. What a kernel stands for comes from the float file that the quantizer started from, and only where
every stored number is that one's nearest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgeprune.converters.types import Generated
from edgeprune.formats.tflite.objects import (
    as_objects,
    constant,
    operator_kinds,
    scales_of,
    schema_classes,
    tensor_name,
)

__all__ = ["Bias", "Kernel", "Kernels", "float_constants", "kernels_of"]

# Kind -> places of the kernel, the data and the bias among its inputs.
KINDS: Mapping[str, tuple[int, int, int]] = {
    "CONV_2D": (1, 0, 2),
    "DEPTHWISE_CONV_2D": (1, 0, 2),
    "FULLY_CONNECTED": (1, 0, 2),
    "TRANSPOSE_CONV": (1, 2, 3),
}
_HALF = 0.5 + 1e-3  # of a step: a nearest number is no farther, but for the rounding of float32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bias:
    """A bias by the number of its tensor: `values`, float64, are what it stands for; `unit` is the scale of the data
    that meet the kernel."""

    tensor: int
    values: np.ndarray
    unit: np.float32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kernel:
    """A kernel: its constant's number, the tensors that show it, and the operations that read it by kind.

    `stored` is int8, `scales` float32 [1] or one for each place along `axis`; `values`, float64, are what it stands
    for: the model's own where `exact`, else those of the file. `largest` is the largest scale that runtimes take.
    """

    name: str
    kind: str
    buffer: int
    tensors: tuple[int, ...]
    axis: int
    stored: np.ndarray
    scales: np.ndarray
    values: np.ndarray
    exact: bool
    largest: float
    biases: tuple[Bias, ...]

    def by_channel(self, scales: np.ndarray) -> np.ndarray:
        """Scales in a shape that broadcasts against the kernel."""
        shape = [1] * self.stored.ndim
        if len(scales) > 1:
            shape[self.axis] = -1
        return np.asarray(scales, np.float64).reshape(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Those that can change, and why each other one cannot, in words."""

    known: tuple[Kernel, ...] = ()
    left: tuple[str, ...] = field(default_factory=tuple)


class _CannotChangeError(Exception):
    """Why a kernel stays as it is."""


def float_constants(content: bytes) -> dict[str, np.ndarray]:
    """The constants of a float .tflite file by the names of their tensors."""
    model = as_objects(content)
    found = {}
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            values = constant(model, tensor, "<f4") if tensor.type == schema_classes().TensorType.FLOAT32 else None
            if values is not None:
                found[tensor_name(tensor)] = values
    return found


def kernels_of(model: Generated, floats: Mapping[str, np.ndarray]) -> Kernels:
    """The kernels of an integer file of one subgraph; `floats` are constants by name, as `float_constants` gives them.

    A kernel or bias that `floats` has not, or has with other numbers, stands for what is stored.
    """
    if len(model.subgraphs) != 1:
        return Kernels(left=("the file has several graphs",))
    known, left = [], []
    reading = _Reading(model)
    for buffer, kind in reading.weighted():
        try:
            known.append(reading.kernel(buffer, kind, floats))
        except _CannotChangeError as reason:
            left.append(f"{kind} {tensor_name(reading.tensors[reading.shown[buffer][0]])!r}: {reason}")
    return Kernels(known=tuple(known), left=tuple(left))


class _Reading:
    """A model being read."""

    def __init__(self, model: Generated) -> None:
        self.model, self.graph = model, model.subgraphs[0]
        self.tensors: Sequence[Generated] = self.graph.tensors
        self.types = schema_classes().TensorType
        kinds = operator_kinds(model)
        self.ops = [(kinds[op.opcodeIndex], op) for op in self.graph.operators]
        self.shown: dict[int, list[int]] = {}  # constant -> the tensors that show it
        for number, tensor in enumerate(self.tensors):
            self.shown.setdefault(int(tensor.buffer), []).append(number)
        self.readers: dict[int, list[tuple[str, Generated, int]]] = {}  # tensor -> kind, operation, place
        for kind, op in self.ops:
            for place, number in enumerate(() if op.inputs is None else op.inputs):
                self.readers.setdefault(int(number), []).append((kind, op, place))
        ends = {int(n) for n in (*self.graph.inputs, *self.graph.outputs)}
        self.ends = ends | {int(item.tensorIndex) for s in model.signatureDefs or () for item in s.outputs or ()}

    def weighted(self) -> Iterator[tuple[int, str]]:
        """The constants that are integer kernels, each once, with the kind of the first operation that reads it."""
        seen = set()
        for kind, op in self.ops:
            tensor = self.tensors[op.inputs[KINDS[kind][0]]] if kind in KINDS else None
            if tensor is None or tensor.type != self.types.INT8 or tensor.buffer in seen:
                continue
            if constant(self.model, tensor, "<i1") is not None:
                seen.add(int(tensor.buffer))
                yield int(tensor.buffer), kind

    def kernel(self, buffer: int, kind: str, floats: Mapping[str, np.ndarray]) -> Kernel:
        """The kernel in a constant. Raises _CannotChangeError."""
        numbers = tuple(self.shown[buffer])
        first = self.tensors[numbers[0]]
        scales = scales_of(first)
        stored = constant(self.model, first, "<i1")
        assert stored is not None
        self._check(numbers, first, scales)
        axis = int(first.quantization.quantizedDimension)
        known = Kernel(
            name=tensor_name(first),
            kind=kind,
            buffer=buffer,
            tensors=numbers,
            axis=axis,
            stored=stored,
            scales=scales,
            values=stored,
            exact=False,
            largest=float("inf"),
            biases=(),
        )
        values, exact = _behind(stored, known.by_channel(scales), floats.get(known.name))
        readers = [reader for number in numbers for reader in self.readers.get(number, ())]
        biases = [bias for reader in readers if (bias := self._bias(reader, scales, floats, readers)) is not None]
        return replace(
            known,
            values=values,
            exact=exact,
            largest=min(self._largest(reader) for reader in readers),
            biases=tuple({bias.tensor: bias for bias in biases}.values()),
        )

    def _check(self, numbers: Sequence[int], first: Generated, scales: np.ndarray) -> None:
        if not len(scales) or not np.isfinite(scales).all() or (scales <= 0).any():
            raise _CannotChangeError("it has no scale")
        if np.any(np.asarray(first.quantization.zeroPoint)):
            raise _CannotChangeError("its zero point is not 0")
        for number in numbers:
            tensor = self.tensors[number]
            same = np.array_equal(scales_of(tensor), scales) and np.array_equal(tensor.shape, first.shape)
            if number in self.ends or tensor.sparsity is not None or not same or tensor.type != first.type:
                raise _CannotChangeError("its bytes stand for other numbers, too")
            for kind, op, place in self.readers.get(number, ()):
                if kind not in KINDS or KINDS[kind][0] != place or _shuffled(op):
                    raise _CannotChangeError(f"{kind or 'an operation'} reads it, too")

    def _data(self, reader: tuple[str, Generated, int]) -> Generated:
        kind, op, _ = reader
        data = self.tensors[op.inputs[KINDS[kind][1]]]
        if data.type not in (self.types.INT8, self.types.INT16) or len(scales_of(data)) != 1:
            raise _CannotChangeError("its data are not integers of one scale")
        return data

    def _largest(self, reader: tuple[str, Generated, int]) -> float:
        """Half of what XNNPACK refuses: input scale * kernel scale / output scale from 256 on."""
        made = scales_of(self.tensors[reader[1].outputs[0]])
        if len(made) != 1:
            raise _CannotChangeError("its output is no integer of one scale")
        return float(128.0 * made[0] / scales_of(self._data(reader))[0])

    def _bias(
        self,
        reader: tuple[str, Generated, int],
        scales: np.ndarray,
        floats: Mapping[str, np.ndarray],
        siblings: Sequence[tuple[str, Generated, int]],
    ) -> Bias | None:
        """The bias of an operation that reads the kernel; None where it has none."""
        kind, op, _ = reader
        place = KINDS[kind][2]
        if len(op.inputs) <= place or op.inputs[place] < 0:
            return None
        number = int(op.inputs[place])
        tensor, unit = self.tensors[number], scales_of(self._data(reader))[0]
        stored = constant(self.model, tensor, "<i8" if tensor.type == self.types.INT64 else "<i4")
        shares = [other for other in siblings if len(other[1].inputs) > place and other[1].inputs[place] == number]
        if stored is None or len(self.readers[number]) != len(shares):
            raise _CannotChangeError("its bias is read in another place, too")
        if any(scales_of(self._data(other))[0] != unit for other in shares):
            raise _CannotChangeError("it shares a bias among data of several scales")
        found = scales_of(tensor)
        if len(found) != len(scales) or not np.allclose(found, unit * scales, rtol=1e-5, atol=0.0):
            raise _CannotChangeError("its bias has another unit")
        values, _ = _behind(stored, found.astype(np.float64), floats.get(tensor_name(tensor)))
        return Bias(tensor=number, values=values, unit=unit)


def _shuffled(op: Generated) -> bool:
    """Whether the weights of a FULLY_CONNECTED lie in another order than their shape says."""
    return bool(getattr(op.builtinOptions, "weightsFormat", 0))


def _behind(stored: np.ndarray, scales: np.ndarray, found: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """(the numbers behind stored ones, whether they are the model's own)."""
    if found is not None and found.shape == stored.shape:
        off = np.abs(found.astype(np.float64) - stored * scales)
        tolerance = _HALF * scales + 2.0**-22 * np.abs(found)
        if (off <= tolerance).all():
            return found.astype(np.float64), True
    return stored * scales, False
