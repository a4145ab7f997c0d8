"""Targets mixed with a teacher's answers, and varied training images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import UsageError
from edgeprune.maker.training.augmentation import Augmenter

PICTURES = (None, 6, 6, 1)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 6, 6, 1)).astype(np.float32)


def heads(seed: int, *, nested: bool) -> Any:
    """Classes, labels and a number."""
    import keras

    keras.utils.set_random_seed(seed)
    x = keras.Input((4,), name="x")
    kind = keras.layers.Dense(3, activation="softmax", name="kind")(x)
    flags = keras.layers.Dense(2, activation="sigmoid", name="flags")(x)
    size = keras.layers.Dense(1, name="size")(x)
    return keras.Model(x, [kind, {"flags": flags, "size": size}] if nested else [kind, flags, size])


def softmax(logits: np.ndarray) -> np.ndarray:
    made = np.exp(logits - logits.max(-1, keepdims=True))
    return made / made.sum(-1, keepdims=True)


@pytest.mark.parametrize(("share", "nested"), [(0.0001, False), (0.25, False), (0.25, True), (1.0, False)])
def test_a_step_of_the_pipeline_is_that_of_the_paper(share: float, nested: bool) -> None:
    """(1 - share) * loss of the labels + share * what the teacher's answers cost, output by output with its weight: T^2
    * H(answer at T, p at T) of classes and labels, and the mean squared difference of numbers."""
    import keras

    from edgeprune.maker.training.data.samples import Samples
    from edgeprune.maker.training.goal import Goal
    from edgeprune.maker.training.goals import task_of
    from edgeprune.maker.training.loop import _taught, compile_model, train_batch
    from edgeprune.maker.training.options import TrainOptions

    student, teacher = (heads(seed, nested=nested) for seed in (1, 2))
    rng = np.random.default_rng(3)
    x = rng.normal(size=(8, 4)).astype(np.float32)
    told = {"kind": rng.integers(0, 3, 8), "flags": rng.integers(0, 2, (8, 2)), "size": rng.normal(size=(8, 1))}
    goal = Goal(
        metric={"kind": ("accuracy",), "flags": ("f1",), "size": ("mse",)}, loss_weights={"kind": 2.0, "size": 0.5}
    )
    task, options = task_of(student, goal), TrainOptions(epochs=1, distill=share, temperature=2.0)
    own, taught = ([np.asarray(t, np.float64) for t in keras.tree.flatten(model(x))] for model in (student, teacher))
    trainee = _taught(student, teacher, task, options)
    compile_model(keras, trainee, task, options, 1)
    found = train_batch(trainee, Samples(path=Path("d"), inputs={"x": x}, targets=told), task, np.arange(8), 0)

    def warm(made: np.ndarray) -> np.ndarray:
        return softmax(np.log(made) / 2)

    def apart(answer: np.ndarray, made: np.ndarray) -> float:
        return float(-4 * (warm(answer) * np.log(warm(made))).sum(-1).mean())

    two = [np.stack([1 - flags, flags], -1) for flags in (taught[1], own[1])]
    labels = [
        -np.log(own[0][np.arange(8), told["kind"]]).mean(),
        -np.log(np.where(told["flags"] > 0, own[1], 1 - own[1])).mean(),
        ((own[2] - told["size"]) ** 2).mean(),
    ]
    answers = [apart(taught[0], own[0]), apart(*two), ((own[2] - taught[2]) ** 2).mean()]
    wanted = sum(
        w * ((1 - share) * label + share * answer)
        for w, label, answer in zip((2, 1, 0.5), labels, answers, strict=True)
    )
    assert found == pytest.approx(wanted, rel=2e-3)


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
