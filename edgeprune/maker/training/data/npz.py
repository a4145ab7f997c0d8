"""`.npz` files: small and compressed arrays in memory, large plain ones left where they are and read by rows."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgeprune.errors import InputError
from edgeprune.host.untrusted import check_file
from edgeprune.maker.training.data.columns import LARGE_BYTES, Column, FileRows

__all__ = ["read_npz"]

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # of a member, before its name and extra field (PKWARE APPNOTE 4.3.7)
_BROKEN = (ValueError, OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, struct.error)


def read_npz(path: Path) -> dict[str, Column]:
    """The arrays of a file by name. Raises InputError for what is missing or broken, and for Python objects."""
    check_file(path, "an .npz file (numpy.savez_compressed)")
    try:
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path}: not an .npz file; write it with numpy.savez_compressed(path, x=..., y=...)")
        with np.load(path, allow_pickle=False) as archive, zipfile.ZipFile(path) as members, path.open("rb") as file:
            known = {info.filename.removesuffix(".npy"): info for info in members.infolist()}
            found = {name: _in_file(path, file, known[name]) for name in archive.files}
            arrays = {name: archive[name] if rows is None else rows for name, rows in found.items()}
    except _BROKEN as cause:
        hint = "it holds Python objects, not numbers" if "pickle" in str(cause) else f"damaged or cut short ({cause})"
        raise InputError(f"{path}: cannot be read: {hint}") from cause
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray | FileRows)}


def _in_file(path: Path, file: BinaryIO, member: zipfile.ZipInfo) -> FileRows | None:
    """A large array that is stored as it is, row by row; None for any other member."""
    if member.compress_type != zipfile.ZIP_STORED or member.file_size < LARGE_BYTES or member.flag_bits & 1:
        return None
    file.seek(member.header_offset)
    *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    file.seek(name_bytes + extra_bytes, 1)
    start = file.tell()
    if file.read(6) != np.lib.format.MAGIC_PREFIX:
        return None
    file.seek(start)
    form: Any = np.lib.format
    readers = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
    reader = readers.get(form.read_magic(file))
    if reader is None:
        return None
    shape, fortran_order, dtype = reader(file)
    body = file.tell() - start + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if fortran_order or not shape or dtype.hasobject or body != member.file_size:
        return None
    return FileRows(path, start=file.tell(), shape=shape, dtype=dtype)
