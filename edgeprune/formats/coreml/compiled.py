"""A compiled Core ML model (.mlmodelc): what Xcode puts into an app, taken apart byte for byte.

Its weights are listed by the weight file's own table (see `blobs`), their names and shapes come from the program's text
(see `mil_text`). The layout is Apple's and undocumented but for these two; a model of another kind (a compiled neural
network, a tree) is only sized.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from edgeprune.errors import InputError
from edgeprune.formats.contents import Contents, Layer, Piece, StoredArray, printable
from edgeprune.formats.coreml.blobs import BlobFile, BrokenBlobsError, read_blobs
from edgeprune.formats.coreml.program import BrokenProgramError, Claims, layers_of, stored_bytes
from edgeprune.formats.elements import count_zeros
from edgeprune.formats.weights import Role
from edgeprune.host.untrusted import check_file, is_folder, open_file, read_whole

__all__ = ["FILE_LIMIT", "read_compiled"]

FILE_LIMIT = 10_000
_SECTIONS = {
    "coremldata.bin": "metadata",
    "metadata.json": "metadata",
    "model.mil": "graph",
    "model.espresso.net": "graph",
    "model.espresso.shape": "graph",
    "model.espresso.weights": "weights",
}


def read_compiled(path: Path) -> Contents:
    """The .mlmodelc folder at `path`: every file's bytes by section, and the layers that own its weights.

    A layer is an operation of model.mil with the weights it is the first to use, grouped by function, and by folder in
    a pipeline; its MACs are not known. Weights that no operation names are a layer of their own, called by file and
    offset; with no model.mil at all that is every one, and `complete` is False. Raises InputError when the folder is
    missing or empty, holds a link, more than FILE_LIMIT files, a git-lfs pointer, or a weight file or program that is
    broken or does not fit the other.
    """
    files = dict(sorted(_files(path)))
    if not any(PurePosixPath(name).name in _SECTIONS for name in files):
        raise InputError(
            f"{path}: not a compiled Core ML model: no coremldata.bin, model.mil or model.espresso.net in it"
        )
    for name in files:
        if not _is_weight_file(name) and PurePosixPath(name).name != "model.mil":
            check_file(path / name, "a file of a compiled Core ML model")
    claims = Claims(files={name: _weights(path, name) for name in files if _is_weight_file(name)})
    layers = [*_named(path, files, claims), *_unnamed(claims)]
    note = _note(files, claims)
    return Contents(
        path=path,
        format="mlmodelc",
        raw_bytes=sum(files.values()),
        sections=_sections(files, claims),
        layers=tuple(layers),
        files={printable(name): size for name, size in files.items()},
        complete=not note,
        note=note,
    )


def _files(path: Path) -> Iterator[tuple[str, int]]:
    """(path inside the model, bytes) of every file; none may be a link or a git-lfs pointer."""
    if not is_folder(path):
        raise InputError(f"{path}: not a folder; name a compiled Core ML model such as Model.mlmodelc")
    pending, number = [path], 0
    while pending:
        for entry in _entries(pending.pop()):
            place = Path(entry.path)
            number += 1
            if number > FILE_LIMIT:
                raise InputError(f"{path}: more than {FILE_LIMIT} files and folders")
            if entry.is_symlink():
                raise InputError(f"{place} is a link; copy the model without links")
            if is_folder(place):
                pending.append(place)
                continue
            yield place.relative_to(path).as_posix(), entry.stat().st_size


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as cause:
        raise InputError(f"{folder} cannot be read: {cause.strerror}") from cause


def _is_weight_file(name: str) -> bool:
    place = PurePosixPath(name)
    return place.suffix == ".bin" and place.parent.name == "weights"


def _weights(path: Path, name: str) -> BlobFile:
    content = read_whole(path / name, "the weights of a compiled Core ML model")
    try:
        return read_blobs(content)
    except BrokenBlobsError as cause:
        raise InputError(f"{path / name}: a broken Core ML weight file: {cause}") from cause


def _sections(files: Mapping[str, int], claims: Claims) -> dict[str, int]:
    """Bytes by section; a weight file's table counts as structure."""
    found: Counter[str] = Counter()
    for name, size in files.items():
        table = claims.files.get(name)
        if table is None:
            found[_SECTIONS.get(PurePosixPath(name).name, "other")] += size
            continue
        found["weights"] += sum(len(blob.raw) for blob in table.blobs.values())
        found["graph"] += table.table_bytes
        found["padding"] += table.padding_bytes
    return {name: size for name, size in found.items() if size}


def _named(path: Path, files: Mapping[str, int], claims: Claims) -> Iterator[Layer]:
    """The layers of every program in the model; a pipeline has one in each folder of its own."""
    for name in files:
        place = PurePosixPath(name)
        if place.name != "model.mil":
            continue
        with open_file(path / name, "the program of a compiled Core ML model") as lines:
            try:
                yield from layers_of(lines, str(place.parent), claims)
            except BrokenProgramError as cause:
                raise InputError(f"{path}: a broken compiled model: {cause}") from cause


def _unnamed(claims: Claims) -> Iterator[Layer]:
    """Arrays that no program names, as the weight file itself describes them."""
    for name, table in claims.files.items():
        for offset, blob in table.blobs.items():
            if (name, offset) in claims.taken:
                continue
            shape = (blob.elements,)
            piece = Piece(raw=blob.raw, dtype=blob.dtype, shape=shape, axis=None, stored_bytes=len(blob.raw))
            called = printable(f"{name} at byte {offset}")
            array = StoredArray(
                name=called,
                shape=shape,
                precision=blob.dtype,
                role=Role.BIAS,  # the file does not say more of it than its size
                zeros=count_zeros(blob.raw[: stored_bytes(blob.dtype, shape)], blob.dtype, shape),
                pieces=(piece,),
            )
            yield Layer(name=called, kind="", arrays=(array,))


def _note(files: Mapping[str, int], claims: Claims) -> str:
    """Why the layers are not known, "" where they are."""
    names = {PurePosixPath(name).name for name in files}
    if "model.espresso.weights" in names:
        return "a compiled neural network: its weights are sized as one file, with their table"
    if "model.mil" in names:
        return ""
    if claims.files:
        return "no model.mil in it: weights are called by their offset"
    return "neither a program nor a weight file in it: only sized"
