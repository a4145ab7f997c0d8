"""Where the inputs and outputs of a kernel lie: what M consecutive inputs of one output are.

Keras: Dense (inputs, outputs), convolutions (.., inputs, outputs), transposed ones (.., outputs, inputs), recurrent
cells (inputs or units, gates), EinsumDense by its equation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune.maker.keras.types import Layer

__all__ = ["Layout", "layout_of"]

NO_INPUTS = {
    "Embedding": "a table that is looked up, not multiplied, has no inputs to count a pattern along",
    "depthwise": "a depthwise kernel has one input for each output, so no pattern",
    "EinsumDense": "the equation of this EinsumDense leaves no axis of inputs",
}
FEW_DIMENSIONS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`order` brings the axes of a kernel of this `shape` to `sizes`: [applied apart, inputs, outputs]."""

    shape: tuple[int, ...]
    order: tuple[int, ...]
    sizes: tuple[int, int, int]

    @property
    def inputs(self) -> int:
        """How many inputs each output has."""
        return self.sizes[1]

    def rows(self, ops: Any, values: Any) -> Any:
        """A kernel as [apart, inputs, outputs]; `ops` is NumPy or keras.ops."""
        return ops.reshape(ops.transpose(values, self.order), self.sizes)

    def kernel(self, ops: Any, rows: Any) -> Any:
        """The kernel of such rows: what `rows` undoes."""
        moved = ops.reshape(rows, [self.shape[axis] for axis in self.order])
        return ops.transpose(moved, [self.order.index(axis) for axis in range(len(self.order))])


def layout_of(layer: Layer, name: str, shape: Sequence[int]) -> Layout | str:
    """The layout of the variable `name` of a layer, or the reason why it has none."""
    kind, axes, shape = type(layer).__name__, list(range(len(shape))), tuple(int(size) for size in shape)
    if kind == "Embedding":
        return NO_INPUTS["Embedding"]
    if "depthwise" in name or kind.startswith("Depthwise"):
        return NO_INPUTS["depthwise"]
    if kind == "EinsumDense":
        return _einsum(layer.equation, shape)
    inputs, outputs = ([-1], [-2]) if kind.endswith("Transpose") else ([-2], [-1])
    return _layout(shape, axes[:-FEW_DIMENSIONS], [axes[a] for a in inputs], [axes[a] for a in outputs])


def _einsum(equation: str, shape: tuple[int, ...]) -> Layout | str:
    """By the letters: contracted ones are inputs, those that both sides keep are applied apart."""
    left, made = equation.replace(" ", "").replace("...", "").split("->")
    read, kernel = left.split(",")
    inputs = [axis for axis, letter in enumerate(kernel) if letter in read and letter not in made]
    apart = [axis for axis, letter in enumerate(kernel) if letter in read and letter in made]
    outputs = [axis for axis, letter in enumerate(kernel) if letter in made and letter not in read]
    if not inputs or len(inputs) + len(apart) + len(outputs) < len(shape):
        return NO_INPUTS["EinsumDense"]
    return _layout(shape, apart, inputs, outputs)


def _layout(shape: tuple[int, ...], apart: list[int], inputs: list[int], outputs: list[int]) -> Layout:
    sizes = tuple(math.prod(shape[axis] for axis in axes) for axes in (apart, inputs, outputs))
    return Layout(shape=shape, order=(*apart, *inputs, *outputs), sizes=(sizes[0], sizes[1], sizes[2]))
