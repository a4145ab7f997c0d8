"""Layers that look words up or hash them: neither format has operations for texts, and an app does that itself.

They stand at the inputs, so a model can be cut behind them: what they are goes into a JSON file, the rest is converted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from edgeprune.errors import Unsupported
from edgeprune.maker.keras.graphs import functional_of, nodes_of
from edgeprune.maker.keras.models import input_specs, keras_module, leaf_layers
from edgeprune.maker.keras.saved_models import SavedModel
from edgeprune.maker.keras.types import AnyModel, Layer, Node

__all__ = ["cut_preprocessing", "refuse_preprocessing"]

KINDS = ("TextVectorization", "StringLookup", "IntegerLookup", "Hashing", "HashedCrossing")
_NOT_SETTINGS = ("dtype", "idf_weights", "name", "trainable", "vocabulary", "vocabulary_size")
_FLAG = "--cut-preprocessing"


def refuse_preprocessing(model: AnyModel) -> None:
    """Raise Unsupported, naming the layer, where a model holds one that is to be cut off."""
    for layer in _layers(model):
        raise Unsupported(
            f"layer {layer.name!r} ({type(layer).__name__}) looks words up or hashes them, which no file can: add "
            f"{_FLAG} (its vocabulary and settings are written beside the file, the rest is converted), or give the "
            "model that starts behind it"
        )


def cut_preprocessing(model: AnyModel) -> tuple[AnyModel, Mapping[str, Any]]:
    """(The model behind such layers, sharing all others; what each was, for JSON, by the input that it had).

    The inputs keep their names and are now what the layers made. Raises Unsupported for a layer that cannot be cut off
    or described.
    """
    cut = _layers(model)
    if isinstance(model, SavedModel) or not cut:
        raise Unsupported(f"model {model.name!r} has none of the layers that {_FLAG} cuts off ({', '.join(KINDS)})")
    keras = keras_module()
    graph: Any = functional_of(model)
    names, nodes = list(input_specs(model)), list(_calls(graph, cut))
    for layer in cut:
        if not any(node.operation is layer for node in nodes):
            raise Unsupported(f"layer {layer.name!r} is inside another model or wrapper, where {_FLAG} cannot cut")
    known = {id(tensor): name for name, tensor in zip(names, graph.inputs, strict=True)}
    behind = {_read_by(node, graph, known): node for node in nodes}
    ends = {
        name: behind[name].outputs[0] if name in behind else end for end, name in zip(graph.inputs, names, strict=True)
    }
    fed = [keras.Input(batch_shape=end.shape, dtype=end.dtype, name=name) for name, end in ends.items()]
    made = graph._run_through_graph(
        fed, operation_fn=lambda layer: _same if any(layer is one for one in cut) else layer
    )
    settings = {name: _described(behind[name].operation) for name in names if name in behind}
    return keras.Model(fed, made, name=model.name), settings


def _layers(model: AnyModel) -> list[Layer]:
    """Outermost layers of these kinds: a TextVectorization holds a StringLookup."""
    if isinstance(model, SavedModel) or not hasattr(model, "_flatten_layers"):
        return []
    kinds = tuple(getattr(keras_module().layers, kind) for kind in KINDS)
    paths = [(*leaf.holders, leaf.layer) for leaf in leaf_layers(model)]
    found = [next((layer for layer in path if isinstance(layer, kinds)), None) for path in paths]
    return list({id(layer): layer for layer in found if layer is not None}.values())


def _calls(graph: Any, layers: list[Layer]) -> Iterator[Node]:
    for node in nodes_of(graph):
        if any(node.operation is layer for layer in layers):
            yield node


def _read_by(node: Node, graph: Any, inputs: Mapping[int, str]) -> str:
    """The name of the input that a layer reads, alone."""
    given = [id(tensor) for tensor in node.input_tensors]
    readers = [other for other in nodes_of(graph) if any(id(tensor) in given for tensor in other.input_tensors)]
    if len(given) != 1 or given[0] not in inputs or len(readers) != 1:
        raise Unsupported(
            f"layer {node.operation.name!r} is not the only reader of an input, so {_FLAG} cannot cut there"
        )
    return inputs[given[0]]


def _same(value: object, **_: object) -> object:
    return value


def _described(layer: Any) -> dict[str, Any]:
    """Class, settings and vocabulary: the number of a word is its place in the list."""
    settings = {key: value for key, value in layer.get_config().items() if key not in _NOT_SETTINGS}
    try:
        json.dumps(settings)
    except TypeError:
        plain = False
    else:
        plain = not any(isinstance(value, dict) for value in settings.values())
    if not plain or settings.get("output_mode") == "tf_idf":
        raise Unsupported(
            f"layer {layer.name!r} has a function of its own, or weights words by tf_idf, which JSON cannot say: give "
            "the model that starts behind it"
        )
    told: dict[str, Any] = {"layer": layer.name, "class": type(layer).__name__, "settings": settings}
    if hasattr(layer, "get_vocabulary"):
        told["vocabulary"] = [np.asarray(word).item() for word in layer.get_vocabulary()]
    return told
