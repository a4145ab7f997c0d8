"""The part of a graph that XNNPACK can run with sparse kernels: from a stem convolution to a global mean.

Rules as read in google/XNNPACK, src/subgraph.c: every value in the cluster is floating point and consumed by eligible
operations only; filters of 1x1 convolutions count together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.graph.model import Graph, Op
from edgeprune.graph.tflite_options import FileOptions, Window

__all__ = ["NEEDED_ZEROS", "Cluster", "find_cluster"]

NEEDED_ZEROS = 2 / 3
_UNARY = frozenset(
    {
        "ABS",
        "CEIL",
        "ELU",
        "EXP",
        "FLOOR",
        "GELU",
        "HARD_SWISH",
        "LEAKY_RELU",
        "LOGISTIC",
        "NEG",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "ROUND",
        "SQRT",
        "SQUARE",
        "TANH",
    }
)
_BINARY = frozenset({"ADD", "MUL"})
_FLOATS = frozenset({"float32", "float16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What was found. `stem`, `inside` and `integers` are empty when that condition holds, else what breaks it.

    `inside` is None where there is no stem to start from. `shaped` tells whether a stem of the right kernel was found,
    padded rightly or not. `sparsity` is that of the cluster's 1x1 filters and of a dense layer that reads the mean;
    None when it has none.
    """

    densify: int
    integers: str
    stem: str
    inside: str | None
    shaped: bool
    sparsity: float | None


def find_cluster(graph: Graph, options: FileOptions) -> Cluster:
    """The cluster of the first subgraph, followed from its stem as far as its operations are eligible."""
    return _Walk(graph, options).cluster()


class _Walk:
    def __init__(self, graph: Graph, options: FileOptions) -> None:
        self.graph, self.options = graph, options
        self.ops = [op for op in graph.ops if op.subgraph == 0]
        self.users: dict[int, list[int]] = {}
        for place, op in enumerate(self.ops):
            for index in op.inputs:
                self.users.setdefault(index, []).append(place)
        self.makers = {index: op for op in self.ops for index in op.outputs}

    def cluster(self) -> Cluster:
        stem, why = self.stem()
        members, heads, broken = self.members(stem) if stem is not None else ([], [], None)
        found = [place for place in members if self.is_pointwise(self.ops[place])] + heads
        filters = [self.stored(self.ops[place].inputs[1]) for place in found]
        elements = sum(self.graph.tensors[index].elements for index in filters)
        zeros = sum(self.graph.tensors[index].zeros or 0 for index in filters)
        return Cluster(
            densify=sum(op.kind == "DENSIFY" for op in self.ops),
            integers=self.integers([stem, *members] if stem is not None else range(len(self.ops))),
            stem=why,
            inside=broken,
            shaped=stem is not None,
            sparsity=zeros / elements if elements else None,
        )

    def stem(self) -> tuple[int | None, str]:
        """The stem's position; with None or a fault, what is wrong with it."""
        for place, op in enumerate(self.ops):
            if op.kind != "CONV_2D" or len(op.inputs) < 2 or op.inputs[1] < 0:
                continue
            shape, window = self.graph.tensors[op.inputs[1]].shape, self.options.windows.get(place)
            if len(shape) != 4 or window is None:
                break
            if shape[1:] != (3, 3, 3) or window.stride != (2, 2) or window.dilation != (1, 1):
                return (
                    None,
                    f"the first convolution is {shape[1]}x{shape[2]} of stride {window.stride[0]} on {shape[3]} "
                    "channels",
                )
            if not self.padded_by_one(op, window):
                return (
                    place,
                    "its padding is SAME, which at stride 2 is not 1 on all sides"
                    if window.padding == "SAME"
                    else ("it is not padded by 1 on all sides"),
                )
            return place, ""
        return None, "no convolution to start from"

    def padded_by_one(self, op: Op, window: Window) -> bool:
        """Whether a PAD of exactly 1 stands before a VALID convolution."""
        maker = self.makers.get(op.inputs[0])
        if window.padding != "VALID" or maker is None or maker.kind != "PAD":
            return False
        padding = self.options.paddings.get(self.ops.index(maker))
        return padding == ((0, 0), (1, 1), (1, 1), (0, 0))

    def members(self, stem: int) -> tuple[list[int], list[int], str]:
        """Positions of the operations between stem and mean, of dense layers on the mean, and what is not eligible."""
        members: list[int] = []
        heads: list[int] = []
        pending, seen = list(self.ops[stem].outputs), set(self.ops[stem].outputs)
        ends = False
        while pending:
            index = pending.pop(0)
            for place in self.users.get(index, []):
                op = self.ops[place]
                if op.kind in ("MEAN", "DEPTH_TO_SPACE"):
                    ends = True
                    after = [user for output in op.outputs for user in self.users.get(output, [])]
                    heads += [user for user in after if self.ops[user].kind == "FULLY_CONNECTED"]
                    continue
                fault = self.fault(place)
                if fault:
                    return members, heads, fault
                if place not in members:
                    members.append(place)
                new = [output for output in op.outputs if output not in seen]
                pending += new
                seen.update(new)
        return members, heads, "" if ends else "it does not end in a MEAN over height and width"

    def fault(self, place: int) -> str:
        """Why an operation does not belong into a cluster; empty when it does."""
        op, window = self.ops[place], self.options.windows.get(place)
        if op.kind == "CONV_2D" and self.is_pointwise(op):
            good = window is not None and window.stride == (1, 1)
            return "" if good else "a 1x1 CONV_2D of another stride than 1"
        if op.kind == "DEPTHWISE_CONV_2D" and window is not None:
            return self.depthwise_fault(op, window)
        if op.kind in _BINARY:
            flat = any(len(self.graph.tensors[index].shape) != 4 for index in op.inputs if index >= 0)
            return f"{op.kind} of a value that has not four dimensions" if flat else ""
        if op.kind in _UNARY or op.kind in ("PAD", "RESIZE_BILINEAR"):
            return ""
        shape = self.graph.tensors[op.inputs[1]].shape if op.kind == "CONV_2D" and len(op.inputs) > 1 else ()
        return f"a {op.kind}" + (f" of {shape[1]}x{shape[2]}" if len(shape) == 4 else "")

    def depthwise_fault(self, op: Op, window: Window) -> str:
        shape = self.graph.tensors[op.inputs[1]].shape if len(op.inputs) > 1 and op.inputs[1] >= 0 else ()
        if len(shape) != 4 or shape[1] != shape[2] or shape[1] not in (3, 5):
            return "a DEPTHWISE_CONV_2D that is neither 3x3 nor 5x5"
        if window.multiplier != 1 or window.dilation != (1, 1) or window.stride not in ((1, 1), (2, 2)):
            return "a DEPTHWISE_CONV_2D with a multiplier, a dilation or another stride than 1 or 2"
        if window.stride == (2, 2) and window.padding == "SAME":
            return "a DEPTHWISE_CONV_2D of stride 2 with padding SAME"
        if window.padding == "VALID":
            maker, wide = self.makers.get(op.inputs[0]), shape[1] // 2
            padding = self.options.paddings.get(self.ops.index(maker)) if maker and maker.kind == "PAD" else None
            if padding != ((0, 0), (wide, wide), (wide, wide), (0, 0)):
                return f"a DEPTHWISE_CONV_2D that is not padded by {wide} on all sides"
        return ""

    def is_pointwise(self, op: Op) -> bool:
        shape = self.graph.tensors[op.inputs[1]].shape if op.kind == "CONV_2D" and len(op.inputs) > 1 else ()
        return len(shape) == 4 and shape[1:3] == (1, 1)

    def stored(self, index: int) -> int:
        """The stored constant behind DENSIFY and DEQUANTIZE."""
        for _ in range(4):
            maker = self.makers.get(index)
            if maker is None or maker.kind not in ("DENSIFY", "DEQUANTIZE") or not maker.inputs:
                break
            index = maker.inputs[0]
        return index

    def integers(self, places: Sequence[int] | range) -> str:
        """The first operation of these that works on anything but floating point."""
        for place in places:
            op = self.ops[place]
            kinds = {self.graph.tensors[index].dtype for index in op.outputs if index >= 0}
            if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and len(op.inputs) > 1 and op.inputs[1] >= 0:
                kinds.add(self.graph.tensors[op.inputs[1]].dtype)
            if op.kind not in ("DENSIFY", "DEQUANTIZE") and kinds and not kinds <= _FLOATS:
                return f"{op.kind} works on {', '.join(sorted(kinds))}"
        return ""
