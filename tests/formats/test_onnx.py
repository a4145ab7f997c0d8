"""ONNX models taken apart: what hand-written ones hold, files beside them, and hostile ones."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from damage import POINTER, check_sound, cut, flipped, read_spoilt
from places import ROOT
from wire import fixed, number, piece, varint
from written_onnx import (
    BFLOAT16,
    BOOL,
    DOUBLE,
    E4M3,
    E4M3UZ,
    E5M2,
    E8M0,
    FLOAT,
    FLOAT4,
    HALF,
    INT4,
    INT8,
    INT32,
    INT64,
    STRING,
    UINT4,
    UINT8,
    UINT64,
    attribute,
    floats,
    graph,
    model,
    node,
    raw,
    small,
    tensor,
    value,
)

from edgeprune.errors import InputError
from edgeprune.formats.contents import Contents, Layer, StoredArray
from edgeprune.formats.elements import count_zeros
from edgeprune.formats.onnx.contents import read_onnx
from edgeprune.formats.protobuf import BrokenMessageError, count_varints, unpack_varints

SHARED = ROOT.parent / "shared" / "data"
BASIC_PITCH = SHARED / "basic_pitch/saved_models/icassp_2022/nmp.onnx"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a model is written."""
    return tmp_path / "m.onnx"


def read(path: Path, content: bytes) -> Contents:
    """Write, read and check."""
    path.write_bytes(content)
    contents = read_onnx(path)
    check_sound(contents)
    stored = sum(array.stored_bytes for layer in contents.layers for array in layer.arrays)
    assert contents.sections["weights"] == stored
    return contents


def arrays(contents: Contents) -> dict[str, StoredArray]:
    """All arrays by name."""
    found = [array for layer in contents.layers for array in layer.arrays]
    assert len({array.name for array in found}) == len(found)
    return {array.name: array for array in found}


def layer(contents: Contents, kind: str) -> Layer:
    """The one layer of a kind."""
    (found,) = [layer for layer in contents.layers if layer.kind == kind]
    return found


def test_small_network(place: Path) -> None:
    """Weights, biases, channel axes, zeros, shapes and MACs of a network that fits on a page."""
    contents = read(place, small())
    found = arrays(contents)
    assert [layer.name for layer in contents.layers] == ["conv", "r", "y"]
    assert {name: array.parameter for name, array in found.items()} == {
        "k": True,
        "kb": True,
        "to": False,
        "w": True,
        "wb": True,
    }
    assert (found["k"].shape, found["k"].zeros, found["k"].precision) == ((4, 3, 3, 3), 2, "float32")
    assert {name: found[name].pieces[0].axis for name in ("k", "kb", "w")} == {"k": 0, "kb": 0, "w": 0}
    assert layer(contents, "Conv").outputs == ((1, 4, 6, 6),)
    assert layer(contents, "Conv").inputs == ((1, 3, 8, 8),)
    # 4*6*6 outputs of 3*3*3 products, 5 outputs of 144; the reshape costs nothing.
    assert [layer.macs for layer in contents.layers] == [3888, 0, 720]
    assert contents.macs == 4608
    # to: two integers in 3 bytes (1, and 144 in two).
    assert contents.sections["weights"] == 432 + 16 + 3 + 2880 + 20
    assert contents.sections["metadata"] == len("hand")


def test_no_partial_macs(place: Path) -> None:
    """Where one convolution's shape is not stated, no layer's MACs are told: a sum would leave it out."""
    nodes = [node("Conv", ["x", "k"], ["c"]), node("Conv", ["c", "l"], ["y"])]
    shapes = piece(12, value("y", 1, 2, 4, 4))
    contents = read(place, model(graph(nodes, [floats("k", 2, 1, 3, 3), floats("l", 2, 2, 3, 3)], shapes)))
    assert [layer.macs for layer in contents.layers] == [None, None]
    assert contents.macs is None


@pytest.mark.parametrize(
    ("dtype", "shape", "field", "precision", "zeros"),
    [
        (FLOAT, (3,), piece(4, struct.pack("<3f", 0.0, -0.0, 2.0)), "float32", 2),
        (FLOAT, (2,), fixed(4, struct.pack("<f", 0.0)) + fixed(4, struct.pack("<f", 1.0)), "float32", 1),
        (DOUBLE, (2,), piece(10, struct.pack("<2d", 0.0, 1.0)), "float64", 1),
        (HALF, (2,), raw(struct.pack("<2e", -0.0, 1.0)), "float16", 1),
        (HALF, (3,), piece(5, varint(0x8000), varint(0x3C00), varint(0)), "float16", 2),
        (BFLOAT16, (2,), raw(b"\x00\x80\x80\x3f"), "bfloat16", 1),
        (INT8, (4,), piece(5, varint(0), varint(-1), varint(127), varint(0)), "int8", 2),
        (INT8, (3,), number(5, 0) + number(5, -128) + number(5, 7), "int8", 1),
        (INT32, (2,), piece(5, varint(-5), varint(0)), "int32", 1),
        (INT64, (2,), piece(7, varint(1 << 40), varint(0)), "int64", 1),
        (UINT64, (2,), piece(11, varint((1 << 64) - 1), varint(0)), "uint64", 1),
        (BOOL, (3,), raw(b"\x01\x00\x01"), "bool", 1),
        (UINT4, (3,), raw(b"\x30\x00"), "uint4", 2),
        (INT4, (3,), piece(5, varint(0xF0), varint(0x01)), "int4", 1),
        (E4M3, (3,), raw(b"\x80\x00\x01"), "float8_e4m3fn", 2),
        (E5M2, (3,), raw(b"\x80\x00\x01"), "float8_e5m2", 2),
        (E4M3UZ, (3,), raw(b"\x80\x00\x01"), "float8_e4m3fnuz", 1),
        (E8M0, (2,), raw(b"\x00\x7f"), "float8_e8m0", 0),
        (FLOAT4, (4,), raw(b"\x80\x10"), "float4_e2m1", 3),
        (FLOAT, (0, 4), b"", "float32", 0),
    ],
)
def test_element_types(
    place: Path, dtype: int, shape: tuple[int, ...], field: bytes, precision: str, zeros: int
) -> None:
    """Every element type, in raw data or in the field for its type, and its zeros."""
    contents = read(place, model(graph([node("Own", ["t"], ["y"])], [tensor("t", dtype, shape, field)])))
    found = arrays(contents)["t"]
    assert (found.precision, found.zeros, found.shape) == (precision, zeros, shape)


def test_decoded_numbers(place: Path) -> None:
    """Numbers from typed fields come out as the little-endian elements they stand for."""
    half = tensor("h", HALF, (2,), piece(5, varint(0x3C00), varint(0xC000)))
    small_ints = tensor("i", INT8, (3,), piece(5, varint(-3), varint(0), varint(100)))
    found = arrays(read(place, model(graph([node("Own", ["h", "i"], ["y"])], [half, small_ints]))))
    assert found["h"].pieces[0].raw.view("<f2").tolist() == [1.0, -2.0]
    assert found["i"].pieces[0].raw.view(np.int8).tolist() == [-3, 0, 100]
    assert found["i"].stored_bytes == 12  # -3 takes ten bytes


def test_strings(place: Path) -> None:
    """Labels are counted by their letters, and are no parameters."""
    labels = tensor("labels", STRING, (2,), piece(6, "cat"), piece(6, "horse"))
    found = arrays(read(place, model(graph([node("Own", ["labels"], ["y"])], [labels]))))["labels"]
    assert (found.elements, found.stored_bytes, found.zeros, found.parameter) == (2, 8, None, False)


def test_quantized_weights_go_to_their_consumer(place: Path) -> None:
    """Codes behind a DequantizeLinear belong to the convolution, scale and zero point too; zeros are at it."""
    codes = tensor("q", INT8, (2, 3), raw(bytes([5, 5, 0, 7, 7, 7])))
    points = tensor("zp", INT8, (2,), raw(bytes([5, 7])))
    nodes = [
        node("DequantizeLinear", ["q", "s", "zp"], ["w"], attribute("axis", number(3, 0))),
        node("MatMul", ["w", "x"], ["y"]),
    ]
    contents = read(place, model(graph(nodes, [codes, floats("s", 2), points])))
    assert layer(contents, "DequantizeLinear").arrays == ()
    (found,) = layer(contents, "MatMul").arrays
    assert (found.name, found.precision, found.zeros, found.parameter) == ("q", "int8", 5, True)
    assert [piece.dtype for piece in found.pieces] == ["int8", "float32", "int8"]
    assert found.stored_bytes == 6 + 8 + 2


def test_scales_that_are_shared(place: Path) -> None:
    """A scale of two quantized weights counts with the first."""
    tensors = [tensor(name, INT8, (2, 2), raw(bytes(4))) for name in ("p", "q")]
    nodes = [
        node("DequantizeLinear", ["p", "s"], ["v"]),
        node("DequantizeLinear", ["q", "s"], ["w"]),
        node("MatMul", ["x", "v"], ["a"]),
        node("MatMul", ["a", "w"], ["y"]),
    ]
    found = arrays(read(place, model(graph(nodes, [*tensors, floats("s")]))))
    assert {name: array.stored_bytes for name, array in found.items()} == {"p": 8, "q": 4}


def test_zero_point_that_is_computed(place: Path) -> None:
    """Zeros are not known where the zero point is not in the file."""
    nodes = [node("DequantizeLinear", ["q", "s", "live"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    contents = read(place, model(graph(nodes, [tensor("q", INT8, (2, 2), raw(bytes(4))), floats("s")])))
    assert arrays(contents)["q"].zeros is None


def test_integer_convolution(place: Path) -> None:
    """QLinearConv: the kernel with its scale and its zero points by channel, and an int32 bias."""
    names = ["x", "xs", "xz", "k", "ks", "kz", "ys", "yz", "b"]
    tensors = [
        tensor("k", UINT8, (2, 1, 1, 2), raw(bytes([3, 9, 9, 3]))),
        tensor("kz", UINT8, (2,), raw(bytes([3, 9]))),
        tensor("xz", UINT8, (), raw(b"\x80")),
        tensor("yz", UINT8, (), raw(b"\x80")),
        tensor("b", INT32, (2,), raw(struct.pack("<2i", 0, 4))),
        *(floats(name) for name in ("xs", "ys")),
        floats("ks", 2),
    ]
    contents = read(place, model(graph([node("QLinearConv", names, ["y"])], tensors)))
    found = arrays(contents)
    assert found["k"].zeros == 2
    assert len(found["k"].pieces) == 3
    assert {name for name, array in found.items() if array.parameter} == {"k", "b"}
    assert set(found) == {"k", "b", "xs", "xz", "ys", "yz"}


def test_constant_nodes_and_casts(place: Path) -> None:
    """A Constant's tensor, through Cast and Transpose, belongs to the MatMul; its axis is not known any more."""
    constant = node("Constant", [], ["c"], attribute("value", piece(5, tensor("", HALF, (2, 2), raw(bytes(8))))))
    nodes = [constant, node("Cast", ["c"], ["d"]), node("Transpose", ["d"], ["e"]), node("MatMul", ["x", "e"], ["y"])]
    contents = read(place, model(graph(nodes, [])))
    (found,) = layer(contents, "MatMul").arrays
    assert (found.name, found.precision, found.zeros, found.pieces[0].axis) == ("c", "float16", 4, None)
    assert [layer.kind for layer in contents.layers] == ["Cast", "Transpose", "MatMul"]


def test_recurrent_layer(place: Path) -> None:
    """An LSTM of two directions: two matrices and a bias, five steps."""
    tensors = [floats("w", 2, 12, 4), floats("r", 2, 12, 3), floats("b", 2, 24), floats("h", 2, 1, 3)]
    nodes = [node("LSTM", ["x", "w", "r", "b", "", "h"], ["y"])]
    contents = read(place, model(graph(nodes, tensors, piece(11, value("x", 5, 1, 4)))))
    found = arrays(contents)
    assert {name: array.parameter for name, array in found.items()} == {"w": True, "r": True, "b": True, "h": False}
    assert [found[name].pieces[0].axis for name in "wrb"] == [1, 1, 1]
    assert contents.macs == 5 * (96 + 72)


def test_sparse_initializer(place: Path) -> None:
    """Non-zeros and their places; the dense shape is only a claim and is never made."""
    values = tensor("s", FLOAT, (2,), raw(struct.pack("<2f", 1.0, 0.0)))
    places = tensor("", INT64, (2,), raw(struct.pack("<2q", 0, 7)))
    sparse = piece(1, values) + piece(2, places) + number(3, 1 << 20) + number(3, 1 << 11)
    contents = read(place, model(graph([node("MatMul", ["x", "s"], ["y"])], [], piece(15, sparse))))
    (found,) = layer(contents, "MatMul").arrays
    assert (found.shape, found.zeros, found.parameter) == ((1 << 20, 1 << 11), (1 << 31) - 1, True)
    assert found.stored_bytes == 8 + 16


def test_subgraphs(place: Path) -> None:
    """A branch uses its own weights and those around it; both belong to the first node that does."""
    inside = [node("MatMul", ["x", "outer"], ["a"]), node("MatMul", ["a", "inner"], ["b"])]
    body = graph(inside, [floats("inner", 2, 2)], piece(13, value("a", 1, 2)), piece(12, value("b", 1, 2)))
    nodes = [
        node("If", ["cond"], ["z"], attribute("then_branch", piece(6, body)), name="either"),
        node("MatMul", ["z", "outer"], ["y"]),
    ]
    contents = read(place, model(graph(nodes, [floats("outer", 2, 2)], piece(12, value("y", 1, 2)))))
    groups = [(layer.group, [array.name for array in layer.arrays]) for layer in contents.layers]
    branch = "subgraph either.then_branch"
    assert groups == [("", []), (branch, ["outer"]), (branch, ["inner"]), ("", [])]
    assert contents.macs is None


def test_functions_and_training(place: Path) -> None:
    """Nodes of a function are layers of a group; training graphs are bytes of the optimizer."""
    constant = node("Constant", [], ["c"], attribute("value", piece(5, floats("", 3))))
    function = piece(1, "mine") + piece(7, constant) + piece(7, node("Add", ["x", "c"], ["y"]))
    training = piece(1, graph([], [floats("momentum", 8)]))
    contents = read(place, model(graph([node("mine", ["x"], ["y"])], []), piece(25, function), piece(20, training)))
    assert contents.layers[1].group == "function mine"
    assert arrays(contents)["c"].parameter
    assert contents.sections["optimizer"] == len(training)


def test_unused_and_unprintable(place: Path) -> None:
    """An initializer that no node uses is a layer of its own; names are shown on one line."""
    contents = read(place, model(graph([node("Relu", ["x"], ["y\n\x1b[2J"])], [floats("un\nused", 2)])))
    assert [layer.name for layer in contents.layers] == ["y\\n\\x1b[2J", "un\\nused"]
    assert not arrays(contents)["un\\nused"].parameter


# --- files beside the model -----------------------------------------------------------------------------------------


def external(name: str, shape: tuple[int, ...], **told: str) -> bytes:
    """A float tensor whose numbers are in another file."""
    entries = (piece(13, piece(1, key), piece(2, text)) for key, text in told.items())
    return tensor(name, FLOAT, shape, *entries, number(14, 1))


def test_external_data(place: Path) -> None:
    """Numbers beside the model count; bytes shared by two tensors once; what none uses is padding."""
    (place.parent / "w.bin").write_bytes(bytes(4) + struct.pack("<5f", 0, 1, 2, 3, 0) + b"tail")
    tensors = [
        external("a", (4,), location="w.bin", offset="4", length="16"),
        external("b", (2, 2), location="w.bin", offset="4", length="16"),
        external("c", (1,), location="w.bin", offset="20", length="4"),
    ]
    content = model(graph([node("Own", ["a", "b", "c"], ["y"])], tensors))
    contents = read(place, content)
    found = arrays(contents)
    assert [found[name].stored_bytes for name in "abc"] == [16, 0, 4]
    assert [found[name].zeros for name in "abc"] == [1, 1, 1]
    assert contents.raw_bytes == len(content) + 28
    assert (contents.sections["weights"], contents.sections["padding"]) == (20, 8)
    assert contents.files == {"m.onnx": len(content), "w.bin": 28}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"location": "gone.bin"}, "gone.bin' is missing"),
        ({"location": "../m.bin"}, "refused"),
        ({"location": "/etc/hostname"}, "refused"),
        ({"location": "..\\m.bin"}, "refused"),
        ({"location": ""}, "refused"),
        ({"location": "link.bin"}, "refused"),
        ({"location": "m.onnx"}, "refused"),
        ({"location": "a\0b"}, "no file can be"),
        ({"location": "w.bin", "offset": "8", "length": "16"}, "which has 16"),
        ({"location": "w.bin", "offset": "99"}, "which has 16"),
        ({"location": "w.bin", "offset": "-4"}, "not a number"),
        ({"location": "w.bin", "length": "9" * 5000}, "not a number"),
        ({"location": "w.bin", "length": "8"}, "has 8 bytes"),
        ({"location": "pointer.bin"}, "git lfs pull"),
    ],
)
def test_external_data_refused(tmp_path: Path, told: dict[str, str], words: str) -> None:
    """A location outside the folder, in any spelling, and bytes that are not there."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "m.bin").write_bytes(bytes(16))
    (folder / "w.bin").write_bytes(bytes(16))
    (folder / "pointer.bin").write_bytes(POINTER)
    (folder / "link.bin").symlink_to(tmp_path / "m.bin")
    with pytest.raises(InputError, match=r"m\.onnx|pointer\.bin") as told_error:
        read(folder / "m.onnx", model(graph([], [external("a", (4,), **told)])))
    assert words in str(told_error.value)


def test_overlapping_external_data(place: Path) -> None:
    """Two tensors that share a part of their bytes are no sound model."""
    (place.parent / "w.bin").write_bytes(bytes(16))
    tensors = [
        external("a", (2,), location="w.bin", length="8"),
        external("b", (2,), location="w.bin", offset="4", length="8"),
    ]
    with pytest.raises(InputError, match="share some bytes"):
        read(place, model(graph([], tensors)))


# --- hostile files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (POINTER, "git lfs pull"),
        (b"hello world, this is text", "not an ONNX model"),
        (number(1, 8), "no graph"),
        (model(graph([], [tensor("t", FLOAT, (1 << 31,), raw(bytes(8)))])), "8 bytes"),
        (model(graph([], [tensor("t", FLOAT, (1 << 31, 1 << 31), piece(4, bytes(8)))])), "8 bytes"),
        (model(graph([], [tensor("t", INT64, (1 << 40,), piece(7, bytes(8)))])), "another count"),
        (model(graph([], [tensor("t", FLOAT, (-1,), raw(bytes(8)))])), "shape"),
        (model(graph([], [tensor("t", FLOAT, (1,) * 40, raw(bytes(4)))])), "shape"),
        (model(graph([], [tensor("t", 99, (1,), raw(bytes(4)))])), "element type 99"),
        (model(graph([], [tensor("t", STRING, (5,), piece(6, "a"))])), "5 strings"),
        (model(graph([], [tensor("t", INT8, (1,), piece(5, b"\x80" * 12))])), "another count"),
        (model(piece(1) * ((1 << 20) + 1)), "fields"),
    ],
)
def test_hostile(place: Path, content: bytes, words: str) -> None:
    """Claims beyond the file's bytes, wrong counts and other files are refused in one line."""
    with pytest.raises(InputError) as told:
        read(place, content)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_missing_file(tmp_path: Path) -> None:
    """No file, and a folder."""
    for path, words in ((tmp_path / "no.onnx", "does not exist"), (tmp_path, "is a folder; name an ONNX model")):
        with pytest.raises(InputError, match=words):
            read_onnx(path)


def test_graphs_without_end(place: Path) -> None:
    """Graphs nested too deep are refused; a node that is its own source ends."""
    body = graph([], [])
    for _ in range(40):
        body = graph([node("If", ["c"], ["z"], attribute("then_branch", piece(6, body)))], [])
    with pytest.raises(InputError, match="nested deeper"):
        read(place, model(body))
    ring = graph(
        [node("Cast", ["a"], ["b"]), node("Cast", ["b"], ["a"]), node("Identity", ["i"], ["i"])], [floats("i")]
    )
    assert len(read(place, model(ring)).layers) == 4


def test_spoilt_files(place: Path) -> None:
    """A file cut short or with changed bytes is refused or read soundly."""
    assert read_spoilt(read_onnx, place, cut(small())) == 16
    refused = read_spoilt(read_onnx, place, flipped(small(), 400))
    assert 40 < refused < 400


@pytest.mark.parametrize(
    ("dtype", "raw_bytes", "points", "axis", "zeros"),
    [
        ("int4", b"\x8f\xf0", (-1,), 0, 2),
        ("int4", b"\x8f\xf0", (-8,), 0, 1),
        ("int4", b"\x8f\xf0", (15,), 0, 0),
        ("uint4", b"\x8f\xf0", (15,), 0, 2),
        ("int4", b"\x8f\xf0", (-1, -8), 1, 2),
        ("uint2", b"\x1b", (3,), 0, 1),
        ("float32", struct.pack("<4f", 0, -0.0, 1, float("nan")), (0,), 0, 2),
    ],
)
def test_zeros(dtype: str, raw_bytes: bytes, points: tuple[int, ...], axis: int, zeros: int) -> None:
    """Packed codes of either sign against zero points inside and outside the type, by channel too."""
    assert count_zeros(np.frombuffer(raw_bytes, np.uint8), dtype, (2, 2), zero_points=points, axis=axis) == zeros


# --- the wire format's packed integers ------------------------------------------------------------------------------


def test_packed_integers() -> None:
    """Numbers of every length come out, also across the borders of blocks."""
    wanted = [0, 1, 127, 128, 300, (1 << 35) + 5, (1 << 64) - 1] * 60_000
    packed = memoryview(b"".join(varint(value) for value in wanted))
    assert count_varints(packed) == len(wanted)
    assert unpack_varints(packed, "<u8").tolist() == wanted
    assert unpack_varints(packed[:7], "<u1").tolist() == [0, 1, 127, 128, 44]  # 300 cut to eight bits
    assert unpack_varints(memoryview(b""), "<u8").tolist() == []


@pytest.mark.parametrize("packed", [b"\x80", b"\x01\xff", b"\x80" * 10 + b"\x00", b"\xff" * (1 << 19) + b"\x00"])
def test_broken_packed_integers(packed: bytes) -> None:
    """A number without an end, or of more than ten bytes."""
    with pytest.raises(BrokenMessageError):
        unpack_varints(memoryview(packed), "<u8")


# --- a real model ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not BASIC_PITCH.is_file(), reason="no shared data")
def test_basic_pitch() -> None:
    """nmp.onnx has the convolution kernels of nmp.tflite, their axes in another order."""
    from edgeprune.formats import read_graph

    contents = read_onnx(BASIC_PITCH)
    check_sound(contents)
    kernels = {
        array.name: array
        for layer in contents.layers
        if layer.kind == "Conv"
        for array in layer.arrays
        if len(array.shape) == 4
    }
    sibling = read_graph(BASIC_PITCH.with_suffix(".tflite"))
    convolutions = [tensor for tensor in sibling.weights if len(tensor.shape) == 4]
    assert sorted(array.elements for array in kernels.values()) == sorted(t.elements for t in convolutions)
    assert sum(array.zeros or 0 for array in kernels.values()) == sum(t.zeros or 0 for t in convolutions)
    # Nine kernels, eight biases and the 309 factors of a Mul; the other 84 of 102 initializers steer.
    found = arrays(contents)
    assert sum(array.parameter for array in found.values()) == 18
    assert contents.raw_bytes == 230_444
