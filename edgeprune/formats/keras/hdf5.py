"""Take a Keras file apart: `.h5` and `.hdf5` (a whole model, or weights only), and `.keras`; of Keras 2 and 3.

Formats: docs.hdfgroup.org; PKWARE APPNOTE.TXT (zip); keras_layout.py for what Keras puts where.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from edgeprune.errors import InputError, OutputError
from edgeprune.formats.bundles.archive import BrokenArchiveError, Entry, Window, chunks, read_entries
from edgeprune.formats.bundles.deflated import compressed_bytes
from edgeprune.formats.contents import Contents, Layer, Piece, StoredArray, printable
from edgeprune.formats.elements import count_zeros
from edgeprune.formats.keras.hdf5_limits import largest_plausible
from edgeprune.formats.keras.hdf5_session import Hdf5Array, Hdf5File, read_hdf5
from edgeprune.formats.keras.layout import KERAS_USES, Owner, Part, architecture, channel_axis, owners
from edgeprune.formats.weights import Role
from edgeprune.host.scratch import scratch_folder
from edgeprune.host.untrusted import open_file

__all__ = ["read_keras"]

_KIND = "a Keras model (.keras or .h5)"
_HDF5_MAGIC, _ZIP_MAGIC = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
_MOST_JSON_BYTES = 256_000_000
_DAMAGED = (zlib.error, OSError, ValueError)


def read_keras(path: Path) -> Contents:
    """The layers of a Keras file with their arrays; nothing in it is made or run.

    A layer's kind is its class where the file holds the architecture. Arrays of the optimizer are layers of the group
    "optimizer", metrics and seeds of the group "training"; both count in the section "optimizer". MACs and activations
    are not in such a file. "other" holds what HDF5 and zip need for themselves, and assets. Raises InputError for a
    file that is missing, damaged, or refused (it leaves itself, is encrypted, or expands beyond what is plausible).
    """
    with open_file(path, _KIND) as stream:
        head = stream.read(8)
        size_bytes = stream.seek(0, os.SEEK_END)
        if head == _HDF5_MAGIC:
            return _read_h5(path, size_bytes)
        if head.startswith(_ZIP_MAGIC):
            try:
                return _read_archive(path, Window(stream, 0, size_bytes))
            except _DAMAGED as cause:
                raise InputError(f"{path}: damaged or cut short ({cause}); copy or save the file again") from cause
    raise InputError(f"{path}: not {_KIND}: neither HDF5 nor a zip archive; save it with model.save('name.keras')")


def _read_h5(path: Path, size_bytes: int) -> Contents:
    file = read_hdf5(path, str(path))
    texts = {name: len(text.encode()) for name, text in file.attributes.items()}
    model_text = file.attributes.get("model_config", "")
    layers = _layers(path, file, _architecture(path, model_text) if model_text else ())
    graph = texts.pop("model_config", 0)
    return _contents(path, "h5", size_bytes, layers, graph_bytes=graph, metadata_bytes=sum(texts.values()))


def _read_archive(path: Path, window: Window) -> Contents:
    entries = _entries(path, window)
    if "config.json" not in entries:
        raise InputError(f"{path}: a zip archive without config.json, so not a .keras model")
    weights = [entry for name, entry in entries.items() if name.endswith(".weights.h5")]
    if not weights:
        raise InputError(f"{path}: the archive holds no weights (model.weights.h5 is missing)")
    if entries["config.json"].raw_bytes > _MOST_JSON_BYTES:
        raise InputError(f"{path}: refused, its config.json claims {entries['config.json'].raw_bytes} bytes")
    parts = _architecture(path, b"".join(_pieces(window, entries["config.json"])).decode())
    room = largest_plausible(window.length)
    layers: list[Layer] = []
    for entry in weights:
        file = _member(path, window, entry, room)
        room -= sum(len(array.raw) for array in file.arrays)
        layers += _layers(path, file, parts)
    for entry in entries.values():
        if not entry.name.endswith(".h5"):
            for _ in _pieces(window, entry):  # its checksum
                pass
    told = {name: entry.compressed_bytes for name, entry in entries.items()}
    graph = told.pop("config.json") + told.pop("model.weights.json", 0)
    return _contents(
        path, "keras", window.length, _merged(layers), graph_bytes=graph, metadata_bytes=told.pop("metadata.json", 0)
    )


def _entries(path: Path, window: Window) -> dict[str, Entry]:
    """The members by name. Raises InputError for an archive that is not safe to read."""
    found = read_entries(window)
    for entry in found:
        if entry.problem:
            raise InputError(
                f"{path}: refused, {printable(entry.name)!r}: {entry.problem}; copy or save the file again"
            )
    if sum(entry.raw_bytes for entry in found) > largest_plausible(window.length):
        raise InputError(f"{path}: refused, its entries expand beyond what is plausible (zip bomb?)")
    return {entry.name: entry for entry in found}


def _pieces(window: Window, entry: Entry) -> Iterator[bytes]:
    """The content of a member. Raises BrokenArchiveError, which names it, where it is not as claimed."""
    try:
        yield from chunks(window, entry)
    except BrokenArchiveError as cause:
        raise BrokenArchiveError(f"{printable(entry.name)}: {cause}") from cause


def _member(path: Path, window: Window, entry: Entry, allowed_bytes: int) -> Hdf5File:
    """A weight file of the archive, written to disk for the child that reads it."""
    stored = entry.method == "stored"
    with scratch_folder() as folder:
        target = folder / "weights.h5"
        with target.open("wb") as sink:
            for piece in _pieces(window, entry):
                _keep(sink, piece)
        subject = f"{path}: {printable(entry.name)}"
        file = read_hdf5(target, subject, places=not stored, allowed_bytes=allowed_bytes)
    return file if stored else compressed_bytes(window, entry, file)


def _keep(sink: IO[bytes], piece: bytes) -> None:
    """Full disks are no damage of the file that is read."""
    try:
        sink.write(piece)
    except OSError as cause:
        raise OutputError(f"no room for a temporary copy ({cause.strerror}); set TMPDIR") from cause


def _architecture(path: Path, text: str) -> tuple[Part, ...]:
    try:
        return architecture(text)
    except ValueError as cause:
        raise InputError(f"{path}: its architecture is not JSON ({cause}); copy or save the file again") from cause


def _layers(path: Path, file: Hdf5File, parts: tuple[Part, ...]) -> list[Layer]:
    arrays = {array.path: array for array in file.arrays}
    try:
        return [_layer(owner, arrays) for owner in owners(file, parts)]
    except ValueError as cause:
        raise InputError(f"{path}: {cause}") from cause


def _layer(owner: Owner, arrays: Mapping[str, Hdf5Array]) -> Layer:
    return Layer(
        name=printable(owner.name),
        kind=printable(owner.kind),
        arrays=tuple(_stored(owner, name, arrays[place]) for name, place in owner.arrays),
        group=owner.group,
    )


def _stored(owner: Owner, name: str, array: Hdf5Array) -> StoredArray:
    axis = channel_axis(owner.kind, name, array.shape) if not owner.group else None
    piece = Piece(raw=array.raw, dtype=array.dtype, shape=array.shape, axis=axis, stored_bytes=array.stored_bytes)
    return StoredArray(
        name=printable(name),
        shape=array.shape,
        precision=array.dtype,
        role=Role.STEERING if owner.group else KERAS_USES.role(owner.kind, name.rpartition("/")[2], array.shape),
        zeros=count_zeros(array.raw, array.dtype, array.shape) if math.prod(array.shape) else 0,
        pieces=(piece,),
    )


def _merged(layers: Sequence[Layer]) -> list[Layer]:
    """Layers whose arrays are spread over several weight files, put together."""
    found: dict[tuple[str, str], Layer] = {}
    for layer in layers:
        before = found.get((layer.group, layer.name))
        arrays = (*before.arrays, *layer.arrays) if before else layer.arrays
        found[layer.group, layer.name] = Layer(name=layer.name, kind=layer.kind, arrays=arrays, group=layer.group)
    return sorted(found.values(), key=lambda layer: layer.group != "")


def _contents(
    path: Path, kind: str, size_bytes: int, layers: Sequence[Layer], *, graph_bytes: int, metadata_bytes: int
) -> Contents:
    stored = {True: 0, False: 0}
    for layer in layers:
        stored[layer.group == ""] += sum(array.stored_bytes for array in layer.arrays)
    sections = {"weights": stored[True], "graph": graph_bytes, "metadata": metadata_bytes, "optimizer": stored[False]}
    sections["other"] = size_bytes - sum(sections.values())
    if sections["other"] < 0:
        raise InputError(f"{path}: damaged, its parts claim more bytes than the file has; copy or save it again")
    if not stored[False]:
        del sections["optimizer"]
    return Contents(path=path, format=kind, raw_bytes=size_bytes, sections=sections, layers=tuple(layers))
