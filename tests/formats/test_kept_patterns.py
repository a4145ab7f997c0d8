"""How files of every format keep N:M along the inputs of one output; axes and zero points that are easy to confuse."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tflite
import written_mil as mil
import written_onnx as onnx
import written_tflite as flat
from places import TESTS
from wire import number, piece

from edgeprune.formats import read_contents
from edgeprune.formats.kept_patterns import KeptPattern, kept_patterns
from edgeprune.formats.pattern import Pattern

TWO_FOUR = Pattern(n=2, m=4)


def masked(inputs: int, outputs: int) -> np.ndarray:
    """float32 (inputs, outputs) that keeps 2:4 along the inputs, the zeros negative, and 0:4 along no output."""
    values = np.ones((inputs, outputs), "f4")
    values[1::2] = -0.0
    return values


def of(path: Path, pattern: Pattern = TWO_FOUR) -> dict[str, KeptPattern]:
    """By name of the array."""
    return {kept.array: kept for kept in kept_patterns(read_contents(path), pattern)}


def tflite_file(path: Path, kernel: np.ndarray, kind: int, points: tuple[int, ...] = ()) -> KeptPattern:
    """What is told of the kernel of one operation."""
    dtype = tflite.TensorType.FLOAT32 if kernel.dtype == "f4" else tflite.TensorType.UINT8
    shape = (1, 8) if kernel.ndim == 2 else (1, 1, 1, 8)
    spec = flat.TensorSpec(shape=kernel.shape, buffer=1, dtype=dtype, name="k", zero_points=points)
    ends = flat.TensorSpec(shape=shape), flat.TensorSpec(shape=(*shape[:-1], kernel.shape[0]))
    ops = (flat.OpSpec(kind=kind, inputs=(0, 1), outputs=(2,)),)
    graph = flat.GraphSpec(tensors=(ends[0], spec, ends[1]), ops=ops, outputs=(2,))
    flat.write(path, graph, buffers=(b"", kernel.tobytes()))
    return of(path)["k"]


def test_inputs_of_tflite_kernels_are_last(tmp_path: Path) -> None:
    """(out, in) and (out, h, w, in): the same numbers the other way round break the pattern."""
    op = tflite.BuiltinOperator
    kept = tflite_file(tmp_path / "d.tflite", np.ascontiguousarray(masked(8, 12).T), op.FULLY_CONNECTED)
    assert (kept.inputs, kept.outputs, kept.groups, kept.violations, kept.kept) == (8, 12, 24, 0, True)
    broken = tflite_file(tmp_path / "b.tflite", masked(12, 8), op.FULLY_CONNECTED)
    assert (broken.groups, broken.violations, broken.kept) == (24, 12, False)
    convolution = np.ascontiguousarray(masked(8, 12).T).reshape(12, 1, 1, 8)
    assert tflite_file(tmp_path / "c.tflite", convolution, op.CONV_2D).kept is True


def test_depthwise_tables_and_inputs_that_do_not_fit_are_skipped_with_the_reason(tmp_path: Path) -> None:
    op = tflite.BuiltinOperator
    depthwise = tflite_file(tmp_path / "d.tflite", np.ones((1, 1, 1, 8), "f4"), op.DEPTHWISE_CONV_2D)
    assert depthwise.kept is None
    assert "depthwise" in depthwise.skipped
    odd = tflite_file(tmp_path / "o.tflite", np.zeros((8, 6), "f4"), op.FULLY_CONNECTED)
    assert odd.skipped == "6 inputs are no multiple of 4"
    assert tflite_file(tmp_path / "e.tflite", np.zeros((8, 8), "f4"), op.EMBEDDING_LOOKUP).skipped.startswith(
        "an embedding"
    )


@pytest.mark.parametrize(("point", "kept"), [(7, True), (9, False)])
def test_an_integer_is_zero_where_it_is_its_zero_point(tmp_path: Path, point: int, kept: bool) -> None:
    kernel = np.full((12, 8, 1, 1), 7, "u1")
    kernel[:, ::4] = 9
    node = onnx.node("ConvInteger", ["x", "k", "", "p"], ["y"])
    tensors = [
        onnx.tensor("k", onnx.UINT8, kernel.shape, onnx.raw(kernel.tobytes())),
        onnx.tensor("p", onnx.UINT8, (), onnx.raw(bytes([point]))),
    ]
    (tmp_path / "m.onnx").write_bytes(onnx.model(onnx.graph([node], tensors)))
    assert of(tmp_path / "m.onnx")["k"].kept is kept


def test_zero_points_of_a_tflite_file_count(tmp_path: Path) -> None:
    """The committed integer file: what is counted as zero is what the reader counts as zero."""
    for name in ("int8", "float32", "float16"):
        contents = read_contents(TESTS / "files" / f"{name}.tflite")
        counted = [kept for kept in kept_patterns(contents, Pattern(n=1, m=2)) if kept.groups]
        assert counted, name
        assert all(not kept.skipped for kept in counted)


ONNX_CASES: list[tuple[str, list[str], tuple[int, ...], list[bytes], bool]] = [
    ("Conv", ["x", "k"], (12, 8, 1, 1), [], True),
    ("ConvTranspose", ["x", "k"], (8, 12, 1, 1), [], False),
    ("MatMul", ["x", "k"], (8, 12), [], False),
    ("MatMul", ["k", "x"], (12, 8), [], True),
    ("Gemm", ["x", "k"], (8, 12), [], False),
    ("Gemm", ["x", "k"], (12, 8), [onnx.attribute("transB", number(3, 1))], True),
]


@pytest.mark.parametrize(("kind", "inputs", "shape", "more", "turned"), ONNX_CASES)
def test_inputs_of_onnx_operators(
    tmp_path: Path, kind: str, inputs: list[str], shape: tuple[int, ...], more: list[bytes], turned: bool
) -> None:
    values = masked(8, 12).T if turned else masked(8, 12)
    kernel = onnx.tensor("k", onnx.FLOAT, shape, onnx.raw(np.ascontiguousarray(values).tobytes()))
    (tmp_path / "m.onnx").write_bytes(onnx.model(onnx.graph([onnx.node(kind, inputs, ["y"], *more)], [kernel])))
    kept = of(tmp_path / "m.onnx")["k"]
    assert (kept.inputs, kept.outputs, kept.groups, kept.violations) == (8, 12, 24, 0)


def test_a_kernel_whose_axes_were_moved_is_not_guessed_at(tmp_path: Path) -> None:
    kernel = onnx.tensor("k", onnx.FLOAT, (8, 12), onnx.raw(masked(8, 12).tobytes()))
    nodes = [onnx.node("Transpose", ["k"], ["t"]), onnx.node("MatMul", ["x", "t"], ["y"])]
    (tmp_path / "m.onnx").write_bytes(onnx.model(onnx.graph(nodes, [kernel])))
    assert of(tmp_path / "m.onnx")["k"].skipped == "which axis its inputs are on is not known"


@pytest.mark.parametrize("turned", [False, True])
def test_a_product_of_core_ml_by_its_transposition(tmp_path: Path, turned: bool) -> None:
    shape = (12, 8) if turned else (8, 12)
    values = np.ascontiguousarray(masked(8, 12).T if turned else masked(8, 12))
    kind, truth = mil.tensor_type(mil.FLOAT32, *shape), number(1, int(turned))
    made = [
        mil.constant("k", kind, mil.immediate(1, struct.pack("<96f", *values.reshape(-1)))),
        mil.constant("t", piece(1, number(1, 1)), piece(3, piece(1, piece(3, truth)))),
    ]
    bound = [piece(2, piece(1, key), piece(2, piece(1, piece(1, name)))) for key, name in BINDINGS]
    product = piece(1, "matmul") + b"".join(bound)
    output = piece(3, piece(1, "out"), piece(2, mil.tensor_type(mil.FLOAT32, 1, 12)))
    (tmp_path / "m.mlmodel").write_bytes(mil.model(*made, product + output, outputs=["out"]))
    kept = of(tmp_path / "m.mlmodel")["k"]
    assert (kept.inputs, kept.outputs, kept.violations, kept.kept) == (8, 12, 0, True)


BINDINGS = [("x", "x"), ("y", "k"), ("transpose_y", "t")]


def test_compressed_core_ml_is_decoded() -> None:
    """The committed packages: an answer for each weight, and for the compressed ones, too."""
    for name in ("sparse_int8", "palette4", "int4", "half"):
        found = of(TESTS / "files" / f"{name}.mlpackage")
        assert any(kept.groups for kept in found.values()), name
        assert not any("not decoded" in kept.skipped for kept in found.values()), name


def write_keras(path: Path, layers: dict[str, tuple[str, dict[str, np.ndarray]]]) -> Path:
    """A legacy .h5 with these kernels by layer."""
    import json

    config: list[Any] = [{"class_name": kind, "config": {"name": name}} for name, (kind, _) in layers.items()]
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": {"name": "m", "layers": config}})
        for name, (_, arrays) in layers.items():
            for label, values in arrays.items():
                file[f"model_weights/{name}/{name}/{label}:0"] = values
    return path


def test_inputs_of_keras_kernels(tmp_path: Path) -> None:
    """(.., in, out), of a transposed convolution (.., out, in)."""
    path = write_keras(
        tmp_path / "m.h5",
        {
            "d": ("Dense", {"kernel": masked(8, 12)}),
            "t": ("Conv2DTranspose", {"kernel": masked(8, 12).T.reshape(1, 1, 12, 8)}),
            "w": ("DepthwiseConv2D", {"depthwise_kernel": np.ones((1, 1, 8, 1), "f4")}),
            "e": ("Embedding", {"embeddings": np.ones((8, 8), "f4")}),
            "q": ("EinsumDense", {"kernel": np.ones((8, 8), "f4")}),
        },
    )
    found = {kept.layer: kept for kept in kept_patterns(read_contents(path), TWO_FOUR)}
    assert found["d"].kept is True
    assert (found["t"].inputs, found["t"].outputs, found["t"].kept) == (8, 12, True)
    assert "depthwise" in found["w"].skipped
    assert "embedding" in found["e"].skipped
    assert "not known" in found["q"].skipped


def test_sparse_storage_that_is_not_decoded_is_skipped_and_never_kept() -> None:
    found = of(TESTS / "files" / "float32_sparse.tflite").values()
    assert any("not decoded" in kept.skipped for kept in found)
    assert all(kept.kept is None for kept in found if kept.skipped)
