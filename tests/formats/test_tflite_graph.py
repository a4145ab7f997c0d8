"""A .tflite file read back: MACs, parameters and zeros against numbers worked out by hand, and broken files refused."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT, TESTS
from written_tflite import GraphSpec, OpSpec, TensorSpec, dense_graph, dense_op, write

from edgeprune.errors import EdgepruneError, InputError, Unsupported
from edgeprune.formats import Graph, read_graph
from edgeprune.formats.elements import count_zeros, dense_values, element_bits
from edgeprune.formats.graph import count_macs

FILES = TESTS / "files"
REAL_FILES = ROOT.parent / "shared" / "data"
PRECISIONS = ("float32", "float16", "int8", "float32_sparse", "float16_sparse")


# --- a flatbuffer by hand -------------------------------------------------------------------------------------------


@pytest.fixture(params=PRECISIONS)
def net(request: pytest.FixtureRequest) -> Graph:
    """The network of tests/files/make_files.py in each encoding."""
    return read_graph(FILES / f"{request.param}.tflite")


def test_macs_are_the_dense_ones_in_every_encoding(net: Graph) -> None:
    """36*8*18 (convolution) + 16*8*9 (depthwise) + 128*12 (dense) = 7872 MACs, whatever is zero or packed."""
    assert net.macs == 7872


def test_zeros_are_found_behind_dequantize_and_densify(net: Graph) -> None:
    """120 of 144, 0 of 72 and 1350 of 1536 kernel elements are zero; half of them were -0.0 in the model."""
    assert (net.weight_elements, net.weight_zeros) == (1752, 1470)
    assert sorted((t.elements, t.zeros) for t in net.weights) == [(72, 0), (144, 120), (1536, 1350)]
    assert net.sparsity == 1470 / 1752


def test_parameters_are_weights_and_biases(net: Graph) -> None:
    """1752 weights + 28 biases; 282 weights and all biases are not zero. The shape of RESHAPE is no parameter."""
    assert (net.parameters, net.nonzero_parameters) == (1780, 310)


def test_inputs_outputs_and_signature(net: Graph) -> None:
    """One image in, twelve scores out, named in the default signature."""
    assert [net.tensors[i].shape for i in net.inputs] == [(1, 8, 8, 2)]
    assert [net.tensors[i].shape for i in net.outputs] == [(1, 12)]
    signature = net.signatures[0]
    assert (signature.name, signature.inputs, signature.outputs) == ("serving_default", ("image",), ("scores",))


def test_an_activation_is_no_constant() -> None:
    """The graph's input has no bytes in the file and no zeros to count."""
    graph = read_graph(FILES / "float32.tflite")
    image = graph.tensors[graph.inputs[0]]
    assert (image.constant, image.raw_bytes, image.zeros, image.elements) == (False, 0, None, 128)


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "macs"),
    [
        ("CONV_2D", [(2, 8, 8, 3), (16, 3, 3, 3)], [(2, 4, 4, 16)], 2 * 4 * 4 * 16 * 27),
        ("CONV_2D", [(1, 4, 4, 8), (16, 1, 1, 4)], [(1, 4, 4, 16)], 4 * 4 * 16 * 4),  # 2 groups of 4 channels
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 4), (1, 5, 5, 8)], [(1, 8, 8, 8)], 8 * 8 * 8 * 25),  # multiplier 2
        ("FULLY_CONNECTED", [(7, 32), (10, 32), (10,)], [(7, 10)], 7 * 10 * 32),
        ("TRANSPOSE_CONV", [(4,), (6, 3, 3, 5), (1, 4, 4, 5)], [(1, 8, 8, 6)], 4 * 4 * 5 * 6 * 9),
        ("BATCH_MATMUL", [(2, 5, 7), (2, 7, 3)], [(2, 5, 3)], 2 * 5 * 3 * 7),
        ("CONV_3D", [(1, 4, 8, 8, 2), (3, 3, 3, 2, 5)], [(1, 4, 8, 8, 5)], 4 * 8 * 8 * 5 * 2 * 27),
        ("CONV_3D_TRANSPOSE", [(5,), (2, 2, 2, 6, 3), (1, 4, 4, 4, 3)], [(1, 8, 8, 8, 6)], 64 * 3 * 6 * 8),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", [(1, 9, 3)] + [(5, 3)] * 4 + [(5, 5)] * 4, [(1, 9, 5)], 9 * 4 * (15 + 25)),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", [(1, 9, 3), ()] + [(5, 3)] * 3 + [()] + [(5, 5)] * 3, [()], 9 * 3 * (15 + 25)),
        ("ADD", [(1, 8, 8, 4), (4,)], [(1, 8, 8, 4)], 0),
        ("GATHER", [(1000, 16), (2,)], [(2, 16)], 0),
    ],
)
def test_macs_of_an_operation(kind: str, inputs: list[Any], outputs: list[Any], macs: int) -> None:
    """Each MAC count was multiplied out by hand from the definition of the operation."""
    assert count_macs(kind, inputs, outputs) == macs


def test_an_adjoint_left_operand_is_reduced_along_its_rows() -> None:
    """BATCH_MATMUL with adj_x contracts the second last axis of x: 5*3 outputs of 7 products."""
    assert count_macs("BATCH_MATMUL", [(7, 5), (7, 3)], [(5, 3)], adjoint_x=True) == 105


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_negative_zero_is_a_zero_and_nan_is_not(dtype: str) -> None:
    """0.0, -0.0, NaN, the smallest denormal and -1: two zeros."""
    values = np.array([0.0, -0.0, np.nan, np.finfo(dtype).smallest_subnormal, -1.0], dtype)
    assert count_zeros(values.view(np.uint8), dtype, (5,)) == 2


def test_bfloat16_and_complex_zeros() -> None:
    """bfloat16 0x8000 is -0.0; a complex number is zero when both its parts are."""
    assert count_zeros(np.array([0x0000, 0x8000, 0x3F80], "<u2").view(np.uint8), "bfloat16", (3,)) == 2
    assert count_zeros(np.array([0, -0.0 + 0j, 1j, 1], np.complex64).view(np.uint8), "complex64", (4,)) == 2


def test_a_quantized_zero_is_the_zero_point() -> None:
    """With zero point 7, the stored 7 means 0.0 and the stored 0 does not."""
    stored = np.array([7, 7, 0, -7], np.int8)
    assert count_zeros(stored.view(np.uint8), "int8", (4,), zero_points=(7,)) == 2
    assert count_zeros(stored.view(np.uint8), "int8", (4,)) == 1


def test_zero_points_per_channel() -> None:
    """(2, 3) with zero points 1 and 2 by row: 1 1 2 | 2 1 2 has 2 + 2 zeros; by column with 1, 1, 2 it has 3 + 2."""
    raw = np.array([[1, 1, 2], [2, 1, 2]], np.uint8).reshape(-1)
    assert count_zeros(raw, "uint8", (2, 3), zero_points=(1, 2), axis=0) == 4
    assert count_zeros(raw, "uint8", (2, 3), zero_points=(1, 1, 2), axis=1) == 5


def test_int4_is_packed_low_half_first() -> None:
    """0x8F and 0x07 hold -1, -8, 7 and, past the third element, padding that is not counted."""
    raw = np.array([0x8F, 0x07], np.uint8)
    assert dense_values(raw, "int4", 3).tolist() == [-1, -8, 7]
    assert count_zeros(raw, "int4", (3,)) == 0
    assert count_zeros(np.array([0x10, 0x00], np.uint8), "int4", (3,)) == 2


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=33))
def test_int4_unpacks_to_what_was_packed(values: list[int]) -> None:
    """Packing two a byte and unpacking is the identity."""
    padded = [*values, 0][: len(values) + len(values) % 2]
    raw = bytes((low & 15) | (high & 15) << 4 for low, high in zip(padded[::2], padded[1::2], strict=True))
    unpacked = dense_values(np.frombuffer(raw, np.uint8), "int4", len(values))
    assert unpacked.tolist() == values


DTYPES = [
    "bfloat16",
    "bool",
    "complex128",
    "complex64",
    "float16",
    "float32",
    "float64",
    "float8_e4m3fn",
    "float8_e5m2",
    "int16",
    "int2",
    "int32",
    "int4",
    "int64",
    "int8",
    "uint16",
    "uint32",
    "uint4",
    "uint64",
    "uint8",
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_bytes_zero_means_all_elements_zero(dtype: str) -> None:
    """Holds for each of the element types."""
    assert count_zeros(np.zeros(element_bits(dtype), np.uint8), dtype, (8,)) == 8


def test_merged_buffers_count_once(tmp_path: Path) -> None:
    """Two layers that read the same 12 floats have 12 parameters and 24 MACs."""
    kernel = TensorSpec(shape=(3, 4), buffer=1)
    graph = GraphSpec(
        tensors=(TensorSpec(shape=(1, 4)), kernel, TensorSpec(shape=(1, 3)), kernel, TensorSpec(shape=(1, 3))),
        ops=(dense_op(), dense_op((0, 3), (4,))),
    )
    read = read_graph(write(tmp_path / "m.tflite", graph, buffers=[b"", np.eye(3, 4, dtype="<f4").tobytes()]))
    assert (read.parameters, read.weight_zeros, read.macs) == (12, 9, 24)


def test_a_buffer_may_lie_behind_the_flatbuffer(tmp_path: Path) -> None:
    """The layout of files above 2 GB: the kernel's 12 float32 stand at an absolute offset."""
    path = write(tmp_path / "m.tflite", dense_graph(TensorSpec(shape=(3, 4), buffer=1)), buffers=[b"", (4096, 48)])
    content = path.read_bytes()
    path.write_bytes(content.ljust(4096, b"\0") + np.eye(3, 4, dtype="<f4").tobytes())
    assert read_graph(path).weight_zeros == 9
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="cut short"):
        read_graph(path)


def test_other_signatures_do_not_add_to_the_macs(tmp_path: Path) -> None:
    """Subgraph 1 is an entry point of its own; subgraph 2, a loop body, belongs to the first: 2 * 12 MACs."""
    layer = dense_graph(TensorSpec(shape=(3, 4)))
    signatures = [("prefill", 0), ("decode", 1)]
    graph = read_graph(write(tmp_path / "m.tflite", layer, layer, layer, signatures=signatures))
    assert graph.macs == 24
    assert [(s.name, s.subgraph) for s in graph.signatures] == signatures
    assert [op.inputs for op in graph.ops] == [(0, 1), (3, 4), (6, 7)]


def test_bias_arithmetic_counts_and_shape_arithmetic_does_not(tmp_path: Path) -> None:
    """ADD with 3 floats adds parameters; ADD with an int32 vector or with one scalar does not."""
    add = tflite.BuiltinOperator.ADD
    graph = GraphSpec(
        tensors=(
            TensorSpec(shape=(1, 3)),
            TensorSpec(shape=(3,), buffer=1),
            TensorSpec(shape=(3,), buffer=2, dtype=tflite.TensorType.INT32),
            TensorSpec(shape=(), buffer=3),
        ),
        ops=tuple(OpSpec(kind=add, inputs=(0, i), outputs=(0,)) for i in (1, 2, 3)),
    )
    buffers = [b"", b"\1" * 12, b"\1" * 12, b"\1" * 4]
    read = read_graph(write(tmp_path / "m.tflite", graph, buffers=buffers))
    assert (read.parameters, read.weights, read.sparsity) == (3, (), None)


def test_names_are_made_printable(tmp_path: Path) -> None:
    """A terminal escape or a line break in a name is shown, not sent to the terminal."""
    tensors = (TensorSpec(shape=(1,), name="a\x1b[31m\nb"), TensorSpec(shape=(1,), name=b"\xff"))
    graph = GraphSpec(tensors=tensors, ops=(OpSpec(kind="My\tOp", inputs=(0, -1), outputs=(1,)),))
    read = read_graph(write(tmp_path / "m.tflite", graph))
    assert [t.name for t in read.tensors] == ["a\\x1b[31m\\nb", "\\xff"]
    assert (read.ops[0].kind, read.ops[0].inputs) == ("My\\tOp", (0, -1))


# --- what a broken file gets ----------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(InputError) as caught:
        read_graph(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def read_or_refuse(path: Path) -> None:
    """Any outcome but a graph or one line fails the test."""
    message = ""
    try:
        read_graph(path)
    except EdgepruneError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"TFL", "not a TFLite file"),
        (b"a text about a model, nothing more", "not a TFLite file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "not a TFLite file"),
        (struct.pack("<I4s", 8, b"TFL3"), "broken"),
        (struct.pack("<I4s", 0xFFFFFFFF, b"TFL3"), "broken"),
        (struct.pack("<I4s", 0, b"TFL3") * 8, "broken"),
    ],
)
def test_what_is_no_tflite_is_refused_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    """Nothing, too little, text, another format, a root offset into nowhere or onto itself."""
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    assert reason in refusal(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    """The line says which of the two it is."""
    (tmp_path / "folder.tflite").mkdir()
    assert "is a folder; name a .tflite file" in refusal(tmp_path / "folder.tflite")
    assert "does not exist" in refusal(tmp_path / "none.tflite")


@pytest.mark.parametrize("claim", [0x7FFFFFFF, 0xFFFFFFFF, 1 << 20])
def test_a_forged_length_anywhere_costs_nothing(tmp_path: Path, claim: int) -> None:
    """Every fourth word in turn claims to be huge; each file is read or refused, with no loop over the claim."""
    content = bytearray((FILES / "float32_sparse.tflite").read_bytes())
    path = tmp_path / "m.tflite"
    for place in range(8, len(content) - 4, 16):
        forged = bytearray(content)
        struct.pack_into("<I", forged, place, claim)
        path.write_bytes(forged)
        read_or_refuse(path)


def test_every_truncation_is_read_or_refused(tmp_path: Path) -> None:
    """A download that broke off never ends in another exception."""
    content, path = (FILES / "int8.tflite").read_bytes(), tmp_path / "m.tflite"
    for size in range(8, len(content), 61):
        path.write_bytes(content[:size])
        assert "broken" in refusal(path)


def test_flipped_bytes_are_read_or_refused(tmp_path: Path) -> None:
    """600 files with up to 16 random bytes changed: a Graph or one line."""
    rng, path = random.Random(7), tmp_path / "m.tflite"
    contents = [(FILES / f"{name}.tflite").read_bytes() for name in PRECISIONS]
    for _ in range(600):
        flipped = bytearray(rng.choice(contents))
        for _ in range(rng.choice([1, 4, 16])):
            flipped[rng.randrange(8, len(flipped))] = rng.randrange(256)
        path.write_bytes(flipped)
        read_or_refuse(path)


def test_tables_listed_over_and_over_are_refused(tmp_path: Path) -> None:
    """A 50 kB file lists one subgraph of 500 bare tensors 1000 times: half a million tensors are not read."""
    graph = GraphSpec(tensors=(TensorSpec(shape=(), name=""),) * 500)
    path = write(tmp_path / "m.tflite", graph, repeat=1000)
    assert "have no room" in refusal(path)


def test_a_shape_of_a_thousand_axes_is_refused(tmp_path: Path) -> None:
    """Its product would have tens of thousands of digits."""
    graph = GraphSpec(tensors=(TensorSpec(shape=(2**31 - 1,) * 1000),))
    assert "impossible shape" in refusal(write(tmp_path / "m.tflite", graph))


def test_a_ring_of_dequantize_ends(tmp_path: Path) -> None:
    """Kernel 1 comes from 3, and 3 from 1: there is no constant, and no endless walk."""
    ring = tuple(OpSpec(kind=tflite.BuiltinOperator.DEQUANTIZE, inputs=(a,), outputs=(b,)) for a, b in ((1, 3), (3, 1)))
    graph = GraphSpec(
        tensors=(
            TensorSpec(shape=(1, 4)),
            TensorSpec(shape=(3, 4)),
            TensorSpec(shape=(1, 3)),
            TensorSpec(shape=(3, 4)),
        ),
        ops=(*ring, dense_op()),
    )
    assert read_graph(write(tmp_path / "m.tflite", graph)).weights == ()


def test_a_quantized_kernel_of_open_rank(tmp_path: Path) -> None:
    """Files of quantization-aware training give no shape behind QUANTIZE and DEQUANTIZE: it is that of what goes in."""
    steps = ((tflite.BuiltinOperator.QUANTIZE, 3, 4), (tflite.BuiltinOperator.DEQUANTIZE, 4, 1))
    ops = (*(OpSpec(kind=kind, inputs=(a,), outputs=(b,)) for kind, a, b in steps), dense_op())
    tensors = (
        *(TensorSpec(shape=shape) for shape in ((1, 4), (), (1, 3))),
        TensorSpec(shape=(3, 4), buffer=1),
        TensorSpec(shape=(), dtype=tflite.TensorType.UINT8),
    )
    graph = read_graph(write(tmp_path / "m.tflite", GraphSpec(tensors=tensors, ops=ops), buffers=[b"", bytes(48)]))
    assert [tensor.shape for tensor in graph.tensors] == [(1, 4), (3, 4), (1, 3), (3, 4), (3, 4)]
    assert (graph.macs, graph.tensors[1].elements) == (12, 12)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (dense_graph(TensorSpec(shape=(3, 4), buffer=9)), "buffer refers to number 9"),
        (dense_graph(TensorSpec(shape=(3, 4), buffer=1)), "5 bytes do not hold 12 elements of float32"),
        (dense_graph(TensorSpec(shape=(5,), buffer=1, dtype=tflite.TensorType.INT8)), "too few dimensions"),
        (dense_graph(TensorSpec(shape=(3, 4)), ops=(dense_op((0, 7)),)), "FULLY_CONNECTED refers to number 7"),
        (dense_graph(TensorSpec(shape=(3, 4)), ops=(dense_op((0,)),)), "lacks an input"),
        (dense_graph(TensorSpec(shape=(3, -4))), "impossible shape"),
        (GraphSpec(tensors=(TensorSpec(shape=(1,)),), inputs=(-1,)), "input of the graph refers to number -1"),
        (
            dense_graph(TensorSpec(shape=(5, 1), buffer=1, dtype=tflite.TensorType.INT8, zero_points=(1, 2))),
            "2 zero points do not fit axis 0",
        ),
    ],
)
def test_an_inconsistent_graph_is_refused(tmp_path: Path, graph: GraphSpec, reason: str) -> None:
    """The line names what does not fit."""
    assert reason in refusal(write(tmp_path / "m.tflite", graph, buffers=[b"", b"12345"]))


def test_no_graph_and_an_old_schema_are_refused(tmp_path: Path) -> None:
    """A file without subgraphs, and one of schema version 2."""
    assert "holds no graph" in refusal(write(tmp_path / "m.tflite"))
    assert "schema version is 2" in refusal(
        write(tmp_path / "m.tflite", dense_graph(TensorSpec(shape=(3, 4))), version=2)
    )


def test_an_unknown_element_type_is_unsupported(tmp_path: Path) -> None:
    """A constant of a type newer than this reader cannot be counted; as an activation it is no obstacle."""
    path = write(
        tmp_path / "m.tflite", dense_graph(TensorSpec(shape=(3, 4), buffer=1, dtype=99)), buffers=[b"", b"123"]
    )
    with pytest.raises(Unsupported, match="type_99"):
        read_graph(path)
    assert read_graph(write(path, dense_graph(TensorSpec(shape=(3, 4), dtype=99)))).tensors[1].dtype == "type_99"


# --- the other formats ----------------------------------------------------------------------------------------------


def test_other_formats_are_sizes_only(tmp_path: Path) -> None:
    """They exist and can be sized, so they are unsupported (exit 3), not broken (exit 4)."""
    with pytest.raises(Unsupported, match="sizes only: the graph of this format is not read"):
        read_graph(FILES / "half.mlpackage")
    with pytest.raises(InputError, match="does not exist"):
        read_graph(tmp_path / "none.mlpackage")


def test_tflite_is_known_by_its_mark(tmp_path: Path) -> None:
    """A TFLite file of another name reads; a text or a folder of another name is no model."""
    path = tmp_path / "m.bin"
    path.write_bytes((FILES / "float32.tflite").read_bytes())
    assert read_graph(path).macs == 7872
    path.write_bytes(b"text")
    with pytest.raises(Unsupported, match="sizes only"):
        read_graph(path)
    with pytest.raises(InputError, match="is a folder and no model"):
        read_graph(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_graph(tmp_path / "none.bin")


def test_reading_imports_no_converter() -> None:
    """The checker must start at once: no TensorFlow, Keras or Core ML Tools behind it."""
    code = (
        "import sys; from pathlib import Path; from edgeprune.checker.size.account import account;"
        "account(Path(sys.argv[1]));"
        "print(sorted({'tensorflow', 'keras', 'coremltools', 'tf_keras'} & set(sys.modules)))"
    )
    command = [sys.executable, "-P", "-c", code, str(FILES / "float32.tflite")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_published_macs_of_mobilenet() -> None:
    """MobileNetV1 0.25 at 224 px: 41 M MACs and 0.5 M parameters (Howard et al. 2017, table 6)."""
    path = REAL_FILES / "imagenet_models" / "mobilenet_v1_0.25_224_1_default_1.tflite"
    if not path.exists():
        pytest.skip("published models are not here")
    graph = read_graph(path)
    assert graph.macs == 41_030_528
    assert graph.parameters == 467_593


def test_real_files_are_read_or_refused_in_one_line() -> None:
    """Some 240 small files by others: every .tflite is read; the .bin, some broken on purpose, may be refused."""
    folder = REAL_FILES / "tflite_small"
    if not folder.exists():
        pytest.skip("published models are not here")
    for path in sorted(folder.rglob("*.bin")):
        read_or_refuse(path)
    assert all(read_graph(path).tensors is not None for path in sorted(folder.rglob("*.tflite")))
