"""Zeros among stored numbers, of every element type that a container has, in little memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeprune.formats.contents import PACKED_BITS, Bytes, Shape, element_bits
from edgeprune.formats.coreml.mil import unpack_bits
from edgeprune.formats.graph import ELEMENT_BITS, count_zeros

__all__ = ["codes_of", "zeros_in"]

# OCP Microscaling Formats 1.0 and arXiv 2206.02915: the codes of +0 and, where there is one, -0. In the "uz" types
# 0x80 is NaN; an e8m0 is a power of two and never zero.
_ZERO_CODES = {
    "float4_e2m1": (0x0, 0x8),
    "float8_e4m3fnuz": (0x00,),
    "float8_e5m2fnuz": (0x00,),
    "float8_e8m0": (),
}
_ELEMENTS_AT_ONCE = 1 << 20  # a multiple of 8: a block of any width ends with a byte


def zeros_in(raw: Bytes, dtype: str, shape: Shape, *, zero_points: Sequence[int] = (0,), axis: int = 0) -> int | None:
    """Elements of a dense array that are zero: floats by all bits but the sign, integers equal to a zero point.

    `zero_points` has one entry, or one for each index along `axis`. None for strings. Raises ValueError when the bytes
    or the zero points do not fit `shape`.
    """
    if dtype == "string":
        return None
    points = set(zero_points)
    if dtype in ELEMENT_BITS and (dtype not in PACKED_BITS or len(points) > 1):
        return count_zeros(raw, dtype, shape, zero_points=zero_points, axis=axis)
    elements, bits = math.prod(shape), element_bits(dtype)
    if len(raw) != -(-elements * bits // 8):
        raise ValueError(f"{len(raw)} bytes do not hold {elements} elements of {dtype}")
    if dtype not in _ZERO_CODES and len(points) > 1:
        return None
    # A point below zero is the code of its two's complement; one beyond the type is no code.
    lowest = -(1 << (bits - 1)) if dtype.startswith("int") else 0
    codes = {point % (1 << bits) for point in points if lowest <= point < lowest + (1 << bits)}
    histogram = codes_of(raw, bits, elements)
    return sum(histogram[code] for code in _ZERO_CODES.get(dtype, codes))


def codes_of(raw: Bytes, bits: int, elements: int) -> Sequence[int]:
    """How often each code of 0..2^bits-1 occurs among `elements` packed ones, the first in the lowest bits."""
    found = np.zeros(1 << bits, np.int64)
    for first in range(0, elements, _ELEMENTS_AT_ONCE):
        count = min(_ELEMENTS_AT_ONCE, elements - first)
        block = raw[first * bits // 8 : -(-(first + count) * bits // 8)]
        codes = block if bits == 8 else unpack_bits(block, bits, count)
        found += np.bincount(codes, minlength=1 << bits)
    return [int(number) for number in found]
