"""Models that compute channels first: computed on a CPU, and converted with what every phone has kernels for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.converters.channels_last import channels_last
from edgeprune.converters.conversion import ConvertOptions, convert
from edgeprune.converters.session import Converter
from edgeprune.errors import Unsupported
from edgeprune.formats import read_contents
from edgeprune.maker.keras.models import predict

SHAPE = (3, 8, 12)


@pytest.fixture(scope="module")
def model(keras: Any) -> Any:
    """What a channels-first network is made of; every weight random."""
    layers, first = keras.layers, {"data_format": "channels_first"}
    keras.utils.set_random_seed(4)
    given = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", **first)(
        layers.ZeroPadding2D(1, **first)(given)
    )
    x = layers.BatchNormalization(axis=1, beta_initializer="uniform", gamma_initializer="uniform")(x)
    y = layers.MaxPooling2D(1, **first)(layers.DepthwiseConv2D(3, padding="same", **first)(x))
    x = layers.Concatenate(axis=1)([x, y])
    x = layers.Conv2D(4, 3, dilation_rate=2, padding="same", **first)(x)
    x = layers.Conv2DTranspose(2, 2, strides=2, **first)(x)
    flat = layers.Dense(2, name="flat")(layers.Flatten(**first)(x))
    mean = layers.Dense(2, name="mean")(layers.GlobalAveragePooling2D(**first)(x))
    return keras.Model(given, [flat, mean])


def test_a_cpu_computes_it(keras: Any) -> None:
    """The same numbers as the layer that is channels last, of few samples and of many."""
    given = keras.Input(SHAPE, name="x")
    first = keras.Model(given, keras.layers.Conv2D(2, 3, data_format="channels_first", name="a")(given))
    other = keras.Input((*SHAPE[1:], 3), name="x")
    last = keras.Model(other, keras.layers.Conv2D(2, 3, name="a")(other))
    last.set_weights(first.get_weights())
    x = np.random.default_rng(1).random((20, *SHAPE), dtype=np.float32)
    wanted = np.moveaxis(predict(last, {"x": np.moveaxis(x, 1, -1)})["a"], -1, 1)
    for count in (3, 20):
        np.testing.assert_allclose(predict(first, {"x": x[:count]})["a"], wanted[:count], atol=1e-6)


@pytest.mark.slow
def test_both_formats_compute_it(model: Any, tmp_path: Path) -> None:
    """Parity with the model, whose input keeps its shape; transposed at the input and before Flatten at most."""
    with Converter() as converter:
        for name in ("a.tflite", "a.mlpackage"):
            entry = convert(
                model, tmp_path / name, precision="float32", options=ConvertOptions(tolerance=1e-4), converter=converter
            )
            assert entry.parity is not None
            assert len(entry.parity) == 2
    graph = read_contents(tmp_path / "a.tflite").graph
    assert graph is not None
    assert graph.tensors[graph.inputs[0]].shape == (1, *SHAPE)
    assert Counter(op.kind for op in graph.ops)["TRANSPOSE"] <= 2


def test_what_cannot_be_turned_is_named(keras: Any) -> None:
    """An operation of a SavedModel, say, that no layer of Keras uses."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (1, 4, 8, 8))
        tf.nn.depth_to_space(x, 2, data_format="NCHW", name="shuffled")
    with pytest.raises(Unsupported, match=r"'shuffled' is a DepthToSpace .* data_format='channels_last'"):
        channels_last(graph.as_graph_def())
