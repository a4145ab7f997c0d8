"""The protobuf wire format written by hand, for files that no library would write."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """Seven bits a byte, lowest first."""
    value %= 1 << 64
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def number(key: int, value: int) -> bytes:
    """An integer field."""
    return varint(key << 3) + varint(value)


def piece(key: int, *content: bytes | str) -> bytes:
    """A field with a length: a string, bytes or a nested message."""
    whole = b"".join(part.encode() if isinstance(part, str) else part for part in content)
    return varint(key << 3 | 2) + varint(len(whole)) + whole


def fixed(key: int, content: bytes) -> bytes:
    """A field of four or eight bytes."""
    return varint(key << 3 | (5 if len(content) == 4 else 1)) + content
