"""Rules of the layers that make channels: convolutions, Dense, Embedding."""

from __future__ import annotations

import numpy as np

from edgeprune.maker.keras.models import weight_of
from edgeprune.maker.keras.types import Layer
from edgeprune.maker.pruning.channel.channel_ids import Labels
from edgeprune.maker.pruning.channel.rules.reading import (
    activated,
    bind_bias,
    channel_axis,
    consumed,
    kept_count,
    positions_of,
)
from edgeprune.maker.pruning.channel.trace import Call, Flow, Trace

__all__ = ["SMALL_GROUP", "conv", "conv_transpose", "dense", "depthwise", "embedding", "separable"]

SMALL_GROUP = 8  # grouped convolutions with so few input channels a group lose whole groups, others channels in each


def conv(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """Convolution: reads channels, makes filters; grouped ones stay grouped."""
    rank = len(call.shape)
    axis, kernel = channel_axis(layer, rank), weight_of(layer, "kernel")
    groups, filters = layer.groups, layer.filters
    channels = int(call.shape[axis] or 0)
    pads = layer.padding != "valid" and any(size > 1 for size in layer.kernel_size)
    read = consumed(trace, layer, call, axis, channels, kernel=kernel if groups == 1 else None, pads=pads)
    made = trace.make(layer, filters)
    if groups > 1:
        read, made = _tie_groups(trace, layer, read, made, groups)
    if groups == 1 or channels // groups > SMALL_GROUP:
        trace.bind(layer, kernel, -2, read[: channels // groups])
    trace.bind(layer, kernel, -1, made, made=True)
    trace.applied(layer, kernel, positions_of(call.output_shape, axis))
    bind_bias(trace, layer, made)
    trace.edit(layer, "filters", kept_count(made))
    return [trace.along(made, rank, axis, activated(trace, layer.activation, made, 0.0, layer.name))]


def _tie_groups(trace: Trace, layer: Layer, read: Labels, made: Labels, groups: int) -> tuple[Labels, Labels]:
    """Join channels so that a grouped convolution stays one: whole groups where they are small, else the same places
    in every group."""
    reason = f"{layer.name} is a grouped convolution"
    ins, outs = read.reshape(groups, -1), made.reshape(groups, -1)
    if ins.shape[1] <= SMALL_GROUP:
        trace.atoms.join(ins, ins[:, :1], reason)
        trace.atoms.join(outs, ins[:, :1], reason)
        trace.edit(layer, "groups", kept_count(ins[:, 0]))
    else:
        trace.atoms.join(ins, ins[:1], reason)
        trace.atoms.join(outs, outs[:1], reason)
    return read, made


def conv_transpose(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """Transposed convolution: its kernel holds outputs before inputs."""
    rank = len(call.shape)
    axis, kernel = channel_axis(layer, rank), weight_of(layer, "kernel")
    read = consumed(trace, layer, call, axis, int(call.shape[axis] or 0))
    made = trace.make(layer, layer.filters)
    trace.bind(layer, kernel, -1, read)
    trace.bind(layer, kernel, -2, made, made=True)
    trace.applied(layer, kernel, positions_of(call.shape, axis))
    bind_bias(trace, layer, made)
    trace.edit(layer, "filters", kept_count(made))
    return [trace.along(made, rank, axis, activated(trace, layer.activation, made, 0.0, layer.name))]


def depthwise(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """Depthwise convolution: passes channels on, each depth_multiplier times."""
    rank = len(call.shape)
    axis, kernel = channel_axis(layer, rank), weight_of(layer, "kernel")
    read = consumed(trace, layer, call, axis, int(call.shape[axis] or 0), sums=False)
    made = np.repeat(read, layer.depth_multiplier)
    trace.bind(layer, kernel, -2, read)
    trace.applied(layer, kernel, positions_of(call.output_shape, axis))
    bind_bias(trace, layer, made)
    return [trace.along(made, rank, axis, activated(trace, layer.activation, made, 0.0, layer.name))]


def separable(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """A depthwise and a pointwise kernel in one layer."""
    rank = len(call.shape)
    axis = channel_axis(layer, rank)
    read = consumed(trace, layer, call, axis, int(call.shape[axis] or 0))
    made, positions = trace.make(layer, layer.filters), positions_of(call.output_shape, axis)
    depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
    trace.bind(layer, depthwise, -2, read)
    trace.applied(layer, depthwise, positions)
    trace.bind(layer, pointwise, -2, np.repeat(read, layer.depth_multiplier))
    trace.bind(layer, pointwise, -1, made, made=True)
    trace.applied(layer, pointwise, positions)
    bind_bias(trace, layer, made)
    trace.edit(layer, "filters", kept_count(made))
    return [trace.along(made, rank, axis, activated(trace, layer.activation, made, 0.0, layer.name))]


def dense(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """Dense on the last axis of a tensor of any rank."""
    flow, rank, kernel = call.flows[0], len(call.shape), weight_of(layer, "kernel")
    made = trace.make(layer, layer.units)
    trace.applied(layer, kernel, positions_of(call.shape, rank - 1))
    if any(axis != rank - 1 for axis in flow.labelled):
        # Channels on another axis (an MLP-Mixer's transposed patches) pass through; the units stay as they are.
        trace.atoms.fix(made, f"{layer.name} mixes another axis than that of the channels")
        value = activated(trace, layer.activation, flow.labels, flow.value, layer.name)
        if np.any(flow.value) or layer.use_bias:
            trace.atoms.fix(flow.labels, f"a removed channel is not 0 behind {layer.name}")
        return [Flow(flow.labels, np.asarray(value))]
    trace.bind(layer, kernel, 0, consumed(trace, layer, call, rank - 1, kernel.shape[0], kernel=kernel))
    trace.bind(layer, kernel, 1, made, made=True)
    bind_bias(trace, layer, made)
    trace.edit(layer, "units", kept_count(made))
    return [trace.along(made, rank, rank - 1, activated(trace, layer.activation, made, 0.0, layer.name))]


def embedding(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """Embedding: makes the channels of its vectors."""
    made, rank = trace.make(layer, layer.output_dim), len(call.output_shape)
    trace.bind(layer, weight_of(layer, "embeddings"), 1, made, made=True)
    trace.edit(layer, "output_dim", kept_count(made))
    return [trace.along(made, rank, rank - 1)]
