"""The checks of rules about the weights of an operation, in a file of any format: see `checks`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeprune.formats.contents import Contents, Layer, StoredArray
from edgeprune.formats.kept_patterns import KeptPattern, kept_patterns
from edgeprune.formats.pattern import Pattern
from edgeprune.formats.weights import Role

__all__ = ["WEIGHT_CHECKS", "WeightView", "weight_views"]

# How each format calls them; what is in neither stands under its own name, which no document lists.
_FAMILIES: Mapping[str, str] = {
    **dict.fromkeys(("CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "Conv", "ConvInteger", "QLinearConv"), "convolution"),
    **dict.fromkeys(("conv", "convolution", "Conv1D", "Conv2D", "Conv3D"), "convolution"),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"), "convolution"),
    **dict.fromkeys(("BATCH_MATMUL", "FULLY_CONNECTED", "Gemm", "MatMul", "MatMulInteger", "QGemm"), "matmul"),
    **dict.fromkeys(("QLinearMatMul", "linear", "matmul", "innerProduct", "Dense"), "matmul"),
}
_CHANNELS_LAST = ("tflite", "keras", "h5")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightView:
    """An operation with one of its weight arrays (None for one that multiplies activations alone).

    `kind` is "convolution" or "matmul", or what the format calls it. `macs` is 0 where another array of the same layer
    has them already, None where the file does not tell. `channels` is how many its input has, None where not known.
    """

    kind: str
    layer: Layer
    macs: int | None
    array: StoredArray | None = None
    kept: KeptPattern | None = None
    channels: int | None = None
    attributes: Mapping[str, int] = field(default_factory=dict)

    @property
    def taps(self) -> int:
        """Positions of the kernel: 9 of one of 3x3."""
        sizes = self.kept.inputs * self.kept.outputs if self.kept else 0
        return math.prod(self.kept.shape) // sizes if self.kept and sizes else 1


def weight_views(contents: Contents, pattern: Pattern) -> Iterator[WeightView]:
    """What multiplies in a model, in order: every weight array, and operations without one."""
    found = {(kept.layer, kept.array): kept for kept in kept_patterns(contents, pattern)}
    for layer in contents.layers:
        kind, macs = _FAMILIES.get(layer.kind, layer.kind), layer.macs
        weights = [array for array in layer.arrays if array.role is Role.WEIGHT]
        if not weights and macs:
            yield WeightView(kind=kind, layer=layer, macs=macs)
        for array in weights:
            kept = found.get((layer.name, array.name))
            yield WeightView(
                kind=kind, layer=layer, macs=macs, array=array, kept=kept, channels=_channels(contents, layer)
            )
            macs = None if macs is None else 0


def _channels(contents: Contents, layer: Layer) -> int | None:
    shape = layer.inputs[0] if layer.inputs else ()
    if len(shape) < 3:
        return None
    return shape[-1] if contents.format in _CHANNELS_LAST else shape[1]


def _weight_types(view: WeightView, value: list[str]) -> str | None:
    if view.array is None:
        return "it multiplies no stored weights, or some that another operation is the first to use"
    kind = view.array.precision.rpartition("+")[2]
    return "" if kind in value else view.array.precision


def _one_group(view: WeightView, _: object) -> str | None:
    if view.kept is None or "depthwise" in view.kept.skipped.partition(":")[0]:
        return "depthwise"
    if view.kept.inputs == 1:
        return "one input channel for each output"
    if not view.kept.inputs or view.channels is None:
        return None
    return "" if view.channels == view.kept.inputs else f"{view.channels // view.kept.inputs} groups"


def _input_multiple(view: WeightView, value: int) -> str | None:
    if view.kept is None or not view.kept.inputs:
        return None
    return f"{view.kept.inputs} inputs" if view.kept.inputs % value else ""


def _aligned(view: WeightView, value: Mapping[str, int]) -> str | None:
    kept = view.kept
    if kept is None or not kept.inputs:
        return None
    wrong = [f"{kept.inputs} inputs"] * bool(kept.inputs % value["inputs"])
    return ", ".join(wrong + [f"{kept.outputs} outputs"] * bool(kept.outputs % value["outputs"]))


def _wide(view: WeightView, value: int) -> str | None:
    kept = view.kept
    if kept is None or not kept.inputs:
        return None
    if kept.inputs * view.taps >= value and kept.outputs >= value:
        return ""
    times = f" x {view.taps} taps" if view.taps > 1 else ""
    return f"{kept.inputs}{times} inputs, {kept.outputs} outputs"


def _pattern_kept(view: WeightView, _: object) -> str | None:
    if view.kept is None or view.kept.groups == 0:
        return None
    broken, groups = view.kept.violations, view.kept.groups
    return f"{broken} of {groups} groups are fuller" if broken else ""


WEIGHT_CHECKS: Mapping[str, Callable[[WeightView, Any], str | None]] = {
    "aligned": _aligned,
    "input_multiple": _input_multiple,
    "one_group": _one_group,
    "pattern_kept": _pattern_kept,
    "weight_types": _weight_types,
    "wide": _wide,
}
