"""Take a model file apart, byte for byte."""

from __future__ import annotations

from edgeprune.contents.model import Contents, Layer, Piece, StoredArray

__all__ = ["Contents", "Layer", "Piece", "StoredArray"]
