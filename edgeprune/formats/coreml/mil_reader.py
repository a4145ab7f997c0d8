"""Read a Core ML model file without coremltools, see `edgeprune.formats.coreml.mil` for the formats.

The file is not trusted: counts and offsets are held against its bytes, and what leads out of the package is refused.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import InputError
from edgeprune.formats.coreml.mil import (
    Array,
    Binding,
    Block,
    BrokenModelError,
    Constant,
    Feature,
    Operation,
    Package,
    Port,
    Shape,
    dense_array,
    stored_bits,
)
from edgeprune.formats.elements import PACKED_BITS
from edgeprune.formats.protobuf import BrokenMessageError, Message, parse
from edgeprune.host.untrusted import is_folder, read_text, read_whole

__all__ = ["Specification", "model_file", "parse_package", "read_coreml", "read_specification"]

# MIL.proto, enum DataType.
_DTYPES = {
    1: "bool",
    2: "string",
    10: "float16",
    11: "float32",
    12: "float64",
    13: "bfloat16",
    21: "int8",
    22: "int16",
    23: "int32",
    24: "int64",
    25: "int4",
    31: "uint8",
    32: "uint16",
    33: "uint32",
    34: "uint64",
    35: "uint4",
    36: "uint2",
    37: "uint1",
    38: "uint6",
    39: "uint3",
    40: "float8_e4m3fn",
    41: "float8_e5m2",
}
# FeatureTypes.proto: ArrayFeatureType.ArrayDataType and ImageFeatureType.ColorSpace.
_ARRAY_DTYPES = {65568: "float32", 65600: "float64", 131104: "int32", 131080: "int8", 65552: "float16"}
_COLORS = {10: "GRAYSCALE", 20: "RGB", 30: "BGR", 40: "GRAYSCALE_FLOAT16"}
_ML_PROGRAM = 502
# Model.proto, the other members of the oneof that users meet.
_KINDS = {500: "a neural network", 303: "a neural network", 403: "a neural network", 202: "a pipeline"}
_SENTINEL = 0xDEADBEEF
_BLOB_HEADER = struct.Struct("<IIQQ")
_MODEL_PATH = "@model_path/"
_MAX_RANK, _MAX_DEPTH, _MAX_ELEMENTS = 16, 32, 1 << 40
# MIL.proto, TensorValue: field number -> (kind of the repeated field "values").
_FLOATS, _INTS, _BOOLS, _STRINGS, _LONGS, _DOUBLES, _RAW = range(1, 8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Specification:
    """The file of a model that says what it is: where it is, its bytes, and the message in it."""

    place: Path
    raw_bytes: int
    model: Message


def read_coreml(path: Path) -> Package:
    """The model in a `.mlpackage` folder or a `.mlmodel` file.

    Raises InputError for what is missing, broken, or points outside the package.
    """
    return parse_package(path, read_specification(path))


def read_specification(path: Path) -> Specification:
    """The specification in a `.mlpackage` folder or a `.mlmodel` file. Raises InputError as `read_coreml` does."""
    place = model_file(path) if path.suffix.lower() != ".mlmodel" and is_folder(path) else path
    content = read_whole(place, "a Core ML model")
    try:
        return Specification(place=place, raw_bytes=len(content), model=parse(content))
    except BrokenMessageError as cause:
        raise InputError(f"{path}: a broken Core ML model: {cause}") from cause


def parse_package(path: Path, found: Specification) -> Package:
    """The model that a specification tells; reads its weight files. Raises InputError as `read_coreml` does."""
    try:
        return _Reader(path, found.place.parent).package(found.model)
    except (BrokenMessageError, BrokenModelError, RecursionError) as cause:
        raise InputError(f"{path}: a broken Core ML model: {cause}") from cause


def model_file(package: Path) -> Path:
    """The specification file that the package's manifest names. Raises InputError for none, and for one outside."""
    manifest = package / "Manifest.json"
    if not manifest.exists():
        raise InputError(f"{package}: not a Core ML package: no Manifest.json in it")
    try:
        told = json.loads(read_text(manifest, "the manifest of a Core ML package"))
        place = _named_path(told)
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise InputError(f"{manifest}: does not name the package's model ({type(cause).__name__})") from cause
    if ".." in Path(place).parts or Path(place).is_absolute():
        raise InputError(f"{manifest}: refused, it names a file outside the package: {place!r}")
    return package / "Data" / place


def _named_path(told: Any) -> str:
    """Where the manifest says the model lies. Raises KeyError and TypeError where it says nothing of the kind."""
    entries = told["itemInfoEntries"]
    if not isinstance(entries, dict):
        raise TypeError("no table of entries")
    place = entries[told["rootModelIdentifier"]]["path"]
    if not isinstance(place, str):
        raise TypeError("no path")
    return place


class _Reader:
    """One model being read: its weight files stay open as byte views."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder
        self.files: dict[str, memoryview] = {}
        self.known: dict[int, tuple[int, memoryview]] = {}

    def package(self, model: Message) -> Package:
        description = model.child(2)
        kinds = [key for key in model.pieces if key >= 200]
        if not kinds:
            raise BrokenModelError("it holds no model")
        block = self._main(model.child(_ML_PROGRAM)) if _ML_PROGRAM in kinds else None
        return Package(
            path=self.path,
            specification=model.number(1),
            what="an ML program" if block else _KINDS.get(kinds[0], f"a model of type {kinds[0]}"),
            inputs=tuple(_feature(item) for item in description.children(1)),
            outputs=tuple(_feature(item) for item in description.children(10)),
            program=block,
            predicted=description.text(11),
            probabilities=description.text(12),
            metadata=_metadata(description.child(100)),
            weight_file=next((self.folder / name.removeprefix(_MODEL_PATH) for name in self.files), None),
            weight_bytes=sum(len(view) for view in self.files.values()),
        )

    def _main(self, program: Message) -> Block:
        functions = dict(program.entries(2))
        if not functions:
            raise BrokenModelError("its program has no function")
        function = functions.get("main") or next(iter(functions.values()))
        opset = function.text(2)
        blocks = dict(function.entries(3))
        if not blocks:
            raise BrokenModelError("its function has no body")
        chosen = blocks.get(opset) or next(iter(blocks.values()))
        inner = self._block(chosen, 0)
        return Block(inputs=_ports(function, 1), outputs=inner.outputs, operations=inner.operations)

    def _block(self, block: Message, depth: int) -> Block:
        if depth > _MAX_DEPTH:
            raise BrokenModelError(f"blocks nested deeper than {_MAX_DEPTH}")
        return Block(
            inputs=_ports(block, 1),
            outputs=tuple(bytes(piece).decode("utf-8", "backslashreplace") for piece in block.pieces.get(2, ())),
            operations=tuple(self._operation(item, depth) for item in block.children(3)),
        )

    def _operation(self, operation: Message, depth: int) -> Operation:
        return Operation(
            kind=operation.text(1),
            inputs={
                name: tuple(self._binding(item) for item in argument.children(1))
                for name, argument in operation.entries(2)
            },
            outputs=_ports(operation, 3),
            blocks=tuple(self._block(item, depth + 1) for item in operation.children(4)),
            attributes={name: self._constant(value) for name, value in operation.entries(5)},
        )

    def _binding(self, binding: Message) -> Binding:
        return self._constant(binding.child(2)) if binding.has(2) else binding.text(1)

    def _constant(self, value: Message, depth: int = 0) -> Constant:
        if depth > _MAX_DEPTH:
            raise BrokenModelError(f"values nested deeper than {_MAX_DEPTH}")
        dtype, shape = _type(value.child(2))
        if value.has(5):
            place = value.child(5)
            fixed = tuple(size or 0 for size in shape)
            return Constant(dtype=dtype, shape=fixed, raw=self._blob(place.text(1), place.number(2), dtype, fixed))
        immediate = value.child(3)
        if immediate.has(1):
            fixed = tuple(size or 0 for size in shape)
            return Constant(dtype=dtype, shape=fixed, values=_immediate(immediate.child(1), dtype, fixed))
        members = [self._constant(item, depth + 1).values for item in (immediate.child(3)).children(1)]
        return Constant(dtype="list", shape=(len(members),), values=members)

    def _blob(self, name: str, offset: int, dtype: str, shape: tuple[int, ...]) -> memoryview:
        view = self.files.get(name)
        if view is None:
            view = self.files[name] = self._weights(name)
        if offset + 64 > len(view):
            raise BrokenModelError(f"a constant at byte {offset} of {name!r}, which has {len(view)} bytes")
        sentinel, _kind, size, start = _BLOB_HEADER.unpack_from(view, offset)
        if sentinel != _SENTINEL or start + size > len(view):
            raise BrokenModelError(f"{name!r} has no whole constant at byte {offset}")
        wanted = -(-math.prod(shape) * stored_bits(dtype) // 8)
        if wanted > size:
            raise BrokenModelError(f"a constant of shape {shape} and type {dtype} in {size} bytes")
        return view[start : start + wanted]

    def _weights(self, name: str) -> memoryview:
        inner = name.removeprefix(_MODEL_PATH)
        if inner == name or ".." in Path(inner).parts or Path(inner).is_absolute():
            raise InputError(f"{self.path}: refused, its weights are outside the package: {name!r}")
        return memoryview(read_whole(self.folder / inner, "the weights of a Core ML package"))


def _ports(message: Message, key: int) -> tuple[Port, ...]:
    found = []
    for item in message.children(key):
        dtype, shape = _type(item.child(2))
        found.append(Port(name=item.text(1), dtype=dtype, shape=shape))
    return tuple(found)


def _type(kind: Message) -> tuple[str, Shape]:
    """(dtype, shape) of a ValueType; lists and dictionaries have the dtype "list" and "dictionary"."""
    if not kind.has(1):
        return ("list" if kind.has(2) else "dictionary" if kind.has(4) else "other"), ()
    tensor = kind.child(1)
    code = tensor.number(1)
    if code not in _DTYPES:
        raise BrokenModelError(f"unknown element type {code}")
    sizes = tuple(item.child(1).number(1) if item.has(1) else None for item in tensor.children(3))
    if len(sizes) > _MAX_RANK:
        raise BrokenModelError(f"a tensor of {len(sizes)} dimensions")
    if math.prod(size or 1 for size in sizes) > _MAX_ELEMENTS:
        raise BrokenModelError(f"a tensor of shape {sizes}")
    return _DTYPES[code], sizes


def _immediate(tensor: Message, dtype: str, shape: tuple[int, ...]) -> Any:
    """Values written in the program. MIL.proto, TensorValue; float16 and small integers are bytes."""
    if tensor.has(_RAW):
        raw = tensor.child(_RAW).pieces.get(1, [memoryview(b"")])[-1]
        return dense_array(raw, dtype, shape)
    if tensor.has(_STRINGS):
        texts = [bytes(piece).decode("utf-8", "backslashreplace") for piece in tensor.child(_STRINGS).pieces.get(1, ())]
        return texts[0] if not shape and texts else texts
    if dtype in PACKED_BITS or dtype in ("string", "bfloat16") or dtype.startswith("float8"):
        raise BrokenModelError(f"a constant of type {dtype} written as other numbers")
    if tensor.has(_FLOATS) or tensor.has(_DOUBLES):
        key, width = (_FLOATS, 4) if tensor.has(_FLOATS) else (_DOUBLES, 8)
        found: Array = tensor.child(key).reals(1, width)
    else:
        key = next((key for key in (_INTS, _LONGS, _BOOLS) if tensor.has(key)), _INTS)
        found = np.array(tensor.child(key).integers(1), np.uint64).astype(np.int64)
    if found.size != math.prod(shape):
        raise BrokenModelError(f"{found.size} values for a constant of shape {shape}")
    return found.reshape(shape).astype("bool" if dtype == "bool" else dtype)


def _feature(item: Message) -> Feature:
    """FeatureTypes.proto, FeatureType."""
    name, kind = item.text(1), item.child(3)
    if kind.has(5):
        array = kind.child(5)
        shape = tuple(array.integers(1))
        return Feature(name=name, kind="array", shape=shape, dtype=_ARRAY_DTYPES.get(array.number(2), "unknown"))
    if kind.has(4):
        image = kind.child(4)
        color = _COLORS.get(image.number(3), "unknown")
        return Feature(name=name, kind="image", shape=(image.number(2), image.number(1)), color=color)
    names = {1: "int64", 2: "double", 3: "string", 6: "dictionary", 7: "sequence", 8: "state"}
    return Feature(name=name, kind=next((text for key, text in names.items() if kind.has(key)), "unknown"))


def _metadata(item: Message) -> dict[str, str]:
    named = {"description": item.text(1), "version": item.text(2), "author": item.text(3), "license": item.text(4)}
    return {key: text for key, text in named.items() if text}
