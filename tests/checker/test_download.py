"""Bytes of model files and packages against the operating system, zlib and zipfile."""

from __future__ import annotations

import lzma
import os
import random
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard
from places import TESTS

from edgeprune.checker.size import codecs, download
from edgeprune.checker.size.account import account
from edgeprune.checker.size.codecs import FULL
from edgeprune.checker.size.download import measure_download
from edgeprune.errors import InputError

FILES = TESTS / "files"
PRECISIONS = ("float32", "float16", "int8", "float32_sparse", "float16_sparse")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder laid out as a .mlpackage, 11,000 or so bytes in three files."""
    path = tmp_path / "m.mlpackage"
    (path / "Data" / "com.apple.CoreML" / "weights").mkdir(parents=True)
    (path / "Manifest.json").write_text('{"fileFormatVersion": "1.0.0"}' * 4)
    (path / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(b"spec" * 100)
    (path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").write_bytes((FILES / "float32.tflite").read_bytes())
    return path


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_file_against_stat_zlib_brotli_and_zstandard(name: str) -> None:
    """Raw bytes are the file's length; each download is the length of that library's stream."""
    path = FILES / f"{name}.tflite"
    found, content = account(path, FULL), path.read_bytes()
    stream = zlib.compressobj(9, wbits=-15)
    assert (found.path, found.raw_bytes) == (str(path), os.stat(path).st_size)  # noqa: PTH116
    assert found.download_bytes == {
        "deflate": len(stream.compress(content) + stream.flush()),
        "brotli": len(brotli.compress(content, quality=11)),
        "zstd": len(zstandard.compress(content, 19)),
        "xz": len(lzma.compress(content, check=lzma.CHECK_NONE, preset=9)),
    }
    assert measure_download(path, FULL) == found.download_bytes
    assert list(measure_download(path)) == list(account(path).download_bytes) == ["deflate", "zstd12"]
    assert found.zeros == 1470


def test_pruning_shows_in_the_download_and_not_in_the_raw_bytes() -> None:
    """80 % of the zeros of float32.tflite cost nothing to download and 4 bytes each to install."""
    found = account(FILES / "float32.tflite")
    assert found.raw_bytes > 4 * 1780
    assert all(count < found.raw_bytes / 2 for count in found.download_bytes.values())


def test_a_package_is_the_sum_of_its_files_as_zip_compresses_them(package: Path, tmp_path: Path) -> None:
    """zipfile reports the same compressed size for its members."""
    members = [file for file in package.rglob("*") if file.is_file()]
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file in members:
            archive.write(file)
        wanted = sum(member.compress_size for member in archive.infolist())
    assert measure_download(package)["deflate"] == wanted


def test_order_and_codec_are_stable(package: Path) -> None:
    """Measured twice, the same bytes."""
    assert measure_download(package) == measure_download(package)


def refusal(path: Path, blamed: Path) -> str:
    """The one line, naming the file to blame, with which a path is refused."""
    with pytest.raises(InputError) as caught:
        measure_download(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(blamed) in message
    assert caught.value.exit_code == 4
    return message


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    """A wrong name, and a name below a file."""
    assert "does not exist" in refusal(tmp_path / "m.tflite", tmp_path / "m.tflite")
    (tmp_path / "file").write_bytes(b"x")
    assert "cannot be read" in refusal(tmp_path / "file" / "m", tmp_path / "file" / "m")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """Also when it holds folders, but no file."""
    (tmp_path / "m.mlpackage" / "Data").mkdir(parents=True)
    assert "without files" in refusal(tmp_path / "m.mlpackage", tmp_path / "m.mlpackage")


def test_an_empty_file_is_refused(package: Path, tmp_path: Path) -> None:
    """Alone or as part of a package."""
    (tmp_path / "m.keras").touch()
    assert "0 bytes" in refusal(tmp_path / "m.keras", tmp_path / "m.keras")
    spec = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec.write_bytes(b"")
    assert "0 bytes" in refusal(package, spec)


def test_a_git_lfs_pointer_is_refused(package: Path, tmp_path: Path) -> None:
    """130 bytes of text must not pass for a model of 130 bytes."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13988000\n"
    (tmp_path / "m.h5").write_bytes(pointer)
    assert "git lfs pull" in refusal(tmp_path / "m.h5", tmp_path / "m.h5")
    weights = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    weights.write_bytes(pointer)
    assert "git lfs pull" in refusal(package, weights)


def test_a_link_out_of_the_package_is_refused(package: Path, tmp_path: Path) -> None:
    """What it points to would not be in the download; the same holds for a link to nowhere."""
    outside, link = tmp_path / "weight.bin", package / "link.bin"
    outside.write_bytes(b"weights")
    link.symlink_to(outside)
    assert "out of the package" in refusal(package, link)
    outside.unlink()
    assert "broken symbolic link" in refusal(package, link)


def test_a_ring_of_links_and_a_linked_folder_are_refused(package: Path) -> None:
    """A walk through them would not end, or would count files twice."""
    ring = package / "ring"
    ring.symlink_to(ring)
    assert "broken symbolic link" in refusal(package, ring)
    ring.unlink()
    ring.symlink_to(package / "Data")
    assert "link to a folder" in refusal(package, ring)


def test_a_link_inside_the_package_counts_as_the_file(package: Path) -> None:
    """zip stores a copy of it."""
    before, manifest = measure_download(package)["deflate"], package / "Manifest.json"
    (package / "copy.json").symlink_to(manifest)
    assert measure_download(package)["deflate"] == before + measure_download(manifest)["deflate"]


def test_a_pipe_is_refused(package: Path, tmp_path: Path) -> None:
    """Reading one would wait for ever."""
    for path, pipe in ((tmp_path / "m.tflite", tmp_path / "m.tflite"), (package, package / "pipe")):
        os.mkfifo(pipe)
        assert "neither a file nor a folder" in refusal(path, pipe)


def test_a_broken_tflite_has_no_size(tmp_path: Path) -> None:
    """What no phone can load is refused before it is compressed; as plain bytes it still has a download."""
    path = tmp_path / "m.tflite"
    path.write_bytes((FILES / "int8.tflite").read_bytes()[:900])
    with pytest.raises(InputError, match="broken TFLite file"):
        account(path)
    assert measure_download(path)["deflate"] > 0


def test_a_large_file_is_never_in_memory_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compressed part by part: deflate is the very same, zstd within a thousandth."""
    path = tmp_path / "m.tflite"
    path.write_bytes((FILES / "int8.tflite").read_bytes()[:32] + random.Random(1).randbytes(1_000_000) * 16)
    whole = measure_download(path)
    for module in (codecs, download):
        monkeypatch.setattr(module, "LARGE_BYTES", 1_000_000)
    tracemalloc.start()
    try:
        parts = measure_download(path)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert parts["deflate"] == whole["deflate"]
    assert parts["zstd12"] == pytest.approx(whole["zstd12"], rel=0.001)
