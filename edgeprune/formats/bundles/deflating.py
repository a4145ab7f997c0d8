"""One raw deflate stream for a file of arrays, smaller than zlib's and valid for any unzip.

Format: RFC 1951. Each stretch of the content is written in the way that is cheapest for it: by zlib at level 9, or as
runs of bytes with Huffman codes of their own (`runs`): weights repeat nothing but zeros, and distances of repetitions
cost zlib more than they save. Where stretches begin and end is chosen by dynamic programming over what each would take.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeprune.formats.bundles.huffman import Bits, bits_of
from edgeprune.formats.bundles.runs import SYMBOLS, Runs, block_bits, symbol_counts

__all__ = ["deflated"]

UNIT_BYTES = 1 << 14  # the shortest stretch that a cut inside an array makes
_FEWEST = 1 << 8  # of a stretch between two cuts: a shorter one goes with what stands before it
_MOST_UNITS = 64  # in one block
_WINDOW = 1 << 15  # how far back a stream may copy from
_HEAD_BITS = 640  # about what the codes of a block take
_SWITCH_BITS = 48  # of an empty stored block, which brings a stream to a whole byte
_SMALL = 1 << 19  # bytes: zlib may try blocks of several lengths
_MEMORIES = (6, 7, 8, 9)  # of zlib: 2 ** (6 + memory) symbols are a block


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """Bytes of the content from `start` to `stop` that are written in one way."""

    start: int
    stop: int
    by_zlib: bool


def deflated(content: bytes, plain: bytes, edges: Sequence[int] = ()) -> bytes:
    """A raw stream of `content`, never longer than `plain`, the one that zlib makes of it at level 9; `edges` are where
    one array ends and another begins, in any order. The same content and edges give the same stream."""
    if len(content) < _FEWEST:
        return plain
    cuts = _units(len(content), edges)
    made = b"".join(_streams(content, _plan(content, cuts, 8 * len(plain))))
    return made if len(made) < len(plain) else plain


def _units(size: int, edges: Sequence[int]) -> list[int]:
    """Where stretches may begin, and the end."""
    cuts = [0]
    for edge in sorted({edge for edge in edges if 0 < edge < size} | {size}):
        if edge - cuts[-1] >= _FEWEST or edge == size:
            cuts += range(cuts[-1] + UNIT_BYTES, edge - UNIT_BYTES // 2, UNIT_BYTES)
            cuts.append(edge)
    return cuts


def _plan(content: bytes, cuts: Sequence[int], plain_bits: int) -> list[_Stretch]:
    """The stretches, by dynamic programming: `best[k]` are the bits up to cut k whose last stretch is a block of runs,
    or one by zlib. All by zlib would take `plain_bits`."""
    zlib_bits = _zlib_bits(content, cuts)
    zlib_bits *= plain_bits / zlib_bits.sum()
    counts, more = _summed(content, cuts)
    best = np.full((len(cuts), 2), np.inf)
    best[0] = 0, _SWITCH_BITS
    came: list[tuple[tuple[int, int], ...]] = [((0, 0), (0, 0))]
    for stop in range(1, len(cuts)):
        low = max(0, stop - _MOST_UNITS)
        blocks = _block_bits(counts[stop] - counts[low:stop]) + (more[stop] - more[low:stop])
        before = best[low:stop].min(1) + blocks
        start = low + int(before.argmin())
        last = best[stop - 1] + (_SWITCH_BITS, 0)
        best[stop] = before.min(), last.min() + zlib_bits[stop - 1]
        came.append(((start, int(best[start].argmin())), (stop - 1, int(last.argmin()))))
    return _joined(cuts, came, int(best[-1].argmin()))


def _joined(cuts: Sequence[int], came: Sequence[tuple[tuple[int, int], ...]], way: int) -> list[_Stretch]:
    """The way back from the end; neighbours by zlib are one stretch."""
    found: list[_Stretch] = []
    stop = len(cuts) - 1
    while stop:
        start, before = came[stop][way]
        stretch = _Stretch(start=cuts[start], stop=cuts[stop], by_zlib=way == 1)
        if found and found[-1].by_zlib and stretch.by_zlib:
            stretch = _Stretch(start=stretch.start, stop=found.pop().stop, by_zlib=True)
        found.append(stretch)
        stop, way = start, before
    return found[::-1]


def _zlib_bits(content: bytes, cuts: Sequence[int]) -> npt.NDArray[np.float64]:
    """What zlib makes of each unit behind the others; at level 6, a tenth of the time and near enough to choose by."""
    stream = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
    sizes = []
    for start, stop in itertools.pairwise(cuts):
        sizes.append(len(stream.compress(content[start:stop])) + len(stream.flush(zlib.Z_SYNC_FLUSH)))
    return 8.0 * np.array(sizes)


def _summed(content: bytes, cuts: Sequence[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Symbols of runs before each cut, (cuts, 286), and the bits that are no symbols, (cuts,)."""
    whole = np.frombuffer(content, np.uint8)
    counts, more = np.zeros((len(cuts), SYMBOLS), np.int64), np.zeros(len(cuts), np.int64)
    for place, (start, stop) in enumerate(itertools.pairwise(cuts), start=1):
        counts[place], more[place] = symbol_counts(Runs.of(whole[start:stop]))
    return counts.cumsum(0), more.cumsum(0)


def _block_bits(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """About what blocks of so many symbols, (blocks, 286), take: the entropy of the symbols, where none is more than
    half of all; such a one takes a whole bit, and so does every other one beside the entropy of these."""
    total, most = counts.sum(1), counts.max(1)
    bits = _entropy_bits(counts)
    others = np.maximum(total - most, 1)
    beside = bits - _entropy_bits(np.stack([most, total - most], 1))
    return np.asarray(np.where(2 * most > total, total + np.where(others > 1, beside, 0.0), bits) + _HEAD_BITS)


def _entropy_bits(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """What so many symbols, (blocks, symbols), would take by their entropy."""
    shares = counts / counts.sum(1, keepdims=True)
    return np.asarray((counts * -np.log2(np.where(counts > 0, shares, 1.0))).sum(1))


def _streams(content: bytes, plan: Sequence[_Stretch]) -> Iterator[bytes]:
    """The parts of the stream, of whole bytes each."""
    whole, left = np.frombuffer(content, np.uint8), np.zeros(0, np.uint8)
    for stretch in plan:
        if stretch.by_zlib:
            if len(left):
                yield _whole_bytes(left, last=False)
                left = left[:0]
            yield _by_zlib(content, stretch)
            continue
        bits = np.concatenate([left, block_bits(Runs.of(whole[stretch.start : stretch.stop]))])
        stop = len(bits) // 8 * 8
        yield np.packbits(bits[:stop], bitorder="little").tobytes()
        left = bits[stop:].copy()
    yield _whole_bytes(left, last=True)


def _by_zlib(content: bytes, stretch: _Stretch) -> bytes:
    """Blocks that may copy from what stands before, up to a whole byte."""
    part, before = content[stretch.start : stretch.stop], content[max(0, stretch.start - _WINDOW) : stretch.start]
    made = []
    for memory in _MEMORIES if len(part) <= _SMALL else _MEMORIES[2:3]:
        stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, memory, zlib.Z_DEFAULT_STRATEGY, zdict=before)
        made.append(stream.compress(part) + stream.flush(zlib.Z_SYNC_FLUSH))
    return min(made, key=len)


def _whole_bytes(left: Bits, *, last: bool) -> bytes:
    """The bits that are left, up to a whole byte: behind them an empty block, which is stored, or where the stream ends
    one of the fixed code (3.2.4 and 3.2.6), ten bits of which its first says that it is the last."""
    bits = np.concatenate([left, bits_of([1, 1, 0], [1, 2, 7]) if last else np.zeros(3, np.uint8)])
    packed = np.packbits(bits, bitorder="little").tobytes()
    return packed if last else packed + b"\0\0\xff\xff"
