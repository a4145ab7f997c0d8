"""Statistics of batch normalization, estimated again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.maker.pruning.channel.pruner import prune_channels
from edgeprune.maker.pruning.options import ChannelOptions
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.goals import find_task
from edgeprune.maker.training.loop import evaluate, train
from edgeprune.maker.training.norms import NormStatistics
from edgeprune.maker.training.options import TrainOptions


def net() -> Any:
    """Two normalizations, one of them behind what the other makes; the first is frozen."""
    import keras

    keras.utils.set_random_seed(1)
    x = keras.Input((6,), name="x")
    h = keras.layers.BatchNormalization(name="first", momentum=0.9, trainable=False)(keras.layers.Dense(8, name="a")(x))
    h = keras.layers.BatchNormalization(name="second")(keras.layers.Dense(4, name="b", activation="relu")(h))
    return keras.Model(x, keras.layers.Dense(3, activation="softmax", name="kind")(h))


def samples(count: int) -> Samples:
    rng = np.random.default_rng(2)
    x = (rng.normal(size=(count, 6)) * [1, 2, 3, 4, 5, 6] + 3).astype(np.float32)
    return Samples(path=Path("d"), inputs={"x": x}, targets=x[:, :3].argmax(1))


def test_they_are_those_of_all_samples() -> None:
    """Mean and variance over whole batches, layer by layer, to float rounding; nothing else is touched."""
    model, data = net(), samples(640)
    kept = {weight.path: np.asarray(weight) for weight in model.weights if "moving" not in weight.path}
    NormStatistics(model, data, seed=0).renew()
    made = np.asarray(model.get_layer("a")(data.inputs["x"]))
    first = model.get_layer("first")
    np.testing.assert_allclose(first.moving_mean, made.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(first.moving_variance, made.var(0), rtol=1e-3)
    assert (first.trainable, first.momentum) == (False, 0.9)
    assert all((kept[weight.path] == np.asarray(weight)).all() for weight in model.weights if weight.path in kept)
    # Of the second they are over batches that the first has normalized one by one.
    norm, dense = first, model.get_layer("b")
    parts = made.reshape(10, 64, 8)
    parts = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + norm.epsilon)
    read = np.asarray(dense((parts * np.asarray(norm.gamma) + np.asarray(norm.beta)).reshape(640, 8)))
    np.testing.assert_allclose(model.get_layer("second").moving_mean, read.mean(0), rtol=0.05, atol=0.05)


def test_a_model_without_is_left_alone(vector_model: Any) -> None:
    before = [np.asarray(weight) for weight in vector_model.weights]
    NormStatistics(vector_model, samples(70), seed=0).renew()
    assert all((old == np.asarray(new)).all() for old, new in zip(before, vector_model.weights, strict=True))


@pytest.mark.slow
def test_a_cut_and_a_short_training() -> None:
    """A cut model with new statistics scores above one with the old ones; so does a model of a short training."""
    model, data = net(), samples(1024)
    task = find_task(model, "accuracy", trains=True)
    train(model, data, None, task, TrainOptions(epochs=12, batch_size=32, learning_rate=0.02, thaw=True))
    after = {}
    for compensate in ("none", "norms"):
        options = ChannelOptions(ratio=0.4, round_to=1, compensate=compensate, importance="l2")
        after[compensate] = evaluate(prune_channels(model, options, samples=data, task=task).model, data, task)[0]
    assert after["norms"] > after["none"]
    scores = {}
    for renew in (False, True):
        fresh = net()
        options = TrainOptions(epochs=1, batch_size=64, learning_rate=0.02, renew_norms=renew)
        scores[renew] = (
            train(fresh, data, data, find_task(fresh, "accuracy", trains=True), options).epochs[0].validation
        )
    assert scores[True] > scores[False]
