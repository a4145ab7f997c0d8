"""Layers that look words up are cut off at the inputs, with all that an app needs to do the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.converters.frozen import freeze
from edgeprune.errors import Unsupported
from edgeprune.maker.keras.models import input_specs, predict
from edgeprune.maker.keras.preprocessing import cut_preprocessing


@pytest.fixture(scope="module")
def model(keras: Any) -> Any:
    """Two inputs of texts and one of numbers."""
    layers = keras.layers
    text, place = (keras.Input((1,), dtype="string", name=name) for name in ("text", "place"))
    numbers = keras.Input((2,), name="numbers")
    words = layers.TextVectorization(output_sequence_length=3, vocabulary=["b", "a"], name="words")(text)
    found = layers.StringLookup(vocabulary=["x", "y"], name="found")(place)
    parts = [layers.Flatten()(layers.Embedding(4, 2)(ids)) for ids in (words, found)]
    return keras.Model([text, place, numbers], layers.Dense(2, name="end")(layers.Concatenate()([*parts, numbers])))


def test_the_model_behind(model: Any) -> None:
    """It computes the same from what the layers made; the words are listed in the order of their numbers."""
    import tensorflow as tf

    behind, cut = cut_preprocessing(model)
    assert input_specs(behind) == {
        "text": ((None, 3), "int64"),
        "place": ((None, 1), "int64"),
        "numbers": ((None, 2), "float32"),
    }
    told = json.loads(json.dumps(cut))
    assert list(told) == ["text", "place"]
    assert told["text"]["vocabulary"] == ["", "[UNK]", "b", "a"]
    assert told["text"]["settings"]["standardize"] == "lower_and_strip_punctuation"
    assert (told["place"]["class"], told["place"]["vocabulary"]) == ("StringLookup", ["[UNK]", "x", "y"])
    numbers = np.ones((1, 2), np.float32)
    whole = model([tf.constant([["A b"]]), tf.constant([["y"]]), tf.constant(numbers)])
    rest = predict(behind, {"text": np.array([[3, 2, 0]]), "place": np.array([[2]]), "numbers": numbers})["end"]
    np.testing.assert_allclose(rest, whole, atol=1e-6)


def test_the_option_is_named(model: Any, tmp_path: Path) -> None:
    """Where the layer is left in, the line names it and the way."""
    with pytest.raises(Unsupported, match=r"layer 'words' \(TextVectorization\) .* --cut-preprocessing"):
        freeze(model, tmp_path / "g.pb")


def test_where_it_cannot_cut(keras: Any, model: Any) -> None:
    """A layer in a nested model, one that shares its input, functions of one's own, and models without any."""
    layers = keras.layers
    x = keras.Input((1,), dtype="string", name="x")
    inner = keras.Input((1,), dtype="string")
    look = [layers.StringLookup(vocabulary=["a"], name=name) for name in ("one", "two", "deep")]
    own = layers.TextVectorization(standardize=lambda text: text, vocabulary=["a"], name="own")
    for made, told in (
        (keras.Model(inner, look[2](inner))(x), "'deep' is inside another model"),
        ([look[0](x), look[1](x)], "is not the only reader of an input"),
        (own(x), "'own' has a function of its own"),
    ):
        with pytest.raises(Unsupported, match=told):
            cut_preprocessing(keras.Model(x, made))
    with pytest.raises(Unsupported, match="has none of the layers"):
        cut_preprocessing(cut_preprocessing(model)[0])
