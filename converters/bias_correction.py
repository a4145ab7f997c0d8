"""Biases that give each channel of an int8 file the mean that it has in the float one.

Rounded weights shift the mean of a channel, and shifts add up from layer to layer: each layer's bias takes the rest of
its shift away, after those before it (Nagel et al. 2019, arXiv:1906.04721, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.converters.kernels import KINDS
from edgeprune.converters.slim_scales import store
from edgeprune.converters.types import Generated
from edgeprune.formats.tflite.objects import (
    as_objects,
    constant,
    file_bytes,
    operator_kinds,
    scales_of,
    schema_classes,
    tensor_name,
)

__all__ = ["PASSES", "channel_means", "corrected"]

PASSES = 4  # at most: neighbours of a deep network are corrected together

Traced = Callable[[bytes], Iterable[Mapping[str, np.ndarray]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Biased:
    """An operation whose bias can change: `node` is the tensor that it makes."""

    node: str
    bias: int


def channel_means(traces: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The mean of each channel (last axis) of each tensor."""
    total: dict[str, np.ndarray] = {}
    count: dict[str, int] = {}
    for part in traces:
        for name, values in part.items():
            if values.ndim > 1 and values.size:
                rows = values.reshape(-1, values.shape[-1])
                total[name] = total.get(name, 0.0) + rows.sum(0, dtype=np.float64)
                count[name] = count.get(name, 0) + len(rows)
    return {name: values / count[name] for name, values in total.items()}


def corrected(
    content: bytes, means: Mapping[str, np.ndarray], traced: Traced, step: Callable[[], None] = lambda: None
) -> bytes:
    """The int8 file with biases by which its channels have these means; `traced` runs a file on calibration samples,
    `step` is called after each time."""
    biased = [one for one in _biased(as_objects(content)) if one.node in means]
    passes = np.array_split(np.arange(len(biased)), min(PASSES, len(biased))) if biased else []
    for places in passes:
        found = channel_means(traced(content))
        model = as_objects(content)
        for place in places:
            one = biased[int(place)]
            if one.node in found and found[one.node].shape == means[one.node].shape:
                _shift(model, one.bias, means[one.node] - found[one.node])
        content = file_bytes(model)
        step()
    return content


def _biased(model: Generated) -> list[_Biased]:
    """The operations with an int32 bias of their own, in order."""
    graph, kinds, types = model.subgraphs[0], operator_kinds(model), schema_classes().TensorType
    uses: dict[int, int] = {}
    for op in graph.operators:
        for number in () if op.inputs is None else op.inputs:
            uses[int(number)] = uses.get(int(number), 0) + 1
    found = []
    for op in graph.operators:
        kind = kinds[op.opcodeIndex]
        place = KINDS[kind][2] if kind in KINDS else 0
        number = int(op.inputs[place]) if place and len(op.inputs) > place else -1
        if number < 0 or uses[number] > 1:
            continue
        tensor = graph.tensors[number]
        if tensor.type == types.INT32 and len(scales_of(tensor)) and constant(model, tensor, "<i4") is not None:
            node = tensor_name(graph.tensors[op.outputs[0]])
            found.append(_Biased(node=node, bias=number))
    return found


def _shift(model: Generated, number: int, by: np.ndarray) -> None:
    tensor = model.subgraphs[0].tensors[number]
    stored = constant(model, tensor, "<i4")
    assert stored is not None
    if stored.shape != by.shape:
        return
    limits = np.iinfo(np.int32)
    moved = stored + np.rint(by / scales_of(tensor).astype(np.float64))
    values = np.clip(moved, limits.min, limits.max).astype("<i4")
    store(model, tensor, np.ascontiguousarray(values).view(np.uint8))
