"""One member of a zip archive in another content; every other member as it is, byte for byte.

Format: PKWARE APPNOTE.TXT 6.3.10. What stands before the member stays; what stands behind it moves, and a stored member
keeps its alignment there, as zipalign makes it: by padding in the extra field of its own header (the record 0xD935 of
Android's apksig). Android's APK signing block (source.android.com, APK Signature Scheme v2) is left out: it signs bytes
that are no longer there.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from edgeprune.errors import Unsupported
from edgeprune.formats.bundles.archive import (
    BrokenArchiveError,
    Directory,
    Entry,
    Record,
    Window,
    read_directory,
    read_entries,
)

__all__ = ["MODEL_ALIGNMENT", "NewMember", "Signature", "new_archive", "signatures_of", "write_replaced"]

MODEL_ALIGNMENT = 16  # of a stored .tflite: its constants ask for 16, zipalign for 4
_PAGES = (16384, 4096)  # of stored libraries
_LOCAL = struct.Struct("<4s5H3I2H")  # 4.3.7
_CENTRAL_BYTES = 46  # 4.3.12, before the name
_STORED, _DEFLATED, _DEFLATE_VERSION = 0, 8, 20
_DESCRIPTOR_BEHIND = 0x0008  # sizes stand behind the data (4.4.4)
_DEFLATE_OPTIONS = 0x0006
_ZIP64, _PADDING = 0x0001, 0xD935
_IS_64 = 0xFFFFFFFF
_CHUNK = 1 << 20
_SIGNING_BLOCK = b"APK Sig Block 42"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_READABLE = 0o100644 << 16
_JAR_SIGNATURES = (".rsa", ".dsa", ".ec")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMember:
    """What takes a member's place: its content, and the raw deflate stream of it, None where it is to be stored."""

    content: bytes
    stream: bytes | None

    @property
    def written(self) -> bytes:
        """The bytes of the member in the archive."""
        return self.content if self.stream is None else self.stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature of an archive that a changed member breaks, in words."""

    kind: str
    remedy: str


def new_archive(name: str, member: NewMember) -> bytes:
    """A zip archive of one member; the same content gives the same bytes."""
    empty, made = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(empty, "w") as archive:
        info = zipfile.ZipInfo(name, _EPOCH)
        info.create_system, info.external_attr = 3, _READABLE
        archive.writestr(info, b"")
    window = Window(empty, 0, len(empty.getvalue()))
    write_replaced(window, read_entries(window)[0], member, made)
    return made.getvalue()


def signatures_of(window: Window, entries: Sequence[Entry]) -> tuple[Signature, ...]:
    """The signatures of an archive by what they are of."""
    found = []
    names = [entry.name for entry in entries]
    if any(name.startswith("META-INF/") and name.lower().endswith(_JAR_SIGNATURES) for name in names):
        found.append(
            Signature(kind="the signature in META-INF (v1, JAR)", remedy="sign it again: apksigner or jarsigner")
        )
    if _signing_block(window, read_directory(window)[0]):
        found.append(Signature(kind="the APK signing block (v2, v3)", remedy="left out; sign it again: apksigner sign"))
    if any("/_CodeSignature/" in name for name in names):
        found.append(
            Signature(kind="the code signature of the app", remedy="sign it again: codesign, or Xcode's export")
        )
    return tuple(found)


def write_replaced(window: Window, chosen: Entry, member: NewMember, target: BinaryIO) -> None:
    """Write the archive to `target` with `member` in the place of `chosen`, one of its entries.

    Raises BrokenArchiveError where a member cannot be trusted, Unsupported above 4 GiB in an archive without zip64.
    """
    directory, records = read_directory(window)
    entries = read_entries(window)
    for entry in entries:
        if entry.problem:
            raise BrokenArchiveError(f"{entry.name[:60]!r}: {entry.problem}")
    if max(len(member.content), len(member.written)) >= _IS_64:
        raise Unsupported("a model of 4 GiB and more is not put into an archive")
    stop = directory.offset - _signing_block(window, directory)
    order = sorted(range(len(records)), key=lambda number: records[number].header)
    headers: dict[int, int] = {}
    _copy(window, 0, records[order[0]].header, target)
    for place, number in enumerate(order):
        record, entry = records[number], entries[number]
        headers[number] = target.tell()
        following = records[order[place + 1]].header if place + 1 < len(order) else stop
        if entry == chosen:
            _write_member(window, record, entry, member, target)
        else:
            target.write(_header(window, record, entry, _alignment(entry), target.tell()))
            _copy(window, entry.data_offset, following, target)
    _write_directory(window, directory, records, headers, entries.index(chosen), member, target)


def _signing_block(window: Window, directory: Directory) -> int:
    """Bytes of the APK signing block, right before the directory; 0 where there is none."""
    if directory.offset < 32 or window.read(directory.offset - 16, 16) != _SIGNING_BLOCK:
        return 0
    (size,) = struct.unpack("<Q", window.read(directory.offset - 24, 8))
    return int(size) + 8 if 24 <= size <= directory.offset - 8 else 0


def _copy(window: Window, start: int, stop: int, target: BinaryIO) -> None:
    for place in range(start, stop, _CHUNK):
        target.write(window.read(place, min(_CHUNK, stop - place)))


def _alignment(entry: Entry) -> int:
    """What the place of a stored member's data is a multiple of, and is to stay."""
    if entry.method != "stored" or not entry.raw_bytes:
        return 1
    pages = _PAGES if entry.name.endswith(".so") else ()
    return next((size for size in (*pages, 4) if entry.data_offset % size == 0), 1)


def _extras(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, the whole record) of an extra field; padding that is no record has kind 0."""
    place = 0
    while place < len(extra):
        kind, size = struct.unpack_from("<HH", extra, place) if place + 4 <= len(extra) else (0, 0)
        stop = place + 4 + size
        if stop > len(extra):
            kind, stop = (0 if not any(extra[place:]) else -1), len(extra)
        yield kind, extra[place:stop]
        place = stop


def _without(extra: bytes, *kinds: int) -> bytes:
    return b"".join(record for kind, record in _extras(extra) if kind not in kinds)


def _padded(extra: bytes, place: int, alignment: int) -> bytes:
    """An extra field that begins at `place`, after which comes a multiple of `alignment`."""
    if (place + len(extra)) % alignment == 0:
        return extra
    kept = _without(extra, 0, _PADDING)
    room = -(place + len(kept)) % alignment
    if not room:
        return kept
    while room < 6:
        room += alignment
    return kept + struct.pack("<HHH", _PADDING, room - 4, alignment) + bytes(room - 6)


def _header(window: Window, record: Record, entry: Entry, alignment: int, place: int) -> bytes:
    """A member's own header with its name and extra field, to stand at `place`."""
    whole = window.read(record.header, entry.data_offset - record.header)
    start = _LOCAL.size + len(record.name)
    extra = _padded(whole[start:], place + start, alignment)
    return whole[: _LOCAL.size - 2] + struct.pack("<H", len(extra)) + whole[_LOCAL.size : start] + extra


def _facts(version: int, flags: int, member: NewMember) -> tuple[int, int, int]:
    """Version needed, flags and method of the new member."""
    method = _STORED if member.stream is None else _DEFLATED
    needed = version if member.stream is None else max(version, _DEFLATE_VERSION)
    return needed, flags & ~(_DESCRIPTOR_BEHIND | _DEFLATE_OPTIONS), method


def _numbers(member: NewMember) -> tuple[int, int, int]:
    """Checksum and sizes."""
    return zlib.crc32(member.content), len(member.written), len(member.content)


def _write_member(window: Window, record: Record, entry: Entry, member: NewMember, target: BinaryIO) -> None:
    whole = window.read(record.header, entry.data_offset - record.header)
    mark, version, flags, _, time, date, *_ = _LOCAL.unpack_from(whole)
    start = target.tell() + _LOCAL.size + len(record.name)
    alignment = MODEL_ALIGNMENT if member.stream is None else 1
    extra = _padded(_without(whole[_LOCAL.size + len(record.name) :], 0, _ZIP64, _PADDING), start, alignment)
    version, flags, method = _facts(version, flags, member)
    sizes = (*_numbers(member), len(record.name), len(extra))
    target.write(_LOCAL.pack(mark, version, flags, method, time, date, *sizes))
    target.write(record.name + extra + member.written)


def _write_directory(
    window: Window,
    directory: Directory,
    records: Sequence[Record],
    headers: dict[int, int],
    chosen: int,
    member: NewMember,
    target: BinaryIO,
) -> None:
    """The directory with the new places, and what ends the archive."""
    start = target.tell()
    for number, record in enumerate(records):
        whole = _changed(record.whole, member) if number == chosen else record.whole
        target.write(_moved(whole, headers[number]))
    size = target.tell() - start
    tail = bytearray(window.read(directory.offset + directory.size, window.length - directory.offset - directory.size))
    origin = directory.offset + directory.size
    if directory.end64 is not None:
        struct.pack_into("<QQ", tail, directory.end64 - origin + 40, size, start)
        locator = directory.end - 20 - origin
        struct.pack_into("<Q", tail, locator + 8, start + size + directory.end64 - origin)
    for at, value in ((12, size), (16, start)):
        (old,) = struct.unpack_from("<I", tail, directory.end - origin + at)
        if directory.end64 is None or old != _IS_64:
            struct.pack_into("<I", tail, directory.end - origin + at, _below_4_gib(value))
    target.write(tail)


def _below_4_gib(value: int) -> int:
    if value >= _IS_64:
        raise Unsupported("the archive would grow beyond 4 GiB, and it is none of zip64; make it anew")
    return value


def _changed(whole: bytes, member: NewMember) -> bytes:
    """The record of the directory with the facts of the new member."""
    made, version, flags = struct.unpack_from("<HHH", whole, 4)
    name, extra, comment = struct.unpack_from("<HHH", whole, 28)
    place = _CENTRAL_BYTES + name
    kept = _without(whole[place : place + extra], _ZIP64)
    wide = dict(_extras(whole[place : place + extra])).get(_ZIP64, b"")
    if struct.unpack_from("<I", whole, 42)[0] == _IS_64 and wide:  # its place alone stays in the zip64 field
        kept = struct.pack("<HH", _ZIP64, 8) + bytes(8) + kept
    head = bytearray(whole[:_CENTRAL_BYTES])
    struct.pack_into("<HHHH", head, 4, made, *_facts(version, flags, member))
    struct.pack_into("<III", head, 16, *_numbers(member))
    struct.pack_into("<H", head, 30, len(kept))
    return bytes(head) + whole[_CENTRAL_BYTES:place] + kept + whole[place + extra : place + extra + comment]


def _moved(whole: bytes, header: int) -> bytes:
    """The record of the directory with another place of the member's own header."""
    changed = bytearray(whole)
    raw, compressed = struct.unpack_from("<I", whole, 24)[0], struct.unpack_from("<I", whole, 20)[0]
    name, extra = struct.unpack_from("<HH", whole, 28)
    if struct.unpack_from("<I", whole, 42)[0] != _IS_64:
        struct.pack_into("<I", changed, 42, _below_4_gib(header))
        return bytes(changed)
    place = _CENTRAL_BYTES + name
    for kind, record in _extras(whole[place : place + extra]):
        if kind == _ZIP64:
            struct.pack_into("<Q", changed, place + 4 + 8 * (raw == _IS_64) + 8 * (compressed == _IS_64), header)
        place += len(record)
    return bytes(changed)
