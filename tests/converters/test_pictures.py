"""Pictures into Core ML packages: uint8 inputs, and scaling layers that become the package's scale and bias."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.converters.conversion import ConvertOptions, convert
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.pictures import scaled_outside
from edgeprune.errors import UsageError
from edgeprune.formats import read_contents
from edgeprune.formats.metadata import ImageInput, check_ends, labelled_output
from edgeprune.formats.tflite.metadata import read_metadata
from edgeprune.maker.keras.models import input_specs, predict

SIZE = (8, 8, 3)
MEAN, VARIANCE = [123.0, 117.0, 104.0], [4.0, 4.0, 4.0]


def _ended(keras: Any, given: Any, x: Any) -> Any:
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    return keras.Model(given, keras.layers.Dense(3, name="scores")(keras.layers.GlobalAveragePooling2D()(x)))


def _plain(*made: Callable[[Any], Any], dtype: str = "float32") -> Callable[[Any], Any]:
    """A model whose image goes through these layers first."""

    def model(keras: Any) -> Any:
        given = x = keras.Input(SIZE, dtype=dtype, name="image")
        for each in made:
            x = each(keras)(x)
        return _ended(keras, given, x)

    return model


def _nested(keras: Any) -> Any:
    """The first layers are in a model of their own."""
    image = keras.Input(SIZE)
    inner = keras.Model(image, keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 128, -1.0)(image)))
    given = keras.Input(SIZE, name="image")
    return _ended(keras, given, inner(given))


def _read_twice(keras: Any) -> Any:
    given = keras.Input(SIZE, name="image")
    return _ended(keras, given, keras.layers.Add()([keras.layers.Rescaling(1 / 255)(given), given]))


def _rescaled(*settings: Any) -> Callable[[Any], Any]:
    return lambda keras: keras.layers.Rescaling(*settings)


def _normalized(variance: list[float]) -> Callable[[Any], Any]:
    return lambda keras: keras.layers.Normalization(mean=MEAN, variance=variance)


@pytest.mark.parametrize(
    ("build", "scale", "bias"),
    [
        (_plain(_rescaled(1 / 255)), 1 / 255, (0.0,)),
        (_plain(_rescaled(1 / 255), dtype="uint8"), 1 / 255, (0.0,)),
        (_plain(_rescaled(0.5, [-1.0, 2.0, 3.0])), 0.5, (-1.0, 2.0, 3.0)),
        (_plain(_normalized(VARIANCE)), 0.5, tuple(-mean / 2 for mean in MEAN)),
        (_plain(_rescaled(2.0), _normalized(VARIANCE)), 1.0, tuple(-mean / 2 for mean in MEAN)),
        (_nested, 1 / 128, (-1.0,)),
    ],
)
def test_scaling_becomes_that_of_the_input(
    keras: Any, build: Callable[[Any], Any], scale: float, bias: tuple[float, ...]
) -> None:
    """What is left computes the same from scaled pixels as the whole model from pixels, and that one stays whole."""
    model = build(keras)
    layers = len(model._flatten_layers())
    behind, told = scaled_outside(model, ImageInput(name="image"))
    assert not any(type(layer).__name__ in ("Rescaling", "Normalization") for layer in behind._flatten_layers())
    assert len(model._flatten_layers()) == layers
    assert told.scale == pytest.approx(scale, rel=1e-6)
    assert told.bias == pytest.approx(bias, rel=1e-6)
    pixels = np.random.default_rng(1).integers(0, 256, (4, *SIZE)).astype(np.float32)
    dtype = input_specs(model)["image"][1]
    given = pixels * np.float32(told.scale) + np.asarray(told.bias, np.float32)
    expected, found = predict(model, {"image": pixels.astype(dtype)}), predict(behind, {"image": given})
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)


@pytest.mark.parametrize(
    "build", [_plain(_normalized([1.0, 4.0, 9.0])), _plain(_rescaled([1.0, 2.0, 3.0])), _read_twice, _plain()]
)
def test_scaling_that_stays(keras: Any, build: Callable[[Any], Any]) -> None:
    """One scale for each channel, or a second reader of the pixels: the layers stay inside."""
    model, image = build(keras), ImageInput(name="image", scale=0.5)
    assert scaled_outside(model, image) == (model, image)


def test_a_uint8_input_takes_pixels_as_they_are(keras: Any) -> None:
    """Pictures go into an input of bytes, and any scaling of them does not."""
    model = _plain(_rescaled(1 / 255), dtype="uint8")(keras)
    check_ends(input_specs(model), {"scores": (None, 3)}, AppOptions(image=ImageInput(name="image")))
    with pytest.raises(UsageError, match="uint8 and takes pixels as they are; leave out --scale"):
        check_ends(input_specs(model), {"scores": (None, 3)}, AppOptions(image=ImageInput(name="image", scale=0.1)))


@pytest.mark.slow
def test_files_of_a_camera_model(keras: Any, tmp_path: Path) -> None:
    """uint8 pixels go into a package whose scale is that of the Rescaling, which is no operation of its own any more,
    and into a .tflite file that tells of no normalisation."""
    pytest.importorskip("coremltools")
    model = _plain(_rescaled(1 / 128, [-1.0, 0.5, 0.25]), dtype="uint8")(keras)
    options = ConvertOptions(app=AppOptions(image=ImageInput(name="image")))
    package = tmp_path / "camera.mlpackage"
    entry = convert(model, package, precision="float32", options=options)
    assert entry.parity is not None
    assert entry.parity[0].sqnr_db is None or entry.parity[0].sqnr_db > 100
    found = read_contents(package).package
    assert found is not None
    assert found.program is not None
    assert (found.inputs[0].kind, found.inputs[0].color) == ("image", "RGB")
    made = [operation.outputs[0].name for operation in found.program.operations if operation.kind != "const"]
    assert made[:2] == ["image__scaled__", "image__biased__"]
    assert not any("rescaling" in name for name in made)
    convert(model, tmp_path / "camera.tflite", options=options)
    told = read_metadata(tmp_path / "camera.tflite")
    assert told.tables is not None
    (tensor,) = told.tables["subgraph_metadata"][0]["input_tensor_metadata"]
    assert tensor["process_units"][0]["options"] == {"mean": [0.0], "std": [1.0]}
    assert tensor["stats"] == {"max": [255.0], "min": [0.0]}


@pytest.fixture(scope="module")
def detector(keras: Any) -> Any:
    """A picture goes in; boxes, classes and a map with as many channels as there are classes come out."""
    image = keras.Input(SIZE, name="image")
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    boxes = keras.layers.Dense(4, name="boxes")(pooled)
    classes = keras.layers.Dense(3, activation="softmax", name="classes")(pooled)
    return keras.Model(image, [boxes, classes, keras.layers.Conv2D(3, 1, name="map")(x)])


@pytest.mark.parametrize(
    ("labels", "outputs", "word"),
    [
        (("a", "b"), {"boxes": (None, 4), "classes": (None, 3)}, "no output has as many classes: boxes 4, classes 3"),
        (
            ("a", "b", "c"),
            {"x": (None, 3), "y": (None, 3), "z": (None, 4)},
            "several outputs have as many classes: x 3, y 3;",
        ),
    ],
)
def test_labels_that_name_no_output(labels: tuple[str, ...], outputs: dict[str, Any], word: str) -> None:
    """Where not exactly one output has as many classes as there are labels, the outputs in question are told."""
    with pytest.raises(UsageError, match=word):
        labelled_output(outputs, labels)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_labels_of_one_of_several_outputs(detector: Any, precision: str, tmp_path: Path) -> None:
    """The output with as many classes as labels becomes probabilities, the others stay arrays of their names."""
    pytest.importorskip("coremltools")
    options = ConvertOptions(
        app=AppOptions(image=ImageInput(name="image", scale=1 / 255), class_labels=("a", "b", "c"))
    )
    package = tmp_path / "detector.mlpackage"
    entry = convert(detector, package, precision=precision, options=options)
    assert entry.parity is not None
    assert sorted(item.output for item in entry.parity) == ["boxes", "classes", "map"]
    found = read_contents(package).package
    assert found is not None
    ends = {end.name: end.kind for end in found.outputs}
    assert ends == {"classLabel": "string", "classes": "dictionary", "boxes": "array", "map": "array"}
    assert found.probabilities == "classes"
    if precision == "float32":
        convert(detector, tmp_path / "detector.tflite", options=options)
        tables = read_metadata(tmp_path / "detector.tflite").tables
        assert tables is not None
        told = tables["subgraph_metadata"][0]["output_tensor_metadata"]
        assert [tensor["name"] for tensor in told if tensor.get("associated_files")] == ["classes"]
