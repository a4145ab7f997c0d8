"""Inputs and outputs of a .tflite file as code sees them, and names out of files as literals of a language.

Names are whatever a file makes of them: a literal holds ASCII letters, digits and a few signs as they are and escapes
all else, so that nothing ends the literal, or the comment that it stands in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.errors import Unsupported
from edgeprune.formats.elements import Shape
from edgeprune.formats.graph import Graph, Signature

__all__ = ["LITERALS", "Language", "Value", "indented", "inputs_of", "listing", "outputs_of", "swift_function"]

Language = str  # a key of LITERALS

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-./:;,+()[]#@!?&=<>|~^%")
_RANGES: Mapping[str, tuple[int, int]] = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An input or output; with `scale`, its integers mean (integer - `zero_point`) * `scale`."""

    name: str
    shape: Shape
    dtype: str
    scale: float | None = None
    zero_point: int = 0

    @property
    def elements(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and largest integer of its type."""
        return _RANGES[self.dtype]

    @property
    def scale_text(self) -> str:
        """The scale as every language reads it: the shortest float32."""
        return str(np.float32(self.scale if self.scale is not None else 1.0))

    @property
    def told(self) -> str:
        """Type, shape and scale, for a comment."""
        meaning = f"; a number is (integer - {self.zero_point}) * {self.scale_text}" if self.scale is not None else ""
        return f"{self.dtype}, {'x'.join(map(str, self.shape)) or 'one number'}{meaning}"


def _units(code: int) -> str:
    """UTF-16 escapes; a half of a pair that stands alone is the sign for what cannot be shown."""
    code = 0xFFFD if 0xD800 <= code < 0xE000 else code
    units = chr(code).encode("utf-16-be")
    return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2))


def _escaped(text: str, escape: Callable[[int], str]) -> str:
    return '"' + "".join(char if char in _PLAIN else escape(ord(char)) for char in text) + '"'


def _python(text: str) -> str:
    return _escaped(text, lambda code: f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def _swift(text: str) -> str:
    return _escaped(text, lambda code: f"\\u{{{0xFFFD if 0xD800 <= code < 0xE000 else code:x}}}")


def _utf16(text: str) -> str:
    return _escaped(text, _units)


LITERALS: Mapping[Language, Callable[[str], str]] = {
    "kotlin": _utf16,
    "swift": _swift,
    "python": _python,
    "js": _utf16,
}


def listing(items: Iterable[object]) -> str:
    """1, 6, 6, 3."""
    return ", ".join(str(item) for item in items)


def indented(lines: Iterable[str]) -> Iterator[str]:
    """By four spaces."""
    yield from (f"    {line}" if line else "" for line in lines)


def swift_function(head: Iterable[str], body: Iterable[str]) -> str:
    """A file of Swift: `head`, and a function that throws and returns the outputs by name."""
    return "\n".join([*head, "", "func runModel() throws -> [String: Any] {", *indented(body), "}"]) + "\n"


def inputs_of(graph: Graph) -> tuple[Value, ...]:
    """The inputs in the order of the graph, in which runtimes take them, by the names of the file's signature.

    Raises Unsupported for open sizes, which only the app knows.
    """
    for index, shape in graph.options.open_inputs.items():
        raise Unsupported(
            f"input {graph.tensors[index].name!r} has open sizes {list(shape)}, which no code can know: resize it, or "
            "convert it with one size"
        )
    signature = _signature(graph)
    names = dict(zip(signature.input_tensors, signature.inputs, strict=False)) if signature is not None else {}
    return _values(graph, graph.inputs, names)


def outputs_of(graph: Graph) -> tuple[Value, ...]:
    """The outputs in the order of the graph, in which runtimes give them, by the names of the file's signature."""
    signature = _signature(graph)
    names = dict(zip(signature.output_tensors, signature.outputs, strict=False)) if signature is not None else {}
    return _values(graph, graph.outputs, names)


def _signature(graph: Graph) -> Signature | None:
    """The first one of the first subgraph."""
    return next((item for item in graph.signatures if item.subgraph == 0), None)


def _values(graph: Graph, places: tuple[int, ...], names: Mapping[int, str]) -> tuple[Value, ...]:
    """With names of their own: where a file gives two the same, the second has its number behind it."""
    found: dict[str, Value] = {}
    for number, place in enumerate(places):
        tensor, quantization = graph.tensors[place], graph.options.quantization.get(place)
        name = names.get(place, tensor.name)
        name = f"{name} {number}" if name in found else name
        scaled = (
            quantization is not None
            and quantization.scales == 1
            and math.isfinite(quantization.scale)
            and quantization.scale > 0
            and tensor.dtype in _RANGES
        )
        found[name] = Value(
            name=name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            scale=quantization.scale if quantization is not None and scaled else None,
            zero_point=quantization.zero_point if quantization is not None and scaled else 0,
        )
    return tuple(found.values())
