"""Core ML neural networks taken apart: weights in every encoding, pipelines, other models, and hostile files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from damage import POINTER, check_sound, cut, flipped, read_spoilt
from places import TESTS
from wire import fixed, number, piece, varint
from written_network import (
    ACTIVATION,
    BIDIRECTIONAL,
    BRANCH,
    CLASSIFIER,
    CONVOLUTION,
    CUSTOM,
    EMBEDDING,
    GRU,
    LOAD,
    LSTM,
    NETWORK,
    PIPELINE,
    PIPELINE_CLASSIFIER,
    SOFTMAX,
    TREES,
    dense,
    floats,
    layer,
    linear,
    model,
    table,
)

from edgeprune.errors import InputError
from edgeprune.formats import read_contents
from edgeprune.formats.contents import Contents, StoredArray
from edgeprune.formats.elements import unpack_bits

FILES = TESTS / "files"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a model is written."""
    return tmp_path / "m.mlmodel"


def read(path: Path, content: bytes) -> Contents:
    """Write, read and check."""
    path.write_bytes(content)
    contents = read_contents(path)
    check_sound(contents)
    stored = sum(array.stored_bytes for layer in contents.layers for array in layer.arrays)
    assert (contents.sections["weights"], contents.raw_bytes) == (stored, len(content))
    return contents


def only(contents: Contents) -> StoredArray:
    """The one array of a model."""
    (found,) = [array for layer in contents.layers for array in layer.arrays]
    return found


def test_classifier(place: Path) -> None:
    """Kernels of a convolution and a deconvolution, a slope, a layer without weights, labels."""
    kernel = number(1, 4) + number(2, 3) + number(10, 1) + piece(20, varint(1), varint(2))
    layers = [
        layer("c", CONVOLUTION, kernel, piece(90, floats(*range(24))), piece(91, floats(0, 0, 1, 2))),
        layer("t", CONVOLUTION, kernel, number(60, 1), piece(90, floats(*range(24)))),
        layer("p", ACTIVATION, piece(25, piece(1, floats(0.5, 0.0)))),
        layer("s", SOFTMAX),
        layer("z", 9999, b"\x08\x01"),
    ]
    labels = piece(1, "cat") + piece(1, "dog")
    contents = read(place, model(CLASSIFIER, *layers, piece(100, labels)))
    assert [(layer.name, layer.kind) for layer in contents.layers] == [
        ("c", "convolution"),
        ("t", "convolution"),
        ("p", "activation"),
        ("s", "softmax"),
        ("z", "layer type 9999"),
    ]
    told = [(array.name, array.shape, array.zeros) for layer in contents.layers for array in layer.arrays]
    assert told == [
        ("weights", (4, 3, 1, 2), 1),
        ("bias", (4,), 2),
        ("weights", (3, 4, 1, 2), 1),
        ("alpha", (2,), 1),
    ]
    assert contents.sections["weights"] == 4 * (24 + 4 + 24 + 2)
    assert contents.sections["metadata"] == len(labels) + 2 + len("tells something")
    assert (contents.macs, contents.complete, contents.note, contents.format) == (None, True, "", "mlmodel")


HALF = struct.pack("<6e", 0, -0.0, 1, 2, 3, 0)


@pytest.mark.parametrize(
    ("weights", "precision", "zeros", "stored_bytes"),
    [
        (floats(0, -0.0, 1, 2, 3, 4), "float32", 2, 24),
        (b"".join(fixed(1, struct.pack("<f", value)) for value in (0, 1, 2, 3, 4, 5)), "float32", 1, 24),
        (piece(2, HALF), "float16", 3, 12),
        # 0.5 * code - 1 is zero at code 2.
        (linear(bytes([2, 2, 0, 1, 255, 2]), 8, [0.5], [-1.0]), "uint8", 3, 6 + 8),
        # By row: zero at code 2 in the first, at code 4 in the second.
        (linear(bytes([2, 4, 0, 2, 4, 4]), 8, [0.5, 0.25], [-1.0, -1.0]), "uint8", 3, 6 + 16),
        # Codes of four bits, the first in the high ones: 1 0 2, 0 0 3.
        (linear(bytes([0x10, 0x20, 0x03]), 4, [0.5], [0.0]), "uint4", 3, 3 + 8),
        (linear(bytes([0, 255, 1, 0, 0, 9]), 8, [0.5], key=31), "int8", 3, 6 + 4),
        # Codes of two bits: 3 0 1 2, 0 3, and two that fill the byte.
        (table(bytes([0b11000110, 0b00110000]), 2, [0.0, 1.0, 2.0, 0.0]), "palette2", 4, 2 + 16),
        (table(bytes([0b10110100]), 1, [0.0, 1.0]), "palette1", 2, 1 + 8),
        # Three bits over the edges of bytes: 1 2 3, 1 4 1.
        (table(bytes([0b00101001, 0b10011000, 0b01000000]), 3, [9.0, 0.0, *[1.0] * 6]), "palette3", 3, 3 + 32),
    ],
)
def test_encodings(place: Path, weights: bytes, precision: str, zeros: int, stored_bytes: int) -> None:
    """Every way to keep a matrix of 2 x 3, its zeros when decoded, its bytes."""
    found = only(read(place, model(NETWORK, dense(weights))))
    assert (found.shape, found.precision, found.zeros) == ((2, 3), precision, zeros)
    assert found.stored_bytes == stored_bytes
    assert found.pieces[0].axis == 0


def test_codes_are_turned_round(place: Path) -> None:
    """Codes come out in the order of the rest of the program: the first in the lowest bits."""
    found = only(read(place, model(NETWORK, dense(table(bytes([0b00101001, 0b10011000, 0b01000000]), 3, [0.0] * 8)))))
    codes = unpack_bits(found.pieces[0].raw, 3, 6)
    assert (found.pieces[0].dtype, codes.tolist()) == ("uint3", [1, 2, 3, 1, 4, 1])


def test_long_rows_of_codes(place: Path) -> None:
    """Zeros are counted across the blocks that long rows are read in, at odd bits too."""
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 8, (3, 700_003)).astype(np.uint8)
    bits = np.unpackbits(codes.reshape(-1, 1), axis=1)[:, 5:].reshape(-1)
    weights = linear(np.packbits(bits).tobytes(), 3, [1.0, 0.5, 2.0], [0.0, -1.5, -1.0])
    found = only(read(place, model(NETWORK, dense(weights, into=700_003, out=3))))
    assert found.zeros == np.count_nonzero(codes[0] == 0) + np.count_nonzero(codes[1] == 3)


def test_shapes_that_do_not_fit(place: Path) -> None:
    """A shape that is not what is stored is not believed, and scales that fit no channel tell no zeros."""
    found = only(read(place, model(NETWORK, dense(floats(1, 2, 3, 4), into=1 << 31, out=1 << 31))))
    assert found.shape == (4,)
    found = only(read(place, model(NETWORK, dense(linear(bytes(6), 8, [1.0, 2.0, 3.0])))))
    assert found.zeros is None


def test_recurrent_layers(place: Path) -> None:
    """Gates of an LSTM in both directions and of a GRU, (out, in) each; a bias of zeros."""
    sizes = number(1, 2) + number(2, 1)
    weights = [piece(20, piece(1, floats(1, 0)), piece(20, floats(1)), piece(41, floats(0))) for _ in range(2)]
    gru = piece(31, floats(1, 2)) + piece(52, floats(3)) + piece(10, piece(25, piece(1, floats(7))))
    layers = [
        layer("a", BIDIRECTIONAL, sizes, *weights),
        layer("b", LSTM, sizes, weights[0]),
        layer("g", GRU, sizes, gru),
    ]
    contents = read(place, model(NETWORK, *layers))
    both, one, gates = contents.layers
    assert [(array.name, array.shape, array.zeros) for array in both.arrays] == [
        ("forward/inputGateWeightMatrix", (1, 2), 1),
        ("backward/inputGateWeightMatrix", (1, 2), 1),
        ("forward/inputGateRecursionMatrix", (1, 1), 0),
        ("backward/inputGateRecursionMatrix", (1, 1), 0),
        ("forward/forgetGateBiasVector", (1,), 1),
        ("backward/forgetGateBiasVector", (1,), 1),
    ]
    assert len(one.arrays) == 3
    names = ["resetGateWeightMatrix", "outputGateRecursionMatrix", "alpha"]
    assert [array.name for array in gates.arrays] == names


def test_custom_layers_constants_and_means(place: Path) -> None:
    """A custom layer's own bytes, a constant that is no parameter, a mean image before the network."""
    layers = [
        layer("mine", CUSTOM, piece(20, floats(1)), piece(20, piece(30, bytes(5)))),
        layer("k", LOAD, number(1, 2), number(1, 2), piece(2, floats(0, 1, 2, 3))),
        piece(2, piece(1, "image"), piece(11, piece(1, bytes(12)))),
    ]
    contents = read(place, model(NETWORK, *layers))
    means, mine, constant = contents.layers
    assert [(array.name, array.precision, array.zeros) for array in mine.arrays] == [
        ("weights", "float32", 0),
        ("weights 1", "uint8", None),
    ]
    assert (constant.arrays[0].shape, constant.arrays[0].parameter) == ((2, 2), False)
    assert (means.kind, means.arrays[0].elements, means.arrays[0].parameter) == ("preprocessing", 3, False)


def test_branches(place: Path) -> None:
    """Networks inside layers are groups; nested too deep they are refused."""
    body = dense(floats(1, 2, 3, 4, 5, 6), name="inner")
    contents = read(place, model(NETWORK, layer("b", BRANCH, piece(1, body), piece(2, body))))
    assert [layer.group for layer in contents.layers] == ["", "b.ifBranch", "b.elseBranch"]
    for _ in range(40):
        body = layer("b", BRANCH, piece(1, body))
    with pytest.raises(InputError, match="nested deeper"):
        read(place, model(NETWORK, body))


def test_pipelines(place: Path) -> None:
    """Models of a pipeline are groups; what is no network is named and sized."""
    network, trees = model(NETWORK, dense(floats(1, 2, 3, 4, 5, 6))), model(TREES, bytes(500))
    pipeline = piece(1, network) + piece(1, network)
    contents = read(place, model(PIPELINE, pipeline))
    assert [(layer.group, layer.name) for layer in contents.layers] == [("model 0", "dense"), ("model 1", "dense")]
    assert contents.complete
    contents = read(place, model(PIPELINE_CLASSIFIER, piece(1, piece(1, network), piece(1, trees))))
    assert (contents.complete, contents.sections["other"], contents.sections["weights"]) == (False, 500, 24)
    assert contents.note == "only sized, its layers are not known: a tree ensemble"
    deep = model(PIPELINE, piece(1, network))
    for _ in range(40):
        deep = model(PIPELINE, piece(1, deep))
    with pytest.raises(InputError, match="nested deeper"):
        read(place, deep)


@pytest.mark.parametrize(("kind", "told"), [(TREES, "a tree ensemble"), (555, "a custom model"), (888, "type 888")])
def test_other_models(place: Path, kind: int, told: str) -> None:
    """A model that is no network is sized honestly."""
    contents = read(place, model(kind, bytes(300)))
    assert (contents.complete, contents.layers) == (False, ())
    assert told in contents.note
    assert (contents.sections["other"], contents.sections["weights"]) == (300, 0)


def write_package(folder: Path, content: bytes) -> Path:
    """A package around a model."""
    inside = folder / "Data/com.apple.CoreML/model.mlmodel"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(content)
    entries = {"id": {"path": "com.apple.CoreML/model.mlmodel"}}
    manifest = {"rootModelIdentifier": "id", "itemInfoEntries": entries}
    (folder / "Manifest.json").write_text(json.dumps(manifest))
    return folder


def test_package(tmp_path: Path) -> None:
    """A package with a network: every file of it counts. A link in it is refused."""
    content = model(NETWORK, dense(floats(1, 2, 3, 4, 5, 6)))
    package = write_package(tmp_path / "m.mlpackage", content)
    (package / "notes.txt").write_text("0123456789")
    contents = read_contents(package)
    check_sound(contents)
    assert contents.files["Data/com.apple.CoreML/model.mlmodel"] == len(content)
    assert contents.raw_bytes == sum(contents.files.values())
    assert (contents.sections["other"], contents.format) == (10, "mlpackage")
    (package / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="link is a link"):
        read_contents(package)


# --- hostile files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (POINTER, "git lfs pull"),
        (b"hello world, this is text", "broken Core ML model"),
        (number(1, 4), "no model"),
        (model(NETWORK, dense(piece(1, bytes(7)))), "7 bytes"),
        (model(NETWORK, dense(piece(2, bytes(7)))), "7 bytes"),
        (model(NETWORK, dense(floats(1) + piece(2, bytes(2)))), "in 2 ways"),
        (model(NETWORK, dense(linear(bytes(6), 9, [1.0]))), "9 bits"),
        (model(NETWORK, dense(linear(bytes(6), 4, [1.0], key=31))), "4 bits"),
        (model(NETWORK, dense(linear(bytes(6), 8, []))), "decodes"),
        (model(NETWORK, dense(table(bytes(6), 2, [1.0] * 5))), "table of 5"),
        (model(NETWORK, dense(table(bytes(6), 2, []))), "table of 0"),
    ],
)
def test_hostile(place: Path, content: bytes, words: str) -> None:
    """Claims that do not fit and other files are refused in one line."""
    with pytest.raises(InputError) as told:
        read(place, content)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_missing_file(tmp_path: Path) -> None:
    """No file, and a folder that is no package."""
    with pytest.raises(InputError, match="does not exist"):
        read_contents(tmp_path / "no.mlmodel")
    (tmp_path / "empty.mlpackage").mkdir()
    with pytest.raises(InputError, match=r"no Manifest\.json"):
        read_contents(tmp_path / "empty.mlpackage")


def test_spoilt_files(place: Path) -> None:
    """A file cut short or with changed bytes is refused or read soundly."""
    layers = [
        dense(linear(bytes(range(30)), 5, [0.5] * 4, [0.0] * 4), into=12, out=4),
        dense(table(bytes(9), 3, [0.0] * 8), into=8, out=3),
        layer("e", EMBEDDING, number(1, 3), number(2, 2), piece(20, piece(2, HALF))),
        layer("b", BRANCH, piece(1, dense(floats(1, 2, 3, 4, 5, 6)))),
    ]
    content = model(PIPELINE, piece(1, model(NETWORK, *layers)), piece(1, model(TREES, bytes(20))))
    assert read_spoilt(read_contents, place, cut(content)) >= 15
    refused = read_spoilt(read_contents, place, flipped(content, 400))
    assert 40 < refused < 400


# --- against coremltools --------------------------------------------------------------------------------------------


def decoded(array: StoredArray, bits: int) -> np.ndarray:
    """float32 values of a convolution's codes, by its scales and offsets or its table."""
    codes = unpack_bits(array.pieces[0].raw, bits, array.elements) if bits < 8 else array.pieces[0].raw
    told = [piece.raw.view("<f4") for piece in array.pieces[1:]]
    if len(told) == 1:
        return told[0][codes]
    rows = codes.reshape(array.shape[0], -1).astype(np.float32)
    return (rows * told[0][:, None] + told[1][:, None]).reshape(-1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_against_coremltools(tmp_path: Path) -> None:
    """A network built and quantized by coremltools: shapes, bytes, and the weights that it decodes itself."""
    import coremltools as ct
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder, quantization_utils
    from coremltools.models.utils import save_spec

    rng = np.random.default_rng(0)
    builder = NeuralNetworkBuilder([("x", datatypes.Array(3, 8, 8))], [("y", None)], disable_rank5_shape_mapping=True)
    kernel = np.abs(rng.normal(size=(3, 3, 3, 4))).astype(np.float32)
    kernel[0] = 0
    builder.add_convolution(
        "c", 3, 4, 3, 3, 1, 1, "same", 1, kernel, np.zeros(4), True, input_name="x", output_name="a"
    )
    builder.add_reduce_mean("m", "a", "b", axes=[1, 2], keepdims=False)
    matrix = rng.normal(size=(5, 4)).astype(np.float32)
    builder.add_inner_product("d", matrix, np.ones(5), 4, 5, True, "b", "y")
    path = tmp_path / "m.mlmodel"
    save_spec(builder.spec, str(path))
    weights = {layer.name: layer.arrays[0] for layer in read(path, path.read_bytes()).layers if layer.arrays}
    assert (weights["c"].shape, weights["c"].zeros) == ((4, 3, 3, 3), 36)
    assert weights["c"].pieces[0].raw.view("<f4").tolist() == kernel.transpose(3, 2, 0, 1).reshape(-1).tolist()
    assert weights["d"].pieces[0].raw.view("<f4").reshape(5, 4).tolist() == matrix.tolist()
    linear_mode = ct.models._QUANTIZATION_MODE_LINEAR_QUANTIZATION
    table_mode = ct.models._QUANTIZATION_MODE_LOOKUP_TABLE_LINEAR
    for bits, mode in ((8, linear_mode), (5, linear_mode), (1, table_mode), (3, table_mode), (7, table_mode)):
        spec = type(builder.spec)()
        spec.CopyFrom(builder.spec)
        quantization_utils._quantize_spec_weights(spec, bits, mode)
        save_spec(spec, str(path))
        found = next(layer for layer in read(path, path.read_bytes()).layers if layer.name == "c").arrays[0]
        held = spec.neuralNetwork.layers[0].convolution.weights
        assert (found.shape, len(found.pieces[0].raw)) == ((4, 3, 3, 3), len(held.rawValue))
        assert found.precision == (f"uint{bits}" if mode == linear_mode else f"palette{bits}")
        values = decoded(found, bits)
        quantization_utils._dequantize_nn_spec(spec.neuralNetwork)
        np.testing.assert_allclose(values, np.asarray(held.floatValue, np.float32), rtol=1e-6)
        assert found.zeros == np.count_nonzero(np.asarray(held.floatValue) == 0) >= 36
