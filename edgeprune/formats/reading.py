"""Which reader takes which file: by suffix, and TFLite also by its bytes."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from edgeprune.artifact import GIT_LFS_POINTER
from edgeprune.errors import InputError
from edgeprune.formats.contents import Contents

__all__ = ["MODEL_SUFFIXES", "read_contents"]


def _tflite(path: Path) -> Contents:
    from edgeprune.formats.tflite.contents import read_tflite_contents

    return read_tflite_contents(path)


def _coreml(path: Path) -> Contents:
    from edgeprune.formats.coreml.mil import read_coreml
    from edgeprune.formats.coreml.package import package_files, read_program

    package_files(path)  # refuses what cannot be read before it is read
    package = read_coreml(path)
    if package.program is not None:
        return read_program(path, package)
    from edgeprune.formats.coreml.neural_network import read_neural_network

    return read_neural_network(path)


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

    Raises InputError for what is missing, broken or refused, and Unsupported for what a reader does not know.
    """
    is_folder, size = _status(path)
    reader = _READERS.get(path.suffix.lower())
    if not is_folder:
        start = _start(path)
        if start.startswith(GIT_LFS_POINTER):
            raise InputError(f"{path} is a git-lfs pointer, not the model itself; run 'git lfs pull'")
        if not size:
            raise InputError(f"{path} is empty (0 bytes); export the model again")
        if reader is None and start[4:8] == b"TFL3":
            reader = _tflite
    return reader(path) if reader else _sized(path)


def _status(path: Path) -> tuple[bool, int]:
    """(whether it is a folder, bytes of a file)."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is neither a file nor a folder")  # a pipe would be read for ever
    return stat.S_ISDIR(found.st_mode), found.st_size


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(len(GIT_LFS_POINTER))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


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
