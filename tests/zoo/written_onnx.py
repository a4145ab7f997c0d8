"""ONNX models written by hand: messages of the format, and a network that fits on a page."""

from __future__ import annotations

import struct

import numpy as np
from wire import number, piece, varint

FLOAT, UINT8, INT8, INT32, INT64, STRING, BOOL, HALF, DOUBLE, UINT64 = 1, 2, 3, 6, 7, 8, 9, 10, 11, 13
BFLOAT16, E4M3, E4M3UZ, E5M2, UINT4, INT4, FLOAT4, E8M0 = 16, 17, 18, 19, 21, 22, 23, 24


def tensor(name: str, dtype: int, shape: tuple[int, ...], *fields: bytes) -> bytes:
    """TensorProto."""
    return b"".join([*(number(1, size) for size in shape), number(2, dtype), piece(8, name), *fields])


def raw(content: bytes) -> bytes:
    """TensorProto.raw_data."""
    return piece(9, content)


def floats(name: str, *shape: int, value: float = 1.5) -> bytes:
    """A float tensor of equal numbers."""
    return tensor(name, FLOAT, shape, raw(struct.pack("<f", value) * int(np.prod(shape))))


def node(kind: str, inputs: list[str], outputs: list[str], *more: bytes, name: str = "") -> bytes:
    """NodeProto."""
    ends = [*(piece(1, text) for text in inputs), *(piece(2, text) for text in outputs)]
    return b"".join([*ends, piece(3, name), piece(4, kind), *more])


def attribute(name: str, *content: bytes) -> bytes:
    """AttributeProto, as a field of a node."""
    return piece(5, piece(1, name), *content)


def value(name: str, *sizes: int | str) -> bytes:
    """ValueInfoProto of a float tensor; a size may be a name."""
    dims = b"".join(piece(1, number(1, size) if isinstance(size, int) else piece(2, size)) for size in sizes)
    return piece(1, name) + piece(2, piece(1, number(1, FLOAT), piece(2, dims)))


def graph(nodes: list[bytes], tensors: list[bytes], *more: bytes) -> bytes:
    """GraphProto."""
    return b"".join([*(piece(1, item) for item in nodes), *(piece(5, item) for item in tensors), *more])


def model(content: bytes, *more: bytes) -> bytes:
    """ModelProto."""
    return number(1, 8) + piece(2, "hand") + piece(7, content) + b"".join(more)


def small() -> bytes:
    """A convolution, a reshape by a constant and a Gemm; 8 x 8 x 3 in, five numbers out."""
    kernel = tensor("k", FLOAT, (4, 3, 3, 3), raw(struct.pack("<2f", 0.0, -0.0) + struct.pack("<106f", *[0.5] * 106)))
    nodes = [
        node("Conv", ["x", "k", "kb"], ["c"], name="conv"),
        node("Reshape", ["c", "to"], ["r"]),
        node("Gemm", ["r", "w", "wb"], ["y"], attribute("transB", number(3, 1))),
    ]
    tensors = [kernel, floats("kb", 4), tensor("to", INT64, (2,), piece(7, varint(1), varint(144)))]
    tensors += [floats("w", 5, 144), floats("wb", 5)]
    shapes = [value("c", "batch", 4, 6, 6), value("r", 1, 144)]
    more = [piece(11, value("x", "batch", 3, 8, 8)), piece(12, value("y", 1, 5)), *(piece(13, item) for item in shapes)]
    return model(graph(nodes, tensors, *more))
