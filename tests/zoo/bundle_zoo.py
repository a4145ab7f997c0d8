"""App bundles made in tests, and what is asked of each."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from places import TESTS

from edgeprune.errors import InputError
from edgeprune.formats.bundles.bundle import Bundle, BundledModel, read_bundle

FILES = TESTS / "files"
MODEL = (FILES / "int8.tflite").read_bytes()
HALF = FILES / "half.mlpackage"
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
Member = tuple[str, bytes, int]


def zipped(*members: Member) -> bytes:
    """A zip archive by Python's zipfile: (name, content, method) each."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name, raw, method in members:
            file.writestr(zipfile.ZipInfo(name), raw, compress_type=method)
    return made.getvalue()


def write(folder: Path, name: str, *members: Member) -> Path:
    """A bundle in a file."""
    path = folder / name
    path.write_bytes(zipped(*members))
    return path


def only(found: Bundle) -> BundledModel:
    """The one model of a bundle in which nothing was refused."""
    assert [item.reason for item in found.unreadable] == []
    assert len(found.models) == 1
    return found.models[0]


def refused(path: Path) -> str:
    """The reason for the one refusal in a bundle without a readable model."""
    found = read_bundle(path)
    assert found.models == ()
    assert len(found.unreadable) == 1
    return found.unreadable[0].reason


def error(path: Path) -> str:
    """The one line with which a bundle is refused as a whole."""
    with pytest.raises(InputError) as caught:
        read_bundle(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert caught.value.exit_code == 4
    return text


def package(folder: str, method: int) -> list[Member]:
    """The members of a .mlpackage as they stand in an archive."""
    files = sorted(file for file in HALF.rglob("*") if file.is_file())
    return [(f"{folder}/{file.relative_to(HALF).as_posix()}", file.read_bytes(), method) for file in files]


def placed(content_: bytes, offset: int) -> bytes:
    """A zip with one stored file whose data begin at `offset`, by padding the header's extra field as zipalign does."""
    name = b"assets/m.tflite"
    extra = bytes(offset - 30 - len(name))
    sizes = (zlib.crc32(content_), len(content_), len(content_), len(name))
    local = b"PK\3\4" + struct.pack("<5H3I2H", 20, 0, 0, 0, 33, *sizes, len(extra)) + name + extra
    central = b"PK\1\2" + struct.pack("<6H3I5H2I", 20, 20, 0, 0, 0, 33, *sizes, 0, 0, 0, 0, 0, 0) + name
    end = b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 1, 1, len(central), len(local) + len(content_), 0)
    return local + content_ + central + end
