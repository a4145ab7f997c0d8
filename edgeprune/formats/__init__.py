"""Take a model file apart, byte for byte."""

from __future__ import annotations

from edgeprune.formats.contents import Contents, Layer, Piece, StoredArray
from edgeprune.formats.reading import MODEL_SUFFIXES, read_contents

__all__ = ["MODEL_SUFFIXES", "Contents", "Layer", "Piece", "StoredArray", "read_contents"]
