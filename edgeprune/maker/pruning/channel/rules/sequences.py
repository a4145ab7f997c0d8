"""Rules of recurrent layers, wrappers and attention."""

from __future__ import annotations

import inspect
from typing import Any, cast

import numpy as np

from edgeprune.maker.keras.types import Layer, Tensor
from edgeprune.maker.pruning.channel.rules.reading import apply_scalar, consumed, kept_count
from edgeprune.maker.pruning.channel.trace import Call, Flow, Trace

__all__ = ["attention", "bidirectional", "recurrent", "time_distributed"]


def recurrent(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """LSTM, GRU, SimpleRNN: a unit owns a column in each gate and a row of the recurrent kernel."""
    cell, steps = layer.cell, int(call.shape[0] or 0)
    kind = type(cell).__name__
    gates = {"LSTMCell": 4, "GRUCell": 3, "SimpleRNNCell": 1}.get(kind)
    if gates is None or len(call.flows) > 1:  # the mask is no input (see Trace.run)
        return trace.fence(layer, call, f"{layer.name}: a cell or an initial state that cannot be followed")
    rest = float(apply_scalar(cell.activation, 0.0))
    read = consumed(trace, layer, call, 1, int(call.shape[1] or 0))
    made = trace.make(layer, cell.units)
    if rest != 0:
        trace.atoms.fix(made, f"{layer.name}: a removed unit would not rest at 0")
    tiled = np.tile(made, gates)
    trace.internal.append(made)
    trace.bind(layer, cell.kernel, 0, read)
    trace.bind(layer, cell.kernel, 1, tiled, made=True)
    trace.bind(layer, cell.recurrent_kernel, 0, made)
    trace.bind(layer, cell.recurrent_kernel, 1, tiled, made=True)
    trace.applied(layer, cell.kernel, steps)
    trace.applied(layer, cell.recurrent_kernel, steps)
    if cell.use_bias:
        trace.bind(layer, cell.bias, -1, tiled, made=True)
    trace.edit(layer, "units", kept_count(made))
    return [trace.along(made, len(t.shape) - 1, len(t.shape) - 2) for t in call.outputs]


def bidirectional(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """A unit of one direction goes with one of the other: Keras reckons what both make as twice the forward one, and
    merging by sum, product or mean joins them anyway."""
    forward, backward, merge = layer.forward_layer, layer.backward_layer, layer.merge_mode
    if len(call.outputs) > 1 or len(call.flows) > 1 or merge not in ("concat", "sum", "mul", "ave"):
        return trace.fence(layer, call, f"{layer.name}: states of a bidirectional layer cannot be followed")
    if getattr(forward, "units", None) != getattr(backward, "units", None):
        return trace.fence(layer, call, f"{layer.name}: its directions have different numbers of units")
    rank = len(call.output_shape)
    ways = [recurrent(trace, way, call)[0] for way in (forward, backward)]
    if not all(id(way) in trace.makers for way in (forward, backward)):
        return [trace.nothing(call.outputs[0])]
    both = trace.joined(ways[0], ways[1], f"{layer.name} merges both directions")
    if merge == "concat":
        return [trace.along(np.tile(both.labels.reshape(-1), 2), rank, rank - 1)]
    return [both]


def time_distributed(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """The rule of the layer inside, for one step."""
    flow, inner = call.flows[0], layer.layer
    if 0 in flow.labelled:
        return trace.fence(layer, call, f"{layer.name} runs over the axis of the channels")
    steps = int(call.shape[0] or 0)
    step = Flow(flow.labels[0], flow.value[0] if flow.value.ndim and flow.value.shape[0] == 1 else flow.value)
    tensors, outputs = ([cast("Tensor", _Without(t)) for t in part] for part in (call.tensors, call.outputs))
    before = {key: weight.positions for key, weight in trace.weights.items()}
    made = trace.follow(inner, Call(call.node, tensors, [step], outputs))
    for key, weight in trace.weights.items():
        weight.positions += (weight.positions - before.get(key, 0)) * (steps - 1)
    return [Flow(f.labels[None], np.asarray(f.value)[None]) for f in made]


class _Without:
    """A tensor without its time axis, for the layer inside TimeDistributed."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape = (tensor.shape[0], *tensor.shape[2:])
        self._keras_history = tensor._keras_history


def attention(trace: Trace, layer: Layer, call: Call) -> list[Flow]:
    """Multi-head attention loses whole heads; the channels of its output are its own."""
    arguments = call.node.arguments
    bound = inspect.signature(layer.call).bind_partial(*arguments.args, **arguments.kwargs)
    given: dict[str, Any] = dict(bound.arguments)
    flows = {id(t): flow for t, flow in zip(call.tensors, call.flows, strict=True)}
    query, value = given["query"], given["value"]
    key = value if given.get("key") is None else given["key"]
    followed = all(id(tensor) in flows for tensor in (query, value, key))
    if not followed or len(call.outputs) > 1 or any(len(t.shape) != 3 for t in (query, value, key)):
        return trace.fence(layer, call, f"{layer.name}: this use of attention cannot be followed")
    heads = trace.make(layer, layer.num_heads)
    trace.internal.append(heads)
    for dense, source in ((layer._query_dense, query), (layer._key_dense, key), (layer._value_dense, value)):
        one = Call(call.node, [source], [flows[id(source)]], call.outputs)
        trace.bind(layer, dense.kernel, 0, consumed(trace, layer, one, 1, int(source.shape[-1])))
        switch = dense is layer._value_dense  # a head whose values are zero adds nothing
        trace.bind(layer, dense.kernel, 1, heads, made=switch)
        trace.applied(layer, dense.kernel, int(source.shape[1] or 0))
        if dense.bias is not None:
            trace.bind(layer, dense.bias, 0, heads, made=switch)
    out = layer._output_dense
    made = trace.make(out, int(out.kernel.shape[-1]))
    trace.bind(layer, out.kernel, 0, heads)
    trace.bind(layer, out.kernel, -1, made, made=True)
    trace.applied(layer, out.kernel, int(query.shape[1] or 0))
    if out.bias is not None:
        trace.bind(layer, out.bias, -1, made, made=True)
    trace.edit(layer, "num_heads", kept_count(heads))
    trace.edit(layer, "output_shape", lambda keep: (int(keep(made).sum()),))
    return [trace.along(made, 2, 1)]
