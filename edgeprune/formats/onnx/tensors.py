"""The arrays of an ONNX model: TensorProto and SparseTensorProto, and the files beside the model that hold the numbers.

Format: github.com/onnx/onnx, onnx/onnx.proto3 (field numbers) and docs/ExternalData.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeprune.errors import InputError
from edgeprune.formats.contents import Piece, StoredArray
from edgeprune.formats.elements import Bytes, Shape, count_zeros, dense_values, element_bits
from edgeprune.formats.protobuf import BrokenMessageError, Message, count_varints, unpack_varints
from edgeprune.formats.weights import Role
from edgeprune.host.untrusted import read_whole

__all__ = ["DTYPES", "OutsideFiles", "Tensor", "integers_of", "read_sparse", "read_tensor"]

# onnx.proto3, TensorProto.DataType.
DTYPES: Mapping[int, str] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1",
    24: "float8_e8m0",
    25: "uint2",
    26: "int2",
}
# TensorProto: where numbers stand that are not in raw_data.
_FLOATS, _INT32S, _STRINGS, _INT64S, _RAW, _DOUBLES, _UINT64S = 4, 5, 6, 7, 9, 10, 11
_OUTSIDE, _LOCATION, _EXTERNAL = 13, 14, 1
_REALS = {"float32": (_FLOATS, 4), "complex64": (_FLOATS, 4), "float64": (_DOUBLES, 8), "complex128": (_DOUBLES, 8)}
_WIDE = {"int64": (_INT64S, "<i8"), "uint32": (_UINT64S, "<u4"), "uint64": (_UINT64S, "<u8")}
_MAX_RANK, _MOST_DIGITS = 16, 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tensor:
    """A tensor with its numbers as they are packed in memory; `stored_bytes` is what they take in the file."""

    name: str
    dtype: str
    shape: Shape
    raw: Bytes
    stored_bytes: int

    def piece(self, axis: int | None) -> Piece:
        """As a piece of an array."""
        shape = (len(self.raw),) if self.dtype == "string" else self.shape
        return Piece(raw=self.raw, dtype=self.dtype, shape=shape, axis=axis, stored_bytes=self.stored_bytes)


@dataclass(slots=True)
class OutsideFiles:
    """The files beside a model, by their location as the model spells it, and which bytes of them are used."""

    path: Path
    contents: dict[Path, bytes] = field(default_factory=dict)
    used: dict[Path, set[tuple[int, int]]] = field(default_factory=dict)

    def take(self, entry: Mapping[str, str]) -> tuple[Bytes, int]:
        """(bytes of a tensor, what they take in the files: 0 when another tensor has the very same ones).

        Raises InputError for a location outside the model's folder, a missing file, and bytes beyond its end.
        """
        place = self._inside(entry.get("location", ""))
        if place not in self.contents:
            if not place.exists():
                raise InputError(f"{self.path}: its weight file {place.name!r} is missing; put it beside the model")
            self.contents[place] = read_whole(place, "the weights of an ONNX model")
        content = self.contents[place]
        start = self._number(entry, "offset", 0)
        length = self._number(entry, "length", len(content) - start)
        if length < 0 or start + length > len(content):
            raise BrokenMessageError(f"bytes {start} to {start + length} of {place.name!r}, which has {len(content)}")
        spans = self.used.setdefault(place, set())
        stored_bytes = 0 if (start, start + length) in spans else length
        spans.add((start, start + length))
        return np.frombuffer(content, np.uint8, length, start), stored_bytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of the files that tensors use. Raises BrokenMessageError when tensors overlap without being equal."""
        total = 0
        for place, spans in self.used.items():
            end = 0
            for start, stop in sorted(spans):
                if start < end:
                    raise BrokenMessageError(f"two tensors share some bytes of {place.name!r} at {start}")
                end = max(end, stop)
                total += stop - start
        return total

    def _inside(self, location: str) -> Path:
        folder = self.path.parent.resolve()
        try:
            place = (folder / location).resolve()
        except (OSError, ValueError, RuntimeError) as cause:  # no file's name, or a ring of links
            raise InputError(f"{self.path}: its weights are at {location!r}, where no file can be") from cause
        # A backslash climbs out too where it separates folders.
        parts = Path(location.replace("\\", "/")).parts
        outside = ".." in parts or Path(location).is_absolute() or not place.is_relative_to(folder)
        if not location or outside or place in (folder, self.path.resolve()):
            raise InputError(f"{self.path}: refused, its weights are not in a file beside it: {location!r}")
        return place

    def _number(self, entry: Mapping[str, str], key: str, default: int) -> int:
        text = entry.get(key, "")
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
            raise BrokenMessageError(f"the {key} of a tensor is {text[:40]!r}, not a number")
        return int(text)


def read_tensor(message: Message, outside: OutsideFiles) -> Tensor:
    """A TensorProto. Raises BrokenMessageError when its numbers do not fill its shape, InputError as OutsideFiles."""
    code = message.number(2)
    if code not in DTYPES:
        raise BrokenMessageError(f"the tensor {message.text(8)!r} has the unknown element type {code}")
    name, dtype, shape = message.text(8), DTYPES[code], _shape(message.integers(1))
    if message.number(_LOCATION) == _EXTERNAL:
        raw, stored_bytes = outside.take({item.text(1): item.text(2) for item in message.children(_OUTSIDE)})
    elif dtype == "string":
        raw, stored_bytes = _strings(message, math.prod(shape))
        return Tensor(name=name, dtype=dtype, shape=shape, raw=raw, stored_bytes=stored_bytes)
    elif message.has(_RAW):
        raw = np.frombuffer(message.pieces[_RAW][-1], np.uint8)
        stored_bytes = len(raw)
    else:
        raw, stored_bytes = _typed(message, dtype, math.prod(shape))
    wanted = -(-math.prod(shape) * element_bits(dtype) // 8)
    if len(raw) != wanted:
        raise BrokenMessageError(f"the tensor {name!r} of shape {shape} and type {dtype} has {len(raw)} bytes")
    return Tensor(name=name, dtype=dtype, shape=shape, raw=raw, stored_bytes=stored_bytes)


def read_sparse(message: Message, outside: OutsideFiles, role: Callable[[str, Shape], Role]) -> StoredArray:
    """A SparseTensorProto: non-zeros and where they are in the dense array. `role` tells its use by dtype and shape."""
    values, places = read_tensor(message.child(1), outside), read_tensor(message.child(2), outside)
    shape = _shape(message.integers(3))
    count, elements = math.prod(values.shape), math.prod(shape)
    if places.dtype != "int64" or math.prod(places.shape) not in (count, count * len(shape)) or count > elements:
        raise BrokenMessageError(f"the sparse tensor {values.name!r} of shape {shape} has {count} values")
    zeros = count_zeros(values.raw, values.dtype, values.shape)
    return StoredArray(
        name=values.name,
        shape=shape,
        precision="sparse" if values.dtype == "float32" else f"sparse+{values.dtype}",
        role=role(values.dtype, shape),
        zeros=None if zeros is None else elements - count + zeros,
        pieces=(values.piece(None), places.piece(None)),
    )


def integers_of(tensor: Tensor) -> tuple[int, ...]:
    """The numbers of a small integer tensor (zero points); empty for another type."""
    if tensor.dtype.startswith(("int", "uint")):
        return tuple(int(value) for value in dense_values(tensor.raw, tensor.dtype, math.prod(tensor.shape)))
    return ()


def _shape(sizes: list[int]) -> Shape:
    if len(sizes) > _MAX_RANK or any(size >> 63 for size in sizes):
        raise BrokenMessageError(f"a tensor of shape {sizes[: _MAX_RANK + 1]}")
    return tuple(sizes)


def _typed(message: Message, dtype: str, elements: int) -> tuple[Bytes, int]:
    """(bytes, stored bytes) of numbers that stand in the field for their type."""
    if dtype in _REALS:
        key, width = _REALS[dtype]
        raw = message.reals(key, width).view(np.uint8)
        return raw, len(raw)
    key, kind = _WIDE.get(dtype, (_INT32S, f"<u{max(element_bits(dtype), 8) // 8}"))
    packed = message.pieces.get(key, [])
    loose = message.numbers.get(key, [])
    wanted = -(-elements * element_bits(dtype) // 8) // np.dtype(kind).itemsize
    if sum(map(count_varints, packed)) + len(loose) != wanted:
        raise BrokenMessageError(f"the tensor {message.text(8)!r} needs {wanted} numbers and has another count")
    parts = [unpack_varints(piece, kind) for piece in packed]
    parts.append(np.array(loose, np.uint64).astype(kind))
    filled = [part for part in parts if len(part)]
    found = filled[0] if len(filled) == 1 else np.concatenate(parts)
    # A number that is not packed takes a byte for every seven bits.
    stored_bytes = sum(map(len, packed)) + sum(max(1, -(-value.bit_length() // 7)) for value in loose)
    return found.view(np.uint8), stored_bytes


def _strings(message: Message, elements: int) -> tuple[Bytes, int]:
    texts = message.pieces.get(_STRINGS, [])
    if len(texts) != elements:
        raise BrokenMessageError(f"the tensor {message.text(8)!r} needs {elements} strings and has {len(texts)}")
    raw = np.frombuffer(b"".join(texts), np.uint8)
    return raw, len(raw)
