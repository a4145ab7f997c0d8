"""Read a model file into a `Graph`."""

from __future__ import annotations

import os
from pathlib import Path

from edgeprune.errors import InputError, Unsupported
from edgeprune.formats.graph import Graph, Op, Signature, Tensor

__all__ = ["Graph", "Op", "Signature", "Tensor", "is_tflite", "read_graph"]

_SIZES_ONLY = frozenset({".h5", ".hdf5", ".keras", ".mlmodel", ".mlpackage", ".onnx"})


def is_tflite(path: Path) -> bool:
    """Whether `path` is meant to be TFLite: by its suffix or, with a suffix of no known format, by bytes 4 to 8.

    Raises InputError when the bytes are needed and the path is missing or cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".tflite" or suffix in _SIZES_ONLY:
        return suffix == ".tflite"
    try:
        if not path.is_file() and path.exists():
            return False
        with path.open("rb") as stream:
            return stream.read(8)[4:] == b"TFL3"
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the path") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def read_graph(path: Path) -> Graph:
    """The graph in a model file.

    Raises InputError when the file is missing, broken or no model, and Unsupported for a format that can only be sized.
    """
    if is_tflite(path):
        from edgeprune.formats.tflite.flatbuffer import (
            read_tflite,  # a quarter second of schema, not needed to size a package
        )

        return read_tflite(path)
    suffix = path.suffix.lower()
    if suffix in _SIZES_ONLY and not os.path.lexists(path):
        raise InputError(f"{path} does not exist; check the path")
    if suffix in _SIZES_ONLY:
        raise Unsupported(f"{path}: sizes only: the graph of a {suffix} is not read; convert it to .tflite")
    raise InputError(f"{path} is not a model this tool knows; it reads .tflite")
