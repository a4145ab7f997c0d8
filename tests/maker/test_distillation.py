"""Targets mixed with a teacher's answers, and varied training images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import UsageError
from edgeprune.maker.training import loop, teacher_answers
from edgeprune.maker.training.augmentation import Augmenter
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.distillation_losses import FeatureDistillation, LogitsDistillation
from edgeprune.maker.training.distiller import Distiller
from edgeprune.maker.training.goal import Goal
from edgeprune.maker.training.goals import task_of
from edgeprune.maker.training.options import TrainOptions
from edgeprune.maker.training.task import Task

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

    student, teacher = (heads(seed, nested=nested) for seed in (1, 2))
    rng = np.random.default_rng(3)
    x = rng.normal(size=(8, 4)).astype(np.float32)
    told = {"kind": rng.integers(0, 3, 8), "flags": rng.integers(0, 2, (8, 2)), "size": rng.normal(size=(8, 1))}
    goal = Goal(
        metric={"kind": ("accuracy",), "flags": ("f1",), "size": ("mse",)}, loss_weights={"kind": 2.0, "size": 0.5}
    )
    task, options = task_of(student, goal), TrainOptions(epochs=1, distill=share, temperature=2.0)
    own, taught = ([np.asarray(t, np.float64) for t in keras.tree.flatten(model(x))] for model in (student, teacher))
    trainee = loop._taught(student, teacher, task, options)
    loop.compile_model(keras, trainee, task, options, 1)
    found = loop.train_batch(trainee, Samples(path=Path("d"), inputs={"x": x}, targets=told), task, np.arange(8), 0)

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


def _told(model: Any, count: int) -> tuple[Samples, Task]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(count, 4)).astype(np.float32)
    told = {
        "kind": rng.integers(0, 3, count),
        "flags": rng.integers(0, 2, (count, 2)),
        "size": rng.normal(size=(count, 1)),
    }
    goal = Goal(metric={"kind": ("accuracy",), "flags": ("f1",), "size": ("mse",)})
    return Samples(path=Path("d"), inputs={"x": x}, targets=told), task_of(model, goal)


@pytest.mark.parametrize("nested", [False, True])
def test_answers_that_are_known_teach_as_those_of_each_step(nested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher is asked once for samples that are not varied, of the last batch that is not full too; with room for
    none of its answers, in each step. Both trainings end with the same weights."""
    made, asked, told = [], list[bool](), list[tuple[int, int, str]]()
    options = TrainOptions(epochs=3, batch_size=8, distill=0.9)
    one_step = loop.train_batch

    def seen(*given: Any) -> float:
        asked.append(given[-1] is not None)
        return one_step(*given)

    monkeypatch.setattr(loop, "train_batch", seen)
    for room in (teacher_answers.MOST_BYTES, 0):
        monkeypatch.setattr(teacher_answers, "MOST_BYTES", room)
        student, teacher = (heads(seed, nested=nested) for seed in (1, 2))
        samples, task = _told(student, 37)
        log = loop.train(
            student, samples, None, task, options, teacher=teacher, on_progress=lambda *at: told.append(at)
        )
        made.append([*student.get_weights(), np.array([epoch.loss for epoch in log.epochs])])
    assert [at for at in told if at[0] == 0] == [(0, 12, "the teacher is asked")] * (5 + 1)  # once for what has no room
    assert asked == [True] * 12 + [False] * 12
    for one, other in zip(*made, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_is_known_of_a_teacher() -> None:
    """Its outputs and features for each sample, in the order of the samples; nothing without a teacher."""
    import keras

    student, teacher = (heads(seed, nested=True) for seed in (1, 2))
    samples, _ = _told(student, 21)
    feature = FeatureDistillation("mse", "kind", "kind")
    trainee: Any = Distiller(teacher, student, [LogitsDistillation(), feature])
    known = teacher_answers.TeacherAnswers.of(trainee, samples, 8)
    assert known is not None
    rows = np.array([20, 3, 3])
    found, wanted = known.rows(rows), teacher.predict(samples.inputs["x"], verbose=0)
    for one, other in zip(keras.tree.flatten(found["outputs"]), keras.tree.flatten(wanted), strict=True):
        np.testing.assert_allclose(one, other[rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["features"]["kind"], wanted[0][rows], rtol=1e-5, atol=1e-6)
    assert teacher_answers.TeacherAnswers.of(student, samples, 8) is None


@pytest.mark.parametrize("how", [{"flip": True}, {"shift": 1}, {"epochs": 1}])
def test_a_teacher_is_asked_in_each_step_where_samples_vary(
    how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where each is shown once."""
    import keras

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(teacher_answers.TeacherAnswers, "of", never)
    x = keras.Input((6, 6, 1), name="x")
    student, teacher = (
        keras.Model(x, keras.layers.Dense(2, activation="softmax", name="y")(keras.layers.Flatten()(x))) for _ in "ab"
    )
    samples = Samples(path=Path("d"), inputs={"x": pictures(8)}, targets={"y": np.arange(8) % 2})
    task = task_of(student, Goal(metric={"y": ("accuracy",)}))
    options = TrainOptions(**{"epochs": 2, "batch_size": 4, "distill": 0.5, **how})
    assert loop.train(student, samples, None, task, options, teacher=teacher).steps == 2 * options.epochs


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
