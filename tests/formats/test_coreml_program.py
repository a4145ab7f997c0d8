"""Core ML programs taken apart: facts worked out by hand, every byte in one place, forged packages refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT, TESTS
from wire import number, piece
from written_mil import FLOAT16, FLOAT32, INT32, STRING, constant, immediate, in_file, model, tensor_type

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.formats import Contents, read_contents
from edgeprune.formats.coreml.constexpr import count_decoded_zeros, decode
from edgeprune.formats.elements import unpack_bits

FILES = TESTS / "files"
SHARED = ROOT.parent / "shared" / "data" / "basic_pitch" / "saved_models" / "icassp_2022"
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")
MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the real models are not here")


def size_of(path: Path) -> int:
    """Bytes of a file or of all files in a folder, as the operating system has them."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def check_bytes(found: Contents) -> Contents:
    """Sections add up to the package, none is negative, and the layers' arrays are the weights' section."""
    assert found.raw_bytes == sum(found.sections.values()) == size_of(found.path)
    assert min(found.sections.values()) >= 0
    stored = sum(array.stored_bytes for layer in found.layers for array in layer.arrays)
    assert stored == found.sections["weights"]
    return found


# Of the convolution's (8, 2, 3, 3) and the dense layer's (12, 128) kernel: float16 all; indexes of 4 bits and 16 values
# of float16; bits of a mask, int8 non-zeros, and a float16 scale for each output; a scale for each 32 inputs of it.
@pytest.mark.parametrize(
    ("name", "conv_precision", "dense_precision", "conv_bytes", "dense_bytes"),
    [
        ("half", "float16", "float16", 144 * 2, 1536 * 2),
        ("palette4", "palette4", "palette4", 144 // 2 + 32, 1536 // 2 + 32),
        ("sparse_int8", "sparse+int8", "sparse+int8", 144 // 8 + 36 + 8 * 2, 1536 // 8 + 192 + 12 * 2),
        ("w8a8", "int8", "int8", 144 + 8 * 2, 1536 + 12 * (2 + 1)),  # of iOS 17: zero points too
        ("int4", "int8", "int4", 144 + 8 * 2, 1536 // 2 + 12 * 4 * 2),
    ],
)
def test_layers_of_a_package(
    name: str, conv_precision: str, dense_precision: str, conv_bytes: int, dense_bytes: int
) -> None:
    """The network of tests/files/make_packages.py: what each layer holds in each encoding."""
    found = check_bytes(read_contents(FILES / f"{name}.mlpackage"))
    assert (found.format, found.complete, found.macs) == ("mlpackage", True, 4 * 4 * 8 * 18 + 128 * 12)
    conv, dense = (next(layer for layer in found.layers if layer.kind == kind) for kind in ("conv", "linear"))
    bias, kernel = sorted(conv.arrays, key=lambda array: len(array.shape))
    assert (kernel.shape, kernel.precision, kernel.zeros) == ((8, 2, 3, 3), conv_precision, 108)
    assert (bias.shape, bias.precision, bias.zeros, bias.stored_bytes) == ((8,), "float16", 0, 16)
    matrix = max(dense.arrays, key=lambda array: len(array.shape))
    assert (matrix.shape, matrix.precision, matrix.zeros) == ((12, 128), dense_precision, 1344)
    assert (kernel.stored_bytes, matrix.stored_bytes) == (conv_bytes, dense_bytes)
    assert all(array.parameter for array in (*conv.arrays, *dense.arrays))
    assert (conv.inputs, conv.outputs, conv.macs) == (((1, 2, 6, 6),), ((1, 8, 4, 4),), 2304)


def test_files_of_a_package() -> None:
    """By path inside it, with the sizes that the operating system tells."""
    package = FILES / "half.mlpackage"
    wanted = {p.relative_to(package).as_posix(): p.stat().st_size for p in package.rglob("*") if p.is_file()}
    assert dict(read_contents(package).files) == wanted


# --- programs by hand -----------------------------------------------------------------------------------------------


def operation(kind: str, output: str, shape: bytes, *inputs: bytes, blocks: bytes = b"") -> bytes:
    """An operation with one output; `inputs` as `bound` and `given_here` write them."""
    return piece(1, kind) + b"".join(inputs) + piece(3, piece(1, output), piece(2, shape)) + blocks


def bound(parameter: str, *names: str) -> bytes:
    """An argument that names values."""
    return piece(2, piece(1, parameter), piece(2, *(piece(1, piece(1, name)) for name in names)))


def given_here(parameter: str, kind: bytes, value: bytes) -> bytes:
    """An argument whose value stands in the operation."""
    return piece(2, piece(1, parameter), piece(2, piece(1, piece(2, piece(2, kind) + value))))


HALF_KERNEL = tensor_type(FLOAT16, 3, 4)
X, Y = tensor_type(FLOAT16, 1, 4), tensor_type(FLOAT16, 1, 3)
OPEN = piece(1, number(1, FLOAT16), number(2, 2), piece(3, piece(2, number(1, 0))), piece(3, piece(1, number(1, 3))))


@pytest.fixture
def forged(tmp_path: Path) -> Callable[..., Contents]:
    """Write a program beside a weight file of the blobs given, and take it apart."""

    def read(
        *operations: bytes, blobs: tuple[bytes, ...] = (bytes(range(24)),), lies: tuple[int, ...] = ()
    ) -> Contents:
        package = tmp_path / "m.mlpackage"
        (package / "Data/weights").mkdir(parents=True, exist_ok=True)
        entry = {"itemInfoEntries": {"1": {"path": "model.mlmodel"}}, "rootModelIdentifier": "1"}
        (package / "Manifest.json").write_text(json.dumps(entry))
        content = struct.pack("<II", len(blobs), 2).ljust(64, b"\0")
        for place, blob in enumerate(blobs):
            content = content.ljust(-(-len(content) // 64) * 64, b"\0")
            start = lies[place] if lies else len(content) + 64
            content += struct.pack("<IIQQ", 0xDEADBEEF, 1, len(blob), start).ljust(64, b"\0") + blob
        (package / "Data/weights/weight.bin").write_bytes(content)
        (package / "Data/model.mlmodel").write_bytes(model(*operations))
        return read_contents(package)

    return read


BLOB = in_file("@model_path/weights/weight.bin", 64)
SECOND = in_file("@model_path/weights/weight.bin", 192)


def linear(kernel: str = "w", output: str = "y", shape: bytes = Y) -> bytes:
    """A dense layer of 4 inputs and 3 units."""
    return operation("linear", output, shape, bound("x", "x"), bound("weight", kernel))


def test_a_shared_constant_belongs_to_its_first_user(forged: Callable[..., Contents]) -> None:
    """By name, and by place in the weight file."""
    weights = [constant("w", HALF_KERNEL, BLOB), constant("v", HALF_KERNEL, BLOB)]
    found = forged(*weights, linear(), linear(output="z"), linear("v", output="u"))
    assert [[a.stored_bytes for a in layer.arrays] for layer in found.layers] == [[24], [], [0]]
    assert [layer.macs for layer in found.layers] == [12, 12, 12]


def test_a_constant_that_stands_in_its_operation(forged: Callable[..., Contents]) -> None:
    """The format allows values in place of names: they are arrays of the layer all the same."""
    dense = operation("linear", "y", Y, bound("x", "x"), given_here("weight", HALF_KERNEL, BLOB))
    (layer,) = forged(dense).layers
    assert [(a.name, a.shape, a.parameter, a.stored_bytes) for a in layer.arrays] == [("y.weight", (3, 4), True, 24)]
    assert layer.macs == 12


def test_a_constant_that_nothing_uses(forged: Callable[..., Contents]) -> None:
    """It takes its place in the file, in a layer of its own; so the sections know it."""
    found = forged(
        constant("w", HALF_KERNEL, BLOB), constant("idle", HALF_KERNEL, SECOND), linear(), blobs=(bytes(24),) * 2
    )
    assert found.layers[-1].name == "(constants that nothing uses)"
    assert [(a.name, a.stored_bytes) for a in found.layers[-1].arrays] == [("idle", 24)]


def test_numbers_that_steer_are_no_parameters(forged: Callable[..., Contents]) -> None:
    """Strings, integers and a single float belong to the graph."""
    steering = [
        constant("mode", tensor_type(STRING), immediate(4, b"same")),
        constant("axes", tensor_type(INT32, 2), immediate(2, b"\x01\x02")),
        constant("one", tensor_type(FLOAT32), immediate(1, struct.pack("<f", 1.5))),
    ]
    uses = operation("pad", "y", X, bound("x", "x"), bound("mode", "mode"), bound("axes", "axes"), bound("v", "one"))
    found = forged(*steering, uses)
    assert [array.parameter for layer in found.layers for array in layer.arrays] == []


def test_macs_of_an_open_size_are_unknown(forged: Callable[..., Contents]) -> None:
    """A batch that the app chooses: neither 0 nor the MACs of a batch of one, and no sum of the rest."""
    weights = constant("w", HALF_KERNEL, BLOB)
    found = forged(weights, linear(shape=OPEN), linear(output="z"))
    assert [layer.macs for layer in found.layers] == [None, None]
    assert found.macs is None


def test_blocks_are_groups(forged: Callable[..., Contents]) -> None:
    """The branches of a condition stand under its name, which is cut when it is longer than a line bears."""
    inner = piece(4, piece(3, linear()))
    found = forged(constant("w", HALF_KERNEL, BLOB), operation("cond", "c" * 200, Y, blocks=inner))
    assert [layer.group for layer in found.layers] == ["", "c" * 80 + " block 0"]
    assert [len(layer.arrays) for layer in found.layers] == [0, 1]


def test_blobs_laid_over_one_another_count_once(forged: Callable[..., Contents]) -> None:
    """A constant of 10 bytes inside another of 24: no section is negative, the sum holds."""
    found = forged(
        constant("w", HALF_KERNEL, BLOB),
        constant("v", tensor_type(FLOAT16, 5, 1), SECOND),
        linear(),
        operation("add", "z", Y, bound("x", "y"), bound("y", "v")),
        blobs=(bytes(24), bytes(24)),
        lies=(128, 132),
    )
    assert found.sections["weights"] == 24
    assert min(found.sections.values()) >= 0
    assert sum(found.sections.values()) == found.raw_bytes


def test_real_macs_and_zeros(forged: Callable[..., Contents]) -> None:
    """Twelve float16 numbers, 0 to 23 as bytes: none is zero; of 24 zero bytes all are."""
    weights = constant("w", HALF_KERNEL, BLOB)
    assert forged(weights, linear()).layers[0].arrays[0].zeros == 0
    assert forged(weights, linear(), blobs=(bytes(24),)).layers[0].arrays[0].zeros == 12


def test_half_of_a_package_is_refused() -> None:
    """The model file alone would be judged without its weights."""
    with pytest.raises(InputError, match=r"name the \.mlpackage folder"):
        read_contents(FILES / "half.mlpackage" / MODEL)


# --- zeros without decoding -----------------------------------------------------------------------------------------


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers of `bits` bits in bytes, the first in the lowest bits."""
    whole = sum(int(value) << (bits * place) for place, value in enumerate(values.reshape(-1)))
    return np.frombuffer(whole.to_bytes(-(-bits * values.size // 8), "little"), np.uint8)


@given(seed=st.integers(0, 10_000), bits=st.sampled_from([1, 2, 3, 4, 6, 8]))
def test_zeros_of_a_table_as_decoded(seed: int, bits: int) -> None:
    """iOS 16: indexes in packed bytes; iOS 18: a table for each group of rows, of vectors."""
    rng = np.random.default_rng(seed)
    lut = rng.integers(-1, 2, 1 << bits).astype(np.float16)
    shape = tuple(rng.integers(1, 9, 2))
    packed = pack(rng.integers(0, 1 << bits, shape), bits)
    old = {"lut": lut, "indices": packed, "shape": shape}
    groups, length = int(rng.choice([1, 2])), int(rng.choice([1, 3]))
    indices = rng.integers(0, 1 << bits, (4, 6)).astype(np.uint8)
    tables = rng.integers(-1, 2, (groups, 1, 1 << bits, length)).astype(np.float16)
    new = {"lut": tables, "indices": indices, "vector_axis": 0}
    for parts in (old, new):
        dense = decode("constexpr_lut_to_dense", parts)[0]
        assert count_decoded_zeros("constexpr_lut_to_dense", parts) == np.count_nonzero(dense == 0)


@given(seed=st.integers(0, 10_000))
def test_zeros_of_scales_and_masks_as_decoded(seed: int) -> None:
    """Quantized with zero points for each row or in blocks, and sparse with a packed or a plain mask."""
    rng = np.random.default_rng(seed)
    data = rng.integers(-3, 4, (4, 6)).astype(np.int8)
    scale = rng.uniform(0.5, 2, 4).astype(np.float16)
    affine = {"quantized_data": data, "scale": scale, "zero_point": rng.integers(-3, 4, 4).astype(np.int8), "axis": 0}
    blocks = {"data": data, "scale": rng.uniform(0.5, 2, (2, 1)).astype(np.float16)}
    shifted = {**blocks, "offset": rng.integers(-3, 4, (2, 1)).astype(np.int8)}
    mask = rng.integers(0, 2, (4, 6))
    values = rng.integers(0, 3, int(mask.sum())).astype(np.float16)
    plain = {"mask": mask.astype(np.uint8), "nonzero_data": values}
    packed = {"mask": pack(mask, 1), "nonzero_data": values, "shape": (4, 6)}
    for kind, parts in (
        ("constexpr_affine_dequantize", affine),
        ("constexpr_blockwise_shift_scale", blocks),
        ("constexpr_blockwise_shift_scale", shifted),
        ("constexpr_sparse_to_dense", plain),
        ("constexpr_sparse_to_dense", packed),
    ):
        assert count_decoded_zeros(kind, parts) == np.count_nonzero(decode(kind, parts)[0] == 0)


def test_where_there_is_no_short_way() -> None:
    """A scale of zero makes every number zero, and of other operations nothing is known without decoding."""
    affine = {"quantized_data": np.ones(3, np.int8), "scale": np.float16(0), "zero_point": np.int8(0), "axis": 0}
    assert count_decoded_zeros("constexpr_affine_dequantize", affine) is None
    assert count_decoded_zeros("constexpr_cast", {"source_val": np.zeros(2)}) is None


def test_a_table_is_counted_in_the_memory_of_its_indexes() -> None:
    """Two million indexes of one bit, 250 kB: decoded as float32 they would take 8 MB."""
    parts = {
        "lut": np.array([0, 1], np.float32),
        "indices": np.full(250_000, 0b10101010, np.uint8),
        "shape": (1000, 2000),
    }
    tracemalloc.start()
    try:
        assert count_decoded_zeros("constexpr_lut_to_dense", parts) == 1_000_000
        assert tracemalloc.get_traced_memory()[1] < 1_500_000
    finally:
        tracemalloc.stop()


def test_packed_integers_are_unpacked_without_a_byte_for_each_bit() -> None:
    """A million of four bits: the result, and as much again on the way."""
    packed = np.zeros(500_000, np.uint8)
    tracemalloc.start()
    try:
        assert len(unpack_bits(packed, 4, 1_000_000)) == 1_000_000
        assert tracemalloc.get_traced_memory()[1] < 2_500_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "parts",
    [
        {"lut": np.ones(4, np.float16), "indices": np.zeros(2, np.uint8), "shape": (9,)},
        {"lut": np.ones(3, np.float16), "indices": np.full(1, 255, np.uint8), "shape": (4,)},
        {"lut": np.ones((1, 1, 4, 1), np.float16), "indices": np.full((2, 2), 9, np.uint8)},
        {"lut": np.ones((3, 1, 4, 1), np.float16), "indices": np.zeros((2, 2), np.uint8)},
    ],
)
def test_tables_that_do_not_fit(parts: dict[str, object]) -> None:
    """Too few indexes, indexes beyond the table, groups that do not divide the rows."""
    with pytest.raises((ValueError, IndexError)):
        count_decoded_zeros("constexpr_lut_to_dense", parts)


def test_vectors_that_no_memory_holds() -> None:
    """One index that stands for a million numbers is no palette."""
    parts = {"lut": np.zeros((1, 2, 1_000_000), np.float16), "indices": np.zeros(4, np.uint8), "vector_axis": 0}
    with pytest.raises(ValueError, match="vectors of 1000000"):
        decode("constexpr_lut_to_dense", parts)


# --- forged packages ------------------------------------------------------------------------------------------------


def outcome(path: Path) -> str:
    """What reading gives: "read" with every byte accounted for, or the one line of a refusal."""
    try:
        found = read_contents(path)
    except EdgepruneError as error:
        return str(error)
    assert found.raw_bytes == sum(found.sections.values()) == size_of(path)
    assert min(found.sections.values()) >= 0
    return "read"


@pytest.mark.parametrize("name", ["palette4", "sparse_int8"])
@pytest.mark.parametrize("victim", [MODEL, WEIGHTS], ids=["model", "weights"])
def test_files_cut_short_and_flipped(tmp_path: Path, name: str, victim: Path) -> None:
    """At every sixteenth, and a byte at each of 200 places: an account that adds up, or one line."""
    package, rng = tmp_path / "m.mlpackage", random.Random(13)
    shutil.copytree(FILES / f"{name}.mlpackage", package)
    content = (package / victim).read_bytes()
    for part in range(16):
        (package / victim).write_bytes(content[: len(content) * part // 16])
        outcome(package)
    for place in rng.sample(range(len(content)), 200):
        (package / victim).write_bytes(
            content[:place] + bytes([content[place] ^ rng.randrange(1, 256)]) + content[place + 1 :]
        )
        outcome(package)


@pytest.mark.parametrize("victim", [MODEL, WEIGHTS, Path("Manifest.json")], ids=["model", "weights", "manifest"])
@pytest.mark.parametrize("how", ["pointer", "pipe", "missing", "empty", "folder"])
def test_a_package_that_is_not_whole(tmp_path: Path, victim: Path, how: str) -> None:
    """A git-lfs pointer, a pipe, nothing, no bytes, a folder in place of a file: one line that names the package."""
    package = tmp_path / "m.mlpackage"
    shutil.copytree(FILES / "half.mlpackage", package)
    (package / victim).unlink()
    if how == "pointer":
        (package / victim).write_bytes(POINTER)
    elif how == "pipe":
        os.mkfifo(package / victim)
    elif how == "empty":
        (package / victim).touch()
    elif how == "folder":
        (package / victim).mkdir()
    with pytest.raises(InputError) as caught:
        read_contents(package)
    assert str(package) in str(caught.value)
    assert "\n" not in str(caught.value)
    if how == "pointer" and victim != Path("Manifest.json"):
        assert "git lfs pull" in str(caught.value)


# --- against others -------------------------------------------------------------------------------------------------


@needs_shared
def test_one_model_in_two_formats_has_the_same_macs() -> None:
    """The basic_pitch model: 524,079,648 in the .tflite and in the .mlpackage."""
    for name in ("nmp.tflite", "nmp.mlpackage"):
        found = check_bytes(read_contents(SHARED / name))
        assert found.macs == 524_079_648


@pytest.mark.slow
@pytest.mark.parametrize(
    "package",
    [FILES / "half.mlpackage", pytest.param(SHARED / "nmp.mlpackage", marks=needs_shared)],
    ids=["half", "nmp"],
)
def test_weights_as_coremltools_reads_them(package: Path) -> None:
    """Name, shape and zeros of every array in its own list of weights, which leaves out those of one number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools

        opened = coremltools.models.MLModel(str(package), skip_model_load=True)
        theirs = coremltools.optimize.coreml.get_weights_metadata(opened, weight_threshold=2)
    arrays = [a for layer in read_contents(package).layers for a in layer.arrays if a.parameter]
    ours = {a.name: a for a in arrays if a.elements > 1}
    assert len(ours) >= 4
    for name, array in ours.items():
        assert array.shape == theirs[name].val.shape
        assert array.zeros == np.count_nonzero(theirs[name].val == 0)
    weighty = {name for name, found in theirs.items() if found.val.dtype.kind == "f" and found.val.size > 1}
    assert weighty == set(ours)
