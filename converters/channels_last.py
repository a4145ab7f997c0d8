"""A graph that computes channels first ([N, C, H, W]), computed channels last.

TFLite has kernels for channels last only, and its converter turns a convolution that is channels first into one that
reads heights as channels without a word. Here each such operation reads a transposed value, and the transposition back
moves on behind what works element by element until it meets its opposite; inputs and outputs stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeprune.converters.types import Generated, GraphDef, NodeDef
from edgeprune.errors import Unsupported

__all__ = ["channels_last"]

_LAST = {b"NCW": b"NWC", b"NCHW": b"NHWC", b"NCDHW": b"NDHWC"}
# Operation -> which input has channels; its attributes hold one number an axis.
_LAYERS = {
    "AvgPool": 0,
    "AvgPool3D": 0,
    "BiasAdd": 0,
    "Conv2D": 0,
    "Conv2DBackpropInput": 2,
    "Conv3D": 0,
    "DepthwiseConv2dNative": 0,
    "FusedBatchNormV3": 0,
    "MaxPool": 0,
    "MaxPool3D": 0,
}
_PER_AXIS = ("dilations", "ksize", "strides")
_ELEMENTWISE = frozenset(
    {"Abs", "Add", "AddV2", "Cast", "Ceil", "Elu", "Erf", "Erfc", "Exp", "Floor", "Identity", "LeakyRelu", "Log"}
    | {"Log1p", "Maximum", "Minimum", "Mul", "Neg", "Pow", "RealDiv", "Reciprocal", "Relu", "Relu6", "Round", "Rsqrt"}
    | {"Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Square", "SquaredDifference", "Sub", "Tanh"}
)
_REDUCTIONS = frozenset({"Max", "Mean", "Min", "Sum"})


def channels_last(definition: GraphDef) -> GraphDef:
    """The GraphDef, changed in place where an operation in it is channels first.

    Raises Unsupported, naming it, for one that cannot be computed channels last.
    """
    import tensorflow as tf

    if not any(_is_first(node) for node in definition.node):
        return definition
    with tf.Graph().as_default() as whole:
        tf.graph_util.import_graph_def(definition, name="")
    nodes = {node.name: node for node in definition.node}
    turning = _Turning(definition=definition, nodes=nodes, taken=set(nodes))
    for operation in whole.get_operations():  # in the order of their making: a source comes before its readers
        turning.take(operation, nodes[operation.name])
    return definition


def _is_first(node: NodeDef) -> bool:
    return "data_format" in node.attr and node.attr["data_format"].s in _LAST


def _to_last(rank: int) -> list[int]:
    return [0, *range(2, rank), 1]


def _to_first(rank: int) -> list[int]:
    return [0, rank - 1, *range(1, rank - 1)]


@dataclass(slots=True, kw_only=True)
class _Turning:
    """The state of one pass: which tensors are known channels last too, and which depend on constants alone."""

    definition: GraphDef
    nodes: Mapping[str, NodeDef]
    last: dict[str, str] = field(default_factory=dict)  # tensor -> the same one channels last
    constant: set[str] = field(default_factory=set)  # names of operations
    taken: set[str]

    def take(self, operation: Generated, node: NodeDef) -> None:
        """Turn one operation, if there is something to turn in it."""
        sources = [t.op.name for t in operation.inputs]
        if node.op == "Const" or (sources and all(name in self.constant for name in sources)):
            self.constant.add(node.name)
            return
        turn: Callable[[Generated, NodeDef], None] | None = None
        if _is_first(node):
            turn = self._layer
        elif node.op in ("BatchToSpaceND", "SpaceToBatchND"):
            turn = self._dilation
        elif node.op == "Transpose":
            turn = self._transposition
        elif any(name in self.last for name in node.input):
            turn = self._others().get(node.op, self._elementwise if node.op in _ELEMENTWISE else None)
        if turn is not None:
            turn(operation, node)

    def _others(self) -> Mapping[str, Callable[[Generated, NodeDef], None]]:
        return {
            "ConcatV2": self._concatenation,
            "ExpandDims": self._widening,
            "Squeeze": self._squeezing,
            "Pad": self._padding,
            "PadV2": self._padding,
            "MirrorPad": self._padding,
            **dict.fromkeys(_REDUCTIONS, self._reduction),
        }

    def _layer(self, operation: Generated, node: NodeDef) -> None:
        if node.op not in _LAYERS or any(t.consumers() for t in operation.outputs[1:]):
            raise Unsupported(
                f"{node.name!r} is a {node.op} that computes channels first, which no kernel of a phone does, and "
                "cannot be turned: build the layer with data_format='channels_last'"
            )
        place, layout = _LAYERS[node.op], node.attr["data_format"].s
        order = _to_last(operation.outputs[0].shape.rank or len(layout))
        node.input[place] = self._turned(node.input[place], operation.inputs[place], order)
        node.attr["data_format"].s = _LAST[layout]
        for name in _PER_AXIS:
            if name in node.attr and len(node.attr[name].list.i) == len(order):
                node.attr[name].list.i[:] = [node.attr[name].list.i[axis] for axis in order]
        if "explicit_paddings" in node.attr and node.attr["explicit_paddings"].list.i:
            pairs = np.reshape(node.attr["explicit_paddings"].list.i, (-1, 2))[order]
            node.attr["explicit_paddings"].list.i[:] = pairs.reshape(-1).tolist()
        if node.op == "Conv2DBackpropInput":
            node.input[0] = self._new(node, "sizes", np.array(operation.outputs[0].shape.as_list(), np.int32)[order])
        self._back(operation, node)

    def _dilation(self, operation: Generated, node: NodeDef) -> None:
        """Around a dilated convolution; channels first, the channels are one of the axes that it names, with a 1."""
        block, edges, made = _value(operation.inputs[1]), _value(operation.inputs[2]), operation.outputs[0]
        if block is None or edges is None or len(block) != made.shape.rank - 1 or block[0] != 1 or edges[0].any():
            return
        node.input[0] = self._turned(node.input[0], operation.inputs[0], _to_last(made.shape.rank))
        node.input[1] = self._new(node, "block", np.asarray(block[1:], np.int32))
        node.input[2] = self._new(node, "edges", np.asarray(edges[1:], np.int32))
        for name in ("Tblock_shape", "Tpaddings", "Tcrops"):
            if name in node.attr:
                node.attr[name].type = 3  # int32
        self._back(operation, node)

    def _elementwise(self, operation: Generated, node: NodeDef) -> None:
        """Compute it channels last where every input is, or can be: constants are transposed by the converters."""
        rank = operation.outputs[0].shape.rank
        data = [name for name in node.input if not name.startswith("^")]
        tensors = list(zip(data, operation.inputs, strict=True))
        if rank is None or not all(
            (name in self.last and t.shape.rank == rank) or (t.op.name in self.constant and t.shape.is_fully_defined())
            for name, t in tensors
        ):
            return
        for index, (name, tensor) in enumerate(tensors):
            node.input[index] = self._turned(name, tensor, _to_last(rank))
        self._back(operation, node)

    def _concatenation(self, operation: Generated, node: NodeDef) -> None:
        rank, axis = operation.outputs[0].shape.rank, _value(operation.inputs[-1])
        if axis is None or not all(name in self.last for name in node.input[:-1]):
            return
        node.input[:-1] = [self.last[name] for name in node.input[:-1]]
        node.input[-1] = self._new(node, "axis", np.array(_to_last(rank).index(int(axis) % rank), np.int32))
        self._back(operation, node)

    def _padding(self, operation: Generated, node: NodeDef) -> None:
        paddings = _value(operation.inputs[1])
        if paddings is None or node.input[0] not in self.last:
            return
        node.input[0] = self.last[node.input[0]]
        node.input[1] = self._new(node, "paddings", paddings[_to_last(len(paddings))])
        self._back(operation, node)

    def _reduction(self, operation: Generated, node: NodeDef) -> None:
        """A mean over height and width leaves nothing to transpose."""
        rank, axes = operation.inputs[0].shape.rank, _value(operation.inputs[1])
        if axes is None or node.input[0] not in self.last:
            return
        gone, order = {int(axis) % rank for axis in np.atleast_1d(axes)}, _to_last(rank)
        left, keeps = [axis for axis in order if axis not in gone], node.attr["keep_dims"].b
        if not keeps and left != sorted(left):
            return
        node.input[0] = self.last[node.input[0]]
        node.input[1] = self._new(node, "axes", np.array(sorted(order.index(axis) for axis in gone), np.int32))
        if keeps:
            self._back(operation, node)

    def _widening(self, operation: Generated, node: NodeDef) -> None:
        """A convolution along one axis is one in a plane of height 1."""
        rank, axis = operation.outputs[0].shape.rank, _value(operation.inputs[1])
        if axis is None or node.input[0] not in self.last or int(axis) % rank < 2:
            return
        node.input[0] = self.last[node.input[0]]
        node.input[1] = self._new(node, "axis", np.array(int(axis) % rank - 1, np.int32))
        self._back(operation, node)

    def _squeezing(self, operation: Generated, node: NodeDef) -> None:
        rank = operation.inputs[0].shape.rank
        axes = [axis % rank for axis in node.attr["squeeze_dims"].list.i]
        if not axes or min(axes) < 2:
            return
        node.input[0] = self.last[node.input[0]]
        node.attr["squeeze_dims"].list.i[:] = [axis - 1 for axis in axes]
        self._back(operation, node)

    def _transposition(self, operation: Generated, node: NodeDef) -> None:
        """One that undoes another goes; one that Keras wrote after a pooling moves on like those written here."""
        order = _value(operation.inputs[1])
        if order is not None and list(order) == _to_first(len(order)) and node.input[0] not in self.last:
            self.last[node.name] = node.input[0]
        if order is None or node.input[0] not in self.last or list(order) != _to_last(len(order)):
            return
        node.op = "Identity"
        node.input[:] = [self.last[node.input[0]]]
        node.attr.pop("Tperm", None)

    def _turned(self, name: str, tensor: Generated, order: Sequence[int]) -> str:
        """The tensor channels last: the one that is known, or a transposition of it."""
        if name in self.last:
            return self.last[name]
        if tensor.shape.num_elements() == 1 and tensor.op.name in self.constant:
            return name
        kind, place = tensor.dtype.as_datatype_enum, f"{tensor.op.name}_{tensor.value_index}"
        if tensor.shape.rank < len(order):
            shape = [1] * (len(order) - tensor.shape.rank) + tensor.shape.as_list()
            wide = self.definition.node.add(name=self._free(f"{place}/wide"), op="Reshape", input=[name])
            wide.input.append(self._new(wide, "shape", np.array(shape, np.int32)))
            wide.attr["T"].type = kind
            name = wide.name
        turned = self._transpose(self._free(f"{place}/last"), name, order, kind)
        if tensor.shape.rank == len(order):
            self.last[name] = turned
        return turned

    def _back(self, operation: Generated, node: NodeDef) -> None:
        """Let the operation compute under another name, and its transposition channels first under the old one."""
        made, name = operation.outputs[0], node.name
        node.name = self._free(f"{name}/channels_last")
        self._transpose(name, node.name, _to_first(made.shape.rank), made.dtype.as_datatype_enum)
        self.last[name] = node.name

    def _transpose(self, name: str, source: str, order: Sequence[int], kind: int) -> str:
        node = self.definition.node.add(name=name, op="Transpose", input=[source])
        node.input.append(self._new(node, "order", np.array(order, np.int32)))
        node.attr["T"].type = kind
        return name

    def _new(self, reader: NodeDef, what: str, value: np.ndarray) -> str:
        """A constant."""
        import tensorflow as tf

        node = self.definition.node.add(name=self._free(f"{reader.name}/{what}"), op="Const")
        proto = tf.make_tensor_proto(value)
        node.attr["dtype"].type = proto.dtype
        node.attr["value"].tensor.CopyFrom(proto)
        return node.name

    def _free(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def _value(tensor: Generated) -> np.ndarray | None:
    """The value of what depends on constants alone; None where that is not known."""
    import tensorflow as tf

    value = tf.get_static_value(tensor)
    return None if value is None else np.asarray(value)
