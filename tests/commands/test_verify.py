"""`edgeprune verify`, and what `edgeprune convert` says of its file: from the command line, on real conversions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import ROOT, TESTS

from edgeprune import read_metadata
from edgeprune.artifact import sha256_of
from edgeprune.maker.keras.models import clone

DATA = ROOT.parent / "shared" / "data" / "mlperf_tiny"


@pytest.fixture
def broken(work: Path, image_model: Any) -> Path:
    """The same model with other weights in one layer."""
    other = clone(image_model)
    layer = other.get_layer("point")
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel, bias + 0.5])
    other.save(work / "broken.keras")
    return work / "broken.keras"


@pytest.mark.slow
@pytest.mark.usefixtures("one_converter")
class TestVerify:
    """Files of both formats against the model that they came from and against another one."""

    @pytest.mark.parametrize(("to", "suffix"), [("tflite", ".tflite"), ("coreml", ".mlpackage")])
    def test_agrees_and_departs(self, call: Callable[..., Any], work: Path, broken: Path, to: str, suffix: str) -> None:
        """The right model agrees, exit code 0; another one departs, exit code 3, and the layer is named."""
        file = work / f"model{suffix}"
        made = call("convert", work / "model.keras", "--to", to, "--precision", "float32", "-o", file, "-q")
        assert (made.code, made.err) == (0, "")
        right = call("verify", file, "--against", work / "model.keras", "--bisect", "-q")
        assert (right.code, right.err) == (0, "")
        assert "all 7 layers agree, or are fused into layers that do\nagrees" in right.out
        wrong = call("verify", file, "--against", broken, "--bisect", "-q")
        assert wrong.code == 3
        assert "first layer that departs: 'point' (Conv2D)" in wrong.out
        assert "the last that agrees before it is 'depthwise'" in wrong.out
        assert "output 'scores' departs from the Keras model by" in wrong.err

    def test_json_with_data(self, call: Callable[..., Any], work: Path) -> None:
        """--json holds parity, runtimes, scores of both and the bisected layers."""
        file = work / "model.tflite"
        given = ("--calibration", work / "train.npz")
        call("convert", work / "model.keras", "--to", "tflite", "--precision", "int8", *given, "-o", file, "-q")
        told = call(
            *("verify", file, "--against", work / "model.keras", "--data", work / "test.npz", "--metric", "accuracy"),
            *("--bisect", "--json", "-q"),
        )
        found = json.loads(told.out)
        assert (told.code, found["agrees"], found["samples"]) == (0, True, 48)
        assert found["file"]["precision"] == "int8"
        assert found["parity"][0]["file_output"] == "scores"
        assert found["parity"][0]["sqnr_db"] > 20
        assert abs(found["metric"]["file"] - found["metric"]["model"]) <= 0.1
        assert [run["ran"] for run in found["runtimes"]] == [True] * len(found["runtimes"])
        assert found["departure"]["layers"][-1]["layer"] == "scores"

    def test_a_tolerance(self, call: Callable[..., Any], work: Path) -> None:
        """--tolerance replaces the limit of the precision."""
        file = work / "model.mlpackage"
        call("convert", work / "model.keras", "--to", "coreml", "-o", file, "-q")
        assert call("verify", file, "--against", work / "model.keras", "-q").code == 0
        strict = call("verify", file, "--against", work / "model.keras", "--tolerance", "0.0000001", "-q")
        assert strict.code == 3
        assert "add --bisect" in strict.err

    def test_a_picture(self, call: Callable[..., Any], work: Path) -> None:
        """A package with an image input is verified with the scaling that it was made with; without, it says so."""
        file = work / "model.mlpackage"
        options = ("--image-input", "image", "--color", "GRAYSCALE", "--scale", "0.01", "--offset", "-1")
        made = call("convert", work / "model.keras", "--to", "coreml", *options, "-o", file, "--json", "-q")
        assert made.code == 0
        assert json.loads(made.out)["output"]["weights"]
        right = call("verify", file, "--against", work / "model.keras", "--scale", "0.01", "--offset", "-1", "-q")
        assert right.code == 0
        wrong = call("verify", file, "--against", work / "model.keras", "-q")
        assert (wrong.code, "takes pixels: give the scaling" in wrong.err) == (3, True)

    def test_metadata_of_a_file(self, call: Callable[..., Any], work: Path) -> None:
        """The .tflite file that is run and measured is the one with labels and normalisation."""
        (work / "labels.txt").write_text("a\nb\nc\n")
        file = work / "told.tflite"
        told = ("--labels", work / "labels.txt", "--mean", "2", "--std", "4", "--color", "GRAYSCALE", "--version", "7")
        made = call("convert", work / "model.keras", "--to", "tflite", *told, "-o", file, "--json", "-q")
        assert made.code == 0
        entry = json.loads(made.out)["output"]
        assert (entry["raw_bytes"], entry["sha256"]) == (file.stat().st_size, sha256_of(file))
        found = read_metadata(file)
        assert found.tables is not None
        (graph,) = found.tables["subgraph_metadata"]
        unit = {"options_type": "NormalizationOptions", "options": {"mean": [2.0], "std": [4.0]}}
        assert graph["input_tensor_metadata"][0]["process_units"] == [unit]
        assert (found.tables["version"], found.files) == ("7", {"labels.txt": b"a\nb\nc\n"})

    def test_coreml_options_in_a_recipe(
        self, call: Callable[..., Any], recipe: Callable[..., Path], work: Path
    ) -> None:
        """A recipe's Core ML export is scored by the evaluator, on the first samples, and the ledger says by what."""
        (work / "labels.txt").write_text("a\nb\nc\n")
        path = recipe(
            '[[exports]]\nformat = "coreml"\nprecision = "palette6"\nclass_labels = "labels.txt"\nauthor = "A"\n'
            '[[exports]]\nformat = "tflite"\nprecision = "float32"\nclass_labels = "labels.txt"\nauthor = "A"\n'
            '[[exports]]\nformat = "coreml"\nprecision = "w8a8"\ndeployment_target = "iOS17"\n'
        )
        done = call("run", path, "-o", work / "out", "-q")
        assert done.code == 0
        ledger = json.loads((work / "out" / "ledger.json").read_text())
        tflite, entry, integer = [e for s in ledger["stages"] for e in s["artifacts"] if e["exported"]]
        assert read_metadata(work / "out" / tflite["path"]).files == {"labels.txt": b"a\nb\nc\n"}
        assert entry["metric"]["runtime"].startswith("edgeprune evaluator")
        assert entry["metric"]["samples"] == 48
        assert entry["parity"][0]["sqnr_db"] > 15
        assert (integer["precision"], integer["metric"]["samples"]) == ("w8a8", 48)
        assert "Apple's own kernels may round otherwise" in done.out

    def test_published_files(self, call: Callable[..., Any]) -> None:
        """The published autoencoder's float file departs from its .h5 at its third dense layer; ResNet-8's agrees."""
        if not DATA.exists():
            pytest.skip("the published models are not here")
        folder = DATA / "anomaly_detection"
        wrong = call("verify", folder / "ad01_fp32.tflite", "--against", folder / "ad01.h5", "--bisect", "-q")
        assert wrong.code == 3
        assert "first layer that departs: 'dense_2' (Dense)" in wrong.out
        folder = DATA / "image_classification"
        right = call("verify", folder / "pretrainedResnet.tflite", "--against", folder / "pretrainedResnet.h5", "-q")
        assert right.code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("missing.tflite", "--against", "model.keras"), 4, ("missing.tflite does not exist",)),
        (("train.npz", "--against", "model.keras"), 2, ("verify reads .tflite, .onnx, .mlpackage and .mlmodel",)),
        (("empty.tflite", "--against", "model.keras"), 4, ("empty.tflite",)),
        (("empty.mlmodel", "--against", "model.keras"), 4, ("empty.mlmodel", "is empty")),
        (("empty.mlpackage", "--against", "model.keras"), 4, ("no Manifest.json",)),
        (("int8.tflite", "--against", "missing.keras"), 4, ("missing.keras does not exist",)),
        (("int8.tflite", "--against", "model.keras", "--metric", "auc"), 2, ("--metric needs --data",)),
        (("int8.tflite", "--against", "model.keras", "--tolerance", "7"), 2, ("--tolerance", "got 7")),
        (("int8.tflite", "--against", "model.keras", "--scale", "0"), 2, ("--scale 0",)),
        (("int8.tflite", "--against", "vectors.keras"), 3, ("no input for the model's 'x'",)),
        (("int8.tflite", "--against", "model.keras", "--data", "train.npz", "--metric", "auc"), 4, ("auc",)),
    ],
)
def test_bad_input(
    call: Callable[..., Any],
    work: Path,
    vector_model: Any,
    arguments: tuple[str, ...],
    code: int,
    words: tuple[str, ...],
) -> None:
    """One line and the right exit code for what cannot be verified."""
    files = TESTS / "files"
    (work / "int8.tflite").write_bytes((files / "int8.tflite").read_bytes())
    (work / "empty.tflite").write_bytes(b"")
    (work / "empty.mlmodel").write_bytes(b"")
    (work / "empty.mlpackage").mkdir()
    vector_model.save(work / "vectors.keras")
    told = [work / a if (work / a).exists() or a.startswith("missing") else a for a in arguments]
    call("verify", *told, "-q").error(code, *words)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--to", "tflite", "--image-input", "image", "--color", "BGR"), 2, ("--color BGR is for coreml",)),
        (("--to", "tflite", "--labels", "labels.txt"), 2, ("2 labels, the model's output 3 classes",)),
        (("--to", "tflite", "--mean", "1"), 2, ("--mean and --std go together",)),
        (("--to", "tflite", "--mean", "1", "--std", "1", "--scale", "2"), 2, ("give one pair of them",)),
        (("--to", "coreml", "--mean", "1", "--std", "1,2,3"), 2, ("one scale for all channels",)),
        (("--to", "coreml", "--color", "BGR"), 2, ("--color belongs to --image-input",)),
        (("--to", "coreml", "--image-input", "photo"), 2, ("no such input; it has image",)),
        (("--to", "coreml", "--image-input", "image"), 2, ("--color GRAYSCALE",)),
        (("--to", "coreml", "--image-input", "image", "--image-bias", "a"), 2, ("--image-bias is one number",)),
        (("--to", "coreml", "--class-labels", "labels.txt"), 2, ("2 labels, the model's output 3 classes",)),
        (("--to", "coreml", "--class-labels", "missing.txt"), 4, ("missing.txt",)),
        (("--to", "coreml", "--precision", "sparse-int8"), 2, ("needs iOS 18",)),
        (("--to", "coreml", "--precision", "w8a8"), 2, ("needs iOS 17 or newer", "or export int8")),
        (("--to", "coreml", "--precision", "w8a8", "--deployment-target", "iOS17"), 2, ("add --calibration", "int8")),
        (("--to", "coreml", "--precision", "dynamic"), 2, ("coreml has no precision 'dynamic'",)),
        (("--to", "coreml", "--tolerance", "2"), 2, ("--tolerance",)),
    ],
)
def test_bad_package_options(
    call: Callable[..., Any], work: Path, options: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    """Options of a package that do not fit the model are refused before any conversion, and nothing is written."""
    pytest.importorskip("coremltools")
    (work / "labels.txt").write_text("a\nb\n")
    before = sorted(p.name for p in work.iterdir())
    told = [work / a if a.endswith(".txt") else a for a in options]
    out = work / ("m.tflite" if "tflite" in options else "m.mlpackage")
    call("convert", work / "model.keras", *told, "-o", out, "-q").error(code, *words)
    assert sorted(p.name for p in work.iterdir()) == before


def test_trial_inputs(keras: Any) -> None:
    """Without data, floats are normal, indexes stay below their table, and the same model gets the same."""
    from edgeprune.converters.trial_inputs import trial_samples

    index, size = keras.Input((9,), dtype="int32", name="index"), keras.Input((3,), name="size")
    free = keras.Input((2,), dtype="int32", name="free")
    words = keras.layers.Flatten()(keras.layers.Embedding(4, 2)(index))
    model = keras.Model([index, size, free], keras.layers.Concatenate()([words, size, keras.ops.cast(free, "float32")]))
    made = trial_samples(model).inputs
    assert (made["index"].min(), made["index"].max(), made["free"].max()) == (0, 3, 3)
    assert made["size"].std() > 0.5
    np.testing.assert_array_equal(made["size"], trial_samples(model).inputs["size"])


def test_pixels_and_truth_values(keras: Any) -> None:
    """Integers of 8 bits run over their whole type, truth values over both, and wide floats are among the samples."""
    from edgeprune.converters.trial_inputs import trial_samples

    pixels, flags = keras.Input((40,), dtype="uint8", name="pixels"), keras.Input((9,), dtype="bool", name="flags")
    reals = keras.Input((50,), name="reals")
    joined = keras.layers.Concatenate()([keras.ops.cast(t, "float32") for t in (pixels, flags, reals)])
    made = trial_samples(keras.Model([pixels, flags, reals], joined)).inputs
    assert (made["pixels"].min() < 10, made["pixels"].max() > 245) == (True, True)
    assert set(np.unique(made["flags"])) == {False, True}
    assert np.abs(made["reals"][-1]).max() > 6


def test_trial_inputs_are_what_the_first_layers_expect(keras: Any) -> None:
    """Statistics of a Normalization, pixels before a Rescaling of them (behind resizing, in nested models, as a
    division), and each table has indexes of its own."""
    from edgeprune.converters.trial_inputs import trial_samples

    layers = keras.layers
    ends = {
        name: keras.Input(shape, name=name) for name, shape in (("raw", (2,)), ("photo", (4, 4, 3)), ("gray", (9,)))
    }
    index = {name: keras.Input((5,), dtype="int32", name=name) for name in ("short", "long")}
    normal = layers.Normalization(mean=[1013.0, -5.0], variance=[64.0, 0.25])
    steps = [keras.Input((4, 4, 3)), layers.Resizing(2, 2), layers.RandomFlip(), layers.Rescaling(1 / 127.5, offset=-1)]
    made = [normal(ends["raw"]), layers.Flatten()(keras.Sequential(steps)(ends["photo"])), ends["gray"] / 255.0]
    made += [layers.Flatten()(layers.Embedding(rows, 2)(index[name])) for name, rows in (("short", 3), ("long", 5000))]
    model = keras.Model([*ends.values(), *index.values()], layers.Concatenate()(made))
    found = trial_samples(model).inputs
    assert np.abs(np.median(found["raw"], 0) - [1013, -5]).max() < 8
    for name in ("photo", "gray"):
        assert (found[name].min() >= 0, found[name].max() <= 255, found[name].max() > 200) == (True, True, True)
    assert (found["short"].max(), found["long"].max() > 100) == (2, True)


def test_outputs_of_a_dict(keras: Any) -> None:
    """Outputs that a model returns in a dict have their keys as names, in the order in which they are computed."""
    from edgeprune.maker.keras.models import output_names, predict

    x = keras.Input((3,), name="x")
    ends = {name: keras.layers.Dense(n)(x) for name, n in (("second", 2), ("first", 4))}
    model = keras.Model(x, ends)
    assert output_names(model) == ["first", "second"]
    made = predict(model, {"x": np.ones((1, 3), np.float32)})
    assert {name: array.shape for name, array in made.items()} == {"first": (1, 4), "second": (1, 2)}


def test_names_that_tensorflow_cannot_take(keras: Any, tmp_path: Path) -> None:
    """A model whose name TensorFlow refuses as a scope is a clear line."""
    from edgeprune.converters.frozen import freeze
    from edgeprune.errors import Unsupported

    x = keras.Input((3,), name="x")
    with pytest.raises(Unsupported, match="rename it and save it again"):
        freeze(keras.Model(x, keras.layers.Dense(2)(x), name="my model"), tmp_path / "g.pb")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"outputs": "nonsense"}, "output 'nonsense' is none of the program's"),
        ({"inputs": "nonsense"}, "input 'nonsense' is none of the program's"),
        ({"specification": 4}, "specification version 4 has no ML programs"),
    ],
)
def test_a_description_that_contradicts_its_program(change: dict[str, Any], word: str) -> None:
    """What no app could load is not evaluated."""
    from edgeprune.converters.evaluator.program import Evaluator
    from edgeprune.errors import InputError
    from edgeprune.formats.coreml.mil import contradiction
    from edgeprune.formats.coreml.mil_reader import read_coreml

    package = read_coreml(TESTS / "files" / "half.mlpackage")
    assert contradiction(package) is None
    told = {
        key: value if key == "specification" else tuple(replace(end, name=value) for end in getattr(package, key))
        for key, value in change.items()
    }
    with pytest.raises(InputError, match=word):
        Evaluator(replace(package, **told))


@pytest.mark.slow
@pytest.mark.usefixtures("one_converter")
def test_scores_beside_boxes(call: Callable[..., Any], keras: Any, tmp_path: Path) -> None:
    """int8 of an output that joins boxes in pixels and scores: judged on calibration samples held back for it, both
    verbs name the lost channels with a cure, and the bisection does not call the joined output right."""
    layers, x = keras.layers, keras.Input((8,), name="x")
    boxes = layers.Rescaling(320.0)(layers.Dense(4, activation="sigmoid")(x))
    scores = layers.Dense(3, activation="sigmoid", name="scores")(x)
    keras.Model(x, layers.Concatenate(name="joined")([boxes, scores])).save(tmp_path / "m.keras")
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32))
    told = ("--to", "tflite", "--precision", "int8", "--calibration", tmp_path / "d.npz", "--json", "-q")
    made = call("convert", tmp_path / "m.keras", *told, "-o", tmp_path / "m.tflite")
    found = json.loads(made.out)["output"]
    assert (made.code, found["parity_on"]) == (0, "samples of d.npz that did not calibrate it")
    assert {4, 5, 6} >= {channel["channel"] for channel in found["parity"][0]["channels"]} > set()
    assert "edgeprune: warning: channel" in made.err
    held = call(
        "verify", tmp_path / "m.tflite", "--against", tmp_path / "m.keras", "--data", tmp_path / "d.npz", "--bisect"
    )
    assert held.code == 3
    assert "of output 'joined' are far from the model's" in held.err
    assert "first layer that departs: 'joined' (Concatenate)" in held.out


@pytest.mark.parametrize(("macs", "samples"), [(None, 8), (0, 8), (10**9, 8), (2 * 10**9, 4), (5 * 10**9, 2)])
def test_a_large_model_is_tried_on_fewer_samples(macs: int | None, samples: int) -> None:
    """Samples that nobody gave cost no more than the conversion; two are there always."""
    from edgeprune.runtime.trials import trial_count

    assert trial_count(macs) == samples
