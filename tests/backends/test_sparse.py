"""Pruning in a training of the user's own, on the backend of KERAS_BACKEND (`make test-backends`: JAX and torch)."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeprune
from edgeprune.errors import EdgepruneError, UsageError
from edgeprune.formats.pattern import Pattern
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.pruning.graph_masks import largest_masks
from edgeprune.maker.pruning.layouts import Layout
from edgeprune.maker.pruning.magnitude import kept_count, masks_for
from edgeprune.maker.pruning.pattern_masks import groups_kept, pattern_mask

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 8)).astype(np.float32)
Y = (X @ RNG.normal(size=(8, 3))).argmax(1)
END = 8  # two epochs of four steps


def network(keras: Any, seed: int = 1) -> Any:
    """Two kernels of 8 x 20 and 20 x 3 weights."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((8,), name="x")
    h = keras.layers.Dense(20, activation="relu", name="hidden")(x)
    return keras.Model(x, keras.layers.Dense(3, activation="softmax", name="scores")(h))


def zeros(model: Any) -> dict[str, float]:
    """Share of zeros by layer."""
    kernels = {layer.name: layer.kernel for layer in model.layers if hasattr(layer, "kernel")}
    arrays = {name: np.asarray(keras_module(any_backend=True).ops.convert_to_numpy(k)) for name, k in kernels.items()}
    assert not any(np.signbit(array[array == 0]).any() for array in arrays.values())
    return {name: float((array == 0).mean()) for name, array in arrays.items()}


def pruning(keras: Any, optimizer: Any = None, **choice: Any) -> Any:
    """An optimizer that prunes to 0.75 in eight steps."""
    plain = optimizer or keras.optimizers.Adam(0.01)
    return edgeprune.sparse(plain, **{"sparsity": 0.75, "end": END, "frequency": 3, **choice})


def compiled(keras: Any, model: Any, optimizer: Any, **settings: Any) -> None:
    """XLA is left out of TensorFlow's steps where it is not what is tested: it takes seconds to compile one."""
    jit = keras.backend.backend() == "jax"
    model.compile(optimizer, "sparse_categorical_crossentropy", **{"jit_compile": jit, **settings})


def trained(keras: Any, optimizer: Any, *, epochs: int = 3, **settings: Any) -> Any:
    """A model after twelve steps of `fit`."""
    model = network(keras, seed=3)
    compiled(keras, model, optimizer, **settings)
    model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0)
    return model


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.99])
def test_masks_in_the_step_are_those_of_numpy(keras: Any, scope: str, sparsity: float) -> None:
    """To a weight, also among many equal ones and the smallest numbers there are."""
    kernels = {
        "drawn": RNG.normal(size=(7, 31)).astype(np.float32),
        "equal": RNG.integers(-2, 3, size=(9, 11)).astype(np.float32),
        "tiny": (RNG.integers(-3, 4, size=(5, 8)) * 1e-40).astype(np.float32),
    }
    sizes = [kernel.size for kernel in kernels.values()]
    groups = [sum(sizes)] if scope == "global" else sizes
    removed = np.array([size - kept_count(size, sparsity) for size in groups], np.int32)
    tensors = [keras.ops.convert_to_tensor(kernel) for kernel in kernels.values()]
    masks = largest_masks(keras, tensors, keras.ops.convert_to_tensor(removed), together=scope == "global")
    for mask, wanted in zip(masks, masks_for(kernels, sparsity, scope).values(), strict=True):
        assert (keras.ops.convert_to_numpy(mask) == wanted).all()


@pytest.mark.parametrize("written", ["2:4", "14:16", "3:64"])
def test_patterns_in_the_step_are_those_of_numpy(keras: Any, written: str) -> None:
    """To a weight, ties too, along the last axis but one and the last; groups of 64 are sorted, smaller ones ranked."""
    pattern = Pattern.parse(written)
    for shape, order, sizes in (((3, 64, 5), (0, 1, 2), (3, 64, 5)), ((2, 3, 128), (0, 2, 1), (2, 128, 3))):
        layout = Layout(shape=shape, order=order, sizes=sizes)
        for values in (RNG.normal(size=shape), RNG.integers(0, 3, size=shape)):
            kernel = np.abs(values).astype(np.float32)
            mask = groups_kept(keras, keras.ops.convert_to_tensor(kernel), layout, pattern)
            assert (keras.ops.convert_to_numpy(mask) == pattern_mask(kernel, layout, pattern)).all()


def groups_of(model: Any) -> dict[str, list[int]]:
    """The most non-zeros in four consecutive inputs of an output, and the number of zeros, by layer."""
    ops = keras_module(any_backend=True).ops
    kernels = {layer.name: np.asarray(ops.convert_to_numpy(layer.kernel)) for layer in model.layers if layer.weights}
    return {
        name: [int((k.reshape(-1, 4, k.shape[1]) != 0).sum(1).max()), int((k == 0).sum())]
        for name, k in kernels.items()
    }


@pytest.mark.parametrize("sr_ste", [0.0, 2e-4])
def test_a_pattern_grows_and_holds(keras: Any, sr_ste: float, capsys: pytest.CaptureFixture[str]) -> None:
    """Along the schedule the sparsity grows, at its end the pattern is whole and holds, with SR-STE too."""
    model = network(keras, seed=3)
    choice = {"sparsity": "2:4", "frequency": 2, "initial_sparsity": 0.1, "sr_ste": sr_ste}
    compiled(keras, model, pruning(keras, **choice))
    model.fit(X, Y, batch_size=16, epochs=1, verbose=0)  # half of the schedule
    half = groups_of(model)
    assert half["hidden"][0] > 2
    assert 16 < half["hidden"][1] < 80
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    assert groups_of(model) == {"hidden": [2, 80], "scores": [2, 30]}
    edgeprune.finalize(model)
    assert capsys.readouterr().out.splitlines() == [
        "sparsity: asked 2:4 (50.00%), got 50.00% of the weights of 2 kernels",
        "pattern: every group of inputs keeps 2:4 in all 2 kernels",
    ]


def test_what_a_pattern_removes_can_come_back(keras: Any) -> None:
    """With SR-STE a weight behind its zero trains on, drawn to zero by the decay; without it the zero is final."""
    kept = {}
    for sr_ste in (0.0, 0.25):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
        model.layers[0].kernel.assign(np.array([[4.0], [3.0], [-2.0], [1.0]]))
        optimizer = pruning(
            keras, keras.optimizers.SGD(1.0), sparsity="2:4", schedule="constant", end=2, frequency=1, sr_ste=sr_ste
        )
        optimizer.build(model.trainable_variables)
        gradients = [np.array([[0.0], [2.5], [0.5], [-3.0]], np.float32)] + [np.zeros((4, 1), np.float32)] * 2
        for gradient in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(gradient)], model.trainable_variables)
        kept[sr_ste] = np.asarray(keras.ops.convert_to_numpy(model.layers[0].kernel))[:, 0].tolist()
    # Step 1: 4, 3 - 2.5, and behind zeros -2 - 0.5 + 0.25 * 2 = -2, 1 + 3 - 0.25 = 3.75; kept are 4 and 3.75.
    assert kept[0.25] == [4.0, 0.0, 0.0, 3.75]
    assert kept[0.0] == [4.0, 0.0, 0.0, 3.0]


def test_a_pattern_is_refused_where_it_cannot_be(keras: Any) -> None:
    """Before any training, in a line that says what to do."""
    for choice, told in (
        ({"sparsity": "2:4", "scope": "global"}, "leave out scope"),
        ({"sparsity": "2:4", "permute": True}, "reorder_channels"),
        ({"sparsity": 0.5, "score": "wanda"}, "prune_magnitude"),
        ({"sparsity": 0.5, "sr_ste": 0.1}, "sr_ste is for a pattern"),
        ({"sparsity": "2:4", "sr_ste": 0.1, "schedule": "constant", "end": None}, "until the schedule's end"),
    ):
        with pytest.raises(UsageError, match=told):
            pruning(keras, **choice)


def test_a_plan_with_a_pattern_is_saved(keras: Any, tmp_path: Path) -> None:
    """Masks, the weights behind them and the pattern come back from a file, and training goes on."""
    model = network(keras, seed=3)
    compiled(keras, model, pruning(keras, sparsity="2:4", frequency=1, sr_ste=1e-3))
    model.fit(X, Y, batch_size=16, epochs=1, verbose=0)
    model.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    assert loaded.optimizer.plan == model.optimizer.plan
    loaded.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    assert groups_of(loaded) == {"hidden": [2, 80], "scores": [2, 30]}


def test_a_layer_that_could_not_be_made(keras: Any) -> None:
    """It is still in memory, without the weights that it promises, and hinders nothing."""

    class Failed(keras.layers.Layer):  # type: ignore[name-defined, misc]
        @property
        def trainable_weights(self) -> Any:
            raise AttributeError("student")

    failed = Failed()
    assert edgeprune.finalize(trained(keras, pruning(keras, keras.optimizers.SGD(0.01)), epochs=1)) is not failed


@pytest.mark.parametrize("name", ["Adam", "SGD", "Adafactor"])
def test_every_optimizer_gives_what_was_asked(keras: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """To an element, in each kernel, and the model's file opens with Keras alone afterwards."""
    model = edgeprune.finalize(trained(keras, pruning(keras, getattr(keras.optimizers, name)(0.01))))
    assert zeros(model) == {"hidden": 0.75, "scores": 0.75}
    assert capsys.readouterr().out == "sparsity: asked 75.00%, got 75.00% of the weights of 2 kernels\n"
    assert type(model.optimizer).__name__ == name
    assert int(model.optimizer.iterations) == 12


@pytest.mark.parametrize(
    "settings",
    [
        {"jit_compile": True},
        {"jit_compile": False},
        {"steps_per_execution": 2},
        {"run_eagerly": True, "jit_compile": False},
    ],
    ids=str,
)
def test_ways_to_compile(keras: Any, settings: dict[str, Any]) -> None:
    """The masks are the same in a compiled step, in several at once and in one that is not compiled."""
    if settings.get("jit_compile") and keras.backend.backend() == "torch":
        pytest.skip("torch.compile cannot take a step that prunes")
    if "steps_per_execution" in settings and keras.backend.backend() == "torch":
        pytest.skip("Keras refuses several steps at once on torch")
    model = trained(keras, pruning(keras, scope="global"), **settings)
    report = edgeprune.sparsity_report(model)
    assert report.got == pytest.approx(0.75, abs=1 / 220)
    assert {row.asked for row in report.layers} == {None}


@pytest.mark.parametrize(
    ("change", "updates"),
    [
        ({"gradient_accumulation_steps": 2}, 6),
        ({"use_ema": True, "ema_momentum": 0.9}, 12),
        ({"use_ema": True, "ema_overwrite_frequency": 3}, 12),
        ({"clipnorm": 1.0, "weight_decay": 0.01}, 12),
    ],
    ids=["accumulation", "average", "overwritten", "decay"],
)
def test_settings_of_the_optimizer(keras: Any, change: dict[str, Any], updates: int) -> None:
    """Steps are counted in updates; averaged weights have the zeros too."""
    model = trained(keras, pruning(keras, keras.optimizers.Adam(0.01, **change), end=6))
    assert zeros(model) == {"hidden": 0.75, "scores": 0.75}
    assert int(model.optimizer.iterations) == updates


def test_mixed_precision(keras: Any) -> None:
    """Loss scaling wraps the optimizer; steps that it skips for gradients without end count for nothing."""
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_float16")
        model = trained(keras, pruning(keras))
    finally:
        keras.config.set_dtype_policy(before)
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    assert zeros(model) == {"hidden": 0.75, "scores": 0.75}
    assert type(edgeprune.finalize(model, quiet=True).optimizer.inner_optimizer).__name__ == "Adam"


def test_one_batch_at_a_time_with_weights(keras: Any) -> None:
    """`train_on_batch` with sample weights; a layer that is excluded stays dense and is said to."""
    model = network(keras)
    compiled(keras, model, pruning(keras, exclude=["scores"]))
    for _ in range(END):
        model.train_on_batch(X, Y, sample_weight=np.ones(64))
    assert zeros(model) == {"hidden": 0.75, "scores": 0.0}
    assert [(row.layer, row.reason) for row in edgeprune.sparsity_report(model).skipped] == [
        ("scores", "matched by exclude")
    ]


def _gradients(keras: Any, model: Any) -> Callable[[], Any]:
    """The gradients of a loss of one's own, as each backend takes them."""
    variables = model.trainable_variables

    def loss() -> Any:
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(Y, model(X)))

    def with_tape() -> Any:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        return tape.gradient(value, variables)

    def with_torch() -> Any:
        model.zero_grad()
        loss().backward()
        return [variable.value.grad for variable in variables]

    return with_tape if keras.backend.backend() == "tensorflow" else with_torch


@pytest.mark.parametrize("graph", [False, True])
def test_a_loop_of_ones_own(keras: Any, graph: bool) -> None:
    """`optimizer.apply` in a custom loop, also where the first step builds the optimizer inside a TensorFlow graph."""
    model, optimizer = network(keras), pruning(keras, initial_sparsity=0.5)
    if keras.backend.backend() == "jax":
        return _stateless(keras, model, optimizer)
    gradients = _gradients(keras, model)
    step: Callable[[], object] = lambda: optimizer.apply(gradients(), model.trainable_variables)  # noqa: E731
    if keras.backend.backend() == "tensorflow" and graph:
        import tensorflow as tf

        step = tf.function(step)
    for _ in range(END):
        step()
    assert zeros(model) == {"hidden": 0.75, "scores": 0.75}
    assert edgeprune.finalize(model, optimizer=optimizer, quiet=True) is model
    return None


def _stateless(keras: Any, model: Any, optimizer: Any) -> None:
    """JAX's own kind of loop: values in, values out."""
    import jax

    optimizer.build(model.trainable_variables)

    def loss(trainable: Any, rest: Any) -> Any:
        outputs, _ = model.stateless_call(trainable, rest, X)
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(Y, outputs))

    @jax.jit
    def step(trainable: Any, rest: Any, state: Any) -> Any:
        return optimizer.stateless_apply(state, jax.grad(loss)(trainable, rest), trainable)

    values = [[v.value for v in each] for each in (model.trainable_variables, model.non_trainable_variables)]
    state = [v.value for v in optimizer.variables]
    for _ in range(END):
        values[0], state = step(*values, state)
    for variable, value in zip([*model.trainable_variables, *optimizer.variables], [*values[0], *state], strict=True):
        variable.assign(value)
    assert zeros(model) == {"hidden": 0.75, "scores": 0.75}


def test_hold_keeps_the_zeros_that_are_there(keras: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Also those of weights that were loaded after the optimizer was built."""
    pruned, model = trained(keras, pruning(keras)), network(keras, seed=2)
    optimizer = edgeprune.sparse(keras.optimizers.SGD(0.1, momentum=0.9), hold=True)
    compiled(keras, model, optimizer)
    optimizer.build(model.trainable_variables)
    model.set_weights(pruned.get_weights())
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    assert zeros(model) == {"hidden": 0.75, "scores": 0.75}
    edgeprune.finalize(model)
    assert capsys.readouterr().out == "zeros held: 75.00% of the weights of 2 kernels\n"


def test_zeros_from_the_first_batch_on(keras: Any) -> None:
    """A constant schedule from step 0 prunes before the first batch: nothing begins late."""
    model = network(keras)
    optimizer = edgeprune.sparse("sgd", sparsity=0.5, schedule="constant", model=model)
    optimizer.build(model.trainable_variables)
    assert zeros(model) == {"hidden": 0.5, "scores": 0.5}


def test_masks_come_back_with_a_checkpoint(keras: Any, tmp_path: Path) -> None:
    """BackupAndRestore and a `.keras` file both bring masks, steps and the schedule back."""
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    model = network(keras)
    compiled(keras, model, pruning(keras))
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[backup])
    again = network(keras, seed=2)
    compiled(keras, again, pruning(keras))
    again.fit(X, Y, batch_size=16, epochs=3, verbose=0, callbacks=[backup])
    assert int(again.optimizer.iterations) == 12
    assert zeros(again) == {"hidden": 0.75, "scores": 0.75}
    again.save(tmp_path / "training.keras")
    loaded = keras.saving.load_model(tmp_path / "training.keras")
    assert edgeprune.sparsity_report(loaded).got == 0.75
    loaded.fit(X, Y, batch_size=16, epochs=1, verbose=0)
    assert zeros(loaded) == {"hidden": 0.75, "scores": 0.75}


def test_the_logger_writes_sparsity(keras: Any, tmp_path: Path) -> None:
    """Into the history and, where it stands before CSVLogger, into its file."""
    model = network(keras)
    compiled(keras, model, pruning(keras))
    logged = [edgeprune.SparsityLogger(layers=True), keras.callbacks.CSVLogger(tmp_path / "log.csv")]
    history = model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=logged).history
    assert history["sparsity"][-1] == 0.75
    assert history["sparsity/hidden/kernel"][-1] == 0.75
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert 0 < float(rows[0]["sparsity"]) < 0.75 == float(rows[1]["sparsity"])


def test_finalize_says_what_was_not_done(keras: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A schedule that has not begun or ended, weights loaded afterwards, no training, another optimizer."""
    edgeprune.finalize(trained(keras, pruning(keras, end=100), epochs=1))
    assert "not done: the schedule ends at step 100, training ended at step 4" in capsys.readouterr().out
    edgeprune.finalize(trained(keras, pruning(keras, begin=50, end=100), epochs=1))
    assert "not pruned: the schedule begins at step 50, training ended at step 4" in capsys.readouterr().out
    model = trained(keras, pruning(keras))
    model.set_weights(network(keras).get_weights())
    edgeprune.finalize(model)
    assert "weights that were pruned are not zero, in hidden, scores" in capsys.readouterr().out
    model = network(keras)
    model.compile(pruning(keras), "mse")
    with pytest.raises(EdgepruneError, match="has not made a step"):
        edgeprune.finalize(model)
    with pytest.raises(UsageError, match="is not compiled with an optimizer of"):
        edgeprune.finalize(network(keras))


def test_one_optimizer_for_one_model(keras: Any) -> None:
    """The masks of one model are not those of another."""
    if keras.backend.backend() == "jax":
        pytest.skip("JAX hands the optimizer values, not variables: finalize says it")
    optimizer = trained(keras, pruning(keras), epochs=1).optimizer
    other = network(keras)
    compiled(keras, other, optimizer)
    with pytest.raises(UsageError, match="already prunes another model"):
        other.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"end": 9}, "sparsity is the fraction"),
        ({"sparsity": 0.5}, "end is the step"),
        ({"sparsity": 80, "end": 9}, "did you mean 0.8"),
        ({"sparsity": 0.5, "end": 9, "scop": "layer"}, "has no option 'scop'"),
        ({"sparsity": 0.5, "hold": True}, "hold only keeps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_cannot_be_right(choice: dict[str, Any], message: str) -> None:
    """One line that says what to type."""
    with pytest.raises(UsageError, match=message):
        edgeprune.sparse("adam", **choice)


def test_an_optimizer_that_has_trained_keeps_its_state(keras: Any) -> None:
    """Pruned from then on: slots and the count of steps come along, the schedule counts from now."""
    model = trained(keras, keras.optimizers.Adam(0.01), epochs=1)
    optimizer = pruning(keras, model.optimizer)
    assert int(optimizer.iterations) == 4
    compiled(keras, model, optimizer)
    model.fit(X, Y, batch_size=16, epochs=1, verbose=0)
    assert 0 < edgeprune.sparsity_report(model).got < 0.75
    model.fit(X, Y, batch_size=16, epochs=1, verbose=0)
    assert zeros(model) == {"hidden": 0.75, "scores": 0.75}
