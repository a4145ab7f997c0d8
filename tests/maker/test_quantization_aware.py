"""Quantization-aware training: what is trained is what the int8 file computes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.artifact import Format, Precision, Scales
from edgeprune.converters.quantizer import moved_ranges, ranges_of
from edgeprune.converters.rounded_places import PREPARATION, rounded_places
from edgeprune.converters.session import Converter, Exported
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.errors import ConversionError, UsageError
from edgeprune.formats import read_contents
from edgeprune.formats.coreml.mil_reader import read_coreml
from edgeprune.formats.kept_patterns import kept_patterns
from edgeprune.formats.pattern import Pattern
from edgeprune.formats.tflite.objects import as_objects, scales_of
from edgeprune.ledger import Ledger
from edgeprune.maker.keras.models import predict
from edgeprune.maker.quantization.matching import match_places
from edgeprune.maker.quantization.simulation import Simulation
from edgeprune.maker.quantization.traced import trace_model
from edgeprune.maker.quantization.training import train_quantized
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.goals import find_task
from edgeprune.maker.training.options import QatOptions
from edgeprune.runtime.session import installed_runtimes, run_tflite

pytestmark = pytest.mark.slow


def randomised(model: Any, seed: int = 0) -> Any:
    """Statistics and factors of batch normalization that are not 1 and 0."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "moving_variance" in weight.path or "gamma" in weight.path:
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        elif "moving_mean" in weight.path or "beta" in weight.path:
            weight.assign(rng.normal(0, 0.3, weight.shape))
    return model


def mobile(keras: Any) -> Any:
    """MobileNetV3 in small: hard-swish, a depthwise convolution, squeeze and excite, a residual and a concatenation."""
    layers = keras.layers
    x = keras.Input((12, 12, 3), name="x")
    h = layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x))
    skip = h = layers.Activation("hard_swish")(h)
    h = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(h))
    h = layers.ReLU(6.0)(h)
    gate = layers.Conv2D(4, 1, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(h))
    h = layers.Multiply()([h, layers.Conv2D(8, 1, activation="hard_sigmoid")(gate)])
    h = layers.Concatenate()([layers.Add()([layers.Conv2D(8, 1)(h), skip]), skip])
    h = layers.GlobalAveragePooling2D()(h)
    return randomised(keras.Model(x, layers.Dense(5, activation="softmax", name="probs")(h)))


def nested(keras: Any) -> Any:
    """A model in a model, two outputs by name, a transposed convolution."""
    layers = keras.layers
    inner_x = keras.Input((8, 8, 4))
    h = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(inner_x))
    inner = keras.Model(inner_x, layers.ReLU()(h), name="inner")
    x = keras.Input((8, 8, 4), name="x")
    h = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(inner(x))
    kind = layers.Dense(4, activation="softmax", name="kind")(layers.GlobalAveragePooling2D()(h))
    marks = layers.Conv2D(1, 1, activation="sigmoid", name="marks")(h)
    return randomised(keras.Model(x, {"kind": kind, "marks": marks}))


def sequential(keras: Any) -> Any:
    """Layers in a row: normalization that nothing folds, a function with a gradient of its own, dropout."""
    layers = keras.layers
    rows = [
        keras.Input((8, 8, 2), name="x"),
        layers.Conv2D(6, 3, activation="silu"),
        layers.BatchNormalization(),
        layers.Dropout(0.2),
        layers.Flatten(),
        layers.Dense(5, activation="softmax", name="probs"),
    ]
    return randomised(keras.Sequential(rows))


def recurrent(keras: Any) -> Any:
    """An LSTM, which is written out step by step in the file."""
    x = keras.Input((6, 5), name="x")
    return keras.Model(x, keras.layers.Dense(4, activation="softmax", name="p")(keras.layers.LSTM(8)(x)))


def attention(keras: Any) -> Any:
    """Projections of attention, and a kernel that a Dense applies to rows."""
    layers = keras.layers
    x = keras.Input((6, 8), name="x")
    h = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])
    h = layers.Dense(8, activation="relu")(h)
    return keras.Model(x, layers.Dense(3, name="p")(layers.GlobalAveragePooling1D()(h)))


def one_dimension(keras: Any) -> Any:
    """Convolutions along one axis, of one input channel first, pooled with the scale of what is pooled."""
    layers = keras.layers
    x = keras.Input((24, 1), name="x")
    h = layers.Rescaling(4.0)(x)
    h = layers.ReLU()(layers.BatchNormalization()(layers.Conv1D(8, 3, padding="same")(h)))
    h = layers.MaxPooling1D(2)(layers.SeparableConv1D(8, 3)(h))
    return randomised(keras.Model(x, layers.Dense(4, name="p")(layers.GlobalAveragePooling1D()(h))))


MODELS: dict[str, Callable[[Any], Any]] = {
    "mobile": mobile,
    "nested": nested,
    "sequential": sequential,
    "recurrent": recurrent,
    "attention": attention,
    "one_dimension": one_dimension,
}


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    with Converter() as made:
        yield made


def samples_for(model: Any, count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *model.inputs[0].shape[1:])).astype(np.float32)


def int8(converter: Converter, model: Any, out: Path, x: np.ndarray, **more: Any) -> Exported:
    return converter.export(
        model, out, Format.TFLITE, Precision.INT8, calibration={"x": x[:24]}, keep_start=True, **more
    )


def run(made: Exported, x: np.ndarray) -> dict[str, np.ndarray]:
    return run_tflite(made.path, {"x": x}, runtime=list(installed_runtimes())[-1]).outputs


def simulation(model: Any, made: Exported, x: np.ndarray) -> tuple[Simulation, tuple[str, ...]]:
    places, traced = rounded_places(made, {"x": x[:3]}), trace_model(model, PREPARATION)
    match = match_places(traced, places, [x[:3]])
    return Simulation(traced, places, match, settle_step=4), match.missing


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in MODELS),
        ("mobile", {"slim": SlimOptions(scales=Scales.FLOAT32)}),
        ("mobile", {"per_tensor": True}),
    ],
)
def test_what_is_trained_is_the_file(
    keras: Any, converter: Converter, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    """With the ranges of the file, the model that is trained computes what the file computes: on the average of 200
    samples a tenth of what int8 costs, and where numbers lie between two steps a few steps of the range at most."""
    keras.utils.set_random_seed(3)
    model = MODELS[name](keras)
    x = samples_for(model, 224)
    made = int8(converter, model, tmp_path / "m.tflite", x, **options)
    simulated, missing = simulation(model, made, x)
    assert not missing
    file, floats, trained = run(made, x[24:]), predict(model, {"x": x[24:]}), predict(simulated.rounded, {"x": x[24:]})
    assert list(trained) == list(floats)
    for output, values in floats.items():
        span, wide = np.ptp(values), name == "attention"
        off = np.abs(trained[output] - file[output])
        assert off.mean() <= (0.4 if wide else 0.12) * np.abs(values - file[output]).mean()
        assert off.max() <= 0.025 * span
    if name == "nested":
        check_smooth(simulated, trained, x[24:])


def check_smooth(simulated: Simulation, trained: Any, x: np.ndarray) -> None:
    """A loss sees what softmax and sigmoid give before they are rounded to 1/256: of small numbers nothing would be
    left, and no gradient."""
    smooth = simulated.rounded(x, training=True)
    for output, values in trained.items():
        steps = np.asarray(smooth[output]) * 256
        assert not np.isclose(steps, np.round(steps), atol=1e-3).all()
        assert np.isclose(values * 256, np.round(values * 256), atol=1e-3).all()
        assert np.abs(values * 256 - np.clip(steps, 0, 255)).max() <= 0.51


def test_numbers_between_two_steps(keras: Any, converter: Converter, tmp_path: Path) -> None:
    """Pixels at -1..1 lie halfway between two steps, and a channel that hardly varied in training has a scale so coarse
    that its bias is rounded: both are trained as the file has them."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    x = keras.Input((12, 12, 3), name="x")
    h = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, use_bias=False)(layers.ZeroPadding2D()(x)))
    model = randomised(keras.Model(x, layers.Conv2D(4, 1, name="p")(layers.ReLU(6.0)(h))))
    norm = model.get_layer("norm")
    norm.moving_variance.assign(np.array([1, 1e-20, 1, 1e-20, 1, 1, 1, 1], np.float32))
    pixels = np.random.default_rng(1).integers(0, 256, (64, 12, 12, 3))
    values = (pixels / 127.5 - 1).astype(np.float32)
    made = int8(converter, model, tmp_path / "m.tflite", values)
    simulated, missing = simulation(model, made, values)
    assert not missing
    file, trained = run(made, values)["p"], predict(simulated.rounded, {"x": values})["p"]
    floats = predict(model, {"x": values})["p"]
    assert np.abs(trained - file).mean() <= 0.01 * np.abs(floats - file).mean()


@pytest.fixture(scope="module")
def trained(keras: Any, converter: Converter, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(The model, what its training gave, the file that it became, samples): two epochs, half of each kernel zeros."""
    keras.utils.set_random_seed(4)
    model = mobile(keras)
    for weight in model.weights:
        if weight.path.endswith("/kernel"):
            values = np.asarray(weight)
            weight.assign(np.where(np.abs(values) < np.median(np.abs(values)), 0, values))
    before = [weight.copy() for weight in model.get_weights()]
    x, folder = samples_for(model, 224), tmp_path_factory.mktemp("trained")
    made = int8(converter, model, folder / "before.tflite", x)
    data = Samples(path=Path("d"), inputs={"x": x}, targets=np.random.default_rng(2).integers(0, 5, 224))
    done = train_quantized(
        model,
        rounded_places(made, {"x": x[:3]}),
        {"x": x[:3]},
        data,
        None,
        find_task(model, "accuracy", trains=True),
        QatOptions(epochs=2, batch_size=32, learning_rate=5e-3),
        teacher=model,
        preparation=PREPARATION,
    )
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)), "the argument changed"
    after = int8(converter, done.model, folder / "after.tflite", x)
    ranges = moved_ranges(done.ranges, made.start, after.start)
    return model, done, int8(converter, done.model, folder / "after.tflite", x, ranges=ranges), x


def test_a_training_that_spoils_the_model_is_not_kept(keras: Any, converter: Converter, tmp_path: Path) -> None:
    """Where no epoch is better on the validation samples, weights and ranges are those of the beginning."""
    model = sequential(keras)
    x = samples_for(model, 96)
    made = int8(converter, model, tmp_path / "m.tflite", x)
    (outputs,) = predict(model, {"x": x}).values()
    answers = outputs.argmax(-1)
    samples = [Samples(path=Path("d"), inputs={"x": x}, targets=t) for t in ((answers + 1) % 5, answers)]
    done = train_quantized(
        model,
        rounded_places(made, {"x": x[:3]}),
        {"x": x[:3]},
        *samples,
        find_task(model, "accuracy", trains=True),
        QatOptions(epochs=2, batch_size=32, learning_rate=0.1, distill=0.0),
        preparation=PREPARATION,
    )
    assert done.log.kept_epoch == 0
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), done.model.get_weights(), strict=True))


def test_the_file_takes_what_was_learned(trained: Any) -> None:
    """Ranges have moved, each of the file is the learned one, and the file computes what was trained."""
    _, done, made, x = trained
    assert not done.left
    learned = sorted((max(high, 0) - min(low, 0)) / 255 for low, high in done.ranges.values())
    model = as_objects(made.path.read_bytes())
    scales = [scales_of(tensor)[0] for tensor in model.subgraphs[0].tensors if len(scales_of(tensor)) == 1]
    assert all(np.isclose(scales, step, rtol=1e-5).any() for step in learned)
    expected, file = done.simulated({"x": x})["probs"], run(made, x)["probs"]
    assert (expected.argmax(-1) == file.argmax(-1)).mean() >= 0.99
    assert np.abs(expected - file).mean() <= 0.002
    assert np.abs(file - predict(done.model, {"x": x})["probs"]).mean() > 2 * np.abs(expected - file).mean()


def test_zeros_stay_and_weights_move(trained: Any) -> None:
    """Every zero of a kernel is one afterwards; the others were trained, and statistics were not."""
    model, done, _, _ = trained
    for old, new in zip(model.weights, done.model.weights, strict=True):
        before, after = np.asarray(old), np.asarray(new)
        if old.path.endswith("/kernel"):
            assert not after[before == 0].any()
        assert np.array_equal(before, after) == ("moving" in old.path), old.path


def test_ranges_settle(keras: Any, converter: Converter, tmp_path: Path) -> None:
    """They follow the batches of the first steps and then stay, and inference does not move them; those that an
    operation prescribes never do."""
    model = mobile(keras)
    x = samples_for(model, 64)
    made = int8(converter, model, tmp_path / "m.tflite", x)
    simulated, _ = simulation(model, made, x)
    seen = [simulated.ranges()]
    for step in range(6):
        simulated.rounded(x * 3, training=step != 0)
        seen.append(simulated.ranges())
    changed = [before != after for before, after in itertools.pairwise(seen)]
    assert changed == [False, True, True, True, True, False]
    assert "probs" not in seen[0]


def test_tensors_of_the_same_numbers(keras: Any, converter: Converter, tmp_path: Path) -> None:
    """Two activations that are dead on the trial samples are told apart by their names; each has its range."""
    layers = keras.layers
    x = keras.Input((6,), name="x")
    ends = {"one": x, "other": layers.Dense(6)(x)}
    sides = [layers.Dense(5, activation="relu", name=name)(end) for name, end in ends.items()]
    last = [layers.Dense(3)(layers.Concatenate()([layers.Dense(4)(x), layers.Dense(4)(side)])) for side in sides]
    model = keras.Model(x, dict(zip("pq", last, strict=True)))
    for layer, bias in ((model.get_layer("one"), -2.0), (model.get_layer("other"), -4.0)):
        layer.bias.assign(np.full(5, bias, np.float32))
    values = samples_for(model, 80) * 9
    values[:3] /= 100
    made = int8(converter, model, tmp_path / "m.tflite", values)
    places, traced = rounded_places(made, {"x": values[:3]}), trace_model(model, PREPARATION)
    match = match_places(traced, places, [values[:3]])
    found = {n: (g.least, g.largest) for g, nodes in zip(places.tensors, match.tensors, strict=True) for n in nodes}
    relus = [(name, found[f"{name}_1/Relu"]) for name in ("one", "other")]
    inner = {name: predict(keras.Model(x, model.get_layer(name).output), {"x": values[:24]}) for name in ends}
    for name, (_, largest) in relus:
        (numbers,) = inner[name].values()
        assert largest == pytest.approx(numbers.max(), rel=1e-3)


def test_rounding_is_not_compiled_by_xla(keras: Any, converter: Converter, tmp_path: Path) -> None:
    """XLA gets fake quantization wrong (tensorflow #119411): what trains has it switched off."""
    from edgeprune.maker.training.loop import compile_model

    model = mobile(keras)
    x = samples_for(model, 40)
    simulated, _ = simulation(model, int8(converter, model, tmp_path / "m.tflite", x), x)
    compile_model(keras, simulated.rounded, find_task(model, "accuracy", trains=True), QatOptions(epochs=1), 1)
    assert simulated.rounded.jit_compile is False


def test_ranges_of_unknown_tensors(converter: Converter, trained: Any, tmp_path: Path) -> None:
    """A range that no tensor takes is an error, and no file is left."""
    _, done, made, _ = trained
    with pytest.raises(ConversionError, match="no tensor 'elsewhere'"):
        converter.export(
            done.model,
            tmp_path / "m.tflite",
            Format.TFLITE,
            Precision.INT8,
            start=made.start,
            ranges={"elsewhere": (0.0, 1.0)},
        )
    assert not list(tmp_path.iterdir())


def test_a_file_is_quantized_again_to_the_same_bytes(converter: Converter, trained: Any, tmp_path: Path) -> None:
    """What was kept of an export gives the same file, without samples and without a conversion; another range another
    scale, and an operation that is named stays in float."""
    _, done, _, x = trained
    made = int8(converter, done.model, tmp_path / "m.tflite", x)
    again = converter.export(done.model, tmp_path / "again.tflite", Format.TFLITE, Precision.INT8, start=made.start)
    assert again.sha256 == made.sha256
    name = next(name for name in ranges_of(made.start) if "hard" in name or "mul" in name)
    floats = converter.export(
        done.model, tmp_path / "f.tflite", Format.TFLITE, Precision.INT8, start=made.start, float_nodes=[name]
    )
    assert floats.sha256 != made.sha256


RECIPE = """
model = "m.keras"
metric = "accuracy"
[data]
train = "d.npz"
test = "d.npz"
[[steps]]
kind = "prune"
sparsity = "2:4"
[[steps]]
kind = "qat"
epochs = 1
learning_rate = 5e-3
samples = 40
[[exports]]
format = "tflite"
precision = "int8"
[[exports]]
format = "tflite"
precision = "float32"
[[exports]]
format = "coreml"
precision = "w8a8"
deployment_target = "iOS17"
[latency]
measure = false
"""


def test_a_recipe(keras: Any, call: Callable[..., Any], tmp_path: Path) -> None:
    """The stage has its training and the file that was trained; all exports are of the trained weights, zeros and their
    pattern are kept in each, and the package's activations have the scales that were learned."""
    keras.utils.set_random_seed(5)
    model = sequential(keras)
    model.save(tmp_path / "m.keras")
    x = samples_for(model, 192)
    np.savez(tmp_path / "d.npz", x=x, y=np.random.default_rng(2).integers(0, 5, 192))
    (tmp_path / "r.toml").write_text(RECIPE)
    made = call("run", tmp_path / "r.toml", "-o", tmp_path / "out", "--quiet")
    assert made.code == 0, made.err
    ledger = Ledger.from_json((tmp_path / "out" / "ledger.json").read_bytes())
    stage = ledger.stages[-1]
    assert (stage.name, stage.kind, stage.training is not None) == ("qat", "qat", True)
    integer, floats, package = stage.artifacts
    assert [entry.path for entry in stage.artifacts] == ["m.int8.tflite", "m.float32.tflite", "m.w8a8.mlpackage"]
    pruned = ledger.stages[1].artifacts[0]
    assert pruned.sparsity is not None
    assert all(entry.sparsity is not None and entry.sparsity >= pruned.sparsity - 1e-9 for entry in stage.artifacts)
    assert floats.sha256 != pruned.sha256
    for entry in stage.artifacts:
        rows = kept_patterns(read_contents(tmp_path / "out" / entry.path), Pattern(n=2, m=4))
        assert [row.violations for row in rows if row.groups] == [0]
    assert integer.parity is not None
    assert integer.parity[0].agreement is not None
    assert integer.parity[0].agreement >= 0.98
    scales = scales_of_package(tmp_path / "out" / package.path)
    learned = as_objects((tmp_path / "out" / integer.path).read_bytes()).subgraphs[0].tensors
    sides = [
        max((127 - zero) * scale, (128 + zero) * scale)
        for tensor in learned
        if len(scales_of(tensor)) == 1
        for scale, zero in [(float(scales_of(tensor)[0]), int(tensor.quantization.zeroPoint[0]))]
    ]
    assert scales
    assert sum(bool(np.isclose(scale * 127, sides, rtol=3e-3).any()) for scale in scales) >= len(scales) - 1


def scales_of_package(path: Path) -> set[float]:
    """The scales of the activations of a package."""
    package = read_coreml(path)
    assert package.program is not None
    found = set()
    known = {op.outputs[0].name: op.attributes["val"] for op in package.program.operations if op.kind == "const"}
    for op in package.program.operations:
        if op.kind == "quantize":
            (binding,) = op.inputs["scale"]
            constant = known[binding] if isinstance(binding, str) else binding
            found.add(float(np.asarray(constant.array()).reshape(-1)[0]))
    return found


@pytest.mark.parametrize("options", [{"renew_norms": True}, {"distill": 1.5}])
def test_wrong_options(options: dict[str, Any]) -> None:
    """What no training for int8 can do is a line."""
    with pytest.raises(UsageError):
        dataclasses.replace(QatOptions(epochs=1), **options)
