"""A model's account: totals against the operating system and the codecs, layers against totals, and the reasons."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from places import TESTS

from edgeprune.checker.size.account import account
from edgeprune.checker.size.advice import reasons
from edgeprune.checker.size.records import FileAccount
from edgeprune.formats import read_contents
from edgeprune.formats.contents import Contents, Layer, Piece, StoredArray
from edgeprune.formats.weights import Role
from edgeprune.host.json_values import record_of

FILES = TESTS / "files"
MODELS = ("float32.tflite", "int8.tflite", "float32_sparse.tflite", "half.mlpackage", "palette4.mlpackage")


def members(path: Path) -> list[bytes]:
    """The contents of a file, or of all files of a package."""
    return [file.read_bytes() for file in ([path] if path.is_file() else sorted(path.rglob("*"))) if file.is_file()]


@pytest.mark.parametrize("name", MODELS)
def test_totals_are_those_of_the_file(name: str) -> None:
    """Raw bytes from the operating system, deflate from zlib, and no layer has more than there is."""
    path = FILES / name
    found, contents = account(path), members(path)
    streams = [zlib.compressobj(9, wbits=-15) for _ in contents]
    wanted = sum(len(s.compress(content)) + len(s.flush()) for s, content in zip(streams, contents, strict=True))
    assert found.raw_bytes == sum(map(len, contents)) == sum(found.sections.values())
    assert found.download_bytes["deflate"] == wanted
    assert sum(layer.raw_bytes for layer in found.layers) == found.sections["weights"]
    assert found.bound_bytes == sum(layer.bound_bytes or 0 for layer in found.layers)
    assert all((layer.bound_bytes or 0) <= layer.raw_bytes for layer in found.layers)


@pytest.mark.skipif(shutil.which("zip") is None, reason="zip is not installed")
@pytest.mark.parametrize("name", MODELS)
def test_deflate_is_what_zip_makes(name: str, tmp_path: Path) -> None:
    """`zip -9`, Info-ZIP's own deflate, comes within 1 % and a few bytes of it."""
    subprocess.run(["zip", "-9", "-q", "-r", str(tmp_path / "m.zip"), name], cwd=FILES, check=True)
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        theirs = sum(member.compress_size for member in archive.infolist())
    assert account(FILES / name, ["deflate"]).download_bytes["deflate"] == pytest.approx(theirs, rel=0.01, abs=8)


def test_counts_of_the_small_network() -> None:
    """1752 weights of which 1470 are zero, 28 biases, 7872 MACs: from tests/files/make_files.py."""
    found = account(FILES / "int8.tflite", ["deflate"])
    assert (found.parameters, found.weights, found.zeros) == (1780, 1752, 1470)
    assert found.sparsity == 1470 / 1752
    assert found.macs == 7872
    assert found.training_bytes == 0


def array(name: str, values: np.ndarray, *, role: Role = Role.WEIGHT, zeros: int | None = 0) -> StoredArray:
    """A plain array."""
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    piece = Piece(raw=raw, dtype=values.dtype.name, shape=values.shape, axis=None, stored_bytes=len(raw))
    return StoredArray(
        name=name, shape=values.shape, precision=values.dtype.name, role=role, zeros=zeros, pieces=(piece,)
    )


def made_up(path: Path, *layers: Layer, **more: object) -> Contents:
    """Contents of layers, beside a file of 10,000 bytes that has nothing to do with them."""
    path.write_bytes(b"x" * 10_000)
    stored = sum(array.stored_bytes for layer in layers for array in layer.arrays)
    facts = {"format": "tflite", "raw_bytes": 10_000, "sections": {"weights": stored, "graph": 10_000 - stored}}
    return Contents(path=path, layers=layers, **{**facts, **more})  # type: ignore[arg-type]


RNG = np.random.default_rng(1)
NOISE = RNG.integers(-127, 128, (50, 20)).astype(np.int8)


def test_state_of_training_is_in_no_other_number(tmp_path: Path) -> None:
    """Momenta of an optimizer: their bytes apart, no parameters, no layer."""
    layers = (
        Layer(name="w", kind="Dense", arrays=(array("w", NOISE),)),
        Layer(name="m", kind="", arrays=(array("m", NOISE),), group="optimizer", macs=7),
    )
    contents = made_up(tmp_path / "m", *layers)
    found = account(contents, every=True)
    assert (found.parameters, found.training_bytes, [row.name for row in found.layers]) == (1000, 1000, ["w"])
    assert "state of the optimizer" in told(contents)


def test_unknown_zeros_stay_unknown(tmp_path: Path) -> None:
    """One array without a count: neither the layer nor the file has one."""
    known, unknown = array("a", NOISE), array("b", NOISE[::-1].copy(), zeros=None)
    layers = (Layer(name="k", kind="", arrays=(known,)), Layer(name="u", kind="", arrays=(unknown,)))
    found = account(made_up(tmp_path / "m", *layers))
    assert [row.zeros for row in found.layers] == [0, None]
    assert (found.zeros, found.weights, found.sparsity) == (None, None, None)
    assert found.layers[1].sparsity is None


def test_biases_are_parameters_and_no_weights(tmp_path: Path) -> None:
    """Whatever their shape: the reader knows what an array is for."""
    vector, column, steering = np.ones(8, np.float32), np.ones((1, 8, 1), np.float32), np.ones((2, 2), np.int32)
    arrays = [array("v", vector, role=Role.BIAS), array("c", column, role=Role.BIAS)]
    arrays += [array("s", steering, role=Role.STEERING), array("k", NOISE)]
    found = account(made_up(tmp_path / "m", Layer(name="l", kind="", arrays=tuple(arrays))))
    assert (found.parameters, found.weights, found.zeros) == (8 + 8 + 1000, 1000, 0)
    row = found.layers[0]
    assert (row.precision, row.bits_per_weight) == ("int8", 8 * (32 + 32 + 16 + 1000) / 1016)


def test_shares_are_parts_of_one_stream(tmp_path: Path) -> None:
    """A layer of noise keeps its bytes, one of zeros next to none, a copy of the noise next to none either."""
    layers = [
        Layer(name=name, kind="", arrays=(array(name, values),))
        for name, values in (("noise", NOISE), ("zeros", np.zeros((50, 20), np.int8)), ("copy", NOISE))
    ]
    noise, zeros, copy = (row.deflate_bytes or 0 for row in account(made_up(tmp_path / "m", *layers)).layers)
    assert noise >= 990
    assert zeros < 30
    assert copy < 60


def test_what_nobody_asks_for_is_not_worked_out() -> None:
    """Without shares and bounds the totals are the same, and these are None."""
    whole, quick = (account(FILES / "int8.tflite", shares=wanted, bounds=wanted) for wanted in (True, False))
    assert replace(whole, layers=(), bound_bytes=None) == replace(quick, layers=())
    assert {layer.deflate_bytes for layer in quick.layers if layer.raw_bytes} == {None}
    assert {layer.bound_bytes for layer in quick.layers if layer.raw_bytes} == {None}


def test_a_record_survives_json(tmp_path: Path) -> None:
    """What --format json prints is what --baseline reads."""
    for name in MODELS:
        record = account(FILES / name)
        assert record_of(FileAccount, json.loads(json.dumps(record.to_json())), "it") == record


def test_records_with_every_layer() -> None:
    """inspect shows activations too; a check does not."""
    kinds = ["CONV_2D", "DEPTHWISE_CONV_2D", "RESHAPE", "FULLY_CONNECTED"]
    assert [layer.kind for layer in account(FILES / "int8.tflite").layers] == kinds
    assert [layer.kind for layer in account(FILES / "int8.tflite", every=True).layers] == [
        "QUANTIZE",
        *kinds,
        "DEQUANTIZE",
    ]


# --- why ------------------------------------------------------------------------------------------------------------


def told(contents: Contents) -> str:
    """All sentences."""
    sentences = reasons(contents, account(contents))
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in sentences)
    return " ".join(sentences)


def test_why_of_a_pruned_file() -> None:
    """Where its bytes are, and that its zeros cost install as much as ever."""
    text = told(read_contents(FILES / "float32.tflite"))
    assert "Of 9.08 kB on disk: weights 7.1" in text
    assert "83.9 % of the weights are zeros stored like any other number" in text
    assert "weights of 32 bits: float16 halves them" in text


def test_why_of_a_sparse_file() -> None:
    """How much of it only says where the non-zeros are."""
    assert "arrays are stored sparse" in told(read_contents(FILES / "float32_sparse.tflite"))


def test_why_of_negative_zeros_and_copies(tmp_path: Path) -> None:
    """-0.0 beside +0.0, and the same bytes twice; a layer's name never makes the sentence longer than a line."""
    values = RNG.standard_normal((40, 25)).astype(np.float32)
    values[:20] = 0.0
    values[:12] = -0.0
    weights = array("w", values, zeros=500)
    layers = tuple(Layer(name=name, kind="", arrays=(weights,)) for name in ("first\n", "s" * 10_000))
    text = told(made_up(tmp_path / "m", *layers))
    assert "600 zeros are -0.0" in text
    assert "4.00 kB are stored twice (the same bytes in first\\n and ssss" in text
    assert len(text) < 3000


def test_why_of_a_dense_file_and_of_one_that_is_only_sized(tmp_path: Path) -> None:
    """Nothing was pruned; nothing can be said."""
    assert "pruning has not shrunk this download" in told(
        made_up(tmp_path / "m", Layer(name="l", kind="", arrays=(array("w", NOISE),)))
    )
    assert told(made_up(tmp_path / "m", complete=False, note="sized only")) == "sized only."
