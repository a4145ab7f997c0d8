"""Distillation in a training of the user's own, on the backend of KERAS_BACKEND, against NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeprune
from edgeprune.errors import UsageError
from edgeprune.maker.training.distiller import distilled

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6)).astype(np.float32)
CLASSES, LABELS, NUMBERS = RNG.integers(0, 3, 16), RNG.integers(0, 2, (16, 4)), RNG.normal(size=(16, 2))
WEIGHTS = RNG.uniform(0.5, 2, 16).astype(np.float32)
SHARE, WARMTH = 0.7, 2.5


def network(keras: Any, *ends: tuple[str, int, str | None], seed: int = 1) -> Any:
    """Outputs of (name, width, activation) behind a hidden layer and a batch normalisation."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((6,), name="x")
    h = keras.layers.Dense(8, activation="relu", name="hidden")(x)
    h = keras.layers.BatchNormalization(name="norm")(h)
    made = {name: keras.layers.Dense(width, activation=act, name=name)(h) for name, width, act in ends}
    return keras.Model(x, next(iter(made.values())) if len(made) == 1 else made)


def logits(outputs: np.ndarray, act: str | None) -> np.ndarray:
    """Logits of two or more classes on the last axis: one number is a label."""
    outputs = outputs.astype(np.float64)
    if act == "softmax":
        return np.log(outputs)
    return outputs if act is None else np.log(outputs) - np.log(1 - outputs)


def log_softmax(values: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


def crossed(teacher: np.ndarray, student: np.ndarray, warmth: float) -> np.ndarray:
    """Warm cross-entropy of each row."""
    answers = np.exp(log_softmax(teacher / warmth))
    return -(warmth**2) * (answers * log_softmax(student / warmth)).sum(-1)


def two_classes(values: np.ndarray) -> np.ndarray:
    """Each label as two classes."""
    return np.stack([np.zeros_like(values), values], -1)


def quick(keras: Any) -> dict[str, bool]:
    """Settings to compile with: TensorFlow takes seconds to trace a step, JAX is slow without."""
    backend = keras.backend.backend()
    return {"jit_compile": backend == "jax", "run_eagerly": backend == "tensorflow"}


def as_numpy(keras: Any, made: Any) -> Any:
    """The arrays of a model's outputs."""
    return keras.tree.map_structure(keras.ops.convert_to_numpy, made)


def number(keras: Any, loss: Any) -> float:
    """The number in a tensor."""
    return float(keras.ops.convert_to_numpy(loss))


@pytest.mark.parametrize("teacher_act", ["probabilities", None])
@pytest.mark.parametrize("student_act", ["probabilities", None])
def test_losses_are_those_of_numpy(keras: Any, teacher_act: str | None, student_act: str | None) -> None:
    """Classes, labels, a single label and numbers, of probabilities and of logits, with sample weights."""
    acts = {"class": "softmax", "label": "sigmoid", "one": "sigmoid", "size": None}
    widths = {"class": 3, "label": 4, "one": 1, "size": 2}
    of = {
        whose: {name: acts[name] if given else None for name in acts}
        for whose, given in (("t", teacher_act), ("s", student_act))
    }
    teacher, student = (
        network(keras, *[(name, widths[name], of[whose][name]) for name in acts], seed=seed)
        for whose, seed in (("t", 1), ("s", 2))
    )
    kinds = {"class": "classes", "label": "labels", "one": "labels", "size": "numbers"}
    model = distilled(student, teacher, share=SHARE, temperature=WARMTH, kinds=kinds)
    raw = student_act is None
    losses = {
        "class": keras.losses.SparseCategoricalCrossentropy(from_logits=raw),
        "label": keras.losses.BinaryCrossentropy(from_logits=raw),
        "one": keras.losses.BinaryCrossentropy(from_logits=raw),
        "size": "mse",
    }
    model.compile("sgd", losses, jit_compile=False)
    y = {"class": CLASSES, "label": LABELS, "one": LABELS[:, :1], "size": NUMBERS}
    got = number(keras, model.compute_loss(X, y, model(X), WEIGHTS))
    t, s = as_numpy(keras, teacher(X)), as_numpy(keras, student(X))
    warm = crossed(logits(t["class"], of["t"]["class"]), logits(s["class"], of["s"]["class"]), WARMTH)
    hard = -log_softmax(logits(s["class"], of["s"]["class"]))[np.arange(16), CLASSES]
    for name in ("label", "one"):
        ends = [two_classes(logits(made[name], of[whose][name])) for made, whose in ((t, "t"), (s, "s"))]
        warm = warm + crossed(*ends, WARMTH).mean(-1)
        truth = np.eye(2)[y[name]]
        hard = hard - (truth * log_softmax(ends[1])).sum(-1).mean(-1)
    warm = warm + ((t["size"] - s["size"]) ** 2).mean(-1)
    hard = hard + ((NUMBERS - s["size"]) ** 2).mean(-1)
    assert got == pytest.approx(float((WEIGHTS * ((1 - SHARE) * hard + SHARE * warm)).mean()), rel=2e-6)


@pytest.mark.parametrize(
    ("end", "loss", "kind"),
    [
        (("a", 3, "softmax"), None, "classes"),
        (("a", 3, None), None, "classes"),
        (("a", 3, None), "mse", "numbers"),
        (("a", 1, "sigmoid"), None, "labels"),
        (("a", 3, "sigmoid"), "sparse_categorical_crossentropy", "classes"),
        (("a", 1, None), "binary_crossentropy", "labels"),
        (("a", 1, None), None, None),
    ],
    ids=str,
)
def test_what_an_output_is(keras: Any, end: Any, loss: Any, kind: str | None) -> None:
    """By the loss that it is compiled with, else by its last layer; one bare number could be either."""
    taught = edgeprune.LogitsDistillation(temperature=WARMTH)
    model = edgeprune.Distiller(network(keras, end), network(keras, end), taught, student_loss_weight=0)
    model.compile("sgd", loss)
    (head,) = model.heads()
    assert head.kind == kind
    if kind is None:
        with pytest.raises(UsageError, match="of a label or a measure"):
            taught.taught([head])
        return
    assert number(keras, model.compute_loss(X, None, model(X))) == pytest.approx(0, abs=2e-4)  # the same model twice


def test_fit_with_pruning(keras: Any) -> None:
    """Under an optimizer that prunes: the student learns and gets zeros, the teacher stays as it is."""
    ends = [("class", 3, "softmax"), ("label", 4, "sigmoid")]
    teacher, student = network(keras, *ends), network(keras, *ends, seed=2)
    before = [np.array(weight) for weight in teacher.weights]
    model = edgeprune.Distiller(
        teacher, student, edgeprune.LogitsDistillation(loss={"class": "kl_divergence"}), student_loss_weight=0.2
    )
    optimizer = edgeprune.sparse(keras.optimizers.Adam(0.01), sparsity=0.5, end=3, frequency=1, exclude=["class"])
    model.compile(
        optimizer,
        {"class": "sparse_categorical_crossentropy", "label": "binary_crossentropy"},
        metrics={"class": ["accuracy"]},
        **quick(keras),
    )
    y = {"class": CLASSES, "label": LABELS.astype(np.float32)}
    history = model.fit(X, y, batch_size=8, epochs=6, sample_weight=WEIGHTS, verbose=0).history
    assert history["distillation_loss"][-1] < history["distillation_loss"][0]
    assert {"loss", "student_loss", "class_accuracy"} <= set(history)
    assert {row.layer: row.got for row in edgeprune.sparsity_report(model).layers} == {"hidden": 0.5, "label": 0.5}
    assert edgeprune.finalize(model, quiet=True) is model
    assert type(model.optimizer).__name__ == "Adam"
    assert all((np.array(weight) == old).all() for weight, old in zip(teacher.weights, before, strict=True))
    assert teacher.trainable
    assert as_numpy(keras, student(X))["label"] == pytest.approx(model.predict(X, verbose=0)["label"], abs=1e-6)


def test_a_compiled_step(keras: Any) -> None:
    """With XLA the losses are the same; features come out of the same call."""
    if keras.backend.backend() == "torch":
        pytest.skip("torch.compile takes half a minute")
    told = []
    for jit in (True, False):
        losses = [edgeprune.LogitsDistillation(), edgeprune.FeatureDistillation("mse", "hidden", "hidden")]
        teacher, student = network(keras, ("a", 3, "softmax")), network(keras, ("a", 3, "softmax"), seed=2)
        model = edgeprune.Distiller(teacher, student, losses)
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=jit)
        told.append(model.train_on_batch(X, CLASSES, sample_weight=WEIGHTS))
    assert told[0] == pytest.approx(told[1], rel=1e-5)


def test_mixed_precision_and_a_teacher_alone(keras: Any) -> None:
    """Without labels, in half precision, with the loss scaled; the zeros that are there stay."""
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_float16")
        teacher, student = network(keras, ("a", 3, "softmax")), network(keras, ("a", 3, "softmax"), seed=2)
        model = edgeprune.Distiller(teacher, student, edgeprune.LogitsDistillation(), student_loss_weight=0)
    finally:
        keras.config.set_dtype_policy(before)
    student.get_layer("hidden").kernel.assign(np.eye(6, 8))
    optimizer = edgeprune.sparse("adam", hold=True)
    model.compile(optimizer, **quick(keras))
    model.optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    losses = model.fit(X, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert edgeprune.finalize(student, optimizer=model.optimizer, quiet=True) is student
    assert int(np.count_nonzero(np.array(student.get_layer("hidden").kernel))) == 6


def test_features_cost_no_second_pass(keras: Any) -> None:
    """The statistics of a normalisation move once in a step, with features and without; a saved one goes on."""
    moved = []
    features = edgeprune.FeatureDistillation(teacher_layer_name="hidden", student_layer_name="hidden")
    for losses in ([edgeprune.LogitsDistillation()], [edgeprune.LogitsDistillation(), features]):
        teacher, student = network(keras, ("a", 3, None)), network(keras, ("a", 3, None), seed=2)
        model = edgeprune.Distiller(teacher, student, losses)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), **quick(keras))
        told = model.train_on_batch(X, CLASSES, return_dict=True)
        moved.append(np.array(student.get_layer("norm").moving_mean))
    assert moved[0] == pytest.approx(moved[1], abs=1e-7)
    assert moved[0].any()
    assert told["loss"] == pytest.approx((told["student_loss"] + told["distillation_loss"]) / 2, rel=1e-6)


def test_saved_and_loaded(keras: Any, tmp_path: Path) -> None:
    """A `.keras` file holds all of it, compiled; weights alone come back too."""
    ends = ("a", 3, "softmax")
    features = edgeprune.FeatureDistillation("mae", teacher_layer_name="norm", student_layer_name="norm")
    model = edgeprune.Distiller(
        network(keras, ends),
        network(keras, ends, seed=2),
        [features, edgeprune.LogitsDistillation(2.0)],
        [0.5, 1.0],
        0.3,
    )
    model.compile("sgd", "sparse_categorical_crossentropy", **quick(keras))
    model.train_on_batch(X, CLASSES)
    model.save(tmp_path / "distiller.keras")
    model.save_weights(tmp_path / "distiller.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert number(keras, loaded.compute_loss(X, CLASSES)) == pytest.approx(
        number(keras, model.compute_loss(X, CLASSES)), rel=1e-6
    )
    model.student.get_layer("a").kernel.assign(np.zeros((8, 3)))
    model.load_weights(tmp_path / "distiller.weights.h5")
    assert (np.array(loaded.student.get_layer("a").kernel) == np.array(model.student.get_layer("a").kernel)).all()


def test_regularizers_count_whole(keras: Any) -> None:
    """What the student's layers add is no part of the share; what the teacher's would add is left out."""
    teacher, student = network(keras, ("a", 3, None)), network(keras, ("a", 3, None), seed=2)
    plain = edgeprune.Distiller(teacher, student, edgeprune.LogitsDistillation())
    plain.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = number(keras, plain.compute_loss(X, CLASSES))
    for model in (teacher, student):
        model.get_layer("a").kernel.regularizer = keras.regularizers.L2(0.1)
    added = 0.1 * float((np.array(student.get_layer("a").kernel) ** 2).sum())
    assert number(keras, plain.compute_loss(X, CLASSES)) == pytest.approx(before + added, rel=1e-6)


def test_what_cannot_be_right(keras: Any) -> None:
    """One line that says what to type."""
    teacher, student = network(keras, ("a", 3, "softmax")), network(keras, ("a", 3, "softmax"))
    narrow = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, name="hidden"), keras.layers.Dense(3)])
    logits_loss = edgeprune.LogitsDistillation
    features = edgeprune.FeatureDistillation
    for make, message in (
        (lambda: edgeprune.Distiller(teacher, teacher, logits_loss()), "make the student a copy"),
        (lambda: edgeprune.Distiller(teacher, network(keras, ("a", 4, None)), logits_loss()), "must be the same"),
        (lambda: edgeprune.Distiller(teacher, student, []), "give each one"),
        (lambda: edgeprune.Distiller(teacher, student, logits_loss(), None, 2), "share of the labels"),
        (
            lambda: edgeprune.Distiller(teacher, narrow, features("mse", "hidden", "hidden")),
            "name layers of equal shapes",
        ),
        (lambda: edgeprune.Distiller(teacher, student, features("mse", "hiden", "hidden")), "did you mean 'hidden'"),
        (lambda: edgeprune.Distiller(keras.Sequential(), student, logits_loss()), "the teacher is not built"),
        (lambda: features("mse", "hidden"), "names of two layers"),
        (lambda: logits_loss(0), "temperature is a number above 0"),
        (lambda: logits_loss(loss=[None]), "nothing is taught"),
        (lambda: logits_loss(loss="kl_divergance"), "Keras has no loss"),
        (lambda: distilled(student, teacher, share=0.5, temperature=3, kinds={"b": "classes"}), "an output 'b'"),
    ):
        with pytest.raises(UsageError, match=message):
            make()
    model = edgeprune.Distiller(teacher, student, logits_loss())
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(UsageError, match="student_loss_weight=0"):
        model.compute_loss(X)
