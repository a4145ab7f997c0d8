"""What an int8 .tflite file rounds, for quantization-aware training: read from the file and the float one behind it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeprune.converters.file_checks import MOVES
from edgeprune.converters.float_start import on_disk
from edgeprune.converters.integer_graph import for_integers
from edgeprune.converters.kernels import float_constants, kernels_of
from edgeprune.converters.quantizer import Ranges, without_ranges
from edgeprune.converters.session import Exported
from edgeprune.converters.types import Generated
from edgeprune.converters.unrolling import unrolled
from edgeprune.formats.coreml.mil import Package
from edgeprune.formats.tflite.objects import as_objects, operator_kinds, scales_of, tensor_name
from edgeprune.formats.tflite.scales import are_slim
from edgeprune.maker.quantization.places import (
    Places,
    RoundedConstant,
    RoundedKernel,
    RoundedTensors,
    apart,
    in_order,
)
from edgeprune.maker.quantization.traced import Preparation
from edgeprune.runtime.session import newest_runtime, trace_tflite

__all__ = ["PREPARATION", "ranges_in_package", "rounded_places"]

# Operations whose output has the scale of their inputs (tensorflow.org/lite, "8-bit quantization specification",
# "Restriction: input and outputs must all have same scale/zero_point").
SAME_SCALE = MOVES | {
    "AVERAGE_POOL_2D",
    "DYNAMIC_UPDATE_SLICE",
    "MAXIMUM",
    "MAX_POOL_2D",
    "MINIMUM",
    "MIRROR_PAD",
    "PAD",
    "PADV2",
    "REDUCE_MAX",
    "REDUCE_MIN",
    "RELU",
    "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR",
    "SELECT_V2",
    "TOPK_V2",
}
PRESCRIBED = frozenset({"L2_NORMALIZATION", "LOGISTIC", "LOG_SOFTMAX", "SOFTMAX", "TANH"})  # their output's scale
PAIRS = frozenset({"ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "SQUARED_DIFFERENCE", "SUB"})
_LEAST, _LARGEST = -128, 127
_HALF_PRECISION = 1e-2  # of the largest number: what float16 may lose on the way to a value


PREPARATION = Preparation(context=unrolled, rewrite=for_integers)  # of a model that becomes an int8 file


def rounded_places(made: Exported, inputs: Mapping[str, np.ndarray]) -> Places:
    """What the int8 file `made` rounds; its `start` was kept. `inputs` are a few samples by the file's input names."""
    model = as_objects(made.path.read_bytes())
    groups = _Groups(model)
    values = _float_values(made, inputs)
    tensors = []
    for numbers in groups.found():
        names = [name for name in dict.fromkeys(groups.name(number) for number in numbers) if name in values]
        if names:
            least, largest = groups.range(numbers[0])
            tensors.append(
                RoundedTensors(
                    names=tuple(names),
                    least=least,
                    largest=largest,
                    fixed=any(groups.made_by.get(number) in PRESCRIBED for number in numbers),
                    values=tuple(values[name] for name in names),
                )
            )
    floats = float_constants(made.start)
    known = kernels_of(model, floats).known
    kernels = (
        RoundedKernel(name=k.name, values=k.values, axis=k.axis if len(k.scales) > 1 else None)
        for k in known
        if k.exact
    )
    constants = (RoundedConstant(name=name, values=floats[name]) for name in groups.constants() if name in floats)
    slim = all(are_slim(kernel.scales) for kernel in known if kernel.exact)
    return Places(tensors=tuple(tensors), kernels=tuple(kernels), constants=tuple(constants), slim=slim)


def ranges_in_package(places: Places, package: Package, inputs: Mapping[str, np.ndarray]) -> Ranges:
    """Value of a float16 Core ML program -> the range that the same numbers have in the int8 file; `inputs` are the
    samples that `places` was found with. A value that is nowhere in the file is left out."""
    from edgeprune.converters.evaluator.program import Evaluator

    known = [(group, in_order(values)) for group in places.tensors for values in group.values]
    ends = {end.name for end in package.outputs}  # names of float32 values, which the float16 program has not yet
    found = {}
    for step in Evaluator(package).trace(inputs):
        if step.name in ends:
            continue
        values = in_order(step.values)
        offs = [(apart(values, other), number) for number, (_, other) in enumerate(known) if other.size == values.size]
        off, number = min(offs, default=(np.inf, 0))
        if off <= _HALF_PRECISION:
            found[step.name] = (known[number][0].least, known[number][0].largest)
    return found


def _float_values(made: Exported, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each tensor of the float file is for the samples, the inputs among them."""
    with on_disk(without_ranges(made.start)) as path:
        traced = trace_tflite(path, inputs, runtime=newest_runtime()).tensors
    inner = {tensor.name: tensor.values for tensor in traced if tensor.values is not None}
    return {**{name: np.asarray(array, np.float32) for name, array in inputs.items()}, **inner}


class _Groups:
    """The int8 tensors of a file that share a scale because an operation asks for it."""

    def __init__(self, model: Generated) -> None:
        self.graph, kinds = model.subgraphs[0], operator_kinds(model)
        self.tensors = self.graph.tensors
        self.parent = {n: n for n in range(len(self.tensors)) if len(scales_of(self.tensors[n])) == 1}
        self.made_by: dict[int, str] = {}
        self.stands_for: dict[int, int] = {}  # an int8 tensor for the float input or output that it was, or becomes
        self.operations = [(op, kinds[op.opcodeIndex]) for op in self.graph.operators]
        for op, kind in self.operations:
            reads, makes = ([int(n) for n in numbers if n in self.parent] for numbers in (op.inputs, op.outputs))
            self.made_by |= dict.fromkeys(map(int, op.outputs), kind)
            if kind == "QUANTIZE" and not reads and makes:
                self.stands_for[makes[0]] = int(op.inputs[0])
            elif kind == "DEQUANTIZE" and reads:
                self.stands_for[reads[0]] = int(op.outputs[0])
            elif kind in SAME_SCALE:
                self._join([*reads, *makes])

    def _join(self, numbers: list[int]) -> None:
        for number in numbers[1:]:
            if self.range(number) == self.range(numbers[0]):
                self.parent[self._root(number)] = self._root(numbers[0])

    def _root(self, number: int) -> int:
        while self.parent[number] != number:
            number = self.parent[number]
        return number

    def found(self) -> list[list[int]]:
        """The groups, constants left out."""
        groups: dict[int, list[int]] = {}
        written = {*self.made_by, *map(int, self.graph.inputs)}
        for number in self.parent:
            if number in written:
                groups.setdefault(self._root(number), []).append(number)
        return list(groups.values())

    def constants(self) -> list[str]:
        """The names of constants that are added to a tensor or multiplied by it."""
        numbers = [int(n) for op, kind in self.operations if kind in PAIRS for n in op.inputs]
        written = {*self.made_by, *map(int, self.graph.inputs)}
        return [self.name(n) for n in dict.fromkeys(numbers) if n in self.parent and n not in written]

    def name(self, number: int) -> str:
        """The name of a tensor in the float file."""
        return tensor_name(self.tensors[self.stands_for.get(number, number)])

    def range(self, number: int) -> tuple[float, float]:
        """The least and the largest number that a tensor can hold."""
        tensor = self.tensors[number]
        scale, zero = float(scales_of(tensor)[0]), int(tensor.quantization.zeroPoint[0])
        return (_LEAST - zero) * scale, (_LARGEST - zero) * scale
