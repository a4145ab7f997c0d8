"""Core ML neural networks written by hand: layers, weights in every encoding, and models around them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from wire import number, piece

CONVOLUTION, ACTIVATION, DENSE, EMBEDDING, SOFTMAX = 100, 130, 140, 150, 175
GRU, LSTM, BIDIRECTIONAL, CUSTOM, BRANCH, LOAD = 410, 420, 430, 500, 605, 1070
NETWORK, CLASSIFIER, PIPELINE, PIPELINE_CLASSIFIER, TREES, PROGRAM = 500, 403, 202, 200, 402, 502


def floats(*values: float) -> bytes:
    """WeightParams of floats."""
    return piece(1, struct.pack(f"<{len(values)}f", *values))


def linear(codes: bytes, bits: int, scales: Sequence[float], offsets: Sequence[float] = (), key: int = 30) -> bytes:
    """WeightParams of codes with scales."""
    held = piece(1, struct.pack(f"<{len(scales)}f", *scales))
    held += piece(2, struct.pack(f"<{len(offsets)}f", *offsets)) if offsets else b""
    return piece(key, codes) + piece(40, number(1, bits), piece(101, held))


def table(codes: bytes, bits: int, values: Sequence[float]) -> bytes:
    """WeightParams of codes with a table."""
    return piece(30, codes) + piece(40, number(1, bits), piece(102, piece(1, struct.pack(f"<{len(values)}f", *values))))


def layer(name: str, kind: int, *settings: bytes) -> bytes:
    """NeuralNetworkLayer, as a field of a network."""
    return piece(1, piece(1, name), piece(kind, *settings))


def dense(weights: bytes, into: int = 3, out: int = 2, name: str = "dense") -> bytes:
    """An inner product."""
    return layer(name, DENSE, number(1, into), number(2, out), piece(20, weights))


def model(kind: int, *content: bytes) -> bytes:
    """Model."""
    description = piece(1, piece(1, "x")) + piece(100, piece(1, "tells something"))
    return number(1, 4) + piece(2, description) + piece(kind, *content)
