"""Messages of a Core ML program, written by hand."""

from __future__ import annotations

from collections.abc import Sequence

from wire import number, piece


def tensor_type(code: int, *sizes: int) -> bytes:
    """ValueType of a tensor."""
    return piece(1, number(1, code), *(piece(3, piece(1, number(1, size))) for size in sizes))


def model(*operations: bytes, outputs: Sequence[str] = ()) -> bytes:
    """A whole ML program with these operations."""
    block = b"".join(piece(2, name) for name in outputs) + b"".join(piece(3, operation) for operation in operations)
    function = piece(2, "CoreML7") + piece(3, piece(1, "CoreML7"), piece(2, block))
    return number(1, 7) + piece(502, piece(2, piece(1, "main"), piece(2, function)))


def constant(name: str, kind: bytes, value: bytes) -> bytes:
    """A `const` operation; `value` is field 3 (in the program) or 5 (in a file) of its Value."""
    held = piece(2, kind) + value
    return piece(1, "const") + piece(3, piece(1, name), piece(2, kind)) + piece(5, piece(1, "val"), piece(2, held))


def immediate(key: int, packed: bytes) -> bytes:
    """Values in the program: field `key` of TensorValue holds a repeated field 1."""
    return piece(3, piece(1, piece(key, piece(1, packed))))


def in_file(name: str, offset: int) -> bytes:
    """Values at `offset` of a weight file."""
    return piece(5, piece(1, name), number(2, offset))


FLOAT16, FLOAT32, INT32, STRING, BFLOAT16, INT4, UINT3, FLOAT8 = 10, 11, 23, 2, 13, 25, 39, 40
