"""One member of an archive in another content: the others byte for byte, aligned, and the archive whole."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from bundle_zoo import DEFLATED, MODEL, STORED, Member, placed, zipped

from edgeprune.formats.bundles.archive import BrokenArchiveError, Entry, Window, chunks, read_entries
from edgeprune.formats.bundles.replacing import NewMember, new_archive, signatures_of, write_replaced

NEW = b"\x1c\0\0\0TFL3" + bytes(range(200)) * 5
PLAIN = NewMember(content=NEW, stream=None)


def stream_of(content: bytes) -> bytes:
    """A raw deflate stream."""
    made = zlib.compressobj(9, wbits=-15)
    return made.compress(content) + made.flush()


def window(archive: bytes) -> Window:
    """An archive in memory."""
    return Window(io.BytesIO(archive), 0, len(archive))


def entries(archive: bytes) -> dict[str, Entry]:
    """Its members by name, none of which is refused."""
    found = read_entries(window(archive))
    assert [entry.problem for entry in found] == [""] * len(found)
    return {entry.name: entry for entry in found}


def content(archive: bytes, name: str) -> bytes:
    """A member, its checksum checked."""
    return b"".join(chunks(window(archive), entries(archive)[name]))


def replaced(archive: bytes, name: str, member: NewMember = PLAIN) -> bytes:
    """The archive with another member of this name."""
    made = io.BytesIO()
    write_replaced(window(archive), entries(archive)[name], member, made)
    with zipfile.ZipFile(made) as read:
        assert read.testzip() is None
        assert read.read(name) == member.content
    return made.getvalue()


def app(*more: Member) -> bytes:
    """Something like an APK."""
    return zipped(
        ("AndroidManifest.xml", b"<manifest/>" * 40, DEFLATED),
        ("assets/m.tflite", MODEL, STORED),
        ("res/icon.png", b"picture" * 99, STORED),
        *more,
    )


@pytest.mark.parametrize("stream", [None, stream_of(NEW)])
def test_others_stay_as_they_are(stream: bytes | None) -> None:
    """Same order, same compressed bytes, same dates; sizes and checksum of the new one are right."""
    before, member = app(), NewMember(content=NEW, stream=stream)
    after = replaced(before, "assets/m.tflite", member)
    assert list(entries(after)) == list(entries(before))
    for name, old in entries(before).items():
        if name != "assets/m.tflite":
            new = entries(after)[name]
            assert replace(new, data_offset=0) == replace(old, data_offset=0)
            assert after[new.data_offset :][: new.compressed_bytes] == before[old.data_offset :][: old.compressed_bytes]
    new = entries(after)["assets/m.tflite"]
    assert (new.method, new.raw_bytes) == ("stored" if stream is None else "deflated", len(NEW))
    assert new.compressed_bytes == len(member.written)


def test_the_same_content_gives_the_same_archive() -> None:
    """Into its own place nothing changes but the padding before it."""
    archive = placed(MODEL, 64)
    assert replaced(archive, "assets/m.tflite", NewMember(content=MODEL, stream=None))[64:] == archive[64:]


def aligned(*members: tuple[str, bytes, int]) -> bytes:
    """A zip of stored members (name, content, alignment), padded in their headers as zipalign does."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, raw, alignment in members:
            info = zipfile.ZipInfo(name)
            info.extra = bytes(-(made.tell() + 30 + len(name)) % alignment)
            archive.writestr(info, raw)
    return made.getvalue()


@pytest.mark.parametrize("size", [1, 2, 3, 500, 9000])
def test_stored_members_stay_aligned(size: int) -> None:
    """At 4 bytes, libraries at pages; the model itself at 16, as its constants ask."""
    steps = {"res/a.png": 4, "lib/a/liba.so": 16384, "lib/b/libb.so": 4096, "b.txt": 1, "res/c.png": 4}
    members = [(name, name.encode() * 11, step) for name, step in steps.items()]
    before = aligned(("assets/m.tflite", MODEL, 4), *members)
    after = replaced(before, "assets/m.tflite", NewMember(content=NEW[:8] + bytes(size), stream=None))
    found = entries(after)
    assert [name for name, step in steps.items() if found[name].data_offset % step] == []
    assert found["assets/m.tflite"].data_offset % 16 == 0
    assert [content(after, name) for name in steps] == [raw for _, raw, _ in members]
    again = replaced(after, "assets/m.tflite", NewMember(content=MODEL, stream=None))
    assert len(again) <= len(before) + 4096  # padding is not piled upon padding
    assert replaced(again, "assets/m.tflite", NewMember(content=MODEL, stream=None)) == again


def test_sizes_behind_the_data_and_a_comment() -> None:
    """A data descriptor stays with the members that have one, and goes with the one that is replaced."""

    class Pipe(io.BytesIO):
        def tell(self) -> int:
            raise OSError("a pipe has no place")

    made = Pipe()
    with zipfile.ZipFile(made, "w", DEFLATED) as archive:
        for name in ("a.txt", "m.tflite", "b.txt"):
            archive.writestr(name, name.encode() * 100)
        archive.comment = b"made by a pipe"
    before = made.getvalue()
    assert before.count(b"PK\7\x08") == 3
    after = replaced(before, "m.tflite", NewMember(content=NEW, stream=stream_of(NEW)))
    assert after.count(b"PK\7\x08") == 2
    assert after.endswith(b"made by a pipe")
    assert content(after, "b.txt") == b"b.txt" * 100


def test_zip64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places and the end of an archive in their wide fields."""
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 100)
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
        before = app()
    assert before.count(b"PK\6\6") == before.count(b"PK\6\7") == 1
    for member in (PLAIN, NewMember(content=NEW, stream=stream_of(NEW))):
        after = replaced(before, "assets/m.tflite", member)
        assert after.count(b"PK\6\6") == 1
        assert content(after, "res/icon.png") == b"picture" * 99


def test_a_signing_block_is_left_out_and_signatures_are_told() -> None:
    """It stands before the directory, and signs bytes that are no longer there."""
    before = app(("META-INF/CERT.RSA", b"v1", STORED))
    place = before.index(b"PK\1\2")
    block = struct.pack("<Q", 64) + bytes(40) + struct.pack("<Q", 64) + b"APK Sig Block 42"
    end = before.index(b"PK\5\6")
    moved = before[place:end] + before[end : end + 16] + struct.pack("<I", place + len(block)) + before[end + 20 :]
    signed = before[:place] + block + moved
    kinds = [signature.kind for signature in signatures_of(window(signed), read_entries(window(signed)))]
    assert kinds == ["the signature in META-INF (v1, JAR)", "the APK signing block (v2, v3)"]
    assert b"APK Sig Block" not in replaced(signed, "assets/m.tflite")
    assert signatures_of(window(app()), read_entries(window(app()))) == ()
    ipa = zipped(("Payload/A.app/_CodeSignature/CodeResources", b"<plist/>", DEFLATED))
    assert [s.kind for s in signatures_of(window(ipa), read_entries(window(ipa)))] == ["the code signature of the app"]


@pytest.mark.parametrize("name", ["../up.txt", "/root.txt", "a\\b.txt", "C:x"])
def test_a_hostile_neighbour_is_refused(name: str) -> None:
    """Nothing is written of an archive with a member that leads out of it, or one that is there twice."""
    archive = app((name, b"x", STORED))
    chosen = next(entry for entry in read_entries(window(archive)) if entry.name == "assets/m.tflite")
    made = io.BytesIO()
    with pytest.raises(BrokenArchiveError):
        write_replaced(window(archive), chosen, PLAIN, made)
    assert made.getvalue() == b""


def test_a_new_archive(tmp_path: Path) -> None:
    """One member, readable by all, the same each time."""
    made = new_archive("m.tflite", NewMember(content=NEW, stream=stream_of(NEW)))
    assert made == new_archive("m.tflite", NewMember(content=NEW, stream=stream_of(NEW)))
    with zipfile.ZipFile(io.BytesIO(made)) as read:
        (info,) = read.infolist()
        assert (info.filename, info.compress_type, info.external_attr >> 16) == ("m.tflite", DEFLATED, 0o100644)
        assert read.read("m.tflite") == NEW
