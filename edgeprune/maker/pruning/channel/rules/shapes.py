"""Rules of what moves positions and axes: pooling, padding, reshaping, slicing, splitting."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeprune.maker.keras.types import Layer
from edgeprune.maker.pruning.channel.channel_ids import Labels
from edgeprune.maker.pruning.channel.rules.reading import channel_axis, flow_axis
from edgeprune.maker.pruning.channel.trace import Call, Flow, Keep, Trace, Values, compact

__all__ = ["get_item", "global_pool", "permute", "reduce", "repeat_vector", "reshape", "spatial", "split", "squeeze"]


def spatial(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """Pooling, padding, cropping and up-sampling: positions change, channels do not."""
    flow, rank = call.flows[0], len(call.shape)
    axis = channel_axis(layer, rank)
    if any(other != axis for other in flow.labelled):
        return trace.fence(layer, call, f"{layer.name} moves positions that depend on the channels")
    if type(layer).__name__.startswith("ZeroPadding") and np.any(flow.value):
        trace.atoms.fix(flow.labels, f"a removed channel is not 0 where {layer.name} pads it")
    return [flow]


def global_pool(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """Positions are gone, channels stay."""
    flow = spatial(trace, layer, call)[0]
    if layer.keepdims:
        return [flow]
    axis = channel_axis(layer, len(call.shape))
    return [Flow(flow.labels.reshape(flow.labels.shape[axis]), flow.value.reshape(-1))]


def repeat_vector(_trace: Trace, _layer: Layer, call: Call) -> list[Flow]:
    """A new axis of positions in front of the channels."""
    flow = call.flows[0]
    return [Flow(flow.labels[None], flow.value[None])]


def _whole(flow: Flow, shape: tuple[int | None, ...]) -> tuple[Labels, Values] | None:
    """Labels and values of every element; None when a size is open."""
    sizes = [size for size in shape if size is not None]
    if len(sizes) < len(shape):
        return None
    return np.broadcast_to(flow.labels, sizes), np.broadcast_to(flow.value, sizes)


def _shrunk(labels: Labels, values: Values) -> Flow:
    small = compact(np.array(labels))
    for axis, size in enumerate(values.shape):
        if size > 1 and (values == np.take(values, [0], axis)).all():
            values = np.take(values, [0], axis)
    return Flow(small, np.array(values))


def reshape(trace: Trace, operation: Layer, call: Call) -> list[Flow]:
    """Flatten and Reshape: every element keeps its label; the target shape follows the widths."""
    flow, after = call.flows[0], call.output_shape
    if not flow.labels.any():
        return [trace.nothing(call.outputs[0])]
    if getattr(operation, "data_format", None) == "channels_first":
        return trace.fence(operation, call, f"{operation.name} flattens channels_first, which moves the channels")
    if id(operation) in trace.edits:
        return trace.fence(operation, call, f"{operation.name} is one layer used on several tensors")
    sizes_after = [size for size in after if size is not None]
    if len(sizes_after) < len(after):
        return trace.fence(operation, call, f"{operation.name} makes a tensor of open size")
    whole = _whole(flow, call.shape)
    if whole is None:
        return trace.fence(operation, call, f"{operation.name} is given a tensor of open size")
    labels, values = whole
    made = trace.settled(_shrunk(labels.reshape(sizes_after), values.reshape(sizes_after)))
    axes = list(made.labelled)

    def target(keep: Keep) -> tuple[int, ...]:
        sizes = list(sizes_after)
        for axis in axes:
            sizes[axis] = int(keep(made.labels.reshape(-1)).sum())
        return tuple(sizes)

    if type(operation).__name__ == "Reshape" and hasattr(operation, "target_shape"):
        trace.edit(operation, "target_shape", target)
    elif type(operation).__name__ == "Reshape":
        trace.edit(operation, "newshape", lambda keep: (-1, *target(keep)))
    return [made]


def permute(trace: Trace, operation: Layer, call: Call) -> list[Flow]:
    """Axes change places."""
    dims = getattr(operation, "dims", None)
    if dims is not None:
        order = [axis - 1 for axis in dims]
    else:
        axes = operation.axes
        order = list(range(len(call.shape)))[::-1] if axes is None else [axis - 1 for axis in axes[1:]]
        if axes is None or axes[0] != 0:
            return trace.fence(operation, call, f"{operation.name} moves the batch")
    flow = call.flows[0]
    rank = len(call.shape)
    value = np.broadcast_to(flow.value, np.broadcast_shapes(flow.value.shape, (1,) * rank))
    return [Flow(flow.labels.transpose(order), value.transpose(order))]


def get_item(trace: Trace, operation: Layer, call: Call) -> list[Flow]:
    """Slicing: a range of channels keeps its own labels, and its ends follow the widths."""
    tensor, key = call.node.arguments.args[0], call.node.arguments.args[1]
    key = list(key) if isinstance(key, list | tuple) else [key]  # a list in a model that was loaded
    rank = len(tensor.shape)
    if Ellipsis in key:
        place = key.index(Ellipsis)
        missing = rank - sum(item is not None and item is not Ellipsis for item in key)
        key[place : place + 1] = [slice(None)] * missing
    plain = all(isinstance(item, slice | int) for item in key)
    if not plain or key[0] != slice(None):
        return trace.fence(operation, call, f"{operation.name}: this slicing cannot be followed")
    flow = call.flows[0]
    inner = [*key[1:], *[slice(None)] * (rank - len(key))]
    cut = [axis for axis, item in enumerate(inner) if axis in flow.labelled and item != slice(None)]
    if any(isinstance(inner[axis], int) or inner[axis].step not in (None, 1) for axis in cut):
        return trace.fence(operation, call, f"{operation.name} takes single channels by their number")
    small = tuple(
        item if axis in flow.labelled else (0 if isinstance(item, int) else slice(None))
        for axis, item in enumerate(inner)
    )
    value = flow.values
    for axis in cut:
        start, stop, _ = inner[axis].indices(flow.labels.shape[axis])
        line = flow.labels.reshape(-1)
        _edit_slice(trace, call, key, axis + 1, line, start, stop)
    return [Flow(flow.labels[small], value[small])]


def _edit_slice(trace: Trace, call: Call, key: list[Any], axis: int, line: Labels, start: int, stop: int) -> None:
    def arguments(keep: Keep) -> tuple[Any, ...]:
        kept = keep(line)
        item = slice(int(kept[:start].sum()), int(kept[:stop].sum()))
        return (call.node.arguments.args[0], tuple(item if n == axis else part for n, part in enumerate(key)))

    trace.arguments[id(call.node)] = arguments


def split(trace: Trace, operation: Layer, call: Call) -> list[Flow]:
    """Cut into parts whose widths follow what is kept."""
    flow, rank = call.flows[0], len(call.shape)
    axis = flow_axis(operation.axis, rank)
    if axis not in flow.labelled:
        return [flow for _ in call.outputs]
    sections, line = operation.indices_or_sections, flow.labels.reshape(-1)
    size = len(line)
    cuts = list(range(size // sections, size, size // sections)) if isinstance(sections, int) else list(sections)
    trace.edit(operation, "indices_or_sections", lambda keep: [int(keep(line)[:cut].sum()) for cut in cuts])
    value = flow.values
    parts = zip(np.split(flow.labels, cuts, axis), np.split(value, cuts, axis), strict=True)
    return [Flow(labels, values) for labels, values in parts]


def squeeze(trace: Trace, operation: Layer, call: Call) -> list[Flow]:
    """Axes of size 1 come or go."""
    flow = call.flows[0]
    if not flow.labels.any():
        return [trace.nothing(call.outputs[0])]
    grows = type(operation).__name__ == "ExpandDims"
    rank = len(call.output_shape if grows else call.shape) + 1
    axes = operation.axis if isinstance(operation.axis, list | tuple) else [operation.axis]
    if None in axes:
        return trace.fence(operation, call, f"{operation.name} drops every axis of size 1")
    places = sorted((axis if axis >= 0 else axis + rank) - 1 for axis in axes)
    if -1 in places:
        return trace.fence(operation, call, f"{operation.name} moves the batch")
    value = flow.values
    if grows:
        return [Flow(np.expand_dims(flow.labels, tuple(places)), np.expand_dims(value, tuple(places)))]
    return [Flow(np.squeeze(flow.labels, tuple(places)), np.squeeze(value, tuple(places)))]


def reduce(trace: Trace, operation: Layer, call: Call) -> list[Flow]:
    """Mean, sum or maximum over positions."""
    flow, rank = call.flows[0], len(call.shape)
    axis = operation.axis
    axes = range(rank + 1) if axis is None else axis if isinstance(axis, list | tuple) else [axis]
    gone = {flow_axis(a, rank) for a in axes}
    if -1 in gone or gone & set(flow.labelled):
        return trace.fence(operation, call, f"{operation.name} reads all channels together")
    if np.any(flow.value) and type(operation).__name__ not in ("Mean", "Max", "Min", "Amax", "Amin"):
        trace.atoms.fix(flow.labels, f"a removed channel is not 0 where {operation.name} adds it up")
    value = flow.values
    if operation.keepdims:
        return [flow]
    kept = tuple(slice(None) if a not in gone else 0 for a in range(rank))
    return [Flow(flow.labels[kept], value[kept])]
