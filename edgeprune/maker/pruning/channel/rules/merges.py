"""Rules of what combines tensors: arithmetic, concatenation, products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeprune.maker.keras.types import Layer, Tensor
from edgeprune.maker.pruning.channel.rules.reading import flow_axis
from edgeprune.maker.pruning.channel.trace import Call, Flow, Trace

__all__ = ["COMBINE", "concatenate", "merge", "product"]

Combine = Callable[[Any, Any], Any]
COMBINE: dict[str, Combine] = {
    "Add": np.add,
    "Subtract": np.subtract,
    "Multiply": np.multiply,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Average": np.add,  # divided by their number at the end
    "Divide": np.divide,
    "TrueDivide": np.divide,
    "CustomScaleLayer": np.add,  # of InceptionResNetV2: a + scale * b
}


def _operands(trace: Trace, operation: Layer, call: Call) -> list[Flow]:
    """Flows of the operands, padded with axes to the rank of the output; channels that are stretched are fixed."""
    rank, flows = len(call.output_shape), []
    for tensor, flow in zip(call.tensors, call.flows, strict=True):
        shape = tuple(tensor.shape[1:])
        lead = rank - len(shape)
        if lead and len(tensor.shape) < len(call.outputs[0].shape):
            trace.atoms.fix(flow.labels, f"{operation.name} stretches it over other axes")
            flow, shape, lead = trace.nothing(call.outputs[0]), (1,) * rank, 0
        stretched = (
            any(have == 1 and want != 1 for have, want in zip(shape, call.output_shape, strict=True))
            and not flow.labelled
        )
        if stretched and flow.labels.any():
            trace.atoms.fix(flow.labels, f"{operation.name} stretches it over other channels")
            flow = Flow(np.zeros_like(flow.labels), flow.value)
        flows.append(flow)
    return flows


def merge(trace: Trace, operation: Layer, call: Call) -> list[Flow]:
    """Element by element: what meets at the same place goes together."""
    combine = COMBINE[type(operation).__name__]
    flows = _operands(trace, operation, call)
    constants = _constants(call)
    if not any(flow.labels.any() for flow in flows):
        return [trace.nothing(call.outputs[0])]
    if any(np.size(c) > 1 for c in constants):
        return trace.fence(operation, call, f"{operation.name} combines it with a constant for each channel")
    if combine is np.divide and (len(flows) > 1 or call.node.arguments.args[0] is not call.tensors[0]):
        return trace.fence(operation, call, f"{operation.name} divides by its channels")
    total = flows[0]
    first_is_tensor = not constants or call.node.arguments.args[0] is call.tensors[0]
    for other, tensor in zip(flows[1:], call.tensors[1:], strict=True):
        total = _combined(trace, operation, total, other, tensor, call, combine)
    if type(operation).__name__ == "Average":
        total = Flow(total.labels, np.asarray(total.value / len(flows), np.float64))
    for constant in constants:
        value = float(np.asarray(constant).reshape(-1)[0])
        pair = (total.value, value) if first_is_tensor else (value, total.value)
        total = Flow(total.labels, np.asarray(combine(*pair), np.float64))
    return [total]


def _combined(trace: Trace, operation: Layer, a: Flow, b: Flow, tensor: Tensor, call: Call, combine: Combine) -> Flow:
    reason = f"{operation.name} joins it with channels that stay"
    wide_a, wide_b = a.labels.any(), b.labels.any()
    value = np.asarray(combine(a.value, b.value), np.float64)
    if wide_a and wide_b:
        return Flow(trace.atoms.join(a.labels, b.labels, reason), value)
    if not wide_a and not wide_b:
        return Flow(np.zeros(np.broadcast_shapes(a.labels.shape, b.labels.shape), np.int64), value)
    labelled = a if wide_a else b
    source = tensor if wide_a else call.tensors[0]
    # One number for all channels leaves them free; one for each would have to be cut with them.
    lead = len(call.output_shape) - (len(source.shape) - 1)
    spread = [axis for axis in labelled.labelled if axis >= lead and source.shape[1 + axis - lead] != 1]
    if spread:
        trace.atoms.fix(labelled.labels, reason)
        return Flow(np.zeros_like(labelled.labels), value)
    if type(operation).__name__ != "Multiply" or np.any(labelled.value):
        trace.atoms.fix(labelled.labels, f"a removed channel is not 0 behind {operation.name}")
        return Flow(np.zeros_like(labelled.labels), value)
    return Flow(labelled.labels, np.zeros_like(labelled.value))


def _constants(call: Call) -> list[Any]:
    """Arguments of an operation that are numbers or arrays."""
    tensors = {id(t) for t in call.tensors}
    args = [*call.node.arguments.args, *call.node.arguments.kwargs.values()]
    flat = [item for arg in args for item in (arg if isinstance(arg, list | tuple) else [arg])]
    return [item for item in flat if id(item) not in tensors and item is not None and not isinstance(item, bool | str)]


def concatenate(trace: Trace, operation: Layer, call: Call) -> list[Flow]:
    """Joined along channels, parts keep their own labels; joined along positions, they share them."""
    rank = len(call.shape)
    axis = flow_axis(operation.axis, rank)
    if not any(flow.labels.any() for flow in call.flows):
        return [trace.nothing(call.outputs[0])]
    if any(other != axis for flow in call.flows for other in flow.labelled):
        return _stacked(trace, operation, call, axis)
    parts, values = [], []
    for tensor, flow in zip(call.tensors, call.flows, strict=True):
        size = tensor.shape[1 + axis]
        if size is None:
            return trace.fence(operation, call, f"{operation.name} is given a tensor of open size")
        parts.append(trace.vector(flow, axis, int(size), f"{operation.name} joins it with other axes"))
        value = flow.values
        values.append(np.broadcast_to(np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])[0], (int(size),)))
    return [trace.along(np.concatenate(parts), rank, axis, np.concatenate(values))]


def _stacked(trace: Trace, operation: Layer, call: Call, axis: int) -> list[Flow]:
    """Joined along positions: the channels of all parts are the same channels."""
    total = call.flows[0]
    for flow in call.flows[1:]:
        if axis in flow.labelled or axis in total.labelled or np.any(total.value != flow.value):
            return trace.fence(operation, call, f"{operation.name} joins channels with positions")
        total = trace.joined(total, flow, f"{operation.name} joins it with channels that stay")
    return [total]


def product(trace: Trace, operation: Layer, call: Call) -> list[Flow]:
    """Sums over products of channels are not followed."""
    return trace.fence(operation, call, f"{operation.name} sums over products of its channels")
