"""Compressed constants of Core ML programs against coremltools' own decoders, on random data and on real packages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.artifact import Precision
from edgeprune.converters import coreml
from edgeprune.converters.exports import TARGETS
from edgeprune.converters.frozen import FrozenGraph, freeze
from edgeprune.converters.packaging import AppOptions
from edgeprune.formats.coreml.constexpr import DECODERS, decode
from edgeprune.formats.coreml.mil_reader import read_coreml
from edgeprune.formats.coreml.storage import constants_of, storage_of

HALF, SINGLE = np.float16, np.float32


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers of `bits` bits in bytes, the first in the lowest bits, as iOS 16 stores them."""
    whole = sum(int(value) << (bits * place) for place, value in enumerate(values.reshape(-1)))
    return np.frombuffer(whole.to_bytes(-(-bits * values.size // 8), "little"), np.uint8)


def same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal in type, shape and every bit."""
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(found, wanted)


# --- by hand --------------------------------------------------------------------------------------------------------


def test_a_table_by_hand() -> None:
    """Five indexes 0, 3, 2, 1, 3 of two bits in two bytes, the first in the lowest bits."""
    parts = {"lut": np.array([1, 2, 4, 8], HALF), "indices": np.array([0b01101100, 0b11], np.uint8), "shape": [5]}
    assert decode("constexpr_lut_to_dense", parts)[0].tolist() == [1, 8, 4, 2, 8]


def test_a_mask_by_hand() -> None:
    """Bits 2, 3 and 8 of a mask are the places of the values."""
    parts = {"mask": np.array([0b1100, 1], np.uint8), "nonzero_data": np.array([5, 6, 7], np.int8), "shape": [3, 3]}
    assert decode("constexpr_sparse_to_dense", parts)[0].tolist() == [[0, 0, 5], [6, 0, 0], [0, 0, 7]]


def test_blocks_by_hand() -> None:
    """Of four columns in two blocks, each has scale and offset of its block."""
    data = np.array([[1, 2, 3, 4]], np.int8)
    parts = {"data": data, "scale": np.array([[2, 10]], HALF), "offset": np.array([[1, 3]], np.int8)}
    assert decode("constexpr_blockwise_shift_scale", parts)[0].tolist() == [[0, 2, 0, 10]]


def test_a_zero_point_by_hand() -> None:
    """scale * (value - zero point), one of each for every row; uint8 does not wrap round."""
    parts = {
        "quantized_data": np.array([[0, 1], [254, 255]], np.uint8),
        "zero_point": np.array([1, 255], np.uint8),
        "scale": np.array([0.5, 2], SINGLE),
        "axis": 0,
    }
    assert decode("constexpr_affine_dequantize", parts)[0].tolist() == [[-0.5, 0], [-2, 0]]


def test_vectors_by_hand() -> None:
    """Each index becomes a pair along the rows: indexes 1 and 0 in a row make two rows."""
    lut = np.array([[1, 2], [3, 4]], HALF).reshape(1, 1, 2, 2)
    parts = {"indices": np.array([[1, 0]], np.uint8), "lut": lut, "vector_axis": 0}
    assert decode("constexpr_lut_to_dense", parts)[0].tolist() == [[3, 1], [4, 2]]
    assert decode("constexpr_lut_to_dense", {**parts, "vector_axis": -1})[0].tolist() == [[3, 4, 1, 2]]


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("constexpr_sparse_to_dense", {"mask": np.array([7], np.uint8), "nonzero_data": np.ones(2), "shape": [3]}),
        ("constexpr_sparse_to_dense", {"mask": np.array([7], np.uint8), "nonzero_data": np.ones(3), "shape": [9]}),
        ("constexpr_lut_to_dense", {"indices": np.zeros(1, np.uint8), "lut": np.ones(4), "shape": [5]}),
        ("constexpr_blockwise_shift_scale", {"data": np.ones((2, 3)), "scale": np.ones((1, 2))}),
    ],
)
def test_sizes_that_do_not_fit(kind: str, parts: dict[str, Any]) -> None:
    """Too few values, bits or scales are refused."""
    with pytest.raises(ValueError, match=r"."):
        decode(kind, parts)


# --- against coremltools --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    """coremltools' operation classes: name for those of iOS 18, name with "16:" before it for those of iOS 16."""
    pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil.ops.defs.iOS16 import constexpr_ops
    from coremltools.converters.mil.mil.ops.defs.iOS18 import compression

    old = {f"16:{name}": getattr(constexpr_ops, name) for name in dir(constexpr_ops) if name.startswith("constexpr_")}
    return {**{name: getattr(compression, name) for name in DECODERS if hasattr(compression, name)}, **old}


@pytest.mark.slow
def test_every_decoder_is_known_to_coremltools(theirs: dict[str, Any]) -> None:
    """The table of decoders is the list of constexpr operations of iOS 16 and iOS 18."""
    assert {name.removeprefix("16:") for name in theirs} == set(DECODERS)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("out", [HALF, SINGLE])
@pytest.mark.parametrize("axis", [0, 1, -1, None])
def test_affine(theirs: dict[str, Any], dtype: Any, out: Any, axis: int | None) -> None:
    """iOS 16: scalars, and vectors along any axis; all values of the type appear."""
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype)
    data = rng.integers(info.min, info.max, (3, 5, 7), endpoint=True).astype(dtype)
    size = () if axis is None else (data.shape[axis],)
    scale, zero = rng.uniform(0.001, 0.1, size).astype(out), rng.integers(info.min, info.max, size).astype(dtype)
    parts = {"quantized_data": data, "zero_point": zero, "scale": scale, "axis": np.int32(axis or 0)}
    (found,) = decode("constexpr_affine_dequantize", parts)
    wanted = theirs["16:constexpr_affine_dequantize"].decompress(data, zero, scale, np.int32(axis or 0))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-3 if out is HALF else 1e-6)
    assert found.dtype == out


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 3, 5)])
@pytest.mark.parametrize("dtype", [np.int8, HALF, SINGLE])
def test_one_table(theirs: dict[str, Any], bits: int, shape: tuple[int, ...], dtype: Any) -> None:
    """iOS 16: tables of 2 to 256 values, sizes that do not fill the last byte."""
    rng = np.random.default_rng(bits)
    lut = (rng.normal(size=1 << bits) * 50).astype(dtype)
    indices = pack(rng.integers(0, 1 << bits, shape), bits)
    (found,) = decode("constexpr_lut_to_dense", {"lut": lut, "indices": indices, "shape": np.array(shape, np.uint32)})
    same(found, theirs["16:constexpr_lut_to_dense"].decompress(lut, indices, shape))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1,), (8,), (9,), (3, 5, 7)])
@pytest.mark.parametrize("dtype", [np.int8, HALF])
def test_one_mask(theirs: dict[str, Any], shape: tuple[int, ...], dtype: Any) -> None:
    """iOS 16: a mask of bits, of sizes that fill the last byte and that do not."""
    rng = np.random.default_rng(1)
    mask = rng.integers(0, 2, shape)
    values = np.arange(1, 1 + mask.sum()).astype(dtype)
    bits = pack(mask, 1)
    (found,) = decode("constexpr_sparse_to_dense", {"mask": bits, "nonzero_data": values, "shape": list(shape)})
    same(found, theirs["16:constexpr_sparse_to_dense"].decompress(values, bits, shape))


@pytest.mark.slow
def test_casts(theirs: dict[str, Any]) -> None:
    """float16 to float32, exactly."""
    values = np.random.default_rng(2).normal(size=(3, 5)).astype(HALF)
    (found,) = decode("constexpr_cast", {"source_val": values, "output_dtype": "fp32"})
    same(found, values.astype(SINGLE))


BLOCKS = [((4, 6), (4, 1)), ((4, 6), (1, 1)), ((4, 6), (2, 3)), ((3, 5, 2), (1, 5, 1)), ((6, 4, 3, 3), (3, 2, 1, 1))]


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "blocks"), BLOCKS)
@pytest.mark.parametrize("span", [(-8, 7), (0, 15), (-128, 127), (0, 255)])
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_scales_in_blocks(
    theirs: dict[str, Any],
    shape: tuple[int, ...],
    blocks: tuple[int, ...],
    span: tuple[int, int],
    offset: bool,
    sparse: bool,
) -> None:
    """iOS 18: int4, uint4, int8 and uint8 in blocks along all axes, with and without offsets, dense and sparse."""
    rng = np.random.default_rng(3)
    dtype = np.int8 if span[0] < 0 else np.uint8
    data = rng.integers(*span, shape, endpoint=True).astype(dtype)
    scale = rng.uniform(0.01, 0.1, blocks).astype(HALF)
    shift = rng.integers(*span, blocks, endpoint=True).astype(dtype) if offset else None
    given: dict[str, Any] = {"scale": scale, **({"offset": shift} if offset else {})}
    if not sparse:
        (found,) = decode("constexpr_blockwise_shift_scale", {"data": data, **given})
        same(found, theirs["constexpr_blockwise_shift_scale"].decompress(data, scale, shift))
        return
    mask = rng.integers(0, 2, shape).astype(np.uint8)
    name = "constexpr_sparse_blockwise_shift_scale"
    found = decode(name, {"data_mask": mask, "nonzero_data": data[mask != 0], **given})
    wanted = theirs[name].decompress(mask, data[mask != 0], scale, shift)
    same(found[0], wanted[0])
    same(found[1], wanted[1])


TABLES = [
    ((6, 2), (2, 1), 1, None),
    ((6, 2), (1, 1), 1, None),
    ((4, 3, 3), (2, 1, 3), 1, None),
    ((2, 2, 2), (1, 1, 1), 3, 1),
    ((2, 2, 2), (1, 1, 1), 3, -1),
    ((4, 6), (2, 3), 2, 0),
    ((4, 6), (2, 3), 2, 1),
    ((4, 2, 3, 1), (2, 1, 1, 1), 4, 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "groups", "length", "axis"), TABLES)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("sparse", [False, True])
def test_tables_in_groups(
    theirs: dict[str, Any],
    shape: tuple[int, ...],
    groups: tuple[int, ...],
    length: int,
    axis: int | None,
    bits: int,
    sparse: bool,
) -> None:
    """iOS 18: tables for groups along all axes, of single values and of vectors along any axis, dense and sparse."""
    rng = np.random.default_rng(4)
    lut = np.arange(math.prod(groups) * (1 << bits) * length).astype(SINGLE).reshape(*groups, 1 << bits, length)
    indices = rng.integers(0, 1 << bits, shape).astype(np.uint8)
    given: dict[str, Any] = {"lut": lut, **({} if axis is None else {"vector_axis": np.int32(axis)})}
    if not sparse:
        (found,) = decode("constexpr_lut_to_dense", {"indices": indices, **given})
        same(found, theirs["constexpr_lut_to_dense"].decompress(indices, lut, axis))
        return
    mask = rng.integers(0, 2, shape).astype(np.uint8)
    packed = indices[mask != 0]
    found = decode("constexpr_lut_to_sparse", {"indices_mask": mask, "indices_nonzero_data": packed, **given})
    wanted = theirs["constexpr_lut_to_sparse"].decompress(mask, packed, lut, axis)
    for ours, their in zip(found, wanted, strict=True):
        same(ours, their)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.int8, HALF])
def test_masks_of_elements(theirs: dict[str, Any], dtype: Any) -> None:
    """iOS 18: a mask with the shape of the result."""
    mask = np.random.default_rng(5).integers(0, 2, (3, 5, 7)).astype(np.uint8)
    values = np.arange(1, 1 + mask.sum(dtype=int)).astype(dtype)
    (found,) = decode("constexpr_sparse_to_dense", {"mask": mask, "nonzero_data": values})
    same(found, theirs["constexpr_sparse_to_dense"].decompress(values, mask))


# --- whole packages -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> FrozenGraph:
    """A convolution and two dense layers, 90 % of their weights zero."""
    x = keras.Input((6, 6, 4), name="x")
    h = keras.layers.Conv2D(16, 3, activation="relu")(x)
    h = keras.layers.Dense(12, activation="relu")(keras.layers.Flatten()(h))
    model = keras.Model(x, keras.layers.Dense(10, name="scores")(h))
    rng = np.random.default_rng(6)
    drawn = [rng.normal(0, 0.2, w.shape) for w in model.get_weights()]
    model.set_weights([w * (np.abs(w) > np.quantile(np.abs(w), 0.9)) if w.ndim > 1 else w for w in drawn])
    return freeze(model, tmp_path_factory.mktemp("frozen") / "graph.pb", unroll=True)


CASES = [
    *((precision, str(least)) for least, brought in TARGETS.items() for precision in brought),
    (Precision.INT8, "iOS18"),
    (Precision.PALETTE6, "iOS18"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the k-means, which finds fewer clusters
@pytest.mark.parametrize(("precision", "target"), CASES)
def test_packages_as_coremltools_reads_them(
    frozen: FrozenGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, target: str
) -> None:
    """Every constant of a real package, compressed or not, is what coremltools' own reader makes of it."""
    pytest.importorskip("coremltools")
    from coremltools.converters.mil.frontend.milproto import load
    from coremltools.proto import Model_pb2

    package = tmp_path / "m.mlpackage"
    monkeypatch.setattr(coreml, "_refuse_larger", lambda *_: None)  # so small a model gains nothing by a mask
    options, drawn = AppOptions(target=target), {"x": np.random.default_rng(7).normal(size=(4, 6, 6, 4))}
    coreml.convert_coreml(frozen, package, precision=str(precision), options=options, calibration=drawn)
    ours = constants_of(read_coreml(package))
    folder = package / "Data/com.apple.CoreML"
    spec = Model_pb2.Model.FromString((folder / "model.mlmodel").read_bytes())
    program = load.load(spec, spec.specificationVersion, str(folder / "weights"))
    (function,) = program.functions.values()
    checked = set()
    for operation in function.operations:
        if operation.op_type == "const":
            values: tuple[Any, ...] = (operation.outputs[0].val,)
        elif operation.op_type.startswith("constexpr_"):
            made = operation.materialized_val_inference()
            values = made if isinstance(made, tuple) else (made,)
        else:
            continue
        for variable, wanted in zip(operation.outputs, values, strict=True):
            if variable.name not in ours:  # it has names of its own for what is written inside another operation
                assert operation.op_type == "const"
                continue
            checked.add(variable.name)
            if isinstance(wanted, str):
                assert ours[variable.name] == wanted
                continue
            found, wanted = np.asarray(ours[variable.name]), np.asarray(wanted)
            assert found.shape == wanted.shape, variable.name
            np.testing.assert_array_equal(found.astype(np.float64), wanted.astype(np.float64), variable.name)
    assert checked == set(ours)
    assert len(checked) > 10
    storage = storage_of(read_coreml(package))
    kinds = {part for encoding in storage.encodings for part in encoding.split("+")}
    told = {"palette" if word.startswith("palette") else word for word in precision.replace("w8a8", "int8").split("-")}
    assert told <= kinds
    assert storage.elements == 36 * 16 + 256 * 12 + 120
