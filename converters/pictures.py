"""Scaling at the entrance of a model becomes the scale and bias of a Core ML package's image input.

Only in the file: the Keras model keeps its layers, and the file is held against it over pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeprune.formats.metadata import ImageInput
from edgeprune.maker.keras.graphs import functional_of, graph_of, is_model, nodes_of
from edgeprune.maker.keras.models import input_specs, keras_module, output_names, predict
from edgeprune.maker.keras.saved_models import SavedModel
from edgeprune.maker.keras.types import AnyModel, Graph, Layer, Model, Node

__all__ = ["pixels_of", "scaled_outside"]

# What float32 loses where two scalings become one; share of an output's range.
_EQUAL = 1e-5
_TRIED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scaling:
    """x * scale + bias, with one bias for all channels or one for each."""

    scale: float = 1.0
    bias: tuple[float, ...] = (0.0,)

    def then(self, scale: float, bias: tuple[float, ...]) -> _Scaling:
        """This one, and x * scale + bias behind it."""
        width = max(len(self.bias), len(bias))
        first, second = (known * width if len(known) == 1 else known for known in (self.bias, bias))
        return _Scaling(
            scale=self.scale * scale,
            bias=tuple(one * scale + other for one, other in zip(first, second, strict=True)),
        )


def pixels_of(values: np.ndarray, image: ImageInput) -> np.ndarray:
    """The pixels that an image input turns into `values`, not rounded."""
    pixels = np.divide(np.subtract(values, np.asarray(image.bias, np.float32)), np.asarray(image.scale, np.float32))
    return np.asarray(pixels, np.float32)


def scaled_outside(model: AnyModel, image: ImageInput) -> tuple[AnyModel, ImageInput]:
    """(The model behind the layers that scale this input, sharing all others; the input with their scale and bias).

    Layers with one scale for all channels are taken off from the input on, as long as nothing else reads what they
    read. Where there are none, or where the model would compute something else, both come back as they are.
    """
    if isinstance(model, SavedModel) or isinstance(image.scale, tuple) or graph_of(model) is None:
        return model, image
    names = list(input_specs(model))
    if image.name not in names:
        return model, image
    place = names.index(image.name)
    behind, scaling = _behind(model, place, _Scaling(scale=image.scale, bias=image.bias))
    if behind is model:
        return model, image
    told = replace(image, scale=scaling.scale, bias=scaling.bias)
    return (behind, told) if _equal(model, image, behind, told) else (model, image)


def _behind(model: Model, place: int, scaling: _Scaling) -> tuple[Model, _Scaling]:
    """The model behind the scaling at its input number `place`, nested models opened; itself where there is none."""
    graph: Any = functional_of(model)
    names, nodes = list(input_specs(model)), list(nodes_of(graph))
    end, gone, inner = graph.inputs[place], [], {}
    while (node := _only_reader(graph, nodes, end)) is not None:
        layer = node.operation
        if is_model(layer):
            made, scaling = _behind(layer, 0, scaling)
            if made is not layer:
                inner[id(layer)] = made
            break
        told = _scaling_of(layer, end.shape[-1])
        if told is None or str(node.outputs[0].dtype) != "float32" or len(end.shape) != 4:
            break
        scaling, end = scaling.then(*told), node.outputs[0]
        gone.append(layer)
    if not gone and not inner:
        return model, scaling
    return _rebuilt(model, graph, names, place, gone, inner), scaling


def _rebuilt(
    model: Model, graph: Any, names: list[str], place: int, gone: list[Layer], inner: dict[int, Model]
) -> Model:
    """The graph without the layers `gone`, and with other models for those of `inner`."""
    keras = keras_module()
    fed = [
        keras.Input(batch_shape=end.shape, dtype="float32" if number == place else end.dtype, name=name)
        for number, (end, name) in enumerate(zip(graph.inputs, names, strict=True))
    ]
    left_out = {id(layer) for layer in gone}
    made = graph._run_through_graph(
        fed, operation_fn=lambda layer: _same if id(layer) in left_out else inner.get(id(layer), layer)
    )
    built: Any = keras.Model(fed, made, name=model.name)
    built.output_names = output_names(model)
    return built


def _same(value: object, **_: object) -> object:
    return value


def _only_reader(graph: Graph, nodes: list[Node], end: Any) -> Node | None:
    """The call that alone reads a tensor, if it reads nothing else and its layer is called nowhere else."""
    readers = [node for node in nodes if any(given is end for given in node.input_tensors)]
    if len(readers) != 1 or len(readers[0].input_tensors) != 1 or any(made is end for made in graph.outputs):
        return None
    calls = [node for node in nodes if node.operation is readers[0].operation]
    return readers[0] if len(calls) == 1 else None


def _scaling_of(layer: Any, channels: int | None) -> tuple[float, tuple[float, ...]] | None:
    """(scale, bias) of a layer that computes x * scale + bias with one scale for all channels; None for all others."""
    kind = type(layer).__name__
    if kind == "Rescaling":
        scale, bias = np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64)
    elif kind == "Normalization" and not layer.invert and getattr(layer, "mean", None) is not None:
        mean, variance = (np.asarray(value, np.float64) for value in (layer.mean, layer.variance))
        deviation = np.maximum(np.sqrt(variance), keras_module().config.epsilon())
        scale, bias = 1 / deviation, -mean / deviation
    else:
        return None
    numbers = [np.unique(scale), bias.reshape(-1)]
    single = len(numbers[0]) == 1 and numbers[0][0] != 0
    if not single or len(numbers[1]) not in (1, channels) or not all(np.isfinite(each).all() for each in numbers):
        return None
    if bias.ndim and bias.shape[-1] != bias.size:  # along another axis than that of the channels
        return None
    return float(numbers[0][0]), tuple(float(each) for each in numbers[1])


def _equal(model: Model, image: ImageInput, behind: Model, told: ImageInput) -> bool:
    """Whether both compute the same from random pixels."""
    rng = np.random.default_rng(0)

    def fed(one: Model, given: ImageInput) -> Iterator[tuple[str, np.ndarray]]:
        for name, (_, dtype) in input_specs(one).items():
            values = pixels * np.asarray(given.scale, np.float32) + np.asarray(given.bias, np.float32)
            yield name, (values if name == image.name else others[name]).astype(dtype)

    specs = input_specs(model)
    shapes = {name: (_TRIED, *(size or 16 for size in shape[1:])) for name, (shape, _) in specs.items()}
    pixels = rng.integers(0, 256, shapes[image.name]).astype(np.float32)
    others = {name: rng.integers(0, 2, shape).astype(np.float32) for name, shape in shapes.items()}
    expected, found = predict(model, dict(fed(model, image))), predict(behind, dict(fed(behind, told)))
    return all(
        bool(np.abs(values - found[name]).max(initial=0) <= _EQUAL * max(np.ptp(values), np.abs(values).max()))
        for name, values in ((name, np.asarray(each, np.float64)) for name, each in expected.items())
    )
