"""WeightParams of a Core ML neural network: floats, half floats, and codes with scales or a table.

Format: github.com/apple/coremltools, mlmodel/format/NeuralNetwork.proto (WeightParams, QuantizationParams). Codes of
fewer than 8 bits are packed there with the first one in the highest bits, and here (model.py) in the lowest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edgeprune.formats.contents import Piece, StoredArray, printable
from edgeprune.formats.elements import Bytes, Shape, count_zeros
from edgeprune.formats.protobuf import BrokenMessageError, Message
from edgeprune.formats.weights import Role

__all__ = ["floats_of", "read_weights"]

_FLOAT, _HALF, _CODES, _INT8, _QUANTIZATION = 1, 2, 30, 31, 40
_LINEAR, _TABLE = 101, 102
_BLOCK = 1 << 20  # elements at a time, a multiple of 8: a block of any width ends with a byte
_MAX_RANK, _MOST_CHANNELS = 16, 1 << 18


def read_weights(
    message: Message, name: str, sizes: Sequence[int], *, axis: int | None, role: Role
) -> StoredArray | None:
    """The array of a WeightParams; None where it holds nothing. `sizes` are the shape that the layer states.

    The shape is flat where what is stored does not have that many elements (of codes below 8 bits, all that the bytes
    could hold). Raises BrokenMessageError when it holds
    numbers of two kinds, or codes without what decodes them.
    """
    floats = floats_of(message, _FLOAT)
    raws = {key: _bytes(message, key) for key in (_HALF, _CODES, _INT8)}
    filled = [key for key, raw in raws.items() if len(raw)] + ([_FLOAT] if len(floats) else [])
    if not filled:
        return None
    if len(filled) > 1:
        raise BrokenMessageError(f"{name!r} holds weights in {len(filled)} ways")
    key = filled[0]
    if key in (_FLOAT, _HALF):
        raw, dtype = (floats, "float32") if key == _FLOAT else (raws[_HALF], "float16")
        shape = _shape(sizes, len(raw) * 8, 32 if key == _FLOAT else 16)
        pieces: tuple[Piece, ...] = (_piece(raw, dtype, shape, axis),)
        zeros, precision = count_zeros(raw, dtype, shape), dtype
    else:
        told = message.child(_QUANTIZATION) if message.has(_QUANTIZATION) else None
        shape, precision, zeros, pieces = _quantized(told, name, raws[key], key, sizes, axis)
    return StoredArray(name=printable(name), shape=shape, precision=precision, role=role, zeros=zeros, pieces=pieces)


def floats_of(message: Message, key: int) -> Bytes:
    """The bytes of a repeated float, packed or not."""
    packed = message.pieces.get(key, [])
    if len(packed) == 1 and key not in message.fixed and len(packed[0]) % 4 == 0:
        return np.frombuffer(packed[0], np.uint8)
    return message.reals(key, 4).view(np.uint8)


def _bytes(message: Message, key: int) -> Bytes:
    found = message.pieces.get(key)
    return np.frombuffer(found[-1], np.uint8) if found else np.empty(0, np.uint8)


def _quantized(
    told: Message | None, name: str, raw: Bytes, key: int, sizes: Sequence[int], axis: int | None
) -> tuple[Shape, str, int | None, tuple[Piece, ...]]:
    """(shape, precision, zeros, pieces) of codes; bytes that nothing explains are a custom layer's own."""
    if told is None:
        return (len(raw),), "uint8", None, (_piece(raw, "uint8", (len(raw),), None),)
    bits = told.number(1, 8) or 8
    if bits > 8 or (key == _INT8 and bits != 8):
        raise BrokenMessageError(f"{name!r} has codes of {bits} bits")
    shape = _shape(sizes, 8 * len(raw), bits)
    elements = math.prod(shape)
    raw = _first_lowest(raw, bits)[: -(-elements * bits // 8)] if bits < 8 else raw
    if told.has(_TABLE):
        table = floats_of(told.child(_TABLE), 1)
        values = table.view("<f4")
        if not 0 < len(values) <= 1 << bits:
            raise BrokenMessageError(f"{name!r} has codes of {bits} bits and a table of {len(values)}")
        zeros = sum(_histogram(raw, bits, 0, elements)[: len(values)][values == 0].tolist())
        pieces = _piece(raw, f"uint{bits}", shape, axis), _piece(table, "float32", (len(values),), None)
        return shape, f"palette{bits}", zeros, pieces
    linear = told.child(_LINEAR)
    scales, offsets = floats_of(linear, 1), floats_of(linear, 2)
    if not len(scales):
        raise BrokenMessageError(f"{name!r} has codes and nothing that decodes them")
    dtype = "int8" if key == _INT8 else f"uint{bits}"
    found = [_piece(raw, dtype, shape, axis)]
    found += [_piece(part, "float32", (len(part) // 4,), 0) for part in (scales, offsets) if len(part)]
    return shape, dtype, _linear_zeros(raw, bits, shape, scales.view("<f4"), offsets.view("<f4"), dtype), tuple(found)


def _piece(raw: Bytes, dtype: str, shape: Shape, axis: int | None) -> Piece:
    inside = axis if axis is not None and axis < len(shape) else None
    return Piece(raw=raw, dtype=dtype, shape=shape, axis=inside, stored_bytes=len(raw))


def _shape(sizes: Sequence[int], stored_bits: int, bits: int) -> Shape:
    """The stated shape where it is what is stored, up to the bits that fill the last byte."""
    stated = 0 < len(sizes) <= _MAX_RANK and all(0 < size < 1 << 63 for size in sizes)
    if stated and -(-math.prod(sizes) * bits // 8) * 8 == stored_bits:
        return tuple(sizes)
    if bits >= 8 and stored_bits % bits:
        raise BrokenMessageError(f"{stored_bits // 8} bytes do not hold numbers of {bits} bits")
    return (stored_bits // bits,)


def _first_lowest(raw: Bytes, bits: int) -> Bytes:
    """Codes packed with the first in the lowest bits; a rest of fewer bits than a code is dropped."""
    found = np.zeros(len(raw), np.uint8)
    step = _BLOCK * bits // 8
    for first in range(0, len(raw), step):
        block = np.unpackbits(raw[first : first + step])
        block = block[: len(block) // bits * bits].reshape(-1, bits)[:, ::-1].reshape(-1)
        packed = np.packbits(block, bitorder="little")
        found[first : first + len(packed)] = packed
    return found


def _histogram(raw: Bytes, bits: int, first: int, count: int) -> npt.NDArray[np.int64]:
    """How often each code occurs among `count` of them, from the code numbered `first` on."""
    found = np.zeros(1 << bits, np.int64)
    for start in range(first, first + count, _BLOCK):
        stop = min(start + _BLOCK, first + count)
        block = raw[start * bits // 8 : -(-stop * bits // 8)]
        if bits < 8:
            skipped = start * bits % 8
            flat = np.unpackbits(block, bitorder="little")[skipped : skipped + (stop - start) * bits]
            block = np.packbits(flat.reshape(-1, bits), axis=1, bitorder="little")[:, 0]
        found += np.bincount(block, minlength=1 << bits)
    return found


def _linear_zeros(
    raw: Bytes, bits: int, shape: Shape, scales: npt.NDArray, offsets: npt.NDArray, dtype: str
) -> int | None:
    """Elements whose scale * code + offset is 0 in float32; None where scales do not fit the output channels."""
    rows = max(len(scales), len(offsets))
    if rows > _MOST_CHANNELS or (rows > 1 and shape[0] != rows):
        return None
    if any(len(part) not in (1, rows) for part in (scales, offsets) if len(part)):
        return None
    codes = np.arange(1 << bits, dtype=np.uint8)
    values = codes.view(np.int8).astype(np.float32) if dtype == "int8" else codes.astype(np.float32)
    each = math.prod(shape) // rows
    total = 0
    for scale, offset, row in zip(_spread(scales, rows), _spread(offsets, rows), range(rows), strict=False):
        with np.errstate(all="ignore"):
            at_zero = scale * values + offset == 0
        if at_zero.any():
            total += int(_histogram(raw, bits, row * each, each)[at_zero].sum())
    return total


def _spread(values: npt.NDArray, rows: int) -> Iterator[np.float32]:
    for row in range(rows):
        yield values[row if len(values) > 1 else 0] if len(values) else np.float32(0)
