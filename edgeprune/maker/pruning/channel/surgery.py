"""Rebuild a Keras model without some of its channels: same layers, same names, same topology, smaller weights.

The new model is plain Keras: nothing of edgeprune is in it. The old one is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import EdgepruneError
from edgeprune.maker.keras.graphs import functional_of, is_model, nodes_of
from edgeprune.maker.keras.models import keras_module, refresh, unlocked
from edgeprune.maker.keras.types import Layer, Model, Node, Shape, Tensor, Variable
from edgeprune.maker.pruning.channel.channel_ids import Labels
from edgeprune.maker.pruning.channel.groups import Kept, Structure
from edgeprune.maker.pruning.channel.trace import Read, Trace

__all__ = ["Places", "Shifts", "bias_shifts", "can_fold", "cut", "kept_places", "norm_behind", "part", "zeroed"]


Places = Mapping[int, npt.NDArray[np.intp]]  # axis -> places that are kept
Shifts = Mapping[int, npt.NDArray[np.float64]]  # id of a layer -> what each of its input channels holds


def cut(structure: Structure, kept: Kept, held: Shifts | None = None) -> Model:
    """A new model that holds the kept units only.

    `held` says what the removed channels hold where a layer reads them; their share moves into its bias. By default it
    is what they hold when the weights that make them are zero. Raises EdgepruneError when a layer cannot be rebuilt.
    """
    with unlocked():  # code in the model (Lambda) was allowed when it was loaded
        return _Cut(structure, kept, structure.trace.folds if held is None else held).model()


class _Cut:
    """The state of one rebuild: new layers by the id of the old ones."""

    def __init__(self, structure: Structure, kept: Kept, held: Shifts) -> None:
        self.keras = keras_module(any_backend=True)
        self._shifts = {id(bias): shift for bias, shift in bias_shifts(structure, kept, held)}
        self.trace, self.structure, self.kept = structure.trace, structure, kept
        self._made: dict[int, Layer] = {}

    def keep(self, labels: Labels) -> npt.NDArray[np.bool_]:
        return self.structure.keep(self.kept, labels)

    def model(self) -> Model:
        old = self.trace.model
        new = self._graph(old, [tuple(t.shape) for t in functional_of(old).inputs])
        self._weigh(old, new)
        return new

    def _graph(self, model: Model, shapes: Sequence[Shape]) -> Model:
        """A model of the same class and name around new layers."""
        if isinstance(model, self.keras.Sequential):
            return self._sequential(model, shapes[0])
        graph = functional_of(model)
        inputs = [
            self.keras.Input(batch_shape=shape, dtype=t.dtype, name=t._keras_history.operation.name)
            for shape, t in zip(shapes, graph.inputs, strict=True)
        ]
        known = dict(zip(map(id, graph.inputs), inputs, strict=True))
        for node in nodes_of(graph):
            if any(id(t) not in known for t in node.input_tensors):
                continue
            self._call(node, known)
        pack = self.keras.tree.pack_sequence_as
        outputs = [known[id(t)] for t in graph.outputs]
        return self.keras.Model(
            pack(graph._inputs_struct, inputs), pack(graph._outputs_struct, outputs), name=model.name
        )

    def _sequential(self, model: Model, shape: Shape) -> Model:
        first = functional_of(model).inputs[0]
        made = self.keras.Sequential(name=model.name)
        made.add(self.keras.Input(batch_shape=shape, dtype=first.dtype, name=first._keras_history.operation.name))
        for layer in model.layers:
            made.add(self._layer(layer))
        return made

    def _call(self, node: Node, known: dict[int, Tensor]) -> None:
        new = self._layer(node.operation)
        edited = self.trace.arguments.get(id(node))
        if edited is not None:
            tensor, *rest = edited(self.keep)
            outputs = new(known[id(tensor)], *rest)
        else:
            args, kwargs = node.arguments.fill_in(known)
            outputs = new(*args, **kwargs)
        for old, made in zip(node.outputs, self.keras.tree.flatten(outputs), strict=True):
            known[id(old)] = made

    def _layer(self, old: Layer) -> Layer:
        """The new layer or operation for an old one, the same one for each of its uses."""
        if id(old) not in self._made:
            self._made[id(old)] = self._new_layer(old)
        return self._made[id(old)]

    def _new_layer(self, old: Layer) -> Layer:
        if is_model(old):
            return self._graph(old, self._inner_shapes(old))
        if isinstance(old, self.keras.layers.Bidirectional):
            ways = [self._plain(way) for way in (old.forward_layer, old.backward_layer)]
            return self._plain(old, layer=ways[0], backward_layer=ways[1])
        if isinstance(old, self.keras.layers.TimeDistributed):
            return self._plain(old, layer=self._layer(old.layer))
        return self._plain(old)

    def _inner_shapes(self, model: Model) -> list[Shape]:
        """Input shapes of a nested model: its own (it may be used at several sizes), but for the channels that go."""
        shapes = []
        for tensor, flow in zip(functional_of(model).inputs, self.trace.inputs[id(model)], strict=True):
            shape = list(tensor.shape)
            for axis in flow.labelled:
                shape[1 + axis] = int(self.keep(flow.labels.reshape(-1)).sum())
            shapes.append(tuple(shape))
        return shapes

    def _plain(self, old: Layer, **replaced: Layer) -> Layer:
        config = {**old.get_config(), **replaced}
        for key, value in self.trace.edits.get(id(old), {}).items():
            config[key] = value(self.keep)
        if replaced:  # wrappers take layers, and deserialise configurations
            return type(old)(**{k: v for k, v in config.items() if k not in ("build_config",)})
        return type(old).from_config(config)

    def _weigh(self, old: Model, new: Model) -> None:
        """Copy what is kept of each weight."""
        if len(old.weights) != len(new.weights):
            raise EdgepruneError(
                f"model {old.name!r} was rebuilt with {len(new.weights)} weights, not {len(old.weights)}"
            )
        for variable, target in zip(old.weights, new.weights, strict=True):
            values = self._kept_part(variable, np.asarray(variable))
            if values.shape != tuple(target.shape):
                raise EdgepruneError(
                    f"{variable.path}: {values.shape} is left of {tuple(variable.shape)}, the new layer has "
                    f"{tuple(target.shape)}"
                )
            target.assign(values)
        refresh(new)

    def _kept_part(self, variable: Variable, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        values = values + self._shifts[id(variable)] if id(variable) in self._shifts else values
        return part(values, kept_places(self.structure, self.kept, variable))


def kept_places(structure: Structure, kept: Kept, variable: Variable) -> Places:
    """What is kept of a weight: places along each axis that loses some."""
    weight = structure.trace.weights.get(id(variable))
    masks = {axis: structure.keep(kept, labels) for axis, labels in weight.axes.items()} if weight else {}
    return {axis: np.flatnonzero(mask) for axis, mask in masks.items() if not mask.all()}


def part(values: npt.NDArray[Any], places: Places) -> npt.NDArray[Any]:
    """The kept part of an array in the shape of a weight."""
    for axis, kept in places.items():
        values = np.take(values, kept, axis)
    return values


def bias_shifts(structure: Structure, kept: Kept, held: Shifts) -> Iterator[tuple[Variable, npt.NDArray[Any]]]:
    """(bias, what removed channels add to it) for every layer that reads channels which hold a constant."""
    for read in structure.trace.reads:
        values = held.get(id(read.layer))
        if values is None or read.kernel is None:
            continue
        values = np.where(structure.keep(kept, read.labels), 0.0, values)
        if values.any():
            kernel = np.asarray(read.kernel, np.float64)
            shift = values @ kernel.reshape(-1, *kernel.shape[-2:]).sum(0)
            if read.layer.use_bias:
                yield read.layer.bias, shift.astype(np.float32)
            elif (norm := norm_behind(structure.trace, read.layer)) is not None:
                yield norm.moving_mean, -shift.astype(np.float32)


def norm_behind(trace: Trace, layer: Layer) -> Layer | None:
    """The batch normalisation that alone reads what a layer makes, or None."""
    if trace.calls.get(id(layer)) != 1 or getattr(layer.activation, "__name__", "") != "linear":
        return None
    readers = trace.readers.get(id(layer._inbound_nodes[0].outputs[0]), [])
    norm = readers[0].operation if len(readers) == 1 and readers[0] is not None else None
    once = norm is not None and trace.calls.get(id(norm)) == 1
    return norm if once and type(norm).__name__ == "BatchNormalization" else None


def can_fold(trace: Trace, read: Read) -> bool:
    """Whether the share of a constant channel can leave this layer exactly."""
    if read.kernel is None or read.pads:
        return False
    return bool(read.layer.use_bias) or norm_behind(trace, read.layer) is not None


def zeroed(structure: Structure, kept: Kept, copy: Callable[[Model], Model]) -> Model:
    """A copy of the model in which the removed channels are zero: the weights that make them, their biases, scales and
    shifts. What `cut` must equal."""
    trace = structure.trace
    model = copy(trace.model)
    for variable, target in zip(trace.model.weights, model.weights, strict=True):
        weight = trace.weights.get(id(variable))
        if weight is None or weight.made_axis is None:
            continue
        gone = ~structure.keep(kept, weight.axes[weight.made_axis])
        if gone.any():
            values = np.array(target)
            np.moveaxis(values, weight.made_axis, 0)[gone] = 0
            target.assign(values)
    refresh(model)
    return model
