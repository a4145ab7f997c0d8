"""Tiny models, made-up samples and ways to call the command line, shared by all tests."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from places import ROOT

# Before anything imports TensorFlow; worker processes inherit it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Two processes share the cores with what they start: how long an example takes says nothing of the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

CLASSES = 3
RECIPE = """
model = "model.keras"
metric = "accuracy"
seed = 5

[data]
train = "train.npz"
validation = "test.npz"
test = "test.npz"

[latency]
measure = false
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a call of the command line gave."""

    code: int
    out: str
    err: str

    def error(self, code: int, *parts: str) -> str:
        """The one line on stderr, after checking the exit code, its beginning and that it holds `parts`."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("edgeprune: "), self.err
        assert "Traceback" not in self.err
        for part in parts:
            assert part in lines[0]
        assert (self.code, self.out) == (code, "")
        return lines[0]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call the command line in this process; what native code writes is caught too."""

    def run(*arguments: object) -> Outcome:
        from edgeprune.commands.cli import main

        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        text = capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Outcome(code=code, out=text.out, err=text.err)

    return run


@pytest.fixture(scope="session")
def keras() -> Any:
    """Keras on TensorFlow, imported once."""
    from edgeprune.maker.keras.models import keras_module

    return keras_module()


def fill(model: Any, seed: int) -> Any:
    """Give every weight of a model a value of its own, far enough from zero to be told from a pruned one."""
    rng = np.random.default_rng(seed)
    signs = [rng.choice([-1.0, 1.0], w.shape) for w in model.get_weights()]
    model.set_weights([s * rng.uniform(0.05, 0.5, s.shape) for s in signs])
    for layer in model._flatten_layers():
        if type(layer).__name__ == "BatchNormalization":
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.moving_variance.shape))
    return model


@pytest.fixture(scope="session")
def image_model(keras: Any) -> Any:
    """Images 8 x 8 x 1 to three classes: convolution, batch normalisation of negative scale, depthwise, dense."""
    layers = keras.layers
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, name="conv")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2D(12, 1, activation="relu", name="point")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(CLASSES, activation="softmax", name="scores")(x)
    return fill(keras.Model(image, x, name="images"), 1)


@pytest.fixture(scope="session")
def vector_model(keras: Any) -> Any:
    """Six numbers to three classes."""
    x = keras.Input((6,), name="x")
    h = keras.layers.Dense(16, activation="relu", name="hidden")(x)
    return fill(keras.Model(x, keras.layers.Dense(CLASSES, activation="softmax", name="scores")(h), name="vectors"), 2)


def image_arrays(count: int, seed: int) -> dict[str, np.ndarray]:
    """Images whose class shows in a bright row, with noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    x = rng.normal(0, 0.3, (count, 8, 8, 1))
    for row, label in enumerate(y):
        x[row, 1 + 2 * label, :, 0] += 1.5
    return {"x": x.astype(np.float32), "y": y.astype(np.int64)}


@pytest.fixture
def work(tmp_path: Path, image_model: Any) -> Path:
    """A folder with model.keras, train.npz and test.npz."""
    image_model.save(tmp_path / "model.keras")
    np.savez_compressed(tmp_path / "train.npz", **image_arrays(96, 3))
    np.savez_compressed(tmp_path / "test.npz", **image_arrays(48, 4))
    return tmp_path


@pytest.fixture
def recipe(work: Path) -> Callable[..., Path]:
    """Write a recipe for the files in `work`: a text after the common head, and replacements in the whole."""

    def write(rest: str, **replaced: str) -> Path:
        text = RECIPE + rest
        for old, new in replaced.items():
            lines = [new if line.startswith(f"{old} =") else line for line in text.splitlines()]
            text = "\n".join(lines)
        path = work / "recipe.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="session")
def converter() -> Iterator[Any]:
    """One converter process for all tests that only want a file."""
    from edgeprune.converters.session import Converter

    with Converter(timeout_s=300) as made:
        yield made


def lend(converter: Any, monkeypatch: pytest.MonkeyPatch, *more: Any) -> None:
    """Let the command line, and `more` modules, use this converter process: starting one costs ten seconds."""

    class Borrowed:
        def __getattr__(self, name: str) -> Any:
            return getattr(converter, name)

        def __enter__(self) -> Any:
            return converter

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            return None

    from edgeprune.converters import conversion, session
    from edgeprune.maker.recipe import pipeline

    for module in (conversion, pipeline, session, *more):
        monkeypatch.setattr(module, "Converter", Borrowed)


@pytest.fixture
def one_converter(converter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line uses the common converter process."""
    lend(converter, monkeypatch)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: a mistake shows in seconds, not after the trainings. Of the slow ones the longest first: on
    several processes none is left alone with them at the end."""

    def minutes(item: pytest.Item) -> float:
        mark = item.get_closest_marker("slow")
        return -1 if mark is None else mark.kwargs.get("minutes", 0)

    items.sort(key=lambda item: (minutes(item) >= 0, -minutes(item)))


@pytest.fixture
def covered(tmp_path: Path) -> Path:
    """A profile that takes any mix of operations and knows a tiny network, so that a tiny model is covered."""
    shipped = (ROOT / "edgeprune" / "checker" / "latency" / "devices" / "pixel3-tflite-4t-float32.toml").read_text()
    head, _, rest = shipped.partition("[largest_share]\n")
    shares, _, rows = rest.partition("\n\n")
    wide = "\n".join(f"{line.split(' = ')[0]} = 1.0" for line in shares.splitlines())
    rows = re.sub(r"^latency_ms = .*$", "latency_ms = 0.001", rows, count=1, flags=re.MULTILINE)
    path = tmp_path / "wide.toml"
    path.write_text(f"{head}[largest_share]\n{wide}\n\n{rows}")
    return path
