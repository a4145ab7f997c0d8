"""Parity of one channel at a time: what an output that joins unlike numbers hides.

A detector's output may hold boxes in pixels beside scores in 0 to 1. One scale for both leaves the scores two values,
and the whole output looks right, because nearly all of its power is in the boxes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeprune.ledger import POOR_SQNR_DB, ChannelParity
from edgeprune.maker.keras.models import output_names
from edgeprune.maker.keras.types import AnyModel, Tensor

__all__ = ["joined_axes", "poor_channels"]

# Beyond this share of its size, a channel varies by more than float32 rounds.
_VARIES = 1e-6
_ONE_SUM = 1e-3
# Layers that leave every number in its place.
_IN_PLACE = frozenset({"Activation", "Cast", "Dropout", "Identity", "Rescaling", "ReLU", "Sigmoid", "Tanh"})


def poor_channels(expected: np.ndarray, exported: np.ndarray, axis: int | None = None) -> tuple[ChannelParity, ...]:
    """The channels of an output [samples, ...] whose SQNR against their own variance is below POOR_SQNR_DB.

    Channels are those of the last axis and, where an output was joined along another one, of `axis`. Classes of one
    distribution (no number is negative and all sum up to 1) share their unit and are left out, as are channels that do
    not vary.
    """
    if expected.ndim < 2 or expected.dtype.kind != "f" or not expected.size:
        return ()
    last = -1 if axis is None or axis % expected.ndim == expected.ndim - 1 else axis % expected.ndim - expected.ndim
    return tuple(item for along in dict.fromkeys((-1, last)) for item in _poor_along(expected, exported, along))


def _poor_along(expected: np.ndarray, exported: np.ndarray, axis: int) -> list[ChannelParity]:
    model = np.moveaxis(expected, axis, -1).reshape(-1, expected.shape[axis]).astype(np.float64)
    file = np.moveaxis(exported, axis, -1).reshape(-1, expected.shape[axis]).astype(np.float64)
    if model.shape[1] < 2 or not (np.isfinite(model).all() and np.isfinite(file).all()) or _is_distribution(model):
        return []
    variance, noise = model.var(0), np.square(model - file).mean(0)
    varies = variance > np.square(_VARIES * np.abs(model).max(0))
    poor = np.flatnonzero(varies & (noise > variance / 10 ** (POOR_SQNR_DB / 10)))
    return [
        ChannelParity(
            axis=axis,
            channel=int(index),
            range=float(np.ptp(model[:, index])),
            max_error=float(np.abs(model[:, index] - file[:, index]).max()),
            sqnr_db=10 * math.log10(variance[index] / noise[index]),
        )
        for index in poor
    ]


def _is_distribution(rows: np.ndarray) -> bool:
    return bool(rows.min() >= 0 and np.abs(rows.sum(1) - 1).max() <= _ONE_SUM)


def joined_axes(model: AnyModel) -> Mapping[str, int]:
    """The axis along which an output of a Keras model was joined by Concatenate, by the output's name."""
    from edgeprune.maker.keras.graphs import graph_of

    graph = graph_of(model)
    if graph is None:
        return {}
    found = {name: _joined(output) for name, output in zip(output_names(model), graph.outputs, strict=True)}
    return {name: axis for name, axis in found.items() if axis is not None}


def _joined(tensor: Tensor) -> int | None:
    """The axis of the Concatenate behind a tensor; nested models, and what swaps axes or leaves numbers in place, are
    passed through."""
    from edgeprune.maker.keras.graphs import functional_of, is_model

    axes = list(range(len(tensor.shape)))
    while True:
        made = tensor._keras_history
        operation = made.operation
        if is_model(operation):
            tensor = functional_of(operation).outputs[made.tensor_index]
            continue
        kind = type(operation).__name__
        if kind == "Concatenate":
            return axes.index(operation.axis % len(axes))
        if kind == "Permute":
            axes = [(0, *operation.dims)[axis] for axis in axes]
        elif kind not in _IN_PLACE:
            return None
        tensor = operation._inbound_nodes[made.node_index].input_tensors[0]
