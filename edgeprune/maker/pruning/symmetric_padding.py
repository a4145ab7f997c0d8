"""Padding that sparse kernels can take: a Keras model whose convolutions are padded by half the kernel on all sides.

XNNPACK asks for that, as the map stands or with the image turned by 180 degrees (`checker.sparse_kernels.windows`).
What neither makes right, an odd map at stride 2 behind ZeroPadding2D(((0, 1), (0, 1))) for one, is padded anew here:
the windows lie elsewhere and the map may grow by a row, so the model computes something else until it is fine-tuned.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeprune.checker.sparse_kernels.windows import AxisWindow, same_padding
from edgeprune.errors import Unsupported
from edgeprune.maker.keras.graphs import functional_of, is_model, nodes_of
from edgeprune.maker.keras.models import keras_module, one_line, refresh, unlocked
from edgeprune.maker.keras.types import Layer, Model, Node, Shape, Tensor

__all__ = ["pad_symmetrically"]

_MOVED = ("Conv2D", "DepthwiseConv2D")
Sides = tuple[tuple[int, int], tuple[int, int]]  # (top, bottom), (left, right)


def pad_symmetrically(model: Model) -> tuple[Model, tuple[str, ...]]:
    """A model with the same weights whose layers are padded as sparse kernels want, and the layers that changed.

    Where nothing has to change, it is the model itself. Raises Unsupported for a model that is no graph of layers or
    has maps of open size, and where a layer behind cannot take a map that grew.
    """
    turned = min((True, False), key=lambda turned: len(_wrong(model, turned=turned)))
    if not _wrong(model, turned=turned):
        return model, ()
    rebuild = _Rebuild(model, turned=turned)
    made = rebuild.model()
    made.set_weights(model.get_weights())
    refresh(made)
    return made, tuple(rebuild.changed)


def _wrong(model: Model, *, turned: bool) -> list[str]:
    """The layers, nested models' too, that are padded otherwise."""
    found = []
    graph = functional_of(model)
    pads = _pads_of(model)
    for node in nodes_of(graph):
        if is_model(node.operation):
            found += _wrong(node.operation, turned=turned)
        elif _moves(node.operation):
            pad = pads.get(id(node.operation))
            shape = tuple((node if pad is None else pad).input_tensors[0].shape)
            windows = _windows(node.operation, shape, _sides(pad.operation) if pad else None)
            if not all(axis.symmetric(turned=turned) for axis in windows):
                found.append(node.operation.name)
    return found


def _moves(layer: Layer) -> bool:
    """Whether a layer moves a kernel over a map."""
    return (
        type(layer).__name__ in _MOVED
        and max(layer.kernel_size) > 1
        and all(size % 2 for size in layer.kernel_size)
        and tuple(layer.dilation_rate) == (1, 1)
        and layer.data_format == "channels_last"
        and layer.padding in ("same", "valid")
    )


def _pads_of(model: Model) -> dict[int, Node]:
    """A convolution by id -> the call of the ZeroPadding2D before it that is its alone."""
    nodes = list(nodes_of(functional_of(model)))
    readers: dict[int, list[Node]] = {}
    for node in nodes:
        for tensor in node.input_tensors:
            readers.setdefault(id(tensor), []).append(node)
    outputs = {id(tensor) for tensor in functional_of(model).outputs}
    found = {}
    for node in nodes:
        reading = readers.get(id(node.outputs[0]), [])
        alone = len(reading) == 1 and id(node.outputs[0]) not in outputs
        if type(node.operation).__name__ == "ZeroPadding2D" and alone and _moves(reading[0].operation):
            found[id(reading[0].operation)] = node
    return found


def _sides(pad: Layer) -> Sides:
    (top, bottom), (left, right) = pad.padding
    return (top, bottom), (left, right)


def _windows(layer: Layer, shape: Sequence[int | None], sides: Sides | None) -> tuple[AxisWindow, AxisWindow]:
    """How a layer's kernel moves over height and width of a map [batch, height, width, channels]."""
    made = []
    for axis in (0, 1):
        size, kernel, stride = shape[1 + axis], layer.kernel_size[axis], layer.strides[axis]
        if size is None:
            raise Unsupported(f"{layer.name}: a map of open size cannot be padded anew: give the model a fixed size")
        before, behind = sides[axis] if sides else (0, 0)
        if layer.padding == "same":
            more = same_padding(size + before + behind, kernel, stride)
            before, behind = before + more[0], behind + more[1]
        made.append(AxisWindow(size=size, kernel=kernel, stride=stride, before=before, behind=behind))
    return made[0], made[1]


def _wanted(axis: AxisWindow, *, turned: bool) -> tuple[int, int]:
    """(before, behind) that half the kernel on both sides comes to, with what no window reaches left out."""
    steps = (axis.size + 2 * axis.half - axis.kernel) // axis.stride + 1
    used = (steps - 1) * axis.stride + axis.kernel - axis.size - axis.half
    return (used, axis.half) if turned else (axis.half, max(used, 0))


class _Rebuild:
    """A copy of a model, layer by layer: padding stands before each convolution that needs other."""

    def __init__(self, model: Model, *, turned: bool) -> None:
        self.keras, self.turned, self.source = keras_module(any_backend=True), turned, model
        self.changed: list[str] = []
        self._made: dict[int, Layer] = {}  # by the old layer's id

    def model(self) -> Model:
        """The copy. Raises Unsupported where a layer behind does not take a map that grew."""
        with warnings.catch_warnings(), unlocked():  # code in the model (Lambda) was allowed when it was loaded
            warnings.simplefilter("ignore")
            try:
                return self._graph(self.source, [tuple(t.shape) for t in functional_of(self.source).inputs])
            except (ValueError, TypeError) as cause:
                raise Unsupported(
                    f"model {self.source.name!r} cannot be padded anew: {one_line(cause)[:160]}"
                ) from cause

    def _graph(self, model: Model, shapes: Sequence[Shape]) -> Model:
        graph, pads = functional_of(model), _pads_of(model)
        inputs = [
            self.keras.Input(batch_shape=shape, dtype=t.dtype, name=t._keras_history.operation.name)
            for shape, t in zip(shapes, graph.inputs, strict=True)
        ]
        known = dict(zip(map(id, graph.inputs), inputs, strict=True))
        waiting = {id(pad.operation) for pad in pads.values()}  # their convolutions decide
        for node in nodes_of(graph):
            if id(node.operation) in waiting:
                known[id(node.outputs[0])] = known[id(node.input_tensors[0])]
                continue
            pad = pads.get(id(node.operation))
            outputs = self._call(node, known, pad.operation if pad is not None else None)
            known.update(zip(map(id, node.outputs), self.keras.tree.flatten(outputs), strict=True))
        pack = self.keras.tree.pack_sequence_as
        ends = pack(graph._inputs_struct, inputs), pack(graph._outputs_struct, [known[id(t)] for t in graph.outputs])
        return self.keras.Model(*ends, name=model.name)

    def _call(self, node: Node, known: dict[int, Tensor], pad: Layer | None) -> Any:
        """What a layer makes of the new tensors."""
        layer = self._layer(node.operation, [tuple(known[id(t)].shape) for t in node.input_tensors])
        args, kwargs = node.arguments.fill_in(known)
        if not _moves(node.operation):
            return layer(*args, **kwargs)
        sides = _sides(pad) if pad is not None else None
        windows = _windows(layer, tuple(args[0].shape), sides)
        if not all(axis.symmetric(turned=self.turned) for axis in windows):
            sides = (_wanted(windows[0], turned=self.turned), _wanted(windows[1], turned=self.turned))
            layer.padding = "valid"
            self.changed.append(layer.name)
        if sides is None or not np.any(sides):
            return layer(*args, **kwargs)
        name = pad.name if pad is not None else f"{layer.name}_pad"
        return layer(self.keras.layers.ZeroPadding2D(sides, name=name)(args[0]), *args[1:], **kwargs)

    def _layer(self, old: Layer, shapes: Sequence[Shape]) -> Any:
        """The new layer for an old one, the same one for each of its uses."""
        if id(old) not in self._made:
            self._made[id(old)] = self._graph(old, shapes) if is_model(old) else type(old).from_config(old.get_config())
        return self._made[id(old)]
