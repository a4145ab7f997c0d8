"""What an ideal coder that looks at one number at a time would need: a yardstick for the general codecs.

Order-0 code length of an adaptive coder (Krichevsky & Trofimov 1981, estimator n + 1/2): what it costs to learn the
frequencies is in it, so a decoder could really be written. A general codec that also sees patterns can go below it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgeprune.formats.contents import Piece, StoredArray
from edgeprune.formats.elements import PACKED_BITS

__all__ = ["bound_bytes", "code_bits"]

Symbols = npt.NDArray[np.uint8]
_ALPHABET_BITS = 256  # one for each symbol: does it occur in the array
_AT_ONCE, _ROWS_AT_ONCE = 1 << 16, 256  # counted in one go: keeps the copies that NumPy makes small
_LN2, _LN_ROOT_PI = math.log(2), math.lgamma(0.5)
_FLOAT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}


def bound_bytes(array: StoredArray) -> int:
    """Bytes that the ideal coder needs for all pieces of `array`; never more than they take as they are."""
    return sum(min(_piece_bytes(piece), len(piece.raw)) for piece in array.pieces)


def _piece_bytes(piece: Piece) -> int:
    if not len(piece.raw):
        return 0
    if piece.dtype in _FLOAT_BYTES and len(piece.raw) % _FLOAT_BYTES[piece.dtype] == 0:
        return _whole_bytes(_float_bits(piece))
    if piece.dtype in PACKED_BITS and 8 % PACKED_BITS[piece.dtype] == 0:
        return _whole_bytes(min(code_bits(rows) for rows in _layouts(_unpacked(piece), piece)))
    width = {"int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8}.get(piece.dtype, 1)
    if width == 1 or len(piece.raw) % width:
        return _whole_bytes(min(code_bits(rows) for rows in _layouts(piece.raw, piece)))
    planes = piece.raw.reshape(-1, width)
    return _whole_bytes(sum(code_bits(planes[None, :, place]) for place in range(width)))


def _whole_bytes(bits: float) -> int:
    return int(-(-bits // 8))


def _float_bits(piece: Piece) -> float:
    """Which numbers are zero, and of the others each byte as a symbol of its own; -0.0 is told from +0.0."""
    width = _FLOAT_BYTES[piece.dtype]
    words = piece.raw.view(f"<u{width}")
    negative_zero = words.dtype.type(1 << (8 * width - 1))
    kinds = (words != 0).view(np.uint8)
    kinds += (words == negative_zero).view(np.uint8)  # 0, another number, -0.0
    count = int(np.count_nonzero(kinds == 1))
    mask = 0.0 if count == len(words) else min(code_bits(rows) for rows in _layouts(kinds, piece))
    return mask + sum(_row_bits(counts) for counts in _plane_counts(words, kinds) if count)


def _plane_counts(words: npt.NDArray[np.unsignedinteger], kinds: Symbols) -> npt.NDArray[np.int64]:
    """int64 (bytes of a word, 256): how often each byte occurs in the words of kind 1, counted a part at a time."""
    width = words.dtype.itemsize
    counts = np.zeros((width, 256), np.int64)
    for start in range(0, len(words), _AT_ONCE):
        part = words[start : start + _AT_ONCE]
        planes = part[kinds[start : start + _AT_ONCE] == 1].view(np.uint8).reshape(-1, width)
        for place in range(width):
            counts[place] += np.bincount(planes[:, place], minlength=256)
    return counts


def _unpacked(piece: Piece) -> Symbols:
    bits = PACKED_BITS[piece.dtype]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((piece.raw[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)


def _layouts(symbols: Symbols, piece: Piece) -> Iterator[Symbols]:
    """The symbols as one row, and as a row for each output channel where there are channels."""
    yield symbols.reshape(1, -1)
    axis, shape = piece.axis, piece.shape
    if axis is None or not 0 <= axis < len(shape) or shape[axis] < 2:
        return
    total = math.prod(shape)
    if 0 < total <= len(symbols):
        yield np.moveaxis(symbols[:total].reshape(shape), axis, 0).reshape(shape[axis], -1)


def code_bits(rows: Symbols) -> float:
    """Bits for uint8 symbols (rows, symbols of a row) when each row is coded by itself over the symbols that occur.

    Krichevsky-Trofimov: a symbol seen n times among N costs log2((N + K / 2) / (n + 1 / 2)), with K kinds of symbols.
    """
    if not rows.size:
        return 0.0
    height, width = rows.shape
    found, known = np.zeros(256, np.int64), 0.0
    for counts in _histograms(rows):
        found += counts.sum(axis=0)
        known += _rising_bits(counts)
    return _bits(found, known, height, width)


def _row_bits(counts: npt.NDArray[np.int64]) -> float:
    """`code_bits` of one row whose symbols have been counted."""
    return _bits(counts, _rising_bits(counts), 1, int(counts.sum()))


def _bits(found: npt.NDArray[np.int64], known: float, height: int, width: int) -> float:
    kinds = int(np.count_nonzero(found))
    if kinds < 2:
        return float(_ALPHABET_BITS)
    whole = (math.lgamma(width + kinds / 2) - math.lgamma(kinds / 2)) / _LN2
    return height * whole - known + _ALPHABET_BITS


def _rising_bits(counts: npt.NDArray[np.int64]) -> float:
    """The sum of log2 of 1/2 (1/2 + 1) ... (n - 1/2) over all n in `counts`."""
    often = np.unique(counts, return_counts=True)
    bits = (
        times * (math.lgamma(n + 0.5) - _LN_ROOT_PI)
        for n, times in zip(*(part.tolist() for part in often), strict=True)
    )
    return float(sum(bits)) / _LN2


def _histograms(rows: Symbols) -> Iterator[npt.NDArray[np.int64]]:
    """int64 (rows, 256), some rows at a time."""
    height, width = rows.shape
    if width > _AT_ONCE:
        for row in rows:
            counts = np.zeros((1, 256), np.int64)
            for start in range(0, width, _AT_ONCE):
                counts += np.bincount(row[start : start + _AT_ONCE], minlength=256)
            yield counts
        return
    step = max(1, min(_AT_ONCE // width, _ROWS_AT_ONCE))
    for start in range(0, height, step):
        part = rows[start : start + step]
        offsets = np.arange(len(part), dtype=np.intp)[:, None] * 256
        yield np.bincount((part + offsets).reshape(-1), minlength=256 * len(part)).reshape(-1, 256)
