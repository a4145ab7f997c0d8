"""An int8 file with a dead activation must load on LiteRT, and compute what it computed before."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.converters.frozen import freeze
from edgeprune.converters.repair import REFUSED_FACTOR, widen_degenerate_scales
from edgeprune.converters.tflite import convert_tflite
from edgeprune.errors import RuntimeFailure
from edgeprune.runtime.session import installed_runtimes, run_tflite

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A network with a squeeze-excite gate whose ReLU is dead, its repaired file, and the file as converted."""
    import keras

    import edgeprune.converters.tflite as exporter

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 8), name="image")
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True)(image)
    dead = keras.layers.Conv2D(
        4, 1, activation="relu", bias_initializer=keras.initializers.Constant(-50.0), name="dead"
    )
    gate = keras.layers.Conv2D(8, 1, activation="sigmoid", bias_initializer="ones")(dead(gate))
    x = keras.layers.Flatten()(keras.layers.Multiply()([image, gate]))
    model = keras.Model(image, keras.layers.Dense(3, name="scores")(x))
    samples = np.random.default_rng(0).normal(size=(40, 8, 8, 8)).astype(np.float32)
    folder = tmp_path_factory.mktemp("gated")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        graph = freeze(model, folder / "graph.pb")
        repaired = convert_tflite(graph, precision="int8", calibration={"image": samples}).content
        patch.setattr(exporter, "widen_degenerate_scales", lambda content: (content, 0))
        original = convert_tflite(graph, precision="int8", calibration={"image": samples}).content
    (folder / "original.tflite").write_bytes(original)
    (folder / "repaired.tflite").write_bytes(repaired)
    return {"original": folder / "original.tflite", "repaired": folder / "repaired.tflite", "samples": samples}


def scores(path: Path, samples: np.ndarray, runtime: str) -> np.ndarray:
    (values,) = run_tflite(path, {"image": samples}, runtime=runtime).outputs.values()
    return values


def test_the_converter_makes_a_file_that_litert_refuses(gated: dict[str, Any]) -> None:
    """Without the repair LiteRT does not load the file; should this ever pass, the repair is no longer needed."""
    with pytest.raises(RuntimeFailure, match="refused"):
        scores(gated["original"], gated["samples"], "litert")


def test_the_repaired_file_runs_everywhere_and_computes_the_same(gated: dict[str, Any]) -> None:
    """On the older runtime the outputs are the same to the bit, and LiteRT agrees within two steps of the output."""
    if "tflite-runtime" not in installed_runtimes():
        pytest.skip("tflite-runtime has no wheel for this Python")
    before = scores(gated["original"], gated["samples"], "tflite-runtime")
    after = scores(gated["repaired"], gated["samples"], "tflite-runtime")
    modern = scores(gated["repaired"], gated["samples"], "litert")

    assert np.array_equal(before, after)
    step = np.diff(np.unique(after)).min()
    assert np.abs(modern - after).max() <= 2 * step + 1e-6


def test_a_sound_file_is_left_alone(gated: dict[str, Any]) -> None:
    """A second repair finds nothing to do and returns the same bytes."""
    content = gated["repaired"].read_bytes()

    assert widen_degenerate_scales(content) == (content, 0)
    assert REFUSED_FACTOR == 256.0
