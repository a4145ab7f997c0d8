"""int8 that holds its accuracy: the rungs on numbers alone, and on a small network that int8 breaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.artifact import Format, Precision
from edgeprune.converters.activation_ranges import NARROWED, sketched
from edgeprune.converters.conversion import ConvertOptions, convert
from edgeprune.converters.float_start import FloatStart, layer_of, noise_of
from edgeprune.converters.ladder_options import LadderOptions, check_ladder
from edgeprune.converters.sensitivity import sensitivity
from edgeprune.converters.session import Converter
from edgeprune.errors import UsageError
from edgeprune.ledger import ArtifactEntry
from edgeprune.maker.keras.models import predict
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.metrics import Metric
from edgeprune.report.ladder_report import ladder_text


@pytest.mark.parametrize(
    "bad",
    [
        {"max_drop": "lots"},
        {"max_drop": "120 %"},
        {"keep_float": ("auto",)},
        {"max_drop": "1 %", "keep_float": ("auto", "conv*")},
        {"max_drop": "1 %", "max_float_macs": "5 %"},
        {"max_drop": "1 %", "keep_float": ("auto",), "max_float_macs": "150 %"},
    ],
)
def test_bad_options(bad: dict[str, Any]) -> None:
    """What cannot be done is one line."""
    with pytest.raises(UsageError):
        LadderOptions(**bad)


def test_options_are_for_int8() -> None:
    """Other files are not made from calibrated ranges."""
    check_ladder(Format.TFLITE, Precision.INT8, LadderOptions(max_drop="1 %"))
    with pytest.raises(UsageError, match="for tflite int8"):
        check_ladder(Format.TFLITE, Precision.INT16X8, LadderOptions(max_drop="1 %"))


def test_narrower_ranges() -> None:
    """A value in 50,000 far out is left out of the percentiles; the range of the least error is no worse than the whole
    one."""
    rng = np.random.default_rng(0)
    values = (np.abs(rng.normal(size=(50, 1000))) ** 3).astype(np.float32)
    values[3, 7] = 500.0
    sketch = sketched([{"t": values[:20]}, {"t": values[20:]}], 50)["t"]
    (least, most), (low, high) = (narrow(sketch) for narrow in NARROWED.values())
    assert (least, low) == (0.0, 0.0)
    assert 20 < most < 100

    def off(largest: float) -> float:
        return float(np.square(np.rint(np.clip(values, 0, largest) * 255 / largest) * largest / 255 - values).sum())

    assert off(high) <= 1.1 * off(500.0)


def test_small_channels_count_beside_large_ones() -> None:
    """A lost channel of small numbers is noise, whatever large numbers lie beside it."""
    rng = np.random.default_rng(0)
    before = rng.normal(size=(100, 2)) * (300.0, 0.5)
    lost = before * (1.0, 0.0) + before.mean(0) * (0.0, 1.0)
    assert noise_of({"y": before}, {"y": before}) == 0.0
    assert noise_of({"y": before}, {"y": lost}) == pytest.approx(0.5)


def test_layers_in_names_of_tensors() -> None:
    """Keras numbers scopes and the converter numbers tensors."""
    known = {"conv", "conv_2", "head"}
    assert layer_of("functional_1/conv_1/Relu", known) == "conv"
    assert layer_of("functional_1/conv_2_1/convolution1", known) == "conv_2"
    assert layer_of("head", known) == "head"
    assert layer_of("functional_1/other/Add", known) is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A network that int8 breaks in two of its layers, samples, and its own answers as targets."""

    model: Any
    calibration: dict[str, np.ndarray]
    validation: Samples


@pytest.fixture(scope="module")
def broken(keras: Any) -> Broken:
    """Some channels between `wide` and `narrow` are a hundred times as large as the others, and their weights behind
    that a hundredth: the same function."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    x = keras.Input((8, 8, 3), name="image")
    y = layers.Conv2D(4, 3, activation="relu", name="wide")(x)
    y = layers.Conv2D(16, 1, activation="relu", name="narrow")(y)
    y = layers.Dense(6, name="scores")(layers.Flatten(name="flat")(y))
    model = keras.Model(x, y)
    kernel, bias = model.get_layer("wide").get_weights()
    scales = np.array([100.0, 1.0, 1.0, 1.0])
    model.get_layer("wide").set_weights([kernel * scales, bias * scales])
    kernel, bias = model.get_layer("narrow").get_weights()
    model.get_layer("narrow").set_weights([kernel / scales[:, None], bias])
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(500, 8, 8, 3)).astype(np.float32)
    answers = predict(model, {"image": pictures})["scores"].argmax(-1)
    return Broken(
        model=model,
        calibration={"image": pictures[:100]},
        validation=Samples(path=Path("held.npz"), inputs={"image": pictures[100:]}, targets=answers[100:]),
    )


def made(broken: Broken, out: Path, converter: Converter, **options: Any) -> ArtifactEntry:
    return convert(
        broken.model,
        out,
        precision="int8",
        calibration=broken.calibration,
        validation=broken.validation,
        metric="accuracy",
        options=ConvertOptions(ladder=LadderOptions(**options)),
        converter=converter,
        overwrite=True,
    )


@pytest.mark.slow
def test_the_ladder_ends_with_the_fewest_float_operations(broken: Broken, converter: Converter, tmp_path: Path) -> None:
    """What breaks in integers is found and kept in float, nothing else, and that is said."""
    entry = made(broken, tmp_path / "m.tflite", converter, max_drop="2 %", keep_float=("auto",), max_float_macs="90 %")
    report = entry.ladder
    assert report is not None
    assert report.rungs[0].name == "int8"
    assert report.rungs[0].lost > 0.05
    assert report.reached
    assert report.lost is not None
    assert report.lost <= 0.02
    assert set(report.float_layers) <= {"wide", "narrow"}
    assert 0 < report.float_macs <= 0.9
    assert report.rungs[-1].kept
    assert any("in float: " in line for line in entry.warnings)
    assert entry.float_ops
    assert "within max_drop of 2 %" in ladder_text(report)


@pytest.fixture
def files(broken: Broken, tmp_path: Path) -> Path:
    """A folder with the model, its calibration samples and its validation samples."""
    broken.model.save(tmp_path / "m.keras")
    np.savez(tmp_path / "c.npz", x=broken.calibration["image"])
    np.savez(tmp_path / "v.npz", x=broken.validation.inputs["image"], y=broken.validation.told[""])
    return tmp_path


@pytest.mark.slow
def test_a_drop_that_is_not_reached_is_exit_code_1(files: Path, call: Callable[..., Any]) -> None:
    """Without float operations the file is there, all rungs were tried, and the best ones are in it."""
    options = ("--calibration", files / "c.npz", "--validation", files / "v.npz", "--max-drop", "0.1 %", "-q", "--json")
    done = call(
        "convert", files / "m.keras", "--to", "tflite", "--precision", "int8", "-o", files / "m.tflite", *options
    )
    assert done.code == 1
    assert "max_drop of 0.1 % is not reached" in done.err
    assert (files / "m.tflite").is_file()
    output = json.loads(done.out)["output"]
    report = output["ladder"]
    assert report["float_layers"] == output["float_ops"] == []
    assert [rung["name"] for rung in report["rungs"]] == ["int8", "bias correction", "reconstructed weights", *NARROWED]
    assert report["lost"] == min(rung["lost"] for rung in report["rungs"])


@pytest.mark.slow
def test_named_layers_stay_in_float(broken: Broken, converter: Converter, tmp_path: Path) -> None:
    """Without a search too; a name that fits nothing is an error with the nearest one."""
    entry = made(broken, tmp_path / "m.tflite", converter, keep_float=("nar*",))
    assert entry.ladder is not None
    assert entry.ladder.float_layers == ("narrow",)
    assert len(entry.float_ops) == 1
    assert entry.ladder.reached
    with pytest.raises(UsageError, match="fits no layer of the file; did you mean 'narrow'"):
        made(broken, tmp_path / "n.tflite", converter, keep_float=("narow",))


@pytest.mark.slow
def test_the_float_file_is_read_with_its_layers(broken: Broken, converter: Converter, tmp_path: Path) -> None:
    """Operations in order with their layers and MACs; it runs by the names of the model."""
    exported = converter.export(
        broken.model,
        tmp_path / "m.tflite",
        Format.TFLITE,
        Precision.INT8,
        calibration=broken.calibration,
        keep_start=True,
    )
    start = FloatStart.of(exported, [layer.name for layer in broken.model.layers])
    assert [op.layer for op in start.operations] == ["wide", "narrow", "flat", "scores"]
    few = {"image": broken.calibration["image"][:10]}
    found = start.outputs(start.content, few)["scores"]
    assert np.allclose(found, predict(broken.model, few)["scores"], atol=1e-3)
    assert start.share([start.operations[0].node]) == pytest.approx(36 * 27 * 4 / start.macs)


@pytest.mark.slow
def test_planted_bad_layers_are_first(files: Path, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both layers that the planted scales are between come first, and the result is kept: the second call neither loads
    nor runs anything."""
    told = (files / "m.keras", "--data", files / "v.npz", "--rows", "100", "--cache", files / "kept", "-q")
    found = json.loads(call("sensitivity", *told, "--json").out)
    assert found["schema_version"] == 1
    assert {layer["layer"] for layer in found["layers"][:2]} == {"wide", "narrow"}
    assert found["layers"][0]["sqnr_db"] < found["layers"][2]["sqnr_db"]
    assert found["before"] == 1.0
    assert found["after"] < 0.95
    assert found["samples"] == 100
    monkeypatch.setattr("edgeprune.converters.sensitivity.sensitivity", None)
    again = call("sensitivity", *told)
    assert again.code == 0
    assert "int8 of all of them" in again.out
    assert again.out.splitlines()[2].split()[0] in ("wide", "narrow")


@pytest.mark.slow
def test_what_zeros_cost(broken: Broken) -> None:
    """Each layer pruned alone: a share of its weights, of no other layer's."""
    found = sensitivity(broken.model, broken.validation, metric="accuracy", sparsity=0.5)
    assert {cost.layer for cost in found.layers} == {"wide", "narrow", "scores"}
    assert found.before == 1.0
    assert all(cost.lost is not None and cost.lost >= 0 for cost in found.layers)
    assert [cost.sqnr_db for cost in found.layers] == sorted(cost.sqnr_db or 0 for cost in found.layers)


@pytest.mark.slow
def test_joined_outputs_get_a_range_each(keras: Any, converter: Converter, tmp_path: Path) -> None:
    """Scores beside boxes in pixels are lost in integers of one scale, and come back where floats are joined."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    x = keras.Input((6, 6, 3), name="image")
    y = layers.Conv2D(16, 3, activation="relu", name="body")(x)
    boxes = layers.Reshape((16, 4))(layers.Rescaling(300.0)(layers.Conv2D(4, 1, activation="relu")(y)))
    scores = layers.Reshape((16, 5), name="scores")(layers.Conv2D(5, 1, activation="sigmoid")(y))
    model = keras.Model(x, layers.Concatenate(name="joint")([boxes, scores]))
    pictures = np.random.default_rng(0).normal(size=(160, 6, 6, 3)).astype(np.float32)
    answers = predict(model, {"image": pictures})["joint"]
    same = Metric(
        name="same_class",
        higher_is_better=True,
        is_share=True,
        whole=lambda made, told: (made[..., 4:].argmax(-1) == told[..., 4:].argmax(-1)).mean(-1),
    )
    entry = convert(
        model,
        tmp_path / "m.tflite",
        precision="int8",
        calibration={"image": pictures[:60]},
        validation=Samples(path=Path("held.npz"), inputs={"image": pictures[60:]}, targets=answers[60:]),
        metric=same,
        options=ConvertOptions(ladder=LadderOptions(max_drop="10 %", keep_float=("auto",))),
        converter=converter,
    )
    assert entry.ladder is not None
    last = entry.ladder.rungs[-1]
    assert last.name == "a range for each of the joined outputs"
    assert last.kept
    assert entry.ladder.rungs[0].lost is not None
    assert entry.ladder.rungs[0].lost > 0.5
    assert entry.ladder.reached
    assert entry.ladder.float_macs == 0
    assert {"scores", "joint"} <= set(entry.ladder.float_layers)
