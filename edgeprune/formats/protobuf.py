"""The protobuf wire format, read without schema classes: a message is its fields by number.

Format: protobuf.dev/programming-guides/encoding. Nested messages are cut out, not copied, and read only when asked for.
Files are not trusted: every length is held against what is left of its message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["BrokenMessageError", "Message", "count_varints", "parse", "unpack_varints"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIXTY_FOUR = (1 << 64) - 1
_LONGEST_VARINT, _BLOCK = 10, 1 << 18
# A field takes two bytes in a file and a hundred times that in memory; no message of a model comes near this.
_MOST_FIELDS = 1 << 20


class BrokenMessageError(ValueError):
    """The bytes are no protobuf message."""


@dataclass(frozen=True, slots=True)
class Message:
    """Fields of one message by number, in file order: integers, or bytes for everything with a length.

    `fixed` holds 32- and 64-bit fields as bytes.
    """

    numbers: dict[int, list[int]] = field(default_factory=dict)
    pieces: dict[int, list[memoryview]] = field(default_factory=dict)
    fixed: dict[int, list[bytes]] = field(default_factory=dict)

    def number(self, key: int, default: int = 0) -> int:
        """The last integer of a field, as an unsigned 64-bit number."""
        found = self.numbers.get(key)
        return found[-1] if found else default

    def signed(self, key: int) -> int:
        """The last integer of a field, as int64."""
        value = self.number(key)
        return value - (1 << 64) if value >> 63 else value

    def text(self, key: int) -> str:
        """The last string of a field; bytes that are not UTF-8 are marked as such."""
        found = self.pieces.get(key)
        return bytes(found[-1]).decode("utf-8", "backslashreplace") if found else ""

    def has(self, key: int) -> bool:
        """Whether the message holds this field with a length (a nested message, a string)."""
        return key in self.pieces

    def child(self, key: int) -> Message:
        """The last nested message of a field, empty when there is none."""
        found = self.pieces.get(key)
        return parse(found[-1]) if found else Message()

    def children(self, key: int) -> Iterator[Message]:
        """All nested messages of a repeated field."""
        return (parse(piece) for piece in self.pieces.get(key, ()))

    def entries(self, key: int) -> Iterator[tuple[str, Message]]:
        """A map field: (key, nested value)."""
        return ((entry.text(1), entry.child(2)) for entry in self.children(key))

    def integers(self, key: int) -> list[int]:
        """A repeated integer field, packed or not, as unsigned 64-bit numbers."""
        found = list(self.numbers.get(key, ()))
        for piece in self.pieces.get(key, ()):
            place = 0
            while place < len(piece):
                value, place = _varint(piece, place)
                found.append(value)
        return found

    def reals(self, key: int, width: int) -> npt.NDArray[np.floating]:
        """A repeated float (width 4) or double (width 8) field, packed or not."""
        raw = b"".join([*self.fixed.get(key, ()), *self.pieces.get(key, ())])
        if len(raw) % width:
            raise BrokenMessageError(f"{len(raw)} bytes do not hold numbers of {width} bytes")
        return np.frombuffer(raw, f"<f{width}")


def parse(content: bytes | memoryview) -> Message:
    """The fields of one message. Raises BrokenMessageError."""
    view = memoryview(content)
    message, place, end, left = Message(), 0, len(view), _MOST_FIELDS
    while place < end:
        left -= 1
        if left < 0:
            raise BrokenMessageError(f"a message of more than {_MOST_FIELDS} fields")
        tag, place = _varint(view, place)
        key, wire = tag >> 3, tag & 7
        if key == 0:
            raise BrokenMessageError(f"field 0 at byte {place}")
        if wire == _VARINT:
            value, place = _varint(view, place)
            message.numbers.setdefault(key, []).append(value)
            continue
        length = 8 if wire == _FIXED64 else 4
        if wire == _BYTES:
            length, place = _varint(view, place)
        elif wire not in (_FIXED64, _FIXED32):
            raise BrokenMessageError(f"unknown wire type {wire} at byte {place}")
        if length > end - place:
            raise BrokenMessageError(f"field {key} at byte {place} claims {length} bytes of {end - place}")
        piece = view[place : place + length]
        place += length
        if wire == _BYTES:
            message.pieces.setdefault(key, []).append(piece)
        else:
            message.fixed.setdefault(key, []).append(bytes(piece))
    return message


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    """(value, position behind it)."""
    value = shift = 0
    try:
        while True:
            byte = view[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & _SIXTY_FOUR, place
            shift += 7
            if shift > 63:
                raise BrokenMessageError(f"a number of more than ten bytes at byte {place}")
    except IndexError:
        raise BrokenMessageError(f"cut short at byte {place}") from None


def count_varints(packed: memoryview) -> int:
    """How many integers a packed field holds."""
    return int(np.count_nonzero(np.frombuffer(packed, np.uint8) < 0x80))


def unpack_varints(packed: memoryview, dtype: str) -> npt.NDArray[np.integer]:
    """The integers of a packed field, cut to `dtype`, shape (count_varints(packed),). Raises BrokenMessageError.

    Works in blocks: beside the result it takes some megabytes, however long the field is.
    """
    content = np.frombuffer(packed, np.uint8)
    if len(content) and content[-1] >= 0x80:
        raise BrokenMessageError(f"a packed field cut short at its byte {len(content)}")
    found = np.empty(count_varints(packed), dtype)
    place = filled = 0
    while place < len(content):
        block = content[place : place + _BLOCK]
        ends = np.flatnonzero(block < 0x80)
        sizes = np.diff(ends, prepend=-1)
        if not len(ends) or sizes.max() > _LONGEST_VARINT:
            raise BrokenMessageError(f"a number of more than ten bytes behind byte {place} of a packed field")
        found[filled : filled + len(ends)] = _block_values(block, ends, sizes).astype(dtype)
        filled += len(ends)
        place += int(ends[-1]) + 1
    return found


def _block_values(
    block: npt.NDArray[np.uint8], ends: npt.NDArray[np.intp], sizes: npt.NDArray[np.intp]
) -> npt.NDArray[np.uint64]:
    """uint64 (integers,), the last byte of each standing at `ends`."""
    values = np.zeros(len(ends), np.uint64)
    for position in range(int(sizes.max())):
        longer = sizes > position
        septets = block[ends[longer] - sizes[longer] + 1 + position].astype(np.uint64) & np.uint64(0x7F)
        values[longer] |= septets << np.uint64(7 * position)
    return values
