"""Compiled Core ML models: every byte accounted, weights by the file's own table, names from the program's text.

The weight files are those of real packages (coremltools); the program text is written by hand in the two spellings that
Apple's compiler uses.
"""

from __future__ import annotations

import random
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from compiled_zoo import HALF, PALETTE, REST, SPARSE, model, stored, text

from edgeprune.errors import InputError
from edgeprune.formats.bundles.bundle import extracted, read_bundle
from edgeprune.formats.contents import Contents, Layer
from edgeprune.formats.coreml import compiled
from edgeprune.formats.coreml.compiled import read_compiled


def error(path: Path) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(InputError) as caught:
        read_compiled(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def facts(layer: Layer) -> list[tuple[object, ...]]:
    """What a layer's arrays are."""
    return [(a.name, a.shape, a.precision, a.zeros, a.stored_bytes) for a in layer.arrays]


def check_sums(found: Contents, path: Path) -> None:
    """Sections, files and the sizes on disk agree, and no stored byte is counted twice."""
    disk = {file.relative_to(path).as_posix(): file.stat().st_size for file in path.rglob("*") if file.is_file()}
    assert found.files == disk
    assert sum(found.sections.values()) == found.raw_bytes == sum(disk.values())
    assert sum(array.stored_bytes for layer in found.layers for array in layer.arrays) == found.sections["weights"]


@pytest.mark.parametrize("old", [True, False])
def test_a_plain_model(tmp_path: Path, old: bool) -> None:
    """Weights of float16: names, shapes, zeros, channels and owners, in both spellings of the text."""
    path = model(tmp_path, "half", text(*HALF, old=old))
    found = read_compiled(path)
    check_sums(found, path)
    assert (found.format, found.complete, found.note, found.macs) == ("mlmodelc", True, "", None)
    # weight.bin: 3672 bytes, of which 288 + 3072 + 24 are weights and 4 x 64 the table.
    assert found.sections == {
        "weights": 3384,
        "padding": 32,
        "graph": 256 + (path / "model.mil").stat().st_size,
        "metadata": 545,
    }
    conv, dense = found.layers
    assert (conv.name, conv.kind, conv.group, conv.inputs, conv.outputs) == (
        "conv_0",
        "conv",
        "",
        ((1, 2, 6, 6),),
        ((1, 8, 4, 4),),
    )
    assert facts(conv) == [("W0", (8, 2, 3, 3), "float16", 108, 288)]
    assert facts(dense) == [("b1", (12,), "float16", 0, 24), ("W1", (12, 128), "float16", 1344, 3072)]
    assert [array.pieces[0].axis for array in (*conv.arrays, *dense.arrays)] == [0, 0, 0]
    assert all(array.parameter for array in (*conv.arrays, *dense.arrays))
    values = dense.arrays[0].pieces[0].raw.view("<f2")
    assert values.tolist() == [0.125] * 12


def test_a_palettized_model(tmp_path: Path) -> None:
    """Indexes and tables are pieces of one array; the zeros are those of the table's entry that is 0, if any."""
    path = model(tmp_path, "palette4", text(*PALETTE, old=True))
    found = read_compiled(path)
    check_sums(found, path)
    conv, dense = found.layers
    array = dense.arrays[1]
    assert [(p.dtype, p.shape, p.stored_bytes) for p in array.pieces] == [
        ("uint8", (768,), 768),
        ("float16", (16,), 32),
    ]
    table = array.pieces[1].raw.view("<f2")
    indices = np.unpackbits(array.pieces[0].raw, bitorder="little").reshape(-1, 4) @ [1, 2, 4, 8]
    assert facts(dense)[1] == ("W1", (12, 128), "palette4", int((table[indices] == 0).sum()), 800)
    assert facts(conv)[0][2:] == ("palette4", conv.arrays[0].zeros, 104)


def test_a_sparse_quantized_model(tmp_path: Path) -> None:
    """A mask used twice is one piece; the elements that it leaves out are the zeros."""
    path = model(tmp_path, "sparse_int8", text(*SPARSE, old=False))
    found = read_compiled(path)
    check_sums(found, path)
    conv, dense = found.layers
    assert facts(conv) == [("W0", (8, 2, 3, 3), "sparse+int8", 108, 18 + 36)]
    assert facts(dense)[1] == ("W1", (12, 128), "sparse+int8", 1344, 192 + 192 + 24)
    assert [piece.dtype for piece in dense.arrays[1].pieces] == ["uint1", "int8", "float16"]


def test_without_a_program(tmp_path: Path) -> None:
    """No text: the weights are known by their offsets, with the element type and zeros that the file tells."""
    path = model(tmp_path, "sparse_int8", None)
    found = read_compiled(path)
    check_sums(found, path)
    assert not found.complete
    assert "offset" in found.note
    assert [layer.name for layer in found.layers] == [
        f"weights/weight.bin at byte {offset}" for offset in (64, 192, 320, 576, 832, 960)
    ]
    # The masks have a bit for each weight and say how many are not zero: 36 of 144 and 192 of 1536.
    assert facts(found.layers[0])[0][1:] == ((144,), "uint1", 108, 18)
    assert facts(found.layers[2])[0][1:] == ((1536,), "uint1", 1344, 192)


def test_weights_that_no_operation_names(tmp_path: Path) -> None:
    """Arrays that the text leaves out are told by offset; constants that nobody uses have a layer of their own."""
    path = model(tmp_path, "half", text(HALF[0], HALF[2], *REST[2:3], old=False))
    found = read_compiled(path)
    check_sums(found, path)
    assert [(layer.name, layer.kind) for layer in found.layers] == [
        ("conv_0", "conv"),
        ("b1", "const"),
        ("weights/weight.bin at byte 448", ""),
    ]


def test_a_name_is_no_argument(tmp_path: Path) -> None:
    """An operation that only has the name of a constant does not use it."""
    named = 'tensor<fp16, [1, 2, 6, 6]> y = relu(x = image)[name = @S@("W0")];'
    found = read_compiled(model(tmp_path, "half", text(HALF[0], named, *HALF[1:], old=False)))
    assert [layer.name for layer in found.layers] == ["conv_0", "dense_0"]


def test_a_shared_weight_is_counted_once(tmp_path: Path) -> None:
    """Two operations and two functions with one array: the first that uses it owns it."""
    again = 'tensor<fp16, [1, 12]> more = linear(bias = b1, weight = W1, x = flat)[name = @S@("dense_1")];'
    program = text(*HALF, again, old=False)
    second = program[program.index("    func main") : program.rindex("}")].replace("func main", "func second")
    second = second.replace("uint64(448)", "uint64(3584)").replace("[12, 128]", "[12]")
    path = model(tmp_path, "half", program[: program.rindex("}")] + second + "}")
    found = read_compiled(path)
    check_sums(found, path)
    assert [layer.name for layer in found.layers] == ["conv_0", "dense_0"]


def test_a_second_function_has_its_group(tmp_path: Path) -> None:
    """Layers of another function than the first say so."""
    program = text(*HALF[:1], REST[2], old=False)
    second = text(*HALF[1:], old=False)
    body = second[second.index("    func main") :].replace("func main", "func second")
    found = read_compiled(model(tmp_path, "half", program[: program.rindex("}")] + body))
    assert [(layer.name, layer.group) for layer in found.layers] == [("conv_0", ""), ("dense_0", "function second")]


def test_a_pipeline(tmp_path: Path) -> None:
    """Models in folders of the model are read each with its own weights."""
    path = tmp_path / "Pipe.mlmodelc"
    for number, package, lines in ((0, "half", HALF), (1, "palette4", PALETTE)):
        shutil.move(model(tmp_path / package, package, text(*lines, old=True)), path / f"model{number}")
    (path / "coremldata.bin").write_bytes(b"x")
    found = read_compiled(path)
    check_sums(found, path)
    assert [(layer.name, layer.group) for layer in found.layers] == [
        ("conv_0", "model0"),
        ("dense_0", "model0"),
        ("conv_0", "model1"),
        ("dense_0", "model1"),
    ]


def test_a_neural_network_is_sized(tmp_path: Path) -> None:
    """A compiled neural network has no table that is known: sizes only, and it says so."""
    path = tmp_path / "Old.mlmodelc"
    path.mkdir()
    for name, size in (("coremldata.bin", 7), ("model.espresso.net", 50), ("model.espresso.weights", 900), ("x", 3)):
        (path / name).write_bytes(bytes(size))
    found = read_compiled(path)
    assert found.sections == {"metadata": 7, "graph": 50, "weights": 900, "other": 3}
    assert (found.layers, found.complete) == ((), False)
    assert "neural network" in found.note


def test_inside_an_app(tmp_path: Path) -> None:
    """A compiled model in an .ipa is found, and what is taken out of it reads as the folder does."""
    path = model(tmp_path, "palette4", text(*PALETTE, old=True))
    with zipfile.ZipFile(tmp_path / "App.ipa", "w", zipfile.ZIP_DEFLATED) as app:
        for file in sorted(path.rglob("*")):
            app.write(file, f"Payload/App.app/{file.relative_to(tmp_path)}")
    bundle = read_bundle(tmp_path / "App.ipa")
    (found,) = bundle.models
    assert (found.name, found.kind, found.install_bytes) == (
        "Payload/App.app/Net.mlmodelc",
        "mlmodelc",
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
    )
    with extracted(bundle, found) as folder:
        inside, outside = read_compiled(folder), read_compiled(path)
    assert (inside.files, inside.sections) == (outside.files, outside.sections)
    assert [facts(layer) for layer in inside.layers] == [facts(layer) for layer in outside.layers]


@pytest.mark.parametrize("name", ["weights/weight.bin", "model.mil", "coremldata.bin"])
def test_git_lfs_pointers(tmp_path: Path, name: str) -> None:
    """A pointer in place of a file is an error that says what to run."""
    path = model(tmp_path, "half", text(*HALF, old=True))
    (path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    assert error(path).endswith("run: git lfs pull")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("tensor<uint64, []>(448)", "tensor<uint64, []>(449)", "none is there"),
        ("weights/weight.bin", "weights/other.bin", "none is there"),
        ("@model_path/weights", "@model_path/../../weights", "none is there"),
        ("[12, 128]", "[12, 129]", "from 3072 bytes"),
        ("tensor<fp16, [12, 128]>", "tensor<fp17, [12, 128]>", "unknown type 'fp17'"),
        ("tensor<fp16, [12, 128]> W1", "tensor<fp16, [12, 127]> W1", "has the shape"),
    ],
)
def test_a_program_that_contradicts_the_weights(tmp_path: Path, old: str, new: str, told: str) -> None:
    """A constant that is not in the weight file, or larger than what is there, is an error."""
    assert told in error(model(tmp_path, "half", text(*HALF, old=True).replace(old, new)))


def test_a_decoded_shape_is_held_against_the_bytes(tmp_path: Path) -> None:
    """The text may not claim more numbers than the stored bits can stand for."""
    program = text(*PALETTE, old=True).replace("tensor<fp16, [12, 128]> W1", "tensor<fp16, [9999999, 9999999]> W1")
    assert "has the shape" in error(model(tmp_path, "palette4", program))


@pytest.mark.parametrize(
    ("at", "value", "told"),
    [
        (0, struct.pack("<I", 1000), "1000 arrays"),
        (0, struct.pack("<I", 4), "cut short"),
        (4, struct.pack("<I", 1), "version 1"),
        (64, b"\0", "no array at byte 64"),
        (68, struct.pack("<I", 99), "unknown type 99"),
        (72, struct.pack("<Q", 1 << 60), "claims"),
        (80, struct.pack("<Q", 64), "claims"),
        (448, b"\0", "no array at byte 448, where number 1 belongs"),
    ],
)
def test_broken_weight_files(tmp_path: Path, at: int, value: bytes, told: str) -> None:
    """A table that does not fit its file is refused."""
    path = model(tmp_path, "half", text(*HALF, old=True))
    raw = bytearray((path / "weights/weight.bin").read_bytes())
    raw[at : at + len(value)] = value
    (path / "weights/weight.bin").write_bytes(raw)
    assert told in error(path)


def test_no_compiled_model_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing folder, a file, a folder of other things, a link and thousands of files each get their line."""
    assert "does not exist" in error(tmp_path / "missing.mlmodelc")
    (tmp_path / "file.mlmodelc").write_bytes(b"x")
    assert "not a folder" in error(tmp_path / "file.mlmodelc")
    (tmp_path / "empty.mlmodelc").mkdir()
    assert "not a compiled Core ML model" in error(tmp_path / "empty.mlmodelc")
    path = model(tmp_path, "half", text(*HALF, old=True))
    (path / "link").symlink_to("/etc/passwd")
    assert "without links" in error(path)
    (path / "link").unlink()
    monkeypatch.setattr(compiled, "FILE_LIMIT", 6)
    assert "more than 6 files" in error(path)


def test_names_are_fit_to_be_shown(tmp_path: Path) -> None:
    """Control characters in names of the text come out escaped."""
    program = text(*HALF, old=True).replace('("conv_0")', '("conv\x1b[31m")')
    assert read_compiled(model(tmp_path, "half", program)).layers[0].name == "conv\\x1b[31m"


def test_a_hostile_text_takes_linear_time(tmp_path: Path) -> None:
    """Megabytes of what the patterns look for, and of one decoded constant in the next, are read or refused at once."""
    long = "a" * 1_000_000
    lines = (
        f'tensor<fp16, [1]> {long} = conv(weight = {long})[name = @S@("{long}")];',
        "tensor<fp16, [" + "1, " * 300_000 + "1]> x = conv(x = y)[];",
        "tensor<" * 300_000 + " = conv(BLOBFILE(",
        "x = conv(" + "tensor<fp16, [1]>(BLOBFILE(path = " * 30_000,
        "(" * 500_000 + " = " + "name = " * 200_000,
    )
    again = "tensor<fp16, [1]> x = conv(" + "weight = W1, " * 50_000 + "y = z)[];"
    found = read_compiled(model(tmp_path, "half", text(*HALF, *lines, again, *[again[:60]] * 20_000, old=True)))
    assert [layer.name for layer in found.layers[:2]] == ["conv_0", "dense_0"]


def test_a_constant_of_too_many_parts(tmp_path: Path) -> None:
    """Constants that refer to ever more others are refused before it takes long."""
    parts = ", ".join(stored("fp16", "[1]", 64 * n) for n in range(100))
    program = text(f'tensor<fp16, [1]> W = constexpr_cast(x = {parts})[name = @S@("W")];', old=False)
    assert "100 arrays" in error(model(tmp_path, "half", program))


def survives(path: Path) -> bool:
    """Whether a damaged model is read; if so its sections must still add up."""
    try:
        found = read_compiled(path)
    except InputError:
        return False
    assert sum(found.sections.values()) == found.raw_bytes
    assert sum(array.stored_bytes for layer in found.layers for array in layer.arrays) <= found.sections["weights"]
    return True


@pytest.mark.parametrize(("package", "lines", "old"), [("palette4", PALETTE, True), ("sparse_int8", SPARSE, False)])
@pytest.mark.parametrize("name", ["weights/weight.bin", "model.mil"])
def test_cut_and_damaged(tmp_path: Path, package: str, lines: tuple[str, ...], old: bool, name: str) -> None:
    """A file cut at each sixteenth or with any bit changed: refused, or read with sums that hold."""
    path = model(tmp_path, package, text(*lines, old=old))
    raw, rng, read = (path / name).read_bytes(), random.Random(3), 0
    for part in range(16):
        (path / name).write_bytes(raw[: len(raw) * part // 16])
        assert not survives(path) or name == "model.mil"
    for _ in range(200):
        damaged = bytearray(raw)
        damaged[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        (path / name).write_bytes(damaged)
        read += survives(path)
    assert 0 < read < 200
