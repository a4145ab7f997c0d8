"""The checks that rules of accelerators are made of: each looks at one operation of a .tflite file, or at its weights.

A check says "" where it is met, what was found where it is not, and None where the file or the rule does not tell. The
rules themselves, with their figures and sources, are data (the .toml files here).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgeprune.checker.latency.accelerators.option_checks import OPTION_CHECKS
from edgeprune.checker.latency.accelerators.view import OpView, listed, shape_text
from edgeprune.checker.latency.accelerators.weight_checks import WEIGHT_CHECKS

__all__ = ["CHECKS"]

_OPEN_ENDED = frozenset({"CONCATENATION", "PACK"})  # as many inputs as you like


def _activation_types(view: OpView, value: Sequence[str]) -> str:
    return listed([tensor.dtype for tensor in view.activations if tensor.dtype not in value])


def _constant_types(view: OpView, value: Sequence[str]) -> str:
    tensors = [view.graph.tensors[index] for index in view.ends]
    return listed([tensor.dtype for tensor in tensors if tensor.constant and tensor.dtype not in value])


def _types_of_inputs(view: OpView, value: Sequence[Sequence[str]]) -> str:
    """The types that each input may have, by position; "absent" stands for one that may be left out."""
    found = []
    count = len(view.op.inputs)
    if view.op.kind not in _OPEN_ENDED and not sum("absent" not in kinds for kinds in value) <= count <= len(value):
        return f"{count} inputs"
    for position in range(count):
        tensor, kinds = view.input(position), value[min(position, len(value) - 1)]
        if tensor is not None and tensor.dtype not in kinds:
            found.append(f"input {position} is {tensor.dtype}")
    return listed(found)


def _type_of_input(view: OpView, value: Mapping[str, Any]) -> str:
    tensor = view.input(value["input"])
    return tensor.dtype if tensor is not None and tensor.dtype not in value["among"] else ""


def _fixed_sizes(view: OpView, value: int) -> str:
    """No size left open, from the axis `value` on."""
    axes = view.graph.options.open_axes
    return listed(
        [
            f"axis {axis} of {view.graph.tensors[i].name!r:.40}"
            for i in view.ends
            for axis in axes.get(i, ())
            if axis >= value
        ]
    )


def _batch(view: OpView, value: int) -> str:
    tensor = view.input(0)
    return f"batch {tensor.shape[0]}" if tensor is not None and tensor.shape and tensor.shape[0] != value else ""


def _inner_axes(view: OpView, value: int) -> str:
    """Only the last `value` axes are larger than 1."""
    wide = [tensor for tensor in view.activations if math.prod(tensor.shape[:-value]) > 1]
    return listed([shape_text(tensor) for tensor in wide])


def _flat_inputs(view: OpView, value: Sequence[int]) -> str:
    tensors = [tensor for position in value if (tensor := view.input(position)) is not None]
    return listed([shape_text(tensor) for tensor in tensors if math.prod(tensor.shape[:-1]) > 1])


def _flat_output(view: OpView, _: Any) -> str:
    tensor = view.output()
    return shape_text(tensor) if tensor is not None and math.prod(tensor.shape[:-1]) > 1 else ""


def _most_axes(view: OpView, value: int) -> str:
    tensors = [view.graph.tensors[index] for index in view.ends]
    return listed([f"{len(tensor.shape)} axes" for tensor in tensors if len(tensor.shape) > value])


def _most_elements(view: OpView, value: int) -> str:
    tensor = view.input(0)
    return f"{tensor.elements} elements" if tensor is not None and tensor.elements > value else ""


def _most_outer(view: OpView, value: int) -> str:
    """Elements of the first input without its last axis and its batch."""
    tensor = view.input(0)
    outer = math.prod(tensor.shape[1:-1]) if tensor is not None else 0
    return f"{outer} positions" if outer >= value else ""


def _constant_inputs(view: OpView, value: Sequence[int]) -> str:
    tensors = {position: view.input(position) for position in value}
    return listed([f"input {n} is computed" for n, t in tensors.items() if t is not None and not t.constant])


def _depth_most(view: OpView, value: int) -> str:
    tensor = view.input(0)
    return f"{tensor.shape[-1]} channels" if tensor is not None and tensor.shape and tensor.shape[-1] > value else ""


def _zero_constant(view: OpView, _: Any) -> str | None:
    """A constant among the inputs of a concatenation is all zeros, beside one other input."""
    constants = [t for n in range(len(view.op.inputs)) if (t := view.input(n)) is not None and t.constant]
    if not constants:
        return ""
    return "" if len(view.op.inputs) == 2 and all(t.zeros == t.elements for t in constants) else "a constant input"


def _quantized(view: OpView, _: Any) -> str:
    exact = ("int32", "int64", "bool")
    missing = [view.graph.tensors[i] for i in view.ends if view.quantization(i) is None]
    return listed([f"none of {t.name!r:.40}" for t in missing if t.dtype not in exact or not t.constant])


def _positive_scales(view: OpView, _: Any) -> str:
    found = [quantization for i in view.ends if (quantization := view.quantization(i)) is not None]
    return listed([q.scale for q in found if not (math.isfinite(q.scale) and q.scale > 0)])


def _one_scale(view: OpView, _: Any) -> str:
    return listed([f"{q.scales} scales" for i in view.ends if (q := view.quantization(i)) is not None and q.scales > 1])


def _zero_points(view: OpView, _: Any) -> str:
    wrong = []
    for index in view.ends:
        quantization, dtype = view.quantization(index), view.graph.tensors[index].dtype
        point = quantization.zero_point if quantization is not None else 0
        if (dtype == "int32" and point) or (dtype.startswith("u") and point < 0):
            wrong.append(f"{point} of {dtype}")
    return listed(wrong)


def _same_quantization(view: OpView, _: Any) -> str:
    kinds = {
        (q.scale, q.zero_point)
        for i in view.ends
        if (q := view.quantization(i)) is not None and view.graph.tensors[i].dtype != "int32"
    }
    return f"{len(kinds)} different ones" if len(kinds) > 1 else ""


def _same_types(view: OpView, _: Any) -> str:
    kinds = dict.fromkeys(tensor.dtype for tensor in view.activations)
    return listed(list(kinds)) if len(kinds) > 1 else ""


def _weight_sum(view: OpView, value: int) -> str | None:
    """Met where even the largest weights could not exceed the sum; otherwise the weights would have to be added up."""
    tensor, output = view.input(1), view.output()
    if tensor is None or output is None or not output.shape:
        return None
    return "" if -(-128 * tensor.elements // max(output.shape[-1], 1)) <= value else None


def _one_scale_of_input(view: OpView, value: int) -> str:
    found = view.quantization(view.op.inputs[value]) if value < len(view.op.inputs) else None
    return f"{found.scales} scales" if found is not None and found.scales > 1 else ""


def _weights_least(view: OpView, value: Mapping[str, int]) -> str:
    tensor = view.input(1)
    small = tensor is not None and len(tensor.shape) > value["axis"] and tensor.shape[value["axis"]] < value["least"]
    return f"filter {shape_text(tensor)}" if tensor is not None and small else ""


def _axes_most(view: OpView, value: Mapping[str, Any]) -> str:
    tensors = [tensor for tensor in view.activations if len(tensor.shape) >= 2]
    return listed([shape_text(t) for t in tensors if max(t.shape[axis] for axis in value["axes"]) > value["most"]])


def _not_read(_: OpView, __: Any) -> None:
    """A rule that is published without a figure, or that is about what is not read here."""


CHECKS: Mapping[str, Callable[[Any, Any], str | None]] = {
    check.__name__.lstrip("_"): check
    for check in (
        *(_activation_types, _constant_types, _types_of_inputs, _type_of_input, _fixed_sizes),
        *(_batch, _inner_axes, _flat_inputs, _flat_output, _most_axes),
        *(_most_elements, _most_outer, _constant_inputs, _depth_most, _zero_constant),
        *(_quantized, _positive_scales, _one_scale, _zero_points, _same_quantization),
        *(_same_types, _weight_sum, _not_read, _one_scale_of_input, _weights_least),
        _axes_most,
    )
} | {**OPTION_CHECKS, **WEIGHT_CHECKS}
