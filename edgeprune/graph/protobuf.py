"""The protobuf wire format, read without schema classes: a message is its fields by number.

Format: protobuf.dev/programming-guides/encoding. Nested messages are cut out, not copied, and read only when asked for.
Files are not trusted: every length is held against what is left of its message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["BrokenMessageError", "Message", "parse"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIXTY_FOUR = (1 << 64) - 1


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
    message, place, end = Message(), 0, len(view)
    while place < end:
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
