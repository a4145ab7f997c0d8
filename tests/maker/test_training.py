"""Training: the same seed gives the same bits, the best epoch is kept, and what goes wrong is told in one line."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import EdgepruneError, UsageError
from edgeprune.maker.keras.models import clone, output_shapes
from edgeprune.maker.pruning.channel.observe import weight_gradients
from edgeprune.maker.pruning.masked_training import finetune
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.data.targets import fitting_targets
from edgeprune.maker.training.frozen import frozen_note
from edgeprune.maker.training.goals import find_task
from edgeprune.maker.training.loop import BestWeights, batches, evaluate, steps_per_epoch, train
from edgeprune.maker.training.metrics import METRICS
from edgeprune.maker.training.options import TrainOptions


def made(count: int, seed: int = 0) -> Samples:
    """Six numbers each; the class is the largest of the first three."""
    x = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return Samples(path=Path("made up"), inputs={"x": x}, targets=x[:, :3].argmax(1))


def weights_after(model: Any, options: TrainOptions, samples: Samples, **more: Any) -> list[np.ndarray]:
    copy = clone(model)
    train(copy, samples, None, find_task(copy, "accuracy", trains=True), options, **more)
    return list(copy.get_weights())


def test_every_sample_at_most_once() -> None:
    """An epoch is whole batches of different samples in an order that the generator sets."""
    drawn = list(batches(50, 16, np.random.default_rng(1)))
    assert [len(b) for b in drawn] == [16, 16, 16]
    assert len(set(np.concatenate(drawn).tolist())) == 48
    assert (drawn[0] == next(batches(50, 16, np.random.default_rng(1)))).all()
    assert sorted(next(batches(5, 16, np.random.default_rng(1))).tolist()) == [0, 1, 2, 3, 4]
    assert (steps_per_epoch(50, 16), steps_per_epoch(5, 16)) == (3, 1)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"epochs": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"learning_rate": 0}, "above 0"),
        ({"learning_rate": float("nan")}, "above 0"),
        ({"optimizer": "lion"}, "adam, adamw, sgd"),
        ({"decay": "step"}, "known: cosine, constant"),
        ({"patience": 0}, "at least 1 epoch"),
        ({"keep_from": 1.0}, "below 1"),
    ],
)
def test_wrong_options(options: dict[str, Any], word: str) -> None:
    """Options out of range are usage errors."""
    with pytest.raises(UsageError, match=word):
        TrainOptions(**{"epochs": 1, **options})


class Named:
    """Stands for a model: its weights are its name."""

    def __init__(self) -> None:
        self.name = ""

    def get_weights(self) -> str:
        return self.name

    def set_weights(self, name: str) -> None:
        self.name = name


def offer(metric: str, patience: int | None, values: list[float | None], first: int = 1) -> tuple[str, int | None, int]:
    """(weights kept, epoch kept, epochs run) for validation values; epochs before `first` are not candidates."""
    best, model = BestWeights(METRICS[metric], patience), Named()
    for epoch, value in enumerate(values, start=1):
        model.name = f"epoch {epoch}"
        if best.offer(model, epoch, value, epoch >= first):
            break
    best.restore(model)
    return model.name, best.epoch, epoch


@pytest.mark.parametrize(
    ("metric", "patience", "values", "first", "expected"),
    [
        ("accuracy", None, [0.1, 0.5, 0.3], 1, ("epoch 2", 2, 3)),
        ("mse", None, [0.1, 0.5, 0.3], 1, ("epoch 1", 1, 3)),
        ("accuracy", None, [0.5, 0.5, 0.5], 1, ("epoch 1", 1, 3)),
        ("accuracy", 2, [0.5, 0.4, 0.4, 0.9], 1, ("epoch 1", 1, 3)),
        ("accuracy", 2, [0.5, 0.4, 0.6, 0.1, 0.2, 0.9], 1, ("epoch 3", 3, 5)),
        ("accuracy", None, [0.9, 0.2, 0.3], 2, ("epoch 3", 3, 3)),
        ("accuracy", 1, [0.9, 0.2, 0.1], 2, ("epoch 2", 2, 3)),
        ("accuracy", 1, [None, None], 1, ("epoch 2", None, 2)),
    ],
)
def test_the_best_epoch(
    metric: str, patience: int | None, values: list[float | None], first: int, expected: tuple[str, int | None, int]
) -> None:
    """The first of the best values is kept, patience counts from it, and unsettled epochs do not count."""
    assert offer(metric, patience, values, first) == expected


@pytest.mark.slow
class TestTraining:
    """On a small model."""

    def test_same_seed_same_bits(self, keras: Any) -> None:
        """The same seed gives byte-equal weights, Dropout included; another seed gives others."""
        x = keras.Input((6,), name="x")
        h = keras.layers.Dropout(0.5)(keras.layers.Dense(16, activation="relu")(x))
        model = keras.Model(x, keras.layers.Dense(3, activation="softmax")(h))
        options = TrainOptions(epochs=2, batch_size=16, seed=7)
        first = weights_after(model, options, made(64))
        random.seed(99)
        np.random.default_rng().random(3)
        again = weights_after(model, options, made(64))
        other = weights_after(model, TrainOptions(epochs=2, batch_size=16, seed=8), made(64))
        assert [w.tobytes() for w in first] == [w.tobytes() for w in again]
        assert first[0].tobytes() != other[0].tobytes()

    def test_it_learns_and_keeps_the_best(self, vector_model: Any) -> None:
        """Training raises accuracy, and the weights left in the model are those of the best epoch."""
        model, test = clone(vector_model), made(200, seed=1)
        before = evaluate(model, test, find_task(model, "accuracy"))[0]
        log = train(
            model,
            made(256),
            test,
            find_task(model, "accuracy", trains=True),
            TrainOptions(epochs=6, batch_size=32, learning_rate=0.02),
        )
        values = [epoch.validation for epoch in log.epochs]
        assert (
            max(v for v in values if v is not None)
            == values[log.kept_epoch - 1]
            == evaluate(model, test, find_task(model, "accuracy"))[0]
        )
        assert evaluate(model, test, find_task(model, "accuracy"))[0] > before + 0.2
        assert (log.steps, log.stopped_early) == (48, False)

    def test_patience_ends_training(self, vector_model: Any) -> None:
        """A learning rate too small to change anything runs into patience."""
        options = TrainOptions(epochs=9, batch_size=32, learning_rate=1e-9, patience=2)
        log = train(
            clone(vector_model), made(64), made(20), find_task(clone(vector_model), "accuracy", trains=True), options
        )
        assert (len(log.epochs), log.kept_epoch, log.stopped_early) == (3, 1, True)

    def test_unsettled_epochs_are_not_kept(self, vector_model: Any) -> None:
        """Of equal epochs the first is kept that ends at or after the step from which weights count."""
        options = TrainOptions(epochs=3, batch_size=16, learning_rate=1e-9)
        for first_step, kept in ((0, 1), (4, 1), (5, 2), (12, 3)):
            log = train(
                clone(vector_model),
                made(64),
                made(20),
                find_task(clone(vector_model), "accuracy", trains=True),
                options,
                keep_best_from_step=first_step,
            )
            assert log.kept_epoch == kept
        for share, kept in ((0.0, 1), (0.33, 1), (0.4, 2), (0.9, 3)):
            task = find_task(vector_model, "accuracy", trains=True)
            log = train(clone(vector_model), made(64), made(20), task, replace(options, keep_from=share))
            assert log.kept_epoch == kept
            scored = [epoch.validation is not None for epoch in log.epochs]
            assert scored == [number >= kept for number in (1, 2, 3)]
        waiting = replace(options, keep_from=0.9, patience=3)
        log = train(clone(vector_model), made(64), made(20), task, waiting)
        assert [epoch.validation is None for epoch in log.epochs] == [False] * 3

    def test_a_diverging_loss(self, keras: Any) -> None:
        """A loss that is no longer finite ends training with the step and what to do."""
        x = keras.Input((6,), name="x")
        model = keras.Model(x, keras.layers.Dense(1)(keras.layers.Dense(8)(x)))
        samples = Samples(path=Path("d"), inputs=made(64).inputs, targets=np.full(64, 1e20, np.float32))
        options = TrainOptions(epochs=30, batch_size=16, learning_rate=9.0, optimizer="sgd", decay="constant")
        with pytest.raises(EdgepruneError, match=r"training diverged: the loss is (inf|nan) at step \d+; lower"):
            train(model, samples, None, find_task(model, "mse", trains=True), options)

    def test_steps_are_counted(self, vector_model: Any) -> None:
        """Progress goes up to the total, a batch at a time; the loss of an epoch is the mean of its batches."""
        progress: list[tuple[int, int]] = []
        losses: list[float] = []

        def told(done: int, total: int, text: str) -> None:
            progress.append((done, total))
            losses.append(float(text.removeprefix("loss ")))

        log = train(
            clone(vector_model),
            made(40),
            None,
            find_task(vector_model, "accuracy", trains=True),
            TrainOptions(epochs=2, batch_size=16),
            on_progress=told,
        )
        assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert len(set(losses)) > 1
        assert [epoch.loss for epoch in log.epochs] == [
            pytest.approx(np.mean(pair), abs=6e-4) for pair in (losses[:2], losses[2:])
        ]

    @pytest.mark.parametrize("flat", [False, True])
    def test_targets_of_the_outputs_shape(self, keras: Any, flat: bool) -> None:
        """A model that makes images learns them, whether its targets are stored as images or flat."""
        x = keras.Input((4, 4, 1), name="x")
        model = keras.Model(x, keras.layers.Conv2D(1, 1, use_bias=False, name="c")(x))
        images = np.random.default_rng(0).normal(size=(64, 4, 4, 1)).astype(np.float32)
        targets = (3 * images).reshape((64, 16) if flat else (64, 4, 4, 1))
        samples = Samples(path=Path("d"), inputs={"x": images}, targets=targets)
        options = TrainOptions(epochs=40, batch_size=16, learning_rate=0.1)
        train(model, samples, None, find_task(model, "mse", trains=True), options)
        assert float(np.asarray(model.get_layer("c").kernel).item()) == pytest.approx(3, abs=0.1)

    def test_binary_scores(self, keras: Any) -> None:
        """One score for each sample is trained with targets 0 and 1, with and without a sigmoid."""
        samples = made(128)
        binary = Samples(path=Path("d"), inputs=samples.inputs, targets=(samples.inputs["x"][:, 0] > 0).astype(int))
        for activation in ("sigmoid", None):
            x = keras.Input((6,), name="x")
            model = keras.Model(x, keras.layers.Dense(1, activation=activation)(x))
            train(
                model,
                binary,
                None,
                find_task(model, "auc", trains=True),
                TrainOptions(epochs=8, batch_size=16, learning_rate=0.1),
            )
            assert evaluate(model, binary, find_task(model, "auc"))[0] > 0.9


@pytest.mark.slow
def test_frozen_layers_are_said_and_thawed(keras: Any) -> None:
    """A frozen backbone stays as it is, which is told; with thaw it learns, and is frozen again afterwards."""
    keras.utils.set_random_seed(0)
    inputs = np.random.default_rng(0).normal(size=(256, 6)).astype(np.float32)
    labels = (np.abs(inputs[:, 0]) > 0.7).astype(np.int64)  # no line tells them apart: the backbone must learn
    backbone = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(16, activation="relu", name="body")], name="back"
    )
    x = keras.Input((6,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, activation="softmax", name="head")(backbone(x)))
    assert frozen_note(model) is None
    backbone.trainable = False
    assert "1 of 2 layers with weights are frozen (trainable=False), first 'back/body'" in str(frozen_note(model))
    body, samples = (
        model.get_layer("back").get_layer("body"),
        Samples(path=Path("d"), inputs={"x": inputs}, targets=labels),
    )
    start = np.asarray(body.kernel).copy()
    changed = {}
    for thaw in (False, True):
        options = TrainOptions(epochs=5, learning_rate=0.02, thaw=thaw)
        tuned, _ = finetune(model, samples, None, find_task(model, "accuracy", trains=True), options)
        trained = tuned.get_layer("back").get_layer("body")
        changed[thaw] = not np.array_equal(start, np.asarray(trained.kernel))
        assert not trained.trainable
        assert tuned.get_layer("head").trainable
    assert changed == {False: False, True: True}
    np.testing.assert_array_equal(start, np.asarray(body.kernel))


@pytest.mark.slow
def test_maps_of_classes_train(keras: Any) -> None:
    """A class for each pixel, flat, with an axis of one, or as one-hot rows: the same loss; gradients too."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(64, 4, 4, 2)).astype(np.float32)
    classes = (pixels[..., 0] > 0).astype(np.int64)
    x = keras.Input((4, 4, 2), name="x")
    model = keras.Model(x, keras.layers.Conv2D(2, 1, activation="softmax")(x))
    losses = []
    for targets in (classes, classes[..., None], np.eye(2)[classes]):
        samples = Samples(path=Path("d"), inputs={"x": pixels}, targets=targets)
        fitting = fitting_targets(samples, output_shapes(model), find_task(model, "iou"))
        losses.append(
            [
                e.loss
                for e in train(
                    clone(model), fitting, fitting, find_task(clone(model), "iou", trains=True), TrainOptions(epochs=2)
                ).epochs
            ]
        )
        assert weight_gradients(model, fitting, find_task(model, "iou", trains=True))
    assert losses[0] == losses[1] == losses[2]


def test_what_was_trained_opens_with_keras_alone(vector_model: Any, tmp_path: Path) -> None:
    """Neither the optimizer that holds zeros nor a loss of ours is in the file of a model that was trained."""
    import json
    import zipfile

    task = find_task(vector_model, "accuracy", trains=True)
    tuned, _ = finetune(vector_model, made(16), None, task, TrainOptions(epochs=1, batch_size=8))
    tuned.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert not json.loads(archive.read("config.json"))["compile_config"]
