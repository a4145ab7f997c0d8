"""Take a model file apart, byte for byte.

Names are resolved on first use (PEP 562): the command line reads a pattern, and its help does without NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    **dict.fromkeys(("Contents", "Layer", "Piece", "StoredArray"), "contents"),
    **dict.fromkeys(("Graph", "Op", "Signature", "Tensor"), "graph"),
    **dict.fromkeys(("MODEL_SUFFIXES", "read_contents", "read_graph"), "reading"),
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"edgeprune.formats.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'edgeprune.formats' has no attribute {name!r}")
