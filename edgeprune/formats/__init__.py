"""Take a model file apart, byte for byte."""

from __future__ import annotations

from edgeprune.formats.contents import Contents, Layer, Piece, StoredArray
from edgeprune.formats.graph import Graph, Op, Signature, Tensor
from edgeprune.formats.reading import MODEL_SUFFIXES, read_contents, read_graph

__all__ = [
    "MODEL_SUFFIXES",
    "Contents",
    "Graph",
    "Layer",
    "Op",
    "Piece",
    "Signature",
    "StoredArray",
    "Tensor",
    "read_contents",
    "read_graph",
]
