"""What the rules share: how a layer reads channels, and what a removed one holds behind an activation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.maker.keras.types import Layer, Variable
from edgeprune.maker.pruning.channel.channel_ids import Labels
from edgeprune.maker.pruning.channel.trace import Call, Keep, Read, Trace, Values

__all__ = [
    "RUNS_OVER_CHANNELS",
    "activated",
    "apply_scalar",
    "bind_bias",
    "channel_axis",
    "consumed",
    "flow_axis",
    "kept_count",
    "positions_of",
]

Function = Callable[[Any], Any]  # of Keras, of tensors
RUNS_OVER_CHANNELS = ("softmax", "log_softmax", "sparsemax", "sparse_softmax", "glu")


def channel_axis(layer: Layer, rank: int) -> int:
    """The axis of the channels in a flow of this rank."""
    return 0 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def flow_axis(axis: int, rank: int) -> int:
    """An axis as Keras counts it (the batch is 0, the last one -1) in a flow of this rank; -1 for the batch."""
    return (axis if axis >= 0 else axis + rank + 1) - 1


def positions_of(shape: tuple[int | None, ...], channel: int) -> int:
    """How many positions a tensor has beside its channels; 0 when a size is open."""
    return math.prod(size or 0 for axis, size in enumerate(shape) if axis != channel)


def activated(trace: Trace, activation: Function | None, labels: Labels, value: float | Values, name: str) -> Values:
    """The value of a removed channel behind an activation function."""
    given = np.asarray(value, np.float64)
    kind = getattr(activation, "__name__", type(activation).__name__)
    if activation is None or kind == "linear":
        return given
    if kind in RUNS_OVER_CHANNELS:
        trace.atoms.fix(labels, f"{name} applies {kind}, which reads all channels together")
        return given
    return apply_scalar(activation, given)


def apply_scalar(function: Function, value: npt.ArrayLike) -> Values:
    """A function of Keras applied to each distinct number of a float array."""
    import keras

    array = np.asarray(value, np.float64)
    distinct, places = np.unique(array, return_inverse=True)
    made = np.asarray(function(keras.ops.convert_to_tensor(distinct.astype(np.float32))), np.float64)
    return made[places].reshape(array.shape)


def consumed(
    trace: Trace,
    layer: Layer,
    call: Call,
    axis: int,
    size: int,
    *,
    kernel: Variable | None = None,
    pads: bool = False,
    sums: bool = True,
) -> Labels:
    """Labels of the channels that a layer reads.

    A removed channel that does not hold 0 there (behind a sigmoid, say) can only go when its share can be moved into
    the bias exactly: the layer has one, its `kernel` [..., channels, outputs] sums over channels, and it never reads
    padding (`pads`).
    """
    flow = call.flows[0]
    labels = trace.vector(flow, axis, size, f"{layer.name} reads another axis of it")
    values = flow.values
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    line = np.broadcast_to(rows[0], (size,))
    constant = (labels > 0) & (line != 0)
    plain = bool((rows == rows[:1]).all() and np.isfinite(line).all())
    folds = plain and kernel is not None and bool(getattr(layer, "use_bias", False)) and not pads
    trace.reads.append(Read(layer, call.tensors[0], axis, labels, kernel, pads, sums))
    if constant.any():
        held = np.where(labels > 0, line, 0.0)
        if folds and np.array_equal(trace.folds.get(id(layer), held), held):
            trace.folds[id(layer)] = held
        else:
            trace.atoms.fix(labels[constant], f"a removed channel is not 0 where {layer.name} reads it")
            labels = np.where(constant, 0, labels)
    return labels


def bind_bias(trace: Trace, layer: Layer, labels: Labels) -> None:
    if getattr(layer, "use_bias", False):
        trace.bind(layer, layer.bias, 0, labels, made=True)


def kept_count(labels: Labels) -> Callable[[Keep], int]:
    return lambda keep: int(keep(labels).sum())
