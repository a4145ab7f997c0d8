"""`edgeprune shrink --data-free`: what is made of a model alone, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import lend

from edgeprune.checker.size.codecs import BASE_CODEC
from edgeprune.host.progress import Progress
from edgeprune.maker.search import data_free
from edgeprune.maker.search.data_free import shrink_data_free

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")


@pytest.fixture
def borrowed(converter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lend(converter, monkeypatch)
    from edgeprune.converters import session

    monkeypatch.setattr(data_free, "Converter", session.Converter)


@pytest.fixture(scope="module")
def model(keras: Any) -> Any:
    """A classifier in which a third of the first layer's channels is dead."""
    keras.utils.set_random_seed(2)
    layers = keras.layers
    image = keras.Input((12, 12, 1), name="image")
    x = layers.Conv2D(48, 3, activation="relu", name="first")(image)
    x = layers.Conv2D(96, 3, activation="relu", name="second")(x)
    x = layers.Dense(10, activation="softmax", name="scores")(layers.GlobalAveragePooling2D()(x))
    made = keras.Model(image, x)
    kernel, bias = made.get_layer("first").get_weights()
    kernel[..., :16], bias[:16] = 0, -1
    made.get_layer("first").set_weights([kernel, bias])
    return made


@pytest.mark.slow
@pytest.mark.usefixtures("borrowed")
def test_dead_channels_go_and_weights_get_coarser(model: Any, tmp_path: Path, keras: Any) -> None:
    report = shrink_data_free(model, "small", tmp_path, Progress(quiet=True), download="0.2x")
    assert report.met
    assert report.channels is not None
    assert report.channels.parameters_after < report.channels.parameters_before
    assert set(report.reached) == {"small.tflite", "small.mlpackage"}
    for entry in report.files:
        assert entry.download_bytes[BASE_CODEC] <= 0.2 * report.dense_bytes
        assert (tmp_path / entry.path).exists()
        assert not entry.metrics
    narrow = keras.saving.load_model(tmp_path / "small.keras")
    assert narrow.get_layer("first").filters == 32
    assert model.get_layer("first").filters == 48
    json.dumps(report.to_json())


@pytest.mark.slow
@pytest.mark.usefixtures("borrowed")
def test_what_is_not_reached_is_exit_code_1_and_says_so(model: Any, tmp_path: Path, call: Callable[..., Any]) -> None:
    model.save(tmp_path / "m.keras")
    out = tmp_path / "out"
    found = call("shrink", tmp_path / "m.keras", "--data-free", "--download", "2 kB", "-o", out)
    assert found.code == 1
    assert "m.tflite is larger than the 2.00 kB that were asked for" in found.out
    assert "Accuracy: not measured" in found.out
    assert not json.loads((out / "search.json").read_text())["reached"]["m.tflite"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--data-free", "--train", "t.npz"), "--train needs samples"),
        (("--data-free", "--latency", "0.5x"), "--latency needs samples"),
        (("--data-free", "--download", "soon"), "download"),
        (("--download", "0.5x"), "--train DATA is missing"),
    ],
)
def test_what_cannot_be_asked(flags: tuple[str, ...], words: str, tmp_path: Path, call: Callable[..., Any]) -> None:
    found = call("shrink", tmp_path / "m.keras", *flags, "-o", tmp_path / "out")
    assert found.code == 2
    assert words in found.err
    assert not (tmp_path / "out").exists()
