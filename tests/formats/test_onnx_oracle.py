"""The ONNX reader against the `onnx` package: types, shapes, values and MACs of several kinds of operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.formats import read_contents
from edgeprune.formats.contents import Contents, StoredArray
from edgeprune.formats.elements import PACKED_BITS, dense_values

RNG = np.random.default_rng(0)
PACKED = {"int4": TensorProto.INT4, "uint4": TensorProto.UINT4}


def weights(name: str, *shape: int, dtype: str = "float32") -> TensorProto:
    """Numbers with zeros among them."""
    values = RNG.integers(-3, 4, shape) if dtype[0] != "u" else RNG.integers(0, 4, shape)
    return numpy_helper.from_array(values.astype(dtype), name)


def saved(path: Path, nodes: Sequence[Any], tensors: Sequence[TensorProto], given: tuple[int, ...]) -> Path:
    """A checked model with one input x and one output y, whose shapes onnx has inferred."""
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(list(nodes), "g", ends, made, initializer=list(tensors))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def arrays(contents: Contents) -> dict[str, StoredArray]:
    """All arrays by name."""
    return {array.name: array for layer in contents.layers for array in layer.arrays}


def conv(path: Path) -> Path:
    """A strided convolution in two groups, then a pointwise one, with biases."""
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1], group=2),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "p"], ["y"]),
    ]
    return saved(path, nodes, [weights("k", 8, 2, 3, 3), weights("b", 8), weights("p", 5, 8, 1, 1)], (1, 4, 9, 9))


def gemm(path: Path) -> Path:
    """A transposed Gemm and a product with a constant."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["g"], transB=1),
        helper.make_node("MatMul", ["g", "m"], ["y"]),
    ]
    return saved(path, nodes, [weights("w", 7, 12), weights("b", 7), weights("m", 7, 3)], (2, 12))


def transposed(path: Path) -> Path:
    """A transposed convolution."""
    node = helper.make_node("ConvTranspose", ["x", "k"], ["y"], strides=[2, 2])
    return saved(path, [node], [weights("k", 3, 4, 2, 2)], (1, 3, 5, 5))


def recurrent(path: Path) -> Path:
    """An LSTM of 5 units over 4 steps."""
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=5)
    return saved(path, [node], [weights("w", 1, 20, 3), weights("r", 1, 20, 5), weights("b", 1, 40)], (4, 2, 3))


# Model -> its MACs by hand.
MODELS = {
    conv: 25 * 8 * 2 * 9 + 25 * 5 * 8,
    gemm: 2 * 7 * 12 + 2 * 3 * 7,
    transposed: 5 * 5 * 3 * 4 * 4,
    recurrent: 4 * 2 * (20 * 3 + 20 * 5),
}


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_initializers_and_shapes(tmp_path: Path, make: Any) -> None:
    """Names, types, shapes, values and zeros of every initializer; shapes of every output; MACs by hand."""
    path = make(tmp_path / "m.onnx")
    contents, told = read_contents(path), onnx.load(path)
    found = arrays(contents)
    assert set(found) == {tensor.name for tensor in told.graph.initializer}
    for tensor in told.graph.initializer:
        values, array = numpy_helper.to_array(tensor), found[tensor.name]
        (piece,) = array.pieces
        assert (array.shape, piece.dtype) == (values.shape, values.dtype.name)
        assert np.array_equal(dense_values(piece.raw, piece.dtype, values.size).reshape(values.shape), values)
        assert array.zeros == int(values.size - np.count_nonzero(values))
    shapes = {
        info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        for info in (*told.graph.value_info, *told.graph.output)
    }
    read = [shape for layer in contents.layers for shape in layer.outputs]
    assert read == [shapes[name] for node in told.graph.node for name in node.output]
    assert contents.macs == MODELS[make]


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int16", "int32", "int64", "uint64", "bool"])
@pytest.mark.parametrize("raw", [True, False])
def test_element_types(tmp_path: Path, dtype: str, raw: bool) -> None:
    """As raw bytes and as the list of numbers that the format has for each type."""
    values = RNG.integers(0, 3, (3, 5)).astype(dtype)
    number = helper.np_dtype_to_tensor_dtype(values.dtype)
    content = values.tobytes() if raw else values.reshape(-1).tolist()
    tensor = helper.make_tensor("t", number, values.shape, content, raw=raw)
    node = helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT)
    array = arrays(read_contents(saved(tmp_path / "m.onnx", [node], [tensor], (1,))))["t"]
    (piece,) = array.pieces
    assert (piece.dtype, array.shape, array.zeros) == (dtype, (3, 5), int((values == 0).sum()))
    if raw:
        assert np.array_equal(dense_values(piece.raw, dtype, 15).reshape(3, 5), values)


@pytest.mark.parametrize("dtype", PACKED)
@pytest.mark.parametrize("count", [7, 8])
def test_packed_integers(tmp_path: Path, dtype: str, count: int) -> None:
    """Two a byte, the first in the low half, as the package packs and unpacks them; an odd number, too."""
    values = [(3 * index) % 8 - (4 if dtype[0] == "i" else 0) for index in range(count)]
    tensor = helper.make_tensor("t", PACKED[dtype], (count,), values)
    nodes = [helper.make_node("DequantizeLinear", ["t", "s"], ["y"])]
    scale = numpy_helper.from_array(np.float32(0.5), "s")
    array = arrays(read_contents(saved(tmp_path / "m.onnx", nodes, [tensor, scale], (1,))))["t"]
    (piece,) = [piece for piece in array.pieces if piece.dtype == dtype]
    assert piece.dtype in PACKED_BITS
    assert len(piece.raw) == math.ceil(count / 2) <= piece.stored_bytes  # in a list of numbers, some take two bytes
    decoded = numpy_helper.to_array(onnx.load(tmp_path / "m.onnx").graph.initializer[0]).astype(int).tolist()
    assert dense_values(piece.raw, dtype, count).tolist() == decoded == values
    assert array.zeros == values.count(0)


def test_weights_in_a_file_beside_it(tmp_path: Path) -> None:
    """External data as the package writes it."""
    path = conv(tmp_path / "m.onnx")
    inside = read_contents(path)
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    outside = read_contents(path)
    assert set(outside.files) == {"m.onnx", "m.bin"}
    assert {name: array.zeros for name, array in arrays(outside).items()} == {
        name: array.zeros for name, array in arrays(inside).items()
    }
    assert outside.macs == inside.macs
