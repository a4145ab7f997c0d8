"""What a model file holds, byte for byte: layers, the arrays they own, and where every other byte goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeprune.formats.elements import Bytes, Shape
from edgeprune.formats.weights import Role

if TYPE_CHECKING:
    from edgeprune.formats.coreml.mil import Package
    from edgeprune.formats.graph import Graph
    from edgeprune.formats.onnx.ends import OnnxEnds

__all__ = ["Contents", "Layer", "Piece", "StoredArray", "printable"]


def printable(name: str, most: int = 0) -> str:
    """A name as it can be shown on one line: control and other unprintable characters are escaped.

    More than `most` characters (0: any number) lose their middle: a forged name of a megabyte would be in each line of
    a table.
    """
    if most and len(name) > most:
        name = f"{name[: most // 2]}...{name[len(name) - most // 2 + 3 :]}"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """A run of stored numbers.

    `raw` is uint8 (bytes,), little-endian elements of type `dtype`, packed below 8 bits; where the container compresses
    it (a chunked HDF5 dataset), `raw` is what comes out and `stored_bytes` what it takes in the file. `axis` is the
    output channel's in `shape`, None where there are no channels (a table, a mask of unknown layout).
    """

    raw: Bytes
    dtype: str
    shape: Shape
    axis: int | None
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredArray:
    """An array of the model: its dense `shape`, and the pieces it is stored in.

    A plain array is one piece; a palettized one is indexes and a table, a sparse one a mask (or positions) and its
    non-zeros, a quantized one may hold its scales. `precision` is what a reader calls it: a dtype, or "sparse",
    "palette4", "int8" and the like, joined by "+" where combined. `role` tells weights, biases, and constants that only
    steer an operation (a shape, an axis). `zeros` counts elements that are zero when decoded (of a quantized
    array: equal to its zero point); None where that is not known.
    """

    name: str
    shape: Shape
    precision: str
    role: Role
    zeros: int | None
    pieces: tuple[Piece, ...]

    @property
    def parameter(self) -> bool:
        """Whether it is a weight or a bias."""
        return self.role is not Role.STEERING

    @property
    def elements(self) -> int:
        """Numbers in the dense array."""
        return math.prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all its pieces in the file."""
        return sum(piece.stored_bytes for piece in self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """An operation (or, in a file of weights, a layer) with the arrays it is the first to use.

    `kind` as the format spells it (CONV_2D, conv, Conv, Dense), "" where the file does not say. `inputs` and `outputs`
    are the shapes of its activations, empty where the file does not say. `macs` is for one inference, None where it
    cannot be known from the file. `group` is where in the file it stands: "" for the model itself, otherwise for
    example "subgraph 1" or "optimizer" (state of training, no part of the model).
    """

    name: str
    kind: str
    arrays: tuple[StoredArray, ...] = ()
    inputs: tuple[Shape, ...] = ()
    outputs: tuple[Shape, ...] = ()
    macs: int | None = None
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contents:
    """A model file (or package) taken apart.

    `sections` says where each byte of `raw_bytes` is, and adds up to it: "weights" (arrays of the model), "graph"
    (structure), "metadata" (labels, descriptions, versions), "padding" (alignment), and where they occur "optimizer"
    and "other". `files` are the files of a package with their sizes, by path inside it. `complete` is False where the
    layers are not known though the bytes are (a format that is only sized), and `note` says why. `graph` is what
    else a .tflite file tells, `package` what a Core ML model does, `onnx` the ends of an ONNX model; all None for other
    formats. Of a .tflite file
    `scales` are those of its tensors by their places in `graph`, `zero_point_bytes` what its zero points take.
    """

    path: Path
    format: str
    raw_bytes: int
    sections: Mapping[str, int]
    layers: tuple[Layer, ...]
    files: Mapping[str, int] = field(default_factory=dict)
    complete: bool = True
    note: str = ""
    graph: Graph | None = None
    scales: Mapping[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    zero_point_bytes: int = 0
    package: Package | None = None
    onnx: OnnxEnds | None = None

    @property
    def macs(self) -> int | None:
        """MACs of one inference; None where no layer says."""
        known = [layer.macs for layer in self.layers if layer.macs is not None]
        return sum(known) if known else None
