"""Checks of accelerators' rules on the options of an operation and the axes that it works along; see `checks`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgeprune.checker.latency.accelerators.view import OpView, listed, shape_text

__all__ = ["OPTION_CHECKS"]

_ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")  # schema.fbs
_SAME = 0  # Padding


def _known(view: OpView, names: Sequence[str]) -> bool:
    return all(name in view.attributes for name in names)


def _attribute_among(view: OpView, value: Mapping[str, Any]) -> str | None:
    name = value["name"]
    if not _known(view, [name]):
        return None
    return f"{name} {view.attributes[name]}" if view.attributes[name] not in value["among"] else ""


def _attributes_within(view: OpView, value: Mapping[str, Any]) -> str | None:
    if not _known(view, value["names"]):
        return None
    sizes = {name: view.attributes[name] for name in value["names"]}
    return listed(
        [f"{name} {size}" for name, size in sizes.items() if not value.get("least", 1) <= size <= value["most"]]
    )


def _product_within(view: OpView, value: Mapping[str, Any]) -> str | None:
    if not _known(view, value["names"]):
        return None
    product = math.prod(view.attributes[name] for name in value["names"])
    return f"product {product}" if product > value["most"] else ""


def _activation_among(view: OpView, value: Sequence[str]) -> str | None:
    if "activation" not in view.attributes:
        return None
    number = view.attributes["activation"]
    name = _ACTIVATIONS[number] if 0 <= number < len(_ACTIVATIONS) else f"activation {number}"
    return "" if name in value else name


def _same_dilation(view: OpView, _: Any) -> str | None:
    if not _known(view, ("dilation_w", "dilation_h")):
        return None
    high, wide = view.attributes["dilation_h"], view.attributes["dilation_w"]
    return f"dilation {high}x{wide}" if high != wide else ""


def _dilation_at_stride_1(view: OpView, _: Any) -> str | None:
    names = ("dilation_w", "dilation_h", "stride_w", "stride_h")
    if not _known(view, names):
        return None
    dilated, strided = (max(view.attributes[name] for name in pair) > 1 for pair in (names[:2], names[2:]))
    return "dilated, with a stride" if dilated and strided else ""


def _one_multiplier(view: OpView, _: Any) -> str | None:
    if not _known(view, ("depth_multiplier", "dilation_w", "dilation_h")):
        return None
    multiplier, tensor = view.attributes["depth_multiplier"], view.input(0)
    alone = tensor is not None and len(tensor.shape) == 4 and tensor.shape[3] == 1
    dilated = max(view.attributes["dilation_w"], view.attributes["dilation_h"]) > 1
    return "" if multiplier == 1 or (alone and not dilated) else f"multiplier {multiplier}"


def _axes(view: OpView, value: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The axes that an operation works along, from 0; None where the file does not say, or says nonsense."""
    tensor = view.input(value.get("of", 0))
    rank = len(tensor.shape) if tensor is not None else 0
    found: tuple[int, ...] | None
    if "attribute" in value:
        number = view.attributes.get(value["attribute"])
        found = None if number is None else (number,)
        rank += view.op.kind == "PACK"
    else:
        found = view.integers(value["input"])
    if found is None or not all(-rank <= axis < rank for axis in found):
        return None
    return tuple(axis % rank for axis in found)


def _spares_batch(view: OpView, value: Mapping[str, Any]) -> str | None:
    axes = _axes(view, value)
    return None if axes is None else "along the batch" if 0 in axes else ""


def _pad_spares_batch(view: OpView, _: Any) -> str | None:
    values = view.integers(1)
    return None if values is None or len(values) < 2 else "pads the batch" if any(values[:2]) else ""


def _last_axis(view: OpView, value: Mapping[str, Any]) -> str | None:
    axes, tensor = _axes(view, value), view.input(0)
    if axes is None or tensor is None:
        return None
    return "" if axes == (len(tensor.shape) - 1,) else f"axis {listed(axes)} of {shape_text(tensor)}"


def _depth_multiple(view: OpView, value: int) -> str | None:
    """Where it reduces the last axis, that is a multiple of `value`."""
    axes, tensor = _axes(view, {"input": 1}), view.input(0)
    if axes is None or tensor is None:
        return None
    depth = tensor.shape[-1] if tensor.shape else 1
    return f"{depth} channels" if len(tensor.shape) - 1 in axes and depth % value else ""


def _reduced_most(view: OpView, value: Mapping[str, int]) -> str | None:
    axes, tensor = _axes(view, {"input": 1}), view.input(0)
    if axes is None or tensor is None or tensor.dtype not in value:
        return None
    count = math.prod(tensor.shape[axis] for axis in set(axes))
    return f"{count} elements" if count > value[tensor.dtype] else ""


def _reduced_axis_below(view: OpView, value: int) -> str | None:
    axes, tensor = _axes(view, {"input": 1}), view.input(0)
    if axes is None or tensor is None:
        return None
    return listed([f"axis of {tensor.shape[axis]}" for axis in axes if tensor.shape[axis] >= value])


def _depth_reduction(view: OpView, _: Any) -> str | None:
    axes, tensor = _axes(view, {"input": 1}), view.input(0)
    if axes is None or tensor is None:
        return None
    deep = len(tensor.shape) - 1 in axes
    return (
        f"over the channels of {shape_text(tensor)}"
        if deep and 1 not in tensor.shape[-3:] and len(tensor.shape) > 2
        else ""
    )


def _values_within(view: OpView, value: Mapping[str, Any]) -> str | None:
    found = view.integers(value["input"])
    if found is None:
        return None
    wrong = [number for number in found if not value.get("least", number) <= number <= value.get("most", number)]
    return listed(wrong)


def _upscales(view: OpView, value: Sequence[int]) -> str | None:
    """Both axes of a resized picture grow by one of the factors, or nothing is resized, or it begins with one pixel."""
    before, after = view.input(0), view.output()
    if before is None or after is None or len(before.shape) != 4 or len(after.shape) != 4:
        return None
    if not _known(view, ("align_corners", "half_pixel_centers")):
        return None
    if before.shape == after.shape or before.shape[1:3] == (1, 1):
        return ""
    less = 1 if view.attributes["align_corners"] else 0
    factors = value[:1] if view.attributes["half_pixel_centers"] and view.op.kind == "RESIZE_BILINEAR" else value
    ratios = {(new - less) / max(old - less, 1) for old, new in zip(before.shape[1:3], after.shape[1:3], strict=True)}
    return "" if len(ratios) == 1 and ratios <= set(factors) else f"{shape_text(before)} to {shape_text(after)}"


def _transposed_strides(view: OpView, _: Any) -> str | None:
    weights, before = view.input(1), view.input(2)
    if weights is None or before is None or not _known(view, ("stride_w", "stride_h")):
        return None
    wide, high = view.attributes["stride_w"], view.attributes["stride_h"]
    flat = len(before.shape) == 4 and len(weights.shape) == 4
    allowed = (wide, high) in ((1, 1), (2, 2))
    allowed |= (wide, high) == (2, 1) and flat and before.shape[1] == weights.shape[1] == 1
    allowed |= (wide, high) == (1, 2) and flat and before.shape[2] == weights.shape[2] == 1
    return "" if allowed else f"stride {high}x{wide}"


def _transposed_shape(view: OpView, _: Any) -> str | None:
    weights, before, after = view.input(1), view.input(2), view.output()
    if weights is None or before is None or after is None or not _known(view, ("padding", "stride_w", "stride_h")):
        return None
    if not len(weights.shape) == len(before.shape) == len(after.shape) == 4:
        return None
    wanted = []
    for axis, name in ((1, "stride_h"), (2, "stride_w")):
        stride = view.attributes[name]
        over = 0 if view.attributes["padding"] == _SAME else weights.shape[axis] - stride
        wanted.append(before.shape[axis] * stride + over)
    return "" if list(after.shape[1:3]) == wanted else f"{shape_text(before)} to {shape_text(after)}"


def _splits(view: OpView, _: Any) -> str | None:
    count = view.attributes.get("splits")
    return None if count is None else "" if count == len(view.op.outputs) else f"{count} and {len(view.op.outputs)}"


OPTION_CHECKS: Mapping[str, Callable[[OpView, Any], str | None]] = {
    check.__name__.lstrip("_"): check
    for check in (
        *(_attribute_among, _attributes_within, _product_within, _activation_among, _same_dilation),
        *(_dilation_at_stride_1, _one_multiplier, _spares_batch, _pad_spares_batch, _last_axis),
        *(_depth_multiple, _reduced_most, _reduced_axis_below, _depth_reduction, _values_within),
        *(_upscales, _transposed_strides, _transposed_shape, _splits),
    )
}
