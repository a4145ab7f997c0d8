"""edgeprune's own pruning held against tensorflow-model-optimization (tfmot), and the backend that runs tfmot."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from places import ROOT

from edgeprune.errors import EdgepruneError, MissingExtra, Unsupported, UsageError
from edgeprune.formats.pattern import Pattern
from edgeprune.ledger import TrainLog
from edgeprune.maker.keras.models import clone, input_specs, keras_module
from edgeprune.maker.pruning import tfmot_backend, tfmot_worker
from edgeprune.maker.pruning.layouts import Layout
from edgeprune.maker.pruning.magnitude import PruneResult, keep_largest
from edgeprune.maker.pruning.masked_training import prune_while_training
from edgeprune.maker.pruning.options import MagnitudeOptions
from edgeprune.maker.pruning.pattern_masks import pattern_mask
from edgeprune.maker.pruning.schedule import ConstantSparsity, PolynomialDecay
from edgeprune.maker.pruning.tfmot_backend import prune_with_tfmot, schedule_arguments
from edgeprune.maker.pruning.tfmot_description import CARRIED, describe
from edgeprune.maker.training.data.loading import load_samples
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.goals import find_task
from edgeprune.maker.training.loop import evaluate, train
from edgeprune.maker.training.options import TrainOptions

INSTALLED = all(importlib.util.find_spec(name) for name in ("tensorflow_model_optimization", "tf_keras"))
needs_tfmot = pytest.mark.skipif(not INSTALLED, reason="tfmot and tf_keras are not installed")
FASHION = ROOT / "sample_models" / "fashion"
Array = npt.NDArray[Any]

SHAPES = {"dense": (17, 23), "conv": (3, 3, 5, 8), "pointwise": (1, 1, 24, 40), "vector": (101,), "one": (1, 1)}
SPARSITIES = (0.0, 0.1, 0.33, 0.5, 0.75, 0.8, 0.9, 0.97)
SCHEDULES: list[ConstantSparsity | PolynomialDecay] = [
    ConstantSparsity(final_sparsity=0.5, begin_step=3, end_step=13, frequency=5),
    PolynomialDecay(final_sparsity=0.8, end_step=60, frequency=10),
    PolynomialDecay(final_sparsity=0.9, initial_sparsity=0.3, begin_step=7, end_step=47, power=1.0, frequency=4),
    PolynomialDecay(final_sparsity=0.6, initial_sparsity=0.6, begin_step=1, end_step=2, power=2.0),
]
STEPS = range(70)
PATTERNS = ("2:4", "1:4", "4:8", "14:16")
PATTERN_SHAPES = {"dense": (32, 5), "conv": (3, 3, 16, 6)}  # tfmot takes these two ranks

# Runs where Keras is tf_keras; asks tfmot itself and writes its answers.
ASK_TFMOT = """
import json, sys
import numpy as np
import tensorflow as tf
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl, pruning_schedule

given, asked, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
answers = {}
with np.load(given, allow_pickle=False) as kernels:
    for name in kernels.files:
        for sparsity in asked["sparsities"]:
            schedule = pruning_schedule.ConstantSparsity(sparsity, 0)
            pruning = pruning_impl.Pruning(lambda: tf.constant(0, tf.int64), [], schedule, (1, 1), "AVG")
            answers[f"mask {name} {sparsity}"] = pruning._update_mask(tf.constant(kernels[name]))[1].numpy() != 0
for written, shape in asked["patterns"]:
    kept, size = map(int, written.split(":"))
    kernel = tf.constant(np.load(f"{asked['folder']}/pattern.{shape}.npy"))
    schedule = pruning_schedule.ConstantSparsity(0.5, 0)
    pruning = pruning_impl.Pruning(lambda: tf.constant(0, tf.int64), [], schedule, (1, 1), "AVG", (size - kept, size))
    answers[f"pattern {written} {shape}"] = pruning._maybe_update_block_mask(kernel)[1].numpy() != 0
for index, options in enumerate(asked["schedules"]):
    schedule = getattr(pruning_schedule, options.pop("name"))(**options)
    told = [schedule(tf.constant(step, tf.int64)) for step in range(asked["steps"])]
    answers[f"renews {index}"] = np.array([bool(t[0]) for t in told])
    answers[f"value {index}"] = np.array([float(t[1]) for t in told])
np.savez(out, **answers)
"""


def untied(shape: tuple[int, ...], seed: int) -> Array:
    """Weights of random sign and order; no two have the same magnitude."""
    rng = np.random.default_rng(seed)
    magnitudes = rng.permutation(int(np.prod(shape))) + 1
    signs = rng.choice([-0.01, 0.01], magnitudes.shape)
    return np.asarray((magnitudes * signs).reshape(shape), np.float32)


@pytest.fixture(scope="module")
def tfmot_answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Array]:
    """tfmot's masks and schedule values, asked for in one child process."""
    folder = tmp_path_factory.mktemp("tfmot")
    kernels = {name: untied(shape, seed) for seed, (name, shape) in enumerate(SHAPES.items())}
    kernels["ties"] = np.array([3, -1, 1, 1, -1, 2], np.float32)
    np.savez(folder / "kernels.npz", **kernels)
    schedules = [tfmot_names(schedule) for schedule in SCHEDULES]
    for name, shape in PATTERN_SHAPES.items():
        np.save(folder / f"pattern.{name}.npy", untied(shape, 7))
    patterns = [(written, name) for written in PATTERNS for name in PATTERN_SHAPES]
    asked = {"sparsities": SPARSITIES, "schedules": schedules, "steps": len(STEPS)}
    asked |= {"patterns": patterns, "folder": str(folder)}
    subprocess.run(
        [sys.executable, "-c", ASK_TFMOT, str(folder / "kernels.npz"), json.dumps(asked), str(folder / "out.npz")],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    with np.load(folder / "out.npz", allow_pickle=False) as answers:
        return {name: answers[name] for name in answers.files}


def tfmot_names(schedule: ConstantSparsity | PolynomialDecay) -> dict[str, Any]:
    """The same numbers under tfmot's parameter names, not adapted in any way."""
    fields = {name: getattr(schedule, name) for name in schedule.__slots__}
    if isinstance(schedule, ConstantSparsity):
        fields["target_sparsity"] = fields.pop("final_sparsity")
    return {"name": type(schedule).__name__, **fields}


@needs_tfmot
@pytest.mark.slow
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", SHAPES)
def test_masks_equal_those_of_tfmot(tfmot_answers: dict[str, Array], name: str, sparsity: float) -> None:
    """Without ties keep_largest and tfmot keep exactly the same weights."""
    weights = untied(SHAPES[name], list(SHAPES).index(name))
    np.testing.assert_array_equal(keep_largest(weights, sparsity), tfmot_answers[f"mask {name} {sparsity}"])


@needs_tfmot
@pytest.mark.slow
@pytest.mark.parametrize("written", PATTERNS)
@pytest.mark.parametrize("name", PATTERN_SHAPES)
def test_patterns_equal_those_of_tfmot(tfmot_answers: dict[str, Array], name: str, written: str) -> None:
    """tfmot counts zeros first (2:4 is (2, 4), 14:16 is (2, 16)), along the same axis."""
    shape, rank = PATTERN_SHAPES[name], len(PATTERN_SHAPES[name])
    layout = Layout(shape=shape, order=tuple(range(rank)), sizes=(int(np.prod(shape[:-2])), *shape[-2:]))
    ours = pattern_mask(untied(shape, 7), layout, Pattern.parse(written))
    np.testing.assert_array_equal(ours, tfmot_answers[f"pattern {written} {name}"])


@needs_tfmot
@pytest.mark.slow
def test_tfmot_keeps_every_tie_and_edgeprune_keeps_the_count(tfmot_answers: dict[str, Array]) -> None:
    """Of 3 -1 1 1 -1 2 at sparsity 0.5 three are to be kept; four tie for the third place: tfmot keeps all six."""
    weights = np.array([3, -1, 1, 1, -1, 2], np.float32)
    assert tfmot_answers["mask ties 0.5"].tolist() == [True] * 6
    assert keep_largest(weights, 0.5).tolist() == [True, False, False, False, True, True]


@needs_tfmot
@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(SCHEDULES)))
def test_schedules_have_the_values_of_tfmot(tfmot_answers: dict[str, Array], index: int) -> None:
    """From begin_step on the sparsity is tfmot's to 1e-6, and masks are renewed at the same step numbers."""
    schedule = SCHEDULES[index]
    steps = [step for step in STEPS if step >= schedule.begin_step]
    ours = [schedule.sparsity_at(step) for step in steps]
    np.testing.assert_allclose(ours, tfmot_answers[f"value {index}"][steps], atol=1e-6)
    assert [step in schedule.renewals() for step in STEPS] == tfmot_answers[f"renews {index}"].tolist()


def test_step_0_becomes_tfmots_first_step() -> None:
    """tfmot's counter is 1 at the first batch, so a schedule at step 0 would never be met there."""
    wanted = {"name": "ConstantSparsity", "target_sparsity": 0.8, "begin_step": 1, "end_step": 1, "frequency": 1}
    assert schedule_arguments(ConstantSparsity(final_sparsity=0.8)) == wanted


@pytest.mark.parametrize(
    ("end", "frequency", "tfmot_end", "tfmot_frequency"), [(60, 10, 51, 10), (61, 10, 61, 10), (9, 100, 9, 8)]
)
def test_a_decay_ends_on_a_renewal(end: int, frequency: int, tfmot_end: int, tfmot_frequency: int) -> None:
    """From step 1 tfmot renews at 1 + k * frequency: the end moves down to the last such step that is not after it."""
    made = schedule_arguments(PolynomialDecay(final_sparsity=0.8, end_step=end, frequency=frequency))
    assert (made["begin_step"], made["end_step"], made["frequency"]) == (1, tfmot_end, tfmot_frequency)


def test_a_decay_of_one_step_is_constant_in_tfmot() -> None:
    """tfmot divides by end_step - begin_step, so a decay that has no length is handed over as ConstantSparsity."""
    assert schedule_arguments(PolynomialDecay(final_sparsity=0.8, end_step=1))["name"] == "ConstantSparsity"


def samples_of(inputs: dict[str, Array], targets: Array) -> Samples:
    """Samples that come from no file."""
    return Samples(path=Path("memory.npz"), inputs=inputs, targets=targets)


def every_layer() -> Any:
    """A model with two inputs, L2 regularisation and every layer class that the backend rebuilds."""
    keras = keras_module()
    layers = keras.layers
    image, ids = keras.Input((8, 8, 2), name="image"), keras.Input((3,), dtype="int32", name="ids")
    x = layers.Rescaling(1 / 127, offset=-1.0)(image)
    x = layers.Normalization(mean=[0.1, -0.2], variance=[1.5, 0.7])(x)
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, kernel_regularizer=keras.regularizers.L2(1e-3))(x)
    skip = layers.ReLU(6.0, negative_slope=0.1, threshold=0.05)(layers.BatchNormalization(epsilon=1e-2)(x))
    x = layers.LeakyReLU(0.05)(layers.DepthwiseConv2D(3, padding="same", depth_multiplier=1)(skip))
    x = layers.Multiply()([layers.Add()([skip, x]), layers.GlobalAveragePooling2D(keepdims=True)(x)])
    x = layers.SeparableConv2D(5, 3, strides=2, padding="same", activation="relu6")(x)
    x = layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="silu")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.ZeroPadding2D(((0, 1), (2, 1)))(x))
    x = layers.AveragePooling2D(2)(layers.MaxPooling2D(3, strides=2, padding="same")(x))
    x = layers.Activation("tanh")(layers.Dropout(0.1)(x))
    flat = [layers.GlobalMaxPooling2D()(x), layers.GlobalAveragePooling2D()(x)]
    rows = layers.Embedding(7, 8)(ids)
    row = layers.Conv1D(6, 2, padding="causal", dilation_rate=1)(rows)
    flat += [layers.Flatten()(layers.MaxPooling1D(2)(row)), layers.Flatten()(layers.AveragePooling1D(2)(rows))]
    flat += [layers.GlobalAveragePooling1D()(row), layers.GlobalMaxPooling1D()(layers.Reshape((6, 3))(row))]
    x = layers.Dense(4)(layers.Concatenate()(flat))
    return keras.Model([image, ids], layers.Softmax()(x))


@needs_tfmot
@pytest.mark.slow
def test_every_listed_layer_is_rebuilt_and_proved_equal() -> None:
    """A model of all 30 layer classes passes the child's proof, trains, and comes back with its zeros and no -0.0."""
    keras_module().utils.set_random_seed(1)
    model = every_layer()
    assert {type(layer).__name__ for layer in model.layers} == {*CARRIED, "InputLayer"}
    rng = np.random.default_rng(0)
    inputs: dict[str, Array] = {
        "image": rng.integers(0, 256, (16, 8, 8, 2), np.uint8),
        "ids": rng.integers(0, 7, (16, 3)),
    }
    result, log = prune_with_tfmot(
        model,
        MagnitudeOptions(sparsity=0.5, exclude=("Embedding",)),
        ConstantSparsity(final_sparsity=0.5),
        samples_of(inputs, rng.integers(0, 4, 16)),
        None,
        find_task(model, "accuracy", trains=True),
        TrainOptions(epochs=1, batch_size=8, optimizer="sgd", decay="constant"),
        settled_step=0,
    )
    assert (log.steps, log.kept_epoch, log.epochs[0].validation) == (2, 1, None)
    assert [layer.kind for layer in result.report.layers] == [
        "Conv2D",
        "SeparableConv2D",
        "Conv2DTranspose",
        "Conv1D",
        "Dense",
    ]
    assert all(abs(layer.got - 0.5) * layer.elements <= 1 for layer in result.report.layers)
    zeros = [np.asarray(w)[np.asarray(w) == 0] for w in result.model.weights]
    assert not any(np.signbit(z).any() for z in zeros)


def small_net() -> Any:
    """Raw pixels to ten probabilities: a stem, a depthwise-separable residual block and a strided convolution."""
    keras = keras_module()
    layers = keras.layers
    image = keras.Input((28, 28, 1), name="image")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(12, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    skip = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(skip)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Conv2D(12, 1, use_bias=False, name="project")(x)
    x = layers.Add()([skip, layers.BatchNormalization(momentum=0.9)(x)])
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="head")(x)
    x = layers.Flatten()(layers.MaxPooling2D(2, padding="same")(x))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="probs")(x))


@pytest.fixture(scope="module")
def splits() -> dict[str, Samples]:
    """The committed Fashion-MNIST subsets, cut down."""
    specs = input_specs(small_net())
    sizes = {"train": 3000, "validation": 500, "test": 2000}
    return {n: load_samples(FASHION / f"{n}.npz", specs).rows(np.arange(size)) for n, size in sizes.items()}


def evaluated(model: Any, samples: Samples) -> float:
    return evaluate(model, samples, find_task(model, "accuracy"))[0]


Outcome = dict[str, tuple[PruneResult, TrainLog]]


@pytest.fixture(scope="module")
def dense(splits: dict[str, Samples]) -> Any:
    """One trained net, the same in every order of tests."""
    keras_module().utils.set_random_seed(1)
    model = small_net()
    options = TrainOptions(epochs=4, batch_size=64, learning_rate=4e-3)
    train(model, splits["train"], None, find_task(model, "accuracy", trains=True), options)
    return model


def by_both(model: Any, splits: dict[str, Samples], seed: int) -> Outcome:
    """One recipe, both backends."""
    metric, end = find_task(model, "accuracy", trains=True), 60
    before = [weights.copy() for weights in model.get_weights()]
    recipe = (
        MagnitudeOptions(sparsity=0.8),
        PolynomialDecay(final_sparsity=0.8, end_step=end, frequency=5),
        splits["train"],
        splits["validation"],
        metric,
        TrainOptions(epochs=3, batch_size=64, learning_rate=2e-3, seed=seed),
    )
    environment = dict(os.environ)
    results = {
        "native": prune_while_training(clone(model), *recipe, settled_step=end),
        "tfmot": prune_with_tfmot(model, *recipe, settled_step=end),
    }
    assert dict(os.environ) == environment, "the backend changed this process's environment"
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)), "the argument changed"
    return results


@pytest.fixture(scope="module")
def both(dense: Any, splits: dict[str, Samples]) -> Outcome:
    """Both backends with one seed."""
    return by_both(dense, splits, seed=3)


@needs_tfmot
@pytest.mark.slow(minutes=2)  # of the trainings that the tests below share
def test_both_backends_reach_the_same_sparsity_in_every_kernel(both: Outcome) -> None:
    """Kernel by kernel the number of zeros is the same to one element, and the depthwise kernel stays dense in both."""
    native, tfmot = (both[name][0].report for name in ("native", "tfmot"))
    assert [layer.layer for layer in native.layers] == ["stem", "project", "head", "probs"]
    for ours, theirs in zip(native.layers, tfmot.layers, strict=True):
        assert (ours.key.split("/")[-2:], ours.elements) == (theirs.key.split("/")[-2:], theirs.elements)
        assert abs(ours.got - theirs.got) * ours.elements <= 1
        assert abs(ours.got - 0.8) * ours.elements <= 1
    assert "depthwise" in {layer.layer for layer in tfmot.skipped}


@needs_tfmot
@pytest.mark.slow
def test_masked_weights_are_exactly_zero(both: Outcome) -> None:
    """Where a mask says removed, both backends hold +0.0; the mask covers every zero."""
    for name, (result, _) in both.items():
        kernels = {w.path: np.asarray(w) for w in result.model.weights}
        for key, mask in result.masks.items():
            assert np.all(kernels[key][~mask] == 0.0), name
            assert not np.signbit(kernels[key][~mask]).any(), name


@needs_tfmot
@pytest.mark.slow
def test_the_native_backend_is_no_less_accurate_than_tfmot(both: Outcome, splits: dict[str, Samples]) -> None:
    """At 80 % sparsity native is at most 3 points below tfmot, and both have learned (> 60 %).

    2000 test images: the standard deviation of one training of 138 steps is 0.7 points.
    """
    native, tfmot = (evaluated(both[name][0].model, splits["test"]) for name in ("native", "tfmot"))
    assert min(native, tfmot) > 0.6
    assert native >= tfmot - 0.03, f"native {native:.4f}, tfmot {tfmot:.4f}"


@needs_tfmot
@pytest.mark.slow
def test_both_backends_train_on_the_same_batches(both: Outcome) -> None:
    """Same seed, same batches, same loss: the mean loss of the first epoch agrees to 10 %, the steps exactly."""
    native, tfmot = both["native"][1], both["tfmot"][1]
    assert native.steps == tfmot.steps == 138
    assert native.epochs[0].loss == pytest.approx(tfmot.epochs[0].loss, rel=0.1)


@pytest.fixture(scope="module", autouse=True)
def loaded_before() -> set[str]:
    """Modules that other tests had loaded."""
    return set(sys.modules)


@needs_tfmot
@pytest.mark.slow
def test_tfmot_stays_out_of_this_process(loaded_before: set[str], both: Outcome) -> None:
    """A run with tfmot brings neither its modules nor its switch to Keras 2 into this process."""
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    assert not {"tf_keras", "tensorflow_model_optimization"} & (set(sys.modules) - loaded_before)


Refused = Callable[[Any], Any]
REFUSED: dict[str, tuple[Refused, str]] = {
    "class": (lambda k: k.layers.LayerNormalization(name="odd"), "this class is not one of those"),
    "activation": (lambda k: k.layers.Dense(3, activation="hard_sigmoid", name="odd"), "activation = hard_sigmoid"),
    "precision": (lambda k: k.layers.Dense(3, dtype="mixed_float16", name="odd"), "dtype policy is mixed_float16"),
    "constraint": (lambda k: k.layers.Dense(3, kernel_constraint="non_neg", name="odd"), "kernel_constraint = NonNeg"),
    "option": (lambda k: k.layers.BatchNormalization(renorm=True, name="odd"), "renorm = True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_equal_in_tf_keras_is_refused_by_name(name: str) -> None:
    """The message names the layer and its class, says what is the matter and points to the native backend."""
    keras = keras_module()
    make, reason = REFUSED[name]
    inputs = keras.Input((4,))
    model = keras.Model(inputs, make(keras)(inputs))
    with pytest.raises(Unsupported, match=rf"^layer 'odd' \(\w+\) cannot .*{reason}.*; use backend = \"native\"$"):
        describe(model)


def test_an_operation_outside_a_layer_is_refused() -> None:
    """x + x is an operation of Keras named like the layer Add, but it is not that layer."""
    keras = keras_module()
    inputs = keras.Input((4,))
    with pytest.raises(Unsupported, match="this class is not one of those"):
        describe(keras.Model(inputs, inputs + inputs))


def test_a_layer_called_in_training_mode_is_refused() -> None:
    """Dropout that is always on (training=True) would be lost in the rebuild."""
    keras = keras_module()
    inputs = keras.Input((4,))
    with pytest.raises(Unsupported, match="more than its input tensors"):
        describe(keras.Model(inputs, keras.layers.Dropout(0.5)(inputs, training=True)))


def ask(model: Any, *, sparsity: float = 0.5, schedule: Any = None, **chosen: Any) -> None:
    """Prune a model that takes four numbers, for one epoch of one step."""
    prune_with_tfmot(
        model,
        MagnitudeOptions(sparsity=sparsity, **chosen),
        schedule or ConstantSparsity(final_sparsity=sparsity),
        samples_of({model.inputs[0].name: np.ones((8, 4), np.float32)}, np.zeros(8)),
        None,
        find_task(model, "mse", trains=True),
        TrainOptions(epochs=1, batch_size=8),
        settled_step=0,
    )


def dense_net(*, shared: bool = False) -> Any:
    """Four numbers to four, through one Dense layer once or twice."""
    keras = keras_module()
    inputs, layer = keras.Input((4,)), keras.layers.Dense(4, name="twice")
    return keras.Model(inputs, layer(layer(inputs)) if shared else layer(inputs))


@needs_tfmot
@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ({"prune_depthwise": True}, "prune_depthwise = false"),
        ({"scope": "global"}, 'scope = "layer"'),
        ({"schedule": PolynomialDecay(final_sparsity=0.5, end_step=2)}, "at step 2, training has only 1 steps"),
    ],
    ids=["depthwise", "global", "too late"],
)
def test_requests_tfmot_cannot_meet_are_usage_errors(chosen: dict[str, Any], reason: str) -> None:
    """They are refused before any process is started, with what to set instead."""
    with pytest.raises(UsageError, match=reason):
        ask(dense_net(), **chosen)


@needs_tfmot
def test_a_shared_pruned_layer_is_refused() -> None:
    """tfmot counts steps in each call of a wrapped layer, so a layer used twice would run ahead of its schedule."""
    with pytest.raises(Unsupported, match="'twice' is used 2 times"):
        ask(dense_net(shared=True))


def test_without_tfmot_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgeprune\[tfmot\]'"):
        tfmot_backend._require_tfmot()


def test_the_proof_rejects_other_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs between 0 and 10 may differ by 0.001, not by 0.002 and not in shape; NaN is no proof either."""
    expected = np.array([[0.0], [10.0]], np.float32)
    for got, accepted in ((0.0009, True), (0.002, False), (np.nan, False)):
        monkeypatch.setattr(tfmot_worker, "_predict", lambda *_, got=got: expected + np.float32(got))
        if accepted:
            tfmot_worker.prove(None, [expected], expected)
        else:
            with pytest.raises(Unsupported, match="computes other outputs"):
                tfmot_worker.prove(None, [expected], expected)
    monkeypatch.setattr(tfmot_worker, "_predict", lambda *_: expected.ravel())
    with pytest.raises(Unsupported, match="computes other outputs"):
        tfmot_worker.prove(None, [expected], expected)


@pytest.fixture
def pretend_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Let a shell script stand in for the child; temporary files go to the folder that is returned."""

    def pretend(body: str) -> Path:
        script, scratch = tmp_path / "child", tmp_path / "scratch"
        scratch.mkdir()
        script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\n{body}\n")
        script.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(script))
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        return scratch

    return pretend


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo out of luck >&2; kill -s SEGV $$", "its process died of SIGSEGV: out of luck"),
        ("exit 7", "ended with exit code 7"),
        ('echo \'{"kind": "error", "class": "Unsupported", "reason": "layer x"}\'', "^layer x$"),
    ],
    ids=["signal", "exit", "said so"],
)
def test_a_failing_child_is_one_clear_error(pretend_child: Callable[[str], Path], body: str, reason: str) -> None:
    """A crash names the signal or the exit code and the last line it wrote; no temporary file stays."""
    scratch = pretend_child(body)
    with pytest.raises(EdgepruneError, match=reason):
        tfmot_backend._run_child({}, {}, None)
    assert list(scratch.iterdir()) == []


def is_running(pid: int) -> bool:
    """Whether a process with this number exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_silent_child_is_ended(
    pretend_child: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When no message comes for SILENCE_S the child's process is gone and the error says so."""
    scratch = pretend_child('echo \'{"kind": "progress", "step": 1, "total": 2, "text": ""}\'; exec sleep 300')
    monkeypatch.setattr(tfmot_backend, "SILENCE_S", 1.0)
    with pytest.raises(EdgepruneError, match="said nothing for 1 s"):
        tfmot_backend._run_child({}, {}, None)
    assert not is_running(int((tmp_path / "pid").read_text()))
    assert list(scratch.iterdir()) == []


def test_ctrl_c_ends_the_child(pretend_child: Callable[[str], Path], tmp_path: Path) -> None:
    """A KeyboardInterrupt in the middle of training passes through and leaves neither process nor file."""
    scratch = pretend_child('echo \'{"kind": "progress", "step": 1, "total": 2, "text": ""}\'; exec sleep 300')

    def interrupt(step: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tfmot_backend._run_child({}, {}, interrupt)
    assert not is_running(int((tmp_path / "pid").read_text()))
    assert list(scratch.iterdir()) == []


class _Kernel:
    """Stands for a pruned kernel in a model."""

    layer, key = "dense", "dense/kernel"

    def __init__(self, values: list[float]) -> None:
        self.variable = np.array(values, np.float32)


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [
        ([1, 2, 3, 4, 5, 6], [0, 0, 0, 4, 5, 6], True),
        ([1, 2, 3, 4, 5, 6], [0, 0, 3, 4, 5, 6], True),
        ([1, 2, 3, 4, 5, 6], [0, 2, 3, 4, 5, 6], False),
        ([1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 6], False),
        ([1, 4, 4, 4, 5, 6], [0, 4, 4, 4, 5, 6], True),
        ([0, 0, 0, 0, 0, 6], [1, 1, 1, 1, 1, 6], False),
        ([0, 0, 0, 0, 0, 6], [0, 0, 0, 0, 0, 6], True),
    ],
    ids=["exact", "rounding", "too few", "too many", "ties", "regrown", "sparser before"],
)
def test_the_reached_sparsity_is_verified(before: list[float], after: list[float], accepted: bool) -> None:
    """Of six, three were asked for: one off is rounding, ties and old zeros explain more, the rest is an error."""
    kernel: Any = _Kernel(after)
    old = {kernel.key: np.array(before, np.float32)}
    if accepted:
        tfmot_backend._check_reached([kernel], old, 0.5)
    else:
        with pytest.raises(EdgepruneError, match=r"zeros in dense/kernel, 3 of 6 were asked for"):
            tfmot_backend._check_reached([kernel], old, 0.5)
