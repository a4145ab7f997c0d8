"""Layers padded anew, so that sparse kernels can run what no rewrite of a file makes eligible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome

from edgeprune.artifact import Format, Precision
from edgeprune.checker.sparse_kernels.ineligible import IneligibleError
from edgeprune.converters.session import Converter
from edgeprune.converters.sparse_exports import check_eligible
from edgeprune.errors import Unsupported
from edgeprune.maker.pruning.magnitude import prune_magnitude
from edgeprune.maker.pruning.options import MagnitudeOptions
from edgeprune.maker.pruning.symmetric_padding import pad_symmetrically


def mobile(keras: Any, size: int = 26, *, more: tuple[int, int] = (0, 1)) -> Any:
    """As keras.applications.MobileNet begins: ZeroPadding2D before a depthwise convolution of stride 2, whatever the
    size of its map, here 13 for 26."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = keras.Input((size, size, 3), name="x")
    h = layers.ReLU()(layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(x))
    h = layers.ReLU()(layers.DepthwiseConv2D(3, padding="same", name="still")(h))
    h = layers.ReLU()(layers.Conv2D(16, 1, name="first")(h))
    h = layers.ZeroPadding2D((more, more), name="pad")(h)
    h = layers.ReLU()(layers.DepthwiseConv2D(3, strides=2, padding="valid", name="moves")(h))
    h = layers.ReLU()(layers.Conv2D(16, 1, name="second")(h))
    return keras.Model(x, layers.Dense(4)(layers.GlobalAveragePooling2D()(h)), name="mobile")


def outputs(model: Any) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    return np.asarray(model(values, training=False))


def test_an_odd_map_is_padded_on_both_sides_and_nothing_else(keras: Any) -> None:
    model = mobile(keras)
    made, changed = pad_symmetrically(model)
    assert changed == ("moves",)
    assert made.get_layer("pad").padding == ((1, 1), (1, 1))
    assert made.get_layer("stem").padding == "same"
    assert made.get_layer("moves").output.shape == (None, 7, 7, 16)
    assert model.get_layer("moves").output.shape == (None, 6, 6, 16)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), made.get_weights(), strict=True))
    assert 0 < np.abs(outputs(model) - outputs(made)).max() < np.abs(outputs(model)).max()


def test_what_a_turned_image_makes_right_is_left_alone(keras: Any) -> None:
    model = mobile(keras, 24)
    assert pad_symmetrically(model) == (model, ())


def test_padding_of_two_kinds_becomes_one(keras: Any) -> None:
    """Of PyTorch's and TensorFlow's padding at even sizes the image can be turned for one only."""
    made, changed = pad_symmetrically(mobile(keras, 24, more=(1, 1)))
    assert changed == ("moves",)
    assert made.get_layer("pad").padding == ((0, 1), (0, 1))


def test_sequential_and_nested_models_and_layers_without_padding(keras: Any) -> None:
    layers = keras.layers
    inner = keras.Sequential([keras.Input((13, 13, 4)), layers.DepthwiseConv2D(3, strides=2, name="moves")], name="in")
    model = keras.Sequential([keras.Input((13, 13, 3)), layers.Conv2D(4, 1), inner, layers.GlobalMaxPooling2D()])
    made, changed = pad_symmetrically(model)
    assert changed == ("moves",)
    assert made.get_layer("in").output.shape == (None, 7, 7, 4)
    assert outputs(made).shape == outputs(model).shape


def test_a_map_that_grows_where_none_may(keras: Any) -> None:
    layers = keras.layers
    x = keras.Input((13, 13, 3))
    h = layers.DepthwiseConv2D(3, strides=2, name="moves")(x)
    with pytest.raises(Unsupported, match="cannot be padded anew"):
        pad_symmetrically(keras.Model(x, layers.Reshape((108,))(h)))
    open_size = keras.Input((None, None, 3))
    with pytest.raises(Unsupported, match="moves: a map of open size"):
        pad_symmetrically(keras.Model(open_size, layers.DepthwiseConv2D(3, strides=2, name="moves")(open_size)))


def test_the_command_says_what_it_padded(keras: Any, tmp_path: Path, call: Callable[..., Outcome]) -> None:
    mobile(keras).save(tmp_path / "model.keras")
    options = ("--sparsity", 0.5, "--symmetric-padding", "-o", tmp_path / "out.keras")
    done = call("prune", tmp_path / "model.keras", *options)
    assert done.code == 0, done.err
    assert "padding: 1 layers padded anew for sparse kernels (moves): fine-tune" in done.out
    assert keras.saving.load_model(tmp_path / "out.keras").get_layer("pad").padding == ((1, 1), (1, 1))


@pytest.mark.slow
def test_the_cure_that_the_checker_names_is_one(keras: Any, converter: Converter, tmp_path: Path) -> None:
    model = mobile(keras)
    done = prune_magnitude(model, MagnitudeOptions(sparsity=0.5, symmetric_padding=True))
    assert done.report.padded == ("moves",)
    for name, one in (("old", model), ("new", done.model)):
        converter.export(one, tmp_path / f"{name}.tflite", Format.TFLITE, Precision.FLOAT32)
    with pytest.raises(IneligibleError, match="edgeprune prune --symmetric-padding"):
        check_eligible(tmp_path / "old.tflite")
    check_eligible(tmp_path / "new.tflite")
