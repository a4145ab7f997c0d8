"""Bytes as literals and repetitions of the byte before, which is what weights with zeros are made of.

Format: RFC 1951, section 3.2.5. A decoder copies `length` bytes from a distance of 1. zlib's strategy Z_RLE repeats
from three bytes on, though a run of zeros of which each takes one bit is cheaper as it stands: here what each length
costs decides, for each byte, by the codes that follow from the decision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeprune.formats.bundles.huffman import DISTANCES, Bits, bits_of, code_lengths, codes_of, head_of

__all__ = ["SYMBOLS", "Runs", "block_bits", "symbol_counts"]

_Whole = npt.NDArray[np.int64]
_Choice = npt.NDArray[np.bool_]  # [byte, how often it follows itself]: whether it is written as a repetition

END = 256
SYMBOLS = 286  # literals, the end of a block, and lengths
MOST = 258  # bytes of one repetition
_FIRST = np.array([*range(3, 11), *range(11, 19, 2), *range(19, 35, 4), *range(35, 67, 8), *range(67, 131, 16),
                   *range(131, 258, 32), MOST])  # fmt: skip
_MORE_BITS = np.array([*(0,) * 8, *(1,) * 4, *(2,) * 4, *(3,) * 4, *(4,) * 4, *(5,) * 4, 0])
_LENGTH = np.searchsorted(_FIRST, np.arange(MOST + 1), side="right") - 1  # length -> its symbol - 257
_TIMES = np.arange(MOST + 1)
_START = 8  # runs from this on are repetitions, until codes tell better
_ROUNDS = 4
_UNKNOWN_BITS = 12  # of a symbol that no code is known for


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Bytes, uint8 (runs,), and how often each follows itself, int64 (runs,)."""

    bytes: npt.NDArray[np.uint8]
    more: _Whole

    @classmethod
    def of(cls, content: npt.NDArray[np.uint8]) -> Runs:
        """The runs of bytes, at least one."""
        starts = np.concatenate([[0], np.flatnonzero(content[1:] != content[:-1]) + 1])
        return cls(content[starts], np.diff(np.concatenate([starts, [len(content)]])) - 1)

    def table(self) -> tuple[_Whole, _Whole]:
        """How often each byte begins a run, (256,), and how often it follows itself so many times, (256, 259): of more
        than 258 times each 258 by themselves."""
        first = np.bincount(self.bytes, minlength=256)
        places = self.bytes.astype(np.int64) * (MOST + 1) + self.more % MOST
        follows = np.bincount(places, minlength=256 * (MOST + 1)).reshape(256, MOST + 1)
        follows[:, MOST] += np.bincount(self.bytes, self.more // MOST, minlength=256).astype(np.int64)
        follows[:, 0] = 0
        return first, follows


def symbol_counts(runs: Runs) -> tuple[_Whole, int]:
    """About how often a block of these runs has each symbol, (286,), and the bits that are no symbols."""
    first, follows = runs.table()
    return _counts(first, follows, _from(_START))


def _from(length: int) -> _Choice:
    return np.broadcast_to(length <= _TIMES, (256, MOST + 1))


def _counts(first: _Whole, follows: _Whole, repeated: _Choice) -> tuple[_Whole, int]:
    literals = first + np.where(repeated, 0, follows * _TIMES).sum(1)
    lengths = np.bincount(_LENGTH[3:], np.where(repeated, follows, 0).sum(0)[3:], minlength=29).astype(np.int64)
    more = int((lengths * (_MORE_BITS + DISTANCES[0])).sum())
    return np.concatenate([literals, [1], lengths]), more


def block_bits(runs: Runs) -> Bits:
    """A block that is not the last one of a stream, of these runs."""
    first, follows = runs.table()
    repeated, lengths = _chosen(first, follows)
    return np.concatenate([head_of(lengths), _written(runs, repeated, lengths)])


def _chosen(first: _Whole, follows: _Whole) -> tuple[_Choice, _Whole]:
    """What is written as a repetition, and the code lengths that go with it: each decides the other in turn."""
    best: tuple[int, _Choice, _Whole] | None = None
    for repeated in (_from(_START), _from(MOST)):
        last = None
        for _ in range(_ROUNDS):
            counts, more = _counts(first, follows, repeated)
            lengths = code_lengths(counts)
            total = int((counts * lengths).sum()) + more
            if best is None or total < best[0]:
                best = total, repeated, lengths
            if last is not None and total >= last:
                break
            last, repeated = total, _cheaper(lengths)
    assert best is not None
    return best[1], best[2]


def _cheaper(lengths: _Whole) -> _Choice:
    """For each byte and number of times whether one repetition takes fewer bits than as many literals."""
    known = np.where(lengths == 0, _UNKNOWN_BITS, lengths)
    repetition = known[END + 1 :][_LENGTH] + _MORE_BITS[_LENGTH] + DISTANCES[0]
    cheaper: _Choice = (known[:256, None] * _TIMES > repetition) & (_TIMES >= 3)
    cheaper[:, MOST] = True  # 258 literals never take less
    return cheaper


def _written(runs: Runs, repeated: _Choice, lengths: _Whole) -> Bits:
    """The runs, each as its byte, its repetitions of 258 and the rest, and the end of the block."""
    codes = codes_of(lengths)
    whole, rest = runs.more // MOST, runs.more % MOST
    as_one = repeated[runs.bytes, rest]
    counts = 1 + whole + np.where(as_one, 1, rest)
    starts = np.cumsum(counts) - counts
    literal = np.repeat(runs.bytes.astype(np.int64), counts)
    values, sizes = codes[literal], lengths[literal]
    of_length = codes[END + 1 :][_LENGTH] + ((_TIMES - _FIRST[_LENGTH]) << lengths[END + 1 :][_LENGTH])
    bits_of_length = lengths[END + 1 :][_LENGTH] + _MORE_BITS[_LENGTH] + DISTANCES[0]  # the code of distance 1 is 0
    many = np.repeat(starts + 1, whole) + np.arange(whole.sum()) - np.repeat(np.cumsum(whole) - whole, whole)
    values[many], sizes[many] = of_length[MOST], bits_of_length[MOST]
    ones = (starts + 1 + whole)[as_one]
    values[ones], sizes[ones] = of_length[rest[as_one]], bits_of_length[rest[as_one]]
    return bits_of(np.append(values, codes[END]), np.append(sizes, lengths[END]))
