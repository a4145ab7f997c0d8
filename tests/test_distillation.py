"""Targets mixed with a teacher's answers, and varied training images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeprune.augmentation import Augmenter
from edgeprune.distillation import Teacher
from edgeprune.errors import UsageError
from edgeprune.metrics import METRICS

PICTURES = (None, 6, 6, 1)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 6, 6, 1)).astype(np.float32)


def classifier(activation: str | None, units: int) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    given = keras.Input((4,), name="given")
    return keras.Model(given, keras.layers.Dense(units, activation=activation)(given))


@pytest.mark.parametrize("activation", ["softmax", None])
def test_class_targets_become_shares(activation: str | None) -> None:
    """A quarter from the teacher and the rest from the label; logits are turned into probabilities first."""
    model, given = classifier(activation, 3), np.eye(4, dtype=np.float32)[:2]
    made = np.asarray(model(given))
    answers = made if activation else np.exp(made) / np.exp(made).sum(1, keepdims=True)

    mixed = Teacher(model, METRICS["accuracy"], 0.25)([given], np.array([[2], [0]]))

    labels = np.array([[0, 0, 1], [1, 0, 0]])
    np.testing.assert_allclose(mixed, 0.75 * labels + 0.25 * answers, atol=1e-6)
    np.testing.assert_allclose(mixed.sum(1), 1, atol=1e-6)


def test_regression_targets_are_mixed_too() -> None:
    """At share 1 the target is the teacher's answer alone."""
    model, given = classifier(None, 2), np.eye(4, dtype=np.float32)

    mixed = Teacher(model, METRICS["mse"], 1.0)([given], np.zeros((4, 2)))

    np.testing.assert_allclose(mixed, np.asarray(model(given)), atol=1e-6)


def test_augmentation_is_off_by_default() -> None:
    """Without flip and shift the very same arrays come back, and any input shape will do."""
    given = [pictures(3), np.zeros((3, 2))]

    varied = Augmenter([PICTURES, (None, 2)], flip=False, shift=0, seed=0)(given)

    assert varied[0] is given[0]
    assert varied[1] is given[1]


def test_flip_mirrors_left_to_right() -> None:
    """Every image is itself or its mirror image, and among many both occur."""
    given = pictures(40)

    (varied,) = Augmenter([PICTURES], flip=True, shift=0, seed=0)([given])

    same = (varied == given).all((1, 2, 3))
    mirrored = (varied == given[:, :, ::-1]).all((1, 2, 3))
    assert (same | mirrored).all()
    assert 5 < same.sum() < 35


def test_shift_moves_and_repeats_the_edge() -> None:
    """A shifted image is a window of the image with its edges repeated; the same seed gives the same windows."""
    given = pictures(20)
    padded = np.pad(given, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")

    (varied,) = Augmenter([PICTURES], flip=False, shift=2, seed=3)([given])
    (again,) = Augmenter([PICTURES], flip=False, shift=2, seed=3)([given])

    windows = [padded[:, y : y + 6, x : x + 6] for y in range(5) for x in range(5)]
    assert np.array([(varied == window).all((1, 2, 3)) for window in windows]).any(0).all()
    assert (varied != given).any()
    assert np.array_equal(varied, again)


@pytest.mark.parametrize(("shape", "shift"), [((None, 8), 1), ((None, 6, 6, 1), 6)])
def test_what_cannot_be_varied_is_refused(shape: tuple[int | None, ...], shift: int) -> None:
    """Inputs that are no images, and a shift as large as the image, are usage errors."""
    with pytest.raises(UsageError, match="shift"):
        Augmenter([shape], flip=False, shift=shift, seed=0)
