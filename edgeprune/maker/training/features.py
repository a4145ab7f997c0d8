"""What layers make as a lesson: those of a cut model against those of the model that it was cut from.

A channel that stayed is the same channel in both, so it can be held against its own (FitNets, Romero et al. 2015,
arXiv:1412.6550, who need a regressor in between).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import UsageError
from edgeprune.maker.keras.graphs import functional_of, graph_of, is_model, nodes_of
from edgeprune.maker.keras.types import Layer, Model
from edgeprune.maker.training.distillation_losses import FeatureDistillation

__all__ = ["Kept", "feature_losses", "teaches_by_features"]

MOST = 8  # layers, over the whole depth
READERS = ("Conv1D", "Conv2D", "Conv3D", "Dense")  # their kernels say which channels of what they read are left
Kept = Sequence[Mapping[int, npt.NDArray[np.intp]]]


@dataclass(frozen=True, slots=True)
class _Feature:
    """What a layer of the teacher makes, and which of its channels the student has, None for all."""

    layer: str
    channels: npt.NDArray[np.intp] | None


def feature_losses(teacher: Model, student: Model, kept: Kept | None) -> list[FeatureDistillation]:
    """A loss for each of up to MOST layers whose channels are read by a kernel, of the same name in both models.

    `kept` is what is left of each weight of the teacher in the student; without it layers of equal widths are compared.
    Raises UsageError where there is none.
    """
    if graph_of(teacher) is None or graph_of(student) is None:
        raise UsageError("features are those of named layers: the model has to be Functional or Sequential")
    found = _comparable(teacher, student, kept)
    if not found:
        raise UsageError("features finds no layer that both models have and a kernel reads: leave it out")
    places = sorted({round(place) for place in np.linspace(0, len(found) - 1, MOST)})
    return [
        FeatureDistillation(
            "mse",
            each.layer,
            each.layer,
            teacher_channels=None if each.channels is None else each.channels.tolist(),
            relative=True,
        )
        for each in (found[place] for place in places)
    ]


def teaches_by_features(model: Model) -> bool:
    """Whether models that are cut out of this one can be held against it layer by layer."""
    return graph_of(model) is not None and bool(_comparable(model, model, None))


def _comparable(teacher: Model, student: Model, kept: Kept | None) -> list[_Feature]:
    able = {layer.name: layer for layer in student.layers}
    return [each for each in _features(teacher, kept) if _fits(each, teacher, able.get(each.layer))]


def _features(teacher: Model, kept: Kept | None) -> Iterator[_Feature]:
    """What kernels read, each once, in the order of the graph."""
    numbers = {id(weight): number for number, weight in enumerate(teacher.weights)}
    seen: set[str] = set()
    for node in nodes_of(functional_of(teacher)):
        reader = node.operation
        layout = (getattr(reader, "groups", 1), getattr(reader, "data_format", "channels_last"))
        if type(reader).__name__ not in READERS or layout != (1, "channels_last"):
            continue
        maker = node.input_tensors[0]._keras_history.operation
        if maker.name in seen or type(maker).__name__ == "InputLayer" or is_model(maker):
            continue
        seen.add(maker.name)
        kernel: Any = getattr(reader, "kernel", None)
        number = numbers.get(id(kernel))
        left = None if kept is None or number is None else kept[number].get(len(kernel.shape) - 2)
        yield _Feature(maker.name, None if left is None else np.asarray(left))


def _fits(feature: _Feature, teacher: Model, own: Layer | None) -> bool:
    """Whether the student's layer makes these channels of the same places; maps of one place say little."""
    try:
        shapes = [tuple(layer.output.shape) for layer in (teacher.get_layer(feature.layer), own) if layer is not None]
    except AttributeError:  # used several times, or it makes several tensors
        return False
    if len(shapes) < 2 or None in shapes[0][1:]:
        return False
    channels = shapes[0][-1] if feature.channels is None else len(feature.channels)
    single = len(shapes[0]) > 2 and set(shapes[0][1:-1]) == {1}
    return (*shapes[0][:-1], channels) == shapes[1] and not single
