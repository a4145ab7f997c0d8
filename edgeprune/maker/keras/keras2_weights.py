"""Weights of Keras 2 files into the Keras 3 model that was made from their translated configuration.

Layers are found by name and not by position: Keras 3 may order the layers of a graph otherwise. Every weight of the
model must be given a value, or the file is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.errors import InputError
from edgeprune.formats.keras.layout import store_name
from edgeprune.maker.keras.keras2 import PRUNED, Part
from edgeprune.maker.keras.models import refresh
from edgeprune.maker.keras.types import Layer, Model, Variable

if TYPE_CHECKING:
    from h5py import Group

__all__ = ["assign_h5", "assign_store"]

_OF_PRUNING = ("/mask:0", "/threshold:0", "/pruning_step:0")  # what PruneLowMagnitude keeps beside a layer's weights


def assign_h5(group: Group, model: Model, parts: Sequence[Part]) -> None:
    """Give `model` the weights of a Keras 2 `.h5` file (its group "model_weights").

    Raises InputError when they do not fit.
    """
    given: set[int] = set()
    for part in parts:
        if part.before not in group:
            continue
        stored = group[part.before]
        names = [_text(name) for name in _names(stored)]
        if _was_pruned(part):
            names = [name for name in names if not name.endswith(_OF_PRUNING)]
        values = [np.asarray(stored[name]) for name in names]
        if values:
            trained, fixed = _ordered(_layer(model, part), part)
            _assign(part.before, [*trained, *fixed], values, given)
    _finish(model, given)


def assign_store(group: Group, model: Model, parts: Sequence[Part]) -> None:
    """Give `model` the weights of a Keras 2 `.keras` archive (the root of its model.weights.h5).

    Raises InputError when they do not fit.
    """
    given: set[int] = set()
    _assign_parts(group, model, parts, given)
    _finish(model, given)


def _names(group: Group) -> list[str | bytes]:
    """The names of a layer's weights in order; a long list is cut into numbered attributes."""
    if "weight_names" in group.attrs:
        return list(group.attrs["weight_names"])
    numbered = itertools.takewhile(lambda key: key in group.attrs, (f"weight_names{n}" for n in itertools.count()))
    return [name for key in numbered for name in group.attrs[key]]


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _was_pruned(part: Part) -> bool:
    return part.kind == PRUNED or any(map(_was_pruned, part.parts))


def _layer(model: Layer, part: Part) -> Layer:
    for layer in model.layers:
        if layer.name == part.now:
            return layer
    raise InputError(f"layer {part.before!r} has weights and no place in the model")


def _ordered(layer: Layer, part: Part) -> tuple[list[Variable], list[Variable]]:
    """The trainable and the other weights of a layer in the order of Keras 2: a model's are those of its layers."""
    if part.kind == PRUNED:
        return _ordered(layer, part.parts[0])
    if not part.parts:
        return list(layer.trainable_weights), list(layer.non_trainable_weights)
    pairs = [_ordered(inner, child) for inner, child in _children(layer, part)]
    trained, fixed = ([weight for pair in pairs for weight in pair[side]] for side in (0, 1))
    return (trained, fixed) if layer.trainable else ([], trained + fixed)


def _children(layer: Layer, part: Part) -> Iterator[tuple[Layer, Part]]:
    if hasattr(layer, "layers"):
        for child in part.parts:
            if any(inner.name == child.now for inner in layer.layers):  # operations have no weights
                yield _layer(layer, child), child
    else:  # a wrapper with one layer inside
        yield layer.layer, part.parts[0]


def _assign_parts(group: Group, model: Layer, parts: Sequence[Part], given: set[int]) -> None:
    counts: dict[str, int] = {}
    stored = group.get("layers", {})
    for part in parts:
        name = store_name(part.kind, counts)
        if name in stored:
            _assign_object(stored[name], _layer(model, part), part, given)
    _assign_own(group, model, "the model", given)


def _assign_object(group: Group, layer: Layer, part: Part, given: set[int]) -> None:
    if part.kind == PRUNED:
        _assign_object(group["layer"], layer, part.parts[0], given)
        return
    if part.parts and hasattr(layer, "layers"):
        _assign_parts(group, layer, part.parts, given)
        return
    _assign_own(group, layer, part.before, given)
    for attribute in group:
        if attribute == "vars":
            continue
        inner = getattr(layer, attribute, None)
        if inner is None:
            if _holds_values(group[attribute]):
                raise InputError(
                    f"layer {part.before!r} has weights under {attribute!r}, which has no place in Keras 3"
                )
        elif isinstance(inner, list | tuple):
            counts: dict[str, int] = {}
            for item in inner:
                name = store_name(type(item).__name__, counts)
                if name in group[attribute]:
                    _assign_object(group[attribute][name], item, Part(before=part.before, now="", kind=""), given)
        else:
            child = part.parts[0] if part.parts else Part(before=part.before, now="", kind="")
            _assign_object(group[attribute], inner, child, given)


def _holds_values(group: Group) -> bool:
    return hasattr(group, "shape") or any(_holds_values(group[name]) for name in group)


def _assign_own(group: Group, layer: Layer, name: str, given: set[int]) -> None:
    stored = group.get("vars", {})
    if len(stored):
        weights = [*layer._trainable_variables, *layer._non_trainable_variables]
        weights = [weight for weight in weights if any(weight is known for known in layer.weights)]
        _assign(name, weights, [np.asarray(stored[str(index)]) for index in range(len(stored))], given)


def _assign(name: str, weights: Sequence[Variable], values: Sequence[np.ndarray], given: set[int]) -> None:
    shapes = [tuple(weight.shape) for weight in weights], [value.shape for value in values]
    if shapes[0] != shapes[1]:
        raise InputError(f"layer {name!r} has weights of the shapes {shapes[1]}, and Keras 3 makes it with {shapes[0]}")
    for weight, value in zip(weights, values, strict=True):
        weight.assign(value)
        given.add(id(weight))


def _finish(model: Model, given: set[int]) -> None:
    missing = [weight.path for weight in model.weights if id(weight) not in given]
    if missing:
        raise InputError(f"holds no value for {len(missing)} weights, the first is {missing[0]!r}")
    refresh(model)
