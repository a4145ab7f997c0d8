"""The part of a graph that XNNPACK can run with sparse kernels: from a stem convolution to a global mean and its heads.

Rules as read in google/XNNPACK, src/subgraph.c: every value in the cluster is floating point and consumed by eligible
operations only; filters of 1x1 convolutions and dense layers count together, those after the mean too. What becomes of
a mean that keeps its dimensions (src/subgraph/static-reduce.c) was measured with LiteRT 2.3.0 on emulated Arm.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.formats.graph import Graph, Op, Window

__all__ = ["BINARY", "NEEDED_ZEROS", "UNARY", "Cluster", "KeptMean", "find_cluster"]

NEEDED_ZEROS = 2 / 3
UNARY = frozenset(
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
BINARY = frozenset({"ADD", "MUL"})
_ENDS = frozenset({"MEAN", "DEPTH_TO_SPACE"})
_FLOATS = frozenset({"float32", "float16"})


class KeptMean(enum.StrEnum):
    """What the sparse path makes of a mean that keeps its dimensions, [batch, 1, 1, channels].

    Its result gets a wrong shape: the height of the averaged map stands where the channels should. REFUSED: the
    operation that reads it is checked against that shape, and the file does not load. MISSHAPEN: nothing checks it, so
    the output has a wrong shape or lacks channels, or is right because something reshapes it. HARMLESS: no such mean,
    or a 1x1 convolution reads it whose own result stays in the cluster, as in squeeze-and-excitation.
    """

    HARMLESS = "harmless"
    MISSHAPEN = "misshapen"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What was found. `stem`, `inside` and `integers` are empty when that condition holds, else what breaks it.

    `inside` is None where there is no stem to start from. `shaped` tells whether a stem of the right kernel was found,
    padded rightly or not. `pointwise_sparsity` is that of the 1x1 filters, also after the mean, and `sparsity` that of
    those and the dense layers that follow the mean (runtimes count one or the other); None without any. `reader` is the
    operation that reads the result of a kept mean, "" without one.
    """

    densify: int
    integers: str
    stem: str
    inside: str | None
    shaped: bool
    sparsity: float | None
    pointwise_sparsity: float | None
    kept_mean: KeptMean = KeptMean.HARMLESS
    reader: str = ""


def find_cluster(graph: Graph) -> Cluster:
    """The cluster of the first subgraph, followed from its stem as far as its operations are eligible."""
    return _Walk(graph).cluster()


class _Walk:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.options = graph, graph.options
        self.ops = [op for op in graph.ops if op.subgraph == 0]
        self.users: dict[int, list[int]] = {}
        for place, op in enumerate(self.ops):
            for index in op.inputs:
                self.users.setdefault(index, []).append(place)
        self.makers = {index: op for op in self.ops for index in op.outputs}

    def cluster(self) -> Cluster:
        stem, why = self.stem()
        members, late, broken = self.members(stem) if stem is not None else ([], [], None)
        if stem is not None and not broken:
            broken = self.stranger([*members, *late], {stem, *members, *late})
        heads = [place for place in late if self.ops[place].kind == "FULLY_CONNECTED"]
        pointwise = [place for place in (*members, *late) if self.is_pointwise(self.ops[place])]
        kept, reader = self.kept_mean([*members, *late])
        return Cluster(
            densify=sum(op.kind == "DENSIFY" for op in self.ops),
            integers=self.integers([stem, *members] if stem is not None else range(len(self.ops))),
            stem=why,
            inside=broken,
            shaped=stem is not None,
            sparsity=self.sparsity([*pointwise, *heads]),
            pointwise_sparsity=self.sparsity(pointwise),
            kept_mean=kept,
            reader=reader,
        )

    def sparsity(self, places: Sequence[int]) -> float | None:
        """Share of zeros in the filters of these operations together; None without any."""
        filters = [self.stored(self.ops[place].inputs[1]) for place in places if len(self.ops[place].inputs) > 1]
        elements = sum(self.graph.tensors[index].elements for index in filters)
        zeros = sum(self.graph.tensors[index].zeros or 0 for index in filters)
        return zeros / elements if elements else None

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
        """Positions of the operations from stem to mean, of those from the mean on, and what is not eligible."""
        members: list[int] = []
        late: list[int] = []
        pending, seen = list(self.ops[stem].outputs), set(self.ops[stem].outputs)
        after: set[int] = set()  # values that come from a mean alone
        while pending:
            index = pending.pop(0)
            users = self.users.get(index, [])
            faults = {place: self.late_fault(place) if index in after else self.fault(place) for place in users}
            if index in after and not any(self.holds(place) and not faults[place] for place in users):
                users = [place for place in users if self.ops[place].kind == "FULLY_CONNECTED"]
                faults = {}  # the cluster ends where nothing eligible reads on
            fault = next((fault for fault in faults.values() if fault), "")
            if fault:
                return members, late, fault
            for place in users:
                op = self.ops[place]
                ended = op.kind in _ENDS or self.values(op) <= after
                if place not in members and place not in late:
                    (late if ended else members).append(place)
                new = [output for output in op.outputs if output not in seen]
                pending += new
                seen.update(new)
                after.update(new if ended else ())
        return members, late, "" if late else "it does not end in a MEAN over height and width"

    def stranger(self, places: Sequence[int], inside: set[int]) -> str:
        """An operation of the cluster that reads what something outside computes; XNNPACK drops the cluster then."""
        made = {index for place in inside for index in self.ops[place].outputs}
        for place in places:
            op = self.ops[place]
            outside = self.values(op) - made
            if outside and op.kind != "FULLY_CONNECTED":
                return f"a {op.kind} reads {self.graph.tensors[min(outside)].name[:60]!r} from outside"
        return ""

    def values(self, op: Op) -> set[int]:
        """The inputs of an operation that are computed, not stored."""
        return {index for index in op.inputs if index >= 0 and not self.graph.tensors[self.stored(index)].constant}

    def kept_mean(self, places: Sequence[int]) -> tuple[KeptMean, str]:
        """The worst that any mean of the cluster meets, and the operation that reads it."""
        found = [(KeptMean.HARMLESS, "")]
        inside = frozenset(places)
        for place in places:
            if self.ops[place].kind == "MEAN":
                found += [
                    self.read_kept(output, place, inside)
                    for output in self.ops[place].outputs
                    if len(self.graph.tensors[output].shape) == 4
                ]
        return max(found, key=lambda item: list(KeptMean).index(item[0]))

    def read_kept(self, index: int, mean: int, inside: frozenset[int]) -> tuple[KeptMean, str]:
        """What reads the result of a kept mean, through operations that keep its shape."""
        # By chance the wrong shape is the right one where the map is as high as it has channels.
        shape = self.graph.tensors[self.ops[mean].inputs[0]].shape
        checked = KeptMean.MISSHAPEN if len(shape) == 4 and shape[1] == shape[3] else KeptMean.REFUSED
        pending, seen, worst = [index], {index}, (KeptMean.HARMLESS, "")
        while pending:
            value = pending.pop(0)
            users = [place for place in self.users.get(value, []) if place in inside]
            if not users:
                worst = (KeptMean.MISSHAPEN, self.reader_of(value))
            for place in users:
                op = self.ops[place]
                ends = not any(user in inside for output in op.outputs for user in self.users.get(output, []))
                joined = op.kind in BINARY and len(self.values(op)) > 1
                if op.kind == "FULLY_CONNECTED" or joined or (op.kind == "CONV_2D" and ends):
                    return checked, f"a {op.kind}"
                if op.kind != "CONV_2D":
                    new = [output for output in op.outputs if output not in seen]
                    pending += new
                    seen.update(new)
        return worst

    def reader_of(self, index: int) -> str:
        """The operation that reads a value, in words."""
        users = self.users.get(index, [])
        return f"a {self.ops[users[0]].kind}" if users else "the output"

    def holds(self, place: int) -> bool:
        """Whether other readers of the same value must be eligible; LiteRT 2.3.0 asks no such thing of dense layers."""
        return self.ops[place].kind != "FULLY_CONNECTED"

    def late_fault(self, place: int) -> str:
        """Why an operation on what comes from a mean does not belong into the cluster."""
        op = self.ops[place]
        if op.kind == "FULLY_CONNECTED":
            return ""
        flat = not op.inputs or len(self.graph.tensors[op.inputs[0]].shape) != 4
        return f"a {op.kind} of a value that has not four dimensions" if flat else self.fault(place)

    def fault(self, place: int) -> str:
        """Why an operation does not belong into a cluster; empty when it does."""
        op, window = self.ops[place], self.options.windows.get(place)
        if op.kind == "CONV_2D" and self.is_pointwise(op):
            good = window is not None and window.stride == (1, 1)
            return "" if good else "a 1x1 CONV_2D of another stride than 1"
        if op.kind == "DEPTHWISE_CONV_2D" and window is not None:
            return self.depthwise_fault(op, window)
        if op.kind in BINARY:
            flat = any(len(self.graph.tensors[index].shape) != 4 for index in op.inputs if index >= 0)
            # XNNPACK looks at the first operand to tell whether a constant second one is a vector.
            second = len(op.inputs) > 1 and self.graph.tensors[self.stored(op.inputs[1])].constant
            if second and not flat and sum(size > 1 for size in self.graph.tensors[op.inputs[0]].shape) > 1:
                return f"a {op.kind} whose constant stands second"
            return f"{op.kind} of a value that has not four dimensions" if flat else ""
        if op.kind in UNARY or op.kind in _ENDS or op.kind in ("PAD", "RESIZE_BILINEAR"):
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
