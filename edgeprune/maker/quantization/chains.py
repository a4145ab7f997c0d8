"""Layers whose channels reach one other layer alone, through operations that a positive factor passes: what can be
equalized."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgeprune.maker.keras.graphs import functional_of, is_model, nodes_of
from edgeprune.maker.keras.types import Layer, Model, Node, Variable

__all__ = ["Chain", "channels_made", "find_chains", "kernel_of", "largest_by"]

_DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
_KERNELS = ("Conv1D", "Conv2D", "Dense", *_DEPTHWISE)
# A factor of a whole channel passes these as it is.
_PASSING = frozenset(
    ["Dropout", "SpatialDropout1D", "SpatialDropout2D", "ZeroPadding1D", "ZeroPadding2D"]
    + [f"{kind}Pooling{n}D" for kind in ("Max", "Average", "GlobalMax", "GlobalAverage") for n in (1, 2)]
)
_RELU6 = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """`made` is the layer whose kernel makes channels, `norm` the batch normalization behind it, and `reads` the only
    layer that reads them; what is between is at most `cap` (ReLU6) and, with `rectified`, at least 0."""

    made: Layer
    norm: Layer | None
    reads: Layer
    rectified: bool
    cap: float

    @property
    def seen(self) -> Layer:
        """The layer whose output is what the activation reads."""
        return self.norm or self.made


def find_chains(model: Model) -> list[Chain]:
    """The chains of a Functional or Sequential model and of those nested in it, in the order of execution."""
    graph = functional_of(model)
    nodes = list(nodes_of(graph))
    calls: dict[int, int] = {}
    readers: dict[int, list[Node | None]] = {}
    for node in nodes:
        calls[id(node.operation)] = calls.get(id(node.operation), 0) + 1
        for tensor in node.input_tensors:
            readers.setdefault(id(tensor), []).append(node)
    for tensor in graph.outputs:
        readers.setdefault(id(tensor), []).append(None)
    found: list[Chain] = []
    for node in nodes:
        if calls[id(node.operation)] != 1:
            continue
        if is_model(node.operation):
            found += find_chains(node.operation)
        elif _has_kernel(node.operation):
            behind = list(_behind(node, readers, calls))
            found += [chain] if (chain := _chain(node.operation, behind)) is not None else []
    return found


def kernel_of(layer: Layer) -> Variable:
    """The kernel of a convolution or Dense layer."""
    kernel: Variable = layer.kernel
    return kernel


def channels_made(layer: Layer) -> int:
    """The axis of a layer's kernel that numbers the channels it makes."""
    return len(kernel_of(layer).shape) - (2 if _is_depthwise(layer) else 1)


def largest_by(values: np.ndarray, axis: int) -> np.ndarray:
    """The largest magnitude of an array at each place of one axis, float [places]."""
    found: np.ndarray = np.abs(values).max(tuple(other for other in range(values.ndim) if other != axis))
    return found


def _is_depthwise(layer: Layer) -> bool:
    return type(layer).__name__ in _DEPTHWISE


def _has_kernel(layer: Layer) -> bool:
    """Whether channels of a layer are the last axis of what it makes and of a kernel that it holds alone."""
    return (
        type(layer).__name__ in _KERNELS
        and getattr(layer, "data_format", "channels_last") == "channels_last"
        and getattr(layer, "groups", 1) == 1
        and getattr(layer, "depth_multiplier", 1) == 1
        and not getattr(layer, "lora_enabled", False)
        and getattr(layer, "quantization_mode", None) is None
    )


def _behind(node: Node, readers: dict[int, list[Node | None]], calls: dict[int, int]) -> Iterator[Layer]:
    """What reads a layer's channels, one after the other, while it is the only one."""
    while True:
        using = readers.get(id(node.outputs[0]), [])
        if len(using) != 1 or using[0] is None or len(using[0].input_tensors) != 1:
            return
        node = using[0]
        if calls[id(node.operation)] != 1:
            return
        yield node.operation


def _chain(made: Layer, behind: list[Layer]) -> Chain | None:
    """The chain from a layer to the next kernel; None where something between does not pass factors."""
    ends = _activation(made)
    if ends is None or ends[1] < np.inf:  # what its own activation cuts off is not seen
        return None
    norm, (rectified, cap), before = None, ends, made
    for layer in behind:
        kind = type(layer).__name__
        if _has_kernel(layer):
            return Chain(made=made, norm=norm, reads=layer, rectified=rectified, cap=cap)
        if kind == "BatchNormalization" and before is made and not rectified and _scales(layer):
            norm = layer
        elif kind in ("Activation", "LeakyReLU", "ReLU") and (one := _activation(layer)) is not None:
            if one[1] < np.inf and before is not (norm or made):
                return None
            rectified, cap = rectified or one[0], min(cap, one[1])
        elif kind not in _PASSING or getattr(layer, "data_format", "channels_last") != "channels_last":
            return None
        before = layer
    return None


def _scales(norm: Layer) -> bool:
    """Whether a batch normalization has a factor and a shift for each place of the last axis."""
    return norm.axis in (-1, len(norm.input.shape) - 1) and norm.gamma is not None and norm.beta is not None


def _activation(layer: Layer) -> tuple[bool, float] | None:
    """(Whether nothing below 0 passes, the largest number that does) of what a layer ends with; None where a factor
    changes it otherwise."""
    kind = type(layer).__name__
    if kind == "LeakyReLU":
        return False, np.inf
    if kind == "ReLU":
        known = not float(layer.threshold or 0) and (layer.max_value is None or not float(layer.negative_slope or 0))
        cap = np.inf if layer.max_value is None else float(layer.max_value)
        return (not float(layer.negative_slope or 0), cap) if known else None
    name = getattr(layer.activation, "__name__", "linear")
    return {"linear": (False, np.inf), "relu": (True, np.inf), "relu6": (True, _RELU6)}.get(name)
