"""The numbers in a Core ML weight file, as its own table lists them.

Format: github.com/apple/coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp and BlobDataType.hpp, version 2 (iOS 15
and later): a header of 64 bytes with the number of blobs; then for each one, at a multiple of 64 bytes, metadata of 64
bytes that say where its data are.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from edgeprune.formats.elements import Bytes, element_bits

__all__ = ["Blob", "BlobFile", "BrokenBlobsError", "read_blobs"]

_HEADER = struct.Struct("<II")
_METADATA = struct.Struct("<IIQQQ")
_SENTINEL = 0xDEADBEEF
_VERSION = 2
_UNIT = 64  # alignment, and the size of the header and of each metadata
_DTYPES = {
    1: "float16",
    2: "float32",
    3: "uint8",
    4: "int8",
    5: "bfloat16",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
    16: "float8_e4m3fn",
    17: "float8_e5m2",
}


class BrokenBlobsError(ValueError):
    """What is wrong with the weight file, to be told together with its path."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blob:
    """One array: `offset` of its metadata, by which a program refers to it, and `raw` uint8 (bytes,) of its data.

    `elements` of `dtype` are what the file itself says; a program may read the bytes as another type.
    """

    offset: int
    dtype: str
    elements: int
    raw: Bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlobFile:
    """All blobs of a file by offset; bytes of its tables and of the padding between. Data and these add up to it."""

    blobs: dict[int, Blob]
    table_bytes: int
    padding_bytes: int


def read_blobs(content: bytes) -> BlobFile:
    """Take a weight file apart; the data are views of `content`.

    Raises BrokenBlobsError where it is not of version 2, or the table does not fit the file.
    """
    if len(content) < _UNIT:
        raise BrokenBlobsError(f"{len(content)} bytes, too short for a Core ML weight file")
    count, version = _HEADER.unpack_from(content)
    if version != _VERSION:
        raise BrokenBlobsError(f"weight file version {version}; only version {_VERSION} is known")
    if count > len(content) // _UNIT:
        raise BrokenBlobsError(f"{count} arrays in {len(content)} bytes")
    whole = np.frombuffer(content, np.uint8)
    blobs: dict[int, Blob] = {}
    place = stop = _UNIT
    padding = 0
    for number in range(count):
        padding += place - stop
        blob, stop = _blob(whole, content, place, number)
        blobs[place] = blob
        place = -(-stop // _UNIT) * _UNIT
    return BlobFile(blobs=blobs, table_bytes=_UNIT * (count + 1), padding_bytes=padding + len(content) - stop)


def _blob(whole: Bytes, content: bytes, place: int, number: int) -> tuple[Blob, int]:
    """(the blob whose metadata are at `place`, where its data end)."""
    if place + _UNIT > len(content):
        raise BrokenBlobsError(f"cut short: array {number} would begin at byte {place} of {len(content)}")
    sentinel, code, size, start, unused_bits = _METADATA.unpack_from(content, place)
    if sentinel != _SENTINEL:
        raise BrokenBlobsError(f"no array at byte {place}, where number {number} belongs")
    if code not in _DTYPES:
        raise BrokenBlobsError(f"the array at byte {place} has the unknown type {code}")
    if start != place + _UNIT or start + size > len(content):
        raise BrokenBlobsError(f"the array at byte {place} claims {size} bytes at {start} of {len(content)}")
    bits = element_bits(_DTYPES[code])
    if bits < 8 and unused_bits > min(7, 8 * size):
        raise BrokenBlobsError(f"the array at byte {place} claims {unused_bits} unused bits")
    elements = (8 * size - (unused_bits if bits < 8 else 0)) // bits
    return Blob(offset=place, dtype=_DTYPES[code], elements=elements, raw=whole[start : start + size]), start + size
