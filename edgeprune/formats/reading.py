"""Which reader takes which file: by suffix, and TFLite also by its bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from edgeprune.errors import InputError, Unsupported
from edgeprune.formats.contents import Contents
from edgeprune.formats.graph import Graph
from edgeprune.host.untrusted import is_folder, open_file

__all__ = ["MODEL_SUFFIXES", "read_contents", "read_graph"]


def _tflite(path: Path) -> Contents:
    from edgeprune.formats.tflite.contents import read_tflite  # a quarter second of schema, not needed by others

    return read_tflite(path)


def _coreml(path: Path) -> Contents:
    from edgeprune.formats.coreml.mil_reader import parse_package, read_specification
    from edgeprune.formats.coreml.package import package_files, program_contents

    package_files(path)  # refuses what cannot be read before it is read
    found = read_specification(path)
    package = parse_package(path, found)
    if package.program is not None:
        return program_contents(path, package)
    from edgeprune.formats.coreml.neural_network import network_contents

    return network_contents(path, package, found)


def _compiled(path: Path) -> Contents:
    from edgeprune.formats.coreml.compiled import read_compiled

    return read_compiled(path)


def _onnx(path: Path) -> Contents:
    from edgeprune.formats.onnx.contents import read_onnx

    return read_onnx(path)


def _keras(path: Path) -> Contents:
    from edgeprune.formats.keras.hdf5 import read_keras

    return read_keras(path)


_READERS: Mapping[str, Callable[[Path], Contents]] = {
    ".h5": _keras,
    ".hdf5": _keras,
    ".keras": _keras,
    ".lite": _tflite,
    ".mlmodel": _coreml,
    ".mlmodelc": _compiled,
    ".mlpackage": _coreml,
    ".onnx": _onnx,
    ".tflite": _tflite,
}
MODEL_SUFFIXES = tuple(_READERS)


def read_contents(path: Path) -> Contents:
    """The model at `path`; a file or folder of no known format is sized only (`complete` is False).

    The one door for model files: each file is opened and parsed once, and what is made of it later takes these
    contents. Raises InputError for what is missing, broken or refused, and Unsupported for what a reader does not know.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is not None:
        return reader(path)
    if not is_folder(path):
        with open_file(path, "a model file") as file:
            is_tflite = file.read(8)[4:] == b"TFL3"
        if is_tflite:
            return _tflite(path)
    return _sized(path)


def read_graph(path: Path) -> Graph:
    """The graph of a .tflite file: that of `read_contents`. Raises what it does, and Unsupported for other formats."""
    graph = read_contents(path).graph
    if graph is None:
        raise Unsupported(f"{path}: sizes only: the graph of this format is not read; convert it to .tflite")
    return graph


def _sized(path: Path) -> Contents:
    from edgeprune.formats.coreml.package import package_files

    files = package_files(path)
    if not files:
        raise InputError(f"{path} is a folder without files; name a model file or a package such as a .mlpackage")
    if path.is_dir() and "saved_model.pb" not in files:
        raise InputError(f"{path} is a folder and no model; name the models in it, for example {path}/*.tflite")
    known = ", ".join(MODEL_SUFFIXES)
    return Contents(
        path=path,
        format=path.suffix.lstrip(".").lower() or ("folder" if path.is_dir() else "file"),
        raw_bytes=sum(files.values()),
        sections={"other": sum(files.values())},
        layers=(),
        files=files if path.is_dir() else {},
        complete=False,
        note=f"sized only: no reader for this format (there is one for {known})",
    )
