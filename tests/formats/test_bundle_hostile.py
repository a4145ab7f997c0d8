"""App bundles that are broken or made to deceive: refused in one line, or read as far as they can be trusted."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_zoo import DEFLATED, MODEL, STORED, error, only, package, placed, refused, write, zipped

from edgeprune.errors import InputError, OutputError, Unsupported
from edgeprune.formats.bundles import archive, bundle
from edgeprune.formats.bundles.bundle import extracted, read_bundle


@pytest.mark.parametrize(
    "name",
    [
        "../m.tflite",
        "assets/../../m.tflite",
        "/etc/m.tflite",
        "C:/m.tflite",
        "c:m.tflite",
        "assets\\m.tflite",
        "assets/a\nb.tflite",
        "assets/a\x1b[31m.tflite",
        "assets/a\x9b.tflite",
        "assets/./m.tflite",
        "assets//m.tflite",
        "N.mlpackage/../../../m.bin",
        "../N.mlmodelc/m.bin",
        "a" * 2000 + ".tflite",
    ],
)
def test_names_that_are_no_paths(tmp_path: Path, name: str) -> None:
    """A member with a dangerous name is refused, told on one clean line, and never unpacked."""
    found = read_bundle(write(tmp_path, "app.apk", (name, MODEL, STORED), ("good.tflite", MODEL, STORED)))
    assert [model.name for model in found.models] == ["good.tflite"]
    (bad,) = found.unreadable
    assert "name" in bad.reason
    assert bad.kind in ("tflite", "mlpackage", "mlmodelc")
    assert bad.name.isprintable()


def test_a_name_with_nul(tmp_path: Path) -> None:
    """A NUL in a name, which zipfile would cut off, is refused."""
    path = tmp_path / "app.apk"
    path.write_bytes(placed(MODEL, 48).replace(b"assets/m.tflite", b"assets/m\0tflite"))
    assert refused(path) == "a control character in its name"


def test_a_name_that_only_looks_odd(tmp_path: Path) -> None:
    """Characters that turn the direction of text are shown escaped, and the member is read."""
    model = only(read_bundle(write(tmp_path, "app.apk", ("assets/\u202egnp.tflite", MODEL, STORED))))
    assert model.name == "assets/\\u202egnp.tflite"


@pytest.mark.parametrize(
    ("at", "field", "value", "told"),
    [
        (8, 6, b"\1\0", "encrypted"),
        (10, 8, b"\x0c\0", "compressed by method 12"),
        (24, 22, struct.pack("<I", 5161), "stored, but 5161 bytes in 5160"),
    ],
)
def test_encrypted_and_unsupported(tmp_path: Path, at: int, field: int, value: bytes, told: str) -> None:
    """Encryption, other methods and sizes that contradict themselves make a member unreadable."""
    raw = bytearray(placed(MODEL, 48))
    central = raw.index(b"PK\1\2")
    raw[central + at : central + at + len(value)] = value
    raw[field : field + len(value)] = value
    path = tmp_path / "app.apk"
    path.write_bytes(raw)
    assert refused(path).startswith(told)


@pytest.mark.parametrize(
    ("at", "value", "told"),
    [
        (8, b"\x08\0", "contradicts"),
        (6, b"\x01\0", "contradicts"),
        (30, b"x", "another name"),
        (0, b"XX", "not in the archive"),
        (26, b"\xff\xff", "not in the archive"),
    ],
)
def test_two_headers_that_disagree(tmp_path: Path, at: int, value: bytes, told: str) -> None:
    """A local header that says something else than the directory is refused: readers would see different apps."""
    raw = bytearray(placed(MODEL, 48))
    raw[at : at + len(value)] = value
    path = tmp_path / "app.apk"
    path.write_bytes(raw)
    assert told in refused(path)


def test_two_members_of_one_name(tmp_path: Path) -> None:
    """Of two members with the same name neither is believed."""
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = write(tmp_path, "app.apk", ("m.tflite", MODEL, STORED), ("m.tflite", MODEL[:-1] + b"x", STORED))
    found = read_bundle(path)
    assert found.models == ()
    assert [item.reason for item in found.unreadable] == ["another member has the same name"] * 2


def test_a_symbolic_link(tmp_path: Path) -> None:
    """A link in a folder makes the folder unreadable."""
    link = zipfile.ZipInfo("N.mlmodelc/weights/weight.bin")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    path = tmp_path / "a.ipa"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("N.mlmodelc/coremldata.bin", b"x")
        file.writestr(link, "/etc/passwd")
    assert refused(path) == "a symbolic link"


def test_what_is_named_tflite_and_is_not(tmp_path: Path) -> None:
    """A git-lfs pointer and an encrypted model are told as what they are."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    assert "git lfs pull" in refused(write(tmp_path, "a.apk", ("m.tflite", pointer, STORED)))
    assert "git lfs pull" in refused(write(tmp_path, "b.ipa", ("N.mlmodelc/weights/weight.bin", pointer, DEFLATED)))
    assert "TFL3" in refused(write(tmp_path, "c.apk", ("m.tflite", bytes(range(256)), DEFLATED)))
    path = tmp_path / "d.apk"
    path.write_bytes(pointer)
    assert "git lfs pull" in error(path)


def test_overlapping_members(tmp_path: Path) -> None:
    """Two directory records of the same bytes are how a small archive gets a large content: refused as a whole."""
    raw = placed(MODEL, 48)
    start, stop = raw.index(b"PK\1\2"), raw.index(b"PK\5\6")
    second = raw[start:stop].replace(b"assets/m.tflite", b"assets/n.tflite")
    end = b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 2, 2, 2 * (stop - start), start, 0)
    path = tmp_path / "app.apk"
    path.write_bytes(raw[:stop] + second + end)
    # The second name contradicts the one local header; the shared bytes are what counts.
    assert "overlap" in error(path)


def claiming(raw: bytes, size: int) -> bytes:
    """An archive of one deflated member whose headers claim another raw size."""
    made = bytearray(zipped(("m.onnx", raw, DEFLATED)))
    made[22:26] = struct.pack("<I", size)
    central = made.index(b"PK\1\2")
    made[central + 24 : central + 28] = struct.pack("<I", size)
    return bytes(made)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (4_000_000_000, "a zip bomb"),
        (99_999, "more than the 99999 bytes"),
        (100_001, "100000 of the 100001 bytes"),
    ],
)
def test_sizes_that_lie(tmp_path: Path, size: int, told: str) -> None:
    """A member that claims more or fewer bytes than come out of it is refused, at the claim or while inflating."""
    path = tmp_path / "app.apk"
    path.write_bytes(claiming(bytes(100_000), size))
    assert told in refused(path)


def peak_bytes(task: Callable[[], object]) -> int:
    """The most memory that Python objects took at once during a task."""
    tracemalloc.start()
    try:
        task()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_is_not_kept_in_memory(tmp_path: Path) -> None:
    """A model that inflates 1000 times is read in pieces, never with its size in memory."""
    path = write(tmp_path, "app.apk", ("m.onnx", bytes(50 << 20), DEFLATED))
    assert path.stat().st_size < 100_000
    assert peak_bytes(lambda: only(read_bundle(path))) < 2 << 20


def test_the_whole_of_what_is_inflated_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several models may not add up to more than the limit; stored ones do not count, being in the file already."""
    monkeypatch.setattr(bundle, "INFLATED_LIMIT_BYTES", 2 * 5160)
    two = [("a.tflite", MODEL, DEFLATED), ("b.tflite", MODEL, DEFLATED), ("c.tflite", MODEL, STORED)]
    assert len(read_bundle(write(tmp_path, "a.apk", *two)).models) == 3
    assert "d.tflite: more than 10320 bytes to inflate" in error(
        write(tmp_path, "b.apk", *two, ("d.tflite", MODEL, DEFLATED))
    )
    inner = zipped(*two)
    assert "refused at a.tflite: more than 10320 bytes" in error(write(tmp_path, "c.apks", ("a.apk", inner, DEFLATED)))


def test_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of members are read, with some hundred bytes of memory for each; more than the limit are refused."""
    path = write(tmp_path, "app.apk", *[(f"res/{n}", b"x", STORED) for n in range(20_000)], ("m.tflite", MODEL, STORED))
    assert only(read_bundle(path)).name == "m.tflite"
    assert peak_bytes(lambda: read_bundle(path)) < 20_000 * 1000
    monkeypatch.setattr(archive, "MEMBER_LIMIT", 20_000)
    assert "20001 members" in error(path)


def zip64(raw: bytes) -> bytes:
    """The archive of `placed` with every number that can be in its zip64 fields."""
    start, stop = raw.index(b"PK\1\2"), raw.index(b"PK\5\6")
    central = bytearray(raw[start:stop])
    central[20:28] = b"\xff" * 8
    central[42:46] = b"\xff" * 4
    central[30:32] = struct.pack("<H", 28)
    central += struct.pack("<2H3Q", 1, 24, len(MODEL), len(MODEL), 0)
    end = b"PK\6\6" + struct.pack("<Q2H2I4Q", 44, 45, 45, 0, 0, 1, 1, len(central), start)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, start + len(central), 1)
    return raw[:start] + central + end + locator + b"PK\5\6" + b"\xff" * 16 + bytes(2)


def test_zip64(tmp_path: Path) -> None:
    """Sizes and offsets in zip64 fields are read, as zipfile reads them; without them the archive is refused."""
    raw = zip64(placed(MODEL, 48)).replace(b"PK\5\6" + b"\xff" * 16, b"PK\5\6" + bytes(4) + b"\xff" * 12)
    path = tmp_path / "app.apk"
    path.write_bytes(raw)
    assert zipfile.ZipFile(path).read("assets/m.tflite") == MODEL
    assert only(read_bundle(path)).offset == 48
    path.write_bytes(raw.replace(b"PK\6\6", b"PK\6\0"))
    assert "zip64" in error(path)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    """A missing, empty or other file, a folder and another suffix each get their own line."""
    assert "does not exist" in error(tmp_path / "app.apk")
    (tmp_path / "folder.apk").mkdir()
    assert "is a folder; name an app bundle" in error(tmp_path / "folder.apk")
    for name, raw, told in [
        ("empty.apk", b"", "empty (0 bytes)"),
        ("text.apk", b"hello" * 50, "directory is missing"),
        ("model.apk", MODEL, "directory is missing"),
        ("app.exe", zipped(("a", b"", STORED)), ".aab, .apk, .apks, .ipa, .xapk, .zip"),
    ]:
        (tmp_path / name).write_bytes(raw)
        assert told in error(tmp_path / name)
    assert "cannot be read" in error(tmp_path / "a\0b.apk")


def test_one_part_of_several(tmp_path: Path) -> None:
    """A split archive is refused as such."""
    raw = placed(MODEL, 48)
    end = raw.index(b"PK\5\6")
    (tmp_path / "a.zip").write_bytes(raw[: end + 4] + b"\1\0" + raw[end + 6 :])
    assert "several files" in error(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("at", "value", "told"),
    [
        (8, struct.pack("<2H", 0, 0), "too many in a directory of 0 members"),
        (8, struct.pack("<2H", 2, 2), "1 of 2 members"),
        (12, struct.pack("<I", 5000), "cut short: a directory of 5000 bytes"),
        (16, struct.pack("<I", 5209), "cut short: a directory"),
        (16, struct.pack("<I", 5207), "broken at member 0"),
        (20, b"\1\0", "directory is missing"),
    ],
)
def test_directories_that_lie(tmp_path: Path, at: int, value: bytes, told: str) -> None:
    """A directory with another size, place or number of members than its end says is refused."""
    raw = bytearray(placed(MODEL, 48))
    end = raw.index(b"PK\5\6") + at
    raw[end : end + len(value)] = value
    (tmp_path / "app.apk").write_bytes(raw)
    assert told in error(tmp_path / "app.apk")


def test_a_broken_split_does_not_hide_the_others(tmp_path: Path) -> None:
    """One broken .apk in a set is told, and the models of the others are found."""
    good = zipped(("assets/m.tflite", MODEL, STORED))
    found = read_bundle(write(tmp_path, "a.apks", ("a.apk", good[:-9], DEFLATED), ("b.apk", good, STORED)))
    assert [model.name for model in found.models] == ["b.apk!/assets/m.tflite"]
    assert [(item.name, "directory is missing" in item.reason) for item in found.unreadable] == [("a.apk", True)]


def rich(folder: Path) -> bytes:
    """A bundle with one of everything."""
    task = zipped(("d.tflite", MODEL, STORED))
    split = zipped(
        ("assets/m.bin", MODEL, DEFLATED), ("assets/p.task", task, STORED), *package("N.mlpackage", DEFLATED)
    )
    return zipped(("a.apk", split, DEFLATED), ("b.apk", split, STORED), ("m.tflite", MODEL, DEFLATED))


def survives(path: Path) -> bool:
    """Whether a damaged bundle could be read; every model that is told must come out whole and as large as told."""
    try:
        found = read_bundle(path)
        for model in (*found.models, *(part for item in found.models for part in item.parts)):
            with extracted(found, model) as place:
                files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
                assert sum(file.stat().st_size for file in files) == model.raw_bytes
    except (InputError, Unsupported, OutputError):
        return False
    return True


def test_cut_short(tmp_path: Path) -> None:
    """A bundle cut at each sixteenth of its length is refused."""
    raw = rich(tmp_path)
    path = tmp_path / "app.apks"
    for part in range(1, 16):
        path.write_bytes(raw[: len(raw) * part // 16])
        assert not survives(path)
    path.write_bytes(raw)
    assert survives(path)


def test_damaged_bytes(tmp_path: Path) -> None:
    """With any byte changed a bundle is refused, or what is told of it is true."""
    raw, rng = rich(tmp_path), random.Random(7)
    path = tmp_path / "app.apks"
    structure = [place for place in range(len(raw)) if raw[place : place + 2] == b"PK"]
    read = 0
    for number in range(200):
        damaged = bytearray(raw)
        near = rng.choice(structure) + rng.randrange(46) if number % 2 else rng.randrange(len(raw))
        damaged[min(near, len(raw) - 1)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        read += survives(path)
    assert 0 < read < 200


def test_a_model_that_expands_a_hundredfold_is_a_bomb(tmp_path: Path) -> None:
    """80 MB of zeros behind the head of a real model, 80 kB in the archive: within deflate's reach, and no model."""
    path = tmp_path / "bomb.apk"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/m.tflite", MODEL + bytes(80_000_000))
        archive.writestr("assets/good.tflite", MODEL)
    found = read_bundle(path)
    assert [model.name for model in found.models] == ["assets/good.tflite"]
    (refused,) = found.unreadable
    assert refused.reason.endswith("a zip bomb")
