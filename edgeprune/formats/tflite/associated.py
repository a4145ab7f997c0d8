"""Files associated with a .tflite model: a zip of stored files behind the flatbuffer (TensorFlow Lite Metadata)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from edgeprune.errors import InputError
from edgeprune.formats.bundles.archive import BrokenArchiveError, Window, chunks, read_entries
from edgeprune.formats.tflite.flatbuffer import Buffers

__all__ = ["Appended", "find_appended", "read_files", "with_files"]

_ZIP_END = b"PK\x05\x06"
_MOST_BYTES = 256 << 20  # of all files together; vocabularies and indexes stay far below
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can tell: same content, same bytes


class Appended(NamedTuple):
    """A zip behind a model: where it begins, and the place from which its offsets count."""

    begin: int
    origin: int


def find_appended(buffers: Buffers) -> Appended | None:
    """The zip of associated files; None when none is appended."""
    tail = buffers.content[-65557:]
    found = tail.rfind(_ZIP_END)
    if found < 0 or len(tail) - found < 22:
        return None
    end = tail[found : found + 22]
    size, offset = int.from_bytes(end[12:16], "little"), int.from_bytes(end[16:20], "little")
    directory = len(buffers.content) - len(tail) + found - size
    if directory < 0 or buffers.content[directory : directory + 4] != b"PK\x01\x02":
        return None
    # Offsets in the directory count from the file's start, or from the zip's: the first local header tells which.
    first = int.from_bytes(buffers.content[directory + 42 : directory + 46], "little")
    origin = 0 if buffers.content[first : first + 4] == b"PK\x03\x04" else directory - offset
    last = max((start + size for start, size in buffers.places.values()), default=0)
    return Appended(origin + first, origin) if last <= origin + first <= directory else None


def read_files(path: Path, content: bytes, appended: Appended | None) -> dict[str, bytes]:
    """The associated files of the .tflite file `path` by name.

    Raises InputError for an archive that cannot be trusted, or that holds more than a phone would take.
    """
    if appended is None:
        return {}
    try:
        window = Window(io.BytesIO(content), 0, len(content))
        window = window.part(appended.origin, len(content) - appended.origin)
        entries = read_entries(window)
        for entry in entries:
            if entry.problem:
                raise BrokenArchiveError(f"{entry.name[:60]!r}: {entry.problem}")
        if sum(entry.raw_bytes for entry in entries) > _MOST_BYTES:
            raise BrokenArchiveError(f"more than {_MOST_BYTES} bytes of files")
        return {entry.name: b"".join(chunks(window, entry)) for entry in entries if not entry.is_folder}
    except BrokenArchiveError as cause:
        raise InputError(f"{path}: the files behind its model are a broken archive: {cause}") from cause


def with_files(content: bytes, files: Mapping[str, bytes]) -> bytes:
    """A .tflite file that has no associated files, with these: stored, in the order of their names."""
    if not files:
        return content
    packed = io.BytesIO(content)
    packed.seek(0, io.SEEK_END)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:  # offsets count from the file's start
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), files[name])
    return packed.getvalue()
