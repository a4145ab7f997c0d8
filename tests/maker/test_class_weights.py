"""Weights of classes: balanced, by a table, in a training and in recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import EdgepruneError, RecipeError, UsageError
from edgeprune.maker.training.data.class_weights import class_weights, weighted
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.data.words import weight_words
from edgeprune.maker.training.goals import find_task
from edgeprune.maker.training.options import TrainOptions
from edgeprune.maker.training.task import Task


def two_classes() -> Task:
    import keras

    x = keras.Input((1,), name="x")
    return find_task(keras.Model(x, keras.layers.Dense(2)(x)), "accuracy", trains=True)


def test_weights_of_classes() -> None:
    """Balanced as in scikit-learn, or by a table; one-hot rows; multiplied with weights of samples."""
    from sklearn.utils.class_weight import compute_sample_weight

    classes = np.array([0, 0, 0, 2, 2, 5])
    np.testing.assert_allclose(
        class_weights(classes, "balanced"), compute_sample_weight("balanced", classes), rtol=1e-6
    )
    assert class_weights(np.eye(3)[[2, 0]], {"2": 4.0}).tolist() == [4, 1]
    assert class_weights(np.array([[1.0], [0.0]]), weight_words("0=2, 1=0.5")).tolist() == [0.5, 2]
    samples = Samples(
        path=Path("a"), inputs={"x": np.zeros((2, 1))}, targets=np.array([0, 1]), weights=np.array([2, 3.0])
    )
    assert np.asarray(weighted(samples, {"1": 2.0}, two_classes()).weights).tolist() == [2, 6]


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (lambda: class_weights(np.zeros((4, 3, 3)), "balanced"), "one class a sample"),
        (lambda: class_weights(np.array([[1, 1], [0, 1]]), "balanced"), "one class a sample"),
        (lambda: class_weights(np.array([0.5, 1]), "balanced"), "these targets are numbers"),
        (lambda: class_weights(np.array([0, 1]), {"7": 2.0}), "class 7, which no training sample has"),
        (lambda: TrainOptions(epochs=1, class_weight="even"), 'is "balanced", or'),
        (lambda: TrainOptions(epochs=1, class_weight={"0": -1.0}), "at least 0"),
        (lambda: TrainOptions(epochs=1, class_weight={"cat": 1.0}), "by their indexes"),
        (lambda: weight_words("0=a"), "--class-weight is balanced or"),
    ],
)
def test_weights_that_are_none(task: Callable[[], object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        task()


def test_weights_of_classes_in_a_training(vector_model: Any, tmp_path: Path) -> None:
    """A class of weight 0 does not move the model; a metric of numbers is refused."""
    from edgeprune.maker.keras.models import clone
    from edgeprune.maker.training.loop import train

    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(16, 6)).astype(np.float32), np.arange(16) % 2
    samples = Samples(path=tmp_path, inputs={"x": x}, targets=y)
    only = Samples(path=tmp_path, inputs={"x": x}, targets=y, weights=(y == 0).astype(np.float32))
    made = []
    for given, class_weight in ((samples, {"1": 0.0}), (only, None)):
        model = clone(vector_model)
        options = TrainOptions(epochs=1, batch_size=8, class_weight=class_weight)
        train(model, given, None, find_task(model, "accuracy", trains=True), options)
        made.append(model.get_weights())
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)
    options, task = TrainOptions(epochs=1, class_weight="balanced"), find_task(vector_model, "mse", trains=True)
    with pytest.raises(EdgepruneError, match="metric mse is for numbers"):
        train(vector_model, samples, None, task, options)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ('"balanced"', "balanced"),
        ("{0 = 1, 2 = 4.0}", {"0": 1.0, "2": 4.0}),
        ('"even"', r'\[steps 1\].* class_weight is "balanced", or weights'),
        ("{0 = true}", r"'steps 1.class_weight.0' must be a number"),
        ("3", "'steps 1.class_weight' must be a text in quotes"),
    ],
)
def test_weights_of_classes_in_recipes(tmp_path: Path, value: str, found: object) -> None:
    """A word or a table in a step that trains."""
    from conftest import RECIPE

    from edgeprune.maker.recipe.recipe import FinetuneStep, load_recipe

    (tmp_path / "r.toml").write_text(f'{RECIPE}[[steps]]\nkind = "finetune"\nepochs = 1\nclass_weight = {value}\n')
    if value in ('"even"', "3", "{0 = true}"):
        with pytest.raises(RecipeError, match=str(found)):
            load_recipe(tmp_path / "r.toml")
        return
    (step,) = load_recipe(tmp_path / "r.toml").steps
    assert isinstance(step, FinetuneStep)
    assert step.training.class_weight == found
