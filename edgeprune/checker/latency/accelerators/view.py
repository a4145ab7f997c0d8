"""An operation of a .tflite file as the rules of an accelerator look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeprune.formats.graph import Graph, Op, Quantization, Tensor

__all__ = ["OpView", "View", "listed", "shape_text"]


class View(Protocol):
    """What a rule asks of any operation; its check looks at the rest."""

    @property
    def kind(self) -> str:
        """As the document lists it."""
        ...

    @property
    def attributes(self) -> Mapping[str, int]:
        """Version and options."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OpView:
    """An operation of the first subgraph with what its file says of it; `index` is its position."""

    graph: Graph
    op: Op
    index: int

    @property
    def kind(self) -> str:
        """As the schema spells it."""
        return self.op.kind

    @property
    def attributes(self) -> Mapping[str, int]:
        """Version and options."""
        return self.graph.options.attributes.get(self.index, {})

    @property
    def activations(self) -> list[Tensor]:
        """What it reads that is computed, and what it writes."""
        return [self.graph.tensors[i] for i in self.ends if not self.graph.tensors[i].constant]

    @property
    def ends(self) -> list[int]:
        """All that it reads and writes."""
        return [index for index in (*self.op.inputs, *self.op.outputs) if index >= 0]

    def input(self, position: int) -> Tensor | None:
        """An input, None where it is absent."""
        index = self.op.inputs[position] if position < len(self.op.inputs) else -1
        return self.graph.tensors[index] if index >= 0 else None

    def output(self) -> Tensor | None:
        """The first output."""
        index = self.op.outputs[0] if self.op.outputs else -1
        return self.graph.tensors[index] if index >= 0 else None

    def integers(self, position: int) -> tuple[int, ...] | None:
        """The values of a constant input; None where it is none, or a long one."""
        index = self.op.inputs[position] if position < len(self.op.inputs) else -1
        return self.graph.options.integers.get(index)

    def quantization(self, index: int) -> Quantization | None:
        """Scale and zero point of a tensor."""
        return self.graph.options.quantization.get(index)


def listed(names: Sequence[object]) -> str:
    """Each once, in order."""
    return ", ".join(dict.fromkeys(str(name) for name in names))


def shape_text(tensor: Tensor) -> str:
    """1x8x8x3."""
    return "x".join(str(size) for size in tensor.shape)
