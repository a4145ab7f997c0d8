"""What each channel of a model can hold, whatever the input: interval arithmetic through the graph.

A channel whose interval has no width is a constant. It is proved from the weights (a zero scale, a kernel of zeros, a
rectifier that never opens), not observed on data. Rules exist for the layers of convolutional and dense networks; the
output of any other layer is taken to hold anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.maker.keras.graphs import functional_of, is_model, nodes_of
from edgeprune.maker.keras.types import Graph, Layer, Model, Node, Tensor
from edgeprune.maker.pruning.channel.rules.reading import apply_scalar, channel_axis, flow_axis

__all__ = ["Range", "ranges_of"]

Floats = npt.NDArray[np.float64]

RISING = (
    "linear",
    "relu",
    "relu6",
    "sigmoid",
    "hard_sigmoid",
    "tanh",
    "softplus",
    "softsign",
    "elu",
    "leaky_relu",
    "selu",
)
DIPPING = ("silu", "swish", "gelu", "hard_silu", "hard_swish", "mish")  # falling, then rising; never below -0.4
DIP = -0.4
SPELLINGS = {"leakyrelu": "leaky_relu", "hardsigmoid": "hard_sigmoid", "hardsilu": "hard_silu"}  # of layers


@dataclass(frozen=True, slots=True)
class Range:
    """Least and largest value of a tensor's elements; arrays that broadcast to its shape without the batch."""

    low: Floats
    high: Floats

    def line(self, axis: int, size: int) -> tuple[Floats, Floats]:
        """The bounds along one axis, [size] each; the widest over the others."""
        low, high = (np.moveaxis(part, axis, -1) if part.ndim else part.reshape(1) for part in (self.low, self.high))
        low, high = low.reshape(-1, low.shape[-1]).min(0), high.reshape(-1, high.shape[-1]).max(0)
        return np.broadcast_to(low, (size,)), np.broadcast_to(high, (size,))

    def hull(self, other: Range) -> Range:
        """The bounds of both."""
        return Range(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


def anything(rank: int) -> Range:
    """Bounds of a tensor of which nothing is known."""
    shape = (1,) * rank
    return Range(np.full(shape, -np.inf), np.full(shape, np.inf))


def ranges_of(model: Model) -> dict[int, Range]:
    """Bounds of every tensor of the model's graph, nested models included, by id of the symbolic tensor."""
    found: dict[int, Range] = {}
    graph = functional_of(model)
    _run(graph, [anything(len(t.shape) - 1) for t in graph.inputs], found)
    return found


def _run(graph: Graph, given: Sequence[Range], found: dict[int, Range]) -> list[Range]:
    known = dict(zip(map(id, graph.inputs), given, strict=True))
    for node in nodes_of(graph):
        if any(id(t) not in known for t in node.input_tensors):
            continue
        operation, inputs = node.operation, [known[id(t)] for t in node.input_tensors]
        if is_model(operation):
            made = _run(functional_of(operation), inputs, found)
        else:
            rule = RANGES.get(type(operation).__name__)
            told = None if rule is None else rule(operation, node, inputs)
            made = told or [anything(len(t.shape) - 1) for t in node.outputs]
        known.update(zip(map(id, node.outputs), made, strict=True))
    for key, value in known.items():  # a nested model may be used more than once
        found[key] = found[key].hull(value) if key in found else value
    return [known[id(t)] for t in graph.outputs]


Rule = Callable[[Layer, Node, Sequence[Range]], "list[Range] | None"]


def _activated(function: Callable[[Any], Any] | None, given: Range) -> Range | None:
    name = getattr(function, "__name__", type(function).__name__.lower())
    if function is None or name == "linear":
        return given
    if name not in (*RISING, *DIPPING):
        return None
    low, high = apply_scalar(function, given.low), apply_scalar(function, given.high)
    if name in RISING:
        return Range(low, high)
    # At minus infinity the others give 0 times infinity.
    low, high = np.nan_to_num(low, nan=0.0, posinf=np.inf), np.nan_to_num(high, nan=0.0, posinf=np.inf)
    exact = given.low == given.high
    dip = np.where(given.low < 0, DIP, np.inf)
    return Range(np.where(exact, low, np.minimum(np.minimum(low, high), dip)), np.maximum(low, high))


def _weighted(kernel: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Bounds of low <= x <= high, [channels], times a kernel, [channels, outputs], summed over channels."""
    up, down = np.maximum(kernel, 0), np.minimum(kernel, 0)

    def total(weights: Floats, bound: Floats) -> Floats:
        finite = np.where(np.isfinite(bound), bound, 0.0) @ weights
        open_ended = ((~np.isfinite(bound))[:, None] & (weights != 0)).any(0)
        return np.where(open_ended, np.nan, finite)

    least, most = total(up, low) + total(down, high), total(up, high) + total(down, low)
    return np.where(np.isnan(least), -np.inf, least), np.where(np.isnan(most), np.inf, most)


def _along(low: Floats, high: Floats, rank: int, axis: int) -> Range:
    shape = [1] * rank
    shape[axis] = len(low)
    return Range(low.reshape(shape), high.reshape(shape))


def _finished(layer: Layer, low: Floats, high: Floats, rank: int, axis: int) -> list[Range] | None:
    """Bias and activation."""
    if getattr(layer, "use_bias", False):
        bias = np.asarray(layer.bias, np.float64)
        low, high = low + bias, high + bias
    made = _activated(layer.activation, _along(low, high, rank, axis))
    return None if made is None else [made]


def _with_padding(layer: Layer, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    if layer.padding == "valid" or all(size == 1 for size in layer.kernel_size):
        return low, high
    return np.minimum(low, 0), np.maximum(high, 0)


def _conv(layer: Layer, node: Node, given: Sequence[Range]) -> list[Range] | None:
    rank = len(node.input_tensors[0].shape) - 1
    axis, kernel = channel_axis(layer, rank), np.asarray(layer.kernel, np.float64)
    if layer.groups != 1:
        return None
    low, high = _with_padding(layer, *given[0].line(axis, kernel.shape[-2]))
    taps = kernel.reshape(-1, *kernel.shape[-2:])
    if (low == high).all():  # a constant times all taps: no need to widen
        taps = taps.sum(0, keepdims=True)
    return _finished(layer, *_summed([_weighted(tap, low, high) for tap in taps]), rank, axis)


def _depthwise(layer: Layer, node: Node, given: Sequence[Range]) -> list[Range] | None:
    rank = len(node.input_tensors[0].shape) - 1
    axis, kernel = channel_axis(layer, rank), np.asarray(layer.kernel, np.float64)
    low, high = _with_padding(layer, *given[0].line(axis, kernel.shape[-2]))
    taps = kernel.reshape(-1, *kernel.shape[-2:])
    low, high = np.repeat(low, layer.depth_multiplier), np.repeat(high, layer.depth_multiplier)
    parts = [_scaled(tap.reshape(-1), low, high) for tap in taps]
    return _finished(layer, *_summed(parts), rank, axis)


def _summed(bounds: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    low: Floats = np.sum([bound[0] for bound in bounds], axis=0)
    high: Floats = np.sum([bound[1] for bound in bounds], axis=0)
    return low, high


def _scaled(factor: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Bounds of a range times a factor, element by element; 0 times infinity is 0."""
    with np.errstate(invalid="ignore"):
        ends = np.stack([np.where(factor == 0, 0.0, factor * low), np.where(factor == 0, 0.0, factor * high)])
    return ends.min(0), ends.max(0)


def _dense(layer: Layer, node: Node, given: Sequence[Range]) -> list[Range] | None:
    rank, kernel = len(node.input_tensors[0].shape) - 1, np.asarray(layer.kernel, np.float64)
    low, high = _weighted(kernel, *given[0].line(rank - 1, kernel.shape[0]))
    return _finished(layer, low, high, rank, rank - 1)


def _batch_norm(layer: Layer, node: Node, given: Sequence[Range]) -> list[Range]:
    rank = len(node.input_tensors[0].shape) - 1
    axis = flow_axis(layer.axis, rank)
    mean, variance = (np.asarray(v, np.float64) for v in (layer.moving_mean, layer.moving_variance))
    factor = (np.asarray(layer.gamma, np.float64) if layer.scale else 1.0) / np.sqrt(variance + layer.epsilon)
    shift = (np.asarray(layer.beta, np.float64) if layer.center else 0.0) - mean * factor
    low, high = _scaled(factor, *given[0].line(axis, len(mean)))
    return [_along(low + shift, high + shift, rank, axis)]


def _activation(operation: Layer, _node: Node, given: Sequence[Range]) -> list[Range] | None:
    if len(given) > 1:
        return None
    function = getattr(operation, "activation", None) or operation
    made = _activated(_Named(operation) if function is operation else function, given[0])
    return None if made is None else [made]


class _Named:
    """A layer or operation as a function with the name of its activation."""

    def __init__(self, operation: Layer) -> None:
        self._operation = operation
        name = type(operation).__name__.lower()
        self.__name__ = SPELLINGS.get(name, name)

    def __call__(self, values: Tensor) -> Tensor:
        return self._operation(values)


def _same(_operation: Layer, _node: Node, given: Sequence[Range]) -> list[Range]:
    return [given[0]]


def _up_sampling(layer: Layer, _node: Node, given: Sequence[Range]) -> list[Range] | None:
    """Nearest and bilinear interpolation stay within the values around; bicubic and Lanczos overshoot."""
    return [given[0]] if getattr(layer, "interpolation", "nearest") in ("nearest", "bilinear") else None


def _padded(_layer: Layer, _node: Node, given: Sequence[Range]) -> list[Range]:
    return [Range(np.minimum(given[0].low, 0), np.maximum(given[0].high, 0))]


def _global_pool(layer: Layer, node: Node, given: Sequence[Range]) -> list[Range]:
    rank = len(node.input_tensors[0].shape) - 1
    axis = channel_axis(layer, rank)
    size = node.input_tensors[0].shape[axis + 1]
    assert size is not None  # Keras builds no layer on an open number of channels
    low, high = given[0].line(axis, size)
    return [_along(low, high, rank, axis) if layer.keepdims else Range(low, high)]


def _sizes(tensor: Tensor) -> tuple[int, ...] | None:
    """The sizes of a tensor without the batch; None when one is open."""
    sizes = tuple(size for size in tensor.shape[1:] if size is not None)
    return sizes if len(sizes) == len(tensor.shape) - 1 else None


def _reshape(_operation: Layer, node: Node, given: Sequence[Range]) -> list[Range] | None:
    before, after = _sizes(node.input_tensors[0]), _sizes(node.outputs[0])
    if before is None or after is None:
        return None
    low, high = (np.broadcast_to(part, before).reshape(after) for part in (given[0].low, given[0].high))
    return [Range(low, high)]


def _operands(node: Node, given: Sequence[Range]) -> bool:
    """Whether a merge has only tensors of one rank (constants and stretched ranks are not followed)."""
    ranks = {len(t.shape) for t in node.input_tensors}
    given_args = [a for a in node.arguments.args if not isinstance(a, list | tuple)]
    return len(ranks) == 1 and len(given) > 1 and len(given_args) in (0, len(given))


def _add(_operation: Layer, node: Node, given: Sequence[Range]) -> list[Range] | None:
    if not _operands(node, given):
        return None
    total = given[0]
    for other in given[1:]:
        total = Range(total.low + other.low, total.high + other.high)
    return [total]


def _multiply(_operation: Layer, node: Node, given: Sequence[Range]) -> list[Range] | None:
    if not _operands(node, given):
        return None
    total = given[0]
    for other in given[1:]:
        with np.errstate(invalid="ignore"):
            ends = [
                np.nan_to_num(a * b, nan=0.0, posinf=np.inf, neginf=-np.inf)
                for a in (total.low, total.high)
                for b in (other.low, other.high)
            ]
        low, high = ends[0], ends[0]
        for end in ends[1:]:
            low, high = np.minimum(low, end), np.maximum(high, end)
        total = Range(low, high)
    return [total]


def _concatenate(operation: Layer, node: Node, given: Sequence[Range]) -> list[Range] | None:
    rank = len(node.outputs[0].shape) - 1
    axis = flow_axis(operation.axis, rank)
    sizes = [size for t in node.input_tensors if (size := t.shape[axis + 1]) is not None]
    if len(sizes) < len(node.input_tensors):
        return None
    lines = [r.line(axis, size) for r, size in zip(given, sizes, strict=True)]
    return [_along(np.concatenate([low for low, _ in lines]), np.concatenate([high for _, high in lines]), rank, axis)]


RANGES: dict[str, Rule] = {
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _conv),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    "Dense": _dense,
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(
        ("Activation", "ReLU", "LeakyReLU", "Relu", "Relu6", "Sigmoid", "Silu", "Tanh", "Gelu"), _activation
    ),
    **dict.fromkeys(("HardSigmoid", "HardSilu", "ELU"), _activation),
    **dict.fromkeys(("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise"), _same),
    **dict.fromkeys([f"{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)], _same),
    **dict.fromkeys([f"Cropping{n}D" for n in (1, 2, 3)], _same),
    **dict.fromkeys([f"UpSampling{n}D" for n in (1, 2, 3)], _up_sampling),
    **dict.fromkeys([f"ZeroPadding{n}D" for n in (1, 2, 3)], _padded),
    **dict.fromkeys([f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)], _global_pool),
    **dict.fromkeys(("Flatten", "Reshape"), _reshape),
    "Add": _add,
    "Multiply": _multiply,
    "Concatenate": _concatenate,
}
