"""What somebody meets who has just installed the tool and brings a model of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Call = Callable[..., Any]


@pytest.fixture
def mixed(keras: Any, tmp_path: Path) -> Path:
    """A model trained in mixed precision, as on a GPU."""
    given = keras.Input((6,), name="given")
    half = keras.layers.Dense(4, dtype="mixed_float16", name="half")(given)
    model = keras.Model(given, keras.layers.Dense(2, activation="softmax", dtype="float32", name="out")(half))
    model.save(tmp_path / "mixed.keras")
    return tmp_path / "mixed.keras"


def test_mixed_precision_is_named_before_any_conversion(mixed: Path, call: Call, tmp_path: Path) -> None:
    """The layer, its policy and the way out, not the converter's own words."""
    found = call("convert", mixed, "--to", "tflite", "-o", tmp_path / "m.tflite", "-q")

    found.error(3, "'half'", "mixed_float16", "float32 policy")
    assert not (tmp_path / "m.tflite").exists()


def test_another_keras_backend_is_named(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable in the environment is the cause, so the line names it."""
    (tmp_path / "m.keras").write_bytes(b"PK\x03\x04")
    monkeypatch.setenv("KERAS_BACKEND", "jax")

    from edgeprune.errors import Unsupported
    from edgeprune.maker.keras.models import keras_module

    with pytest.raises(Unsupported, match="KERAS_BACKEND is set to 'jax'"):
        keras_module()


def test_accuracy_of_a_single_output_points_to_auc(keras: Any, call: Call, tmp_path: Path) -> None:
    """A yes/no model scored with the default metric: the metric is wrong, not the data."""
    given = keras.Input((6,), name="given")
    keras.Model(given, keras.layers.Dense(1, activation="sigmoid")(given)).save(tmp_path / "m.keras")
    np.savez(tmp_path / "d.npz", x=np.ones((4, 6), np.float32), y=np.array([0, 1, 0, 1]))

    found = call(
        "prune", tmp_path / "m.keras", "--sparsity", "0.5", "--data", tmp_path / "d.npz", "-o", tmp_path / "p.keras"
    )

    found.error(2, "single output", "auc")


def test_a_model_without_kernels_says_so(keras: Any, call: Call, tmp_path: Path) -> None:
    """Nothing to prune, and the first reason given is that the model has no kernel."""
    given = keras.Input((6,), name="given")
    keras.Model(given, keras.layers.BatchNormalization()(given)).save(tmp_path / "m.keras")

    found = call("prune", tmp_path / "m.keras", "--sparsity", "0.5", "-o", tmp_path / "p.keras")

    found.error(2, "nothing to prune", "the model has none")


def test_an_empty_npz_says_that_it_holds_nothing(keras: Any, call: Call, work: Path) -> None:
    """A list of what is there reads "none", not a blank."""
    np.savez(work / "empty.npz")

    found = call(
        "prune", work / "model.keras", "--sparsity", "0.5", "--data", work / "empty.npz", "-o", work / "p.keras"
    )

    found.error(4, "it has: none")


def test_a_crash_is_not_blamed_on_log_lines(tmp_path: Path) -> None:
    """TensorFlow's own log lines are passed over in search of the last words of a converter that died."""
    from edgeprune.converters.session import Converter

    with Converter() as converter, (tmp_path / "log").open("w+b") as log:
        log.write(b"LLVM ERROR: out of luck\nI0000 00:00:1795352976.8 cudart_stub.cc:31] Could not find cuda drivers\n")
        converter._log = log

        assert converter._log_tail() == "LLVM ERROR: out of luck"
