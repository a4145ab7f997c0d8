"""A zip archive of somebody else's making, read without trusting a number in it.

Format: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3 (zip64); RFC 1951 (deflate). The central directory is believed
only where each local header says the same. Nothing is inflated here but on request, in pieces, and never beyond the
size that the archive claims for a member, which itself is held against what deflate can do.
"""

from __future__ import annotations

import itertools
import re
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

__all__ = [
    "BOMB_BYTES",
    "BOMB_RATIO",
    "MEMBER_LIMIT",
    "RATIO_LIMIT",
    "BrokenArchiveError",
    "Directory",
    "Entry",
    "Record",
    "Window",
    "chunks",
    "first_bytes",
    "read_directory",
    "read_entries",
]

# Deflate expands at most 1032 times (zlib, "Technical details"); a claim beyond this is a lie.
RATIO_LIMIT = 1100
# Models of this size are not so regular: 99 % zeros in float32 deflate to a fiftieth.
BOMB_BYTES = 64 << 20
BOMB_RATIO = 100
# Above what a zip without zip64 can hold (65,535), and a bound on the memory that a directory can ask for.
MEMBER_LIMIT = 100_000

_END = struct.Struct("<4s4H2IH")  # 4.3.16
_END64 = struct.Struct("<4sQ2H2I4Q")  # 4.3.14
_LOCATOR64 = struct.Struct("<4sIQI")  # 4.3.15
_CENTRAL = struct.Struct("<4s6H3I5H2I")  # 4.3.12
_LOCAL = struct.Struct("<4s5H3I2H")  # 4.3.7
_MOST_COMMENT = 0xFFFF
_IS_64 = 0xFFFFFFFF
_STORED, _DEFLATED = 0, 8
_METHODS = {_STORED: "stored", _DEFLATED: "deflated"}
_ENCRYPTED = 0x0001
_UNIX = 3
_CHUNK = 1 << 18
_LONGEST_NAME = 1024
_DRIVE = re.compile(r"[A-Za-z]:")


class BrokenArchiveError(ValueError):
    """What is wrong with the archive, to be told together with its path."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of an open file, read as if it were a file of its own."""

    file: BinaryIO
    start: int
    length: int

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes from `offset`. Raises BrokenArchiveError where the window ends before."""
        if offset < 0 or count < 0 or offset + count > self.length:
            raise BrokenArchiveError(f"{count} bytes at byte {offset} of an archive of {self.length} bytes")
        self.file.seek(self.start + offset)
        content = self.file.read(count)
        while len(content) < count:
            more = self.file.read(count - len(content))
            if not more:
                raise BrokenArchiveError(f"it ends at byte {self.start + offset + len(content)} while being read")
            content += more
        return content

    def part(self, offset: int, length: int) -> Window:
        """A window into this one."""
        if offset < 0 or length < 0 or offset + length > self.length:
            raise BrokenArchiveError(f"{length} bytes at byte {offset} of an archive of {self.length} bytes")
        return Window(self.file, self.start + offset, length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A member of an archive: sizes in bytes as claimed, `data_offset` of its (compressed) data in the archive.

    `method` is "stored", "deflated" or the number of another one. `problem` says in words why it cannot be read, ""
    if nothing speaks against it. `name` is as in the archive and only safe to use as a path where `problem` is "".
    """

    name: str
    method: str
    raw_bytes: int
    compressed_bytes: int
    crc: int
    data_offset: int
    problem: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether it is only the name of a folder."""
        return self.name.endswith("/") and self.raw_bytes == 0


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the central directory: where the member's own header is, and `whole`, the bytes of the record."""

    name: bytes
    flags: int
    method: int
    crc: int
    compressed: int
    raw: int
    header: int
    is_link: bool
    whole: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """The central directory: its place and size in the archive, the place of what ends the archive (4.3.16), and of the
    record of a zip64 archive (4.3.14), None where there is none."""

    offset: int
    size: int
    count: int
    end: int
    end64: int | None


def read_entries(window: Window) -> list[Entry]:
    """Every member of the archive, in the order of its directory.

    A member that cannot be trusted carries its `problem`: a name that is no plain path downwards, encryption, a method
    other than stored and deflated, a size beyond RATIO_LIMIT, a local header that contradicts the directory, a link, a
    name that another member has too. Raises BrokenArchiveError where the whole archive cannot be trusted: no directory,
    one that is cut short, more than MEMBER_LIMIT members, or members that share bytes.
    """
    directory, records = read_directory(window)
    entries, spans = [], []
    for record in records:
        entry = _entry(window, record, directory.offset)
        entries.append(entry)
        if entry.data_offset:
            spans.append((record.header, entry.data_offset + entry.compressed_bytes))
    _check_spans(spans)
    again = {name for name, times in Counter(entry.name for entry in entries).items() if times > 1}
    if not again:
        return entries
    return [
        replace(e, problem=e.problem or "another member has the same name") if e.name in again else e for e in entries
    ]


def read_directory(window: Window) -> tuple[Directory, list[Record]]:
    """The directory of an archive and its records, in the order of `read_entries`. Raises BrokenArchiveError where
    there is none, or one with more than MEMBER_LIMIT members."""
    directory = _directory(window)
    if directory.count > MEMBER_LIMIT:
        raise BrokenArchiveError(f"{directory.count} members, more than {MEMBER_LIMIT}")
    return directory, list(_records(window.read(directory.offset, directory.size), directory.count))


def _directory(window: Window) -> Directory:
    tail_bytes = min(window.length, _END.size + _MOST_COMMENT)
    tail = window.read(window.length - tail_bytes, tail_bytes)
    place = tail.rfind(b"PK\5\6")
    while place >= 0:
        if len(tail) - place >= _END.size:
            end = _END.unpack_from(tail, place)
            if place + _END.size + end[7] == len(tail):
                return _limits(window, window.length - tail_bytes + place, end)
        place = tail.rfind(b"PK\5\6", 0, place)
    raise BrokenArchiveError("no zip archive, or one that is cut short: its directory is missing")


def _limits(window: Window, place: int, end: tuple[int, ...]) -> Directory:
    _, disk, first_disk, here, count, size, offset, _ = end
    stop, end64 = place, None
    wide = 0xFFFF in (disk, here, count) or _IS_64 in (size, offset)
    if wide and place < _LOCATOR64.size:
        raise BrokenArchiveError("its zip64 directory is missing")
    start = max(0, place - _LOCATOR64.size)
    mark, _, at, _ = _LOCATOR64.unpack(window.read(start, _LOCATOR64.size))
    if mark == b"PK\6\7" and (wide or at + _END64.size <= start):  # some archives have one without need
        found = _END64.unpack(window.read(at, _END64.size))
        if wide and found[0] != b"PK\6\6":
            raise BrokenArchiveError("its zip64 directory is missing")
        end64 = at if found[0] == b"PK\6\6" else None
        if wide:
            disk, first_disk, here, count, size, offset = found[4:]
            stop = at
    if disk or first_disk or here != count:
        raise BrokenArchiveError("one part of an archive of several files; join them first")
    if offset + size > stop:
        raise BrokenArchiveError(f"cut short: a directory of {size} bytes at byte {offset}, which ends at {stop}")
    return Directory(offset=offset, size=size, count=count, end=place, end64=end64)


def _records(directory: bytes, count: int) -> Iterator[Record]:
    place = 0
    for number in range(count):
        if place + _CENTRAL.size > len(directory):
            raise BrokenArchiveError(f"cut short: {number} of {count} members are in its directory")
        found = _CENTRAL.unpack_from(directory, place)
        mark, made, _, flags, method, _, _, crc, compressed, raw, name, extra, comment, _, _, attributes, header = found
        if mark != b"PK\1\2":
            raise BrokenArchiveError(f"its directory is broken at member {number}")
        place += _CENTRAL.size
        stop = place + name + extra + comment
        if stop > len(directory):
            raise BrokenArchiveError(f"cut short: {number} of {count} members are in its directory")
        sizes = _sizes(directory[place + name : place + name + extra], raw, compressed, header)
        is_link = made >> 8 == _UNIX and stat.S_ISLNK(attributes >> 16)
        whole = directory[place - _CENTRAL.size : stop]
        yield Record(directory[place : place + name], flags, method, crc, sizes[1], sizes[0], sizes[2], is_link, whole)
        place = stop
    if place != len(directory):
        raise BrokenArchiveError(f"{len(directory) - place} bytes too many in a directory of {count} members")


def _sizes(extra: bytes, *values: int) -> list[int]:
    """Raw size, compressed size and offset of the header, where they are full from the zip64 field (4.5.3)."""
    if _IS_64 not in values:
        return list(values)
    place = 0
    while place + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, place)
        if kind == 1 and place + 4 + size <= len(extra):
            wide = iter(struct.unpack_from(f"<{size // 8}Q", extra, place + 4))
            return [next(wide, value) if value == _IS_64 else value for value in values]
        place += 4 + size
    return list(values)


def _entry(window: Window, record: Record, directory: int) -> Entry:
    try:
        name = record.name.decode("utf-8")
    except UnicodeDecodeError:  # 4.4.17 and appendix D: IBM code page 437
        name = record.name.decode("cp437")
    data_offset, problem = _local(window, record, directory)
    problem = _problem(name, record) or problem
    return Entry(
        name=name,
        method=_METHODS.get(record.method, str(record.method)),
        raw_bytes=record.raw,
        compressed_bytes=record.compressed,
        crc=record.crc,
        data_offset=data_offset,
        problem=problem,
    )


def _local(window: Window, record: Record, directory: int) -> tuple[int, str]:
    """(offset of the data, or 0 where there is none; what is wrong)."""
    if record.header + _LOCAL.size > directory:
        return 0, "its data are not in the archive"
    found = _LOCAL.unpack(window.read(record.header, _LOCAL.size))
    mark, _, flags, method, _, _, _, _, _, name, extra = found
    start = record.header + _LOCAL.size + name + extra
    if mark != b"PK\3\4" or start + record.compressed > directory:
        return 0, "its data are not in the archive"
    if method != record.method or (flags ^ record.flags) & _ENCRYPTED:
        return start, "its own header contradicts the archive's directory"
    if window.read(record.header + _LOCAL.size, name) != record.name:
        return start, "its own header has another name than the archive's directory"
    return start, ""


def _problem(name: str, record: Record) -> str:
    if not name or len(name) > _LONGEST_NAME:
        return f"a name of {len(name)} characters"
    if any(ord(char) < 32 or 127 <= ord(char) < 160 for char in name):
        return "a control character in its name"
    if "\\" in name or _DRIVE.match(name):
        return "a name with a backslash or a drive letter"
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        return "a name that leads out of the archive or is no plain path"
    if record.flags & _ENCRYPTED:
        return "encrypted"
    if record.method not in _METHODS:
        return f"compressed by method {record.method}, neither stored nor deflated"
    if record.is_link:
        return "a symbolic link"
    if record.method == _STORED and record.raw != record.compressed:
        return f"stored, but {record.raw} bytes in {record.compressed}"
    if record.raw > RATIO_LIMIT * max(record.compressed, 1):
        return f"claims {record.raw} bytes in {record.compressed}: more than deflate can hold, a zip bomb"
    if record.raw > BOMB_BYTES and record.raw > BOMB_RATIO * max(record.compressed, 1):
        return f"expands to {record.raw} bytes, {record.raw // max(record.compressed, 1)} times its size: a zip bomb"
    return ""


def _check_spans(spans: list[tuple[int, int]]) -> None:
    """Members that share bytes are how a small archive gets a large content (a bomb) or two contents (a disguise)."""
    spans.sort()
    for (_, stop), (start, _) in itertools.pairwise(spans):
        if start < stop:
            raise BrokenArchiveError(f"members overlap at byte {start}: a zip bomb or a broken archive")


def first_bytes(window: Window, entry: Entry, count: int) -> bytes:
    """The first `count` bytes (64 at most) of a member without a problem; fewer where it is shorter or broken."""
    most = min(entry.compressed_bytes, count if entry.method == "stored" else 1024)  # the code tables come first
    start = window.read(entry.data_offset, most)
    if entry.method == "stored":
        return start
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(start, count)
    except zlib.error:
        return b""


def chunks(window: Window, entry: Entry) -> Iterator[bytes]:
    """The content of a member without a problem in pieces of at most 256 KiB.

    Raises BrokenArchiveError, at the latest after the last piece, where size or CRC-32 are not as claimed; before more
    than the claimed size is given out.
    """
    crc = count = 0
    for piece in _stored(window, entry) if entry.method == "stored" else _inflated(window, entry):
        count += len(piece)
        if count > entry.raw_bytes:
            raise BrokenArchiveError(f"it holds more than the {entry.raw_bytes} bytes that it claims")
        crc = zlib.crc32(piece, crc)
        yield piece
    if count < entry.raw_bytes:
        raise BrokenArchiveError(f"it holds {count} of the {entry.raw_bytes} bytes that it claims")
    if crc != entry.crc:
        raise BrokenArchiveError("its checksum (CRC-32) is wrong")


def _stored(window: Window, entry: Entry) -> Iterator[bytes]:
    for place in range(0, entry.compressed_bytes, _CHUNK):
        yield window.read(entry.data_offset + place, min(_CHUNK, entry.compressed_bytes - place))


def _inflated(window: Window, entry: Entry) -> Iterator[bytes]:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in _stored(window, entry):
            rest = piece
            while rest and not stream.eof:
                yield stream.decompress(rest, _CHUNK)
                rest = stream.unconsumed_tail
        while not stream.eof and (piece := stream.decompress(b"", _CHUNK)):
            yield piece
    except zlib.error as cause:
        raise BrokenArchiveError("its deflate stream is broken") from cause
    if not stream.eof:
        raise BrokenArchiveError("its deflate stream is cut short")
