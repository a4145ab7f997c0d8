"""`edgeprune pack`: files and archives, what is told of them, and that nothing wrong is ever left."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_zoo import DEFLATED, STORED, write
from conftest import Outcome
from places import TESTS

import edgeprune
from edgeprune.checker.packing import archives, same_outputs
from edgeprune.formats.bundles.bundle import read_bundle
from edgeprune.formats.tflite import packed as rewriting
from edgeprune.runtime.session import RunResult

FILES = TESTS / "files"
Call = Callable[..., Outcome]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A float32 file with 735 weights of -0.0."""
    return Path(shutil.copy(FILES / "float32.tflite", tmp_path / "m.tflite"))


def app(folder: Path, name: str = "app.apk", method: int = STORED) -> Path:
    """An app with an older model."""
    older = (FILES / "int8.tflite").read_bytes()
    return write(folder, name, ("a.txt", b"a" * 99, DEFLATED), ("assets/m.tflite", older, method), ("z", b"z", STORED))


def left(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file(call: Call, model: Path, tmp_path: Path) -> None:
    """Smaller, and what was changed and compared is told."""
    done = call("pack", model, "--drop-names", "--drop-metadata", "-o", tmp_path / "small.tflite", "-q")
    assert (done.code, done.err) == (0, "")
    assert "735 weights of -0.0 are +0.0" in done.out
    assert "outputs agree bit for bit with those of the file before, on 8 samples (random) in " in done.out
    assert (tmp_path / "small.tflite").stat().st_size < model.stat().st_size
    assert left(tmp_path) == ["m.tflite", "small.tflite"]


def test_a_new_archive_for_programs(call: Call, model: Path, tmp_path: Path) -> None:
    """The file as it is, in JSON."""
    told = json.loads(call("pack", model, "--as-is", "-o", tmp_path / "m.zip", "--json", "-q").out)
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        assert archive.read("m.tflite") == model.read_bytes()
        size = archive.getinfo("m.tflite").compress_size
    assert (told["changes"], told["compared"]) == (None, None)
    assert told["member"]["compressed_bytes"] == told["packed_download_bytes"]["pack"] == size
    assert size <= told["packed_download_bytes"]["deflate"] == told["download_bytes"]["deflate"]
    assert told["member"]["read_by"][0] == "Python's zipfile"


@pytest.mark.parametrize(
    ("method", "option", "now", "told"),
    [
        (STORED, [], "stored", "can be memory-mapped"),
        (STORED, ["--compress"], "deflated", "cannot be memory-mapped"),
        (DEFLATED, [], "deflated", 'noCompress += "tflite"'),
        (DEFLATED, ["--store"], "stored", "can be memory-mapped"),
    ],
)
def test_into_an_app(
    call: Call, model: Path, tmp_path: Path, method: int, option: list[str], now: str, told: str
) -> None:
    """As the archive has it unless asked; what that means on a phone is told."""
    apk, new = app(tmp_path, method=method), tmp_path / "new.apk"
    done = call("pack", model, "--as-is", "--into", apk, *option, "-o", new, "-q")
    assert done.code == 0, done.err
    assert told in done.out
    (found,) = read_bundle(tmp_path / "new.apk").models
    assert (found.name, found.method, found.aligned) == ("assets/m.tflite", now, True if now == "stored" else None)
    assert "broken" not in done.out


def test_in_place_with_a_signature(call: Call, model: Path, tmp_path: Path) -> None:
    """--overwrite alone replaces the archive; that its signature no longer holds is told."""
    path = write(
        tmp_path, "a.aab", ("base/assets/m.tflite", model.read_bytes(), DEFLATED), ("META-INF/A.RSA", b"s", DEFLATED)
    )
    done = call("pack", model, "--as-is", "--into", path, "--overwrite", "-q")
    assert done.code == 0, done.err
    assert "broken: the signature in META-INF (v1, JAR) no longer holds; sign it again" in done.out
    assert left(tmp_path) == ["a.aab", "m.tflite"]


def test_usage(call: Call, model: Path, tmp_path: Path) -> None:
    """What is missing or contradicts itself is one line with exit code 2, and nothing is written."""
    apk, small = app(tmp_path), tmp_path / "o.tflite"
    two = write(tmp_path, "two.zip", ("a/m.tflite", b"x", STORED), ("b/m.tflite", b"y", STORED))
    before = left(tmp_path)
    call("pack", model).error(2, "where to?")
    call("pack", model, "--into", apk).error(2, "--overwrite")
    call("pack", model, "--as-is", "-o", small).error(2, "--into app.apk")
    call("pack", model, "--as-is", "--drop-names", "-o", tmp_path / "o.zip").error(2, "--as-is changes nothing")
    call("pack", model, "--store", "-o", small).error(2, "--into app.apk")
    call("pack", model, "-o", tmp_path / "o.onnx").error(2, ".tflite")
    call("pack", model, "--into", apk, "-o", tmp_path / "o.zip").error(2, ".apk")
    other = call("pack", model, "--into", apk, "--entry", "x", "-o", tmp_path / "o.apk")
    other.error(2, "no entry is x", "assets/m.tflite")
    call("pack", model, "--into", two, "-o", tmp_path / "o.zip").error(2, "2 entries", "a/m.tflite, b/m.tflite")
    call("pack", model, "--into", model, "-o", tmp_path / "p.tflite").error(2, "not an archive")
    call("pack", model, "-o", model).error(2, "exists already")
    assert left(tmp_path) == before


def test_bad_files(call: Call, model: Path, tmp_path: Path) -> None:
    """Missing, broken and hostile ones: exit code 4."""
    hostile = write(tmp_path, "h.zip", ("m.tflite", b"x", STORED), ("../m.tflite", b"y", STORED))
    broken = tmp_path / "b.apk"
    broken.write_bytes(app(tmp_path, "c.apk").read_bytes()[:-30])
    torn = tmp_path / "t.tflite"
    torn.write_bytes(model.read_bytes()[:1000])
    before = left(tmp_path)
    call("pack", tmp_path / "none.tflite", "-o", tmp_path / "o.tflite").error(4, "does not exist")
    call("pack", torn, "-o", tmp_path / "o.tflite", "-q").error(4, "broken TFLite file")
    call("pack", torn, "--as-is", "-o", tmp_path / "o.zip", "-q").error(4, "broken TFLite file")
    call("pack", model, "--into", hostile, "-o", tmp_path / "o.zip").error(4, "leads out of the archive")
    call("pack", model, "--into", broken, "-o", tmp_path / "o.apk").error(4, "cut short")
    assert left(tmp_path) == before


def test_another_output_is_no_output(call: Call, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that computes something else is never left, whatever it was that changed it."""

    def spoil(built: Any) -> bytes:
        kernel = max(built.buffers, key=lambda b: 0 if b.data is None else len(b.data))
        kernel.data = np.where(np.arange(len(kernel.data)) == np.argmax(kernel.data), 0, kernel.data).astype(np.uint8)
        return original(built)

    original = rewriting.file_bytes
    monkeypatch.setattr(rewriting, "file_bytes", spoil)
    monkeypatch.setattr(rewriting, "_same", lambda *_: True)
    done = call("pack", model, "-o", tmp_path / "o.tflite", "-q")
    done.error(3, "computes something else on", "is off by up to")
    assert left(tmp_path) == ["m.tflite"]


def test_the_sign_of_a_zero_is_a_difference() -> None:
    """Bit by bit, not number by number."""

    def result(values: list[float]) -> RunResult:
        return RunResult(
            outputs={"y": np.array([values], np.float32)},
            runtime="litert",
            version="2",
            samples=1,
            input_dtypes={},
            output_dtypes={},
        )

    assert same_outputs._difference(result([0.0, 1.0]), result([0.0, 1.0])) == ""
    assert same_outputs._difference(result([0.0, 1.0]), result([-0.0, 1.0])) == "zeros of output 'y' change their sign"
    assert "0.5" in same_outputs._difference(result([0.0, 1.0]), result([0.0, 1.5]))


def test_no_runtime_no_file(call: Call, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is called the same that was not compared; --as-is needs no comparison."""
    monkeypatch.setattr(same_outputs, "installed_runtimes", dict)
    call("pack", model, "-o", tmp_path / "o.tflite", "-q").error(3, "pip install", "--as-is")
    assert left(tmp_path) == ["m.tflite"]
    assert call("pack", model, "--as-is", "-o", tmp_path / "o.zip", "-q").code == 0


def test_an_archive_that_does_not_read_back(
    call: Call, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour that was touched is found before the archive is kept."""
    apk = app(tmp_path)
    real = archives.write_replaced

    def spoil(window: Any, old: Any, member: Any, target: Any) -> None:
        real(window, old, member, target)
        target.seek(40)
        target.write(b"!")

    monkeypatch.setattr(archives, "write_replaced", spoil)
    done = call("pack", model, "--as-is", "--into", apk, "-o", tmp_path / "o.apk", "-q")
    done.error(3, "a.txt: would be changed too")
    assert left(tmp_path) == ["app.apk", "m.tflite"]


def test_from_python(model: Path, tmp_path: Path) -> None:
    """The records behind what is printed."""
    place = edgeprune.ArchivePlace(archive=app(tmp_path), compress=True)
    size = edgeprune.read_metadata(model).inputs[0].shape[1:]
    samples, options = {"x": np.zeros((3, *size), np.float32)}, edgeprune.PackOptions(drop_names=True)
    found = edgeprune.pack(model, tmp_path / "o.apk", options=options, into=place, data=samples)
    assert found.changes is not None
    assert found.member is not None
    assert (found.changes.negative_zeros, found.member.method, found.member.old_method) == (735, "deflated", "stored")
    assert found.packed_download_bytes["pack"] <= found.packed_download_bytes["deflate"]
    assert found.compared is not None
    assert all(run.ran for run in found.compared.runtimes)
    assert (found.compared.samples, found.compared.samples_are) == (3, "those given")
