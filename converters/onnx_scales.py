"""Merge what scales and shifts each channel behind a convolution into its kernel and bias.

TensorFlow folds a batch normalisation into dense convolutions; behind depthwise ones a multiplication and an addition
stay, which cost a pass over the activations, and in an int8 file two more roundings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from edgeprune.converters.types import Generated

__all__ = ["fold_scales"]


def fold_scales(model: Generated) -> None:
    """Fold, in place, each Mul and Add by a constant for each channel that alone reads what a Conv makes.

    Zeros of kernels stay zeros: a kernel is multiplied, and only its bias is added to.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    ends = {value.name for value in graph.output}
    by_input = {name: node for node in graph.node for name in node.input}
    inner = _read_inside(graph)
    gone: list[Generated] = []
    for conv in [node for node in graph.node if node.op_type == "Conv" and node.input[1] in constants]:
        while readers[conv.output[0]] == 1 and conv.output[0] not in ends | inner:
            follower = by_input[conv.output[0]]
            if not _fold(graph, constants, conv, follower):
                break
            conv.output[0] = follower.output[0]
            gone.append(follower)
    for node in gone:
        graph.node.remove(node)
    _drop_unread(graph, inner)


def _fold(graph: Generated, constants: dict[str, Generated], conv: Generated, follower: Generated) -> bool:
    """Whether the node was merged into the convolution: a Mul or Add of its output and a constant for each channel."""
    from onnx import numpy_helper

    if follower.op_type not in ("Add", "Mul"):
        return False
    other = [name for name in follower.input if name != conv.output[0]]
    if len(other) != 1 or other[0] not in constants:
        return False
    kernel = numpy_helper.to_array(constants[conv.input[1]])
    told = _by_channel(numpy_helper.to_array(constants[other[0]]), kernel.shape[0], kernel.ndim)
    biased = len(conv.input) > 2 and bool(conv.input[2])
    if told is None or kernel.dtype != np.float32 or (biased and conv.input[2] not in constants):
        return False
    bias = numpy_helper.to_array(constants[conv.input[2]]) if biased else np.zeros(len(kernel), np.float32)
    if follower.op_type == "Mul":
        scaled = kernel.astype(np.float64) * told.reshape(-1, *[1] * (kernel.ndim - 1))
        conv.input[1] = _added(graph, constants, f"{follower.output[0]}/kernel", scaled)
        bias = bias * told
    else:
        bias = bias + told
    if biased or bias.any():
        name = _added(graph, constants, f"{follower.output[0]}/bias", bias)
        del conv.input[2:]
        conv.input.append(name)
    return True


def _by_channel(constant: np.ndarray, channels: int, rank: int) -> np.ndarray | None:
    """A constant as one number for each channel of [N, C, ...], float64; None where it is something else."""
    if constant.ndim > rank:
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if constant.size != 1 and shape != (1, channels, *[1] * (rank - 2)):
        return None
    return np.broadcast_to(constant.reshape(-1).astype(np.float64), (channels,))


def _added(graph: Generated, constants: dict[str, Generated], name: str, values: np.ndarray) -> str:
    from onnx import numpy_helper

    tensor = numpy_helper.from_array(values.astype(np.float32), name)
    graph.initializer.append(tensor)
    constants[name] = graph.initializer[-1]
    return name


def _read_inside(graph: Generated) -> set[str]:
    """Names that graphs inside the graph may read."""
    found: set[str] = set()
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found |= {name for each in inner.node for name in each.input} | {value.name for value in inner.output}
                found |= _read_inside(inner)
    return found


def _drop_unread(graph: Generated, inner: set[str]) -> None:
    read: Mapping[str, int] = Counter(name for node in graph.node for name in node.input)
    kept = [t for t in graph.initializer if read.get(t.name) or t.name in inner or _is_end(graph, t.name)]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _is_end(graph: Generated, name: str) -> bool:
    return any(value.name == name for value in graph.output)
