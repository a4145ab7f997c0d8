"""Follow channels through a Keras graph: which of them are the same, and which weights hold them.

Each tensor carries a `Flow`: for every element (without the batch) the atom that it belongs to, in compact form (an
axis along which the labels do not vary has size 1), and the value that a removed channel would have there. A layer's
rule (rules/) takes the flows of its inputs, binds the axes of its weights to labels, joins what the operation ties
together, and returns the flows of its outputs. Shared layers and models used twice meet the same bindings again, which
joins the atoms of both uses. An operation without a rule fixes what flows into it and never breaks the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.maker.keras.graphs import functional_of, is_model, nodes_of
from edgeprune.maker.keras.types import Graph, Layer, Model, Node, Tensor, Variable
from edgeprune.maker.pruning.channel.channel_ids import Atoms, Labels

__all__ = [
    "Call",
    "Flow",
    "Keep",
    "Read",
    "Rule",
    "Trace",
    "Weight",
    "compact",
]

# Which labels are kept: bool, the same shape. Labels of 0 are always kept.
Keep = Callable[[Labels], npt.NDArray[np.bool_]]
Values = npt.NDArray[np.float64]
Rule = Callable[["Trace", Layer, "Call"], "list[Flow]"]


@dataclass(frozen=True, slots=True)
class Flow:
    """What is known of a tensor. `labels` has the tensor's rank without the batch; each axis is whole or of size 1.

    `value` (broadcast with `labels`) is what an element of a removed channel holds once the weights that make it are
    zero: 0.0 after a convolution, 0.5 after a sigmoid. Only labelled elements count.
    """

    labels: Labels
    value: Values

    @property
    def labelled(self) -> list[int]:
        """The axes along which labels vary."""
        return [axis for axis, size in enumerate(self.labels.shape) if size > 1]

    @property
    def values(self) -> Values:
        """`value` in the shape of `labels` (or a wider one, where it varies along other axes)."""
        return np.broadcast_to(self.value, np.broadcast_shapes(self.value.shape, self.labels.shape))


@dataclass(slots=True)
class Weight:
    """A variable whose axes are bound. `made` says that zeros in it make a channel zero (a kernel's outputs, a bias,
    the scale and shift of a normalisation); `positions` is how often a kernel is applied for one sample."""

    variable: Variable
    layer: Layer
    name: str
    axes: dict[int, Labels] = field(default_factory=dict)
    made_axis: int | None = None
    positions: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """A layer that reads channels of a tensor along `axis` (without the batch). With a `kernel`, [..., channels,
    outputs], its sum over them is known; `pads` tells that it also reads padding, `sums` that it adds channels up (a
    depthwise convolution passes them on)."""

    layer: Layer
    tensor: Tensor
    axis: int
    labels: Labels
    kernel: Variable | None
    pads: bool
    sums: bool


@dataclass(frozen=True, slots=True)
class Call:
    """One use of a layer or operation: its node in the graph, input tensors and their flows, output tensors."""

    node: Node
    tensors: Sequence[Tensor]
    flows: Sequence[Flow]
    outputs: Sequence[Tensor]

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of the first input without the batch."""
        return tuple(self.tensors[0].shape[1:])

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of the first output without the batch."""
        return tuple(self.outputs[0].shape[1:])


class Trace:
    """The walk over a model's graph and all that it found.

    `weights` holds every bound variable by id, `edits` the options of a layer that depend on what is kept, `arguments`
    the same for the arguments of a call, `fences` what was not followed, as (layer, reason).
    """

    def __init__(self, model: Model, rules: Mapping[str, Rule], *, through_norms: bool = False) -> None:
        self.model, self.rules, self.through_norms = model, rules, through_norms
        self.atoms = Atoms()
        self.weights: dict[int, Weight] = {}
        self.edits: dict[int, dict[str, Callable[[Keep], Any]]] = {}
        self.arguments: dict[int, Callable[[Keep], tuple[Any, ...]]] = {}
        self.inputs: dict[int, list[Flow]] = {}  # of nested models, by id of the model
        self.makers: dict[int, tuple[Layer, Labels]] = {}  # layer by id -> the atoms that it makes
        self.folds: dict[int, Values] = {}  # layer by id -> what its removed input channels hold, for its bias
        self.reads: list[Read] = []
        self.calls: dict[int, int] = {}  # layer by id -> how often it is called
        self.readers: dict[int, list[Node | None]] = {}  # tensor by id -> its calls; None for an output
        self.internal: list[Labels] = []  # channels that the layer itself reads, too
        self.altered: list[tuple[str, Labels]] = []  # normalisations over channels, by name
        self.fences: list[tuple[str, str]] = []
        graph = functional_of(model)
        flows = self.run(graph, [self.nothing(t) for t in graph.inputs])
        for flow, tensor in zip(flows, graph.outputs, strict=True):
            self.atoms.fix(flow.labels, f"an output of the model ({tensor._keras_history.operation.name})")

    def run(self, graph: Graph, flows: Sequence[Flow]) -> list[Flow]:
        """The flows of a graph's outputs for those of its inputs."""
        known = dict(zip(map(id, graph.inputs), flows, strict=True))
        for node in nodes_of(graph):
            tensors = node.input_tensors
            if any(id(t) not in known for t in tensors):
                continue
            self.calls[id(node.operation)] = self.calls.get(id(node.operation), 0) + 1
            for tensor in tensors:
                self.readers.setdefault(id(tensor), []).append(node)
            read = [t for t in tensors if t is not node.arguments.kwargs.get("mask")]
            call = Call(node, read or tensors, [known[id(t)] for t in read or tensors], node.outputs)
            for tensor, flow in zip(node.outputs, self.follow(node.operation, call), strict=True):
                known[id(tensor)] = flow
        for tensor in graph.outputs:
            self.readers.setdefault(id(tensor), []).append(None)
        return [known[id(t)] for t in graph.outputs]

    def follow(self, operation: Layer, call: Call) -> list[Flow]:
        """One call: by the rule of its class, through a nested model, or fenced off."""
        if is_model(operation):
            return self._nested(operation, call)
        rule = self.rules.get(type(operation).__name__)
        known = type(operation).__module__.split(".")[0] == "keras"
        hook = getattr(operation, "edgeprune_rule", None)
        if hook is not None:
            made: list[Flow] = hook(self, call)
            return made
        if rule is None or not known:
            return self.fence(operation, call, f"{operation.name} ({type(operation).__name__}) cannot be followed")
        return [self.settled(flow) for flow in rule(self, operation, call)]

    def _nested(self, model: Model, call: Call) -> list[Flow]:
        graph = functional_of(model)
        flows = list(call.flows)
        before = self.inputs.get(id(model))
        if before is not None:  # used again: both uses lose the same channels
            flows = [self.joined(old, new, f"input of {model.name}") for old, new in zip(before, flows, strict=True)]
        self.inputs[id(model)] = flows
        return self.run(graph, flows)

    # --- What rules are made of ------------------------------------------------------------------------------------

    @staticmethod
    def nothing(tensor: Tensor) -> Flow:
        """The flow of a tensor of which nothing can be removed."""
        rank = max(len(tensor.shape) - 1, 0)
        return Flow(np.zeros((1,) * rank, np.int64), np.zeros((1,) * rank))

    def fence(self, operation: Layer, call: Call, reason: str) -> list[Flow]:
        """Nothing that flows in may be removed, and nothing is known of what comes out."""
        for flow in call.flows:
            if flow.labels.any():
                self.atoms.fix(flow.labels, reason)
        self.fences.append((operation.name, reason))
        return [self.nothing(t) for t in call.outputs]

    def make(self, layer: Layer, count: int) -> Labels:
        """The atoms that a layer makes: new ones at its first use, the same ones at each further use."""
        if id(layer) not in self.makers:
            self.makers[id(layer)] = (layer, self.atoms.make(count))
        return self.makers[id(layer)][1]

    def bind(self, layer: Layer, variable: Variable | None, axis: int, labels: Labels, *, made: bool = False) -> None:
        """Tie an axis of a variable to labels, int64 [size of the axis]."""
        if variable is None:
            return
        axis %= len(variable.shape)
        assert labels.shape == (variable.shape[axis],), (layer.name, variable.name, labels.shape, variable.shape)
        weight = self.weights.setdefault(id(variable), Weight(variable, layer, variable.name))
        if axis in weight.axes:
            labels = self.atoms.join(weight.axes[axis], labels, f"{layer.name} is shared")
        weight.axes[axis] = labels
        if made:
            weight.made_axis = axis

    def applied(self, layer: Layer, variable: Variable, positions: int) -> None:
        """Note that a kernel is applied at so many positions more for each sample."""
        weight = self.weights.setdefault(id(variable), Weight(variable, layer, variable.name))
        weight.positions += positions

    def edit(self, layer: Layer, key: str, value: Callable[[Keep], Any]) -> None:
        """An option of the layer's configuration as a function of what is kept."""
        self.edits.setdefault(id(layer), {})[key] = value

    def joined(self, a: Flow, b: Flow, reason: str) -> Flow:
        """Both flows as one: what they hold at the same place goes together."""
        return Flow(self.atoms.join(a.labels, b.labels, reason), a.value + 0 * b.value)

    def settled(self, flow: Flow) -> Flow:
        """The same flow with labels varying along one axis at most: a tensor can only lose whole slices of an axis."""
        labels = flow.labels
        if len(flow.labelled) > 1:
            labels = compact(self.atoms.roots(labels))
            while len(varying := [axis for axis, size in enumerate(labels.shape) if size > 1]) > 1:
                axis = varying[0]
                first = np.take(labels, [0], axis)
                self.atoms.join(labels, first, "part of a tensor that can only lose whole slices")
                labels = compact(self.atoms.roots(labels))
        return Flow(labels, flow.value)

    def vector(self, flow: Flow, axis: int, size: int, reason: str) -> Labels:
        """Labels along one axis, int64 [size]. Labels that vary along any other axis are fixed for `reason`."""
        axis %= max(flow.labels.ndim, 1)
        others = [other for other in flow.labelled if other != axis]
        if others:
            self.atoms.fix(flow.labels, reason)
            return np.zeros(size, np.int64)
        line = np.moveaxis(flow.labels, axis, -1).reshape(-1)
        if len(line) == 1 and size > 1 and line[0]:
            self.atoms.fix(line, reason)
            return np.zeros(size, np.int64)
        return np.array(np.broadcast_to(line, (size,)))

    def along(self, labels: Labels, rank: int, axis: int, value: float | Values = 0.0) -> Flow:
        """A flow whose labels [size] vary along one axis of a tensor of this rank."""
        shape = [1] * rank
        shape[axis] = len(labels)
        return Flow(labels.reshape(shape), np.broadcast_to(np.asarray(value, float), (len(labels),)).reshape(shape))


def compact(labels: Labels) -> Labels:
    """The same labels with each axis along which they do not vary reduced to size 1."""
    for axis, size in enumerate(labels.shape):
        if size > 1 and (labels == np.take(labels, [0], axis)).all():
            labels = np.take(labels, [0], axis)
    return labels
