"""Name the first layer at which an exported file departs from its Keras model.

Converters fold, fuse and rename, so tensors of the file are matched with the outputs of layers by their values: a layer
agrees when some tensor of the file equals its output on the same samples, whatever its name and layout. A layer that is
fused into the next one has no tensor of its own; it is sound when a layer behind it agrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.checker.agreement import Departure, LayerMatch
from edgeprune.converters.channel_parity import poor_channels
from edgeprune.converters.parity import sqnr_db
from edgeprune.errors import Unsupported
from edgeprune.maker.keras.models import input_specs, keras_module
from edgeprune.maker.keras.types import AnyModel, Node, Tensor

__all__ = ["find_departure", "layer_outputs", "match_layers"]

Array = np.ndarray
# Smallest signal to noise ratio, decibels, at which a tensor counts as the layer's output.
ENOUGH_DB = {"float32": 60.0, "float16": 40.0}
ENOUGH_QUANTIZED_DB = 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Played:
    """One call of a layer: its output [samples, ...], the calls that made its inputs, and the axis that it joins."""

    layer: str
    kind: str
    values: Array
    feeds: tuple[int, ...]
    joins: int | None = None


def layer_outputs(model: AnyModel, inputs: Mapping[str, Array]) -> list[_Played]:
    """The output of each call of a layer, nested models opened, in order of execution.

    Raises Unsupported for a model that is no graph of layers.
    """
    keras_module()
    import tensorflow as tf

    from edgeprune.maker.keras.graphs import functional_of, is_model
    from edgeprune.maker.pruning.channel.observe import play

    if not is_model(model):
        name = getattr(model, "name", "the model")
        raise Unsupported(f"{name}: --bisect names layers of Functional or Sequential models, and this is neither")
    played: list[_Played] = []
    makers: dict[int, int] = {}
    kept: list[object] = []  # ids are of living tensors only

    def seen(node: Node, given: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        feeds = tuple(sorted({makers[id(value)] for value in given if id(value) in makers}))
        kept.extend([*given, *outputs])
        if is_model(node.operation):
            return
        for output in outputs:
            if id(output) in makers:
                continue
            makers[id(output)] = len(played)
            values = np.asarray(output).astype(np.float32)
            name = node.operation.name
            kind = type(node.operation).__name__
            joins = node.operation.axis if kind == "Concatenate" else None
            played.append(_Played(layer=name, kind=kind, values=values, feeds=feeds, joins=joins))

    values = [tf.constant(np.asarray(inputs[name], dtype)) for name, (_, dtype) in input_specs(model).items()]
    play(functional_of(model), values, seen)
    return played


def match_layers(
    played: Sequence[_Played], tensors: Sequence[tuple[str, Array]], precision: str
) -> tuple[LayerMatch, ...]:
    """Each layer with its closest tensor among those of its size; an output agrees when all its channels do."""
    enough = ENOUGH_DB.get(precision, ENOUGH_QUANTIZED_DB)
    read = {feed for call in played for feed in call.feeds}
    by_size: dict[int, list[tuple[str, Array]]] = {}
    for name, values in tensors:
        by_size.setdefault(values.size, []).append((name, values))
    found = []
    for index, call in enumerate(played):
        best, tensor, closest = -np.inf, "", None
        for name, values in by_size.get(call.values.size, []):
            close = _closeness(call.values, values)
            if (close, name) > (best, tensor):
                best, tensor, closest = close, name, values
        decibels = None if best == np.inf else best
        # What nobody reads is an output: every channel of it counts.
        fine = best >= enough and (index in read or closest is None or not _hides_channels(call, closest, enough))
        found.append(LayerMatch(layer=call.layer, kind=call.kind, tensor=tensor, sqnr_db=decibels, agrees=bool(fine)))
    return tuple(found)


def _hides_channels(call: _Played, tensor: Array, enough: float) -> bool:
    """Whether the tensor, in the layer's own layout, is close to its output as a whole and far from it in a channel."""
    if call.values.shape != tensor.shape:
        return False
    whole = sqnr_db(call.values, tensor)
    return whole is not None and whole >= enough and bool(poor_channels(call.values, tensor, call.joins))


def _closeness(layer: Array, tensor: Array) -> float:
    """Largest signal to noise ratio over the layouts that converters use; +inf for equal."""
    best = -np.inf
    for view in _layouts(layer, tensor.shape):
        if view.shape[0] == tensor.shape[0]:
            found = sqnr_db(view.reshape(-1), tensor.reshape(-1))
            equal = found is None and bool(np.isfinite(view).all() and np.isfinite(tensor).all())
            best = max(best, np.inf if equal else -np.inf if found is None else found)
    return float(best)


def _layouts(layer: Array, shape: tuple[int, ...]) -> list[Array]:
    """The layer's output as it is, with channels first, and with the sample's axes reversed or swapped in pairs."""
    views = [layer]
    if layer.ndim > 2:
        views.append(np.moveaxis(layer, -1, 1))
        views.append(np.moveaxis(layer, 1, -1))
    wanted = [size for size in shape[1:] if size != 1]
    flat = [view for view in views if [size for size in view.shape[1:] if size != 1] == wanted]
    return flat or views


def find_departure(played: Sequence[_Played], matches: Sequence[LayerMatch]) -> Departure:
    """The first layer in order of execution that does not agree and has no layer behind it that does."""
    sound = [match.agrees for match in matches]
    for index in range(len(played) - 1, -1, -1):
        if sound[index]:
            for feed in played[index].feeds:
                sound[feed] = True
    first = next((index for index, fine in enumerate(sound) if not fine), None)
    before = [match.layer for match in matches[: first or 0] if match.agrees]
    return Departure(
        first=None if first is None else matches[first],
        last_sound=before[-1] if before else None,
        layers=tuple(matches),
    )
