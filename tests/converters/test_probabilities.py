"""Class labels and logits: a softmax on request, a warning otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.converters.conversion import ConvertOptions, convert
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.probabilities import classified
from edgeprune.errors import UsageError
from edgeprune.maker.keras.models import input_specs, output_names, predict, share_end
from edgeprune.runtime.session import installed_runtimes, run_tflite

LABELS = AppOptions(class_labels=("a", "b", "c"))
SOFTMAX = AppOptions(class_labels=("a", "b", "c"), softmax=True)


def _flat(keras: Any, activation: str | None) -> Any:
    """Layers in a row."""
    return keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(3, activation=activation, name="scores")])


def _nested(keras: Any, activation: str | None) -> Any:
    """The end is inside a model of its own, and laid out again behind it."""
    return keras.Sequential([keras.Input((6,)), _flat(keras, activation), keras.layers.Reshape((3,))])


def _two(keras: Any, activation: str | None) -> Any:
    """Outputs by name, the classifier second."""
    x = keras.Input((6,), name="x")
    scores = keras.layers.Dense(3, activation=activation, name="scores")(x)
    return keras.Model(x, {"boxes": keras.layers.Dense(4, name="boxes")(x), "classes": scores})


def _computed(keras: Any, activation: str | None) -> Any:
    """The end is an operation, which says nothing by its name."""
    x = keras.Input((6,), name="x")
    made = keras.layers.Dense(3, activation="softplus")(x)
    return keras.Model(x, made / keras.ops.sum(made, -1, keepdims=True) if activation else made)


BUILDS = [_flat, _nested, _two, _computed]


@pytest.mark.parametrize("build", BUILDS)
def test_probabilities_pass_and_logits_are_told(keras: Any, build: Callable[[Any, str | None], Any]) -> None:
    """What ends in a softmax, or gives shares of one, is what labels name; all else is named, with the cure."""
    model = build(keras, "softmax")
    assert classified(model, LABELS) == (model, ())
    logits = build(keras, None)
    same, (line,) = classified(logits, LABELS)
    assert same is logits
    assert "is no probabilities (neither softmax nor sigmoid is at its end)" in line
    assert "add --softmax" in line
    assert classified(logits, AppOptions()) == (logits, ())


@pytest.mark.parametrize("build", BUILDS)
def test_a_softmax_behind_the_named_output(keras: Any, build: Callable[[Any, str | None], Any]) -> None:
    """The named output is the softmax of the model's, under its name; the others and the model are as before."""
    logits = build(keras, None)
    made, said = classified(logits, SOFTMAX)
    assert said == ()
    assert output_names(made) == output_names(logits)
    assert input_specs(made) == input_specs(logits)
    given = dict.fromkeys(input_specs(made), np.eye(6, dtype=np.float32))
    before, after = predict(logits, given), predict(made, given)
    name = output_names(logits)[-1]
    shares = np.exp(before[name]) / np.exp(before[name]).sum(-1, keepdims=True)
    np.testing.assert_allclose(after.pop(name), shares, atol=1e-6)
    for other, values in after.items():
        np.testing.assert_array_equal(values, before[other])


def test_a_softmax_too_many(keras: Any) -> None:
    """Nothing is turned into shares twice, and the output is not guessed."""
    with pytest.raises(UsageError, match="'output_0' ends in a softmax already; leave out --softmax"):
        classified(_flat(keras, "softmax"), SOFTMAX)
    with pytest.raises(UsageError, match="behind which output, boxes or classes"):
        classified(_two(keras, None), AppOptions(softmax=True))


def test_ends_of_nested_models(keras: Any) -> None:
    """The loss on a nested model is that of the same layers in a row."""
    assert share_end(_nested(keras, "softmax")) == "softmax"
    assert share_end(_nested(keras, None)) == ""


@pytest.mark.slow
def test_a_file_with_a_softmax(keras: Any, tmp_path: Path) -> None:
    """The file gives shares of one under the model's name, and its record says nothing; without, it does."""
    logits, path = _two(keras, None), tmp_path / "m.tflite"
    entry = convert(logits, path, options=ConvertOptions(app=SOFTMAX))
    assert entry.warnings == ()
    outputs = run_tflite(path, {"x": np.eye(6, dtype=np.float32)}, runtime=list(installed_runtimes())[-1]).outputs
    assert sorted(outputs) == ["boxes", "classes"]
    np.testing.assert_allclose(outputs["classes"].sum(-1), 1, atol=1e-5)
    plain = convert(logits, path, options=ConvertOptions(app=LABELS), overwrite=True)
    assert "'classes' is no probabilities" in plain.warnings[0]
