"""Core ML packages read without coremltools: what a sound one says, the wire format, and hostile ones refused."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import struct
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import TESTS
from wire import fixed, number, piece, varint
from written_mil import (
    BFLOAT16,
    FLOAT8,
    FLOAT16,
    FLOAT32,
    INT4,
    INT32,
    STRING,
    UINT3,
    constant,
    immediate,
    in_file,
    model,
    tensor_type,
)

from edgeprune.errors import InputError
from edgeprune.formats import read_graph
from edgeprune.formats.coreml.mil import Constant, Package
from edgeprune.formats.coreml.mil_reader import read_coreml
from edgeprune.formats.coreml.storage import constants_of, storage_of, weights_of
from edgeprune.formats.elements import unpack_bits
from edgeprune.formats.precision import coreml_precision, tflite_precision
from edgeprune.formats.protobuf import BrokenMessageError, Message, parse

FILES = TESTS / "files"
PACKAGES = ("half", "palette4", "sparse_int8")
INSIDE = Path("Data/com.apple.CoreML")
MODEL, WEIGHTS = INSIDE / "model.mlmodel", INSIDE / "weights/weight.bin"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


# --- a message by hand ----------------------------------------------------------------------------------------------


@pytest.fixture
def forged(tmp_path: Path) -> Callable[..., Package]:
    """Write a model with one constant beside a small weight file, and read it."""

    def read(kind: bytes, value: bytes, blob: bytes = bytes(64)) -> Package:
        (tmp_path / "weights").mkdir(exist_ok=True)
        header = struct.pack("<IIQQ", 0xDEADBEEF, 1, len(blob), 128).ljust(64, b"\0")
        (tmp_path / "weights/weight.bin").write_bytes(struct.pack("<II", 1, 2).ljust(64, b"\0") + header + blob)
        path = tmp_path / "m.mlmodel"
        path.write_bytes(model(constant("c", kind, value)))
        return read_coreml(path)

    return read


# --- what a sound package says --------------------------------------------------------------------------------------


@pytest.fixture(params=PACKAGES)
def sound(request: pytest.FixtureRequest) -> Package:
    """The network of tests/files/make_packages.py in each encoding."""
    return read_coreml(FILES / f"{request.param}.mlpackage")


def test_ends_and_metadata(sound: Package) -> None:
    """One array in, twelve scores out, batch of one, with what the converter was told about the author."""
    assert [(f.name, f.kind, f.shape, f.dtype) for f in sound.inputs] == [("image", "array", (1, 6, 6, 2), "float32")]
    assert [(f.name, f.kind, f.shape, f.dtype) for f in sound.outputs] == [("scores", "array", (1, 12), "float16")]
    assert sound.metadata == {"author": "edgeprune", "license": "Apache-2.0", "version": "1"}
    assert (sound.predicted, sound.probabilities, sound.what) == ("", "", "an ML program")


def test_the_program_in_order(sound: Package) -> None:
    """What is not a constant is there in the order of execution, with types and shapes of its outputs."""
    assert sound.program is not None
    assert [(p.name, p.dtype, p.shape) for p in sound.program.inputs] == [("image", "float32", (1, 6, 6, 2))]
    assert sound.program.outputs == ("scores",)
    real = [op for op in sound.program.operations if op.kind != "const" and not op.kind.startswith("constexpr")]
    kinds = ["cast", "transpose", "conv", "transpose", "relu", "reshape", "linear"]
    assert [op.kind for op in real] == kinds
    assert [op.outputs[0].shape for op in real[2:]] == [(1, 8, 4, 4), (1, 4, 4, 8), (1, 4, 4, 8), (1, 128), (1, 12)]
    assert {op.outputs[0].dtype for op in real} == {"float16"}
    assert real[0].inputs["x"] == ("image",)


def test_small_constants_are_read_from_the_program(sound: Package) -> None:
    """Strings, integer lists, scalars and float16 vectors that are written in the model itself."""
    made = constants_of(sound)
    assert sound.program is not None
    conv = next(op for op in sound.program.operations if op.kind == "conv")
    given = {name: made[binding] for name, (binding,) in conv.inputs.items() if binding in made}
    assert given["pad_type"] == "valid"
    assert given["strides"].tolist() == [1, 1]
    assert (given["groups"].shape, int(given["groups"])) == ((), 1)
    assert (given["bias"].dtype, given["bias"].tolist()) == (np.float16, [0.5] * 8)


def test_weights_are_the_keras_ones(sound: Package) -> None:
    """1680 weights, 1452 of them zero in every encoding; the others are in [0.5, 1], up to the table or the scale."""
    weights = weights_of(sound)
    assert [(w.shape, w.zeros, w.elements) for w in weights] == [((8, 2, 3, 3), 108, 144), ((12, 128), 1344, 1536)]
    made = constants_of(sound)
    for weight in weights:
        rest = made[weight.name][made[weight.name] != 0]
        assert rest.dtype == np.float16
        assert 0.49 < rest.min() < rest.max() <= 1.0


def test_the_weights_in_their_order() -> None:
    """float16 weights are the Keras kernels of make_packages.py, transposed as MIL wants them."""
    rng = np.random.default_rng(0)
    kernels = []
    for shape, zeros in (((3, 3, 2, 8), 108), ((128, 12), 1344)):
        values = rng.uniform(0.5, 1.0, np.prod(shape)).astype(np.float32)
        values[rng.permutation(values.size)[:zeros]] = 0.0
        kernels.append(values.reshape(shape).astype(np.float16))
    package = read_coreml(FILES / "half.mlpackage")
    made, (conv, dense) = constants_of(package), weights_of(package)
    np.testing.assert_array_equal(made[conv.name], kernels[0].transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(made[dense.name], kernels[1].T)


@pytest.mark.parametrize(
    ("name", "encoding", "stored", "precision"),
    [
        ("half", "float16", [2 * 144, 2 * 1536], "float16"),
        ("palette4", "palette", [72 + 32, 768 + 32], "palette"),  # half a byte an index, 16 float16 values
        (
            "sparse_int8",
            "sparse+int8",
            [18 + 18 + 36, 192 + 192 + 192 + 24],
            "sparse-int8",
        ),  # two masks, values, scales
        ("w8a8", "int8", [144, 1536 + 24 + 12], "w8a8"),  # of iOS 17: zero points too
        ("int4", "int8 int4", [144, 768 + 96], "int4"),
    ],
)
def test_encodings(name: str, encoding: str, stored: list[int], precision: str) -> None:
    """How each weight is stored, in how many bytes, and the precision that this makes."""
    package = read_coreml(FILES / f"{name}.mlpackage")
    encodings = (encoding.split() * 2)[:2]
    assert [weight.encoding for weight in weights_of(package)] == encodings
    assert [weight.stored_bytes for weight in weights_of(package)] == stored
    assert coreml_precision(package) == precision
    storage = storage_of(package)
    assert asdict(storage) == {"elements": 1680, "zeros": 1452, "encodings": dict(Counter(encodings))}
    assert storage.sparsity == 1452 / 1680


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("float32", "float32"),
        ("float16", "float16"),
        ("int8", "int8"),
        ("float32_sparse", "float32"),
        ("float16_sparse", "float16"),
    ],
)
def test_precisions_of_tflite_files(name: str, precision: str) -> None:
    """The precision of a .tflite is read off the types of its weights and values, sparse or not."""
    assert tflite_precision(read_graph(FILES / f"{name}.tflite")) == precision


def test_the_weight_file(sound: Package) -> None:
    """The package names the weight file that it read, and its size."""
    assert sound.weight_file == sound.path / WEIGHTS
    assert sound.weight_bytes == (sound.path / WEIGHTS).stat().st_size


def test_no_converter_is_imported() -> None:
    """A package is read where neither coremltools nor TensorFlow is installed."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['coremltools', 'tensorflow', 'google.protobuf']));"
        "from pathlib import Path; from edgeprune.formats.coreml.storage import storage_of;"
        "from edgeprune.formats.coreml.mil_reader import read_coreml;"
        f"print(storage_of(read_coreml(Path({str(FILES / 'sparse_int8.mlpackage')!r}))).zeros)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1452\n"


def test_a_program_without_weights(tmp_path: Path) -> None:
    """Sparsity of nothing is None, and nothing compressed is float32."""
    path = tmp_path / "m.mlmodel"
    path.write_bytes(model())
    assert storage_of(read_coreml(path)).sparsity is None
    assert coreml_precision(read_coreml(path)) == "float32"
    assert read_coreml(path).weight_file is None


@pytest.mark.parametrize(
    ("key", "what"), [(500, "a neural network"), (202, "a pipeline"), (999, "a model of type 999")]
)
def test_other_kinds_of_models(tmp_path: Path, key: int, what: str) -> None:
    """A model that is no ML program is named, and has no weights that this reader knows."""
    path = tmp_path / "m.mlmodel"
    path.write_bytes(number(1, 4) + piece(key, number(1, 1)))
    package = read_coreml(path)
    assert (package.what, package.program, package.specification) == (what, None, 4)
    assert weights_of(package) == []


def test_pictures_and_classes(tmp_path: Path) -> None:
    """An image input has (height, width) and its colors; the names of label and probabilities are read."""
    image = piece(4, number(1, 64), number(2, 48), number(3, 20))
    description = piece(1, piece(1, "photo"), piece(3, image)) + piece(10, piece(1, "p"), piece(3, piece(6, b"")))
    path = tmp_path / "m.mlmodel"
    path.write_bytes(model() + piece(2, description, piece(11, "classLabel"), piece(12, "p")))
    package = read_coreml(path)
    assert [(f.kind, f.shape, f.color) for f in package.inputs] == [("image", (48, 64), "RGB")]
    assert [f.kind for f in package.outputs] == ["dictionary"]
    assert (package.predicted, package.probabilities) == ("classLabel", "p")


# --- constants ------------------------------------------------------------------------------------------------------


def only(package: Package) -> np.ndarray:
    """The one constant of a forged model."""
    (value,) = constants_of(package).values()
    return np.asarray(value)


def test_negative_integers(forged: Callable[..., Package]) -> None:
    """A negative int32 is ten bytes on the wire and comes back negative."""
    found = only(forged(tensor_type(INT32, 3), immediate(2, varint(-5) + varint(7) + varint(-(1 << 31)))))
    assert (found.dtype, found.tolist()) == (np.int32, [-5, 7, -(1 << 31)])


def test_numbers_in_a_file(forged: Callable[..., Package]) -> None:
    """float16 and bfloat16 are read in little-endian order from behind the blob's header."""
    raw = np.array([1.5, -2.0], "<f2").tobytes()
    assert only(forged(tensor_type(FLOAT16, 2), in_file("@model_path/weights/weight.bin", 64), raw)).tolist() == [
        1.5,
        -2,
    ]
    raw = struct.pack("<ff", 1.5, -2.0)
    halves = raw[2:4] + raw[6:8]
    assert only(forged(tensor_type(BFLOAT16, 2), in_file("@model_path/weights/weight.bin", 64), halves)).tolist() == [
        1.5,
        -2,
    ]


def test_int4_in_a_file(forged: Callable[..., Package]) -> None:
    """The low half of a byte comes first, and 8 to 15 are -8 to -1."""
    found = only(forged(tensor_type(INT4, 3), in_file("@model_path/weights/weight.bin", 64), b"\x87\x0f"))
    assert (found.dtype, found.tolist()) == (np.int8, [7, -8, -1])


@given(st.sampled_from([1, 2, 3, 4, 6, 8]), st.lists(st.integers(0, 255), max_size=40), st.booleans())
def test_packed_bits(bits: int, drawn: list[int], signed: bool) -> None:
    """Integers of any width come out of the bytes that they were packed into, lowest bits first."""
    values = [value % (1 << bits) for value in drawn]
    whole = sum(value << (bits * place) for place, value in enumerate(values))
    raw = whole.to_bytes(-(-bits * len(values) // 8), "little")
    found = unpack_bits(np.frombuffer(raw, np.uint8), bits, len(values), signed).tolist()
    assert found == [v - (1 << bits) if signed and v >= 1 << (bits - 1) else v for v in values]


def test_open_sizes(tmp_path: Path) -> None:
    """A size that the program leaves open is None."""
    kind = piece(1, number(1, FLOAT32), piece(3, piece(2, b"")), piece(3, piece(1, number(1, 3))))
    path = tmp_path / "m.mlmodel"
    path.write_bytes(model(piece(1, "relu") + piece(3, piece(1, "y"), piece(2, kind)), outputs=["y"]))
    program = read_coreml(path).program
    assert program is not None
    assert program.operations[0].outputs[0].shape == (None, 3)


# --- the wire format ------------------------------------------------------------------------------------------------

KEYS = st.integers(1, 600)
FIELDS = st.lists(
    st.one_of(
        st.tuples(st.just("number"), KEYS, st.integers(0, (1 << 64) - 1)),
        st.tuples(st.just("piece"), KEYS, st.binary(max_size=300)),
        st.tuples(
            st.just("fixed"), KEYS, st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=8, max_size=8))
        ),
    ),
    max_size=20,
)


def encode(fields: Sequence[tuple[str, int, object]]) -> bytes:
    """The fields in their order."""
    writers: dict[str, Callable[..., bytes]] = {"number": number, "piece": piece, "fixed": fixed}
    return b"".join(writers[kind](key, value) for kind, key, value in fields)


@given(FIELDS)
def test_fields_survive(fields: list[tuple[str, int, object]]) -> None:
    """Every field of a message is found under its number, in the order of the file."""
    message = parse(encode(fields))
    for kind, held in (("number", message.numbers), ("piece", message.pieces), ("fixed", message.fixed)):
        wanted: dict[int, list[object]] = {}
        for told, key, value in fields:
            if told == kind:
                wanted.setdefault(key, []).append(value)
        assert held == wanted


@given(FIELDS, st.floats(0, 1))
def test_a_message_cut_short(fields: list[tuple[str, int, object]], where: float) -> None:
    """Cut anywhere, a message is its first fields or is refused."""
    content = encode(fields)
    cut = content[: int(len(content) * where)]
    try:
        message = parse(cut)
    except BrokenMessageError:
        return
    count = sum(len(held) for kind in (message.numbers, message.pieces, message.fixed) for held in kind.values())
    assert message == parse(encode(fields[:count]))


@given(st.binary(max_size=200))
def test_random_bytes(content: bytes) -> None:
    """Whatever the bytes are, they make a message or are refused as none, read as whatever is asked for."""
    reads: list[Callable[[Message], object]] = [
        lambda m: [m.child(key) for key in m.pieces],
        lambda m: [m.integers(key) for key in (*m.pieces, *m.numbers)],
        lambda m: [m.reals(key, 4) for key in (*m.pieces, *m.fixed)],
        lambda m: [m.text(key) for key in m.pieces],
        lambda m: [list(m.entries(key)) for key in m.pieces],
    ]
    for read in reads:
        with contextlib.suppress(BrokenMessageError):
            read(parse(content))


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=20), st.booleans())
def test_repeated_integers(values: list[int], packed: bool) -> None:
    """Packed in one field or one by one, integers come back modulo 2^64."""
    content = piece(3, *map(varint, values)) if packed else b"".join(number(3, value) for value in values)
    message = parse(content)
    assert message.integers(3) == [value % (1 << 64) for value in values]
    if not packed and values:
        assert message.signed(3) == values[-1]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\x0b", "wire type 3"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "more than ten bytes"),
        (b"\x08\x80", "cut short"),
        (b"\x12\x05abcd", "claims 5 bytes of 4"),
        (b"\x0d\x00\x00\x00", "claims 4 bytes of 3"),
        (b"\x02\x00", "field 0"),
        (b"\x00\x00", "field 0"),
    ],
)
def test_what_is_no_message(content: bytes, word: str) -> None:
    """Groups, endless numbers, lengths beyond the end and field 0 are refused with their reason."""
    with pytest.raises(BrokenMessageError, match=word):
        parse(content)


def test_reals_need_whole_numbers() -> None:
    """Five bytes are no floats."""
    with pytest.raises(BrokenMessageError, match="5 bytes do not hold numbers of 4"):
        parse(piece(1, bytes(5))).reals(1, 4)
    assert parse(piece(1, struct.pack("<2d", 1.5, -2.0))).reals(1, 8).tolist() == [1.5, -2.0]
    assert parse(fixed(1, struct.pack("<f", 2.5))).reals(1, 4).tolist() == [2.5]


# --- hostile packages -----------------------------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the packages, to be broken."""
    return lambda name: shutil.copytree(FILES / f"{name}.mlpackage", tmp_path / f"{name}.mlpackage")


def refused(path: Path) -> str:
    """The one line with which a package is refused."""
    with pytest.raises(InputError) as caught:
        everything(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def everything(path: Path) -> None:
    """All that is ever read of a package."""
    package = read_coreml(path)
    constants_of(package)
    weights_of(package)
    coreml_precision(package)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_model_cut_short(copied: Callable[[str], Path], name: str) -> None:
    """Cut at each sixteenth of its length, a model is refused in one line."""
    package = copied(name)
    content = (package / MODEL).read_bytes()
    for part in range(1, 16):
        (package / MODEL).write_bytes(content[: len(content) * part // 16])
        assert "broken Core ML model" in refused(package)


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("file", [MODEL, WEIGHTS])
def test_flipped_bytes(copied: Callable[[str], Path], name: str, file: Path) -> None:
    """Some byte is another one: a result or a refusal, no other error or warning, and no memory beyond 64 MB."""
    package = copied(name)
    content, rng = (package / file).read_bytes(), random.Random(f"{name} {file.name}")
    outcomes = set()
    tracemalloc.start()
    try:
        for _ in range(200 if name == "sparse_int8" else 50):
            changed = bytearray(content)
            changed[rng.randrange(len(content))] ^= rng.randrange(1, 256)
            (package / file).write_bytes(changed)
            try:
                everything(package)
                outcomes.add("read")
            except InputError as cause:
                outcomes.add("two lines" if "\n" in str(cause) else "refused")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert outcomes == {"read", "refused"}


def test_no_weight_file(copied: Callable[[str], Path]) -> None:
    """A package of which only the model was copied says so."""
    package = copied("half")
    (package / WEIGHTS).unlink()
    assert "weights/weight.bin does not exist" in refused(package)


@pytest.mark.parametrize("file", [MODEL, WEIGHTS])
def test_a_pointer_of_git_lfs(copied: Callable[[str], Path], file: Path) -> None:
    """A clone without git-lfs is told what to run."""
    package = copied("half")
    (package / file).write_bytes(POINTER)
    line = refused(package)
    assert "git-lfs pointer" in line
    assert line.endswith("run: git lfs pull")


@pytest.mark.parametrize("file", [MODEL, WEIGHTS])
def test_an_empty_file(copied: Callable[[str], Path], file: Path) -> None:
    """0 bytes are no model and no weights."""
    package = copied("half")
    (package / file).write_bytes(b"")
    assert "is empty (0 bytes)" in refused(package)


def test_weights_cut_short(copied: Callable[[str], Path]) -> None:
    """A weight file that ends inside a constant is refused."""
    package = copied("half")
    content = (package / WEIGHTS).read_bytes()
    for size in (100, 2000, len(content) - 1):
        (package / WEIGHTS).write_bytes(content[:size])
        assert "weight.bin" in refused(package)


def test_no_manifest(copied: Callable[[str], Path]) -> None:
    """A folder without Manifest.json is no package."""
    package = copied("half")
    (package / "Manifest.json").unlink()
    assert "no Manifest.json in it" in refused(package)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A wrong path is refused by its name."""
    assert "does not exist" in refused(tmp_path / "absent.mlmodel")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "{}", '{"itemInfoEntries": {}, "rootModelIdentifier": "x"}', "\xff", "[" * 100_000]
    + [json.dumps({"itemInfoEntries": entries, "rootModelIdentifier": 5}) for entries in ("x", [], [0] * 6, None)]
    + [json.dumps({"itemInfoEntries": {"a": entry}, "rootModelIdentifier": "a"}) for entry in ("x", [], {"path": 3})],
)
def test_a_manifest_that_says_nothing(copied: Callable[[str], Path], text: str) -> None:
    """A manifest that is no JSON or does not lead to a model is named."""
    package = copied("half")
    (package / "Manifest.json").write_bytes(text.encode("latin-1"))
    words = {"": "Manifest.json is empty", "\xff": "Manifest.json is not a text file"}
    assert words.get(text, "Manifest.json: does not name the package's model") in refused(package)


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("../../model.mlmodel", "outside the package"),
        ("/etc/hostname", "outside the package"),
        ("com.apple.CoreML/../../../x", "outside the package"),
        ("com.apple.CoreML", "is a folder"),
        ("", "is a folder"),
        ("a\0b", "cannot be read"),
        ("\ud800", "cannot be read"),
        ("x" * 5000, "cannot be read"),
    ],
    ids=["up", "absolute", "up inside", "folder", "nothing", "zero byte", "surrogate", "long"],
)
def test_a_manifest_that_leads_astray(copied: Callable[[str], Path], path: str, word: str) -> None:
    """A manifest that names another place than a file of its package is refused."""
    package = copied("half")
    told = {"itemInfoEntries": {"a": {"path": path}}, "rootModelIdentifier": "a"}
    (package / "Manifest.json").write_text(json.dumps(told))
    assert word in refused(package)


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ("@model_path/../../../secret.b", "outside the package"),
        ("/model_path/weights/weight.bin", "outside the package"),
        ("@model_path//eights/weight.bin", "outside the package"),
        ("@model_path/weights/weight.bim", "does not exist"),
        ("@model_path/weights\0weight.bin", "cannot be read"),
    ],
    ids=["up", "no prefix", "absolute", "other name", "zero byte"],
)
def test_weights_that_lie_elsewhere(copied: Callable[[str], Path], other: str, word: str) -> None:
    """A model whose constants are in a file outside its package, or in none, is refused."""
    package = copied("half")
    name = b"@model_path/weights/weight.bin"
    content = (package / MODEL).read_bytes()
    assert content.count(name) == 3
    (package / MODEL).write_bytes(content.replace(name, other.encode().ljust(len(name), b"n")))
    assert word in refused(package)


def test_the_folder_of_a_package_as_a_model(copied: Callable[[str], Path]) -> None:
    """A folder inside a package is refused like any other folder, and so is a folder where the weights should be."""
    package = copied("half")
    assert "no Manifest.json" in refused(package / "Data")
    (package / WEIGHTS).unlink()
    (package / WEIGHTS).mkdir()
    assert "weights/weight.bin" in refused(package)


BIG = 1 << 31


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (tensor_type(FLOAT16, BIG), in_file("@model_path/weights/weight.bin", 64)),
        (tensor_type(UINT3, BIG, BIG), in_file("@model_path/weights/weight.bin", 64)),
        (tensor_type(FLOAT32, BIG), immediate(1, bytes(8))),
        (tensor_type(INT32, BIG), immediate(2, varint(1))),
        (tensor_type(FLOAT16, BIG), immediate(7, bytes(8))),
        (tensor_type(INT4, BIG), immediate(7, bytes(8))),
        (tensor_type(INT32, 0, 1 << 63), immediate(2, b"")),
        (tensor_type(FLOAT16, 0, 1 << 63, 1 << 63), in_file("@model_path/weights/weight.bin", 64)),
        (tensor_type(INT32, 0, (1 << 64) - 1), immediate(2, b"")),
    ],
    ids=[
        "file",
        "packed in a file",
        "floats",
        "integers",
        "bytes",
        "packed",
        "zero times 2^63",
        "zero in a file",
        "-1",
    ],
)
def test_shapes_that_claim_too_much(forged: Callable[..., Package], tmp_path: Path, kind: bytes, value: bytes) -> None:
    """A constant of 2^31 elements in a few bytes is refused without taking memory for it."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="broken Core ML model") as caught:
            everything(forged(kind, value).path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "value", "word"),
    [
        (tensor_type(99, 1), immediate(2, varint(1)), "unknown element type 99"),
        (tensor_type(FLOAT32, *[1] * 17), immediate(1, bytes(4)), "17 dimensions"),
        (tensor_type(STRING, 1), in_file("@model_path/weights/weight.bin", 64), "type string in a weight file"),
        (tensor_type(STRING, 1), immediate(2, varint(1)), "string"),
        (tensor_type(STRING, 1), immediate(7, b"abc"), "string"),
        (tensor_type(BFLOAT16, 1), immediate(1, bytes(4)), "bfloat16"),
        (tensor_type(INT4, 1), immediate(2, varint(1)), "int4"),
        (tensor_type(FLOAT8, 1), in_file("@model_path/weights/weight.bin", 64), "float8"),
        (tensor_type(FLOAT16, 1), in_file("@model_path/weights/weight.bin", 1 << 40), "which has 192 bytes"),
        (tensor_type(FLOAT16, 1), in_file("@model_path/weights/weight.bin", 1), "no whole constant at byte 1"),
    ],
)
def test_values_that_contradict_their_type(
    forged: Callable[..., Package], kind: bytes, value: bytes, word: str
) -> None:
    """A type that is not known, or that cannot hold its values, is named."""
    with pytest.raises(InputError, match=f"broken Core ML model: .*{word}"):
        everything(forged(kind, value).path)


def test_blocks_nested_without_end(tmp_path: Path) -> None:
    """40 loops in each other, or lists in lists, are refused; 10 are read."""
    path = tmp_path / "m.mlmodel"

    def nested(depth: int) -> bytes:
        operation = piece(1, "identity")
        for _ in range(depth):
            operation = piece(1, "while_loop") + piece(4, piece(3, operation))
        return operation

    path.write_bytes(model(nested(10)))
    assert read_coreml(path).program is not None
    path.write_bytes(model(nested(40)))
    assert "nested deeper than 32" in refused(path)
    value = piece(3, piece(1, piece(4, piece(1, "x"))))
    for _ in range(40):
        value = piece(3, piece(3, piece(1, value)))
    path.write_bytes(model(constant("c", b"", value)))
    assert "nested deeper than 32" in refused(path)


def test_a_constexpr_that_does_not_fit(tmp_path: Path) -> None:
    """A decoder that lacks a parameter or gets too few values is refused with the name of the constant."""
    path = tmp_path / "m.mlmodel"
    out = piece(3, piece(1, "w"), piece(2, tensor_type(FLOAT32, 2)))
    path.write_bytes(model(piece(1, "constexpr_lut_to_dense") + out))
    assert "constant 'w': 'lut'" in refused(path)
    path.write_bytes(model(piece(1, "const") + out))
    assert "constant 'w': 'val'" in refused(path)
    path.write_bytes(model(piece(1, "const")))
    assert "constant 'const'" in refused(path)


def test_a_constant_knows_its_bytes() -> None:
    """Values in the program take no bytes of the weight file."""
    assert Constant(dtype="int32", shape=(1,), values=np.array([1])).stored_bytes == 0
    assert Constant(dtype="uint1", shape=(9,), raw=memoryview(b"\xff\x01")).stored_bytes == 2
