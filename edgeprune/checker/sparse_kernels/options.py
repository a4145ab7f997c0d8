"""How a file for sparse kernels is to be. Light, for the command line shows it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edgeprune.artifact import Precision

__all__ = ["STORED", "Prefer", "SparseOptions"]

# Number formats of weights that are computed with in float32.
STORED = (Precision.FLOAT32, Precision.FLOAT16, Precision.INT8_WEIGHTS)


class Prefer(enum.StrEnum):
    """Which size of the file is to be small."""

    DOWNLOAD = "download"
    INSTALL = "install"


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseOptions:
    """`precision` is one of STORED. Each kernel is stored dense or sparse, whichever is smaller by `prefer`. Where the
    image is to be turned by 180 degrees the file does it, with `reversed_input` the caller."""

    precision: Precision = Precision.FLOAT32
    prefer: Prefer = Prefer.DOWNLOAD
    reversed_input: bool = False
