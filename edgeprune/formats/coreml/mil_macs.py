"""Multiply-accumulates of Core ML operations, from shapes. Layouts: coremltools, MIL operations (iOS 15 to 18)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from edgeprune.formats.coreml.mil import Constant, Operation

__all__ = ["mil_macs"]

Shape = tuple[int, ...]


def mil_macs(operation: Operation, shapes: Mapping[str, Shape], named: Mapping[str, Operation] | None = None) -> int:
    """Dense MACs of one operation, 0 for kinds that multiply no weights with activations; `shapes` are by value name,
    and `named` are the constants that a parameter may be bound to by name.

    Kernels are (output, input / groups, ...), those of conv_transpose (input, output / groups, ...). An einsum
    multiplies once for each combination of its letters.
    """
    if operation.kind in ("matmul", "einsum"):
        return (_matmul if operation.kind == "matmul" else _einsum)(operation, shapes, named or {})
    count = _COUNTS.get(operation.kind)
    return count(operation, shapes) if count else 0


def _shape(operation: Operation, parameter: str, shapes: Mapping[str, Shape], place: int = 0) -> Shape:
    bindings = operation.inputs.get(parameter, ())
    if place >= len(bindings):
        return ()
    binding = bindings[place]
    return binding.shape if isinstance(binding, Constant) else shapes.get(binding, ())


def _output(operation: Operation, shapes: Mapping[str, Shape]) -> int:
    return math.prod(shapes[operation.outputs[0].name]) if operation.outputs else 0


def _conv(operation: Operation, shapes: Mapping[str, Shape]) -> int:
    return _output(operation, shapes) * math.prod(_shape(operation, "weight", shapes)[1:])


def _conv_transpose(operation: Operation, shapes: Mapping[str, Shape]) -> int:
    return math.prod(_shape(operation, "x", shapes)) * math.prod(_shape(operation, "weight", shapes)[1:])


def _linear(operation: Operation, shapes: Mapping[str, Shape]) -> int:
    return _output(operation, shapes) * math.prod(_shape(operation, "weight", shapes)[-1:])


def _matmul(operation: Operation, shapes: Mapping[str, Shape], named: Mapping[str, Operation]) -> int:
    x = _shape(operation, "x", shapes)
    inner = -2 if bool(_value(operation, "transpose_x", named)) and len(x) > 1 else -1
    return _output(operation, shapes) * (x[inner] if x else 0)


def _value(operation: Operation, parameter: str, named: Mapping[str, Operation]) -> Any:
    """A parameter written in place, or a constant by name; None where it is absent."""
    for binding in operation.inputs.get(parameter, ())[:1]:
        maker = None if isinstance(binding, Constant) else named.get(binding)
        constant = binding if isinstance(binding, Constant) else maker.attributes.get("val") if maker else None
        return constant.values if constant is not None else None
    return None


def _einsum(operation: Operation, shapes: Mapping[str, Shape], named: Mapping[str, Operation]) -> int:
    equation = str(_value(operation, "equation", named) or "")
    sizes: dict[str, int] = {}
    for place, letters in enumerate(equation.split("->", maxsplit=1)[0].split(",")):
        sizes.update(zip(letters.strip(), _shape(operation, "values", shapes, place), strict=False))
    return math.prod(sizes.values()) if sizes else 0


def _recurrent(operation: Operation, shapes: Mapping[str, Shape]) -> int:
    x = _shape(operation, "x", shapes)  # (steps, batch, features)
    names = ("weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back")
    kernels = [_shape(operation, name, shapes) for name in names]
    return math.prod(x[:-1]) * sum(math.prod(kernel) for kernel in kernels if kernel)


def _attention(operation: Operation, shapes: Mapping[str, Shape]) -> int:
    query, value = (_shape(operation, name, shapes) for name in ("query", "value"))
    keys = _shape(operation, "key", shapes)
    if len(query) < 2 or len(keys) < 2 or not value:
        return 0
    return math.prod(query[:-1]) * keys[-2] * (query[-1] + value[-1])


_COUNTS: Mapping[str, Callable[[Operation, Mapping[str, Shape]], int]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "gru": _recurrent,
    "linear": _linear,
    "lstm": _recurrent,
    "rnn": _recurrent,
    "scaled_dot_product_attention": _attention,
}
