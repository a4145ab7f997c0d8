"""What a model is trained for and scored by: words, the model's own compile state, several outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import EdgepruneError, InputError, Unsupported, UsageError
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.data.targets import fitting_targets
from edgeprune.maker.training.goal import Goal
from edgeprune.maker.training.goals import find_task, task_of
from edgeprune.maker.training.keras_metrics import stored_metric
from edgeprune.maker.training.loop import evaluate, train
from edgeprune.maker.training.losses import stored_loss
from edgeprune.maker.training.options import TrainOptions

ROWS = 24
SHAPES = ("list", "dict", "nested")
OWN = """
import keras
def worst(outputs, targets):
    return abs(outputs.reshape(len(outputs), -1) - targets.reshape(len(targets), -1)).max(1)
worst.higher_is_better = False
def both(outputs, targets):
    right = (outputs["kind"].argmax(-1) == targets["kind"]).mean()
    return float(right - abs(outputs["size"][:, 0] - targets["size"]).mean())
def steep(targets, outputs):
    return keras.ops.mean(keras.ops.power(targets - outputs, 4), -1)
def three(outputs, targets):
    return abs(outputs[:3, 0])
def fails(outputs, targets):
    raise ValueError("no such thing")
"""


def three_heads(shape: str = "list") -> Any:
    """Three outputs whose names are not in alphabetical order, in each form that Keras knows."""
    import keras

    keras.utils.set_random_seed(3)
    x = keras.Input((6,), name="x")
    h = keras.layers.Dense(8, activation="relu", name="body")(x)
    kind = keras.layers.Dense(3, activation="softmax", name="kind")(h)
    flag = keras.layers.Dense(2, activation="sigmoid", name="flag")(h)
    size = keras.layers.Dense(1, name="size")(h)
    outputs = {
        "list": [kind, flag, size],
        "dict": {"kind": kind, "flag": flag, "size": size},
        "nested": [kind, {"flag": flag, "size": size}],
    }
    return keras.Model(x, outputs[shape])


def three_targets(**more: Any) -> Samples:
    rng = np.random.default_rng(5)
    return Samples(
        path=Path("d.npz"),
        inputs={"x": rng.normal(size=(ROWS, 6)).astype(np.float32)},
        targets={
            "kind": rng.integers(0, 3, ROWS),
            "flag": rng.integers(0, 2, (ROWS, 2)),
            "size": rng.normal(size=ROWS).astype(np.float32),
        },
        **more,
    )


NAMED = {"kind": "accuracy", "flag": "f1", "size": "mae"}


def own(folder: Path) -> Path:
    (folder / "own.py").write_text(OWN)
    return folder / "own.py"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_compiled_model_brings_loss_weights_and_metrics(shape: str) -> None:
    """The weighted loss is the one that Keras computes of the model as it was compiled, sample weights included."""
    import keras

    model, weights = three_heads(shape), np.linspace(0.1, 2, ROWS).astype(np.float32)
    samples = three_targets(weights=weights)
    losses = {"kind": "sparse_categorical_crossentropy", "flag": "binary_crossentropy", "size": keras.losses.Huber(0.5)}
    each = {"kind": 1.0, "flag": 0.25, "size": 3.0}

    def packed(values: dict[str, Any]) -> Any:
        flat = [values[tensor._keras_history.operation.name] for tensor in model.outputs]
        return keras.tree.pack_sequence_as(model._outputs_struct, flat)

    model.compile("sgd", loss=packed(losses), loss_weights=packed(each))
    told = {**samples.told, "size": samples.told["size"][:, None]}
    expected = model.test_on_batch(samples.inputs["x"], packed(told), sample_weight=weights)
    task = find_task(model, trains=True)
    outputs = keras.tree.flatten(model(samples.inputs["x"]))
    found = sum(float(loss.value(outputs[loss.place], samples.told, slice(None), weights)) for loss in task.losses)
    assert found == pytest.approx(float(np.ravel(expected)[0]), rel=1e-5)
    assert {score.name for score in task.scores} == {"kind_accuracy", "flag_binary_accuracy", "size_huber_loss"}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_each_output_learns_what_it_is_told(shape: str) -> None:
    """In every form of outputs each head comes near its own targets; one that has no loss stays as it is."""
    model, samples = three_heads(shape), three_targets()
    task = find_task(model, {"kind": "accuracy", "size": "mse"}, trains=True)
    samples = fitting_targets(samples, {"kind": (None, 3), "flag": (None, 2), "size": (None, 1)}, task)
    before, flags = evaluate(model, samples, task), model.get_layer("flag").get_weights()
    log = train(model, samples, samples, task, TrainOptions(epochs=60, batch_size=8, learning_rate=0.03))
    after = evaluate(model, samples, task)
    assert (after[0] > before[0], after[1] < before[1] / 2) == (True, True)
    assert all((old == new).all() for old, new in zip(flags, model.get_layer("flag").get_weights(), strict=True))
    assert list(log.epochs[-1].scores) == ["kind_accuracy", "size_mse"]


def test_words_by_output() -> None:
    """Metrics go by the output's name, the first one is the main one, and the loss of an output is the metric's."""
    model = three_heads("dict")
    task = find_task(model, {"size": ["mae", "rmse"], "kind": "top5"}, trains=True)
    assert [(score.name, score.place) for score in task.scores] == [("size_mae", 2), ("size_rmse", 2), ("kind_top5", 1)]
    assert {loss.output: loss.function.name for loss in task.losses} == {
        "size": "mean_absolute_error",
        "kind": "sparse_categorical_crossentropy",
    }
    weighted = task_of(model, Goal(metric={"kind": ("accuracy",)}, loss={"kind": "Huber"}, loss_weights={"kind": 0.5}))
    assert [(loss.function.name, loss.weight) for loss in weighted.losses] == [("huber_loss", 0.5)]


@pytest.mark.parametrize(
    ("goal", "word"),
    [
        ({"metric": {"kinds": ("accuracy",)}}, "no such output; did you mean 'kind'"),
        ({"metric": {"kind": ("accuracy",)}, "loss": {"": "mse"}}, "say of which the loss is"),
        (
            {"metric": {"kind": ("accuracy",)}, "loss": {"kind": "hubber"}},
            "unknown loss 'hubber'; did you mean 'huber'",
        ),
        ({"metric": {"kind": ("accuracy",)}, "loss_weights": {"size": 2.0}}, "'size', which has no loss"),
        ({}, "not compiled"),
    ],
)
def test_words_that_do_not_fit(goal: dict[str, Any], word: str) -> None:
    """One line that says what to write."""
    with pytest.raises(UsageError, match=word):
        task_of(three_heads(), Goal(**goal))


@pytest.mark.parametrize(
    ("goal", "word"),
    [
        ({"metric": {"": ("acuracy",)}}, "did you mean 'accuracy'"),
        ({"metric": {"": ("mae", "mae")}}, "named twice"),
        ({"loss_weights": {"kind": -1.0}}, "at least 0"),
    ],
)
def test_words_that_no_model_makes_right(goal: dict[str, Any], word: str) -> None:
    """They are refused before a model is read."""
    with pytest.raises(UsageError, match=word):
        Goal(**goal)


def test_an_output_without_targets() -> None:
    """It is named, with what to write."""
    model = three_heads()
    task = find_task(model, NAMED, trains=True)
    half = Samples(
        path=Path("d.npz"), inputs={"x": np.zeros((2, 6))}, targets={"kind": np.zeros(2), "size": np.zeros(2)}
    )
    shapes = {"kind": (None, 3), "flag": (None, 2), "size": (None, 1)}
    with pytest.raises(InputError, match=r"no array 'flag'.*is trained; it has those of kind, size; .*--metric kind="):
        fitting_targets(half, shapes, task)


def test_targets_made_by_hand() -> None:
    """Lists will do; another length than that of the inputs is told."""
    x, shapes = {"x": np.zeros((2, 6))}, {"kind": (None, 3), "flag": (None, 2), "size": (None, 1)}
    task = find_task(three_heads(), {"size": "mae"})
    good = Samples(path=Path("d.npz"), inputs=x, targets={"size": [1.0, 2.0]})  # type: ignore[dict-item]
    assert fitting_targets(good, shapes, task).told["size"].shape == (2,)
    with pytest.raises(InputError, match="2 samples, but targets of different length: size 3"):
        fitting_targets(Samples(path=Path("d.npz"), inputs=x, targets={"size": np.zeros(3)}), shapes, task)


def test_the_users_own_metrics_and_loss(tmp_path: Path) -> None:
    """A function of one output, one of all of them, and a loss; each only where code is trusted."""
    model, file = three_heads("dict"), own(tmp_path)
    goal = Goal(metric={"": (f"{file}:both",), "size": (f"{file}:worst",)}, loss={"size": f"{file}:steep"})
    with pytest.raises(Unsupported, match="--trust-code"):
        task_of(model, goal)
    task = task_of(model, goal, trust_code=True)
    samples = three_targets()
    assert [(s.name, s.metric.higher_is_better) for s in task.scores] == [("both", True), ("size_worst", False)]
    outputs = dict(zip(("flag", "kind", "size"), map(np.asarray, model(samples.inputs["x"]).values()), strict=True))
    both, worst = evaluate(model, samples, task)
    assert worst == pytest.approx(abs(outputs["size"][:, 0] - samples.told["size"]).mean(), rel=1e-5)
    assert np.isfinite(both)
    with pytest.raises(InputError, match="the metric 'fails' fails: ValueError: no such thing"):
        evaluate(
            model, samples, task_of(model, Goal(metric={"size": (f"{file}:fails",)}), trust_code=True, trains=False)
        )
    with pytest.raises(UsageError, match="no function 'nothing'"):
        task_of(model, Goal(metric={"": (f"{file}:nothing",)}), trust_code=True)
    with pytest.raises(UsageError, match="which loss trains"):
        task_of(model, Goal(metric={"size": (f"{file}:worst",)}), trust_code=True)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_file_of_a_compiled_model(tmp_path: Path, suffix: str) -> None:
    """Loss and metrics are read from the file; a loss of the user's own needs its file, which is then asked for."""
    import keras

    model = three_heads()
    model.compile(
        "adam",
        loss=["sparse_categorical_crossentropy", None, keras.losses.LogCosh()],
        loss_weights=[1.0, None, 0.3],
        metrics=[["accuracy"], [], ["mae", keras.metrics.RootMeanSquaredError(), keras.metrics.LogCoshError()]],
    )
    model.save(tmp_path / f"m{suffix}")
    task = find_task(load_model(tmp_path / f"m{suffix}"), trains=True)
    names = [score.name for score in task.scores]
    assert names == ["kind_accuracy", "size_mae", "size_rmse", "size_logcosh"]
    assert [loss.output for loss in task.losses] == ["kind", "size"]
    assert [loss.weight for loss in task.losses] == [1.0, 0.3]
    samples = three_targets()
    values = dict(zip(names, evaluate(model, samples, task), strict=True))
    distances = np.asarray(model(samples.inputs["x"])[2])[:, 0] - samples.told["size"]
    assert values["size_logcosh"] == pytest.approx(float(np.log(np.cosh(distances)).mean()), rel=1e-4)


def test_names_and_settings_of_a_files_losses_and_metrics(tmp_path: Path) -> None:
    """A loss is what its function is, whatever it was called; metrics of other settings are computed as Keras does."""
    import keras

    model, metrics = three_heads(), keras.metrics
    model.compile(
        "adam",
        loss=[keras.losses.SparseCategoricalCrossentropy(name="mine"), keras.losses.CategoricalHinge(), "mape"],
        metrics=[["accuracy"], ["AUC", metrics.AUC(name="flat")], ["mae"]],
    )
    model.save(tmp_path / "m.keras")
    samples, shapes = three_targets(), {"kind": (None, 3), "flag": (None, 2), "size": (None, 1)}
    for _ in range(2):  # Keras counts what has no name
        loaded = load_model(tmp_path / "m.keras")
        task = find_task(loaded, trains=True)
        assert [s.name for s in task.scores] == ["kind_accuracy", "flag_auc", "flag_flat", "size_mae"]
    fitting_targets(samples, shapes, task)
    flat = metrics.AUC()
    flat.update_state(samples.told["flag"], model(samples.inputs["x"])[1])
    assert evaluate(loaded, samples, task)[1:3] == pytest.approx([float(flat.result())] * 2)


def test_the_words_of_keras_2() -> None:
    """The reduction "auto", and metrics that are wrapped functions."""
    import keras

    config = {"class_name": "MeanSquaredError", "config": {"reduction": "auto", "name": "mean_squared_error"}}
    made = stored_loss(keras, config, {}, three_heads(), 2)
    assert made.reduction == "sum_over_batch_size"
    wrapped = {"class_name": "MeanMetricWrapper", "config": {"name": "acc", "fn": "sparse_categorical_accuracy"}}
    metric = stored_metric(keras, wrapped, {}, None, 3)
    assert metric is not None
    assert metric.name == "accuracy"


def test_what_tfmot_cannot_train() -> None:
    """It is told with the recipe, before anything is trained: several outputs, another loss than the metric's."""
    from edgeprune.maker.pruning.tfmot_backend import check_task

    model = three_heads()
    with pytest.raises(UsageError, match=r'this one has 3: .*backend = "native"'):
        check_task(model, find_task(model, NAMED, trains=True))


def test_a_loss_that_fails_and_a_metric_of_another_length(tmp_path: Path) -> None:
    """The user's own code is named, not ours."""
    file = own(tmp_path)
    for goal, word in (
        (
            Goal(metric={"size": ("mae",)}, loss={"size": f"{file}:fails"}),
            "the loss 'fails' fails: ValueError: no such",
        ),
        (Goal(metric={"size": (f"{file}:three",)}, loss={"size": "mse"}), r"'three' gives an array of shape \(3,\)"),
    ):
        model, samples = three_heads(), three_targets()
        with pytest.raises(InputError, match=word):
            train(model, samples, samples, task_of(model, goal, trust_code=True), TrainOptions(epochs=1))


def test_a_loss_of_the_users_own_in_a_file(tmp_path: Path) -> None:
    """It is not guessed: the file that has it is asked for, and used where it is given, or another loss named."""
    import keras

    from edgeprune.maker.keras.custom_layers import python_module

    file = own(tmp_path)
    x = keras.Input((6,), name="x")
    model = keras.Model(x, keras.layers.Dense(1, name="size")(x))
    model.compile("adam", loss=python_module(file, "own").steep, metrics=["mae"])
    model.save(tmp_path / "m.keras")
    with pytest.raises(Unsupported, match="not of Keras, 'steep': give the file that has it with --custom"):
        find_task(load_model(tmp_path / "m.keras"), trains=True)
    assert find_task(load_model(tmp_path / "m.keras"), "mae", loss="mae", trains=True).losses[0].function
    (loss,) = find_task(load_model(tmp_path / "m.keras", custom=[file]), trains=True).losses
    assert (loss.as_stored, loss.function.name) == (True, "steep")


def test_what_a_file_names_is_looked_up_in_lists(tmp_path: Path) -> None:
    """A compile state names no code: neither a module nor a function that is no loss is reached through it."""
    import json
    import zipfile

    import keras

    x = keras.Input((6,), name="x")
    model = keras.Model(x, keras.layers.Dense(1, name="size")(x))
    model.compile("adam", loss="mse")
    model.save(tmp_path / "m.keras")
    for number, stored in enumerate(
        (
            "deserialize",
            {"module": "os", "class_name": "system", "config": {}},
            {"module": "keras.losses", "class_name": "get", "config": {}},
            {"class_name": "function", "config": "__import__"},
            {"module": "keras.losses", "class_name": "Huber", "config": {"reduction": {"class_name": "Lambda"}}},
        )
    ):
        bad = tmp_path / f"{number}.keras"
        with zipfile.ZipFile(tmp_path / "m.keras") as archive, zipfile.ZipFile(bad, "w") as copy:
            for name in archive.namelist():
                content = archive.read(name)
                if name == "config.json":
                    config = json.loads(content)
                    config["compile_config"]["loss"] = stored
                    content = json.dumps(config).encode()
                copy.writestr(name, content)
        loaded = load_model(bad)
        with pytest.raises(EdgepruneError, match=r"compiled with a loss that is not of Keras|no plain values"):
            find_task(loaded, trains=True)


@pytest.mark.parametrize("rows", [False, True])
def test_classes_as_indexes_or_rows(rows: bool) -> None:
    """A loss of classes gets what it takes, whichever way the classes are stored."""
    import keras

    x = keras.Input((6,), name="x")
    model = keras.Model(x, keras.layers.Dense(3, activation="softmax", name="kind")(x))
    classes = np.arange(12) % 3
    samples = Samples(
        path=Path("d"), inputs={"x": np.eye(6)[np.arange(12) % 6]}, targets=np.eye(3)[classes] if rows else classes
    )
    outputs = model(samples.inputs["x"])
    found = [
        float(
            find_task(model, "accuracy", loss=name, trains=True)
            .losses[0]
            .value(outputs, samples.told, slice(None), None)
        )
        for name in ("sparse_categorical_crossentropy", "categorical_crossentropy")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_model_with_fewer_outputs() -> None:
    """What a compiled model says of the outputs that stay counts for what is cut out of it."""
    model = three_heads()
    model.compile("adam", ["sparse_categorical_crossentropy", "binary_crossentropy", "mse"], metrics=[["accuracy"]] * 3)
    task = find_task(model, trains=True)
    assert [score.name for score in task.scores] == ["kind_accuracy", "flag_binary_accuracy", "size_binary_accuracy"]
    left = task.within(["size", "kind"])
    assert [(score.name, score.place) for score in left.scores] == [("kind_accuracy", 1), ("size_binary_accuracy", 0)]
    assert [(loss.output, loss.place) for loss in left.losses] == [("kind", 1), ("size", 0)]
