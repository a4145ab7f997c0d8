"""The part of a graph that should run sparse, from its stem to a global mean, before any rewrite: what is there, and
what no rewrite makes eligible.

Conditions as in `edgeprune.checker.latency.sparse_cluster`, which judges the file that is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeprune.checker.latency.sparse_cluster import BINARY, UNARY
from edgeprune.checker.sparse_kernels.ineligible import IneligibleError
from edgeprune.checker.sparse_kernels.windows import AxisWindow, same_padding
from edgeprune.formats.tflite.editing import EditedGraph
from edgeprune.formats.tflite.objects import Generated

__all__ = ["Mean", "Region", "Spatial", "find_region"]

NARROW = "choose a network of 1x1 and depthwise convolutions, or prune channels (edgeprune prune --style channel)"
PAD_ALIKE = "pad the Keras model anew (edgeprune prune --symmetric-padding) and fine-tune"
_AXES = (1, 2)  # height and width
_TURNABLE = ("align_corners", "half_pixel_centers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spatial:
    """A convolution with a kernel larger than 1x1: the PAD that stands before it, if any, and how it moves along height
    and width."""

    op: Generated
    pad: Generated | None
    axes: tuple[AxisWindow, AxisWindow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean over height and width, or an average pooling of the whole map. `gate`: it goes back into the map, as in
    squeeze-and-excitation; `reshape` is what gives its result four dimensions then, if anything does."""

    op: Generated
    gate: bool
    reshape: Generated | None = None


@dataclass(slots=True, kw_only=True)
class Region:
    """What was found on the way, in the order of the graph."""

    stem: Spatial
    depthwise: list[Spatial] = field(default_factory=list)
    binaries: list[Generated] = field(default_factory=list)
    resizes: list[Generated] = field(default_factory=list)
    means: list[Mean] = field(default_factory=list)
    pointwise: list[Generated] = field(default_factory=list)
    maps: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)

    @property
    def spatial(self) -> tuple[Spatial, ...]:
        """All kernels that a turned image turns."""
        return (self.stem, *self.depthwise)


def find_region(graph: EditedGraph) -> Region:
    """The region of a float graph. Raises IneligibleError."""
    return _Walk(graph).region


class _Walk:
    def __init__(self, graph: EditedGraph) -> None:
        self.graph = graph
        self.users: dict[int, list[Generated]] = {}
        for op in graph.ops:
            for index in dict.fromkeys(graph.reads(op)):
                self.users.setdefault(index, []).append(op)
        self.makers = {index: op for op in graph.ops for index in graph.writes(op)}
        self.seen: set[int] = set()
        self.region = Region(stem=self.stem())
        self.follow(graph.writes(self.region.stem.op)[0])
        self.check_ends()

    # --- The stem -------------------------------------------------------------------------------------------------

    def stem(self) -> Spatial:
        graph, cure = self.graph, "begin with a 3x3 convolution of stride 2 on 3 channels"
        op = next((op for op in graph.ops if graph.kind(op) == "CONV_2D"), None)
        if op is None:
            raise IneligibleError("d", "", "no convolution to start from", NARROW)
        shape, options = graph.shape(graph.reads(op)[1]), op.builtinOptions
        strides, dilations = _pairs(options)
        if len(shape) != 4 or shape[1:] != (3, 3, 3) or strides != (2, 2) or dilations != (1, 1):
            text = "x".join(map(str, shape[1:3]))
            found = f"the first convolution is {text} of stride {strides[0]} on {shape[-1] if shape else 0} channels"
            raise IneligibleError("d", graph.layer(op), found, cure)
        self.check_float(op)
        return self.spatial(op)

    def check_float(self, op: Generated) -> None:
        for index in (*self.graph.reads(op)[:2], *self.graph.writes(op)):
            if index >= 0 and self.graph.type_name(index) not in ("FLOAT32", "INT32"):
                raise IneligibleError(
                    "c",
                    self.graph.layer(op),
                    f"it works on {self.graph.type_name(index).lower()}",
                    "start from a float32 file: only floating point runs sparse",
                )

    def spatial(self, op: Generated) -> Spatial:
        """A convolution with its window, the PAD before it counted in."""
        graph, options = self.graph, op.builtinOptions
        before = graph.reads(op)[0]
        maker = self.makers.get(before)
        pad = maker if maker is not None and graph.kind(maker) == "PAD" else None
        paddings = self.paddings(pad) if pad is not None else ((0, 0), (0, 0))
        kernel, strides = graph.shape(graph.reads(op)[1])[1:3], _pairs(options)[0]
        source = graph.shape(graph.reads(pad)[0] if pad is not None else before)
        same = options.padding == graph.schema.Padding.SAME
        axes = []
        for axis, known in zip(_AXES, paddings, strict=True):
            size, k, s = source[axis], kernel[axis - 1], strides[axis - 1]
            a, b = same_padding(size + sum(known), k, s) if same else (0, 0)
            axes.append(AxisWindow(size=size, kernel=k, stride=s, before=known[0] + a, behind=known[1] + b))
        return Spatial(op=op, pad=pad, axes=(axes[0], axes[1]))

    def paddings(self, pad: Generated) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, bottom), (left, right)) of a PAD that is a convolution's alone."""
        graph = self.graph
        values = graph.values(graph.reads(pad)[1])
        rows = [] if values is None else values.reshape(-1, 2).tolist()
        if len(rows) != 4 or rows[0] != [0, 0] or rows[3] != [0, 0]:
            raise IneligibleError("e", graph.layer(pad), "a PAD of more than height and width", NARROW)
        if len(self.users.get(graph.writes(pad)[0], [])) != 1:
            raise IneligibleError("e", graph.layer(pad), "a PAD that several operations read", PAD_ALIKE)
        return (rows[1][0], rows[1][1]), (rows[2][0], rows[2][1])

    # --- From the stem on -----------------------------------------------------------------------------------------

    def follow(self, first: int) -> None:
        pending = [first]
        self.region.maps.add(first)
        while pending:
            index = pending.pop(0)
            if index in self.graph.outputs:
                raise IneligibleError(
                    "e", self.graph.name(index), "a map is an output of the model", "give out what comes from a mean"
                )
            for op in self.users.get(index, []):
                if id(op) not in self.seen:
                    self.seen.add(id(op))
                    new = self.take(op)
                    self.region.maps.update(new)
                    pending += new

    def take(self, op: Generated) -> tuple[int, ...]:
        """Note an operation that reads a map; the maps that it writes."""
        graph, kind = self.graph, self.graph.kind(op)
        self.check_float(op)
        if kind == "PAD":
            self.paddings(op)
            user = self.users[graph.writes(op)[0]][0]
            if graph.kind(user) != "DEPTHWISE_CONV_2D":
                raise IneligibleError("e", graph.layer(op), f"a PAD before a {graph.kind(user)}", NARROW)
        elif kind == "CONV_2D":
            self.check_pointwise(op)
            self.region.pointwise.append(op)
        elif kind == "DEPTHWISE_CONV_2D":
            self.check_depthwise(op)
            self.region.depthwise.append(self.spatial(op))
        elif kind in BINARY or kind == "SUB":
            self.check_binary(op)
            self.region.binaries.append(op)
        elif kind == "RESIZE_BILINEAR":
            self.region.resizes.append(op)
        elif kind == "MEAN" or self.pools_all(op):
            self.take_mean(op)
            return ()
        elif kind not in UNARY:
            shape = graph.shape(graph.reads(op)[1]) if kind.endswith("CONV") and len(graph.reads(op)) > 1 else ()
            raise IneligibleError("e", graph.layer(op), f"a {kind}{shape or ''} reads a map", NARROW)
        return graph.writes(op)

    def check_pointwise(self, op: Generated) -> None:
        shape = self.graph.shape(self.graph.reads(op)[1])
        if len(shape) != 4 or shape[1:3] != (1, 1):
            text = "x".join(map(str, shape[1:3]))
            raise IneligibleError("e", self.graph.layer(op), f"a CONV_2D of {text}; inside only 1x1 may stand", NARROW)
        if _pairs(op.builtinOptions)[0] != (1, 1):
            raise IneligibleError("e", self.graph.layer(op), "a 1x1 CONV_2D of another stride than 1", NARROW)
        channels = self.graph.shape(self.graph.reads(op)[0])[-1]
        if shape[3] != channels:
            raise IneligibleError("e", self.graph.layer(op), "a CONV_2D of several groups", NARROW)

    def check_depthwise(self, op: Generated) -> None:
        graph = self.graph
        shape, (strides, dilations) = graph.shape(graph.reads(op)[1]), _pairs(op.builtinOptions)
        if len(shape) != 4 or shape[1] != shape[2] or shape[1] not in (3, 5):
            text = "x".join(map(str, shape[1:3]))
            raise IneligibleError("e", graph.layer(op), f"a DEPTHWISE_CONV_2D of {text}; 3x3 and 5x5 may be", NARROW)
        channels = graph.shape(graph.reads(op)[0])[-1]
        if shape[3] != channels or dilations != (1, 1) or strides not in ((1, 1), (2, 2)):
            found = "a DEPTHWISE_CONV_2D with a multiplier, a dilation or another stride than 1 or 2"
            raise IneligibleError("e", graph.layer(op), found, NARROW)

    def check_binary(self, op: Generated) -> None:
        graph, reads = self.graph, self.graph.reads(op)
        for place, index in enumerate(reads):
            values = graph.values(index)
            if values is None:
                if len(graph.shape(index)) != 4 or (graph.kind(op) == "SUB" and place):
                    found = f"a {graph.kind(op)} of values that are not four-dimensional, or of two maps"
                    raise IneligibleError("e", graph.layer(op), found, NARROW)
            elif values.size > 1 and values.size != values.shape[-1]:
                raise IneligibleError("e", graph.layer(op), f"a {graph.kind(op)} with a stored map", NARROW)
            elif graph.kind(op) == "SUB" and not place:
                raise IneligibleError("e", graph.layer(op), "a SUB from a constant", NARROW)

    def pools_all(self, op: Generated) -> bool:
        """Whether it is an average pooling of the whole map."""
        graph = self.graph
        if graph.kind(op) != "AVERAGE_POOL_2D":
            return False
        options, shape = op.builtinOptions, graph.shape(graph.reads(op)[0])
        plain = options.fusedActivationFunction == graph.schema.ActivationFunctionType.NONE
        return plain and graph.shape(graph.writes(op)[0])[1:3] == (1, 1) and _filter(options) == shape[1:3]

    # --- Behind the means -----------------------------------------------------------------------------------------

    def take_mean(self, op: Generated) -> None:
        graph = self.graph
        if graph.kind(op) == "MEAN":
            axes = graph.values(graph.reads(op)[1])
            rank = len(graph.shape(graph.reads(op)[0]))
            if axes is None or sorted(int(axis) % rank for axis in axes.ravel()) != list(_AXES):
                raise IneligibleError("d", graph.layer(op), "a MEAN over other axes than height and width", NARROW)
        made = graph.writes(op)[0]
        reshape, gate = self.gate(made)
        self.region.means.append(Mean(op=op, gate=gate, reshape=reshape if gate else None))

    def gate(self, made: int) -> tuple[Generated | None, bool]:
        """(what reshapes the result of a mean at once, whether that result goes back into a map)."""
        graph, reshape, back = self.graph, None, False
        pending, passed = [made], {made}
        while pending:
            index = pending.pop(0)
            for op in self.users.get(index, []):
                kind = graph.kind(op)
                if kind == "RESHAPE" and index == made and len(graph.shape(graph.writes(op)[0])) == 4:
                    reshape = op
                elif kind in BINARY and self.joins_map(op):
                    back = True
                    continue
                elif kind != "CONV_2D" and kind not in BINARY and kind not in UNARY:
                    continue
                new = [output for output in graph.writes(op) if output not in passed]
                passed.update(new)
                pending += new
        if back:
            self.region.late |= passed
            self.take_gate([op for index in passed for op in self.users.get(index, [])])
        return reshape, back

    def take_gate(self, ops: list[Generated]) -> None:
        """Note the operations between a mean and the map that it gates."""
        for op in {id(op): op for op in ops}.values():
            kind = self.graph.kind(op)
            if kind == "CONV_2D":
                self.check_pointwise(op)
                self.region.pointwise.append(op)
            elif kind in BINARY and not self.joins_map(op):
                self.check_binary(op)
                self.region.binaries.append(op)

    def joins_map(self, op: Generated) -> bool:
        """Whether an operation writes a map of more than one place."""
        shape = self.graph.shape(self.graph.writes(op)[0])
        return len(shape) == 4 and shape[1] * shape[2] > 1

    def check_ends(self) -> None:
        graph, region = self.graph, self.region
        if all(mean.gate for mean in region.means):
            raise IneligibleError("d", "", "it does not end in a MEAN over height and width", NARROW)
        for op in region.binaries:
            for index in graph.reads(op):
                if graph.values(index) is None and index not in region.maps | region.late:
                    raise IneligibleError("e", graph.layer(op), "it reads a value from outside the cluster", NARROW)
        for mean in region.means:
            others = self.users.get(graph.writes(mean.op)[0], [])
            if mean.reshape is not None and len(others) > 1:
                raise IneligibleError("e", graph.layer(mean.op), "a mean that several operations read", NARROW)


def _pairs(options: Generated) -> tuple[tuple[int, int], tuple[int, int]]:
    """Strides and dilations of a convolution, (vertical, horizontal)."""
    return (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)


def _filter(options: Generated) -> tuple[int, int]:
    return options.filterHeight, options.filterWidth
