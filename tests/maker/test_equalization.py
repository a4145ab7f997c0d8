"""Equalized channels: the same outputs, kernels whose channels are of alike size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from conftest import Outcome

from edgeprune.errors import Unsupported
from edgeprune.ledger import schema_path
from edgeprune.maker.keras.models import predict
from edgeprune.maker.quantization.chains import channels_made, find_chains, kernel_of, largest_by
from edgeprune.maker.quantization.equalization import MARGIN, OUTLIER, equalize
from edgeprune.maker.training.data.samples import Samples


def network(keras: Any, *, cap: float | None = None) -> Any:
    """Depthwise separable: normalized, with a bias, in a model of its own, with a pool and a Dense layer at the end."""
    layers = keras.layers
    keras.utils.set_random_seed(3)
    inner = keras.Input((8, 8, 6))
    h = layers.ZeroPadding2D(1)(layers.ReLU(cap, name="inner_relu")(layers.Conv2D(6, 1, name="pointwise")(inner)))
    h = layers.ReLU(cap)(layers.Conv2D(5, 3, use_bias=False, name="whole")(h))
    nested = keras.Model(inner, h, name="nested")
    x = keras.Input((16, 16, 3), name="x")
    h = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(x))
    h = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(layers.ReLU(cap, name="relu")(h))
    h = layers.ReLU(cap)(layers.BatchNormalization(name="norm2")(h))
    h = layers.BatchNormalization(name="norm3")(layers.Conv2D(6, 1, use_bias=False, name="project")(h))
    h = layers.GlobalAveragePooling2D()(nested(layers.ReLU(cap)(h)))
    model = keras.Model(x, layers.Dense(4, name="out")(h))
    rng = np.random.default_rng(1)
    for name in ("norm", "norm2", "norm3"):
        norm = model.get_layer(name)
        norm.gamma.assign(rng.uniform(0.5, 1.5, norm.gamma.shape) * 10.0 ** rng.integers(-1, 2, norm.gamma.shape))
        norm.beta.assign(rng.uniform(0.5, 1, norm.beta.shape) * np.asarray(norm.gamma))
        norm.moving_mean.assign(rng.normal(0, 0.1, norm.beta.shape))
        norm.moving_variance.assign(rng.uniform(0.5, 2, norm.beta.shape))
    return model


def samples(count: int = 48, seed: int = 0) -> Samples:
    values = np.random.default_rng(seed).normal(0, 0.5, (count, 16, 16, 3)).astype(np.float32)
    return Samples(path=Path("d"), inputs={"x": values}, targets=np.zeros(count, int))


def departure(model: Any, made: Any, data: Samples) -> float:
    """The largest difference of an output, as a part of the largest number."""
    old, new = (next(iter(predict(one, data.inputs).values())) for one in (model, made))
    return float(np.abs(old - new).max() / np.abs(old).max())


def test_chains_go_through_relu_padding_and_pools_and_not_into_models(keras: Any) -> None:
    found = [(chain.made.name, chain.reads.name) for chain in find_chains(network(keras))]
    assert found == [("stem", "depthwise"), ("depthwise", "project"), ("pointwise", "whole")]


def test_what_a_factor_does_not_pass_is_no_chain(keras: Any) -> None:
    """Two readers, hard-swish, an output in between, a normalization behind the activation, groups."""
    layers = keras.layers
    x = keras.Input((8, 8, 4))
    a = layers.Conv2D(4, 1, activation="relu")(x)
    b = layers.Activation("hard_swish")(layers.Conv2D(4, 1)(a))
    c = layers.Add()([layers.Conv2D(4, 1)(b), layers.Conv2D(4, 1)(a)])
    d = layers.Conv2D(4, 1, activation="relu")(c)
    e = layers.Conv2D(4, 1, activation="relu6")(d)
    f = layers.BatchNormalization()(layers.Conv2D(4, 1, groups=2, activation="relu")(e))
    assert not find_chains(keras.Model(x, [d, layers.Conv2D(2, 1)(f)]))


def test_outputs_stay_and_channels_are_of_alike_size(keras: Any) -> None:
    model, data = network(keras), samples()
    before = model.get_weights()
    made, report = equalize(model, data)
    assert departure(model, made, samples(seed=5)) <= 1e-5
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert (report.layers, report.channels, report.flattened) == (3, 22, 0)
    assert report.spread_after < 0.35 * report.spread_before
    # Statistics are those of what a normalization reads: training goes on as it did before, but for epsilon.
    trained = [np.asarray(one(data.inputs["x"], training=True)) for one in (model, made)]
    assert np.abs(trained[0] - trained[1]).max() <= 0.2 * np.abs(trained[0]).max()


def test_below_its_cap_a_channel_keeps_some_room(keras: Any) -> None:
    model, data = network(keras, cap=100.0), samples()
    made, report = equalize(model, data)
    assert departure(model, made, data) <= 0.1
    assert report.spread_after < report.spread_before
    largest = keras.Model(made.input, made.get_layer("norm").output).predict(data.inputs["x"], verbose=0).max((0, 1, 2))
    old = keras.Model(model.input, model.get_layer("norm").output).predict(data.inputs["x"], verbose=0).max((0, 1, 2))
    assert (largest <= np.maximum(old, 100 / MARGIN) * 1.001).all()


def test_a_steep_channel_that_reaches_its_cap_is_made_less_steep(keras: Any) -> None:
    model, data = network(keras, cap=6.0), samples()
    kernel = np.array(model.get_layer("stem").kernel)
    kernel[..., 2] *= 400 / np.abs(kernel[..., 2]).max() / float(model.get_layer("norm").gamma[2])
    model.get_layer("stem").kernel.assign(kernel)
    made, report = equalize(model, data)
    assert report.flattened >= 1
    stem = made.get_layer("stem")
    largest = largest_by(np.asarray(kernel_of(stem)), channels_made(stem))
    assert largest[2] <= 2 * OUTLIER * np.median(largest)
    assert departure(model, made, data) <= 0.2  # without the factor of the reader: 0.6


def test_a_channel_that_does_not_vary_becomes_a_constant(keras: Any) -> None:
    model, data = network(keras), samples()
    stem, norm = model.get_layer("stem"), model.get_layer("norm")
    kernel, variance = np.array(stem.kernel), np.array(norm.moving_variance)
    kernel[..., 1] *= 1e-9
    variance[1] = 0
    stem.kernel.assign(kernel)
    norm.moving_variance.assign(variance)
    made, report = equalize(model, data)
    assert report.still >= 1
    assert not np.asarray(made.get_layer("stem").kernel)[..., 1].any()
    assert departure(model, made, data) <= 1e-4


def test_nothing_to_equalize(keras: Any) -> None:
    x = keras.Input((16, 16, 3), name="x")
    with pytest.raises(Unsupported, match="nothing to equalize"):
        equalize(keras.Model(x, keras.layers.Conv2D(2, 1)(x)), samples())


@pytest.mark.slow
@pytest.mark.usefixtures("one_converter")
def test_a_step_of_a_recipe(recipe: Callable[..., Path], call: Callable[..., Outcome], tmp_path: Path) -> None:
    """The stage has its own file and score, and the ledger says what was done; a channel's scale may be negative."""
    path = recipe('[[steps]]\nkind = "equalize"\nsamples = 40\n')
    done = call("run", path, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "equalize channels, whose sizes 40 training samples tell" in done.err
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    jsonschema.validate(ledger, json.loads(schema_path().read_text()))
    dense, stage = ledger["stages"]
    assert (stage["name"], stage["kind"], stage["equalized"]["layers"]) == ("equalized", "equalize", 3)
    assert stage["equalized"]["spread_after"] <= stage["equalized"]["spread_before"]
    assert stage["metric"]["value"] == dense["metric"]["value"]
    assert "channels of 3 layers" in (tmp_path / "out" / "report.md").read_text()


def test_bad_keys_of_the_step(recipe: Callable[..., Path], call: Callable[..., Outcome]) -> None:
    call("run", recipe('[[steps]]\nkind = "equalize"\nsamples = 0\n')).error(2, "samples is at least 1")
