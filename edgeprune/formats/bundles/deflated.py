"""What arrays take in an archive that compresses their file as a whole: measured, by inflating it and looking."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO

from edgeprune.formats.bundles.archive import BrokenArchiveError, Entry, Window
from edgeprune.formats.keras.hdf5_session import Hdf5File

__all__ = ["compressed_bytes"]

_CHUNK = 1 << 16


def compressed_bytes(window: Window, entry: Entry, file: Hdf5File) -> Hdf5File:
    """The same file, with the bytes of the deflated member that each array's numbers come from.

    A byte of the compressed stream that ends one array and begins the next counts with the first. An array without
    places (kept with its description) counts none. Raises BrokenArchiveError and zlib.error for a damaged archive.
    """
    marks = sorted({mark for array in file.arrays for at, length in array.places for mark in (at, at + length)})
    window.read(entry.data_offset, 0)  # goes to its place
    consumed = dict(zip(marks, _consumed(window.file, entry.compressed_bytes, marks), strict=True))
    return replace(
        file,
        arrays=tuple(
            replace(array, stored_bytes=sum(consumed[at + length] - consumed[at] for at, length in array.places))
            for array in file.arrays
        ),
    )


def _consumed(stream: BinaryIO, compress_size: int, marks: Sequence[int]) -> Iterator[int]:
    """For each place in the inflated member, in rising order, the compressed bytes that lead up to it."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    left, made, taken, waiting = compress_size, 0, 0, b""
    for mark in marks:
        while made < mark:
            if not waiting and left and not inflater.eof:
                waiting = stream.read(min(left, _CHUNK))
                left -= len(waiting)
            before = len(waiting)
            piece = inflater.decompress(waiting, min(mark - made, 1 << 20))
            waiting = inflater.unconsumed_tail
            taken += before - len(waiting)
            made += len(piece)
            if not piece and not waiting and (not left or inflater.eof):
                raise BrokenArchiveError("a member is shorter than it claims")
        yield taken
