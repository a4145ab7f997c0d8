"""Rules of what changes elements and leaves shapes alone: normalisation, activation, dropout."""

from __future__ import annotations

import numpy as np

from edgeprune.maker.keras.types import Layer
from edgeprune.maker.pruning.channel.rules.reading import activated, flow_axis, kept_count
from edgeprune.maker.pruning.channel.trace import Call, Flow, Trace

__all__ = [
    "across_channels",
    "batch_norm",
    "elementwise",
    "group_norm",
    "layer_scale",
    "prelu",
    "same",
    "softmax",
    "whole_norm",
]


def batch_norm(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """Scale, shift and statistics go with the channel."""
    flow, rank = call.flows[0], len(call.shape)
    axis = flow_axis(layer.axis, rank)
    labels = trace.vector(flow, axis, int(call.shape[axis] or 0), f"{layer.name} normalises another axis")
    # A channel is switched off by scale and shift; without a scale its mean is zero too, else it would be left over.
    off = ("gamma", "beta") if layer.scale else ("beta", "moving_mean")
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        trace.bind(layer, getattr(layer, name, None), 0, labels, made=name in off)
    if not layer.scale and np.any(flow.value):
        trace.atoms.fix(labels, f"a removed channel is not 0 where {layer.name} reads it")
    return [trace.along(labels, rank, axis)]


def layer_scale(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """A factor for each channel (LayerScale of ConvNeXt, arXiv:2103.17239)."""
    labels = trace.vector(call.flows[0], len(call.shape) - 1, int(call.shape[-1] or 0), layer.name)
    trace.bind(layer, layer.gamma, 0, labels, made=True)
    return [trace.along(labels, len(call.shape), len(call.shape) - 1)]


def across_channels(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """LayerNormalization and its kin: other channels change when one goes; only followed when asked."""
    flow, rank = call.flows[0], len(call.shape)
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    norm_axes = sorted(flow_axis(axis, rank) for axis in axes)
    if not flow.labels.any() or not set(flow.labelled) & set(norm_axes):
        return [flow]
    reason = f"{layer.name} ({type(layer).__name__}) normalises over the channels: their statistics would change"
    if not trace.through_norms or norm_axes != [rank - 1]:
        trace.atoms.fix(flow.labels, reason)
        return [trace.nothing(call.outputs[0])]
    labels = trace.vector(flow, rank - 1, int(call.shape[-1] or 0), reason)
    for name in ("gamma", "beta", "scale"):
        variable = getattr(layer, name, None)
        if hasattr(variable, "assign"):
            trace.bind(layer, variable, 0, labels, made=True)
    trace.altered.append((layer.name, labels))
    return [trace.along(labels, rank, rank - 1)]


def group_norm(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """Whole groups go, which leaves the statistics of the others alone; when asked, the same places of every group."""
    flow, rank = call.flows[0], len(call.shape)
    if not flow.labels.any():
        return [flow]
    if np.any(flow.value):
        trace.atoms.fix(flow.labels, f"a removed channel is not 0 where {layer.name} reads it")
        return [trace.nothing(call.outputs[0])]
    axis = flow_axis(layer.axis, rank)
    reason = f"{layer.name} normalises groups of channels together"
    labels = trace.vector(flow, axis, int(call.shape[axis] or 0), reason)
    places = labels.reshape(layer.groups, -1)
    if trace.through_norms and places.shape[1] > 1:
        trace.atoms.join(places, places[:1], reason)
        trace.altered.append((layer.name, labels))
    else:
        trace.atoms.join(places, places[:, :1], reason)
        trace.edit(layer, "groups", kept_count(places[:, 0]))
    for variable in (layer.gamma, layer.beta):
        trace.bind(layer, variable, 0, labels, made=True)
    return [trace.along(labels, rank, axis)]


def whole_norm(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """Statistics over all channels of a sample (or constants for each channel): not followed."""
    if not call.flows[0].labels.any():
        return list(call.flows[:1])
    return trace.fence(layer, call, f"{layer.name} ({type(layer).__name__}) reads all channels of a sample together")


def prelu(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """The slopes go with the channel."""
    flow = call.flows[0]
    for axis in flow.labelled:
        if layer.alpha.shape[axis] > 1:
            trace.bind(layer, layer.alpha, axis, trace.vector(flow, axis, layer.alpha.shape[axis], layer.name))
    if np.any(flow.value):
        trace.atoms.fix(flow.labels, f"a removed channel is not 0 where {layer.name} reads it")
    return [flow]


def same(_trace: Trace, _layer: Layer, call: Call) -> list[Flow]:
    """Nothing changes for a channel."""
    return [call.flows[0]]


def elementwise(trace: Trace, operation: Layer, call: Call) -> list[Flow]:
    """One tensor in, the same function of each element out."""
    flow = call.flows[0]
    if len(call.flows) > 1:
        return trace.fence(operation, call, f"{operation.name} is given a second tensor")
    if not flow.labels.any():
        return [flow]
    activation = getattr(operation, "activation", None) or operation
    return [Flow(flow.labels, activated(trace, activation, flow.labels, flow.value, operation.name))]


def softmax(trace: Trace, operation: Layer, call: Call) -> list[Flow]:
    """Softmax over positions leaves constants behind, over channels it reads all of them: not followed."""
    flow, rank = call.flows[0], len(call.shape)
    axes = operation.axis if isinstance(operation.axis, list | tuple) else [operation.axis]
    if {flow_axis(a, rank) for a in axes} & set(flow.labelled):
        return trace.fence(operation, call, f"{operation.name} (softmax) reads all channels together")
    if np.any(flow.value) or flow.labels.any():
        return trace.fence(operation, call, f"a removed channel is not 0 behind {operation.name}")
    return [flow]
