"""Packages from coremltools, read back and evaluated: names, numbers, zeros, pictures, labels, and what goes wrong."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.artifact import Artifact, Format, Precision
from edgeprune.converters import evaluation
from edgeprune.converters.evaluation import evaluate_file
from edgeprune.converters.evaluator import program
from edgeprune.converters.packaging import AppOptions, check_words, read_labels
from edgeprune.converters.pictures import pixels_of
from edgeprune.errors import ConversionError, InputError, UsageError
from edgeprune.formats import read_contents
from edgeprune.formats.coreml.mil_reader import read_coreml
from edgeprune.formats.coreml.storage import constants_of, storage_of
from edgeprune.formats.metadata import ImageInput, check_ends
from edgeprune.maker.keras.models import input_specs, output_shapes, predict
from edgeprune.maker.pruning.magnitude import prune_magnitude
from edgeprune.maker.pruning.options import MagnitudeOptions
from edgeprune.maker.training.data.samples import Samples

pytestmark = pytest.mark.slow

# Precision -> smallest SQNR, decibels, of the small image model (three quarters of its kernels are zero).
PRECISIONS = {
    Precision.FLOAT32: 100,
    Precision.FLOAT16: 50,
    Precision.INT8: 30,
    Precision.INT4: 15,
    Precision.W8A8: 30,
    Precision.PALETTE2: 3,
    Precision.PALETTE4: 15,
    Precision.PALETTE6: 30,
    Precision.SPARSE: 50,
    Precision.SPARSE_INT8: 30,
    Precision.SPARSE_W8A8: 30,
    Precision.SPARSE_PALETTE4: 15,
}


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """coremltools is there."""
    pytest.importorskip("coremltools")


@pytest.fixture(scope="module")
def pruned(keras: Any) -> Any:
    """A model with three quarters of its kernels zero and half its normalisation scales negative."""
    layers, rng = keras.layers, np.random.default_rng(3)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(24, 3, name="conv")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2D(64, 1, activation="relu", name="point")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(256, activation="relu", name="hidden")(x)
    model = keras.Model(image, layers.Dense(5, activation="softmax", name="scores")(x))
    model.set_weights([rng.uniform(0.05, 0.5, w.shape) * rng.choice([-1.0, 1.0], w.shape) for w in model.get_weights()])
    model.get_layer("norm").moving_variance.assign(rng.uniform(0.5, 1.5, 24))
    return prune_magnitude(model, MagnitudeOptions(sparsity=0.75)).model


def samples_for(model: Any, count: int = 6) -> Samples:
    rng = np.random.default_rng(1)
    inputs = {
        name: rng.normal(size=(count, *shape[1:])).astype(dtype)
        if dtype.startswith("float")
        else rng.integers(0, 5, (count, *shape[1:])).astype(dtype)
        for name, (shape, dtype) in input_specs(model).items()
    }
    return Samples(path=Path("made up"), inputs=inputs, targets=None)


def judged(artifact: Artifact, model: Any, samples: Samples | None = None, **more: Any) -> Any:
    samples = samples or samples_for(model)
    specs, expected = input_specs(model), predict(model, samples.inputs)
    return evaluate_file(artifact, samples, specs, expected, None, every_runtime=False, **more)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision(converter: Any, pruned: Any, tmp_path: Path, precision: Precision) -> None:
    """The package computes what the model computes, keeps its zeros and its names, and is compressed throughout."""
    package = tmp_path / "m.mlpackage"
    app, given = AppOptions(target="iOS18"), samples_for(pruned, 20).inputs
    artifact = converter.export(pruned, package, Format.COREML, precision, app=app, calibration=given)
    (parity,) = judged(artifact, pruned).parity
    assert parity.output == "scores"
    assert parity.sqnr_db is not None
    assert parity.sqnr_db >= PRECISIONS[precision]
    storage = storage_of(read_coreml(package))
    assert storage.elements == 3 * 9 * 24 + 9 * 24 + 24 * 64 + 64 * 256 + 256 * 5
    if "palette" not in precision:
        assert storage.zeros >= 0.75 * (storage.elements - 9 * 24) - 2
    wanted = re.sub(r"palette\d", "palette", str(precision)).replace("w8a8", "int8")
    # The depthwise kernel is not pruned, and so not stored sparsely.
    dense = {"sparse": {"sparse": 4, "float16": 1}}.get(precision)
    assert storage.encodings == dense or set(storage.encodings) <= {
        wanted.replace("-", "+"),
        wanted.removeprefix("sparse-"),
        *(["int8"] if precision is Precision.INT4 else []),  # kernels that are no whole blocks
    }
    quantized = any(op.kind == "quantize" for op in read_coreml(package).program.operations)
    assert quantized == ("w8a8" in precision)
    assert sorted(p.name for p in package.iterdir()) == ["Data", "Manifest.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["m.mlpackage"]
    for bits in float_blobs(package):
        assert not (bits == 1 << (8 * bits.itemsize - 1)).any()


def test_ranges_by_name(converter: Any, pruned: Any, tmp_path: Path) -> None:
    """Ranges that were trained, say, reach the package; those of all other values come from the calibration set."""
    place, given = tmp_path / "m.mlpackage", {"transpose_1_cast_fp16": (-2.0, 25.4)}  # the picture, channels first
    app, samples = AppOptions(target="iOS17"), samples_for(pruned).inputs
    made = converter.export(
        pruned, place, Format.COREML, Precision.W8A8, app=app, calibration=samples, ranges=given
    ).contents.package
    constants = constants_of(made)
    scales = [constants[op.inputs["scale"][0]] for op in made.program.operations if op.kind == "quantize"]
    assert scales[0] == pytest.approx(0.2, rel=1e-3)
    assert len(scales) > 4
    assert max(scales[1:]) < 0.19
    with pytest.raises(ConversionError, match="a range for 'x', which is no value of the program"):
        converter.export(
            pruned, place, Format.COREML, Precision.W8A8, app=app, calibration=samples, ranges={"x": (0.0, 1.0)}
        )
    with pytest.raises(UsageError, match="w8a8 needs a calibration set"):
        converter.export(pruned, place, Format.COREML, Precision.W8A8, app=app)


def float_blobs(package: Path) -> list[np.ndarray]:
    """Bit patterns of the float blobs in a package's weight.bin (MIL blob storage, version 2)."""
    (file,) = package.rglob("weight.bin")
    content = file.read_bytes()
    (count,) = struct.unpack_from("<I", content, 0)
    blobs, header = [], 64
    for _ in range(count):
        sentinel, kind, size, start = struct.unpack_from("<IIQQ", content, header)
        assert sentinel == 0xDEADBEEF
        if kind in (1, 2):
            word = "<u2" if kind == 1 else "<u4"
            blobs.append(np.frombuffer(content, word, count=size // int(word[-1]), offset=start))
        header = (start + size + 63) // 64 * 64
    return blobs


def test_the_same_package_twice(converter: Any, pruned: Any, tmp_path: Path) -> None:
    """Two exports of one model are equal byte by byte, k-means included."""
    for precision in (Precision.FLOAT16, Precision.PALETTE4):
        made = {
            converter.export(pruned, tmp_path / f"{name}{precision}.mlpackage", Format.COREML, precision).sha256
            for name in "ab"
        }
        assert len(made) == 1


def test_output_names(converter: Any, keras: Any, tmp_path: Path) -> None:
    """Several outputs have their own names, never Identity, and none is taken for another."""
    x = keras.Input((4,), name="x")
    outputs = [keras.layers.Dense(n, name=name)(x) for name, n in (("zeta", 3), ("Identity", 5), ("alpha", 2))]
    model = keras.Model(x, outputs)
    artifact = converter.export(model, tmp_path / "m.mlpackage", Format.COREML, Precision.FLOAT32)
    assert sorted(end.name for end in read_coreml(artifact.path).outputs) == ["Identity", "alpha", "zeta"]
    assert max(item.relative_error for item in judged(artifact, model).parity) <= 1e-5


def test_inputs_of_a_dict(converter: Any, keras: Any, tmp_path: Path) -> None:
    """Several inputs, one of them indexes, keep their names and are fed by them."""
    index, size = keras.Input((3,), dtype="int32", name="index"), keras.Input((2,), name="size")
    words = keras.layers.Flatten()(keras.layers.Embedding(5, 4)(index))
    joined = keras.layers.Concatenate()([words, size])
    model = keras.Model({"size": size, "index": index}, keras.layers.Dense(3, name="scores")(joined))
    artifact = converter.export(model, tmp_path / "m.mlpackage", Format.COREML, Precision.FLOAT32)
    assert judged(artifact, model).parity[0].relative_error <= 1e-5


@pytest.mark.parametrize(("color", "bias"), [("RGB", (-1.0,)), ("BGR", (-1.1, -0.9, -0.7)), ("RGB", (-1.0, 0.0, 1.0))])
def test_pictures(converter: Any, pruned: Any, tmp_path: Path, color: str, bias: tuple[float, ...]) -> None:
    """An image input takes pixels, scales them as told, and the app sees its size and colour."""
    image = ImageInput(name="image", scale=1 / 127.5, bias=bias, color=color)
    options = AppOptions(image=image)
    artifact = converter.export(pruned, tmp_path / "m.mlpackage", Format.COREML, Precision.FLOAT32, app=options)
    (end,) = read_coreml(artifact.path).inputs
    assert (end.name, end.kind, end.shape, end.color) == ("image", "image", (8, 8), color)
    pixels = np.random.default_rng(2).integers(0, 256, (4, 8, 8, 3)).astype(np.float32)
    values = (pixels / 127.5 + np.asarray(bias)).astype(np.float32)
    np.testing.assert_allclose(pixels_of(values, image), pixels, atol=1e-3)
    samples = Samples(path=Path("pixels"), inputs={"image": values}, targets=None)
    assert judged(artifact, pruned, samples, image=image).parity[0].relative_error <= 1e-4
    with pytest.raises(ConversionError, match="departs"):
        judged(artifact, pruned, samples, image=ImageInput(name="image", scale=1 / 127.5, bias=(0.5,), color=color))


def test_gray_pictures(converter: Any, image_model: Any, tmp_path: Path) -> None:
    """A picture of one channel."""
    image = ImageInput(name="image", scale=1 / 255, color="GRAYSCALE")
    options = AppOptions(image=image)
    artifact = converter.export(image_model, tmp_path / "m.mlpackage", Format.COREML, Precision.FLOAT32, app=options)
    assert judged(artifact, image_model, image=image).parity[0].relative_error <= 1e-4


def test_class_labels_and_metadata(converter: Any, pruned: Any, tmp_path: Path) -> None:
    """A classifier has the predicted label and its probabilities under the model's name; Xcode's fields are filled."""
    options = AppOptions(
        class_labels=("a", "b", "c", "d", "e"), author="A", license="MIT", description="D", version="3"
    )
    artifact = converter.export(pruned, tmp_path / "m.mlpackage", Format.COREML, Precision.FLOAT32, app=options)
    package = read_coreml(artifact.path)
    assert (package.predicted, package.probabilities) == ("classLabel", "scores")
    assert [end.name for end in package.outputs] == ["classLabel", "scores"]
    assert package.metadata == {"author": "A", "license": "MIT", "description": "D", "version": "3"}
    assert judged(artifact, pruned).parity[0].relative_error <= 1e-5


def test_masks_survive_float16(converter: Any, keras: Any, tmp_path: Path) -> None:
    """An attention mask (-1e9, beyond float16) gives neither NaN nor a wrong row, not even where all is hidden."""
    x, mask = keras.Input((6, 8), name="x"), keras.Input((6, 6), dtype="int32", name="mask")
    y = keras.layers.MultiHeadAttention(2, 4, name="heads")(x, x, attention_mask=mask)
    model = keras.Model([x, mask], keras.layers.Dense(3, name="scores")(y))
    samples = samples_for(model)
    hidden = (np.random.default_rng(0).random((6, 6, 6)) < 0.5).astype(np.int32)
    hidden[0] = 0
    samples = Samples(path=samples.path, inputs={**samples.inputs, "mask": hidden}, targets=None)
    artifact = converter.export(model, tmp_path / "m.mlpackage", Format.COREML, Precision.FLOAT16)
    assert judged(artifact, model, samples).parity[0].relative_error <= 5e-3


def test_operations_that_coremltools_lacks(converter: Any, keras: Any, tmp_path: Path) -> None:
    """Exact GELU (Erfc), grouped convolution (a call) and recurrent layers (loops) convert and agree."""
    layers = keras.layers
    x = keras.Input((6, 6, 8), name="x")
    y = layers.Conv2D(8, 3, groups=4, activation="gelu", name="grouped")(x)
    y = layers.Bidirectional(layers.LSTM(5))(layers.Reshape((16, 8))(y))
    model = keras.Model(x, layers.Dense(3, name="scores")(y))
    artifact = converter.export(model, tmp_path / "m.mlpackage", Format.COREML, Precision.FLOAT32)
    assert judged(artifact, model).parity[0].relative_error <= 1e-5


def test_scales_are_exact(converter: Any, keras: Any, tmp_path: Path) -> None:
    """A batch normalisation, folded or alone, keeps its scale to the last bits; coremltools itself loses 5e-6 of it."""
    layers, rng = keras.layers, np.random.default_rng(0)
    x = keras.Input((8, 8, 4), name="x")
    y = layers.BatchNormalization(name="alone")(layers.MaxPooling2D()(x))
    y = layers.BatchNormalization(name="folded")(layers.Conv2D(8, 3, name="conv")(layers.ReLU()(y)))
    model = keras.Model(x, layers.Dense(3, name="scores")(layers.Flatten()(y)))
    for name in ("alone", "folded"):
        for variable in model.get_layer(name).weights:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    artifact = converter.export(model, tmp_path / "m.mlpackage", Format.COREML, Precision.FLOAT32)
    (parity,) = judged(artifact, model).parity
    assert parity.sqnr_db is None or parity.sqnr_db > 115


@pytest.mark.parametrize("precision", [Precision.SPARSE, Precision.SPARSE_INT8])
def test_sparse_without_zeros(converter: Any, keras: Any, tmp_path: Path, precision: Precision) -> None:
    """A sparse encoding that makes the download no smaller is refused, and nothing is left."""
    x = keras.Input((32,), name="x")
    model = keras.Model(x, keras.layers.Dense(64, use_bias=False, name="scores")(x))
    with pytest.raises(ConversionError, match=r"does not make the download smaller: .* prune it first"):
        converter.export(model, tmp_path / "m.mlpackage", Format.COREML, precision, app=AppOptions(target="iOS18"))
    assert list(tmp_path.iterdir()) == []


def test_targets(converter: Any, pruned: Any, tmp_path: Path) -> None:
    """What a deployment target cannot load is refused before any work; what it can is written."""
    out = tmp_path / "m.mlpackage"
    for precision, target, word in (
        (Precision.INT8, "iOS15", "iOS 16 or newer"),
        (Precision.PALETTE4, "iOS15", "iOS 16 or newer"),
        (Precision.W8A8, "iOS16", "needs iOS 17 or newer .* iOS17 or newer, or export int8"),
        (Precision.INT4, "iOS17", "needs iOS 18 .* iOS18, or export int8 or palette4"),
        (Precision.SPARSE_INT8, "iOS17", "needs iOS 18 .* iOS18, or export int8 or sparse"),
        (Precision.FLOAT16, "iOS14", "unknown deployment target"),
    ):
        with pytest.raises(UsageError, match=word):
            converter.export(pruned, out, Format.COREML, precision, app=AppOptions(target=target))
    assert list(tmp_path.iterdir()) == []
    converter.export(pruned, out, Format.COREML, Precision.FLOAT16, app=AppOptions(target="iOS15"))
    assert (out / "Manifest.json").exists()


def test_changed_weights_are_seen(converter: Any, pruned: Any, tmp_path: Path) -> None:
    """One byte of a weight changed in the saved package is a departure; NaN is an error of its own."""
    artifact = converter.export(pruned, tmp_path / "m.mlpackage", Format.COREML, Precision.FLOAT32)
    (file,) = artifact.path.rglob("weight.bin")
    whole = bytearray(file.read_bytes())
    place = next(i for i in range(128, len(whole) - 4, 4) if whole[i + 3] in (0x3E, 0xBE))
    for last, word in ((0x42, "departs from the Keras model"), (0x7F, "NaN or infinite|departs")):
        file.write_bytes(whole[: place + 3] + bytes([last, *whole[place + 4 :]]))
        artifact = replace(artifact, contents=read_contents(artifact.path))
        with pytest.raises(ConversionError, match=word):
            judged(artifact, pruned)


def test_an_unknown_operation_is_not_a_pass(
    converter: Any, pruned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package with an operation that the evaluator does not know is "not verified", by name, without parity."""
    artifact = converter.export(pruned, tmp_path / "m.mlpackage", Format.COREML, Precision.FLOAT16)
    fewer = {name: kernel for name, kernel in program.KERNELS.items() if name != "softmax"}
    monkeypatch.setattr(program, "KERNELS", fewer)
    found = judged(artifact, pruned)
    assert (found.metrics, found.parity) == ((), ())
    assert found.note == "not verified: op softmax is not known to the evaluator"
    assert [run.ran for run in found.runs] == [False]


def test_on_a_mac(converter: Any, pruned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS Core ML itself predicts, sample by sample, and the record says so."""
    import coremltools as ct

    artifact = converter.export(pruned, tmp_path / "m.mlpackage", Format.COREML, Precision.FLOAT16)

    class Predicting:
        def __init__(self, path: str, compute_units: Any) -> None:
            assert (path, compute_units) == (str(artifact.path), ct.ComputeUnit.CPU_ONLY)

        def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return predict(pruned, inputs)

    monkeypatch.setattr(ct.models, "MLModel", Predicting)
    monkeypatch.setattr(evaluation.sys, "platform", "darwin")
    found = judged(artifact, pruned)
    assert [run.name for run in found.runs] == ["core ml"]
    assert found.parity[0].max_error <= 1e-6


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (AppOptions(image=ImageInput(name="photo")), "no such input; it has image"),
        (AppOptions(image=ImageInput(name="image", color="GRAYSCALE")), r"\[8, 8, 3\] of float32"),
        (AppOptions(image=ImageInput(name="image", bias=(1.0, 2.0))), "2 numbers for 3 channels"),
        (AppOptions(class_labels=("a", "b")), "2 labels, the model's output 5 classes"),
    ],
)
def test_ends_that_do_not_fit(pruned: Any, options: AppOptions, word: str) -> None:
    """Image input and class labels are held against the model before any conversion."""
    with pytest.raises(UsageError, match=word):
        check_ends(input_specs(pruned), output_shapes(pruned), options)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "is empty"),
        ("\nb\n", "line 1 is empty"),
        ("a\n\nb\n", "line 2 is empty"),
    ],
)
def test_bad_labels(tmp_path: Path, text: str, word: str) -> None:
    """A label file is one label a line; the first wrong line is named."""
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(InputError, match=word):
        read_labels(tmp_path / "labels.txt")
    (tmp_path / "labels.txt").write_text("a\nb\na\n")
    labels = read_labels(tmp_path / "labels.txt")
    assert labels == ("a", "b", "a")
    check_words(Format.TFLITE, AppOptions(class_labels=labels))
    with pytest.raises(UsageError, match="'a' stands there twice"):
        check_words(Format.COREML, AppOptions(class_labels=labels))
