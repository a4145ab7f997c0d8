"""Blocks of a deflate stream with Huffman codes of their own, written bit by bit.

Format: RFC 1951, sections 3.2.2 and 3.2.7. Every code here is complete: decoders differ in which incomplete ones they
take, so a code has two symbols at least, as those that zlib writes.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["DISTANCES", "Bits", "bits_of", "code_lengths", "codes_of", "head_of"]

Bits = npt.NDArray[np.uint8]  # one bit an element, in the order of the stream
_Whole = npt.NDArray[np.int64]

LONGEST, LONGEST_OF_LENGTHS = 15, 7  # bits of a code (3.2.7)
DISTANCES = (1, 1)  # lengths of the codes of distances 1 and 2; only the first is used
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)  # 3.2.7
# (symbol, fewest times, most, bits that tell how many) of zeros, and of any other length behind itself (3.2.7)
_REPEATS = ((17, 3, 10, 3), (16, 3, 6, 2))
_MANY_ZEROS = (18, 11, 138, 7)
_AT_ONCE = 1 << 16  # numbers: each of their bits takes many bytes while it is worked on
_FEWEST = 257  # codes of literals and lengths that a block tells


def code_lengths(counts: npt.ArrayLike, longest: int = LONGEST) -> _Whole:
    """Bits of the code of each symbol, 0 for one that does not occur; at least two symbols get a code.

    Where Huffman's code is deeper than `longest`, counts are brought nearer to each other until it is not, which costs
    less than a thousandth.
    """
    counts = np.array(counts, np.int64)
    for symbol in range(2):
        if np.count_nonzero(counts) < 2:
            counts[symbol] = max(1, int(counts[symbol]))
    symbols = np.flatnonzero(counts)
    weights = counts[symbols]
    while (depths := _depths(weights.tolist())).max() > longest:
        weights = (weights + 1) // 2
    found = np.zeros(len(counts), np.int64)
    found[symbols] = depths
    return found


def _depths(weights: Sequence[int]) -> _Whole:
    """The depth of each leaf of Huffman's tree."""
    count = len(weights)
    heap = [(weight, leaf) for leaf, weight in enumerate(weights)]
    heapq.heapify(heap)
    above = [0] * (2 * count - 1)
    for node in range(count, 2 * count - 1):
        first, left = heapq.heappop(heap)
        second, right = heap[0]
        above[left] = above[right] = node
        heapq.heapreplace(heap, (first + second, node))
    depths = [0] * (2 * count - 1)
    for node in range(2 * count - 3, -1, -1):
        depths[node] = depths[above[node]] + 1
    return np.array(depths[:count], np.int64)


def codes_of(lengths: _Whole) -> _Whole:
    """The code of each symbol (3.2.2), its first bit lowest, as `bits_of` writes numbers."""
    codes = np.zeros(len(lengths), np.int64)
    code = 0
    for length in range(1, int(lengths.max(initial=0)) + 1):
        for symbol in np.flatnonzero(lengths == length):
            codes[symbol] = int(f"{code:0{length}b}"[::-1], 2)
            code += 1
        code <<= 1
    return codes


def bits_of(values: npt.ArrayLike, sizes: npt.ArrayLike) -> Bits:
    """Numbers of so many bits each, one after the other, the lowest bit of each first."""
    values, sizes = np.asarray(values, np.int64), np.asarray(sizes, np.int64)
    parts = []
    for start in range(0, len(values), _AT_ONCE):
        some, wide = values[start : start + _AT_ONCE], sizes[start : start + _AT_ONCE]
        place = np.arange(wide.sum()) - np.repeat(np.cumsum(wide) - wide, wide)
        parts.append(((np.repeat(some, wide) >> place) & 1).astype(np.uint8))
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def head_of(lengths: _Whole) -> Bits:
    """What stands before the codes of a block, which is not the last one: its kind and its code lengths (3.2.7)."""
    told = max(_FEWEST, int(np.flatnonzero(lengths)[-1]) + 1)
    steps = list(_run_lengths([*lengths[:told].tolist(), *DISTANCES]))
    of_lengths = code_lengths(np.bincount([symbol for symbol, _, _ in steps], minlength=19), LONGEST_OF_LENGTHS)
    codes = codes_of(of_lengths)
    shown = max(4, 1 + max(place for place, symbol in enumerate(_ORDER) if of_lengths[symbol]))
    values = [0, 2, told - _FEWEST, len(DISTANCES) - 1, shown - 4]
    sizes = [1, 2, 5, 5, 4]
    for symbol in _ORDER[:shown]:
        values.append(int(of_lengths[symbol]))
        sizes.append(3)
    for symbol, more, more_bits in steps:
        values += [int(codes[symbol]), more]
        sizes += [int(of_lengths[symbol]), more_bits]
    return bits_of(values, sizes)


def _run_lengths(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(symbol, extra number, its bits) of code lengths: 16 repeats the last one, 17 and 18 are zeros (3.2.7)."""
    steps: list[tuple[int, int, int]] = []
    place = 0
    while place < len(lengths):
        length, stop = lengths[place], place
        while stop < len(lengths) and lengths[stop] == length:
            stop += 1
        left = stop - place
        if length:
            steps.append((length, 0, 0))
            left -= 1
        while left >= 3:
            symbol, fewest, most, more_bits = (
                (16, 3, 6, 2) if length else (17, 3, 10, 3) if left < 11 else (18, 11, 138, 7)
            )
            taken = min(left, most)
            steps.append((symbol, taken - fewest, more_bits))
            left -= taken
        steps += [(length, 0, 0)] * left
        place = stop
    return steps
