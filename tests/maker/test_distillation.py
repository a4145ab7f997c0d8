"""Targets mixed with a teacher's answers, and varied training images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeprune.errors import UsageError
from edgeprune.maker.training.augmentation import Augmenter
from edgeprune.maker.training.distillation import Distillation
from edgeprune.maker.training.goals import find_task

PICTURES = (None, 6, 6, 1)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 6, 6, 1)).astype(np.float32)


def classifier(activation: str | None, units: int) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    given = keras.Input((4,), name="given")
    return keras.Model(given, keras.layers.Dense(units, activation=activation)(given))


def softmax(logits: np.ndarray) -> np.ndarray:
    made = np.exp(logits - logits.max(-1, keepdims=True))
    return made / made.sum(-1, keepdims=True)


@pytest.mark.parametrize("activation", ["softmax", None])
def test_loss_of_classes_is_that_of_the_paper(activation: str | None) -> None:
    """(1 - share) * H(label, p) + share * T^2 * H(answer at T, p at T), from logits and from probabilities."""
    teacher, given = classifier(activation, 3), np.eye(4, dtype=np.float32)[:2]
    made = np.asarray(teacher(given), np.float64)
    taught = np.log(made) if activation else made
    logits = np.array([[1.0, -1.0, 0.5], [0.0, 2.0, 0.0]])
    labels = np.array([2, 0])
    distillation = Distillation(
        teacher, teacher, find_task(teacher, "accuracy", trains=True), share=0.25, temperature=2.0
    )

    targets = distillation.targets([given], labels[:, None])
    found = distillation.loss(targets, (softmax(logits) if activation else logits).astype(np.float32)).numpy()

    hard = -np.log(softmax(logits)[np.arange(2), labels])
    warm = -(softmax(taught / 2) * np.log(softmax(logits / 2))).sum(1)
    np.testing.assert_allclose(found, 0.75 * hard + 0.25 * 4 * warm, rtol=1e-4)


def test_a_single_probability_is_two_classes() -> None:
    """At share 0 the loss is the binary cross-entropy of the label."""
    teacher, given = classifier("sigmoid", 1), np.eye(4, dtype=np.float32)[:2]
    distillation = Distillation(teacher, teacher, find_task(teacher, "auc", trains=True), share=0.0, temperature=3.0)

    targets = distillation.targets([given], np.array([[1], [0]]))
    found = distillation.loss(targets, np.array([[0.8], [0.3]], np.float32)).numpy()

    np.testing.assert_allclose(found, [-np.log(0.8), -np.log(0.7)], rtol=1e-4)


def test_regression_targets_are_mixed() -> None:
    """At share 1 the target is the teacher's answer alone."""
    model, given = classifier(None, 2), np.eye(4, dtype=np.float32)
    distillation = Distillation(model, model, find_task(model, "mse", trains=True), share=1.0, temperature=3.0)

    mixed = distillation.targets([given], np.zeros((4, 2)))

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
