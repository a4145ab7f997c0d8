"""What a Core ML model says: its description and, for an ML program, its operations and constants.

Format: github.com/apple/coremltools, mlmodel/format/Model.proto, FeatureTypes.proto and MIL.proto (field numbers), and
mlmodel/src/MILBlob/Blob/StorageFormat.hpp (weight.bin, version 2). Constants are decoded when asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.formats.elements import PACKED_BITS, element_bits, unpack_bits

__all__ = [
    "Block",
    "BrokenModelError",
    "Constant",
    "Feature",
    "Operation",
    "Package",
    "Port",
    "contradiction",
    "dense_array",
    "stored_bits",
]

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]

_FIRST_PROGRAMS = 6  # specification version of iOS 15 (coremltools, ct.target)


class BrokenModelError(ValueError):
    """What is wrong with a Core ML model, to be told together with its path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A named value: an input or output of a block or an operation. A size that is open is None."""

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """An input or output as an app sees it. `kind`: array, image, dictionary, or another type's field name.

    `shape` of an array as declared; of an image (height, width). `color`: GRAYSCALE, RGB, BGR for an image.
    """

    name: str
    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    color: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constant:
    """A constant: values stored in the program itself, or `raw` bytes in a weight file."""

    dtype: str
    shape: tuple[int, ...]
    values: Any = None
    raw: memoryview | None = None

    @property
    def stored_bytes(self) -> int:
        """Bytes that the values take in the weight file; 0 for those in the program."""
        return len(self.raw) if self.raw is not None else 0

    def array(self) -> Array:
        """The values; sub-byte integers come as int8 or uint8, one element each."""
        if self.raw is None:
            return np.asarray(self.values)
        return dense_array(self.raw, self.dtype, self.shape)


Binding = str | Constant


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operation:
    """An operation: inputs by parameter name (names of values, or constants), outputs, attributes, nested blocks."""

    kind: str
    inputs: Mapping[str, tuple[Binding, ...]]
    outputs: tuple[Port, ...]
    attributes: Mapping[str, Constant]
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Operations in order of execution; `outputs` are names of values made in it or outside."""

    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Package:
    """A Core ML model. `program` is its main function, None when the model is no ML program (`what` says what)."""

    path: Path
    specification: int
    what: str
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    program: Block | None
    probabilities: str = ""
    predicted: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    weight_file: Path | None = None
    weight_bytes: int = 0


def contradiction(package: Package) -> str | None:
    """How the description of an ML program contradicts it, so that no app could load the model; None if it does not."""
    if package.program is None:
        return None
    ports = {port.name: port.shape for port in package.program.inputs}
    for end in package.inputs:
        if end.name not in ports:
            return f"the description's input {end.name!r} is none of the program's ({', '.join(ports)})"
        if end.kind == "image":
            planes = (1 if end.color.startswith("GRAYSCALE") else 3, *end.shape)
            sizes = ports[end.name][-3:]  # None where it may change
            if len(sizes) != 3 or any(size not in (None, told) for size, told in zip(sizes, planes, strict=True)):
                return f"a picture of {list(planes)} in the description and {list(ports[end.name])} in the program"
    for end in package.outputs:
        if end.name not in package.program.outputs:
            return (
                f"the description's output {end.name!r} is none of the program's ({', '.join(package.program.outputs)})"
            )
    if package.specification < _FIRST_PROGRAMS:
        return f"specification version {package.specification} has no ML programs; they came with {_FIRST_PROGRAMS}"
    return None


def stored_bits(dtype: str) -> int:
    """Bits of an element in a weight file. Raises BrokenModelError for what none can hold."""
    if dtype in ("string", "list", "dictionary", "other"):
        raise BrokenModelError(f"a constant of type {dtype} in a weight file")
    return element_bits(dtype)


def dense_array(raw: memoryview, dtype: str, shape: tuple[int, ...]) -> Array:
    """Stored bytes as an array; bfloat16 comes as float32. Raises BrokenModelError where they do not fit."""
    count = math.prod(shape)
    if len(raw) < -(-count * stored_bits(dtype) // 8):
        raise BrokenModelError(f"{len(raw)} bytes for a constant of shape {shape} and type {dtype}")
    if dtype in PACKED_BITS:
        return unpack_bits(np.frombuffer(raw, np.uint8), PACKED_BITS[dtype], count, dtype[0] != "u").reshape(shape)
    if dtype == "bfloat16":
        wide = np.frombuffer(raw, "<u2", count).astype(np.uint32) << np.uint32(16)
        return wide.view(np.float32).reshape(shape)
    if dtype.startswith("float8"):
        raise BrokenModelError(f"a constant of type {dtype}, which this reader does not know")
    return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<"), count).reshape(shape)
