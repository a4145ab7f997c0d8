"""Element types of stored numbers: their bits in a file, unpacking those below a byte, and counting zeros in place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["PACKED_BITS", "code_counts", "count_zeros", "dense_values", "element_bits", "pack_bits", "unpack_bits"]

Shape = tuple[int, ...]
Bytes = npt.NDArray[np.uint8]

# Element types of fewer than 8 bits, packed with the first element in the lowest bits.
PACKED_BITS: Mapping[str, int] = {
    "float4_e2m1": 4,
    "int2": 2,
    "int4": 4,
    "uint1": 1,
    "uint2": 2,
    "uint3": 3,
    "uint4": 4,
    "uint5": 5,
    "uint6": 6,
    "uint7": 7,
}
_ODD_BITS: Mapping[str, int] = {
    "bfloat16": 16,
    "bool": 8,
    "complex128": 128,
    "complex64": 64,
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
    "float8_e8m0": 8,
    "string": 8,
}
# OCP Microscaling Formats 1.0 and arXiv 2206.02915: the codes of +0 and, where there is one, -0. In the "uz" types
# 0x80 is NaN; an e8m0 is a power of two and never zero.
_ZERO_CODES: Mapping[str, tuple[int, ...]] = {
    "float4_e2m1": (0x0, 0x8),
    "float8_e4m3fnuz": (0x00,),
    "float8_e5m2fnuz": (0x00,),
    "float8_e8m0": (),
}
_ELEMENTS_AT_ONCE = 1 << 16  # a multiple of 8: a block of any width ends with a byte


def element_bits(dtype: str) -> int:
    """Bits that one element takes in a file. Raises KeyError for a type that is not known."""
    if dtype in PACKED_BITS:
        return PACKED_BITS[dtype]
    if dtype in _ODD_BITS:
        return _ODD_BITS[dtype]
    digits = dtype.removeprefix("u").removeprefix("int").removeprefix("float")
    if digits not in ("8", "16", "32", "64"):
        raise KeyError(dtype)
    return int(digits)


def pack_bits(values: Bytes, bits: int) -> Bytes:
    """Integers below 2^`bits` [count], at most 8 bits each, the first in the lowest bits of the first byte."""
    if bits == 8:
        return values
    return np.packbits(np.unpackbits(values[:, None], axis=1, bitorder="little")[:, :bits], bitorder="little")


def unpack_bits(raw: Bytes, bits: int, count: int, signed: bool = False) -> npt.NDArray[np.uint8 | np.int8]:
    """`count` integers of `bits` bits each, the first in the lowest bits; uint8, or int8 when `signed`.

    Raises ValueError for too few bytes.
    """
    if len(raw) * 8 < count * bits:
        raise ValueError(f"{len(raw)} bytes do not hold {count} integers of {bits} bits")
    if 8 % bits == 0:  # an eighth of the memory of the general way
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        values = ((raw[: -(-count * bits // 8), None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)[:count]
    else:
        flat = np.unpackbits(raw, bitorder="little")[: count * bits].reshape(count, bits)
        values = np.packbits(flat, axis=1, bitorder="little")[:, 0]
    if not signed:
        return values
    sign = np.uint8(1 << (bits - 1))
    return (values ^ sign).astype(np.int8) - np.int8(sign)


def dense_values(raw: Bytes, dtype: str, elements: int) -> npt.NDArray[np.generic]:
    """The numbers of a dense array of a plain type, shape (elements,); packed ones unpacked to one a byte.

    Raises KeyError for a type that is not known, ValueError for too few bytes.
    """
    if dtype in PACKED_BITS:
        return unpack_bits(raw, PACKED_BITS[dtype], elements, signed=dtype.startswith("int"))
    return raw.view(np.dtype(dtype).newbyteorder("<"))[:elements]


def code_counts(raw: Bytes, bits: int, elements: int) -> npt.NDArray[np.int64]:
    """How often each code of 0..2^bits-1 occurs among `elements` packed ones, the first in the lowest bits.

    Raises ValueError for too few bytes.
    """
    if len(raw) * 8 < elements * bits:
        raise ValueError(f"{len(raw)} bytes do not hold {elements} integers of {bits} bits")
    found = np.zeros(1 << bits, np.int64)
    for first in range(0, elements, _ELEMENTS_AT_ONCE):
        count = min(_ELEMENTS_AT_ONCE, elements - first)
        block = raw[first * bits // 8 : -(-(first + count) * bits // 8)]
        found += np.bincount(block if bits == 8 else unpack_bits(block, bits, count), minlength=1 << bits)
    return found


def count_zeros(
    raw: Bytes, dtype: str, shape: Shape, *, zero_points: Sequence[int] = (0,), axis: int = 0
) -> int | None:
    """Elements of a dense array that are zero: floats by all bits but the sign, integers equal to a zero point.

    `raw` is uint8 (bytes,), little-endian; `zero_points` has one entry, or one for each index along `axis` of `shape`.
    None for strings. Raises ValueError when the bytes do not fit `shape`, or the zero points do not fit the axis, and
    KeyError for a type that is not known.
    """
    elements = math.prod(shape)
    if len(raw) != -(-elements * element_bits(dtype) // 8):
        raise ValueError(f"{len(raw)} bytes do not hold {elements} elements of {dtype}")
    points = set(zero_points)
    if dtype == "string":
        return None
    if dtype in _ZERO_CODES or (dtype in PACKED_BITS and len(points) == 1):
        return _zero_codes(raw, dtype, elements, points)
    if dtype.startswith(("float", "bfloat", "complex")):
        return elements - int(np.count_nonzero(_magnitude_bits(raw, dtype)))
    values = dense_values(raw, dtype, elements)
    if len(points) == 1:
        return int(np.count_nonzero(values == zero_points[0]))
    if not 0 <= axis < len(shape) or shape[axis] != len(zero_points):
        raise ValueError(f"{len(zero_points)} zero points do not fit axis {axis} of shape {shape}")
    column = np.asarray(zero_points, np.int64).reshape((-1,) + (1,) * (len(shape) - axis - 1))
    return int(np.count_nonzero(values.reshape(shape) == column))


def _zero_codes(raw: Bytes, dtype: str, elements: int, points: set[int]) -> int:
    """Of types whose codes are counted rather than decoded, which takes less memory."""
    bits = element_bits(dtype)
    # A point below zero is the code of its two's complement; one beyond the type is no code.
    lowest = -(1 << (bits - 1)) if dtype.startswith("int") else 0
    codes = {point % (1 << bits) for point in points if lowest <= point < lowest + (1 << bits)}
    counts = code_counts(raw, bits, elements)
    return sum(int(counts[code]) for code in _ZERO_CODES.get(dtype, codes))


def _magnitude_bits(raw: Bytes, dtype: str) -> npt.NDArray[np.bool_]:
    """bool (elements,): any bit but the sign is set. Bits, not values: NaN then needs no special care."""
    parts = 2 if dtype.startswith("complex") else 1
    bits = element_bits(dtype) // parts
    words = raw.view(np.dtype(f"<u{bits // 8}"))
    magnitude = (words & words.dtype.type((1 << (bits - 1)) - 1)) != 0
    whole: npt.NDArray[np.bool_] = magnitude.reshape(-1, parts).any(axis=1) if parts > 1 else magnitude
    return whole
