"""The models inside app bundles: what is found, how it is packed, and how it comes out."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from pathlib import Path

import pytest
from bundle_zoo import DEFLATED, HALF, MODEL, STORED, only, package, placed, write, zipped

from edgeprune.errors import InputError
from edgeprune.formats.bundles.bundle import content, extracted, read_bundle

# Finding and measuring


@pytest.mark.parametrize(("method", "word"), [(STORED, "stored"), (DEFLATED, "deflated")])
def test_sizes_are_those_of_zipfile(tmp_path: Path, method: int, word: str) -> None:
    """Raw and compressed bytes, method and data offset are what zipfile and the bytes themselves say."""
    path = write(tmp_path, "app.apk", ("classes.dex", b"dex" * 999, DEFLATED), ("assets/m.tflite", MODEL, method))
    model = only(read_bundle(path))
    with zipfile.ZipFile(path) as file:
        truth = file.getinfo("assets/m.tflite")
    assert (model.name, model.kind, model.method) == ("assets/m.tflite", "tflite", word)
    assert (model.raw_bytes, model.compressed_bytes) == (5160, truth.compress_size)
    assert truth.file_size == 5160
    packed = path.read_bytes()[model.files[0].data_offset :][: model.compressed_bytes]
    assert packed == (MODEL if method == STORED else _deflate(MODEL, packed))
    assert model.offset == (path.read_bytes().index(MODEL) if method == STORED else None)


def _deflate(raw: bytes, packed: bytes) -> bytes:
    """The packed bytes themselves, when they inflate to `raw`."""
    assert zlib.decompress(packed, -15) == raw
    return packed


def test_the_rest_is_everything_else(tmp_path: Path) -> None:
    """Models and rest add up to the file on disk."""
    path = write(
        tmp_path, "a.apk", ("a.tflite", MODEL, DEFLATED), ("b.tflite", MODEL, STORED), ("x", b"x" * 400, STORED)
    )
    found = read_bundle(path)
    assert found.raw_bytes == path.stat().st_size
    assert found.rest_bytes is not None
    assert found.rest_bytes + sum(model.compressed_bytes for model in found.models) == found.raw_bytes
    assert found.rest_bytes > 400


@pytest.mark.parametrize(
    ("name", "raw", "kind"),
    [
        ("assets/m.tflite", MODEL, "tflite"),
        ("assets/m.LITE", MODEL, "tflite"),
        ("assets/model.bin", MODEL, "tflite"),
        ("assets/noname", MODEL, "tflite"),
        ("assets/gemma.task", MODEL, "tflite"),  # a .task for the web is a bare flatbuffer
        ("assets/m.onnx", b"\x08\x07", "onnx"),
        ("assets/m.keras", b"PK\3\4", "keras"),
        ("assets/m.h5", b"\x89HDF\r\n\x1a\n", "h5"),
        ("m.mlmodel", b"\x08\x04", "mlmodel"),
        ("llm.litertlm", b"LITERTLM" + bytes(24), "litertlm"),
        ("llm.bin", b"LITERTLM" + bytes(24), "litertlm"),
    ],
)
def test_kinds(tmp_path: Path, name: str, raw: bytes, kind: str) -> None:
    """A model is known by its content where that tells, else by its suffix, stored and deflated."""
    for method in (STORED, DEFLATED):
        model = only(
            read_bundle(write(tmp_path, "app.zip", ("readme.txt", b"TFL3 is not here", STORED), (name, raw, method)))
        )
        assert (model.name, model.kind, model.raw_bytes, model.install_bytes) == (name, kind, len(raw), None)


def test_no_models(tmp_path: Path) -> None:
    """An app without a model is no error."""
    found = read_bundle(write(tmp_path, "app.apk", ("classes.dex", b"x", STORED), ("assets/", b"", STORED)))
    assert (found.models, found.unreadable, found.rest_bytes) == ((), (), found.raw_bytes)


@pytest.mark.parametrize("kind", ["mlpackage", "mlmodelc"])
def test_folders_are_one_model(tmp_path: Path, kind: str) -> None:
    """A Core ML folder is one model; what is inside it is not counted again."""
    name = f"Payload/A.app/Net.{kind}"
    members = [*package(name, DEFLATED), (f"{name}/", b"", STORED), ("Payload/A.app/A", b"\xcf\xfa\xed\xfe", DEFLATED)]
    path = write(tmp_path, "A.ipa", *members)
    model = only(read_bundle(path))
    assert (model.name, model.kind, model.method, model.offset, model.aligned) == (name, kind, "deflated", None, None)
    assert model.raw_bytes == sum(file.stat().st_size for file in HALF.rglob("*") if file.is_file()) == 8770
    with zipfile.ZipFile(path) as file:
        assert model.compressed_bytes == sum(m.compress_size for m in file.infolist() if m.filename.startswith(name))
    assert len(model.files) == 3


def test_task_bundles_show_their_parts(tmp_path: Path) -> None:
    """A MediaPipe .task is one model whose .tflite files are told, and can be read, without counting twice."""
    task = zipped(
        ("detector.tflite", MODEL, STORED),
        ("labels.txt", b"cat", STORED),
        ("tracker.bin", MODEL[:-4] + b"1234", STORED),
    )
    path = write(tmp_path, "app.apk", ("assets/pose.task", task, STORED))
    found = read_bundle(path)
    model = only(found)
    assert (model.kind, model.raw_bytes) == ("task", len(task))
    assert found.rest_bytes == found.raw_bytes - len(task)
    assert [part.name for part in model.parts] == ["assets/pose.task!/detector.tflite", "assets/pose.task!/tracker.bin"]
    assert [part.offset for part in model.parts] == [
        path.read_bytes().index(MODEL),
        path.read_bytes().rindex(MODEL[:-4]),
    ]
    with extracted(found, model.parts[1]) as file:
        assert (file.name, file.read_bytes()) == ("tracker.tflite", MODEL[:-4] + b"1234")


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("suffix", ["apks", "xapk"])
def test_split_apks(tmp_path: Path, suffix: str, method: int) -> None:
    """The models of the .apk files in a set are found, with offsets in the .apk that is installed."""
    inner = zipped(("assets/m.tflite", MODEL, STORED))
    path = write(tmp_path, f"app.{suffix}", ("toc.pb", b"x", STORED), ("splits/base-master.apk", inner, method))
    found = read_bundle(path)
    model = only(found)
    assert (model.name, model.offset) == ("splits/base-master.apk!/assets/m.tflite", inner.index(MODEL))
    assert (model.install_bytes, model.method) == (5160, "stored")
    assert found.rest_bytes == (found.raw_bytes - 5160 if method == STORED else None)
    assert "not all" in found.notes[0]
    with extracted(found, model) as file:
        assert file.read_bytes() == MODEL
    assert content(found, model, 5160) == MODEL


def test_one_level_only(tmp_path: Path) -> None:
    """An .apk in an .apk in a set is a file like any other."""
    inner = zipped(("b.apk", zipped(("m.tflite", MODEL, STORED)), STORED))
    assert read_bundle(write(tmp_path, "app.apks", ("a.apk", inner, STORED))).models == ()


# Alignment and what packing means


@pytest.mark.parametrize(
    ("offset", "aligned"), [(48, True), (49, False), (50, False), (51, False), (52, True), (16384, True)]
)
def test_alignment(tmp_path: Path, offset: int, aligned: bool) -> None:
    """Data at a multiple of 4 bytes are aligned, others are told to run zipalign."""
    path = tmp_path / "app.apk"
    path.write_bytes(placed(MODEL, offset))
    assert zipfile.ZipFile(path).read("assets/m.tflite") == MODEL
    model = only(read_bundle(path))
    assert (model.offset, model.aligned) == (offset, aligned)
    assert any("zipalign" in note for note in model.notes) is not aligned


def test_stored_in_an_apk(tmp_path: Path) -> None:
    """Stored: installs at its raw size, can be mapped, and the store compresses the download."""
    model = only(read_bundle(write(tmp_path, "app.apk", ("assets/m.tflite", MODEL, STORED))))
    assert model.install_bytes == 5160
    for words in ("memory-mapped in place", "openFd", "the store compresses the download"):
        assert words in model.notes[0]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("assets/m.tflite", "androidResources { noCompress += \"tflite\" } (noCompress 'tflite')"),
        ("assets/m.bin", 'noCompress += "bin"'),
        ("assets/noname", "the suffix .tflite"),
        ('assets/m.a"}b', "the suffix .tflite"),
    ],
)
def test_deflated_in_an_apk(tmp_path: Path, name: str, advice: str) -> None:
    """Deflated: cannot be mapped, an app keeps both copies, and the advice is for the suffix that it has."""
    model = only(read_bundle(write(tmp_path, "app.apk", (name, MODEL, DEFLATED))))
    assert model.install_bytes == 5160 + model.compressed_bytes
    assert (model.offset, model.aligned) == (None, None)
    for words in ("cannot be memory-mapped", f"{model.compressed_bytes} + 5160 bytes", advice):
        assert words in model.notes[0]


def test_in_an_ipa_and_an_aab(tmp_path: Path) -> None:
    """An IPA is installed unpacked; an App Bundle does not decide; an uncompiled Core ML model is told."""
    ipa = only(read_bundle(write(tmp_path, "a.ipa", ("Payload/A.app/m.tflite", MODEL, DEFLATED))))
    assert (ipa.install_bytes, ipa.notes) == (
        5160,
        ("deflated in the IPA, as is usual: installed uncompressed at its raw size",),
    )
    aab = only(read_bundle(write(tmp_path, "a.aab", ("base/assets/m.tflite", MODEL, DEFLATED))))
    assert aab.install_bytes is None
    assert "not what ships" in aab.notes[0]
    assert "zipalign" not in aab.notes[0]
    raw = only(read_bundle(write(tmp_path, "b.ipa", *package("Payload/A.app/N.mlpackage", DEFLATED))))
    assert "compileModel" in raw.notes[1]


# Unpacking


def test_extracting_a_folder(tmp_path: Path) -> None:
    """A .mlpackage comes out as it went in, and is gone afterwards."""
    found = read_bundle(write(tmp_path, "A.ipa", *package("Payload/A.app/N.mlpackage", DEFLATED)))
    with extracted(found, only(found)) as folder:
        assert folder.name == "N.mlpackage"
        files = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        assert files == {file.relative_to(HALF): file.read_bytes() for file in HALF.rglob("*") if file.is_file()}
    assert not folder.exists()


def test_extracting_a_model_under_another_name(tmp_path: Path) -> None:
    """A .tflite found by its content comes out with its suffix; a name too long for a file is replaced."""
    found = read_bundle(
        write(tmp_path, "a.apk", ("assets/m.bin", MODEL, DEFLATED), (f"{'ä' * 250}.tflite", MODEL, STORED))
    )
    names = []
    for model in found.models:
        with extracted(found, model) as file:
            names.append(file.name)
            assert file.read_bytes() == MODEL
    assert names == ["m.tflite", "model.tflite"]


def test_the_callers_errors_are_its_own(tmp_path: Path) -> None:
    """What is raised inside the context comes out as it is."""
    found = read_bundle(write(tmp_path, "a.apk", ("m.tflite", MODEL, STORED)))
    with pytest.raises(OSError, match="mine"), extracted(found, only(found)):
        raise OSError("mine")


def test_a_bundle_that_changes(tmp_path: Path) -> None:
    """A bundle rewritten after it was read is refused when a model is taken out."""
    path = write(tmp_path, "a.apk", ("m.tflite", MODEL, STORED))
    found = read_bundle(path)
    path.write_bytes(path.read_bytes().replace(MODEL[100:200], bytes(100)))
    with pytest.raises(InputError, match="checksum"), extracted(found, only(found)):
        pass
    path.write_bytes(b"PK")
    with pytest.raises(InputError), extracted(found, only(found)):
        pass


def test_content_is_bounded(tmp_path: Path) -> None:
    """More bytes than asked for are not read, nor is a folder."""
    found = read_bundle(write(tmp_path, "a.apk", ("m.tflite", MODEL, DEFLATED), *package("N.mlpackage", STORED)))
    assert content(found, found.models[0], 5160) == MODEL
    for model, most in ((found.models[0], 5159), (found.models[1], 1 << 30)):
        with pytest.raises(InputError, match="at most"):
            content(found, model, most)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading and unpacking write in temporary folders only, which are empty again afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    inner = zipped(("assets/m.tflite", MODEL, STORED))
    found = read_bundle(write(tmp_path, "app.apks", ("a.apk", inner, DEFLATED)))
    with extracted(found, only(found)) as file:
        assert file.is_relative_to(tmp_path / "temporary")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["app.apks", "temporary"]
